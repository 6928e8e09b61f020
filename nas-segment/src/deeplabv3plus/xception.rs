//! Aligned Xception as DeepLabv3+ modified it (arXiv 1802.02611, figure 4): strided separable convolutions instead of
//! pooling, and a norm after every depthwise convolution. Xception-71 has two more blocks in the entry flow.

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BnConfig, ConvConfig, ConvNorm, Mode, Module, Shape, VarBuilder, conv_bn};
use nas_core::space::{Backbone, FeatureInfo};
use tch::Tensor;

use super::StrideBudget;
use crate::separable::SeparableConv;

/// Convolutions along the network's longest path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XceptionDepth {
    /// 8 units in the middle flow.
    X41,
    /// 16 units in the middle flow.
    X65,
    /// 16 units in the middle flow, 5 blocks in the entry flow.
    X71,
}

impl XceptionDepth {
    /// Channels and strides of the blocks of the entry flow.
    fn entry_flow(self) -> &'static [(i64, i64)] {
        match self {
            Self::X41 | Self::X65 => &[(128, 2), (256, 2), (728, 2)],
            Self::X71 => &[(128, 2), (256, 1), (256, 2), (728, 1), (728, 2)],
        }
    }

    fn middle_units(self) -> usize {
        match self {
            Self::X41 => 8,
            Self::X65 | Self::X71 => 16,
        }
    }

    /// The block of the entry flow that takes the map from stride 4 to 8. The decoder sees its inside.
    fn tapped_block(self) -> usize {
        match self {
            Self::X41 | Self::X65 => 1,
            Self::X71 => 2,
        }
    }
}

/// An aligned Xception. Features: the second separable convolution of the block that leaves stride 4 (256 channels), and
/// the last layer (2048 channels).
#[derive(Debug)]
pub struct Xception {
    root: [ConvNorm; 2],
    entry: Vec<Block>,
    tapped: usize,
    middle: Vec<Block>,
    exit: [Block; 2],
    stride: i64,
}

impl Xception {
    /// A network of `depth` whose last feature map has `output_stride`.
    pub fn new(vb: &VarBuilder, depth: XceptionDepth, output_stride: i64, bn: BnConfig) -> Self {
        let root = |i: usize, channels, stride| {
            let conv = ConvConfig { stride, ..Default::default() };
            conv_bn(&vb.sub("root").sub(i), channels, 3, conv, bn, Activation::Relu)
        };
        let root = [root(0, (3, 32), 2), root(1, (32, 64), 1)];
        let mut budget = StrideBudget::new(output_stride, 2);
        let mut c_in = 64;
        let mut block = |name: &str, i: usize, widths: [i64; 3], stride, skip| {
            let geometry = budget.next(stride);
            let block = Block::new(&vb.sub(name).sub(i), c_in, widths, geometry, skip, bn);
            c_in = widths[2];
            block
        };
        let entry = depth.entry_flow().iter().enumerate();
        let entry = entry.map(|(i, &(c, stride))| block("entry_flow", i, [c; 3], stride, Skip::Conv));
        let entry = entry.collect();
        let middle = (0..depth.middle_units()).map(|i| block("middle_flow", i, [728; 3], 1, Skip::Identity));
        let middle = middle.collect();
        let exit = [
            block("exit_flow", 0, [728, 1024, 1024], 2, Skip::Conv),
            block("exit_flow", 1, [1536, 1536, 2048], 1, Skip::Absent),
        ];
        Self { root, entry, tapped: depth.tapped_block(), middle, exit, stride: budget.reached }
    }
}

impl Backbone for Xception {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let xs = self.root.iter().fold(xs.shallow_clone(), |xs, conv| conv.forward(&xs, mode));
        let (before, from) = self.entry.split_at(self.tapped);
        let xs = before.iter().fold(xs, |xs, block| block.forward(&xs, mode));
        let (low_level, xs) = from[0].forward_tapped(&xs, mode);
        let rest = from[1..].iter().chain(&self.middle).chain(&self.exit);
        vec![low_level, rest.fold(xs, |xs, block| block.forward(&xs, mode))]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        vec![FeatureInfo { channels: 256, stride: 4 }, FeatureInfo { channels: 2048, stride: self.stride }]
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let [mut root, mut entry, mut middle, mut exit] = [Cost::default(); 4];
        let mut xs = self.root.iter().fold(input, |xs, conv| conv.cost(xs, &mut root));
        let mut low_level = xs;
        for (i, block) in self.entry.iter().enumerate() {
            let (tap, ys) = block.cost_tapped(xs, &mut entry);
            if i == self.tapped {
                low_level = tap;
            }
            xs = ys;
        }
        let xs = self.middle.iter().fold(xs, |xs, block| block.cost(xs, &mut middle));
        let xs = self.exit.iter().fold(xs, |xs, block| block.cost(xs, &mut exit));
        let parts = [("root", root), ("entry_flow", entry), ("middle_flow", middle), ("exit_flow", exit)];
        (parts.map(|(name, cost)| (name.to_string(), cost)).into(), vec![low_level, xs])
    }
}

/// What is added to the output of a [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    /// The input, through a strided 1x1 convolution and a norm.
    Conv,
    /// The input.
    Identity,
    /// Nothing. Such a block activates after every convolution, the others before every separable one.
    Absent,
}

/// Three separable convolutions, the last one strided, and a skip connection.
#[derive(Debug)]
struct Block {
    convs: [SeparableConv; 3],
    skip: Skip,
    shortcut: Option<ConvNorm>,
}

impl Block {
    fn new(vb: &VarBuilder, c_in: i64, widths: [i64; 3], (stride, rate): (i64, i64), skip: Skip, bn: BnConfig) -> Self {
        let activation = match skip {
            Skip::Absent => Activation::Relu,
            Skip::Conv | Skip::Identity => Activation::Identity,
        };
        let conv = |i: usize, c_in, stride| {
            let conv = ConvConfig { stride, dilation: rate, ..Default::default() };
            SeparableConv::new(&vb.sub(i), (c_in, widths[i]), conv, bn, activation)
        };
        let shortcut = ConvConfig { stride, ..Default::default() };
        let shortcut = |vb| conv_bn(&vb, (c_in, widths[2]), 1, shortcut, bn, Activation::Identity);
        Self {
            convs: [conv(0, c_in, 1), conv(1, widths[0], 1), conv(2, widths[1], stride)],
            skip,
            shortcut: (skip == Skip::Conv).then(|| shortcut(vb.sub("shortcut"))),
        }
    }

    /// Output of the second convolution, and output of the block.
    fn forward_tapped(&self, xs: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let conv = |xs: &Tensor, conv: &SeparableConv| match self.skip {
            Skip::Absent => conv.forward(xs, mode),
            Skip::Conv | Skip::Identity => conv.forward(&xs.relu(), mode),
        };
        let [first, second, third] = &self.convs;
        let tap = conv(&conv(xs, first), second);
        let ys = conv(&tap, third);
        let ys = match (self.skip, &self.shortcut) {
            (Skip::Conv, Some(shortcut)) => ys + shortcut.forward(xs, mode),
            (Skip::Identity, _) => ys + xs,
            _ => ys,
        };
        (tap, ys)
    }

    fn cost_tapped(&self, xs: Shape, cost: &mut Cost) -> (Shape, Shape) {
        if let Some(shortcut) = &self.shortcut {
            shortcut.cost(xs, cost);
        }
        let [first, second, third] = &self.convs;
        let tap = first.cost(xs, cost);
        let tap = second.cost(tap, cost);
        (tap, third.cost(tap, cost))
    }
}

impl Module for Block {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_tapped(xs, mode).1
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.cost_tapped(xs, cost).1
    }
}
