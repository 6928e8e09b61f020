//! Training of a supernet's weights, which all methods have in common.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::Value;
use tch::{Device, Tensor};

use crate::nn::ranks;
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
    amp: bool,
}

impl WeightTraining {
    pub fn new(recipe: Recipe, weights: Vec<Named>, amp: bool) -> Self {
        Self { optimizer: recipe.weights.build(weights), recipe, scaler: amp.then(GradScaler::default), amp }
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

    /// One step along the sum of the gradients of `losses`, which are computed one after the other.
    pub fn descend_all(&mut self, losses: impl Iterator<Item = Tensor>, at: At) {
        let mut sum = None;
        for loss in losses {
            let Some(grads) = scaled_gradients(&loss, self.optimizer.as_ref(), self.scaler.as_mut()) else { return };
            sum = Some(match sum {
                Some(sum) => added(sum, &grads),
                None => grads,
            });
        }
        let (lr, clip) = (self.lr(at), self.recipe.grad_clip);
        if let Some(grads) = sum {
            descend_along(grads, self.optimizer.as_mut(), lr, clip, self.scaler.as_mut());
        }
    }

    /// One step along gradients that the caller has computed; none where `overflow` is 1.
    pub fn step_unless(&mut self, overflow: Option<&Tensor>, grads: &mut [Tensor], lr: f64) {
        if self.recipe.grad_clip > 0.0 {
            clip_grad_norm(grads, self.recipe.grad_clip);
        }
        self.optimizer.step_unless(overflow, grads, lr);
    }

    /// Takes back the optimizer's state and, in mixed precision, the scaler.
    pub fn load_state(&mut self, tensors: &HashMap<String, Tensor>, scaler: Value) -> Result<()> {
        self.optimizer.load_state(tensors);
        self.scaler = GradScaler::resumed(self.amp, scaler)?;
        Ok(())
    }
}

/// One step of `optimizer` down the gradient of `loss`. On the CPU a loss that is not finite changes nothing; on a device
/// nothing is read back, and the caller, who sees the loss afterwards, has to stop. Under mixed precision a step whose gradients
/// overflow is left out, on the device.
pub fn descend(
    loss: &Tensor,
    optimizer: &mut dyn Optimizer,
    lr: f64,
    grad_clip: f64,
    mut scaler: Option<&mut GradScaler>,
) {
    if let Some(grads) = scaled_gradients(loss, optimizer, scaler.as_deref_mut()) {
        descend_along(grads, optimizer, lr, grad_clip, scaler);
    }
}

/// The gradients of `loss` that [`descend_along`] takes; none where a loss on the CPU is not finite.
pub fn scaled_gradients(
    loss: &Tensor,
    optimizer: &dyn Optimizer,
    scaler: Option<&mut GradScaler>,
) -> Option<Vec<Tensor>> {
    (!is_known_bad(loss)).then(|| gradients(&scaled(loss, scaler), optimizer.parameters()))
}

/// Sums of gradients, of which one may be missing.
pub fn added(sums: Vec<Tensor>, grads: &[Tensor]) -> Vec<Tensor> {
    let add = |(sum, grad): (Tensor, &Tensor)| match (sum.defined(), grad.defined()) {
        (true, true) => sum + grad,
        (true, false) => sum,
        (false, _) => grad.shallow_clone(),
    };
    sums.into_iter().zip(grads).map(add).collect()
}

/// One step of `optimizer` along gradients of [`scaled_gradients`], or sums of such.
pub fn descend_along(
    mut grads: Vec<Tensor>,
    optimizer: &mut dyn Optimizer,
    lr: f64,
    grad_clip: f64,
    scaler: Option<&mut GradScaler>,
) {
    let overflow = scaler.map(|scaler| scaler.unscale(&grads));
    if grad_clip > 0.0 {
        clip_grad_norm(&mut grads, grad_clip);
    }
    let Some(device) = optimizer.parameters().first().map(|(_, parameter)| parameter.device()) else { return };
    optimizer.step_unless(overflow.map(|overflow| overflow.to_device(device)).as_ref(), &grads, lr);
}

/// Whether a loss that can be read without waiting is not finite. One of several ranks does not know: it must compute a gradient
/// wherever another does.
pub(super) fn is_known_bad(loss: &Tensor) -> bool {
    loss.device() == Device::Cpu && !ranks::are_several() && !scalar(loss).is_finite()
}

/// The loss to differentiate.
pub(super) fn scaled(loss: &Tensor, scaler: Option<&mut GradScaler>) -> Tensor {
    scaler.map_or_else(|| loss.shallow_clone(), |scaler| scaler.scale(loss))
}
