//! RandomNAS with weight sharing (Li and Talwalkar 2019, arXiv 1902.07638): the supernet is trained on random paths; then random
//! paths are scored on one batch and the best of them on all held-out images.

use super::paths::{Paths, paths_config};
use super::spos::Uniform;
use super::{Problem, SecondStage};
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::strategy::{NoParameters, StrategyConfig};

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

impl RandomNasWsConfig {
    pub(super) fn second_stage(&self) -> SecondStage {
        let Self { num_trials, recalibration_batches, finalists, .. } = *self;
        SecondStage { strategy: StrategyConfig::Random(NoParameters {}), num_trials, recalibration_batches, finalists }
    }

    pub(super) fn method(&self, problem: Problem) -> Uniform {
        Uniform::new(Paths::new(self.recipe(), problem))
    }
}
