//! RandomNAS with weight sharing (Li and Talwalkar 2019, arXiv 1902.07638): the supernet is trained on random paths; then random
//! paths are scored on one batch and the best of them on all held-out images.

use anyhow::{Result, ensure};

use super::config::{OneShotDef, OneShotInfo};
use super::paths::{Paths, paths_config};
use super::spos::Uniform;
use super::{OneShot, Problem, SecondStage};
use crate::nn::Shape;
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::WeightSharing;
use crate::strategy::{RandomConfig, StrategyConfig};

paths_config! {
    /// Parameters of RandomNAS; the defaults are its authors' (`randomNAS_release`).
    RandomNasWsConfig {
        /// Paths that are scored on one batch.
        num_trials: u64,
        /// The best of them, scored on all held-out images.
        finalists: usize,
        /// Batches that a candidate's batch-norm statistics are computed from; 0, as the authors do, leaves the supernet's.
        recalibration_batches: usize,
    }
}

impl Default for RandomNasWsConfig {
    fn default() -> Self {
        Self {
            num_trials: 1000,
            finalists: 10,
            recalibration_batches: 0,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } },
            grad_clip: 0.25,
        }
    }
}

impl OneShotDef for RandomNasWsConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "random_nas_ws", paper: "Li and Talwalkar 2019, arXiv 1902.07638" }
    }

    fn check(&self, _: &dyn WeightSharing, _: Shape) -> Result<()> {
        ensure!(self.num_trials > 0, "method.num_trials = 0; expected at least 1");
        Ok(())
    }

    fn runs_paths(&self) -> bool {
        true
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(Uniform::new(Paths::new(self.recipe(), problem), false)))
    }

    fn second_stage(&self) -> Option<SecondStage> {
        let Self { num_trials, recalibration_batches, finalists, .. } = *self;
        Some(SecondStage {
            strategy: StrategyConfig::Random(RandomConfig {}),
            num_trials,
            recalibration_batches,
            finalists,
        })
    }
}
