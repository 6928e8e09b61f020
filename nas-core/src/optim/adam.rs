//! Adam (Kingma and Ba 2015).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Named, Optimizer, decays};

/// Constants of [`Adam`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// L2 penalty on kernels and matrices, added to the gradient.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
    steps: i32,
}

/// Adam with bias-corrected moments and L2 weight decay.
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    parameters: Vec<Named>,
    moments: Vec<Option<Moments>>,
}

impl Adam {
    /// The optimizer of `parameters`, at rest.
    pub fn new(parameters: Vec<Named>, config: AdamConfig) -> Self {
        let moments = parameters.iter().map(|_| None).collect();
        Self { config, parameters, moments }
    }

    fn update(&mut self, i: usize, grad: &Tensor, lr: f64) {
        let AdamConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let parameter = &mut self.parameters[i].1;
        let grad = match weight_decay > 0.0 && decays(parameter) {
            true => grad + &*parameter * weight_decay,
            false => grad.shallow_clone(),
        };
        let moments = self.moments[i].get_or_insert_with(|| Moments {
            first: parameter.zeros_like(),
            second: parameter.zeros_like(),
            steps: 0,
        });
        moments.steps += 1;
        moments.first = &moments.first * beta1 + &grad * (1.0 - beta1);
        moments.second = &moments.second * beta2 + grad.square() * (1.0 - beta2);
        let first = &moments.first / (1.0 - beta1.powi(moments.steps));
        let second = &moments.second / (1.0 - beta2.powi(moments.steps));
        let _ = parameter.g_sub_(&(first / (second.sqrt() + eps) * lr));
    }
}

impl Optimizer for Adam {
    fn parameters(&self) -> &[Named] {
        &self.parameters
    }

    fn step(&mut self, grads: &[Tensor], lr: f64) {
        let used = grads.iter().enumerate().filter(|(_, grad)| grad.defined());
        tch::no_grad(|| used.for_each(|(i, grad)| self.update(i, grad, lr)));
    }

    fn state(&self) -> Vec<Named> {
        let saved = self.parameters.iter().zip(&self.moments);
        saved
            .filter_map(|((name, _), moments)| {
                let Moments { first, second, steps } = moments.as_ref()?;
                Some([
                    (format!("{name}.first"), first.shallow_clone()),
                    (format!("{name}.second"), second.shallow_clone()),
                    (format!("{name}.steps"), Tensor::from(i64::from(*steps))),
                ])
            })
            .flatten()
            .collect()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) {
        for ((name, parameter), moments) in self.parameters.iter().zip(&mut self.moments) {
            let tensor = |suffix: &str| state.get(&format!("{name}.{suffix}"));
            *moments = (|| {
                Some(Moments {
                    first: tensor("first")?.to_device(parameter.device()),
                    second: tensor("second")?.to_device(parameter.device()),
                    steps: tensor("steps")?.to_kind(Kind::Int64).int64_value(&[]) as i32,
                })
            })();
        }
    }
}
