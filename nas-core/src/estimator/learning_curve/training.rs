//! The early-stopping rule as a part of one training.

use std::fmt;

use anyhow::{Context, Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Decision, EarlyStop};

/// The section `[train.early_stop]`: ends a training before its end where it will hardly beat the best one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopConfig {
    /// The final score that is to be beaten, a fraction. Without it no run is stopped: the trials of a search are given
    /// theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
    /// When to look and how to extrapolate.
    #[serde(default)]
    pub rule: EarlyStop,
}

impl EarlyStopConfig {
    /// Says what is out of range, in a training that is validated every `eval_every` epochs.
    pub fn check(&self, eval_every: usize) -> Result<()> {
        self.rule.validate().context("train.early_stop.rule")?;
        if let Some(best) = self.best.filter(|best| !(0.0..=1.0).contains(best)) {
            bail!("train.early_stop.best = {best}; expected a fraction of 0..=1");
        }
        if eval_every != 1 {
            bail!("train.early_stop needs a validation after every epoch: eval.every = {eval_every}, expected 1");
        }
        Ok(())
    }
}

/// A run that ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// Epochs that were trained.
    pub epochs: usize,
    /// Estimated probability that the run would have beaten the best.
    pub probability: f64,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { epochs, probability } = self;
        write!(f, "stopped after {epochs} epochs: it would beat the best with probability {probability:.3}")
    }
}

/// The scores of a training so far, and whether it was stopped; part of its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    scores: Vec<f64>,
    stopped: Option<Stopped>,
}

impl Curve {
    /// Takes the score after `epoch` (from 0) of `epochs`, a fraction, and decides by the rule, where there is one. What the
    /// rule draws follows from the run's `seed` and the epoch.
    pub fn record(
        &mut self,
        score: f64,
        config: Option<&EarlyStopConfig>,
        (epoch, epochs): (usize, usize),
        seed: u64,
    ) -> Result<()> {
        self.scores.push(score);
        let Some(EarlyStopConfig { best, rule }) = config else { return Ok(()) };
        let mut rng = nas_datasets::rng::stream(seed, "early_stop", epoch as u64);
        if let Decision::Stop { probability } = rule.decide(&self.scores, epochs, *best, &mut rng)? {
            self.stopped = Some(Stopped { epochs: epoch + 1, probability });
        }
        Ok(())
    }

    /// Why and when the run ended early, if it did.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped
    }
}
