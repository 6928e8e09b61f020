//! What a choice is worth: matched comparisons of architectures that differ in it alone.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::vocabulary::Decision;
use crate::space::Architecture;
use crate::stats::median;

/// A choice put in the place of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// The decision.
    pub choice: String,
    /// The choice that is replaced.
    pub from: String,
    /// The choice that replaces it.
    pub to: String,
    /// The motif that both architectures have; none for all architectures.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// Pairs of architectures.
    pub n: usize,
    /// Mean change of the metric, positive where `to` is better.
    pub mean: f64,
    /// Median of the changes.
    pub median: f64,
    /// Share of the pairs in which `to` is better.
    pub share_better: f64,
}

/// Two architectures that differ in one decision.
struct Pair {
    decision: usize,
    choices: [u16; 2],
    archs: [usize; 2],
}

/// All such pairs among some architectures.
pub struct Matched<'a> {
    decisions: &'a [Decision],
    pairs: Vec<Pair>,
}

impl<'a> Matched<'a> {
    /// Finds the pairs.
    pub fn new(decisions: &'a [Decision], archs: &[&Architecture]) -> Self {
        let places: HashMap<&[u16], usize> = archs.iter().enumerate().map(|(i, arch)| (arch.choices(), i)).collect();
        let mut pairs = Vec::new();
        for (i, arch) in archs.iter().enumerate() {
            let mut other = arch.choices().to_vec();
            for (decision, options) in decisions.iter().enumerate() {
                let own = other[decision];
                for choice in own + 1..options.choices.len() as u16 {
                    other[decision] = choice;
                    if let Some(j) = places.get(other.as_slice()) {
                        pairs.push(Pair { decision, choices: [own, choice], archs: [i, *j] });
                    }
                }
                other[decision] = own;
            }
        }
        Self { decisions, pairs }
    }

    /// Every swap that has a pair both of which have the motif, in both directions.
    pub fn swaps(&self, values: &[f64], motif: Option<(&str, &[bool])>) -> Vec<Swap> {
        let mut changes: BTreeMap<(usize, u16, u16), Vec<f64>> = BTreeMap::new();
        for Pair { decision, choices: [from, to], archs: [a, b] } in &self.pairs {
            if motif.is_none_or(|(_, has)| has[*a] && has[*b]) {
                let change = values[*b] - values[*a];
                changes.entry((*decision, *from, *to)).or_default().push(change);
                changes.entry((*decision, *to, *from)).or_default().push(-change);
            }
        }
        let swap = |((decision, from, to), changes): ((usize, u16, u16), Vec<f64>)| {
            let Decision { name, choices } = &self.decisions[decision];
            let n = changes.len();
            Swap {
                choice: name.clone(),
                from: choices[usize::from(from)].clone(),
                to: choices[usize::from(to)].clone(),
                condition: motif.map(|(name, _)| name.to_string()),
                n,
                mean: changes.iter().sum::<f64>() / n as f64,
                median: median(&changes),
                share_better: changes.iter().filter(|change| **change > 0.0).count() as f64 / n as f64,
            }
        };
        changes.into_iter().map(swap).collect()
    }
}
