//! How far an estimate can be trusted: its ranks against those of full evaluations on the same architectures, with plain
//! sizes as controls. An estimate that ranks no better than the parameter count has told nothing new.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::space::trial::Values;
use crate::stats::{best, kendall_tau, mean_and_deviation, precision_at, regret, spearman};

/// One estimate against the truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HonestyRow {
    /// Name of the estimate.
    pub estimate: String,
    /// Kendall's tau-b; none where the estimate or the truth is constant.
    pub kendall: Option<f64>,
    /// Spearman's rank correlation; none where the estimate or the truth is constant.
    pub spearman: Option<f64>,
    /// Kendall's tau-b within the truly best fifth, where a search has to tell architectures apart.
    pub kendall_top_fifth: Option<f64>,
    /// Spearman's rank correlation within the truly best fifth.
    pub spearman_top_fifth: Option<f64>,
    /// Part of the truly best that are among as many best by the estimate.
    pub precision: f64,
    /// How much worse the best by the estimate truly is than the best.
    pub regret: f64,
    /// True rank in the sample of the best by the estimate, 1 is the best.
    pub rank: f64,
}

/// What a search has found, among the sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Who found it.
    pub name: String,
    /// Trials that it took.
    pub trials: usize,
    /// Its true value, where a trial has measured it.
    pub truth: Option<f64>,
    /// Its true rank if it joined the sample, 1 is the best.
    pub rank: Option<usize>,
    /// What it costs: the controls.
    pub cost: Values,
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
    /// The estimate first, then the controls, then what a random pick can expect.
    pub rows: Vec<HonestyRow>,
    /// What the search and its baseline have found, with what it costs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placed: Vec<Placed>,
    /// The true values of the sample, for [`HonestyReport::place`].
    #[serde(skip)]
    truths: Vec<f64>,
}

/// The estimate that knows nothing.
const RANDOM: &str = "random pick, expected";

impl HonestyReport {
    /// Compares estimates, each with one value per architecture, with the truth. Larger is better in all.
    pub fn new(truth: (&str, &[f64]), estimates: &[(String, Vec<f64>)], top: usize) -> Self {
        let (name, truth) = truth;
        let top = top.min(truth.len());
        let mut rows: Vec<HonestyRow> =
            estimates.iter().map(|(estimate, values)| row(estimate, values, truth, top)).collect();
        rows.push(random_row(truth, top));
        Self { truth: name.into(), samples: truth.len(), top, rows, placed: Vec::new(), truths: truth.to_vec() }
    }

    /// Adds the best architecture of a search of `trials` trials: its true value, where known, and its `cost`.
    pub fn place(&mut self, name: &str, trials: usize, truth: Option<f64>, cost: Values) {
        let rank = truth.map(|value| rank(value, &self.truths));
        self.placed.push(Placed { name: name.to_string(), trials, truth, rank, cost });
    }
}

fn row(estimate: &str, values: &[f64], truth: &[f64], top: usize) -> HonestyRow {
    const PARTS: usize = 5;
    let number = |value: f64| value.is_finite().then_some(value);
    let fifth = best(truth.len() / PARTS, truth);
    let of = |values: &[f64]| -> Vec<f64> { fifth.iter().map(|i| values[*i]).collect() };
    let (values_there, truth_there) = (of(values), of(truth));
    HonestyRow {
        estimate: estimate.to_string(),
        kendall: number(kendall_tau(values, truth)),
        spearman: number(spearman(values, truth)),
        kendall_top_fifth: number(kendall_tau(&values_there, &truth_there)),
        spearman_top_fifth: number(spearman(&values_there, &truth_there)),
        precision: precision_at(top, values, truth),
        regret: regret(values, truth),
        rank: best(1, values).first().map_or(f64::NAN, |pick| rank(truth[*pick], truth) as f64),
    }
}

/// Means over all picks.
fn random_row(truth: &[f64], top: usize) -> HonestyRow {
    let most = truth.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let ranks: Vec<f64> = truth.iter().map(|value| rank(*value, truth) as f64).collect();
    HonestyRow {
        estimate: RANDOM.into(),
        kendall: Some(0.0),
        spearman: Some(0.0),
        kendall_top_fifth: Some(0.0),
        spearman_top_fifth: Some(0.0),
        precision: top as f64 / truth.len() as f64,
        regret: most - mean_and_deviation(truth).0,
        rank: mean_and_deviation(&ranks).0,
    }
}

/// One more than the number of larger values.
fn rank(value: f64, values: &[f64]) -> usize {
    1 + values.iter().filter(|other| **other > value).count()
}

impl fmt::Display for HonestyReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { truth, samples, top, rows, placed, .. } = self;
        let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.3}"));
        writeln!(f, "{samples} random architectures, against {truth}:")?;
        let precision = format!("precision@{top}");
        writeln!(f, "  {:<22} {:^18} {:^18}", "", "over all", "in the best fifth")?;
        write!(f, "  {:<22} {:>8} {:>9} {:>8} {:>9}", "estimate", "kendall", "spearman", "kendall", "spearman")?;
        write!(f, " {precision:>13} {:>8} {:>7}", "regret", "rank")?;
        for row in rows {
            let HonestyRow { estimate, precision, regret, rank, .. } = row;
            let [kendall, spearman, kendall_there, spearman_there] =
                [row.kendall, row.spearman, row.kendall_top_fifth, row.spearman_top_fifth].map(number);
            write!(f, "\n  {estimate:<22} {kendall:>8} {spearman:>9} {kendall_there:>8} {spearman_there:>9}")?;
            write!(f, " {precision:>13.2} {regret:>8.3} {rank:>7.1}")?;
        }
        for Placed { name, trials, truth: value, rank, cost } in placed {
            let rank = rank.map_or("-".to_string(), |rank| rank.to_string());
            write!(f, "\n  found by {name} in {trials} trials: {truth} {}, rank {rank} in {samples}", number(*value))?;
            cost.iter().try_for_each(|(name, value)| write!(f, ", {name} {value}"))?;
        }
        Ok(())
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
        assert_eq!([0, 1, 3].map(|i| report.rows[i].rank), [1.0, 4.0, 2.5]);
        assert!((report.rows[3].regret - 0.15).abs() < 1e-12 && report.rows[3].precision == 0.5);
    }

    /// An estimate that ranks well over all can be worse than none among the best.
    #[test]
    fn the_best_fifth_is_looked_at_by_itself() {
        let truth: Vec<f64> = (0..50).map(f64::from).collect();
        let turned: Vec<f64> = truth.iter().map(|x| if *x >= 40.0 { 100.0 - x } else { *x }).collect();
        let row = &HonestyReport::new(("acc", &truth), &[("turned".into(), turned)], 10).rows[0];
        assert!(row.spearman.unwrap() > 0.95 && row.precision == 1.0);
        assert_eq!((row.kendall_top_fifth, row.spearman_top_fifth), (Some(-1.0), Some(-1.0)));
        assert_eq!((row.rank, row.regret), (10.0, 9.0));
    }

    #[test]
    fn what_was_found_has_a_rank_and_a_cost() {
        let mut report = HonestyReport::new(("acc", &[0.1, 0.3, 0.2]), &[], 1);
        report.place("tpe", 40, Some(0.25), Values::from([("params".to_string(), 7.0)]));
        report.place("baseline random", 40, None, Values::new());
        assert_eq!((report.placed[0].rank, report.placed[1].rank), (Some(2), None));
        assert!(report.to_string().contains("found by tpe in 40 trials: acc 0.250, rank 2 in 3, params 7"), "{report}");
    }
}
