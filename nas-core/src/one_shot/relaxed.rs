//! Methods that train raw architecture parameters by gradients, in turn with the weights.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Result;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::weights::{Recipe, WeightTraining, descend, is_known_bad, scaled};
use super::within::within;
use super::{Chosen, Objective, Part, Problem};
use crate::nn::Shape;
use crate::optim::{Named, Optimizer, OptimizerConfig, gradients};
use crate::space::Architecture;
use crate::space::{ArchParameter, Choice, ChoiceSpace, WeightSharing};
use crate::train::{At, Step, copy_into, scalar};

/// How weights and architecture parameters are trained.
pub(super) struct Bilevel {
    pub recipe: Recipe,
    pub arch: OptimizerConfig,
    pub arch_start_epoch: usize,
}

/// Declares the config of a method: the fields that all relaxed methods share, and its own. Each method gives the
/// defaults, so that a file which sets one key keeps the paper's other values.
macro_rules! relaxed_config {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
            /// Update rule of the weights.
            pub weights: $crate::optim::OptimizerConfig,
            /// Learning rate of the weights over the run.
            pub schedule: $crate::optim::Schedule,
            /// Largest norm of the gradient of the weights; 0 for no limit.
            pub grad_clip: f64,
            /// Update rule of the architecture parameters.
            pub arch: $crate::optim::OptimizerConfig,
            /// First epoch, from 0, in which the architecture parameters are updated.
            pub arch_start_epoch: usize,
        }

        impl $name {
            fn bilevel(&self) -> $crate::one_shot::relaxed::Bilevel {
                let Self { weights, schedule, grad_clip, arch, arch_start_epoch, .. } = self.clone();
                let recipe = $crate::one_shot::weights::Recipe { weights, schedule, grad_clip };
                $crate::one_shot::relaxed::Bilevel { recipe, arch, arch_start_epoch }
            }
        }
    };
}
pub(super) use relaxed_config;

/// Raw architecture parameters of a space. They live on the CPU, with all that is drawn and made of them: a few numbers, for
/// which a device would need hundreds of launches. What is made of them goes to the supernet's device in one copy.
#[derive(Debug)]
pub(super) struct Parameters {
    pub space: Rc<dyn WeightSharing>,
    pub list: Vec<ArchParameter>,
    pub raw: Vec<Tensor>,
    /// The supernet's.
    device: Device,
    /// Of an image.
    input: Shape,
}

impl Parameters {
    /// `N(0, 0.001²)`, in the kind of the weights.
    fn new(problem: &Problem) -> Self {
        const STDEV: f64 = 1e-3;
        let list = problem.space.arch_parameters();
        let like = problem.weights.first().map(|(_, weight)| (weight.kind(), weight.device()));
        let (kind, device) = like.unwrap_or((Kind::Float, Device::Cpu));
        let draw =
            |p: &ArchParameter| (Tensor::randn(&p.dims[..], (kind, Device::Cpu)) * STDEV).set_requires_grad(true);
        let raw = list.iter().map(draw).collect();
        Self { space: problem.space.clone(), list, raw, device, input: problem.input }
    }

    /// `weights` on the supernet's device, where a mixture needs them.
    pub fn placed(&self, weights: &[Tensor]) -> Vec<Tensor> {
        if self.device == Device::Cpu || weights.is_empty() {
            return weights.iter().map(Tensor::shallow_clone).collect();
        }
        let flat: Vec<Tensor> = weights.iter().map(|weights| weights.reshape([-1])).collect();
        let lengths: Vec<i64> = flat.iter().map(|weights| weights.numel() as i64).collect();
        let parts = Tensor::cat(&flat, 0).to_device(self.device).split_with_sizes(&lengths[..], 0);
        parts.iter().zip(weights).map(|(part, weights)| part.view(&weights.size()[..])).collect()
    }

    /// Weights by `of` for the operators, by softmax for the connections, on the CPU.
    pub fn weights(&self, mut of: impl FnMut(&ArchParameter, &Tensor) -> Tensor) -> Vec<Tensor> {
        let weight = |(p, raw): (&ArchParameter, &Tensor)| match p.choice {
            Choice::Operator => of(p, raw),
            Choice::Connection => p.softmax(raw),
        };
        self.list.iter().zip(&self.raw).map(weight).collect()
    }

    /// The softmax of all parameters, on the CPU.
    pub fn softmax(&self) -> Vec<Tensor> {
        self.weights(ArchParameter::softmax)
    }

    /// The softmax of all parameters, where a mixture needs it.
    pub fn placed_softmax(&self) -> Vec<Tensor> {
        self.placed(&self.softmax())
    }

    pub fn named(&self) -> Vec<Named> {
        let name = |(p, raw): (&ArchParameter, &Tensor)| (p.name.clone(), raw.shallow_clone());
        self.list.iter().zip(&self.raw).map(name).collect()
    }

    /// The most probable architecture.
    pub fn derive(&self) -> Architecture {
        self.space.discretize(&self.space.softmax(&self.doubles()))
    }

    fn doubles(&self) -> Vec<Tensor> {
        self.raw.iter().map(|raw| raw.detach().to_kind(Kind::Double)).collect()
    }

    /// What `derive` makes of the raw parameters, moved as little as the bounds of `space` ask.
    pub fn within(&self, space: &dyn ChoiceSpace, derive: impl Fn(&[Tensor]) -> Architecture) -> Option<Architecture> {
        let table = self.space.macs_table(self.input).map(|(_, table)| table);
        let raw = self.doubles();
        within(&self.list, table.as_deref(), space, |added| {
            derive(&raw.iter().zip(added).map(|(raw, added)| raw + added).collect::<Vec<_>>())
        })
    }

    /// [`Parameters::derive`] within the bounds of `space`.
    pub fn derive_within(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        self.within(space, |raw| self.space.discretize(&self.space.softmax(raw)))
    }
}

/// Weights and architecture parameters in training.
pub(super) struct Relaxed {
    pub parameters: Parameters,
    pub training: WeightTraining,
    pub arch: Box<dyn Optimizer>,
    pub arch_lr: f64,
    pub arch_start_epoch: usize,
}

impl Relaxed {
    pub fn new(Bilevel { recipe, arch, arch_start_epoch }: Bilevel, problem: Problem) -> Self {
        let parameters = Parameters::new(&problem);
        let optimizer = arch.build(parameters.named());
        let training = WeightTraining::new(recipe, problem.weights, problem.amp);
        Self { parameters, training, arch: optimizer, arch_lr: arch.lr(), arch_start_epoch }
    }

    /// A step of the weights on one half of the data and then, after the warm-up, one of the architecture parameters on the
    /// other, each with the other part held fixed. `loss` is asked for the loss of a half.
    pub fn alternate(
        &mut self,
        at: At,
        objective: &mut dyn Objective,
        mut loss: impl FnMut(&Parameters, &dyn Objective, Part) -> Tensor,
    ) -> Result<Step> {
        let images = objective.next(Part::Weights)?;
        let of_weights = loss(&self.parameters, objective, Part::Weights);
        self.training.descend(&of_weights, at);
        if at.epoch >= self.arch_start_epoch {
            objective.next(Part::Arch)?;
            self.descend_arch(&loss(&self.parameters, objective, Part::Arch));
        }
        Ok(Step { loss: scalar(&of_weights), images, lr: self.training.lr(at) })
    }

    pub fn descend_arch(&mut self, loss: &Tensor) {
        descend(loss, self.arch.as_mut(), self.arch_lr, 0.0, self.training.scaler.as_mut());
    }

    /// A step of weights and architecture parameters down one loss.
    pub fn descend_both(&mut self, loss: &Tensor, at: At) {
        if is_known_bad(loss) {
            return;
        }
        let lr = self.training.lr(at);
        let Relaxed { training, arch, arch_lr, .. } = self;
        let all: Vec<Named> = training.optimizer.parameters().iter().chain(arch.parameters()).map(share).collect();
        let mut grads = gradients(&scaled(loss, training.scaler.as_mut()), &all);
        let overflow = training.scaler.as_mut().map(|scaler| scaler.unscale(&grads));
        let of_arch = grads.split_off(training.optimizer.parameters().len());
        training.step_unless(overflow.as_ref(), &mut grads, lr);
        arch.step_unless(overflow.map(|overflow| overflow.to_device(Device::Cpu)).as_ref(), &of_arch, *arch_lr);
    }

    pub fn chosen_weights(&self) -> Option<Chosen> {
        Some(Chosen::Weights(tch::no_grad(|| self.parameters.placed_softmax())))
    }

    pub fn chosen_path(&self) -> Option<Chosen> {
        Some(Chosen::Path(self.parameters.derive()))
    }

    pub fn state(&self) -> (Vec<Named>, Value) {
        let mut tensors = self.training.optimizer.state();
        tensors.extend(self.arch.state());
        tensors.extend(self.parameters.named());
        (tensors, json!({ "scaler": self.training.scaler }))
    }

    pub fn load_state(&mut self, tensors: &HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        copy_into(&self.parameters.named(), tensors)?;
        self.training.load_state(tensors, json["scaler"].take())?;
        self.arch.load_state(tensors);
        Ok(())
    }
}

/// The same tensor under the same name.
pub(super) fn share((name, tensor): &Named) -> Named {
    (name.clone(), tensor.shallow_clone())
}

/// The methods of [`super::OneShot`] that all relaxed methods share. `$chosen` names what stands for the supernet.
macro_rules! relaxed_methods {
    ($chosen:ident) => {
        $crate::one_shot::relaxed::relaxed_methods!($chosen, Some(0));
    };
    ($chosen:ident, $halves:expr) => {
        fn arch_start_epoch(&self) -> Option<usize> {
            let first: Option<usize> = $halves;
            first.map(|_| self.relaxed.arch_start_epoch)
        }

        fn chosen(&self) -> Option<$crate::one_shot::Chosen> {
            self.relaxed.$chosen()
        }

        fn derive(&self) -> Option<$crate::space::Architecture> {
            Some(self.relaxed.parameters.derive())
        }

        fn derive_within(&self, space: &dyn $crate::space::ChoiceSpace) -> Option<$crate::space::Architecture> {
            self.relaxed.parameters.derive_within(space)
        }

        fn arch_parameters(&self) -> Vec<$crate::optim::Named> {
            self.relaxed.parameters.named()
        }

        fn state(&self) -> (Vec<$crate::optim::Named>, serde_json::Value) {
            self.relaxed.state()
        }

        fn load_state(
            &mut self,
            tensors: &std::collections::HashMap<String, tch::Tensor>,
            json: serde_json::Value,
        ) -> anyhow::Result<()> {
            self.relaxed.load_state(tensors, json)
        }
    };
}
pub(super) use relaxed_methods;
