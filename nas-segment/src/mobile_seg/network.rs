//! The body of a [`MobileSegConfig`]'s network: stem, blocks, and the maps that its head takes.

use nas_core::nn::{ConvConfig, ConvNorm, Cost, Mode, Module, Shape, VarBuilder, probe};
use nas_core::space::{Backbone, FeatureInfo};
use tch::Tensor;

use super::block::{Block, BlockStyle, Names};
use super::config::{MobileSegConfig, PlacedBlock, STEM_STRIDE, Tap};
use super::operator::Operator;

/// Stem and blocks. Features: the maps that the head takes, finest first, and the last one, which ends without an activation
/// unless a last 1x1 convolution follows.
#[derive(Debug)]
pub struct Trunk {
    stem: ConvNorm,
    blocks: Vec<Block>,
    last: Option<ConvNorm>,
    /// Index of the block and which of its maps, finest first.
    taps: Vec<(usize, Tap)>,
    info: Vec<FeatureInfo>,
    /// Blocks of each stage, for the parts of the cost.
    stages: Vec<usize>,
}

impl Trunk {
    /// The body of `config`, which is valid, by the config's names.
    pub fn new(vb: &VarBuilder, config: &MobileSegConfig) -> Self {
        Self::with_names(config, &BodyNames::of(vb, config.names))
    }

    /// The body of `config`, which is valid.
    pub(super) fn with_names(config: &MobileSegConfig, names: &BodyNames) -> Self {
        let placed = config.blocks();
        let style = config.style();
        let stem = Self::stem(names, config.stem, style);
        let block = |(i, block): (usize, &PlacedBlock)| Block::new(&names.block(i), block.operator, block.place, style);
        let blocks: Vec<Block> = placed.iter().enumerate().map(block).collect();
        let c_out = placed.last().map_or(config.stem, |block| block.place.channels.1);
        let last = (config.last > 0).then(|| Self::last(names, (c_out, config.last), style));
        let find = |(stride, tap): (i64, Tap)| {
            let block = placed.iter().rposition(|block| block.output_stride == stride);
            (block.expect("a checked tap"), tap)
        };
        let mut taps: Vec<(usize, Tap)> = config.head.taps().into_iter().map(find).collect();
        taps.reverse();
        let info = |&(i, tap): &(usize, Tap)| {
            let channels = match tap {
                Tap::Output => placed[i].place.channels.1,
                Tap::Hidden => blocks[i].hidden().expect("a checked tap"),
            };
            FeatureInfo { channels, stride: placed[i].output_stride }
        };
        let mut info: Vec<FeatureInfo> = taps.iter().map(info).collect();
        let channels = if config.last > 0 { config.last } else { c_out };
        info.push(FeatureInfo { channels, stride: config.output_stride() });
        let stages = config.stages.iter().map(|stage| stage.blocks.len()).collect();
        Self { stem, blocks, last, taps, info, stages }
    }

    /// The first convolution.
    pub(super) fn stem(names: &BodyNames, channels: i64, style: BlockStyle) -> ConvNorm {
        let conv = ConvConfig { stride: STEM_STRIDE, init: style.names.init(), ..Default::default() };
        ConvNorm::new(names.stem(), (3, channels), 3, conv, style.bn, style.activation)
    }

    /// The last convolution.
    pub(super) fn last(names: &BodyNames, channels: (i64, i64), style: BlockStyle) -> ConvNorm {
        let conv = ConvConfig { init: style.names.init(), ..Default::default() };
        ConvNorm::new(names.last(), channels, 1, conv, style.bn, style.activation)
    }

    /// The maps of `taps` of a block's two.
    pub(super) fn tapped<T>(&self, block: usize, hidden: &Option<T>, output: &T, copy: impl Fn(&T) -> T) -> Vec<T> {
        let of_block = self.taps.iter().filter(|(i, _)| *i == block);
        let map = |(_, tap): &(usize, Tap)| match tap {
            Tap::Output => copy(output),
            Tap::Hidden => copy(hidden.as_ref().expect("a checked tap")),
        };
        of_block.map(map).collect()
    }
}

impl Backbone for Trunk {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut xs = self.stem.forward(xs, mode);
        let mut features = Vec::with_capacity(self.taps.len() + 1);
        for (i, block) in self.blocks.iter().enumerate() {
            let (hidden, ys) = block.forward(&xs, mode);
            features.extend(self.tapped(i, &hidden, &ys, Tensor::shallow_clone));
            xs = probe::block(ys);
        }
        features.push(self.last.as_ref().map_or_else(|| xs.shallow_clone(), |last| last.forward(&xs, mode)));
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.clone()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut cost = Cost::default();
        let mut xs = self.stem.cost(input, &mut cost);
        let mut parts = vec![("stem".to_string(), cost)];
        let mut shapes = Vec::with_capacity(self.taps.len() + 1);
        let mut blocks = self.blocks.iter().enumerate();
        for (s, count) in self.stages.iter().enumerate() {
            let mut cost = Cost::default();
            for (i, block) in blocks.by_ref().take(*count) {
                let (hidden, ys) = block.cost(xs, &mut cost);
                shapes.extend(self.tapped(i, &hidden, &ys, |shape| *shape));
                xs = ys;
            }
            parts.push((format!("stage_{s}"), cost));
        }
        if let Some(last) = &self.last {
            let mut cost = Cost::default();
            xs = last.cost(xs, &mut cost);
            parts.push(("last".to_string(), cost));
        }
        shapes.push(xs);
        (parts, shapes)
    }
}

/// Places of the body's layers.
pub(super) enum BodyNames<'a, 'v> {
    /// torchvision's; it has no name for a last convolution after fewer blocks than its own.
    Torchvision(VarBuilder<'v>),
    /// SqueezeNAS'.
    Squeezenas(VarBuilder<'v>),
    /// A supernet's: the blocks of a path by what they are.
    Shared {
        /// The supernet's place.
        vb: &'a VarBuilder<'v>,
        /// The blocks.
        slots: Vec<Slot>,
    },
}

/// What a block of a supernet's path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub stage: usize,
    /// Number in its stage.
    pub position: usize,
    pub operator: Operator,
}

impl Slot {
    /// The block's place below the supernet's.
    pub(super) fn place<'v>(self, vb: &VarBuilder<'v>) -> VarBuilder<'v> {
        vb.sub("body").sub(self.stage).sub(self.position).sub(self.operator)
    }
}

impl<'v> BodyNames<'_, 'v> {
    fn of(vb: &VarBuilder<'v>, names: Names) -> Self {
        match names {
            Names::Torchvision => Self::Torchvision(vb.sub("backbone").sub("features")),
            Names::Squeezenas => Self::Squeezenas(vb.sub("encoder")),
        }
    }

    fn stem(&self) -> [VarBuilder<'v>; 2] {
        let vb = match self {
            Self::Torchvision(vb) => vb.sub(0),
            Self::Squeezenas(vb) => vb.sub("conv1"),
            Self::Shared { vb, .. } => vb.sub("stem"),
        };
        [vb.sub(0), vb.sub(1)]
    }

    fn block(&self, i: usize) -> VarBuilder<'v> {
        match self {
            Self::Torchvision(vb) => vb.sub(i + 1).sub("conv"),
            Self::Squeezenas(vb) => vb.sub("residuals").sub(i).sub("op"),
            Self::Shared { vb, slots } => slots[i].place(vb),
        }
    }

    fn last(&self) -> [VarBuilder<'v>; 2] {
        let vb = match self {
            Self::Torchvision(vb) => vb.sub("last"),
            Self::Squeezenas(vb) => vb.sub("last_conv"),
            Self::Shared { vb, .. } => vb.sub("last"),
        };
        [vb.sub(0), vb.sub(1)]
    }
}
