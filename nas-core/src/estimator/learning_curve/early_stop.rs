//! Stopping a run whose final value will hardly beat the best (Domhan, Springenberg and Hutter 2015, section 3).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use nas_datasets::rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{CurveError, Extrapolation, Prediction, check_curve};

/// When a run is stopped before its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStop {
    /// Epochs from one look to the next.
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
        Self { every: 1, min_epochs: 5, threshold: 0.05, extrapolation: Extrapolation::default() }
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
        match best {
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
                let (curve, total) = (&curves[id], curves[id].len());
                let end = curve[total - 1];
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
        epochs >= self.min_epochs && epochs < total && epochs % self.every == 0
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
        let Self { replays, curves, epochs, epochs_saved, stops, wrong_stops, best_lost } = self;
        let (saved, wrong) = (100.0 * self.saved(), 100.0 * self.wrong());
        write!(f, "{epochs_saved} of {epochs} epochs saved ({saved:.1} %), {stops} of {curves} runs stopped, ")?;
        write!(f, "{wrong_stops} of the stops wrong ({wrong:.1} %), best run lost in {best_lost} of {replays} replays")
    }
}
