//! One-shot search methods: the weights of a supernet and the architecture parameters are trained together.

use std::collections::HashMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::optim::{GradScaler, Named, Optimizer, OptimizerConfig, Schedule, clip_grad_norm, gradients};
use crate::train::{At, Step, scalar};

/// The two losses of a bilevel problem, each on a fresh batch of its own half of the data.
pub trait BilevelObjective {
    /// Loss for the weights, and the number of images behind it.
    fn weight_loss(&mut self, at: At) -> Result<(Tensor, usize)>;

    /// Loss for the architecture parameters.
    fn arch_loss(&mut self, at: At) -> Result<Tensor>;
}

/// Settings of [`FirstOrder`]. The defaults are Auto-DeepLab's (arXiv 1901.02985, section 5.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FirstOrderConfig {
    /// Update rule of the weights.
    pub weights: OptimizerConfig,
    /// Learning rate of the weights over the run.
    pub schedule: Schedule,
    /// Largest norm of the gradient of the weights; 0 for no limit.
    pub grad_clip: f64,
    /// Update rule of the architecture parameters.
    pub arch: OptimizerConfig,
    /// First epoch, from 0, in which the architecture parameters are updated.
    pub arch_start_epoch: usize,
}

impl Default for FirstOrderConfig {
    fn default() -> Self {
        use crate::optim::{AdamConfig, Decay, SgdConfig};
        Self {
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
            arch: OptimizerConfig::Adam(AdamConfig { lr: 3e-3, weight_decay: 1e-3, ..Default::default() }),
            arch_start_epoch: 20,
        }
    }
}

/// First-order DARTS (Liu et al. 2019): in turn a step of the weights on one half of the data and a step of the
/// architecture parameters on the other, each with the other part held fixed.
pub struct FirstOrder {
    config: FirstOrderConfig,
    weights: Box<dyn Optimizer>,
    arch: Box<dyn Optimizer>,
    scaler: Option<GradScaler>,
}

impl FirstOrder {
    /// The method over the given weights and architecture parameters; `amp` scales the losses.
    pub fn new(config: FirstOrderConfig, weights: Vec<Named>, arch: Vec<Named>, amp: bool) -> Self {
        let (weights, arch) = (config.weights.build(weights), config.arch.build(arch));
        Self { config, weights, arch, scaler: amp.then(GradScaler::default) }
    }

    /// One step of the weights and, after the warm-up epochs, one of the architecture parameters.
    pub fn step(&mut self, at: At, objective: &mut dyn BilevelObjective) -> Result<Step> {
        let (loss, images) = objective.weight_loss(at)?;
        let lr = self.config.schedule.lr(self.config.weights.lr(), at.global_step, at.total_steps);
        descend(&loss, self.weights.as_mut(), lr, self.config.grad_clip, self.scaler.as_mut());
        if at.epoch >= self.config.arch_start_epoch {
            let loss = objective.arch_loss(at)?;
            descend(&loss, self.arch.as_mut(), self.config.arch.lr(), 0.0, self.scaler.as_mut());
        }
        Ok(Step { loss: scalar(&loss), images })
    }

    /// State of both optimizers.
    pub fn state(&self) -> Vec<Named> {
        let mut state = self.weights.state();
        state.extend(self.arch.state());
        state
    }

    /// The loss scaler, present under mixed precision.
    pub fn scaler(&self) -> &Option<GradScaler> {
        &self.scaler
    }

    /// Takes back [`FirstOrder::state`] and [`FirstOrder::scaler`].
    pub fn load_state(&mut self, tensors: &HashMap<String, Tensor>, scaler: Option<GradScaler>) {
        self.weights.load_state(tensors);
        self.arch.load_state(tensors);
        self.scaler = scaler;
    }
}

/// One step of `optimizer` down the gradient of `loss`. A loss that is not finite changes nothing: the caller sees it and
/// stops. Under mixed precision a step whose gradients overflow is left out.
pub fn descend(loss: &Tensor, optimizer: &mut dyn Optimizer, lr: f64, grad_clip: f64, scaler: Option<&mut GradScaler>) {
    if !scalar(loss).is_finite() {
        return;
    }
    let mut grads = match &scaler {
        Some(scaler) => gradients(&scaler.scale(loss), optimizer.parameters()),
        None => gradients(loss, optimizer.parameters()),
    };
    if scaler.is_some_and(|scaler| !scaler.unscale(&mut grads)) {
        return;
    }
    if grad_clip > 0.0 {
        clip_grad_norm(&mut grads, grad_clip);
    }
    optimizer.step(&grads, lr);
}
