//! Training of a supernet's weights, which all methods have in common.

use std::collections::HashMap;

use tch::Tensor;

use crate::optim::{GradScaler, Named, Optimizer, OptimizerConfig, Schedule, clip_grad_norm, gradients};
use crate::train::{At, scalar};

/// How weights are trained.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub weights: OptimizerConfig,
    pub schedule: Schedule,
    pub grad_clip: f64,
}

/// Weights in training.
pub(super) struct WeightTraining {
    recipe: Recipe,
    pub optimizer: Box<dyn Optimizer>,
    pub scaler: Option<GradScaler>,
}

impl WeightTraining {
    pub fn new(recipe: Recipe, weights: Vec<Named>, amp: bool) -> Self {
        Self { optimizer: recipe.weights.build(weights), recipe, scaler: amp.then(GradScaler::default) }
    }

    pub fn lr(&self, at: At) -> f64 {
        self.recipe.schedule.lr(self.recipe.weights.lr(), at.global_step, at.total_steps)
    }

    /// How far a step of learning rate `lr` moves a weight per unit of its gradient. Of SGD only.
    pub fn step_per_gradient(&self, lr: f64) -> f64 {
        match &self.recipe.weights {
            OptimizerConfig::Sgd(sgd) if sgd.nesterov => lr * (1.0 + sgd.momentum),
            _ => lr,
        }
    }

    pub fn descend(&mut self, loss: &Tensor, at: At) {
        let lr = self.lr(at);
        descend(loss, self.optimizer.as_mut(), lr, self.recipe.grad_clip, self.scaler.as_mut());
    }

    /// One step along gradients that the caller has computed.
    pub fn step(&mut self, grads: &mut [Tensor], lr: f64) {
        if self.recipe.grad_clip > 0.0 {
            clip_grad_norm(grads, self.recipe.grad_clip);
        }
        self.optimizer.step(grads, lr);
    }

    pub fn load_state(&mut self, tensors: &HashMap<String, Tensor>, scaler: Option<GradScaler>) {
        self.optimizer.load_state(tensors);
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
