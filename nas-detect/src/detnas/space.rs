//! The space of DetNAS backbones: sizes, validity, and a table of block costs that answers a limit without a network.

use anyhow::{Context, Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{StageSize, sizes};
use nas_core::nn::Cost;
use nas_core::nn::{BnConfig, Module, Shape, VarBuilder};
use nas_core::run::drawing::Boxes;
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::Architecture;
use nas_core::space::{
    ArchParameter, Backbone, Choice, ChoiceSpace, InvalidArchitecture, SearchSpace, Supernet, WeightSharing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::block::{Block, BlockConfig, BlockOp, ChannelShuffle, WeightInit};
use super::network::{DetNasNet, stem};
use super::released::released;
use super::supernet::DetNasSupernet;

/// Stages of a backbone; their outputs have strides 4, 8, 16, 32.
pub(super) const STAGES: usize = 4;

/// A named size of the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DetNasSize {
    /// For tests and small sets: 9 blocks.
    #[serde(rename = "tiny")]
    Tiny,
    /// 20 blocks, about 300 M multiply-adds at 224x224.
    #[serde(rename = "300m")]
    Mega300,
    /// 40 blocks, about 1.3 G multiply-adds.
    #[serde(rename = "1.3g")]
    Giga1_3,
    /// 40 blocks, nominally 3.8 G multiply-adds.
    #[serde(rename = "3.8g")]
    Giga3_8,
}

/// A backbone of the space, or the space itself when `arch` is not used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetNasConfig {
    /// What the other sizes default to.
    pub size: DetNasSize,
    /// Blocks of each stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<[usize; STAGES]>,
    /// Channels of the stem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<i64>,
    /// Channels of each stage, multiples of 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<[i64; STAGES]>,
    /// How blocks of stride 1 split their channels.
    #[serde(default)]
    pub shuffle: ChannelShuffle,
    /// Norms; the authors use momentum 0.1 in the supernet and 0.01 in final networks.
    #[serde(default)]
    pub bn: BnConfig,
    /// Initial weights.
    #[serde(default)]
    pub init: WeightInit,
    /// The choices; default: the architecture released for COCO with FPN, in the tiny size 3x3 everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Architecture>,
}

impl DetNasConfig {
    /// The space of this size with its defaults.
    pub fn new(size: DetNasSize) -> Self {
        let (bn, init, shuffle) = Default::default();
        Self { size, repeats: None, stem: None, channels: None, shuffle, bn, init, arch: None }
    }

    /// A released architecture by its name.
    pub fn released(name: &str) -> Option<Self> {
        let point = released().into_iter().find(|point| point.name == name)?;
        Some(Self { arch: Some(point.arch), ..Self::new(point.size) })
    }

    /// The space. A size that no network can be made of is an error that names the key.
    pub fn space(&self) -> Result<DetNasSpace> {
        let (stem, repeats, channels) = match self.size {
            DetNasSize::Tiny => (8, [2, 2, 3, 2], [16, 32, 64, 96]),
            DetNasSize::Mega300 => (16, [4, 4, 8, 4], [64, 160, 320, 640]),
            DetNasSize::Giga1_3 => (48, [8, 8, 16, 8], [96, 240, 480, 960]),
            DetNasSize::Giga3_8 => (72, [8, 8, 16, 8], [172, 432, 864, 1728]),
        };
        let space = DetNasSpace {
            stem: self.stem.unwrap_or(stem),
            repeats: self.repeats.unwrap_or(repeats),
            channels: self.channels.unwrap_or(channels),
            shuffle: self.shuffle,
            bn: self.bn,
            init: self.init,
        };
        space.check()?;
        Ok(space)
    }

    /// The architecture: the configured one, else the default of the size.
    pub fn arch(&self) -> Result<Architecture> {
        let space = self.space()?;
        let blocks = space.num_blocks();
        let of_size =
            || released().into_iter().find(|point| point.size == self.size && point.name.starts_with("coco_fpn"));
        let arch = match (&self.arch, of_size()) {
            (Some(arch), _) => arch.clone(),
            (None, Some(point)) if point.arch.choices().len() == blocks => point.arch,
            (None, _) => Architecture::new(vec![0; blocks]),
        };
        space.validate(&arch).context("model.backbone.arch")?;
        Ok(arch)
    }

    /// Channels and blocks of the stem, which is one block, and of the stages.
    pub fn sizes(&self) -> Result<Vec<StageSize>> {
        let space = self.space()?;
        let stages = space.channels.into_iter().zip(space.repeats);
        let all = std::iter::once((space.stem, 1)).chain(stages);
        Ok(all.map(|(channels, blocks)| StageSize { channels, blocks }).collect())
    }

    /// The network of other [`DetNasConfig::sizes`]; a new block is like the last of its stage.
    pub fn with_sizes(self, sizes: &[StageSize]) -> Result<Self> {
        let key = "model.backbone";
        sizes::check(key, &self.sizes()?, sizes)?;
        ensure!(sizes[0].blocks == 1, "{key}: {} for the stem; expected one block", sizes[0]);
        let (space, arch) = (self.space()?, self.arch()?);
        let mut blocks = arch.choices();
        let mut choices = Vec::new();
        for (repeats, size) in space.repeats.into_iter().zip(&sizes[1..]) {
            let (stage, rest) = blocks.split_at(repeats);
            choices.extend(sizes::resized(stage, size.blocks));
            blocks = rest;
        }
        Ok(Self {
            stem: Some(sizes[0].channels),
            channels: Some(std::array::from_fn(|i| sizes[i + 1].channels)),
            repeats: Some(std::array::from_fn(|i| sizes[i + 1].blocks)),
            arch: Some(Architecture::new(choices)),
            ..self
        })
    }

    /// What weight inheritance knows of the blocks, whose names begin with `prefix`.
    pub fn parts(&self, prefix: &str) -> Result<Vec<BlockParts>> {
        Ok(sizes::numbered_through(&self.sizes()?[1..], &format!("{prefix}blocks.")))
    }

    /// Channels of the 1x1 convolution of the authors' classifier.
    pub fn last_channels(&self) -> i64 {
        if self.size == DetNasSize::Giga3_8 { 1728 } else { 1024 }
    }
}

/// The space: one of [`BlockOp::ALL`] per block, all with the same channels.
#[derive(Clone, Debug)]
pub struct DetNasSpace {
    stem: i64,
    repeats: [usize; STAGES],
    channels: [i64; STAGES],
    shuffle: ChannelShuffle,
    bn: BnConfig,
    init: WeightInit,
}

impl DetNasSpace {
    fn check(&self) -> Result<()> {
        let Self { stem, repeats, channels, .. } = self;
        ensure!((1..=MAX_CHANNELS).contains(stem), "model.backbone.stem = {stem}: expected 1 to {MAX_CHANNELS}");
        ensure!(
            repeats.iter().all(|blocks| (1..=MAX_BLOCKS).contains(blocks)),
            "model.backbone.repeats = {repeats:?}: expected 1 to {MAX_BLOCKS} blocks in each stage"
        );
        let before = std::iter::once(stem).chain(channels);
        ensure!(
            channels.iter().zip(before).all(|(c, before)| c % 4 == 0 && c > before && *c <= MAX_CHANNELS),
            "model.backbone.channels = {channels:?}: expected growing multiples of 4 above the stem's {stem}, up to {MAX_CHANNELS}"
        );
        Ok(())
    }

    /// Blocks of the network.
    pub fn num_blocks(&self) -> usize {
        self.repeats.iter().sum()
    }

    /// Channels of the outputs of the stages.
    pub fn channels(&self) -> [i64; STAGES] {
        self.channels
    }

    /// Indices of the blocks that end a stage.
    pub(super) fn stage_ends(&self) -> Vec<usize> {
        let ends = self.repeats.iter().scan(0, |end, blocks| {
            *end += blocks;
            Some(*end - 1)
        });
        ends.collect()
    }

    /// The stage of block `index`.
    fn stage_of(&self, index: usize) -> usize {
        self.stage_ends().iter().position(|end| index <= *end).expect("an index of a block")
    }

    pub(super) fn stem_layer(&self, vb: &VarBuilder) -> nas_core::nn::ConvNorm {
        stem(vb, self.stem, self.init, self.bn)
    }

    /// Block `index` with operator `op`.
    pub(super) fn block(&self, vb: &VarBuilder, index: usize, op: BlockOp) -> Block {
        let (ends, stage) = (self.stage_ends(), self.stage_of(index));
        let first = stage.checked_sub(1).map_or(0, |before| ends[before] + 1);
        let c_out = self.channels[stage];
        let (c_in, stride) = match (index == first, stage.checked_sub(1)) {
            (false, _) => (c_out, 1),
            (true, Some(before)) => (self.channels[before], 2),
            (true, None) => (self.stem, 2),
        };
        let Self { shuffle, bn, init, .. } = *self;
        Block::new(vb, BlockConfig { op, c_in, c_out, stride, shuffle, bn, init })
    }

    /// The operators of `arch`, one per block.
    pub(super) fn ops(&self, arch: &Architecture) -> Result<Vec<BlockOp>, InvalidArchitecture> {
        self.validate(arch)?;
        Ok(arch.choices().iter().map(|choice| BlockOp::ALL[usize::from(*choice)]).collect())
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        (0..self.num_blocks()).map(|i| Decision::new(format!("block {i}"), BlockOp::ALL.map(BlockOp::name))).collect()
    }

    /// The blocks of `arch` as a row of boxes.
    pub fn drawing(&self, arch: &Architecture) -> Result<String, InvalidArchitecture> {
        let mut boxes = Boxes::default();
        boxes.add(self.stem, 2, "#9e9e9e", &format!("stem, {} channels, stride 2", self.stem));
        for (index, op) in self.ops(arch)?.into_iter().enumerate() {
            let stage = self.stage_of(index);
            let color = match op {
                BlockOp::Shuffle3x3 => "#1976d2",
                BlockOp::Shuffle5x5 => "#2e7d32",
                BlockOp::Shuffle7x7 => "#ef6c00",
                BlockOp::Xception => "#6a1b9a",
            };
            let (channels, stride) = (self.channels[stage], 4 << stage);
            boxes.add(channels, stride, color, &format!("{}, {channels} channels, stride {stride}", op.name()));
        }
        Ok(boxes.picture().document())
    }

    /// Multiply-adds of every block under every operator for images of `input`.
    pub fn macs_table(&self, input: Shape) -> MacsTable {
        let vb = VarBuilder::dry();
        let mut cost = Cost::default();
        let mut xs = self.stem_layer(&vb).cost(input, &mut cost);
        let mut blocks = Vec::new();
        for index in 0..self.num_blocks() {
            let mut ys = xs;
            blocks.push(BlockOp::ALL.map(|op| {
                let mut cost = Cost::default();
                ys = self.block(&vb, index, op).cost(xs, &mut cost);
                cost.macs
            }));
            xs = ys;
        }
        MacsTable { stem: cost.macs, blocks }
    }

    /// The supernet, with its own type: beside [`Supernet`] it tells the norms of a path.
    pub fn shared(&self, vb: &VarBuilder) -> DetNasSupernet {
        DetNasSupernet::new(vb, self)
    }
}

const MAX_CHANNELS: i64 = 1 << 14;
const MAX_BLOCKS: usize = 64;

/// Multiply-adds of a space's parts: what a limit on architectures needs, as a sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacsTable {
    /// The stem.
    pub stem: u64,
    /// Each block under each operator.
    pub blocks: Vec<[u64; BlockOp::ALL.len()]>,
}

impl MacsTable {
    /// Multiply-adds of stem and blocks of `arch`, which must be of the space.
    pub fn macs(&self, arch: &Architecture) -> u64 {
        self.stem + self.blocks.iter().zip(arch.choices()).map(|(block, op)| block[usize::from(*op)]).sum::<u64>()
    }

    /// The least and the most multiply-adds of any architecture.
    pub fn range(&self) -> (u64, u64) {
        let sum = |pick: fn(&[u64; 4]) -> u64| self.stem + self.blocks.iter().map(pick).sum::<u64>();
        (sum(|block| *block.iter().min().expect("four")), sum(|block| *block.iter().max().expect("four")))
    }
}

impl ChoiceSpace for DetNasSpace {
    fn name(&self) -> &str {
        "detnas"
    }

    fn decisions(&self) -> Vec<u16> {
        vec![BlockOp::ALL.len() as u16; self.num_blocks()]
    }
}

impl SearchSpace for DetNasSpace {
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        Ok(Box::new(DetNasNet::new(vb, self, arch)?))
    }
}

impl WeightSharing for DetNasSpace {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(self.shared(vb))
    }

    /// `alpha [blocks, 4]`: the operators of every block.
    fn arch_parameters(&self) -> Vec<ArchParameter> {
        let dims = [self.num_blocks() as i64, BlockOp::ALL.len() as i64];
        vec![ArchParameter::new("alpha", &dims, Choice::Operator)]
    }

    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let [alpha] = weights else { panic!("weights of alpha") };
        let best = alpha.argmax(1, false);
        Architecture::new((0..self.num_blocks() as i64).map(|i| best.int64_value(&[i]) as u16).collect())
    }
}
