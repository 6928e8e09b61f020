//! Convolution, norm, activation: the layer that most networks are made of; and a batch norm that stays as it is.

use tch::Tensor;

use super::layers::{self, Layer};
use super::{Activation, BatchNorm, BnConfig, Conv2d, ConvConfig, Cost, Mode, Module, Shape, VarBuilder};

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

impl From<BnConfig> for NormConfig {
    fn from(config: BnConfig) -> Self {
        Self::Batch(config)
    }
}

/// A norm over `[B, C, H, W]`.
#[derive(Debug)]
pub enum Norm {
    /// Statistics of the batch.
    Batch(BatchNorm),
    /// Fixed statistics, scale and shift.
    Frozen(FrozenBatchNorm),
}

impl Module for Norm {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        match self {
            Self::Batch(norm) => norm.forward(xs, mode),
            Self::Frozen(norm) => norm.forward(xs, mode),
        }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        match self {
            Self::Batch(norm) => norm.cost(xs, cost),
            Self::Frozen(norm) => norm.cost(xs, cost),
        }
    }
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
        layers::note(|| Layer::Norm { channels: xs.c, size: xs.size() });
        xs
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
    /// A square convolution under the first place, its norm under the second.
    pub fn new(
        [conv_vb, norm_vb]: [VarBuilder; 2],
        (c_in, c_out): (i64, i64),
        ksize: i64,
        conv: ConvConfig,
        norm: impl Into<NormConfig>,
        activation: Activation,
    ) -> Self {
        let conv = Conv2d::new(&conv_vb, c_in, c_out, ksize, conv);
        Self { conv, norm: norm.into().build(&norm_vb, c_out), activation }
    }

    /// The same with convolution and norm at `0` and `1` below `vb`, torchvision's names.
    pub fn numbered(
        vb: &VarBuilder,
        channels: (i64, i64),
        ksize: i64,
        conv: ConvConfig,
        norm: impl Into<NormConfig>,
        activation: Activation,
    ) -> Self {
        Self::new([vb.sub(0), vb.sub(1)], channels, ksize, conv, norm, activation)
    }

    /// Its norm, when that has statistics of batches.
    pub fn batch_norm(&self) -> Option<&BatchNorm> {
        match &self.norm {
            Norm::Batch(norm) => Some(norm),
            Norm::Frozen(_) => None,
        }
    }
}

/// A [`ConvNorm`] with the convolution at `conv` and the norm at `bn` below `vb`.
pub fn conv_bn(
    vb: &VarBuilder,
    channels: (i64, i64),
    ksize: i64,
    conv: ConvConfig,
    bn: BnConfig,
    activation: Activation,
) -> ConvNorm {
    ConvNorm::new([vb.sub("conv"), vb.sub("bn")], channels, ksize, conv, bn, activation)
}

impl Module for ConvNorm {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let ys = self.conv.forward(xs, mode);
        match &self.norm {
            Norm::Batch(norm) => norm.forward_activated(&ys, None, self.activation, mode),
            Norm::Frozen(norm) => self.activation.apply_(norm.forward(&ys, mode)),
        }
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
