//! PC-DARTS (Xu et al. 2019, arXiv 1907.05737): DARTS on a supernet whose operators see a part of the channels, with weights
//! on the edges into a node (edge normalisation), which are parameters of connections of the space. The method's own part is
//! the warm-up, in which architecture parameters rest.

use anyhow::{Result, ensure};

use super::config::{OneShotDef, OneShotInfo, chooses_operators, has};
use super::relaxed::{Relaxed, relaxed_config, relaxed_methods};
use super::{Objective, OneShot, Problem};
use crate::nn::Shape;
use crate::optim::{AdamConfig, Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::{Choice, Mixture, WeightSharing};
use crate::train::{At, Step};

relaxed_config! {
    /// Parameters of PC-DARTS; the defaults are its authors' (`train_search.py`, batches of 256).
    PcDartsConfig {}
}

impl Default for PcDartsConfig {
    fn default() -> Self {
        let arch = AdamConfig { lr: 6e-4, beta1: 0.5, weight_decay: 1e-3, ..Default::default() };
        Self {
            weights: OptimizerConfig::Sgd(SgdConfig { lr: 0.1, ..SgdConfig::default() }),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
            arch: OptimizerConfig::Adam(arch),
            arch_start_epoch: 15,
        }
    }
}

impl OneShotDef for PcDartsConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "pc_darts", paper: "Xu et al. 2019, arXiv 1907.05737" }
    }

    fn check(&self, space: &dyn WeightSharing, _: Shape) -> Result<()> {
        ensure!(
            has(space, Choice::Connection),
            "method.kind = \"pc_darts\" weighs the edges into a node, and the space {} has no such parameters",
            space.name()
        );
        chooses_operators(self, space)
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(PcDarts::new(self.clone(), problem)))
    }
}

pub(super) struct PcDarts {
    relaxed: Relaxed,
}

impl PcDarts {
    pub fn new(config: PcDartsConfig, problem: Problem) -> Self {
        Self { relaxed: Relaxed::new(config.bilevel(), problem) }
    }
}

impl OneShot for PcDarts {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        self.relaxed.alternate(at, objective, |parameters, objective, part| {
            objective.loss(part, Mixture::Weights(&parameters.placed_softmax()), at)
        })
    }

    relaxed_methods!(chosen_weights);
}
