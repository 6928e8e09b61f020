//! Optimizers whose state can be saved, learning-rate schedules and gradient clipping.
//!
//! `tch`'s own optimizers expose no state, which rules out exact resume.

mod adam;
mod average;
mod grad_scaler;
mod schedule;
mod sgd;

pub use adam::{Adam, AdamConfig, AdamWConfig};
pub use average::move_averages;
pub use grad_scaler::GradScaler;
pub use schedule::{Decay, Schedule};
pub use sgd::{Sgd, SgdConfig};

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn::VarStore};

use crate::nn::{ranks, torch};

/// A tensor with the name it is saved under.
pub type Named = (String, Tensor);

/// The trained tensors of a store, sorted by name (the store itself keeps them in a hash map).
pub fn named_parameters(vs: &VarStore) -> Vec<Named> {
    let mut variables: Vec<Named> = vs.variables().into_iter().filter(|(_, tensor)| tensor.requires_grad()).collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    variables
}

/// Which update rule to use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd(SgdConfig),
    /// Adam.
    Adam(AdamConfig),
    /// Adam whose weight decay is not part of the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101).
    Adamw(AdamWConfig),
}

impl OptimizerConfig {
    /// The optimizer of `parameters`.
    pub fn build(&self, parameters: Vec<Named>) -> Box<dyn Optimizer> {
        match self {
            OptimizerConfig::Sgd(config) => Box::new(Sgd::new(parameters, config.clone())),
            OptimizerConfig::Adam(config) => Box::new(Adam::new(parameters, config.clone())),
            OptimizerConfig::Adamw(config) => Box::new(Adam::decoupled(parameters, config.clone())),
        }
    }

    /// The learning rate that schedules start from.
    pub fn lr(&self) -> f64 {
        match self {
            OptimizerConfig::Sgd(config) => config.lr,
            OptimizerConfig::Adam(config) => config.lr,
            OptimizerConfig::Adamw(config) => config.lr,
        }
    }
}

/// Gradients of the scalar `loss` by each parameter; a parameter that the loss does not depend on has an undefined one.
/// Only what leads to `parameters` is differentiated: asking for architecture parameters does not pay for weights. Of ranks that
/// share a batch, the mean of all of theirs.
pub fn gradients(loss: &Tensor, parameters: &[Named]) -> Vec<Tensor> {
    let inputs: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).collect();
    let mut grads = Tensor::run_backward(&[loss], &inputs, false, false);
    ranks::average(&mut grads);
    grads
}

/// Scales gradients in place so that their joint Euclidean norm is at most `max_norm`. On a device nothing
/// is read back. Pascanu et al. 2013.
pub fn clip_grad_norm(grads: &mut [Tensor], max_norm: f64) {
    tch::no_grad(|| {
        let grads: Vec<&Tensor> = grads.iter().filter(|grad| grad.defined()).collect();
        let Some(first) = grads.first() else { return };
        let norm = torch::norms(&grads).to_kind(Kind::Double).norm();
        let factor = || max_norm / (&norm + 1e-6);
        if first.device() != Device::Cpu {
            let factor = factor().where_self(&norm.gt(max_norm), &norm.ones_like());
            torch::scale(&grads, &factor.to_kind(first.kind()));
        } else if norm.double_value(&[]) > max_norm {
            torch::scale(&grads, &factor().to_kind(first.kind()));
        }
    });
}

/// An update rule over a fixed list of parameters.
pub trait Optimizer {
    /// The parameters, sorted by name.
    fn parameters(&self) -> &[Named];

    /// Updates every parameter whose gradient in `grads` (same order) is defined. A parameter without one is left alone:
    /// neither weight decay nor momentum moves weights that the step did not use.
    fn step(&mut self, grads: &[Tensor], lr: f64) {
        self.step_unless(None, grads, lr);
    }

    /// As [`Optimizer::step`], but does nothing where `overflow`, a tensor of one number on the parameters' device, is 1.
    fn step_unless(&mut self, overflow: Option<&Tensor>, grads: &[Tensor], lr: f64);

    /// The tensors that must be saved for an exact resume.
    fn state(&self) -> Vec<Named>;

    /// Takes back what [`Optimizer::state`] gave; what is absent starts fresh.
    fn load_state(&mut self, state: &HashMap<String, Tensor>);
}

/// Whether weight decay applies: to matrices and kernels, not to biases and norms (as in TF-slim and timm).
fn decays(parameter: &Tensor) -> bool {
    parameter.dim() > 1
}

/// `saved` as a tensor of its own, on the device and in the memory order of `parameter`.
fn like(parameter: &Tensor, saved: &Tensor) -> Tensor {
    tch::no_grad(|| {
        let mut tensor = parameter.empty_like();
        tensor.copy_(saved);
        tensor
    })
}

#[cfg(test)]
mod plain;

#[cfg(test)]
mod tests {
    use super::*;

    /// Minimises `(x - target)²` for a matrix `x` and a vector `y`.
    fn run(config: &OptimizerConfig, steps: usize) -> (f64, f64) {
        let vs = VarStore::new(Device::Cpu);
        let x = vs.root().var("x", &[1, 1], tch::nn::Init::Const(1.0));
        let y = vs.root().var("y", &[1], tch::nn::Init::Const(-1.0));
        let mut optimizer = config.build(named_parameters(&vs));
        for _ in 0..steps {
            let loss = (&x - 3.0).square().sum(Kind::Float) + (&y - 0.5).square().sum(Kind::Float);
            let grads = gradients(&loss, optimizer.parameters());
            optimizer.step(&grads, config.lr());
        }
        (x.double_value(&[0, 0]), y.double_value(&[0]))
    }

    #[test]
    fn sgd_follows_its_recurrence_and_spares_vectors_from_decay() {
        let config = SgdConfig { lr: 0.1, momentum: 0.9, weight_decay: 0.01, ..Default::default() };
        let (x, y) = run(&OptimizerConfig::Sgd(config), 3);
        let expected = |mut p: f64, target: f64, decay: f64| {
            let mut buffer = 0.0;
            for _ in 0..3 {
                buffer = 0.9 * buffer + 2.0 * (p - target) + decay * p;
                p -= 0.1 * buffer;
            }
            p
        };
        assert!((x - expected(1.0, 3.0, 0.01)).abs() < 1e-6, "{x}");
        assert!((y - expected(-1.0, 0.5, 0.0)).abs() < 1e-6, "{y}");
    }

    #[test]
    fn the_first_adam_step_has_the_length_of_the_learning_rate() {
        let (x, y) = run(&OptimizerConfig::Adam(AdamConfig { lr: 0.05, ..Default::default() }), 1);
        assert!((x - 1.05).abs() < 1e-6 && (y + 0.95).abs() < 1e-6, "{x} {y}");
    }

    #[test]
    fn an_unused_parameter_does_not_move() {
        let vs = VarStore::new(Device::Cpu);
        let used = vs.root().var("used", &[2, 2], tch::nn::Init::Const(1.0));
        let unused = vs.root().var("unused", &[2, 2], tch::nn::Init::Const(1.0));
        let config = SgdConfig { lr: 0.1, weight_decay: 0.5, ..Default::default() };
        let mut optimizer = Sgd::new(named_parameters(&vs), config);
        let grads = gradients(&used.sum(Kind::Float), optimizer.parameters());
        assert!(!grads[1].requires_grad() && grads.iter().filter(|grad| grad.defined()).count() == 1);
        optimizer.step(&grads, 0.1);
        assert_eq!(unused.double_value(&[0, 0]), 1.0);
        assert!(used.double_value(&[0, 0]) < 1.0);
    }

    #[test]
    fn clipping_scales_the_joint_norm() {
        let mut grads = vec![Tensor::from_slice(&[3.0f32]), Tensor::new(), Tensor::from_slice(&[4.0f32])];
        clip_grad_norm(&mut grads, 5.1);
        assert_eq!(grads[2].double_value(&[0]), 4.0);
        clip_grad_norm(&mut grads, 1.0);
        assert!((grads[0].double_value(&[0]) - 0.6).abs() < 1e-6);
    }
}
