//! ASNG on shared weights (Akimoto et al. 2019, arXiv 1905.08537): a stochastic natural gradient on the distribution of paths,
//! its step adapted to the signal-to-noise ratio.

use anyhow::{Context, Result};

use super::config::{OneShotDef, OneShotInfo};
use super::paths::{Learned, paths_config};
use super::{OneShot, Problem};
use crate::nn::Shape;
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::WeightSharing;
use crate::strategy::{SngConfig, StrategyConfig};

paths_config! {
    /// Parameters of ASNG on shared weights; weights as DARTS's.
    AsngConfig {
        /// First epoch, from 0, in which the distribution is learned; before it paths are drawn uniformly.
        arch_start_epoch: usize,
        /// Paths per update of the distribution.
        samples: usize,
        /// Length of a step in the distribution's own metric, at the start where it adapts.
        step: f64,
        /// Adapts the step.
        adaptive: bool,
        /// Threshold of the signal-to-noise ratio above which the step grows.
        alpha: f64,
    }
}

impl Default for AsngConfig {
    fn default() -> Self {
        Self {
            arch_start_epoch: 0,
            samples: 2,
            step: 1.0,
            adaptive: true,
            alpha: 1.5,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
        }
    }
}

impl AsngConfig {
    pub(super) fn strategy(&self) -> StrategyConfig {
        StrategyConfig::Sng(SngConfig {
            samples: self.samples,
            step: self.step,
            adaptive: self.adaptive,
            alpha: self.alpha,
        })
    }
}

impl OneShotDef for AsngConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "asng", paper: "Akimoto et al. 2019, arXiv 1905.08537" }
    }

    fn check(&self, _: &dyn WeightSharing, _: Shape) -> Result<()> {
        self.strategy().check().context("method")
    }

    fn runs_paths(&self) -> bool {
        true
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(Learned::new(self.strategy(), self.arch_start_epoch, self.recipe(), problem)))
    }
}
