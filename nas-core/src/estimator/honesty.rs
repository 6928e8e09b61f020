//! How far an estimate can be trusted: its ranks against those of full evaluations on the same architectures, with plain
//! sizes as controls. An estimate that ranks no better than the parameter count has told nothing new.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stats::{kendall_tau, precision_at, regret, spearman};

/// One estimate against the truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HonestyRow {
    /// Name of the estimate.
    pub estimate: String,
    /// Kendall's tau-b; none where the estimate or the truth is constant.
    pub kendall: Option<f64>,
    /// Spearman's rank correlation; none where the estimate or the truth is constant.
    pub spearman: Option<f64>,
    /// Part of the truly best that are among as many best by the estimate.
    pub precision: f64,
    /// How much worse the best by the estimate truly is than the best.
    pub regret: f64,
}

/// Estimates against full evaluations on a random sample of architectures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HonestyReport {
    /// Name of the full evaluation.
    pub truth: String,
    /// Architectures of the sample that have all values.
    pub samples: usize,
    /// Number of best ones that `precision` is about.
    pub top: usize,
    /// The estimate first, then the controls.
    pub rows: Vec<HonestyRow>,
}

impl HonestyReport {
    /// Compares estimates, each with one value per architecture, with the truth. Larger is better in all.
    pub fn new(truth: (&str, &[f64]), estimates: &[(String, Vec<f64>)], top: usize) -> Self {
        let (name, truth) = truth;
        let top = top.min(truth.len());
        let number = |value: f64| value.is_finite().then_some(value);
        let row = |(estimate, values): &(String, Vec<f64>)| HonestyRow {
            estimate: estimate.clone(),
            kendall: number(kendall_tau(values, truth)),
            spearman: number(spearman(values, truth)),
            precision: precision_at(top, values, truth),
            regret: regret(values, truth),
        };
        Self { truth: name.into(), samples: truth.len(), top, rows: estimates.iter().map(row).collect() }
    }
}

impl fmt::Display for HonestyReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { truth, samples, top, rows } = self;
        writeln!(f, "{samples} random architectures, against {truth}:")?;
        let precision = format!("precision@{top}");
        write!(f, "  {:<22} {:>8} {:>9} {precision:>13} {:>8}", "estimate", "kendall", "spearman", "regret")?;
        let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.3}"));
        rows.iter().try_for_each(|row| {
            let (kendall, spearman) = (number(row.kendall), number(row.spearman));
            let HonestyRow { estimate, precision, regret, .. } = row;
            write!(f, "\n  {estimate:<22} {kendall:>8} {spearman:>9} {precision:>13.2} {regret:>8.3}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_a_reversed_and_a_constant_estimate() {
        let truth = [0.1, 0.4, 0.3, 0.2];
        let estimates =
            [("same", truth.to_vec()), ("reversed", truth.map(|x| -x).to_vec()), ("constant", vec![1.0; 4])];
        let report = HonestyReport::new(("acc", &truth), &estimates.map(|(name, values)| (name.into(), values)), 2);
        let of = |i: usize| (report.rows[i].kendall, report.rows[i].spearman, report.rows[i].precision);
        assert_eq!(of(0), (Some(1.0), Some(1.0), 1.0));
        assert_eq!(of(1), (Some(-1.0), Some(-1.0), 0.0));
        assert_eq!((of(2).0, of(2).1), (None, None));
        assert_eq!(report.rows[0].regret, 0.0);
        assert!((report.rows[1].regret - 0.3).abs() < 1e-12);
        assert!(report.to_string().contains("precision@2"));
    }
}
