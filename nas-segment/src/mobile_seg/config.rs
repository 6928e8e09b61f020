//! A network of inverted residuals for dense prediction as plain data: what a config's `[model]` says, what presets are and
//! what the space's architectures stand for.

use std::fmt;

use anyhow::{Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{StageSize, sizes};
use nas_core::nn::{Activation, BnConfig, VarBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::block::{BlockStyle, Names, Place, block_parts};
use super::head;
use super::network::Trunk;
use super::operator::Operator;
use crate::model::SegNet;

/// Stride of the stem, a 3x3 convolution.
pub const STEM_STRIDE: i64 = 2;

/// A network of the space, or one like it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MobileSegConfig {
    /// Channels of the first convolution.
    pub stem: i64,
    /// Blocks of equal channels, from input to output.
    pub stages: Vec<StageConfig>,
    /// Channels of a last 1x1 convolution with norm and activation; 0 for none.
    #[serde(default)]
    pub last: i64,
    /// Follows the norms inside blocks, and those of the first and last convolutions.
    #[serde(default = "default_activation")]
    pub activation: Activation,
    /// Names of the variables.
    #[serde(default)]
    pub names: Names,
    /// All norms.
    #[serde(default)]
    pub bn: BnConfig,
    /// Probability of dropping a value of the context module's output in training.
    #[serde(default = "default_dropout")]
    pub dropout: f64,
    /// What makes logits of the maps.
    pub head: HeadConfig,
}

pub(super) fn default_activation() -> Activation {
    Activation::Relu6
}

pub(super) fn default_dropout() -> f64 {
    0.1
}

/// Blocks of equal channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Channels of every block's output.
    pub channels: i64,
    /// Stride of the first block, 1 or 2.
    #[serde(default = "one")]
    pub stride: i64,
    /// The stride that the first block has in the network whose field of view this one keeps, 1 or 2; absent for `stride`.
    /// Where the product of these before a block exceeds that of the strides, its depthwise kernels are dilated by the
    /// ratio: DeepLab's trade of a stride for a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_stride: Option<i64>,
    /// The blocks.
    pub blocks: Vec<Operator>,
}

fn one() -> i64 {
    1
}

/// From the maps to logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "MobileSegHeadConfig")]
pub enum HeadConfig {
    /// Atrous spatial pyramid pooling of depthwise-separable convolutions, with image pooling (DeepLabv3+).
    SeparableAspp {
        /// Rates on a map of stride 16; those that are used follow from the map's own stride.
        rates: [i64; 3],
        /// Channels of every branch and of the output.
        channels: i64,
        /// Refinements by finer maps, the coarser first.
        #[serde(default)]
        decoder: Vec<DecoderStep>,
    },
    /// A 1x1 convolution scaled by a gate of the image's mean (Lite R-ASPP, Howard et al. 2019).
    LrAspp {
        /// Channels of the output.
        channels: i64,
        /// Refinements by finer maps, the coarser first.
        #[serde(default)]
        decoder: Vec<DecoderStep>,
    },
    /// A 1x1 convolution beside the mean of the image, mixed: a pyramid without atrous branches.
    Pooling {
        /// Channels of both branches and of the output.
        channels: i64,
        /// Refinements by finer maps, the coarser first.
        #[serde(default)]
        decoder: Vec<DecoderStep>,
    },
    /// SqueezeNAS' Lite R-ASPP: the gate pools windows of 49x49 where the map is as large; logits of a finer map are added.
    SqueezenasLrAspp {
        /// Channels of the gated map.
        channels: i64,
        /// Stride of the finer map.
        low_level_stride: i64,
    },
    /// SqueezeNAS' pyramid of the largest networks, with grouped atrous convolutions.
    SqueezenasAspp {
        /// Channels of the pyramid.
        channels: i64,
        /// Stride of the finer map.
        low_level_stride: i64,
    },
}

/// One refinement: the coarse map resized beside a reduced finer one, mixed by separable 3x3 convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecoderStep {
    /// Stride of the finer map.
    pub stride: i64,
    /// Which map of the last block of that stride.
    #[serde(default)]
    pub tap: Tap,
    /// Channels that the finer map is reduced to.
    pub low_level_channels: i64,
    /// Channels of the separable convolutions.
    pub channels: i64,
    /// Separable convolutions.
    #[serde(default = "one_conv")]
    pub convs: usize,
}

fn one_conv() -> usize {
    1
}

/// A map of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tap {
    /// The block's output.
    #[default]
    Output,
    /// The map between its depthwise and its last convolution, DeepLab's choice.
    Hidden,
}

impl HeadConfig {
    /// Channels of the context module.
    pub fn channels(&self) -> i64 {
        match self {
            Self::SeparableAspp { channels, .. }
            | Self::LrAspp { channels, .. }
            | Self::Pooling { channels, .. }
            | Self::SqueezenasLrAspp { channels, .. }
            | Self::SqueezenasAspp { channels, .. } => *channels,
        }
    }

    /// The refinements; none of SqueezeNAS' heads.
    pub(super) fn decoder(&self) -> Option<&[DecoderStep]> {
        match self {
            Self::SeparableAspp { decoder, .. } | Self::LrAspp { decoder, .. } | Self::Pooling { decoder, .. } => {
                Some(decoder)
            }
            Self::SqueezenasLrAspp { .. } | Self::SqueezenasAspp { .. } => None,
        }
    }

    fn channels_mut(&mut self) -> (&mut i64, Option<&mut Vec<DecoderStep>>) {
        match self {
            Self::SeparableAspp { channels, decoder, .. }
            | Self::LrAspp { channels, decoder }
            | Self::Pooling { channels, decoder } => (channels, Some(decoder)),
            Self::SqueezenasLrAspp { channels, .. } | Self::SqueezenasAspp { channels, .. } => (channels, None),
        }
    }

    /// The maps besides the last that the head takes, coarser first: stride and which.
    pub fn taps(&self) -> Vec<(i64, Tap)> {
        match self {
            Self::SqueezenasLrAspp { low_level_stride, .. } | Self::SqueezenasAspp { low_level_stride, .. } => {
                vec![(*low_level_stride, Tap::Output)]
            }
            _ => self.decoder().into_iter().flatten().map(|step| (step.stride, step.tap)).collect(),
        }
    }

    fn check(&self) -> Result<()> {
        let positive = |key: &str, value: i64| {
            ensure!((1..=8192).contains(&value), "model.head.{key} = {value}: expected 1 to 8192");
            Ok(())
        };
        match self {
            Self::SeparableAspp { channels, decoder, rates } => {
                ensure!(
                    rates.iter().all(|rate| (1..=1024).contains(rate)),
                    "model.head.rates = {rates:?}: expected three numbers of 1 to 1024"
                );
                positive("channels", *channels)?;
                check_decoder(decoder)
            }
            Self::LrAspp { channels, decoder } | Self::Pooling { channels, decoder } => {
                positive("channels", *channels)?;
                check_decoder(decoder)
            }
            Self::SqueezenasLrAspp { channels, .. } | Self::SqueezenasAspp { channels, .. } => {
                positive("channels", *channels)
            }
        }
    }
}

fn check_decoder(decoder: &[DecoderStep]) -> Result<()> {
    for (i, step) in decoder.iter().enumerate() {
        let DecoderStep { low_level_channels, channels, convs, .. } = step;
        for (key, value) in [("low_level_channels", *low_level_channels), ("channels", *channels)] {
            ensure!((1..=8192).contains(&value), "model.head.decoder[{i}].{key} = {value}: expected 1 to 8192");
        }
        ensure!((1..=8).contains(convs), "model.head.decoder[{i}].convs = {convs}: expected 1 to 8");
    }
    Ok(())
}

impl fmt::Display for MobileSegConfig {
    /// Stem, stages as channels, stride and blocks, head: `16 | 24/2 ib_k3_e3 ib_k3_e3 | … | separable_aspp …`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.stem)?;
        for StageConfig { channels, stride, blocks, .. } in &self.stages {
            write!(f, " | {channels}/{stride}")?;
            blocks.iter().try_for_each(|block| write!(f, " {block}"))?;
        }
        match &self.head {
            HeadConfig::SeparableAspp { rates: [a, b, c], channels, .. } => {
                write!(f, " | separable_aspp {a},{b},{c} {channels}")?;
            }
            HeadConfig::LrAspp { channels, .. } => write!(f, " | lr_aspp {channels}")?,
            HeadConfig::Pooling { channels, .. } => write!(f, " | pooling {channels}")?,
            HeadConfig::SqueezenasLrAspp { channels, .. } => write!(f, " | squeezenas_lr_aspp {channels}")?,
            HeadConfig::SqueezenasAspp { channels, .. } => write!(f, " | squeezenas_aspp {channels}")?,
        }
        for DecoderStep { stride, tap, low_level_channels, channels, convs } in self.head.decoder().unwrap_or_default()
        {
            let hidden = if *tap == Tap::Hidden { " hidden" } else { "" };
            write!(f, " | /{stride}{hidden} {low_level_channels} to {channels}, {convs}")?;
        }
        Ok(())
    }
}

/// A block in its place, with the dilation that makes up for strides in its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlacedBlock {
    /// What it is.
    pub operator: Operator,
    /// Where it is.
    pub place: Place,
    /// Input pixels per pixel of its output along one side.
    pub output_stride: i64,
}

/// What dilation makes up for: `plain` and actual stride before a block.
pub(super) fn rate(plain: i64, actual: i64) -> i64 {
    (plain / actual).max(1)
}

impl MobileSegConfig {
    /// The blocks one after the other.
    pub fn blocks(&self) -> Vec<PlacedBlock> {
        let (mut c_in, mut actual, mut plain) = (self.stem, STEM_STRIDE, STEM_STRIDE);
        let mut blocks = Vec::new();
        for stage in &self.stages {
            for (i, operator) in stage.blocks.iter().enumerate() {
                let stride = if i == 0 { stage.stride } else { 1 };
                let operator = operator.dilated(rate(plain, actual));
                if i == 0 {
                    plain *= stage.plain_stride.unwrap_or(stage.stride);
                }
                actual *= stride;
                let place = Place { channels: (c_in, stage.channels), stride };
                blocks.push(PlacedBlock { operator, place, output_stride: actual });
                c_in = stage.channels;
            }
        }
        blocks
    }

    /// The first convolution, which is one block, the stages that have blocks, the context module, and of every refinement the
    /// reduced finer map and the convolutions.
    pub fn sizes(&self) -> Vec<StageSize> {
        let size = |channels, blocks| StageSize { channels, blocks };
        let stages = self.stages.iter().filter(|stage| !stage.blocks.is_empty());
        let decoder = self.head.decoder().into_iter().flatten();
        std::iter::once(size(self.stem, 1))
            .chain(stages.map(|stage| size(stage.channels, stage.blocks.len())))
            .chain([size(self.head.channels(), 1)])
            .chain(decoder.flat_map(|step| [size(step.low_level_channels, 1), size(step.channels, step.convs)]))
            .collect()
    }

    /// Gives it other [`MobileSegConfig::sizes`].
    pub fn resize(&mut self, sizes: &[StageSize]) {
        let mut sizes = sizes.iter();
        let mut take = |channels: &mut i64| {
            let size = sizes.next()?;
            *channels = size.channels;
            Some(size.blocks)
        };
        take(&mut self.stem);
        for StageConfig { channels, blocks, .. } in self.stages.iter_mut().filter(|stage| !stage.blocks.is_empty()) {
            *blocks = take(channels).map_or_else(Vec::new, |count| sizes::resized(blocks, count));
        }
        let (channels, decoder) = self.head.channels_mut();
        take(channels);
        for DecoderStep { low_level_channels, channels, convs, .. } in decoder.into_iter().flatten() {
            take(low_level_channels);
            *convs = take(channels).unwrap_or(*convs);
        }
    }

    /// What weight inheritance knows of the blocks.
    pub fn parts(&self) -> Vec<BlockParts> {
        let places = self.stages.iter().enumerate().flat_map(|(s, stage)| (0..stage.blocks.len()).map(move |i| (s, i)));
        let part = |(i, (block, place)): (usize, (PlacedBlock, (usize, usize)))| {
            let prefix = match self.names {
                Names::Torchvision => format!("backbone.features.{}.conv.", i + 1),
                Names::Squeezenas => format!("encoder.residuals.{i}.op."),
            };
            let is_identity = block.operator == Operator::Skip && block.place.is_residual();
            (!is_identity).then(|| block_parts(block.operator, block.place, self.names, &prefix, place))
        };
        self.blocks().into_iter().zip(places).enumerate().filter_map(part).collect()
    }

    /// Input pixels per pixel of the last map along one side.
    pub fn output_stride(&self) -> i64 {
        let strides = self.stages.iter().filter(|stage| !stage.blocks.is_empty()).map(|stage| stage.stride);
        STEM_STRIDE * strides.product::<i64>()
    }

    /// Says which key has a value that no network can be made of.
    pub fn validate(&self) -> Result<()> {
        let Self { stem, stages, last, dropout, .. } = self;
        ensure!((1..=4096).contains(stem), "model.stem = {stem}: expected 1 to 4096");
        ensure!((0..=8192).contains(last), "model.last = {last}: expected 0 to 8192");
        ensure!((0.0..1.0).contains(dropout), "model.dropout = {dropout}: expected a probability below 1");
        for (i, stage) in stages.iter().enumerate() {
            let StageConfig { channels, stride, plain_stride, .. } = stage;
            ensure!((1..=4096).contains(channels), "model.stages[{i}].channels = {channels}: expected 1 to 4096");
            for (key, stride) in [("stride", *stride), ("plain_stride", plain_stride.unwrap_or(*stride))] {
                ensure!((1..=2).contains(&stride), "model.stages[{i}].{key} = {stride}: expected 1 or 2");
            }
        }
        let blocks = self.blocks();
        ensure!(!blocks.is_empty(), "model.stages: no stage has a block; expected at least one");
        for (i, block) in blocks.iter().enumerate() {
            check_block(block).map_err(|error| error.context(format!("model.stages: block {i}")))?;
        }
        self.head.check()?;
        self.check_taps(&blocks)
    }

    fn check_taps(&self, blocks: &[PlacedBlock]) -> Result<()> {
        let mut coarser = self.output_stride();
        for (stride, tap) in self.head.taps() {
            let tapped = blocks.iter().rfind(|block| block.output_stride == stride);
            let Some(tapped) = tapped.filter(|_| stride < coarser) else {
                anyhow::bail!("model.head: a map of stride {stride} is not finer than {coarser}, or there is none")
            };
            ensure!(
                tap == Tap::Output || tapped.operator.has_hidden(),
                "model.head: the hidden map of {} at stride {stride}; it has none",
                tapped.operator
            );
            coarser = stride;
        }
        Ok(())
    }

    /// The network for `num_classes`, its weights under `vb`. A value that no network can be made of is an error that
    /// names the key.
    pub fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<SegNet> {
        self.validate()?;
        let trunk = Trunk::new(vb, self);
        let head = head::build(vb, self, &trunk, num_classes);
        Ok(SegNet { backbone: Box::new(trunk), head })
    }

    pub(super) fn style(&self) -> BlockStyle {
        BlockStyle { names: self.names, activation: self.activation, bn: self.bn }
    }
}

/// Says why there can be no such block.
pub(super) fn check_block(block: &PlacedBlock) -> Result<()> {
    let PlacedBlock { operator, place: Place { channels: (c_in, c_out), stride }, .. } = block;
    ensure!(*stride == 1 || operator.can_stride(), "{operator} has stride {stride}; expected one with a kernel");
    match operator {
        Operator::Skip => {
            ensure!(
                *stride == 1 || c_out % 2 == 0,
                "skip of stride {stride} to {c_out} channels; expected an even number"
            )
        }
        Operator::Bottleneck(form) => {
            let hidden = c_in * form.expansion.unwrap_or(1);
            let divides = [*c_in, hidden, *c_out].iter().all(|channels| channels % form.groups == 0);
            ensure!(divides, "{operator} from {c_in} to {c_out} channels; expected multiples of its groups");
        }
    }
    Ok(())
}
