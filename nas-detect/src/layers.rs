//! Layers that detectors need beside those of `nas-core`: a group norm, and a convolution whose bias starts at a value.

use nas_core::nn::Cost;
use nas_core::nn::{Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder};
use tch::Tensor;

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
