//! What a search or a table says about its space: which decisions matter, what the best architectures have in common, what each
//! choice is worth, and whether that carries over to another metric.

mod forest;
pub mod motifs;
pub mod page;
pub mod samples;
pub mod swaps;
#[cfg(test)]
mod tests;
pub mod transfer;
pub mod variance;
pub mod vocabulary;

use std::fmt;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::space::Architecture;
use motifs::{Motif, Motifs};
use samples::{Samples, Where};
use swaps::{Matched, Swap};
use transfer::Transfer;
use variance::{Design, Method, Variance, exact};
use vocabulary::{Decision, Vocabulary};

/// What becomes of the metric before variances and changes are computed. Ranks do not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// Nothing.
    #[default]
    None,
    /// Minus the natural logarithm of the error, `1 - accuracy`, or `100 - accuracy` where a value is above 1: architectures that
    /// fail to learn no longer decide, and 0.1 is a tenth of the error.
    LnError,
}

impl std::str::FromStr for Transform {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "ln-error" => Ok(Self::LnError),
            _ => bail!("{text:?}: expected none or ln-error"),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The metric.
    pub metric: String,
    /// Another metric to compare with.
    pub transfer: Option<String>,
    /// Metrics of which less is better.
    pub minimize: Vec<String>,
    /// Which architectures take part.
    pub conditions: Vec<Where>,
    /// What becomes of the metric.
    pub transform: Transform,
    /// Motifs that swaps are conditional on, the most over-represented among the best hundredth first.
    pub contexts: usize,
    /// Seed of the forest.
    pub seed: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// Version of this form.
    pub version: u32,
    /// The metric.
    pub metric: String,
    /// Whether less is better.
    pub minimize: bool,
    /// What became of it.
    pub transform: Transform,
    /// Architectures that took part.
    pub samples: usize,
    /// Architectures that have no value or were left out by a condition.
    pub left_out: usize,
    /// The best architecture.
    pub best: Best,
    /// Which decisions matter.
    pub variance: Variance,
    /// What the best have in common.
    pub motifs: Vec<Motif>,
    /// What a choice is worth.
    pub swaps: Vec<Swap>,
    /// Whether it carries over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
}

/// An architecture and its metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its choices.
    pub architecture: Architecture,
    /// As people write it.
    pub notation: String,
    /// The metric, not transformed.
    pub value: f64,
}

/// A motif is listed as sure below this false discovery rate.
const SURE: f64 = 0.05;

/// Fewer architectures than this say nothing.
const FEWEST: usize = 10;

impl Analysis {
    /// Answers `question` about `samples`; `other` has the metric to compare with, `samples` itself where not given.
    pub fn new(
        question: &Question,
        vocabulary: &dyn Vocabulary,
        samples: &Samples,
        other: Option<&Samples>,
    ) -> Result<Self> {
        let chosen = Chosen::new(question, vocabulary, samples)?;
        let Chosen { archs, raw, is_whole } = &chosen;
        let decisions = vocabulary.decisions();
        let minimize = question.minimize.contains(&question.metric);
        let values = transformed(question, raw, minimize)?;
        let first = values[0];
        ensure!(values.iter().any(|value| *value != first), "{} is {} everywhere", question.metric, raw[0]);
        let variance = variance_of(&decisions, archs, &values, *is_whole, question.seed)?;
        let motifs = Motifs::of(vocabulary, archs);
        let among_best = motifs.among_the_best(&values);
        let matched = Matched::new(&decisions, archs);
        let mut swaps = matched.swaps(&values, None);
        for name in contexts(&among_best, question.contexts) {
            swaps.extend(matched.swaps(&values, motifs.get(name).map(|has| (name, has))));
        }
        let place = crate::stats::best(1, &values)[0];
        let best = archs[place];
        Ok(Self {
            version: 1,
            metric: question.metric.clone(),
            minimize,
            transform: question.transform,
            samples: archs.len(),
            left_out: samples.len() - archs.len(),
            best: Best { architecture: best.clone(), notation: vocabulary.notation(best), value: raw[place] },
            variance,
            motifs: among_best,
            swaps,
            transfer: question
                .transfer
                .as_ref()
                .map(|to| compare(question, &chosen, to, other.unwrap_or(samples)))
                .transpose()?,
        })
    }
}

/// Architectures that take part.
struct Chosen<'a> {
    archs: Vec<&'a Architecture>,
    /// The metric as it was measured.
    raw: Vec<f64>,
    /// Whether they are all that the space has under the conditions.
    is_whole: bool,
}

impl<'a> Chosen<'a> {
    fn new(question: &Question, vocabulary: &dyn Vocabulary, samples: &'a Samples) -> Result<Self> {
        let wanted: Vec<&str> = [question.metric.as_str()]
            .into_iter()
            .chain(question.conditions.iter().filter_map(Where::metric))
            .collect();
        let all = samples.columns(&wanted);
        let size = vocabulary.decisions().iter().try_fold(1usize, |size, d| size.checked_mul(d.choices.len()));
        let is_whole = size == Some(all.len());
        let (mut archs, mut raw) = (Vec::new(), Vec::new());
        'archs: for (arch, values) in all {
            let mut measured = values[1..].iter();
            for condition in &question.conditions {
                let metric = condition.metric().and_then(|_| measured.next().copied());
                if !condition.holds(vocabulary, arch, metric)? {
                    continue 'archs;
                }
            }
            archs.push(arch);
            raw.push(values[0]);
        }
        ensure!(
            archs.len() >= FEWEST,
            "{} architectures take part and have {}; an analysis needs {FEWEST} or more",
            archs.len(),
            wanted.join(", ")
        );
        Ok(Self { archs, raw, is_whole })
    }
}

/// Larger is better.
fn transformed(question: &Question, raw: &[f64], minimize: bool) -> Result<Vec<f64>> {
    let most = raw.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = raw.iter().copied().fold(f64::INFINITY, f64::min);
    let sign = if minimize { -1.0 } else { 1.0 };
    match question.transform {
        Transform::None => Ok(raw.iter().map(|value| sign * value).collect()),
        Transform::LnError => {
            let whole = if most > 1.0 { 100.0 } else { 1.0 };
            ensure!(!minimize, "--transform ln-error: {} is minimised; expected an accuracy", question.metric);
            ensure!(
                least >= 0.0 && most < whole,
                "--transform ln-error: {} is between {least} and {most}; expected an accuracy of 0 to less than {whole}",
                question.metric
            );
            Ok(raw.iter().map(|value| -(whole - value).ln()).collect())
        }
    }
}

fn variance_of(
    decisions: &[Decision],
    archs: &[&Architecture],
    values: &[f64],
    is_whole: bool,
    seed: u64,
) -> Result<Variance> {
    let design = Design {
        levels: decisions.iter().map(|decision| decision.choices.len()).collect(),
        rows: archs.iter().map(|arch| arch.choices()).collect(),
        values: values.to_vec(),
    };
    let method = if is_whole { Method::Exact } else { Method::Forest };
    let shares = match method {
        Method::Exact => exact(&design),
        Method::Forest => forest::forest(&design, seed)?,
    };
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let total = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    let names: Vec<String> = decisions.iter().map(|decision| decision.name.clone()).collect();
    Ok(shares.named(method, total, &names))
}

/// The motifs that are most over-represented among the best hundredth, or tenth where that is too small to say.
fn contexts(motifs: &[Motif], count: usize) -> Vec<&str> {
    let sure = |top: u32| motifs.iter().filter(move |m| m.top == top && m.odds_ratio > 1.0 && m.q < SURE);
    let mut names: Vec<&str> = Vec::new();
    for motif in motifs::TOPS.into_iter().flat_map(sure) {
        if names.len() < count && !names.contains(&motif.name.as_str()) {
            names.push(&motif.name);
        }
    }
    names
}

fn compare(question: &Question, chosen: &Chosen, to: &str, other: &Samples) -> Result<Transfer> {
    let others: std::collections::BTreeMap<&Architecture, f64> =
        other.columns(&[to]).into_iter().map(|(arch, values)| (arch, values[0])).collect();
    let sign = |metric: &str| if question.minimize.iter().any(|name| name == metric) { -1.0 } else { 1.0 };
    let both = chosen.archs.iter().zip(&chosen.raw).filter_map(|(arch, raw)| Some((*raw, *others.get(arch)?)));
    let (first, second): (Vec<f64>, Vec<f64>) = both.map(|(a, b)| (sign(&question.metric) * a, sign(to) * b)).unzip();
    if first.len() < FEWEST {
        bail!("{} architectures have {} and {to}; a comparison needs {FEWEST} or more", first.len(), question.metric);
    }
    Ok(Transfer::new(to, &first, &second))
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { metric, samples, left_out, best, variance, .. } = self;
        writeln!(f, "{metric} of {samples} architectures, {left_out} left out")?;
        writeln!(f, "best {}  {}  {:.4}", best.architecture, best.notation, best.value)?;
        let how = match variance.method {
            Method::Exact => "of all architectures",
            Method::Forest => "by a random forest",
        };
        writeln!(f, "\nshares of the variance, {how}")?;
        let named = |shares: &std::collections::BTreeMap<String, f64>| {
            let mut sorted: Vec<(String, f64)> = shares.iter().map(|(name, share)| (name.clone(), *share)).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted
        };
        const SHOWN: usize = 12;
        for (name, share) in named(&variance.main).into_iter().take(SHOWN) {
            writeln!(f, "  {name:<24} {share:.4}")?;
        }
        for (name, share) in named(&variance.pairs).into_iter().take(SHOWN / 2) {
            writeln!(f, "  {name:<24} {share:.4}")?;
        }
        for top in motifs::TOPS {
            self.write_motifs(f, top)?;
        }
        self.write_swaps(f)?;
        self.transfer.iter().try_for_each(|transfer| write_transfer(f, transfer))
    }
}

impl Analysis {
    /// Motifs of one part of the best that are sure, the most frequent among the best first where equally sure.
    pub fn sure_motifs(&self, top: u32) -> impl Iterator<Item = &Motif> {
        self.motifs.iter().filter(move |motif| motif.top == top && motif.q < SURE)
    }

    /// Swaps that are worse in most pairs of all architectures and better in most that have a motif, with the latter; the weightiest first.
    pub fn turned_swaps(&self) -> Vec<(&Swap, &Swap)> {
        let alone: Vec<&Swap> = self.swaps.iter().filter(|swap| swap.condition.is_none()).collect();
        let same = |a: &Swap, b: &Swap| (&a.choice, &a.from, &a.to) == (&b.choice, &b.from, &b.to);
        let turned = |swap: &&Swap| swap.condition.is_some() && swap.median > 0.0 && swap.share_better > 0.5;
        let overall =
            |swap| alone.iter().find(|other| same(swap, other) && other.median < 0.0).map(|other| (swap, *other));
        let mut found: Vec<(&Swap, &Swap)> = self.swaps.iter().filter(turned).filter_map(overall).collect();
        // Large changes of few pairs and small ones of many weigh alike.
        let weight = |swap: &Swap| swap.median * (swap.n as f64).sqrt();
        found.sort_by(|a, b| weight(b.0).total_cmp(&weight(a.0)));
        found
    }

    fn write_motifs(&self, f: &mut fmt::Formatter, top: u32) -> fmt::Result {
        const SHOWN: usize = 12;
        let sure = self.sure_motifs(top).count();
        writeln!(f, "\nmotifs of the best {top} %: {sure} with q < {SURE}")?;
        for motif in self.sure_motifs(top).take(SHOWN) {
            let Motif { name, share_top, share_rest, odds_ratio, q, .. } = motif;
            writeln!(
                f,
                "  {name:<56} {share_top:.3} against {share_rest:.3}, odds ratio {odds_ratio:>8.2}, q {q:.1e}"
            )?;
        }
        Ok(())
    }

    fn write_swaps(&self, f: &mut fmt::Formatter) -> fmt::Result {
        const SHOWN: usize = 12;
        let mut alone: Vec<&Swap> = self.swaps.iter().filter(|s| s.condition.is_none() && s.mean > 0.0).collect();
        alone.sort_by(|a, b| b.mean.total_cmp(&a.mean));
        writeln!(f, "\nthe same architecture with one choice swapped")?;
        for Swap { choice, from, to, n, mean, median, share_better, .. } in alone.into_iter().take(SHOWN) {
            let swap = format!("{choice}: {from} -> {to}");
            writeln!(f, "  {swap:<44} mean {mean:+.4}, median {median:+.4}, better in {share_better:.3} of {n}")?;
        }
        let turned = self.turned_swaps();
        if !turned.is_empty() {
            writeln!(f, "\nworse over all, better where both architectures have a motif")?;
        }
        for (swap, over_all) in turned.into_iter().take(SHOWN) {
            let Swap { choice, from, to, condition, n, median, share_better, .. } = swap;
            let condition = condition.as_deref().unwrap_or_default();
            writeln!(
                f,
                "  {choice}: {from} -> {to} where {condition}: median {median:+.4} (over all {:+.4}), \
                 better in {share_better:.3} of {n} (over all {:.3})",
                over_all.median, over_all.share_better
            )?;
        }
        Ok(())
    }
}

fn write_transfer(f: &mut fmt::Formatter, transfer: &Transfer) -> fmt::Result {
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
    let Transfer { metric, samples, regret, .. } = transfer;
    writeln!(f, "\nagainst {metric} of {samples} architectures")?;
    let lines = [
        ("Spearman", transfer.spearman),
        ("Spearman in the best tenth", transfer.spearman_top_10),
        ("Spearman in the best hundredth", transfer.spearman_top_1),
        ("overlap of the best tenths", transfer.overlap_top_10),
        ("overlap of the best hundredths", transfer.overlap_top_1),
    ];
    lines.iter().try_for_each(|(name, value)| writeln!(f, "  {name:<32} {}", number(*value)))?;
    write!(f, "  {:<32} {regret:.4}", "regret of the best")
}
