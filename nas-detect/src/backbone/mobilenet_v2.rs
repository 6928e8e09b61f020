//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) with torchvision's structure and variable names, up to its last
//! inverted residual.

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BnConfig, Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder};
use nas_core::space::{Backbone, FeatureInfo};
use tch::Tensor;

use crate::layers::{ConvNorm, NormConfig, chain, chain_cost};

/// Channels of the stem.
const STEM: i64 = 32;
/// Expansion, channels, blocks and stride of the groups of inverted residuals.
const GROUPS: [(i64, i64, usize, i64); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
/// Groups whose last block is the last of its stride.
const TAPPED_GROUPS: [usize; 4] = [1, 2, 4, 6];

/// A MobileNetV2. Features: the last block of strides 4, 8, 16 and 32; none ends with an activation.
#[derive(Debug)]
pub struct MobileNetV2 {
    stem: ConvNorm,
    groups: Vec<Vec<InvertedResidual>>,
}

impl MobileNetV2 {
    /// The network of width 1.
    pub fn new(vb: &VarBuilder, bn: BnConfig) -> Self {
        let vb = vb.sub("features");
        let stem = ConvConfig { stride: 2, init: Init::KaimingFanOut, ..Default::default() };
        let stem = conv_norm(&vb.sub(0), (0, 1), (3, STEM), 3, stem, bn, Activation::Relu6);
        let (mut c_in, mut index) = (STEM, 0);
        let group = |(expansion, c_out, blocks, stride): (i64, i64, usize, i64)| {
            let block = |i| {
                index += 1;
                let stride = if i == 0 { stride } else { 1 };
                let channels = (std::mem::replace(&mut c_in, c_out), c_out);
                InvertedResidual::new(&vb.sub(index).sub("conv"), channels, expansion, stride, bn)
            };
            (0..blocks).map(block).collect()
        };
        Self { stem, groups: GROUPS.into_iter().map(group).collect() }
    }
}

impl Backbone for MobileNetV2 {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut xs = self.stem.forward(xs, mode);
        let outputs = self.groups.iter().map(|blocks| {
            xs = blocks.iter().fold(xs.shallow_clone(), |xs, block| block.forward(&xs, mode));
            xs.shallow_clone()
        });
        let outputs: Vec<Tensor> = outputs.collect();
        TAPPED_GROUPS.map(|group| outputs[group].shallow_clone()).into()
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        let taps = TAPPED_GROUPS.into_iter().zip([4, 8, 16, 32]);
        taps.map(|(group, stride)| FeatureInfo { channels: GROUPS[group].1, stride }).collect()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let [mut stem, mut blocks] = [Cost::default(); 2];
        let mut xs = self.stem.cost(input, &mut stem);
        let outputs = self.groups.iter().map(|group| {
            xs = group.iter().fold(xs, |xs, block| block.cost(xs, &mut blocks));
            xs
        });
        let outputs: Vec<Shape> = outputs.collect();
        let parts = vec![("stem".to_string(), stem), ("inverted_residuals".to_string(), blocks)];
        (parts, TAPPED_GROUPS.map(|group| outputs[group]).into())
    }
}

/// 1x1 expansion (unless by 1), depthwise 3x3, linear 1x1; added to the input where the shapes agree.
#[derive(Debug)]
struct InvertedResidual {
    layers: Vec<ConvNorm>,
    adds_input: bool,
}

impl InvertedResidual {
    fn new(vb: &VarBuilder, (c_in, c_out): (i64, i64), expansion: i64, stride: i64, bn: BnConfig) -> Self {
        let hidden = c_in * expansion;
        let pointwise = ConvConfig { init: Init::KaimingFanOut, ..Default::default() };
        let depthwise = ConvConfig { stride, groups: hidden, ..pointwise };
        let mut layers = Vec::new();
        if expansion != 1 {
            layers.push(conv_norm(&vb.sub(0), (0, 1), (c_in, hidden), 1, pointwise, bn, Activation::Relu6));
        }
        let next = layers.len();
        layers.push(conv_norm(&vb.sub(next), (0, 1), (hidden, hidden), 3, depthwise, bn, Activation::Relu6));
        layers.push(conv_norm(vb, (next + 1, next + 2), (hidden, c_out), 1, pointwise, bn, Activation::Identity));
        Self { layers, adds_input: stride == 1 && c_in == c_out }
    }
}

impl Module for InvertedResidual {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let ys = chain(&self.layers, xs, mode);
        if self.adds_input { ys + xs } else { ys }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        chain_cost(&self.layers, xs, cost)
    }
}

/// A layer whose convolution and norm have these numbers below `vb`.
fn conv_norm(
    vb: &VarBuilder,
    (conv_at, norm_at): (usize, usize),
    (c_in, c_out): (i64, i64),
    ksize: i64,
    conv: ConvConfig,
    bn: BnConfig,
    activation: Activation,
) -> ConvNorm {
    let norm = NormConfig::Batch(bn).build(&vb.sub(norm_at), c_out);
    ConvNorm::new(Conv2d::new(&vb.sub(conv_at), c_in, c_out, ksize, conv), norm, activation)
}
