//! MdeNAS on shared weights (Zheng et al. 2019, arXiv 1905.07529): paths are drawn from a multinomial distribution that learns
//! from how often each operator was trained and how it scores.

use anyhow::{Context, Result};

use super::config::{OneShotDef, OneShotInfo};
use super::paths::{Learned, paths_config};
use super::{OneShot, Problem};
use crate::nn::Shape;
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::WeightSharing;
use crate::strategy::{MdenasConfig as Distribution, StrategyConfig};

paths_config! {
    /// Parameters of MdeNAS on shared weights; weights as DARTS's.
    MdenasConfig {
        /// First epoch, from 0, in which the distribution is learned; before it paths are drawn uniformly.
        arch_start_epoch: usize,
        /// Probability that moves between two choices in one update.
        lr: f64,
        /// Decay of the moving average of a choice's scores; 0 keeps the last alone, as the authors do;
        /// on shared weights, where a score also depends on the operators of other edges, that ranks operators by chance.
        memory: f64,
    }
}

impl Default for MdenasConfig {
    fn default() -> Self {
        Self {
            arch_start_epoch: 0,
            lr: 0.01,
            memory: 0.9,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
        }
    }
}

impl MdenasConfig {
    pub(super) fn strategy(&self) -> StrategyConfig {
        StrategyConfig::Mdenas(Distribution { lr: self.lr, memory: self.memory })
    }
}

impl OneShotDef for MdenasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "mdenas", paper: "Zheng et al. 2019, arXiv 1905.07529" }
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
