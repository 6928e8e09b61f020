//! Aligned Xception as DeepLabv3+ modified it (arXiv 1802.02611, figure 4): strided separable convolutions instead of
//! pooling, and a norm after every depthwise convolution. Xception-71 has two more blocks in the entry flow.

use anyhow::{Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{StageSize, sizes};
use nas_core::nn::Cost;
use nas_core::nn::{Activation, BnConfig, ConvConfig, ConvNorm, Mode, Module, Shape, VarBuilder, conv_bn, probe};
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
    /// Strides of the blocks of the entry flow.
    fn entry_flow(self) -> &'static [i64] {
        match self {
            Self::X41 | Self::X65 => &[2, 2, 2],
            Self::X71 => &[2, 1, 2, 1, 2],
        }
    }

    /// The two convolutions of the root; the blocks of the entry flow, to the last of which those of the middle flow belong, whose
    /// channels it has; the first block of the exit flow; the first two convolutions of its second block, and the third.
    pub fn sizes(self) -> Vec<StageSize> {
        let (entry, middle): (&[i64], _) = match self {
            Self::X41 => (&[128, 256, 728], 8),
            Self::X65 => (&[128, 256, 728], 16),
            Self::X71 => (&[128, 256, 256, 728, 728], 16),
        };
        let size = |channels: &i64| StageSize { channels: *channels, blocks: 1 };
        let mut sizes: Vec<StageSize> = [32, 64].iter().chain(entry).map(size).collect();
        sizes.last_mut().expect("stages").blocks += middle;
        sizes.extend([1024, 1536, 2048].iter().map(size));
        sizes
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
    info: [FeatureInfo; 2],
}

/// Of the entry flow's last block and the middle flow.
fn middle(sizes: &[StageSize]) -> StageSize {
    sizes[sizes.len() - 4]
}

/// What weight inheritance knows of the middle flow of a network of `sizes`, whose names begin with `prefix`.
pub fn parts(sizes: &[StageSize], prefix: &str) -> Vec<BlockParts> {
    let part = |i: usize| {
        let unit = format!("{prefix}middle_flow.{i}.");
        let silencer = Some(format!("{unit}2.pointwise.bn.weight"));
        BlockParts { place: (0, i), layers: vec![("unit", unit)], silencer }
    };
    (0..middle(sizes).blocks - 1).map(part).collect()
}

impl Xception {
    /// A network of `depth` and `sizes`, those of [`XceptionDepth::sizes`] or others, whose last feature map has `output_stride`.
    ///
    /// # Errors
    /// If there are more or fewer sizes, or more than one block where there is one.
    pub fn new(
        vb: &VarBuilder,
        depth: XceptionDepth,
        sizes: &[StageSize],
        output_stride: i64,
        bn: BnConfig,
    ) -> Result<Self> {
        let key = "model.backbone.stages";
        sizes::check(key, &depth.sizes(), sizes)?;
        let is_middle = |i: usize| i + 4 == sizes.len();
        let more = sizes.iter().enumerate().find(|(i, size)| size.blocks != 1 && !is_middle(*i));
        ensure!(
            more.is_none(),
            "{key}: {}; expected one block",
            more.map(|(_, size)| size.to_string()).unwrap_or_default()
        );
        let channels: Vec<i64> = sizes.iter().map(|size| size.channels).collect();
        let root = |i: usize, channels, stride| {
            let conv = ConvConfig { stride, ..Default::default() };
            conv_bn(&vb.sub("root").sub(i), channels, 3, conv, bn, Activation::Relu)
        };
        let root = [root(0, (3, channels[0]), 2), root(1, (channels[0], channels[1]), 1)];
        let mut budget = StrideBudget::new(output_stride, 2);
        let mut c_in = channels[1];
        let mut block = |name: &str, i: usize, widths: [i64; 3], stride, skip| {
            let geometry = budget.next(stride);
            let block = Block::new(&vb.sub(name).sub(i), c_in, widths, geometry, skip, bn);
            c_in = widths[2];
            block
        };
        let entry = depth.entry_flow().iter().zip(&channels[2..]).enumerate();
        let entry = entry.map(|(i, (stride, c))| block("entry_flow", i, [*c; 3], *stride, Skip::Conv)).collect();
        let within = middle(sizes);
        let middle = (0..within.blocks - 1).map(|i| block("middle_flow", i, [within.channels; 3], 1, Skip::Identity));
        let middle = middle.collect();
        let [last, second, first] = [1, 2, 3].map(|from_end| channels[channels.len() - from_end]);
        let exit = [
            block("exit_flow", 0, [within.channels, first, first], 2, Skip::Conv),
            block("exit_flow", 1, [second, second, last], 1, Skip::Absent),
        ];
        let tapped = depth.tapped_block();
        let info = [(channels[2 + tapped], 4), (last, budget.reached)];
        let info = info.map(|(channels, stride)| FeatureInfo { channels, stride });
        Ok(Self { root, entry, tapped, middle, exit, info })
    }
}

impl Backbone for Xception {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let xs = self.root.iter().fold(xs.shallow_clone(), |xs, conv| conv.forward(&xs, mode));
        let forward = |xs: Tensor, block: &Block| probe::block(block.forward(&xs, mode));
        let (before, from) = self.entry.split_at(self.tapped);
        let (low_level, xs) = from[0].forward_tapped(&before.iter().fold(xs, forward), mode);
        let rest = from[1..].iter().chain(&self.middle).chain(&self.exit);
        vec![low_level, rest.fold(probe::block(xs), forward)]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.to_vec()
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
