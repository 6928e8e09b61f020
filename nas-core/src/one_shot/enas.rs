//! ENAS (Pham et al. 2018, arXiv 1802.03268): an LSTM controller proposes paths of a supernet and learns from their accuracy
//! on held-out batches by REINFORCE.

use anyhow::{Context, Result};

use super::config::{OneShotDef, OneShotInfo};
use super::paths::{Learned, paths_config};
use super::{OneShot, Problem};
use crate::nn::Shape;
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::WeightSharing;
use crate::strategy::{ControllerConfig, ControllerUpdate, StrategyConfig};

paths_config! {
    /// Parameters of ENAS; the defaults are its authors' (`cifar10_micro_search.sh`), with one decay of the weights' rate in
    /// the place of restarts.
    EnasConfig {
        /// First epoch, from 0, in which the controller proposes; before it paths are drawn uniformly.
        arch_start_epoch: usize,
        /// Units of the controller's LSTM.
        hidden: i64,
        /// Paths per update of the controller.
        batch: usize,
        /// Learning rate of the controller.
        controller_lr: f64,
        /// Weight of the entropy bonus.
        entropy: f64,
        /// Decay of the moving average of rewards.
        baseline_decay: f64,
        /// Logits are `tanh_scale * tanh(logits / temperature)`.
        temperature: f64,
        /// Largest logit.
        tanh_scale: f64,
    }
}

impl Default for EnasConfig {
    fn default() -> Self {
        Self {
            arch_start_epoch: 0,
            hidden: 64,
            batch: 10,
            controller_lr: 3.5e-3,
            entropy: 1e-4,
            baseline_decay: 0.99,
            temperature: 5.0,
            tanh_scale: 1.1,
            weights: OptimizerConfig::Sgd(SgdConfig { lr: 0.05, nesterov: true, weight_decay: 1e-4, momentum: 0.9 }),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0005 } },
            grad_clip: 5.0,
        }
    }
}

impl EnasConfig {
    pub(super) fn strategy(&self) -> StrategyConfig {
        StrategyConfig::Controller(ControllerConfig {
            update: ControllerUpdate::Reinforce,
            hidden: self.hidden,
            batch: self.batch,
            lr: self.controller_lr,
            entropy: self.entropy,
            baseline_decay: self.baseline_decay,
            temperature: self.temperature,
            tanh_scale: self.tanh_scale,
            ..ControllerConfig::default()
        })
    }
}

impl OneShotDef for EnasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "enas", paper: "Pham et al. 2018, arXiv 1802.03268" }
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
