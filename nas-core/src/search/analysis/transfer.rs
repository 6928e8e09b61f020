//! Whether what is good by one metric is good by another: ranks over all and among the best, and what one's best is worth.

use serde::{Deserialize, Serialize};

use super::motifs::size;
use crate::stats::{best, regret, spearman};

/// A metric against another of the same architectures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// The other metric.
    pub metric: String,
    /// Architectures that have both.
    pub samples: usize,
    /// Spearman's rank correlation over all; none where one is constant, as below.
    pub spearman: Option<f64>,
    /// The same within the best tenth by the first metric.
    pub spearman_top_10: Option<f64>,
    /// The same within its best hundredth.
    pub spearman_top_1: Option<f64>,
    /// Part of the best tenth by the first that is in the best tenth by the other; none where that has no architecture.
    pub overlap_top_10: Option<f64>,
    /// The same of the best hundredths.
    pub overlap_top_1: Option<f64>,
    /// How much worse by the other metric the best by the first is than the best by the other.
    pub regret: f64,
}

impl Transfer {
    /// Compares two metrics, larger is better in both, of the same architectures.
    pub fn new(metric: &str, first: &[f64], other: &[f64]) -> Self {
        let among = |top: u32| -> Option<f64> {
            let chosen = best(size(top, first.len()), first);
            let of = |values: &[f64]| -> Vec<f64> { chosen.iter().map(|i| values[*i]).collect() };
            finite(spearman(&of(first), &of(other)))
        };
        let overlap = |top: u32| {
            let k = size(top, first.len());
            (k > 0).then(|| crate::stats::precision_at(k, first, other))
        };
        Self {
            metric: metric.to_string(),
            samples: first.len(),
            spearman: finite(spearman(first, other)),
            spearman_top_10: among(10),
            spearman_top_1: among(1),
            overlap_top_10: overlap(10),
            overlap_top_1: overlap(1),
            regret: regret(first, other),
        }
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
