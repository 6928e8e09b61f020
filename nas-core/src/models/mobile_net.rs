//! Networks of inverted residuals: a strided convolution, blocks, perhaps a last 1x1 convolution.

use tch::Tensor;

use super::{BlockConfig, InvertedResidual, Naming, StrideBudget, Taps, ends_stride};
use crate::nn::{Activation, BnConfig, ConvConfig, ConvNorm, Cost, Init, Mode, Module, Shape, VarBuilder, probe};
use crate::space::{Backbone, FeatureInfo};

/// What a [`MobileNet`] consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Channels, stride and activation of the first convolution.
    pub stem: (i64, i64, Activation),
    /// The blocks, with the strides of the plain network.
    pub blocks: Vec<BlockConfig>,
    /// Channels and activation of the last convolution.
    pub last: Option<(i64, Activation)>,
    /// Convolutions outside the blocks have a bias too.
    pub bias: bool,
    /// Constants of the norms.
    pub bn: BnConfig,
    /// Names of the variables.
    pub naming: Naming,
    /// Initial weights of the convolutions.
    pub init: Init,
    /// The stride beyond which strides become atrous rates.
    pub output_stride: Option<i64>,
    /// Which maps are given out; [`Taps::Within`] gives what the block's depthwise convolution gives.
    pub taps: Taps,
    /// Every block is counted as a part of its own.
    pub part_per_block: bool,
}

/// A network of inverted residuals, its variables under `features` by torchvision's names.
#[derive(Debug)]
pub struct MobileNet {
    stem: ConvNorm,
    blocks: Vec<InvertedResidual>,
    last: Option<ConvNorm>,
    tapped: Vec<Tap>,
    info: Vec<FeatureInfo>,
    part_per_block: bool,
}

/// Where a map comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tap {
    Depthwise(usize),
    Block(usize),
}

impl MobileNet {
    /// The network of a layout, its variables under `vb`.
    pub fn new(vb: &VarBuilder, layout: &Layout) -> Self {
        let Layout { stem: (channels, stride, activation), last, bias, bn, naming, init, .. } = layout;
        let vb = vb.sub("features");
        let (blocks, reached) = layout.strided();
        let conv = ConvConfig { bias: *bias, init: *init, ..Default::default() };
        let strided = ConvConfig { stride: *stride, ..conv };
        // The order in which weights are drawn: what a seed gives hangs on it.
        let stem = ConvNorm::numbered(&vb.sub(0), (3, *channels), 3, strided, *bn, *activation);
        let c = blocks.last().map_or(*channels, |block| block.channels.1);
        let last = last.map(|(c_out, activation)| {
            ConvNorm::numbered(&vb.sub(blocks.len() + 1), (c, c_out), 1, conv, *bn, activation)
        });
        let block = |(i, block)| InvertedResidual::new(&vb.sub(i + 1), block, *naming, *bn, *init);
        let (tapped, info) = layout.taps(&blocks, &reached);
        Self {
            stem,
            blocks: blocks.iter().enumerate().map(block).collect(),
            last,
            tapped,
            info,
            part_per_block: layout.part_per_block,
        }
    }
}

impl Layout {
    /// The blocks as they are built, strides traded for rates beyond the output stride, and the stride that each reaches.
    fn strided(&self) -> (Vec<BlockConfig>, Vec<i64>) {
        let mut budget = StrideBudget::new(self.output_stride, self.stem.1);
        let strided = self.blocks.iter().map(|block| {
            let (stride, rate) = budget.next(block.stride);
            (BlockConfig { stride, dilation: block.dilation * rate, ..*block }, budget.reached)
        });
        strided.unzip()
    }

    /// The tapped maps but the last, and what all are like.
    fn taps(&self, blocks: &[BlockConfig], reached: &[i64]) -> (Vec<Tap>, Vec<FeatureInfo>) {
        let before_last = 0..blocks.len().saturating_sub(1);
        let tapped: Vec<Tap> = match self.taps {
            Taps::Strides { from } => before_last.filter(|i| ends_stride(reached, *i, from)).map(Tap::Block).collect(),
            Taps::Within { block } => vec![Tap::Depthwise(block)],
        };
        let info = |tap: &Tap| match *tap {
            Tap::Depthwise(i) => FeatureInfo { channels: blocks[i].hidden, stride: reached[i] },
            Tap::Block(i) => FeatureInfo { channels: blocks[i].channels.1, stride: reached[i] },
        };
        let end = blocks.last().map_or(self.stem.0, |block| block.channels.1);
        let last = FeatureInfo {
            channels: self.last.map_or(end, |(channels, _)| channels),
            stride: reached.last().copied().unwrap_or(self.stem.1),
        };
        let info = tapped.iter().map(info).chain([last]).collect();
        (tapped, info)
    }
}

impl Backbone for MobileNet {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut xs = self.stem.forward(xs, mode);
        let mut features = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let (hidden, ys) = block.forward_tapped(&xs, mode);
            features.extend(self.tapped.contains(&Tap::Depthwise(i)).then_some(hidden));
            features.extend(self.tapped.contains(&Tap::Block(i)).then(|| ys.shallow_clone()));
            xs = probe::block(ys);
        }
        features.push(self.last.as_ref().map_or_else(|| xs.shallow_clone(), |last| last.forward(&xs, mode)));
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.clone()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let [mut stem, mut all, mut last] = [Cost::default(); 3];
        let mut xs = self.stem.cost(input, &mut stem);
        let (mut parts, mut shapes) = (vec![("stem".to_string(), stem)], Vec::new());
        for (i, block) in self.blocks.iter().enumerate() {
            let mut cost = Cost::default();
            let (hidden, ys) = block.cost_tapped(xs, &mut cost);
            shapes.extend(self.tapped.contains(&Tap::Depthwise(i)).then_some(hidden));
            shapes.extend(self.tapped.contains(&Tap::Block(i)).then_some(ys));
            parts.extend(self.part_per_block.then(|| (format!("block_{}", i + 1), cost)));
            all += cost;
            xs = ys;
        }
        parts.extend((!self.part_per_block).then(|| ("inverted_residuals".to_string(), all)));
        if let Some(conv) = &self.last {
            xs = conv.cost(xs, &mut last);
            parts.push(("last".to_string(), last));
        }
        shapes.push(xs);
        (parts, shapes)
    }
}
