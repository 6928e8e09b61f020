//! Stochastic gradient descent with momentum.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Named, Optimizer, decays, like};
use crate::nn::torch::{SgdStep, sgd_step};

/// Constants of [`Sgd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Initial learning rate.
    pub lr: f64,
    /// Share of the last update that is kept.
    pub momentum: f64,
    /// L2 penalty on kernels and matrices.
    pub weight_decay: f64,
    /// Looks ahead along the momentum (Nesterov).
    pub nesterov: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { lr: 0.025, momentum: 0.9, weight_decay: 3e-4, nesterov: false }
    }
}

/// `v <- momentum * v + g + weight_decay * p`, `p <- p - lr * v`, by libtorch's fused operator: two calls for all parameters.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    parameters: Vec<Named>,
    /// `None` before the first gradient, and without momentum.
    velocity: Vec<Option<Tensor>>,
}

impl Sgd {
    /// The optimizer of `parameters`, at rest.
    pub fn new(parameters: Vec<Named>, config: SgdConfig) -> Self {
        let velocity = parameters.iter().map(|_| None).collect();
        Self { config, parameters, velocity }
    }

    /// Steps the parameters `of`.
    fn update(&mut self, of: &[usize], grads: &[Tensor], step: SgdStep, overflow: Option<&Tensor>) {
        let Self { parameters, velocity, .. } = self;
        let remembers = step.momentum != 0.0;
        for i in of.iter().filter(|_| remembers) {
            velocity[*i].get_or_insert_with(|| parameters[*i].1.zeros_like());
        }
        let velocities: Vec<&Tensor> = of.iter().filter_map(|i| velocity[*i].as_ref()).collect();
        let parameters: Vec<&Tensor> = of.iter().map(|i| &parameters[*i].1).collect();
        let grads: Vec<&Tensor> = of.iter().map(|i| &grads[*i]).collect();
        sgd_step(&parameters, &grads, &velocities, step, overflow);
    }
}

impl Optimizer for Sgd {
    fn parameters(&self) -> &[Named] {
        &self.parameters
    }

    fn step_unless(&mut self, overflow: Option<&Tensor>, grads: &[Tensor], lr: f64) {
        let SgdConfig { momentum, weight_decay, nesterov, .. } = self.config;
        let used = (0..grads.len()).filter(|i| grads[*i].defined());
        let (decayed, plain): (Vec<usize>, Vec<usize>) =
            used.partition(|i| weight_decay > 0.0 && decays(&self.parameters[*i].1));
        tch::no_grad(|| {
            for (of, weight_decay) in [(decayed, weight_decay), (plain, 0.0)] {
                self.update(&of, grads, SgdStep { lr, momentum, weight_decay, nesterov }, overflow);
            }
        });
    }

    fn state(&self) -> Vec<Named> {
        let saved = self.parameters.iter().zip(&self.velocity);
        saved.filter_map(|((name, _), v)| Some((format!("{name}.velocity"), v.as_ref()?.shallow_clone()))).collect()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) {
        for ((name, parameter), velocity) in self.parameters.iter().zip(&mut self.velocity) {
            *velocity = state.get(&format!("{name}.velocity")).map(|saved| like(parameter, saved));
        }
    }
}
