//! Depthwise-separable convolution: a kernel per channel, then a mix of the channels; each followed by a norm.

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BnConfig, ConvConfig, ConvNorm, Mode, Module, Shape, VarBuilder, conv_bn};
use tch::Tensor;

/// Depthwise 3x3, norm, activation, pointwise, norm, activation.
#[derive(Debug)]
pub struct SeparableConv {
    depthwise: ConvNorm,
    pointwise: ConvNorm,
}

impl SeparableConv {
    /// A convolution whose depthwise half has the stride and the dilation of `conv`.
    pub fn new(
        vb: &VarBuilder,
        (c_in, c_out): (i64, i64),
        conv: ConvConfig,
        bn: BnConfig,
        activation: Activation,
    ) -> Self {
        let depthwise = ConvConfig { groups: c_in, ..conv };
        let pointwise = ConvConfig::default();
        Self {
            depthwise: conv_bn(&vb.sub("depthwise"), (c_in, c_in), 3, depthwise, bn, activation),
            pointwise: conv_bn(&vb.sub("pointwise"), (c_in, c_out), 1, pointwise, bn, activation),
        }
    }
}

impl Module for SeparableConv {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.pointwise.forward(&self.depthwise.forward(xs, mode), mode)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.depthwise.cost(xs, cost);
        self.pointwise.cost(ys, cost)
    }
}
