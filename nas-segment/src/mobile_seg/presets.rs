//! Named networks of the space: DeepLabv3+ with the first blocks of MobileNetV2, the six of SqueezeNAS (arXiv 1908.01748), and
//! two made by hand.

use nas_core::nn::{Activation, BnConfig};

use super::block::Names;
use super::config::{DecoderStep, HeadConfig, MobileSegConfig, StageConfig, Tap, default_activation, default_dropout};
use super::operator::Operator;

/// Every named network.
pub fn presets() -> Vec<(&'static str, MobileSegConfig)> {
    use SqueezeSize::{Large, Small, Xlarge};
    let squeezenas = |size: SqueezeSize, genotype| size.network(genotype);
    vec![
        ("mobile_seg_deeplabv3plus_13", deeplabv3plus(13)),
        ("mobile_seg_deeplabv3plus_11", deeplabv3plus(11)),
        ("mobile_seg_hand_a", hand_a()),
        ("mobile_seg_hand_c", hand_c()),
        ("squeezenas_mac_small", squeezenas(Small, &MAC_SMALL)),
        ("squeezenas_mac_large", squeezenas(Large, &MAC_LARGE)),
        ("squeezenas_mac_xlarge", squeezenas(Xlarge, &MAC_XLARGE)),
        ("squeezenas_lat_small", squeezenas(Small, &LAT_SMALL)),
        ("squeezenas_lat_large", squeezenas(Large, &LAT_LARGE)),
        ("squeezenas_lat_xlarge", squeezenas(Xlarge, &LAT_XLARGE)),
    ]
}

const MAC_SMALL: [usize; 20] = [1, 0, 0, 1, 7, 0, 0, 9, 7, 11, 12, 1, 7, 10, 8, 8, 11, 9, 9, 9];
const LAT_SMALL: [usize; 20] = [0, 12, 12, 12, 3, 3, 12, 12, 7, 11, 5, 1, 11, 11, 11, 8, 11, 10, 10, 10];
const MAC_LARGE: [usize; 22] = [1, 3, 9, 1, 1, 7, 7, 11, 7, 7, 7, 4, 2, 7, 0, 4, 10, 11, 9, 9, 9, 8];
const LAT_LARGE: [usize; 22] = [12, 3, 2, 8, 2, 7, 3, 2, 11, 7, 4, 4, 5, 11, 11, 11, 0, 11, 11, 11, 11, 11];
const MAC_XLARGE: [usize; 22] = [1, 2, 1, 4, 10, 7, 5, 9, 2, 7, 2, 12, 9, 7, 0, 7, 12, 11, 9, 9, 9, 10];
const LAT_XLARGE: [usize; 22] = [12, 2, 2, 2, 8, 3, 2, 7, 5, 7, 3, 9, 3, 7, 10, 9, 2, 11, 10, 4, 10, 11];

/// Channels, blocks and stride of a stage.
pub(super) type StageRow = (i64, usize, i64);

/// SqueezeNAS' three macro structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SqueezeSize {
    Small,
    Large,
    Xlarge,
}

impl SqueezeSize {
    /// Channels of the stem.
    pub(super) fn stem(self) -> i64 {
        if self == Self::Xlarge { 48 } else { 16 }
    }

    pub(super) fn stages(self) -> Vec<StageRow> {
        match self {
            Self::Small => vec![(16, 4, 2), (24, 4, 2), (40, 4, 2), (48, 4, 1), (96, 4, 1)],
            Self::Large => {
                vec![(16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (96, 4, 1), (160, 4, 1), (160, 1, 1)]
            }
            Self::Xlarge => {
                vec![(24, 1, 1), (32, 4, 2), (48, 4, 2), (96, 4, 2), (144, 4, 1), (240, 4, 1), (320, 1, 1)]
            }
        }
    }

    /// Channels of the last 1x1 convolution; 0 for none.
    pub(super) fn last(self) -> i64 {
        if self == Self::Small { 256 } else { 0 }
    }

    pub(super) fn head(self) -> HeadConfig {
        match self {
            Self::Small | Self::Large => HeadConfig::SqueezenasLrAspp { channels: 128, low_level_stride: 8 },
            Self::Xlarge => HeadConfig::SqueezenasAspp { channels: 160, low_level_stride: 4 },
        }
    }

    fn network(self, genotype: &[usize]) -> MobileSegConfig {
        let operators = Operator::squeezenas();
        let mut genes = genotype.iter().map(|gene| operators[*gene]);
        let stages = self.stages().into_iter().map(|(channels, blocks, stride)| StageConfig {
            channels,
            stride,
            plain_stride: None,
            blocks: genes.by_ref().take(blocks).collect(),
        });
        MobileSegConfig {
            stem: self.stem(),
            stages: stages.collect(),
            last: self.last(),
            activation: Activation::Relu,
            names: Names::Squeezenas,
            bn: BnConfig::default(),
            dropout: 0.0,
            head: self.head(),
        }
    }
}

/// A network of the default space.
fn network(stem: i64, stages: Vec<StageConfig>, head: HeadConfig) -> MobileSegConfig {
    MobileSegConfig {
        stem,
        stages,
        last: 0,
        activation: default_activation(),
        names: Names::Torchvision,
        bn: BnConfig::default(),
        dropout: default_dropout(),
        head,
    }
}

/// A stage of equal blocks.
fn stage(channels: i64, stride: i64, operator: Operator, blocks: usize) -> StageConfig {
    StageConfig { channels, stride, plain_stride: None, blocks: vec![operator; blocks] }
}

/// DeepLabv3+ of `configs/segment/camvid_compare.toml`: the first `blocks` of MobileNetV2, at most 13, under a small separable
/// head.
fn deeplabv3plus(blocks: usize) -> MobileSegConfig {
    let six = Operator::inverted(3, 6);
    let table = [
        stage(16, 1, Operator::separable(3), 1),
        stage(24, 2, six, 2),
        stage(32, 2, six, 3),
        stage(64, 2, six, 4),
        stage(96, 1, six, 3),
    ];
    let mut left = blocks;
    let stages = table.into_iter().map(|mut stage| {
        stage.blocks.truncate(left);
        left -= stage.blocks.len();
        stage
    });
    let refinement = DecoderStep { stride: 4, tap: Tap::Hidden, low_level_channels: 32, channels: 64, convs: 2 };
    let head = HeadConfig::SeparableAspp { rates: [3, 6, 9], channels: 64, decoder: vec![refinement] };
    network(32, stages.collect(), head)
}

/// Made by hand: ahead of DeepLabv3+ with 11 blocks at 59 % of its multiply-adds in a plain PyTorch recipe.
fn hand_c() -> MobileSegConfig {
    let stages = vec![
        stage(16, 1, Operator::separable(3), 1),
        stage(24, 2, Operator::inverted(5, 3), 2),
        stage(40, 2, Operator::inverted(5, 3), 3),
        stage(64, 2, Operator::inverted(5, 6), 3),
    ];
    let step = |stride, low_level_channels, channels| DecoderStep {
        stride,
        tap: Tap::Output,
        low_level_channels,
        channels,
        convs: 1,
    };
    let decoder = vec![step(8, 24, 48), step(4, 16, 32)];
    network(16, stages, HeadConfig::SeparableAspp { rates: [3, 6, 9], channels: 48, decoder })
}

/// Made by hand, with the decoder of DeepLabv3+ at half its width.
fn hand_a() -> MobileSegConfig {
    let stages = vec![
        stage(24, 2, Operator::inverted(3, 3), 2),
        stage(40, 2, Operator::inverted(3, 4), 3),
        stage(80, 2, Operator::inverted(3, 4), 4),
    ];
    let refinement = DecoderStep { stride: 4, tap: Tap::Output, low_level_channels: 24, channels: 48, convs: 1 };
    network(16, stages, HeadConfig::SeparableAspp { rates: [3, 6, 9], channels: 64, decoder: vec![refinement] })
}
