//! Convolution, and convolution with batch norm and activation.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{BatchNorm, BnConfig, Init, Mode, Module, Shape, VarBuilder, probe, probe::Site};
use crate::space::Cost;

/// Geometry of a [`Conv2d`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvConfig {
    /// Step of the kernel, in pixels.
    pub stride: i64,
    /// Distance between the kernel's taps (atrous rate).
    pub dilation: i64,
    /// Channel groups; `c_in` of them make a depthwise convolution.
    pub groups: i64,
    /// Learns a shift per output channel.
    pub bias: bool,
    /// Initial weights.
    pub init: Init,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self { stride: 1, dilation: 1, groups: 1, bias: false, init: Init::FanIn }
    }
}

/// A convolution padded by `dilation * (ksize - 1) / 2`: an input of `n` pixels gives `ceil(n / stride)`.
#[derive(Debug)]
pub struct Conv2d {
    c_in: i64,
    c_out: i64,
    /// Height and width.
    ksize: [i64; 2],
    stride: [i64; 2],
    dilation: i64,
    groups: i64,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Conv2d {
    /// A square convolution with an odd `ksize`.
    pub fn new(vb: &VarBuilder, c_in: i64, c_out: i64, ksize: i64, config: ConvConfig) -> Self {
        Self::with_sides(vb, (c_in, c_out), [ksize; 2], [config.stride; 2], config)
    }

    /// A dense convolution whose `ksize` and `stride` are odd heights and widths of their own.
    pub fn rectangular(vb: &VarBuilder, channels: (i64, i64), ksize: [i64; 2], stride: [i64; 2]) -> Self {
        Self::with_sides(vb, channels, ksize, stride, ConvConfig::default())
    }

    fn with_sides(
        vb: &VarBuilder,
        (c_in, c_out): (i64, i64),
        ksize: [i64; 2],
        stride: [i64; 2],
        config: ConvConfig,
    ) -> Self {
        let odd = ksize.iter().all(|side| side % 2 == 1);
        assert!(odd && c_in % config.groups == 0, "odd kernel, groups that divide the input channels");
        let weight = vb.weight("weight", &[c_out, c_in / config.groups, ksize[0], ksize[1]], config.init);
        let bias = config.bias.then(|| vb.weight("bias", &[c_out], Init::Const(0.0)));
        let ConvConfig { dilation, groups, .. } = config;
        Self { c_in, c_out, ksize, stride, dilation, groups, weight, bias }
    }

    /// A depthwise convolution: one kernel per channel.
    pub fn depthwise(vb: &VarBuilder, c: i64, ksize: i64, config: ConvConfig) -> Self {
        Self::new(vb, c, c, ksize, ConvConfig { groups: c, ..config })
    }
}

impl Module for Conv2d {
    fn forward(&self, xs: &Tensor, _mode: Mode) -> Tensor {
        let Self { dilation, groups, .. } = *self;
        let padding = self.ksize.map(|side| dilation * (side - 1) / 2);
        let ys = xs.conv2d(&self.weight, self.bias.as_ref(), self.stride, padding, [dilation; 2], groups);
        probe::report(Site::Weighted, &ys);
        ys
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        assert_eq!(xs.c, self.c_in, "channels of the input of a convolution");
        let out = |n: i64, stride: i64| (n - 1) / stride + 1;
        let ys = Shape::new(self.c_out, out(xs.h, self.stride[0]), out(xs.w, self.stride[1]));
        let weights = (self.c_out * self.c_in / self.groups * self.ksize[0] * self.ksize[1]) as u64;
        cost.params += weights + if self.bias.is_some() { self.c_out as u64 } else { 0 };
        cost.macs += weights * (ys.h * ys.w) as u64;
        ys
    }
}

/// What follows a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x min(max(x + 3, 0), 6) / 6` (Howard et al. 2019).
    Hswish,
}

impl Activation {
    /// Applies the activation to a tensor of any shape, in place: the tensor must not be needed before activation.
    pub fn apply_(self, mut xs: Tensor) -> Tensor {
        match self {
            Activation::Identity => xs,
            Activation::Relu if probe::is_off() => xs.relu_(),
            Activation::Relu6 if probe::is_off() => xs.relu6_(),
            Activation::Hswish if probe::is_off() => xs.hardswish_(),
            Activation::Relu => relu(&xs),
            Activation::Relu6 | Activation::Hswish if probe::is_linear() => xs,
            Activation::Hswish => {
                probe::report(Site::PreActivation, &xs);
                xs.hardswish()
            }
            Activation::Relu6 => {
                probe::report(Site::PreActivation, &xs);
                xs.relu6()
            }
        }
    }
}

/// `max(x, 0)` of a tensor of any shape, open to probes.
pub fn relu(xs: &Tensor) -> Tensor {
    if probe::is_linear() {
        return xs.shallow_clone();
    }
    probe::report(Site::PreActivation, xs);
    xs.relu()
}

/// Convolution, batch norm, activation.
#[derive(Debug)]
pub struct ConvBn {
    conv: Conv2d,
    bn: BatchNorm,
    activation: Activation,
}

/// A [`ConvBn`] with the convolution at `conv` and the norm at `bn` below `vb`.
pub fn conv_bn(
    vb: &VarBuilder,
    (c_in, c_out): (i64, i64),
    ksize: i64,
    conv: ConvConfig,
    bn: BnConfig,
    activation: Activation,
) -> ConvBn {
    ConvBn {
        conv: Conv2d::new(&vb.sub("conv"), c_in, c_out, ksize, conv),
        bn: BatchNorm::new(&vb.sub("bn"), c_out, bn),
        activation,
    }
}

impl Module for ConvBn {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.activation.apply_(self.bn.forward(&self.conv.forward(xs, mode), mode))
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.conv.cost(xs, cost);
        self.bn.cost(ys, cost)
    }
}
