//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) of any width, whole or its first blocks, with torchvision's variables.

use super::{BlockConfig, Layout, Naming, Taps};
use crate::nn::{Activation, BnConfig, Init};

/// Expansion, channels, blocks and stride of the groups of inverted residuals.
const GROUPS: [(i64, i64, usize, i64); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
/// Channels of the first convolution.
const STEM: i64 = 32;
/// Channels are rounded to multiples of this.
const DIVISOR: i64 = 8;

/// Inverted residuals of the whole network.
pub const BLOCKS: usize = 17;

/// `channels` rounded to a multiple of 8, by at most a tenth down.
pub fn divisible(channels: f64) -> i64 {
    let rounded = ((channels + DIVISOR as f64 / 2.0) as i64 / DIVISOR * DIVISOR).max(DIVISOR);
    if (rounded as f64) < 0.9 * channels { rounded + DIVISOR } else { rounded }
}

/// The first `blocks` inverted residuals with `width` times the channels, without the last convolution. Maps: the last of
/// every stride from 4 on, none of which ends with an activation.
pub fn trunk(width: f64, blocks: usize) -> Layout {
    let scaled = |channels: i64| divisible(channels as f64 * width);
    let mut c_in = scaled(STEM);
    let rows = GROUPS.iter().flat_map(|&(expansion, channels, blocks, stride)| {
        (0..blocks).map(move |i| (expansion, channels, if i == 0 { stride } else { 1 }))
    });
    let block = |(expansion, channels, stride)| {
        let c_out = scaled(channels);
        let before = std::mem::replace(&mut c_in, c_out);
        BlockConfig::new((before, c_out), before * expansion, 3, stride)
    };
    Layout {
        stem: (scaled(STEM), 2, Activation::Relu6),
        blocks: rows.take(blocks).map(block).collect(),
        last: None,
        bias: false,
        bn: BnConfig::default(),
        naming: Naming::V2,
        init: Init::KaimingFanOut,
        output_stride: None,
        taps: Taps::Strides { from: 4 },
        part_per_block: false,
    }
}
