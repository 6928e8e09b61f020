//! GDAS (Dong and Yang 2019, arXiv 1910.04465): one operator per edge is drawn by the Gumbel trick; only it is computed, and
//! it stands for the whole distribution in the backward pass (straight-through).

use anyhow::{Result, ensure};

use super::config::{OneShotDef, OneShotInfo, chooses_operators, positive};
use super::gumbel::{Sample, gumbel_softmax, one_hot_of_largest, straight_through};
use super::relaxed::{Relaxed, relaxed_config, relaxed_methods};
use super::{Objective, OneShot, Problem};
use crate::nn::Shape;
use crate::optim::{AdamConfig, Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::WeightSharing;
use crate::train::{At, Step};

relaxed_config! {
    /// Parameters of GDAS; the defaults are those of its authors on NAS-Bench-201 (AutoDL-Projects, `GDAS.sh`).
    GdasConfig {
        /// Temperature at the start; it changes linearly.
        temperature_start: f64,
        /// Temperature at the end.
        temperature_end: f64,
        /// Adds the weights of the operators that are not drawn, whose values are zero, to the map of an edge, as the code of
        /// GDAS' authors does: the gradient of a logit then has the sum of the map's gradient taken off it, and an operator that
        /// gives nothing (`none`) one of its own. Of spaces whose supernet can.
        undrawn: bool,
    }
}

impl Default for GdasConfig {
    fn default() -> Self {
        let weights = SgdConfig { lr: 0.025, momentum: 0.9, weight_decay: 5e-4, nesterov: true };
        let arch = AdamConfig { lr: 3e-4, beta1: 0.5, weight_decay: 1e-3, ..Default::default() };
        Self {
            temperature_start: 10.0,
            temperature_end: 0.1,
            undrawn: false,
            weights: OptimizerConfig::Sgd(weights),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
            arch: OptimizerConfig::Adam(arch),
            arch_start_epoch: 0,
        }
    }
}

impl OneShotDef for GdasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "gdas", paper: "Dong and Yang 2019, arXiv 1910.04465" }
    }

    fn check(&self, space: &dyn WeightSharing, _: Shape) -> Result<()> {
        positive("temperature_start", self.temperature_start)?;
        positive("temperature_end", self.temperature_end)?;
        ensure!(
            !self.undrawn || space.adds_undrawn(),
            "one_shot.method.undrawn = true: no form of the space {} adds the weights of operators that are not drawn",
            space.name()
        );
        chooses_operators(self, space)
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(Gdas::new(self.clone(), problem)))
    }
}

pub(super) struct Gdas {
    config: GdasConfig,
    relaxed: Relaxed,
}

impl Gdas {
    pub fn new(config: GdasConfig, problem: Problem) -> Self {
        Self { relaxed: Relaxed::new(config.bilevel(), problem), config }
    }
}

impl OneShot for Gdas {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let GdasConfig { temperature_start: from, temperature_end: to, .. } = self.config;
        let temperature = from + (to - from) * at.progress();
        self.relaxed.alternate(at, objective, |parameters, objective, part| {
            let sample = Sample::new(parameters, |p, raw| {
                let soft = gumbel_softmax(p, raw, temperature);
                let hard = one_hot_of_largest(p, &soft);
                (straight_through(&hard, &soft), hard)
            });
            objective.loss(part, sample.with_undrawn(self.config.undrawn), at)
        })
    }

    relaxed_methods!(chosen_path);
}
