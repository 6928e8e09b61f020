//! The borders of a search space: what can be sampled, mutated, built and counted.

pub mod arch;
mod choice_space;
mod observation;
pub mod recipe;
pub mod trial;

use std::fmt;
use std::rc::Rc;

use tch::{Kind, Tensor};

pub use arch::{Architecture, ParseArchitectureError};
pub use choice_space::{ChoiceSpace, Graph, InvalidArchitecture};
pub use observation::{Observation, Origin};

use crate::nn::{Cost, Mode, Shape, VarBuilder};

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

/// A space whose architectures are networks.
pub trait SearchSpace: ChoiceSpace {
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

/// How a supernet's candidates are combined in one forward pass. Tensors and flags have the shapes of
/// [`WeightSharing::arch_parameters`].
#[derive(Clone, Copy, Debug)]
pub enum Mixture<'a> {
    /// The sum of all candidates by these weights, which a method made of raw architecture parameters: with
    /// [`ArchParameter::softmax`], by sampling, or otherwise.
    Weights(&'a [Tensor]),
    /// The same, with weights of zero wherever `active` (row-major, one list per tensor) is false. A supernet leaves such
    /// candidates out where it can.
    Sampled {
        /// Weights of the candidates.
        weights: &'a [Tensor],
        /// Which candidates count.
        active: &'a [Vec<bool>],
        /// Share of the values behind an identity that are dropped while training, 0 in most methods. Of supernets whose
        /// space has [`WeightSharing::with_layers`].
        skip_dropout: f64,
        /// Whether the map of an edge has the weights of the candidates that do not count as a term: zero in value, but of a
        /// gradient (the code of GDAS' authors). Of supernets whose space has [`WeightSharing::adds_undrawn`].
        undrawn: bool,
    },
    /// The candidates of one architecture only.
    Path(&'a Architecture),
}

/// What a row of architecture parameters chooses between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Operators of one edge or block, of which a derived network has one.
    Operator,
    /// Connections, of which a derived network may have several: edges into a node, steps of a path.
    Connection,
}

/// A tensor of raw architecture parameters: along the last dimension, the options of one decision.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchParameter {
    /// Name, unique in the space.
    pub name: String,
    /// Shape.
    pub dims: Vec<i64>,
    /// What its rows choose between.
    pub choice: Choice,
    /// Row-major: whether an entry stands for an option. Others have no influence and no gradient. Empty: all do.
    pub exists: Vec<bool>,
}

impl ArchParameter {
    /// A parameter all of whose entries are options.
    pub fn new(name: &str, dims: &[i64], choice: Choice) -> Self {
        Self { name: name.into(), dims: dims.to_vec(), choice, exists: Vec::new() }
    }

    /// 1 for entries that stand for an option and 0 for the others, in the kind and on the device of `raw`; `None` when all
    /// entries do.
    pub fn mask(&self, raw: &Tensor) -> Option<Tensor> {
        let mask = || Tensor::from_slice(&self.exists).view(&self.dims[..]);
        (!self.exists.is_empty()).then(|| mask().to_kind(raw.kind()).to_device(raw.device()))
    }

    /// Weights of the options: the softmax of every row of `raw`, which has this parameter's shape; 0 for entries that stand
    /// for nothing.
    pub fn softmax(&self, raw: &Tensor) -> Tensor {
        match self.mask(raw) {
            // Not minus infinity: a row without any option would have gradients that are no numbers.
            Some(mask) => (raw + (&mask - 1.0) * 1e30).softmax(-1, None::<Kind>) * mask,
            None => raw.softmax(-1, None::<Kind>),
        }
    }
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

    /// The architecture parameters of the relaxed space, in the order that [`Mixture`] takes them.
    fn arch_parameters(&self) -> Vec<ArchParameter>;

    /// The weights of raw architecture parameters ([`ArchParameter::softmax`]).
    fn softmax(&self, raw: &[Tensor]) -> Vec<Tensor> {
        self.arch_parameters().iter().zip(raw).map(|(parameter, raw)| parameter.softmax(raw)).collect()
    }

    /// The most probable architecture under `weights`, such as [`WeightSharing::softmax`] gives.
    fn discretize(&self, weights: &[Tensor]) -> Architecture;

    /// Metrics that say how clearly `weights` speak for [`WeightSharing::discretize`], where the space knows any.
    fn evidence(&self, _weights: &[Tensor]) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Whether a supernet's edges take the weights of candidates that are not drawn as a term.
    fn adds_undrawn(&self) -> bool {
        false
    }

    /// The same choices in networks of `layers` layers; `None` where no network can be so deep, or layers are the choice.
    fn with_layers(&self, _layers: usize) -> Option<Rc<dyn WeightSharing>> {
        None
    }

    /// The identities that normal cells of `arch` take: number of an architecture parameter and of an entry, row-major.
    fn skip_connects(&self, _arch: &Architecture) -> Vec<(usize, usize)> {
        Vec::new()
    }

    /// Multiply-adds on an image of `input`, where they are a sum over the choices: what no choice changes, and for each
    /// entry of every architecture parameter what it adds at weight 1.
    fn macs_table(&self, _input: Shape) -> Option<(u64, Vec<Vec<f64>>)> {
        None
    }
}
