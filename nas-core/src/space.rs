//! The borders of a search space: what can be sampled, mutated, built and counted.

use std::fmt;
use std::ops::AddAssign;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::arch::Architecture;
use crate::nn::{Mode, Shape, VarBuilder};

/// Size of a network, counted from its structure without running it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Trainable scalars: weights, biases, batch-norm scales and shifts. Running statistics are not counted.
    pub params: u64,
    /// Multiply-adds of convolutions and linear layers for one image. Norms, activations, pooling, interpolation and
    /// additions are not counted.
    pub macs: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.params += other.params;
        self.macs += other.macs;
    }
}

/// Channels and down-sampling of one output of a [`Backbone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureInfo {
    /// Channels of the feature map.
    pub channels: i64,
    /// Input pixels per feature pixel along one side.
    pub stride: i64,
}

/// A feature extractor that any head attaches to (timm's contract).
pub trait Backbone: fmt::Debug {
    /// Feature maps `[B, C_i, H/stride_i, W/stride_i]` of images `[B, 3, H, W]`, finest first.
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor>;

    /// Channels and stride of each feature map.
    fn feature_info(&self) -> Vec<FeatureInfo>;

    /// Cost by named part for an input of `input`, and the shapes of the feature maps.
    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>);
}

/// A set of architectures, each a list of choices.
pub trait SearchSpace {
    /// The space's name, as configs spell it.
    fn name(&self) -> &str;

    /// Number of choices of each decision.
    fn decisions(&self) -> Vec<u16>;

    /// An architecture drawn uniformly from the decisions that [`SearchSpace::validate`] accepts.
    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture;

    /// A valid architecture that differs from `parent` by one elementary change.
    fn mutate(&self, parent: &Architecture, rng: &mut ChaCha8Rng) -> Architecture;

    /// Says what is wrong with an architecture that is not of this space.
    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture>;

    /// The network of `arch`, its weights under `vb`.
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture>;

    /// Cost of the network of `arch` on images of `input`.
    fn cost(&self, arch: &Architecture, input: Shape) -> Result<Cost, InvalidArchitecture> {
        let (parts, _) = self.build(&VarBuilder::dry(), arch)?.cost_parts(input);
        let mut total = Cost::default();
        parts.into_iter().for_each(|(_, part)| total += part);
        Ok(total)
    }
}

/// An architecture that is not of the space.
#[derive(Debug, thiserror::Error)]
#[error("architecture {arch} is not of the space {space}: {reason}")]
pub struct InvalidArchitecture {
    /// The space's name.
    pub space: String,
    /// The architecture's text form.
    pub arch: String,
    /// What was found and what was expected.
    pub reason: String,
}

/// How a supernet's candidates are combined in one forward pass.
#[derive(Clone, Copy, Debug)]
pub enum Mixture<'a> {
    /// The weighted sum of all candidates; the tensors are the raw architecture parameters, before any softmax.
    Soft(&'a [Tensor]),
    /// The candidates of one architecture only.
    Path(&'a Architecture),
}

/// One network that holds the weights of every architecture of a space.
pub trait Supernet: fmt::Debug {
    /// Feature maps of images `[B, 3, H, W]` under `mixture`.
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor>;

    /// Channels and stride of each feature map.
    fn feature_info(&self) -> Vec<FeatureInfo>;
}

/// A space whose architectures can share the weights of a supernet.
pub trait WeightSharing: SearchSpace {
    /// The supernet, its weights under `vb`.
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet>;

    /// Names and shapes of the raw architecture parameters that [`Mixture::Soft`] takes, in order.
    fn arch_parameters(&self) -> Vec<(String, Vec<i64>)>;

    /// The most probable architecture under raw architecture parameters.
    fn discretize(&self, parameters: &[Tensor]) -> Architecture;
}
