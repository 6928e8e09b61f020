//! Layers that detectors need beside those of `nas-core`: a convolution with any norm, frozen and group norms, linear maps.

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder};
use tch::Tensor;

/// Which norm a network uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormConfig {
    /// Batch norm.
    Batch(BnConfig),
    /// Batch norm that is neither trained nor updated: a fixed scale and shift per channel.
    Frozen,
}

impl NormConfig {
    /// The norm of `channels`, its tensors under `vb` by torchvision's names.
    pub fn build(self, vb: &VarBuilder, channels: i64) -> Norm {
        match self {
            Self::Batch(config) => Norm::Batch(BatchNorm::new(vb, channels, config)),
            Self::Frozen => Norm::Frozen(FrozenBatchNorm::new(vb, channels)),
        }
    }
}

/// A norm over `[B, C, H, W]`.
#[derive(Debug)]
pub enum Norm {
    /// Statistics of the batch.
    Batch(BatchNorm),
    /// Fixed statistics, scale and shift.
    Frozen(FrozenBatchNorm),
    /// Statistics of groups of channels of each image.
    Group(GroupNorm),
}

impl Module for Norm {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        match self {
            Self::Batch(norm) => norm.forward(xs, mode),
            Self::Frozen(norm) => norm.forward(xs, mode),
            Self::Group(norm) => norm.forward(xs, mode),
        }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        match self {
            Self::Batch(norm) => norm.cost(xs, cost),
            Self::Frozen(norm) => norm.cost(xs, cost),
            Self::Group(norm) => norm.cost(xs, cost),
        }
    }
}

/// Convolution, norm, activation.
#[derive(Debug)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: Norm,
    activation: Activation,
}

impl ConvNorm {
    /// The three in a row.
    pub fn new(conv: Conv2d, norm: Norm, activation: Activation) -> Self {
        Self { conv, norm, activation }
    }

    /// Its norm, when that has statistics of batches.
    pub fn batch_norm(&self) -> Option<&BatchNorm> {
        match &self.norm {
            Norm::Batch(norm) => Some(norm),
            Norm::Frozen(_) | Norm::Group(_) => None,
        }
    }
}

impl Module for ConvNorm {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.activation.apply_(self.norm.forward(&self.conv.forward(xs, mode), mode))
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.conv.cost(xs, cost);
        self.norm.cost(ys, cost)
    }
}

/// Runs layers one after the other.
pub fn chain(layers: &[ConvNorm], xs: &Tensor, mode: Mode) -> Tensor {
    layers.iter().fold(xs.shallow_clone(), |xs, layer| layer.forward(&xs, mode))
}

/// Counts layers one after the other.
pub fn chain_cost(layers: &[ConvNorm], xs: Shape, cost: &mut Cost) -> Shape {
    layers.iter().fold(xs, |xs, layer| layer.cost(xs, cost))
}

/// A batch norm whose statistics, scale and shift are all fixed (torchvision's `FrozenBatchNorm2d`): it has no parameters.
#[derive(Debug)]
pub struct FrozenBatchNorm {
    channels: i64,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl FrozenBatchNorm {
    fn new(vb: &VarBuilder, channels: i64) -> Self {
        let buffer = |name, value| vb.buffer(name, &[channels], value);
        Self {
            channels,
            weight: buffer("weight", 1.0),
            bias: buffer("bias", 0.0),
            running_mean: buffer("running_mean", 0.0),
            running_var: buffer("running_var", 1.0),
        }
    }
}

impl Module for FrozenBatchNorm {
    fn forward(&self, xs: &Tensor, _mode: Mode) -> Tensor {
        let eps = BnConfig::default().eps;
        let (mean, var) = (Some(&self.running_mean), Some(&self.running_var));
        xs.batch_norm(Some(&self.weight), Some(&self.bias), mean, var, false, 0.0, eps, true)
    }

    fn cost(&self, xs: Shape, _cost: &mut Cost) -> Shape {
        assert_eq!(xs.c, self.channels, "channels of the input of a frozen batch norm");
        xs
    }
}

/// Group normalisation (Wu and He 2018) of 32 groups, or of 8 channels each where 32 do not divide them.
#[derive(Debug)]
pub struct GroupNorm {
    channels: i64,
    groups: i64,
    weight: Tensor,
    bias: Tensor,
}

impl GroupNorm {
    /// A norm over `channels`, which [`GroupNorm::groups`] must accept.
    pub fn new(vb: &VarBuilder, channels: i64) -> Self {
        Self {
            channels,
            groups: Self::groups(channels).expect("checked by the config"),
            weight: vb.weight("weight", &[channels], Init::Const(1.0)),
            bias: vb.weight("bias", &[channels], Init::Const(0.0)),
        }
    }

    /// How many groups `channels` are split into, if they can be.
    pub fn groups(channels: i64) -> Option<i64> {
        match channels {
            c if c > 0 && c % 32 == 0 => Some(32),
            c if c > 0 && c % 8 == 0 => Some(c / 8),
            _ => None,
        }
    }
}

impl Module for GroupNorm {
    fn forward(&self, xs: &Tensor, _mode: Mode) -> Tensor {
        xs.group_norm(self.groups, Some(&self.weight), Some(&self.bias), 1e-5, true)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        assert_eq!(xs.c, self.channels, "channels of the input of a group norm");
        cost.params += 2 * self.channels as u64;
        xs
    }
}

/// `W x + b`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
    size: [i64; 2],
}

impl Linear {
    /// A map from `c_in` to `c_out` features with weights of `N(0, 0.01²)`.
    pub fn new(vb: &VarBuilder, c_in: i64, c_out: i64) -> Self {
        Self {
            weight: vb.weight("weight", &[c_out, c_in], Init::Normal(0.01)),
            bias: vb.weight("bias", &[c_out], Init::Const(0.0)),
            size: [c_out, c_in],
        }
    }

    /// `[B, c_out]` of `[B, c_in]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.linear(&self.weight, Some(&self.bias))
    }

    /// Adds the map's parameters and multiply-adds to `cost`.
    pub fn cost(&self, cost: &mut Cost) {
        let weights = (self.size[0] * self.size[1]) as u64;
        cost.params += weights + self.size[0] as u64;
        cost.macs += weights;
    }
}

/// A convolution, plain or separable, with a bias that starts at a given value.
#[derive(Debug)]
pub struct BiasedConv {
    depthwise: Option<Conv2d>,
    conv: Conv2d,
    bias: Tensor,
    c_out: i64,
}

impl BiasedConv {
    /// A 3x3 convolution with weights of `N(0, 0.01²)`.
    pub fn plain(vb: &VarBuilder, (c_in, c_out): (i64, i64), bias: f64) -> Self {
        let config = ConvConfig { init: Init::Normal(0.01), ..Default::default() };
        Self::new(None, vb, (c_in, c_out), 3, config, bias)
    }

    /// A depthwise 3x3 and a pointwise convolution; only the latter has a bias.
    pub fn separable(vb: &VarBuilder, (c_in, c_out): (i64, i64), bias: f64) -> Self {
        let config = ConvConfig::default();
        let depthwise = Conv2d::depthwise(&vb.sub("depthwise"), c_in, 3, config);
        Self::new(Some(depthwise), &vb.sub("pointwise"), (c_in, c_out), 1, config, bias)
    }

    fn new(
        depthwise: Option<Conv2d>,
        vb: &VarBuilder,
        (c_in, c_out): (i64, i64),
        ksize: i64,
        config: ConvConfig,
        bias: f64,
    ) -> Self {
        let conv = Conv2d::new(vb, c_in, c_out, ksize, config);
        Self { depthwise, conv, bias: vb.weight("bias", &[c_out], Init::Const(bias)), c_out }
    }
}

impl Module for BiasedConv {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let ys = match &self.depthwise {
            Some(depthwise) => self.conv.forward(&depthwise.forward(xs, mode), mode),
            None => self.conv.forward(xs, mode),
        };
        ys + self.bias.view([1, -1, 1, 1])
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let xs = self.depthwise.as_ref().map_or(xs, |depthwise| depthwise.cost(xs, cost));
        cost.params += self.c_out as u64;
        self.conv.cost(xs, cost)
    }
}
