//! The three convolutions before the cells: two maps, at strides 2 and 4, both before their ReLU.

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BnConfig, ConvConfig, ConvNorm, Mode, Module, Shape, VarBuilder, conv_bn};
use tch::Tensor;

/// `conv s2, BN, ReLU, conv, BN` gives the map of stride 2, `ReLU, conv s2, BN` the one of stride 4.
#[derive(Debug)]
pub struct Stem {
    convs: [ConvNorm; 3],
}

impl Stem {
    /// A stem with the given channels.
    pub fn new(vb: &VarBuilder, channels: [i64; 3], bn: BnConfig) -> Self {
        let [a, b, c] = channels;
        let conv = |i: usize, io, stride, activation| {
            conv_bn(&vb.sub(i), io, 3, ConvConfig { stride, ..Default::default() }, bn, activation)
        };
        let convs = [
            conv(0, (3, a), 2, Activation::Relu),
            conv(1, (a, b), 1, Activation::Identity),
            conv(2, (b, c), 2, Activation::Identity),
        ];
        Self { convs }
    }

    /// Maps of strides 2 and 4 of images `[B, 3, H, W]`.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> [Tensor; 2] {
        let half = self.convs[1].forward(&self.convs[0].forward(xs, mode), mode);
        let quarter = self.convs[2].forward(&half.relu(), mode);
        [half, quarter]
    }

    /// Adds the stem's cost; returns the shapes of both maps.
    pub fn cost(&self, xs: Shape, cost: &mut Cost) -> [Shape; 2] {
        let half = self.convs[0].cost(xs, cost);
        let half = self.convs[1].cost(half, cost);
        [half, self.convs[2].cost(half, cost)]
    }
}

/// ReLU, convolution, batch norm: how a cell takes in a map.
#[derive(Debug)]
pub struct Preprocess {
    conv: ConvNorm,
}

impl Preprocess {
    /// From `c_in` to `c_out` channels; 1x1 at stride 1, 3x3 at larger ones.
    pub fn new(vb: &VarBuilder, c_in: i64, c_out: i64, stride: i64, bn: BnConfig) -> Self {
        let ksize = if stride == 1 { 1 } else { 3 };
        let conv = ConvConfig { stride, ..Default::default() };
        Self { conv: conv_bn(vb, (c_in, c_out), ksize, conv, bn, Activation::Identity) }
    }
}

impl Preprocess {
    /// Of a map that is past its ReLU.
    pub fn forward_rectified(&self, relu: &Tensor, mode: Mode) -> Tensor {
        self.conv.forward(relu, mode)
    }
}

impl Module for Preprocess {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_rectified(&xs.relu(), mode)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.conv.cost(xs, cost)
    }
}
