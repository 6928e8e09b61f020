//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019).

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{Named, Optimizer, decays, like};
use crate::nn::torch::{AdamStep, adam_step};

/// Constants of [`Adam`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// Constants of [`Adam`] with decoupled weight decay (AdamW).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of kernels and matrices that a step takes off, times its learning rate.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

/// Adam with bias-corrected moments and weight decay of either kind, by libtorch's fused operator: two calls for all parameters.
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    /// Weights decay apart from the gradient.
    decoupled: bool,
    parameters: Vec<Named>,
    /// `None` before the first gradient.
    moments: Vec<Option<Moments>>,
    /// Steps of each parameter, on the device: a step that overflows there is not counted.
    steps: Vec<Tensor>,
}

impl Adam {
    /// AdamW of `parameters`, at rest.
    pub fn decoupled(parameters: Vec<Named>, config: AdamWConfig) -> Self {
        let AdamWConfig { lr, beta1, beta2, eps, weight_decay } = config;
        Self { decoupled: true, ..Self::new(parameters, AdamConfig { lr, beta1, beta2, eps, weight_decay }) }
    }

    /// The optimizer of `parameters`, at rest.
    pub fn new(parameters: Vec<Named>, config: AdamConfig) -> Self {
        let moments = parameters.iter().map(|_| None).collect();
        let device = parameters.first().map_or(Device::Cpu, |(_, parameter)| parameter.device());
        let steps = Tensor::zeros([parameters.len() as i64], (Kind::Float, device)).unbind(0);
        Self { config, decoupled: false, parameters, moments, steps }
    }

    /// Steps the parameters `of`.
    fn update(&mut self, of: &[usize], grads: &[Tensor], step: AdamStep, overflow: Option<&Tensor>) {
        let Self { parameters, moments, steps, .. } = self;
        for i in of {
            let zeros = || parameters[*i].1.zeros_like();
            moments[*i].get_or_insert_with(|| Moments { first: zeros(), second: zeros() });
        }
        let moments: Vec<&Moments> = of.iter().filter_map(|i| moments[*i].as_ref()).collect();
        let parameters: Vec<&Tensor> = of.iter().map(|i| &parameters[*i].1).collect();
        let grads: Vec<&Tensor> = of.iter().map(|i| &grads[*i]).collect();
        let firsts: Vec<&Tensor> = moments.iter().map(|moments| &moments.first).collect();
        let seconds: Vec<&Tensor> = moments.iter().map(|moments| &moments.second).collect();
        let steps: Vec<&Tensor> = of.iter().map(|i| &steps[*i]).collect();
        adam_step(&parameters, &grads, [&firsts, &seconds, &steps], step, overflow);
    }
}

impl Optimizer for Adam {
    fn parameters(&self) -> &[Named] {
        &self.parameters
    }

    fn step_unless(&mut self, overflow: Option<&Tensor>, grads: &[Tensor], lr: f64) {
        let AdamConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let used = (0..grads.len()).filter(|i| grads[*i].defined());
        let (decayed, plain): (Vec<usize>, Vec<usize>) =
            used.partition(|i| weight_decay > 0.0 && decays(&self.parameters[*i].1));
        tch::no_grad(|| {
            for (of, weight_decay) in [(decayed, weight_decay), (plain, 0.0)] {
                let step = AdamStep { lr, beta1, beta2, weight_decay, eps, decoupled: self.decoupled };
                self.update(&of, grads, step, overflow);
            }
        });
    }

    fn state(&self) -> Vec<Named> {
        if self.steps.is_empty() {
            return Vec::new();
        }
        let steps = Tensor::stack(&self.steps, 0).to_device(Device::Cpu).to_kind(Kind::Int64).unbind(0);
        let saved = self.parameters.iter().zip(&self.moments).zip(steps);
        saved
            .filter_map(|(((name, _), moments), steps)| {
                let Moments { first, second } = moments.as_ref()?;
                Some([
                    (format!("{name}.first"), first.shallow_clone()),
                    (format!("{name}.second"), second.shallow_clone()),
                    (format!("{name}.steps"), steps),
                ])
            })
            .flatten()
            .collect()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) {
        for (((name, parameter), moments), steps) in self.parameters.iter().zip(&mut self.moments).zip(&mut self.steps)
        {
            let saved = |suffix: &str| state.get(&format!("{name}.{suffix}"));
            let all = [saved("first"), saved("second"), saved("steps")];
            *moments = match all {
                [Some(first), Some(second), Some(_)] => {
                    Some(Moments { first: like(parameter, first), second: like(parameter, second) })
                }
                _ => None,
            };
            match saved("steps").filter(|_| moments.is_some()) {
                Some(saved) => steps.copy_(&saved.to_kind(Kind::Float)),
                None => _ = steps.zero_(),
            }
        }
    }
}
