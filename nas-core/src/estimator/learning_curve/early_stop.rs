//! Stopping a run whose final value will hardly beat the best (Domhan, Springenberg and Hutter 2015, section 3).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use nas_datasets::rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CurveError, Extrapolation, Prediction, check_curve};

/// When a run is stopped before its end.
///
/// ```
/// use nas_core::estimator::learning_curve::{Decision, EarlyStop};
/// use nas_datasets::rng::stream;
///
/// let curve = [0.20, 0.31, 0.36, 0.39, 0.41, 0.42, 0.42, 0.43, 0.43, 0.43];
/// let decision = EarlyStop::default().decide(&curve, 30, Some(0.8), &mut stream(0, "early_stop", 10))?;
/// assert!(matches!(decision, Decision::Stop { probability } if probability < 0.05));
/// # Ok::<(), nas_core::estimator::learning_curve::CurveError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStop {
    /// Epochs from one look to the next. Every look is another chance to be wrong: a few per run are best.
    pub every: usize,
    /// Epochs before the first look.
    pub min_epochs: usize,
    /// A run is stopped where the probability to beat the best is below this.
    pub threshold: f64,
    /// How the curve is continued.
    pub extrapolation: Extrapolation,
}

impl Default for EarlyStop {
    fn default() -> Self {
        Self { every: 5, min_epochs: 5, threshold: 0.05, extrapolation: Extrapolation::default() }
    }
}

/// What becomes of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// It goes on.
    Continue,
    /// It ends here.
    Stop {
        /// Probability that its final value would have been above the best.
        probability: f64,
    },
}

impl EarlyStop {
    /// Says whether a run with `curve` so far, of `total_epochs` in all, is stopped, given the `best` final value of the
    /// runs before it. Draws from `rng` only where the extrapolation does.
    pub fn decide(
        &self,
        curve: &[f64],
        total_epochs: usize,
        best: Option<f64>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Decision, CurveError> {
        self.validate()?;
        check_curve(curve)?;
        if curve.len() > total_epochs {
            return Err(CurveError::Past { epochs: curve.len(), at: total_epochs });
        }
        match best {
            Some(found) if !(0.0..=1.0).contains(&found) => {
                Err(CurveError::Setting { key: "best", found, expected: "a fraction of 0..=1" })
            }
            Some(best) if self.looks_at(curve.len(), total_epochs) => {
                Ok(self.judge(&self.extrapolation.predict(curve, total_epochs, rng)?, best))
            }
            _ => Ok(Decision::Continue),
        }
    }

    /// Says which setting is out of range.
    pub fn validate(&self) -> Result<(), CurveError> {
        let setting = |key, found, expected| Err(CurveError::Setting { key, found, expected });
        match *self {
            Self { every: 0, .. } => setting("every", 0.0, "at least 1"),
            Self { threshold, .. } if !(0.0..=1.0).contains(&threshold) => setting("threshold", threshold, "0 to 1"),
            _ => self.extrapolation.validate(),
        }
    }

    /// Replays the search that would have trained `curves` (each to its end) in each of `orders`, lists of indices into
    /// them, and counts over all orders. A stopped run leaves the best value as it was.
    pub fn replay(&self, curves: &[Vec<f64>], orders: &[Vec<usize>], seed: u64) -> Result<EarlyStopReport, CurveError> {
        self.validate()?;
        curves.iter().try_for_each(|curve| check_curve(curve))?;
        let mut predictions: HashMap<(usize, usize), Prediction> = HashMap::new();
        let mut report = EarlyStopReport::default();
        for order in orders {
            let (mut best, mut best_stopped) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
            for &id in order {
                let unknown =
                    CurveError::Setting { key: "orders", found: id as f64, expected: "the indices of curves" };
                let curve = curves.get(id).ok_or(unknown)?;
                let (total, end) = (curve.len(), curve[curve.len() - 1]);
                let mut stop = None;
                for epochs in (1..total).filter(|&epochs| best.is_finite() && self.looks_at(epochs, total)) {
                    let prediction = match predictions.entry((id, epochs)) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(free) => {
                            let mut rng = rng::stream(seed, "early_stop", (id as u64) << 32 | epochs as u64);
                            free.insert(self.extrapolation.predict(&curve[..epochs], total, &mut rng)?)
                        }
                    };
                    if self.judge(prediction, best) != Decision::Continue {
                        stop = Some(epochs);
                        break;
                    }
                }
                report.curves += 1;
                report.epochs += total;
                report.improvements += usize::from(best.is_finite() && end > best);
                match stop {
                    Some(epochs) => {
                        report.stops += 1;
                        report.epochs_saved += total - epochs;
                        report.wrong_stops += usize::from(end > best);
                        best_stopped = best_stopped.max(end);
                    }
                    None => best = best.max(end),
                }
            }
            report.replays += 1;
            report.best_lost += usize::from(best_stopped > best);
        }
        Ok(report)
    }

    fn looks_at(&self, epochs: usize, total: usize) -> bool {
        epochs >= self.min_epochs && epochs < total && epochs.is_multiple_of(self.every)
    }

    fn judge(&self, prediction: &Prediction, best: f64) -> Decision {
        let probability = prediction.probability_above(best);
        if probability < self.threshold { Decision::Stop { probability } } else { Decision::Continue }
    }
}

/// What early stopping would have done to runs whose ends are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EarlyStopReport {
    /// Searches replayed.
    pub replays: usize,
    /// Runs seen, over all replays, as are the numbers below.
    pub curves: usize,
    /// Epochs of these runs when none is stopped.
    pub epochs: usize,
    /// Epochs not run.
    pub epochs_saved: usize,
    /// Runs stopped.
    pub stops: usize,
    /// Stopped runs whose final value would have been above the best at that time.
    pub wrong_stops: usize,
    /// Runs whose final value was above the best at that time, stopped or not.
    pub improvements: usize,
    /// Replays whose best run of all was stopped.
    pub best_lost: usize,
}

impl EarlyStopReport {
    /// Share of the epochs that were not run.
    pub fn saved(&self) -> f64 {
        self.epochs_saved as f64 / self.epochs.max(1) as f64
    }

    /// Share of the stops that were wrong.
    pub fn wrong(&self) -> f64 {
        self.wrong_stops as f64 / self.stops.max(1) as f64
    }
}

impl fmt::Display for EarlyStopReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { replays, curves, epochs, epochs_saved, stops, wrong_stops, improvements, best_lost } = self;
        let (saved, wrong) = (100.0 * self.saved(), 100.0 * self.wrong());
        write!(f, "{epochs_saved} of {epochs} epochs saved ({saved:.1} %), {stops} of {curves} runs stopped, ")?;
        write!(f, "{wrong_stops} of the stops wrong ({wrong:.1} %; {improvements} runs were improvements), ")?;
        write!(f, "best run lost in {best_lost} of {replays} replays")
    }
}

#[cfg(test)]
mod tests {
    use nas_datasets::rng::stream;

    use super::*;

    fn curve(end: f64, epochs: usize) -> Vec<f64> {
        (1..=epochs)
            .map(|t| end - (end - 0.1) * (-0.35 * t as f64).exp() + 0.004 * ((t * 5 % 7) as f64 - 3.0))
            .collect()
    }

    fn decide(rule: &EarlyStop, curve: &[f64], best: Option<f64>) -> Decision {
        rule.decide(curve, 30, best, &mut stream(0, "decide", 0)).unwrap()
    }

    #[test]
    fn a_hopeless_run_is_stopped_and_a_promising_one_is_not() {
        let mcmc = Extrapolation::Mcmc { walkers: 60, samples: 200, burn_in: 200, recency: 1.0, monotone: false };
        for extrapolation in [Extrapolation::default(), mcmc, Extrapolation::LastValue] {
            let rule = EarlyStop { every: 1, extrapolation, ..EarlyStop::default() };
            match decide(&rule, &curve(0.5, 12), Some(0.8)) {
                Decision::Stop { probability } => assert!((0.0..0.05).contains(&probability)),
                Decision::Continue => panic!("{rule:?} goes on"),
            }
            assert_eq!(decide(&rule, &curve(0.5, 12), Some(0.45)), Decision::Continue);
            assert_eq!(decide(&rule, &curve(0.5, 12), Some(0.5)), Decision::Continue);
        }
    }

    #[test]
    fn a_run_is_looked_at_when_due_and_only_beside_a_finished_one() {
        let rule = EarlyStop { every: 4, min_epochs: 6, ..EarlyStop::default() };
        let stopped = |epochs, best| decide(&rule, &curve(0.3, epochs), best) != Decision::Continue;
        let looks: Vec<usize> = (1..=30).filter(|&epochs| stopped(epochs, Some(0.9))).collect();
        assert_eq!(looks, [8, 12, 16, 20, 24, 28]);
        assert!((1..=30).all(|epochs| !stopped(epochs, None)));
    }

    #[test]
    fn wrong_settings_and_curves_are_errors() {
        let mut rng = stream(0, "wrong", 0);
        let mut text =
            |rule: &EarlyStop, curve: &[f64]| rule.decide(curve, 30, None, &mut rng).unwrap_err().to_string();
        let rule = EarlyStop::default();
        assert!(text(&rule, &[0.1, f64::NAN]).contains("NaN at epoch 2"));
        assert!(text(&rule, &[0.1; 31]).contains("31 epochs to epoch 30"));
        assert!(text(&EarlyStop { every: 0, ..rule.clone() }, &[0.1]).contains("`every` is 0"));
        let best = rule.decide(&[0.1; 5], 30, Some(f64::NAN), &mut stream(0, "wrong", 1)).unwrap_err().to_string();
        assert_eq!(best, "early stopping: `best` is NaN; expected a fraction of 0..=1");
        assert!(text(&EarlyStop { threshold: 5.0, ..rule }, &[0.1]).contains("`threshold` is 5; expected 0 to 1"));
    }

    #[test]
    fn a_replay_counts_epochs_stops_and_errors() {
        // The baseline sees the best value so far and no noise. Looks after epochs 2 and 4 of 5.
        let rule = EarlyStop { every: 2, min_epochs: 1, extrapolation: Extrapolation::LastValue, threshold: 0.05 };
        let good = vec![0.5, 0.6, 0.6, 0.6, 0.6];
        let flat = vec![0.2; 5];
        let late = vec![0.3, 0.3, 0.3, 0.3, 0.9];
        let report = rule.replay(&[good, flat, late], &[vec![0, 1, 2], vec![2, 0, 1]], 0).unwrap();
        // First order: `flat` and `late` stop after 2 epochs, `late` wrongly. Second: `good` and `flat` stop after 2.
        let expected = EarlyStopReport {
            replays: 2,
            curves: 6,
            epochs: 30,
            epochs_saved: 12,
            stops: 4,
            wrong_stops: 1,
            improvements: 1,
            best_lost: 1,
        };
        assert_eq!(report, expected);
        assert_eq!((report.saved(), report.wrong()), (0.4, 0.25));
        assert_eq!(
            report.to_string(),
            "12 of 30 epochs saved (40.0 %), 4 of 6 runs stopped, 1 of the stops wrong (25.0 %; 1 runs were improvements), \
             best run lost in 1 of 2 replays"
        );
        assert_eq!(rule.replay(&[vec![]], &[vec![0]], 0), Err(CurveError::Empty));
        let unknown = rule.replay(&[vec![0.5]], &[vec![0, 1]], 0).unwrap_err().to_string();
        assert_eq!(unknown, "early stopping: `orders` is 1; expected the indices of curves");
    }
}
