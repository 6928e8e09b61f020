//! FBNet (Wu et al. 2018, arXiv 1812.03443): operators are weighed by a Gumbel softmax whose temperature falls by epoch; the
//! loss of the architecture parameters is `CE * alpha * ln(cost)^beta` (equation 4), the cost expected under the same sample.

use anyhow::Result;

use super::config::{OneShotDef, OneShotInfo, chooses_operators, positive};
use super::cost_term::{CostOf, CostTerm, CostTermConfig};
use super::gumbel::gumbel_softmax;
use super::relaxed::{Relaxed, relaxed_config, relaxed_methods};
use super::{Objective, OneShot, Part, Problem};
use crate::nn::Shape;
use crate::optim::{AdamConfig, Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::{Mixture, WeightSharing};
use crate::train::{At, Step};

relaxed_config! {
    /// Parameters of FBNet; the defaults are those of the reimplementation JunrQ/NAS, the warm-up the paper's. The cost is in
    /// multiply-adds, or as in the paper a latency from a table of operators (`cost.of`).
    FbnetConfig {
        /// Temperature of the first epoch.
        temperature: f64,
        /// Factor of the temperature from epoch to epoch.
        temperature_decay: f64,
        /// How the cost counts.
        cost: CostTermConfig,
    }
}

impl Default for FbnetConfig {
    fn default() -> Self {
        Self {
            temperature: 5.0,
            temperature_decay: 0.956,
            cost: CostTermConfig::LogPower { alpha: 0.2, beta: 0.6, reference: None, of: CostOf::Macs },
            weights: OptimizerConfig::Sgd(SgdConfig { lr: 0.1, weight_decay: 1e-4, ..SgdConfig::default() }),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } },
            grad_clip: 0.0,
            arch: OptimizerConfig::Adam(AdamConfig { lr: 0.01, weight_decay: 5e-4, ..Default::default() }),
            arch_start_epoch: 10,
        }
    }
}

impl OneShotDef for FbnetConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "fbnet", paper: "Wu et al. 2018, arXiv 1812.03443" }
    }

    fn check(&self, space: &dyn WeightSharing, input: Shape) -> Result<()> {
        positive("temperature", self.temperature)?;
        positive("temperature_decay", self.temperature_decay)?;
        self.cost.check(space, input)?;
        chooses_operators(self, space)
    }

    fn cost_of(&self) -> Option<CostOf> {
        self.cost.of()
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(Fbnet::new(self.clone(), problem)?))
    }
}

pub(super) struct Fbnet {
    config: FbnetConfig,
    cost: CostTerm,
    relaxed: Relaxed,
}

impl Fbnet {
    pub fn new(config: FbnetConfig, problem: Problem) -> Result<Self> {
        let cost = config.cost.open(&problem)?;
        Ok(Self { relaxed: Relaxed::new(config.bilevel(), problem), cost, config })
    }
}

impl OneShot for Fbnet {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        // Far into a long run the temperature would be too small to divide by.
        let temperature = (self.config.temperature * self.config.temperature_decay.powi(at.epoch as i32)).max(1e-3);
        let cost = &self.cost;
        self.relaxed.alternate(at, objective, |parameters, objective, part| {
            let weights = parameters.weights(|p, raw| gumbel_softmax(p, raw, temperature));
            let loss = objective.loss(part, Mixture::Weights(&parameters.placed(&weights)), at);
            if part == Part::Arch { cost.apply(loss, &weights) } else { loss }
        })
    }

    relaxed_methods!(chosen_path);
}
