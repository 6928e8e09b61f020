//! Learning rate as a function of training progress.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A linear warm-up followed by a decay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Steps over which the rate grows linearly from 0 to its start; 0 for none.
    pub warmup_steps: usize,
    /// What follows the warm-up.
    pub decay: Decay,
}

/// The shape of the decay from the initial rate over the steps after the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// No decay.
    #[default]
    Constant,
    /// Half a cosine down to `min_lr` (Loshchilov and Hutter 2017).
    Cosine {
        /// Rate at the end.
        min_lr: f64,
    },
    /// `end^progress`, the smooth form of a factor per epoch.
    Exponential {
        /// Rate at the end as a share of the start; a factor of 0.97 in each of 250 epochs is 4.93e-4.
        end: f64,
    },
    /// `(1 - progress)^power`, DeepLab's choice with power 0.9.
    Poly {
        /// Exponent.
        power: f64,
    },
}

impl Schedule {
    /// The rate of `step` (counted from 0) out of `total` steps, from an initial rate of `lr`.
    pub fn lr(&self, lr: f64, step: usize, total: usize) -> f64 {
        if step < self.warmup_steps {
            return lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = total.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / span as f64).min(1.0);
        match self.decay {
            Decay::Constant => lr,
            Decay::Cosine { min_lr } => min_lr + (lr - min_lr) * (1.0 + (PI * progress).cos()) / 2.0,
            Decay::Exponential { end } => lr * end.powf(progress),
            Decay::Poly { power } => lr * (1.0 - progress).powf(power),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup_steps: usize, decay: Decay) -> Schedule {
        Schedule { warmup_steps, decay }
    }

    #[test]
    fn cosine_runs_from_the_initial_rate_through_the_middle_to_the_minimum() {
        let cosine = schedule(0, Decay::Cosine { min_lr: 0.001 });
        let at = |step| cosine.lr(0.025, step, 100);
        assert_eq!(at(0), 0.025);
        assert!((at(50) - 0.013).abs() < 1e-12 && (at(100) - 0.001).abs() < 1e-12);
    }

    #[test]
    fn poly_equals_its_closed_form() {
        let poly = schedule(0, Decay::Poly { power: 0.9 });
        assert!((poly.lr(0.05, 25, 100) - 0.05 * 0.75f64.powf(0.9)).abs() < 1e-15);
    }

    #[test]
    fn exponential_decay_is_a_factor_per_epoch() {
        let exponential = schedule(0, Decay::Exponential { end: 0.97f64.powi(250) });
        assert!((exponential.lr(0.1, 100, 250) - 0.1 * 0.97f64.powi(100)).abs() < 1e-12);
    }

    #[test]
    fn warm_up_is_linear_and_the_decay_starts_after_it() {
        let warm = schedule(10, Decay::Poly { power: 1.0 });
        assert!((warm.lr(1.0, 4, 110) - 0.5).abs() < 1e-12);
        assert_eq!(warm.lr(1.0, 9, 110), 1.0);
        assert_eq!(warm.lr(1.0, 60, 110), 0.5);
    }
}
