//! Graph features of an architecture (GRAF; Kadlecová et al. 2024, arXiv 2404.16551): how often each operator occurs, and for sets of
//! operators the shortest and the longest way through them and the degrees that they give to input, output and the operators
//! between. A few architectures teach a predictor what they mean, where columns for every choice need many.

use std::collections::BTreeSet;

use crate::space::{Architecture, ChoiceSpace, Graph};

/// All sets of this many operators or fewer; of more operators the sets of one, of two, of all but one, and of all.
const MOST_LABELS: usize = 6;

/// The features of a space, in a fixed order.
#[derive(Clone, Debug)]
pub struct Graf {
    /// Operators of the graphs, by label.
    labels: Vec<u16>,
    /// Sets of them, one bit each.
    sets: Vec<u64>,
    /// Numbers of options that decisions have: choices of decisions with as many options are counted together.
    options: Vec<u16>,
    /// Longer than any way.
    far: f64,
}

impl Graf {
    /// The features that tell `archs` apart: the operators are those that they have. Spaces without graphs have counts only.
    pub fn new(space: &dyn ChoiceSpace, archs: &[&Architecture]) -> Self {
        let inner = |graph: Graph| graph.labels[1..graph.labels.len() - 1].to_vec();
        let labels: BTreeSet<u16> = archs.iter().filter_map(|arch| space.graph(arch)).flat_map(inner).collect();
        // A set is a word of bits.
        let labels: Vec<u16> = labels.into_iter().take(u64::BITS as usize - 1).collect();
        let options: BTreeSet<u16> = space.decisions().into_iter().filter(|options| *options > 1).collect();
        let far = 1.0 + space.decisions().len() as f64;
        Self { sets: sets(labels.len()), labels, options: options.into_iter().collect(), far }
    }

    /// The features of `arch`.
    pub fn of(&self, space: &dyn ChoiceSpace, arch: &Architecture) -> Vec<f64> {
        let decisions = space.decisions();
        let mut features = Vec::new();
        for options in &self.options {
            let mut counts = vec![0.0; usize::from(*options)];
            let chosen = arch.choices().iter().zip(&decisions).filter(|(_, of)| *of == options);
            chosen.for_each(|(choice, _)| counts[usize::from(*choice)] += 1.0);
            features.extend(counts);
        }
        if let Some(graph) = space.graph(arch) {
            let operators = &graph.labels[1..graph.labels.len() - 1];
            let count = |label: &u16| operators.iter().filter(|other| *other == label).count() as f64;
            features.extend(self.labels.iter().map(count));
            self.sets.iter().for_each(|set| features.extend(self.of_set(&graph, *set)));
        }
        features
    }

    /// Shortest and longest way, degrees of input and output, mean degrees of the operators between.
    fn of_set(&self, graph: &Graph, set: u64) -> [f64; 6] {
        let last = graph.labels.len() - 1;
        let place = |label: u16| self.labels.iter().position(|own| *own == label);
        let is_in = |node: usize| {
            0 < node && node < last && place(graph.labels[node]).is_some_and(|place| set >> place & 1 == 1)
        };
        let passes = |node: usize| node == 0 || node == last || is_in(node);
        let (mut shortest, mut longest) = (vec![None; last + 1], vec![None; last + 1]);
        (shortest[0], longest[0]) = (Some(0usize), Some(0usize));
        for node in (1..=last).filter(|node| passes(*node)) {
            let step = usize::from(node < last);
            let before = || graph.edges.iter().filter(|edge| edge.1 == node).map(|edge| edge.0);
            shortest[node] = before().filter_map(|from| shortest[from]).min().map(|way: usize| way + step);
            longest[node] = before().filter_map(|from| longest[from]).max().map(|way: usize| way + step);
        }
        let edges = |of: &dyn Fn(&(usize, usize)) -> bool| graph.edges.iter().filter(|edge| of(edge)).count() as f64;
        let inner = (last.saturating_sub(1)).max(1) as f64;
        [
            shortest[last].map_or(self.far, |way| way as f64),
            longest[last].map_or(-1.0, |way| way as f64),
            edges(&|(from, to)| *from == 0 && (is_in(*to) || *to == last)),
            edges(&|(from, to)| *to == last && (is_in(*from) || *from == 0)),
            edges(&|(from, to)| is_in(*from) && 0 < *to && *to < last) / inner,
            edges(&|(from, to)| is_in(*to) && 0 < *from) / inner,
        ]
    }
}

/// Sets of `labels` operators.
fn sets(labels: usize) -> Vec<u64> {
    let all = (1u64 << labels) - 1;
    if labels <= MOST_LABELS {
        return (1..=all).collect();
    }
    let singles = || (0..labels).map(|i| 1u64 << i);
    let pairs = singles().flat_map(|a| singles().filter(move |b| *b > a).map(move |b| a | b));
    singles().chain(pairs).chain(singles().map(|one| all & !one)).chain([all]).collect()
}

/// Brings features to mean 0 and deviation 1 over some rows; those that are constant there become 0.
#[derive(Clone, Debug)]
pub struct Scale {
    means: Vec<f64>,
    factors: Vec<f64>,
}

impl Scale {
    /// The scale of `rows`, of which there is at least one.
    pub fn of(rows: &[Vec<f64>]) -> Self {
        let columns = (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).collect::<Vec<f64>>());
        let (means, factors) = columns
            .map(|column| crate::stats::mean_and_deviation(&column))
            .map(|(mean, deviation)| (mean, if deviation > 0.0 { 1.0 / deviation } else { 0.0 }))
            .unzip();
        Self { means, factors }
    }

    /// A row on this scale.
    pub fn apply(&self, row: &[f64]) -> Vec<f64> {
        row.iter().zip(self.means.iter().zip(&self.factors)).map(|(x, (mean, factor))| (x - mean) * factor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::InvalidArchitecture;

    /// Two operators, 5 and 6, one after the other, and 5 beside them.
    #[derive(Debug)]
    struct Toy;

    impl ChoiceSpace for Toy {
        fn name(&self) -> &str {
            "toy"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![2, 3, 2]
        }

        fn validate(&self, _: &Architecture) -> Result<(), InvalidArchitecture> {
            Ok(())
        }

        fn graph(&self, _: &Architecture) -> Option<Graph> {
            Some(Graph { labels: vec![0, 5, 6, 5, 1], edges: vec![(0, 1), (1, 2), (2, 4), (0, 3), (3, 4)] })
        }
    }

    #[test]
    fn features_counted_by_hand() {
        let arch = Architecture::new(vec![1, 2, 0]);
        let graf = Graf::new(&Toy, &[&arch]);
        let expected = [
            // Choices 0 and 1 of decisions with two options, 0 to 2 of the one with three; operators 5 and 6.
            vec![1.0, 1.0, 0.0, 0.0, 1.0, 2.0, 1.0],
            // Of {5}: one way, of one operator; both edges from the input, one to the output; 5 has a successor; none before it.
            vec![1.0, 1.0, 2.0, 1.0, 1.0 / 3.0, 0.0],
            // Of {6}: no way.
            vec![4.0, -1.0, 0.0, 1.0, 0.0, 1.0 / 3.0],
            // Of both.
            vec![1.0, 2.0, 2.0, 2.0, 1.0 / 3.0, 1.0 / 3.0],
        ];
        assert_eq!(graf.of(&Toy, &arch), expected.concat());
    }

    #[test]
    fn sets_of_many_operators_stay_few() {
        assert_eq!(sets(4).len(), 15);
        assert_eq!(sets(13).len(), 13 + 78 + 13 + 1);
    }

    #[test]
    fn a_scale_takes_out_mean_and_deviation() {
        let rows = vec![vec![1.0, 5.0], vec![2.0, 5.0], vec![3.0, 5.0]];
        assert_eq!(Scale::of(&rows).apply(&[3.0, 7.0]), [1.0, 0.0]);
    }
}
