//! SNAS (Xie et al. 2018, arXiv 1812.09926): operators are weighed by a sample of a softened categorical distribution whose
//! temperature falls. Weights and architecture parameters follow one loss on one batch (section 2.3): there is no second half
//! of the data.

use anyhow::Result;

use super::config::{OneShotDef, OneShotInfo, chooses_operators, positive};
use super::gumbel::gumbel_softmax;
use super::relaxed::{Relaxed, relaxed_config, relaxed_methods};
use super::{Objective, OneShot, Part, Problem};
use crate::nn::Shape;
use crate::optim::{AdamConfig, Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::{Mixture, WeightSharing};
use crate::train::{At, Step, scalar};

relaxed_config! {
    /// Parameters of SNAS; the defaults are XNAS's.
    SnasConfig {
        /// Temperature at the start; it falls by the same factor in every step.
        temperature_start: f64,
        /// Temperature at the end.
        temperature_end: f64,
    }
}

impl Default for SnasConfig {
    fn default() -> Self {
        let arch = AdamConfig { lr: 3e-4, beta1: 0.5, weight_decay: 1e-3, ..Default::default() };
        Self {
            temperature_start: 10.0,
            temperature_end: 1.0,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
            arch: OptimizerConfig::Adam(arch),
            arch_start_epoch: 0,
        }
    }
}

impl OneShotDef for SnasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "snas", paper: "Xie et al. 2018, arXiv 1812.09926" }
    }

    fn check(&self, space: &dyn WeightSharing, _: Shape) -> Result<()> {
        positive("temperature_start", self.temperature_start)?;
        positive("temperature_end", self.temperature_end)?;
        chooses_operators(self, space)
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(Snas::new(self.clone(), problem)))
    }
}

pub(super) struct Snas {
    config: SnasConfig,
    relaxed: Relaxed,
}

impl Snas {
    pub fn new(config: SnasConfig, problem: Problem) -> Self {
        Self { relaxed: Relaxed::new(config.bilevel(), problem), config }
    }
}

impl OneShot for Snas {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let SnasConfig { temperature_start: from, temperature_end: to, .. } = self.config;
        let temperature = from * (to / from).powf(at.progress());
        let images = objective.next(Part::Weights)?;
        let weights = self.relaxed.parameters.weights(|p, raw| gumbel_softmax(p, raw, temperature));
        let weights = self.relaxed.parameters.placed(&weights);
        let loss = objective.loss(Part::Weights, Mixture::Weights(&weights), at);
        match at.epoch >= self.relaxed.arch_start_epoch {
            true => self.relaxed.descend_both(&loss, at),
            false => self.relaxed.training.descend(&loss, at),
        }
        Ok(Step { loss: scalar(&loss), images, lr: self.relaxed.training.lr(at) })
    }

    relaxed_methods!(chosen_weights, None);
}
