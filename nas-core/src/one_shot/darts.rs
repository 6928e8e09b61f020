//! DARTS (Liu et al. 2019, arXiv 1806.09055): candidates are weighed by the softmax of the architecture parameters, which
//! follow the loss on the other half of the data, with the weights as they are (first order) or as the next step would make
//! them (second order).

use std::collections::HashMap;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::config::{OneShotDef, OneShotInfo, chooses_operators};
use super::relaxed::{Relaxed, relaxed_config, relaxed_methods, share};
use super::{Objective, OneShot, Part, Problem};
use crate::nn::{Shape, ranks};
use crate::optim::{AdamConfig, Decay, Named, OptimizerConfig, Schedule, SgdConfig, gradients};
use crate::space::{Mixture, WeightSharing};
use crate::train::{At, Step, scalar};

/// Which gradient the architecture parameters follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// With the weights held fixed.
    #[default]
    First,
    /// Through one step of the weights.
    Second,
}

relaxed_config! {
    /// Parameters of DARTS; the defaults are its authors' (`cnn/train_search.py`).
    DartsConfig {
        /// Which gradient the architecture parameters follow.
        order: Order,
    }
}

impl Default for DartsConfig {
    fn default() -> Self {
        let arch = AdamConfig { lr: 3e-4, beta1: 0.5, weight_decay: 1e-3, ..Default::default() };
        Self {
            order: Order::First,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
            arch: OptimizerConfig::Adam(arch),
            arch_start_epoch: 0,
        }
    }
}

impl DartsConfig {
    /// Auto-DeepLab's constants (arXiv 1901.02985, section 5.1).
    pub fn auto_deeplab() -> Self {
        let arch = AdamConfig { lr: 3e-3, weight_decay: 1e-3, ..Default::default() };
        Self { arch: OptimizerConfig::Adam(arch), arch_start_epoch: 20, ..Self::default() }
    }
}

impl OneShotDef for DartsConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "darts", paper: "Liu et al. 2019, arXiv 1806.09055" }
    }

    fn check(&self, space: &dyn WeightSharing, _: Shape) -> Result<()> {
        let sgd = matches!(self.weights, OptimizerConfig::Sgd(_));
        ensure!(
            self.order == Order::First || sgd,
            "method.order = \"second\" looks ahead along weights.kind = \"sgd\" only"
        );
        chooses_operators(self, space)
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        let first = self.order == Order::First;
        ensure!(first || !problem.amp, "method.order = \"second\" is not served under mixed precision (--amp)");
        Ok(Box::new(Darts::new(self.clone(), problem)))
    }
}

pub(super) struct Darts {
    order: Order,
    relaxed: Relaxed,
}

impl Darts {
    pub fn new(config: DartsConfig, problem: Problem) -> Self {
        Self { order: config.order, relaxed: Relaxed::new(config.bilevel(), problem) }
    }

    /// As the authors: the architecture steps first, then the weights, on the batch that the architecture looked ahead on.
    fn second_order(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let images = objective.next(Part::Weights)?;
        if at.epoch >= self.relaxed.arch_start_epoch {
            objective.next(Part::Arch)?;
            if let Some(grads) = self.unrolled(at, objective) {
                self.relaxed.arch.step(&grads, self.relaxed.arch_lr);
            }
        }
        let loss = objective.loss(Part::Weights, Mixture::Weights(&self.relaxed.parameters.placed_softmax()), at);
        self.relaxed.training.descend(&loss, at);
        Ok(Step { loss: scalar(&loss), images, lr: self.relaxed.training.lr(at) })
    }

    /// Gradient of the architecture loss after one step of the weights, equations 7 and 8: the product of second derivatives
    /// and a vector is a difference of first ones. `None` where a loss is not finite.
    fn unrolled(&mut self, at: At, objective: &dyn Objective) -> Option<Vec<Tensor>> {
        let Relaxed { parameters, training, arch, .. } = &mut self.relaxed;
        let loss = |part| {
            let loss = objective.loss(part, Mixture::Weights(&parameters.placed_softmax()), at);
            (ranks::are_several() || scalar(&loss).is_finite()).then_some(loss)
        };
        let lr = training.lr(at);
        let mut weights: Vec<Named> = training.optimizer.parameters().iter().map(share).collect();
        let before: Vec<Tensor> = weights.iter().map(|(_, weight)| weight.detach().copy()).collect();
        let state: HashMap<String, Tensor> =
            training.optimizer.state().into_iter().map(|(n, t)| (n, t.copy())).collect();

        let grads = gradients(&loss(Part::Weights)?, &weights);
        training.optimizer.step(&grads, lr);
        let all: Vec<Named> = arch.parameters().iter().chain(&weights).map(share).collect();
        let ahead = loss(Part::Arch).map(|loss| gradients(&loss, &all));
        training.optimizer.load_state(&state);
        set(&mut weights, &before, None);
        let mut of_arch = ahead?;
        let direction = of_arch.split_off(arch.parameters().len());

        let squares: f64 = direction.iter().filter(|v| v.defined()).map(square).sum();
        if squares == 0.0 {
            return Some(of_arch);
        }
        const RADIUS: f64 = 0.01;
        let eps = RADIUS / squares.sqrt();
        let mut side = |sign: f64| {
            set(&mut weights, &before, Some((&direction, sign * eps)));
            loss(Part::Weights).map(|loss| gradients(&loss, arch.parameters()))
        };
        let sides = [side(1.0), side(-1.0)];
        set(&mut weights, &before, None);
        let [Some(above), Some(below)] = sides else { return None };
        tch::no_grad(|| {
            for ((grad, above), below) in of_arch.iter_mut().zip(above).zip(below).filter(|((_, a), _)| a.defined()) {
                let correction = (above - below) * (training.step_per_gradient(lr) / (2.0 * eps));
                *grad = if grad.defined() { &*grad - correction } else { -correction };
            }
        });
        Some(of_arch)
    }
}

fn square(tensor: &Tensor) -> f64 {
    tensor.square().sum(Kind::Double).double_value(&[])
}

/// Sets `weights` to `base`, plus a multiple of a direction.
fn set(weights: &mut [Named], base: &[Tensor], shift: Option<(&[Tensor], f64)>) {
    tch::no_grad(|| {
        for (i, (_, weight)) in weights.iter_mut().enumerate() {
            match shift.filter(|(direction, _)| direction[i].defined()) {
                Some((direction, scale)) => weight.copy_(&(&base[i] + &direction[i] * scale)),
                None => weight.copy_(&base[i]),
            }
        }
    });
}

impl OneShot for Darts {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        match self.order {
            Order::First => self.relaxed.alternate(at, objective, |parameters, objective, part| {
                objective.loss(part, Mixture::Weights(&parameters.placed_softmax()), at)
            }),
            Order::Second => self.second_order(at, objective),
        }
    }

    relaxed_methods!(chosen_weights);
}
