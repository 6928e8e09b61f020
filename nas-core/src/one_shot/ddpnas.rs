//! DDPNAS on shared weights (Zheng et al. 2019, arXiv 1905.13543): every operator is trained and scored equally often, then the
//! worst of every edge is pruned, until one architecture is left; then all operators come back.

use anyhow::{Context, Result};

use super::config::{OneShotDef, OneShotInfo};
use super::paths::{Learned, paths_config};
use super::{OneShot, Problem};
use crate::nn::Shape;
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::WeightSharing;
use crate::strategy::{DdpnasConfig as Pruning, StrategyConfig};

paths_config! {
    /// Parameters of DDPNAS on shared weights; weights as DARTS's.
    DdpnasConfig {
        /// First epoch, from 0, in which the distribution is learned; before it paths are drawn uniformly.
        arch_start_epoch: usize,
        /// Times that every choice is tried before the worst is pruned.
        rounds: usize,
        /// Decay of the velocity that sums up the choices' scores.
        momentum: f64,
        /// Factor of a score (a fraction) before the softmax.
        scale: f64,
    }
}

impl Default for DdpnasConfig {
    fn default() -> Self {
        Self {
            arch_start_epoch: 0,
            rounds: 3,
            momentum: 0.9,
            scale: 100.0,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
        }
    }
}

impl DdpnasConfig {
    pub(super) fn strategy(&self) -> StrategyConfig {
        StrategyConfig::Ddpnas(Pruning { rounds: self.rounds, momentum: self.momentum, scale: self.scale })
    }
}

impl OneShotDef for DdpnasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "ddpnas", paper: "Zheng et al. 2019, arXiv 1905.13543" }
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
