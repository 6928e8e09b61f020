//! SPOS (Guo et al. 2019, arXiv 1904.00420): the supernet is trained on paths that are drawn uniformly; afterwards a strategy
//! searches over it, with batch-norm statistics computed anew for every candidate.

use anyhow::{Context, Result, ensure};

use super::config::{OneShotDef, OneShotInfo};
use super::paths::{Paths, leaves_choice, paths_config};
use super::{Objective, OneShot, Problem, SecondStage};
use crate::nn::Shape;
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::WeightSharing;
use crate::strategy::{GeneticConfig, StrategyConfig};
use crate::train::{At, Step};

paths_config! {
    /// Parameters of SPOS; the defaults are its authors', but for the rate of the weights, which suits batches of 64.
    SposConfig {
        /// Every step trains as many paths as the largest decision has options, so that each is trained equally often (FairNAS,
        /// Chu et al. 2021, arXiv 1907.01845).
        fair: bool,
        /// What searches over the trained supernet.
        strategy: StrategyConfig,
        /// Candidates of that search.
        num_trials: u64,
        /// Batches that a candidate's batch-norm statistics are computed from; 0 leaves the supernet's.
        recalibration_batches: usize,
    }
}

impl Default for SposConfig {
    fn default() -> Self {
        Self {
            fair: false,
            strategy: StrategyConfig::Genetic(GeneticConfig::default()),
            num_trials: 1000,
            recalibration_batches: 200,
            weights: OptimizerConfig::Sgd(SgdConfig { lr: 0.05, weight_decay: 4e-5, ..SgdConfig::default() }),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Poly { power: 1.0 } },
            grad_clip: 0.0,
        }
    }
}

impl OneShotDef for SposConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "spos", paper: "Guo et al. 2019, arXiv 1904.00420" }
    }

    fn check(&self, _: &dyn WeightSharing, _: Shape) -> Result<()> {
        let info = self.strategy.info();
        ensure!(
            !info.multi_fidelity,
            "method.strategy.kind = {:?} chooses the epochs of its trials, and a candidate of a trained supernet has none",
            info.kind
        );
        ensure!(self.num_trials > 0, "method.num_trials = 0; expected at least 1");
        self.strategy.check().context("method")
    }

    fn runs_paths(&self) -> bool {
        true
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(Uniform::new(Paths::new(self.recipe(), problem), self.fair)))
    }

    fn second_stage(&self) -> Option<SecondStage> {
        let Self { num_trials, recalibration_batches, .. } = *self;
        Some(SecondStage { strategy: self.strategy.clone(), num_trials, recalibration_batches, finalists: 0 })
    }
}

/// Trains a supernet on uniform paths.
pub(super) struct Uniform {
    paths: Paths,
    fair: bool,
}

impl Uniform {
    /// `fair`: by [`Paths::fair`] paths.
    pub fn new(paths: Paths, fair: bool) -> Self {
        Self { paths, fair }
    }
}

impl OneShot for Uniform {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        match self.fair {
            true => self.paths.train_all(&self.paths.fair(at), at, objective),
            false => self.paths.train(&self.paths.uniform(at), at, objective),
        }
    }

    leaves_choice!();
}
