//! Motifs: what the best architectures have in common. A motif is a choice, two choices together, a number of equal choices, or a
//! sub-graph of the cell; it is over-represented where it is more frequent among the best than among the others.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::vocabulary::{Decision, Vocabulary};
use crate::space::{Architecture, Graph};
use crate::stats::{benjamini_hochberg, best, fisher_exact};

/// Percent of the architectures that are the best.
pub const TOPS: [u32; 2] = [1, 10];

/// A motif among the best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Motif {
    /// What it is.
    pub name: String,
    /// The best so many percent of the architectures.
    pub top: u32,
    /// Architectures that have it.
    pub count: usize,
    /// Of the best, those that have it.
    pub count_top: usize,
    /// Share of the best that have it.
    pub share_top: f64,
    /// Share of the others that have it.
    pub share_rest: f64,
    /// Odds among the best over the odds among the others, with 0.5 added to each of the four counts.
    pub odds_ratio: f64,
    /// Two-sided p-value of Fisher's exact test.
    pub p: f64,
    /// The same after Benjamini and Hochberg, over all motifs of one `top`.
    pub q: f64,
}

/// Which architectures have which motif.
#[derive(Clone, Debug, Default)]
pub struct Motifs(BTreeMap<String, Vec<bool>>);

impl Motifs {
    /// The motifs of `archs`, without those that all or none of them have.
    pub fn of(vocabulary: &dyn Vocabulary, archs: &[&Architecture]) -> Self {
        let decisions = vocabulary.decisions();
        let mut found: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for (i, arch) in archs.iter().enumerate() {
            for name in names(vocabulary, &decisions, arch) {
                found.entry(name).or_insert_with(|| vec![false; archs.len()])[i] = true;
            }
        }
        found.retain(|_, has| has.contains(&false));
        Self(found)
    }

    /// Whether each architecture has the motif.
    pub fn get(&self, name: &str) -> Option<&[bool]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// All motifs among the best of `values`, the surest first. A part of the best that has no architecture is left out.
    pub fn among_the_best(&self, values: &[f64]) -> Vec<Motif> {
        TOPS.iter().flat_map(|top| self.among(*top, values)).collect()
    }

    fn among(&self, top: u32, values: &[f64]) -> Vec<Motif> {
        let size = size(top, values.len());
        if size == 0 || size == values.len() {
            return Vec::new();
        }
        let chosen = best(size, values);
        let motif = |(name, has): (&String, &Vec<bool>)| {
            let count = has.iter().filter(|has| **has).count();
            let count_top = chosen.iter().filter(|i| has[**i]).count();
            let table = [count_top, size - count_top, count - count_top, values.len() - size - (count - count_top)];
            let [a, b, c, d] = table.map(|n| n as f64 + 0.5);
            let [with, without, rest_with, rest_without] = table.map(|n| n as u64);
            Motif {
                name: name.clone(),
                top,
                count,
                count_top,
                share_top: count_top as f64 / size as f64,
                share_rest: rest_with as f64 / (rest_with + rest_without) as f64,
                odds_ratio: (a * d) / (b * c),
                p: fisher_exact(with, without, rest_with, rest_without),
                q: 0.0,
            }
        };
        let mut motifs: Vec<Motif> = self.0.iter().map(motif).collect();
        let adjusted = benjamini_hochberg(&motifs.iter().map(|motif| motif.p).collect::<Vec<_>>());
        motifs.iter_mut().zip(adjusted).for_each(|(motif, q)| motif.q = q);
        motifs.sort_by(|a, b| a.p.total_cmp(&b.p).then(b.odds_ratio.total_cmp(&a.odds_ratio)));
        motifs
    }
}

/// Number of the best `top` percent of `n`, rounded down.
pub fn size(top: u32, n: usize) -> usize {
    n * top as usize / 100
}

/// The motifs of one architecture.
fn names(vocabulary: &dyn Vocabulary, decisions: &[Decision], arch: &Architecture) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let chosen: Vec<(&str, &str)> = decisions
        .iter()
        .zip(arch.choices())
        .map(|(decision, choice)| (decision.name.as_str(), decision.choices[usize::from(*choice)].as_str()))
        .collect();
    names.extend(chosen.iter().map(|(decision, choice)| format!("{decision} {choice}")));
    names.extend(pairs_of(decisions, &chosen));
    names.extend(counts(decisions, &chosen));
    names.extend(vocabulary.graph(arch).iter().flat_map(|graph| of_graph(vocabulary, graph)));
    names
}

/// Two choices together; of spaces with many decisions only those of neighbours.
fn pairs_of(decisions: &[Decision], chosen: &[(&str, &str)]) -> Vec<String> {
    /// More combinations of two choices than this are too many to test.
    const MOST: usize = 5_000;
    let options: usize = decisions.iter().map(|decision| decision.choices.len()).sum();
    let reach = if options * options / 2 > MOST { 1 } else { chosen.len() };
    let mut pairs = Vec::new();
    for (j, (second, b)) in chosen.iter().enumerate() {
        for (first, a) in &chosen[j.saturating_sub(reach)..j] {
            pairs.push(format!("{first} {a} & {second} {b}"));
        }
    }
    pairs
}

/// `at least N x CHOICE` of choices that several decisions share, and `no CHOICE`.
fn counts(decisions: &[Decision], chosen: &[(&str, &str)]) -> Vec<String> {
    let mut shared: BTreeMap<&str, usize> = BTreeMap::new();
    decisions.iter().flat_map(|decision| &decision.choices).for_each(|name| *shared.entry(name).or_default() += 1);
    let mut names = Vec::new();
    for choice in shared.into_iter().filter(|(_, number)| *number > 1).map(|(choice, _)| choice) {
        let number = chosen.iter().filter(|(_, other)| *other == choice).count();
        names.extend((number == 0).then(|| format!("no {choice}")));
        names.extend((2..=number).map(|least| format!("at least {least} x {choice}")));
    }
    names
}

/// Operators that follow each other, stand beside each other or go around each other, depth and number of ways.
fn of_graph(vocabulary: &dyn Vocabulary, graph: &Graph) -> Vec<String> {
    /// Nodes of a chain, input and output among them.
    const LONGEST: usize = 4;
    let last = graph.labels.len() - 1;
    let label = |node: usize| match node {
        0 => "input".to_string(),
        node if node == last => "output".to_string(),
        node => vocabulary.label(graph.labels[node]),
    };
    let next: Vec<BTreeSet<usize>> = neighbours(graph, |edge| (edge.0, edge.1));
    let before: Vec<BTreeSet<usize>> = neighbours(graph, |edge| (edge.1, edge.0));
    let mut names = Vec::new();
    let mut chains: Vec<Vec<usize>> = (0..last).map(|node| vec![node]).collect();
    while let Some(chain) = chains.pop() {
        for node in &next[chain[chain.len() - 1]] {
            let longer: Vec<usize> = chain.iter().copied().chain([*node]).collect();
            names.push(longer.iter().map(|node| label(*node)).collect::<Vec<_>>().join(" > "));
            names.extend(around(&longer, &next, &before).into_iter().map(|node| {
                format!(
                    "{} around {}",
                    label(node),
                    longer.iter().map(|node| label(*node)).collect::<Vec<_>>().join(" > ")
                )
            }));
            if longer.len() < LONGEST {
                chains.push(longer);
            }
        }
    }
    for a in 1..last {
        for b in a + 1..last {
            if next[a] == next[b] && !next[a].is_empty() {
                let mut both = [label(a), label(b)];
                both.sort();
                names.push(both.join(" + "));
            }
        }
    }
    let (mut depth, mut ways) = (vec![0usize; last + 1], vec![0usize; last + 1]);
    ways[0] = 1;
    for node in 1..=last {
        depth[node] = before[node].iter().map(|from| depth[*from] + 1).max().unwrap_or(0);
        ways[node] = before[node].iter().map(|from| ways[*from]).fold(0, usize::saturating_add);
    }
    names.extend((2..depth[last]).map(|least| format!("depth of at least {least}")));
    names.extend((2..=ways[last].min(16)).map(|least| format!("at least {least} ways")));
    names
}

fn neighbours(graph: &Graph, of: impl Fn(&(usize, usize)) -> (usize, usize)) -> Vec<BTreeSet<usize>> {
    let mut found = vec![BTreeSet::new(); graph.labels.len()];
    graph.edges.iter().map(of).for_each(|(from, to)| _ = found[from].insert(to));
    found
}

/// Single operators from where a chain of operators begins to where it ends.
fn around(chain: &[usize], next: &[BTreeSet<usize>], before: &[BTreeSet<usize>]) -> Vec<usize> {
    let (first, end) = (chain[0], chain[chain.len() - 1]);
    let is_inner = first > 0 && end + 1 < next.len();
    let same = |node: &usize| !chain.contains(node) && before[*node] == before[first] && next[*node] == next[end];
    if is_inner { (1..next.len() - 1).filter(same).collect() } else { Vec::new() }
}
