//! Stochastic gradient descent with momentum.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Named, Optimizer, decays};

/// Constants of [`Sgd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// `v <- momentum * v + g + weight_decay * p`, `p <- p - lr * v`.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    parameters: Vec<Named>,
    velocity: Vec<Option<Tensor>>,
}

impl Sgd {
    /// The optimizer of `parameters`, at rest.
    pub fn new(parameters: Vec<Named>, config: SgdConfig) -> Self {
        let velocity = parameters.iter().map(|_| None).collect();
        Self { config, parameters, velocity }
    }

    fn update(&mut self, i: usize, grad: &Tensor, lr: f64) {
        let SgdConfig { momentum, weight_decay, nesterov, .. } = self.config;
        let parameter = &mut self.parameters[i].1;
        let mut grad = match weight_decay > 0.0 && decays(parameter) {
            true => grad + &*parameter * weight_decay,
            false => grad.copy(),
        };
        let velocity = match self.velocity[i].take() {
            Some(mut velocity) => {
                let _ = velocity.g_mul_scalar_(momentum);
                velocity.g_add_(&grad)
            }
            None => grad.copy(),
        };
        let mut step = match nesterov {
            true => grad.g_add_(&(&velocity * momentum)),
            false => velocity.copy(),
        };
        let _ = parameter.g_sub_(&step.g_mul_scalar_(lr));
        self.velocity[i] = Some(velocity);
    }
}

impl Optimizer for Sgd {
    fn parameters(&self) -> &[Named] {
        &self.parameters
    }

    fn step(&mut self, grads: &[Tensor], lr: f64) {
        let used = grads.iter().enumerate().filter(|(_, grad)| grad.defined());
        tch::no_grad(|| used.for_each(|(i, grad)| self.update(i, grad, lr)));
    }

    fn state(&self) -> Vec<Named> {
        let saved = self.parameters.iter().zip(&self.velocity);
        saved.filter_map(|((name, _), v)| Some((format!("{name}.velocity"), v.as_ref()?.shallow_clone()))).collect()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) {
        for ((name, parameter), velocity) in self.parameters.iter().zip(&mut self.velocity) {
            let saved = state.get(&format!("{name}.velocity"));
            *velocity = saved.map(|tensor| tensor.to_device(parameter.device()));
        }
    }
}
