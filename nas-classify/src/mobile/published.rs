//! Published networks of inverted residuals.
//!
//! `nas-classify cost` gives the published parameters and multiply-adds to the digits printed, but for these. FBNet's
//! multiply-adds (244.5, 291.0, 378.1 M) are 4.6 to 5.0 M below the published ones, and FBNet-C has 5.59 M parameters, not
//! 5.5: the cause is not known; blocks, groups and widths are those of the authors' models, whose own paper and tables differ on
//! FBNet-C too (375 and 383 M, mobile-vision issue 1). MobileNetV3-Small has 56.5 M multiply-adds, not the 66 M of TF-slim's and
//! Keras' tables: that row has 2.9 M parameters, so it is of a larger network than torchvision's of 2,542,856, whose outputs
//! ours equal. ProxylessNAS-GPU has no published count to compare with.

use nas_core::models::mobilenet_v2::{self, divisible};
use nas_core::models::{BlockConfig, Gate, Layout, Naming, Taps};
use nas_core::nn::{Activation, BnConfig, Init};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::Head;

/// Names of published networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// Sandler et al. 2018 (arXiv 1801.04381), torchvision's variables.
    MobilenetV2,
    /// Howard et al. 2019 (arXiv 1905.02244), torchvision's variables.
    MobilenetV3Large,
    /// Howard et al. 2019 (arXiv 1905.02244), torchvision's variables.
    MobilenetV3Small,
    /// Tan et al. 2019 (arXiv 1807.11626).
    MnasnetA1,
    /// Wu et al. 2019 (arXiv 1812.03443).
    FbnetA,
    /// Wu et al. 2019 (arXiv 1812.03443).
    FbnetB,
    /// Wu et al. 2019 (arXiv 1812.03443).
    FbnetC,
    /// Cai et al. 2019 (arXiv 1812.00332).
    ProxylessGpu,
}

/// TF's constants of norms, which torchvision's MobileNetV3 has too.
const TF_BN: BnConfig = BnConfig { momentum: 0.01, eps: 1e-3, affine: true };
impl Published {
    /// Convolutions and head.
    pub fn layout(self) -> (Layout, Head) {
        match self {
            Self::MobilenetV2 => mobilenet_v2(),
            Self::MobilenetV3Large => mobilenet_v3(&V3_LARGE, 960, 1280),
            Self::MobilenetV3Small => mobilenet_v3(&V3_SMALL, 576, 1024),
            Self::MnasnetA1 => mnasnet_a1(),
            Self::FbnetA => fbnet(&FBNET_A, 1504),
            Self::FbnetB => fbnet(&FBNET_B, 1984),
            Self::FbnetC => fbnet(&FBNET_C, 1984),
            Self::ProxylessGpu => proxyless_gpu(),
        }
    }
}

const PLAIN_HEAD: Head = Head { hidden: None, dropout: 0.2 };

fn block(channels: (i64, i64), hidden: i64, ksize: i64, stride: i64, activation: Activation) -> BlockConfig {
    BlockConfig { activation, ..BlockConfig::new(channels, hidden, ksize, stride) }
}

/// A network without biases; channels of its first convolution, which halves, and of its last.
fn layout(blocks: Vec<BlockConfig>, (stem, last): (i64, i64), activation: Activation, bn: BnConfig) -> Layout {
    Layout {
        stem: (stem, 2, activation),
        blocks,
        last: Some((last, activation)),
        bias: false,
        bn,
        naming: Naming::V3,
        init: Init::KaimingFanOut,
        output_stride: None,
        taps: Taps::Strides { from: 1 },
        part_per_block: true,
    }
}

fn mobilenet_v2() -> (Layout, Head) {
    let blocks = mobilenet_v2::trunk(1.0, mobilenet_v2::BLOCKS).blocks;
    let layout = layout(blocks, (32, 1280), Activation::Relu6, BnConfig::default());
    (Layout { naming: Naming::V2, ..layout }, PLAIN_HEAD)
}

/// Kernel, hidden channels, channels, squeeze-and-excitation, hard swish in place of ReLU, stride.
type V3Row = (i64, i64, i64, bool, bool, i64);

const V3_LARGE: [V3Row; 15] = [
    (3, 16, 16, false, false, 1),
    (3, 64, 24, false, false, 2),
    (3, 72, 24, false, false, 1),
    (5, 72, 40, true, false, 2),
    (5, 120, 40, true, false, 1),
    (5, 120, 40, true, false, 1),
    (3, 240, 80, false, true, 2),
    (3, 200, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 480, 112, true, true, 1),
    (3, 672, 112, true, true, 1),
    (5, 672, 160, true, true, 2),
    (5, 960, 160, true, true, 1),
    (5, 960, 160, true, true, 1),
];

const V3_SMALL: [V3Row; 11] = [
    (3, 16, 16, true, false, 2),
    (3, 72, 24, false, false, 2),
    (3, 88, 24, false, false, 1),
    (5, 96, 40, true, true, 2),
    (5, 240, 40, true, true, 1),
    (5, 240, 40, true, true, 1),
    (5, 120, 48, true, true, 1),
    (5, 144, 48, true, true, 1),
    (5, 288, 96, true, true, 2),
    (5, 576, 96, true, true, 1),
    (5, 576, 96, true, true, 1),
];

fn mobilenet_v3(rows: &[V3Row], last: i64, hidden: i64) -> (Layout, Head) {
    let mut c_in = 16;
    let blocks = rows.iter().map(|&(ksize, hidden, c, squeezes, hswish, stride)| {
        let activation = if hswish { Activation::Hswish } else { Activation::Relu };
        let squeeze = squeezes.then(|| (divisible(hidden as f64 / 4.0), Gate::HardSigmoid));
        BlockConfig { squeeze, ..block((std::mem::replace(&mut c_in, c), c), hidden, ksize, stride, activation) }
    });
    (layout(blocks.collect(), (16, last), Activation::Hswish, TF_BN), Head { hidden: Some(hidden), dropout: 0.2 })
}

fn mnasnet_a1() -> (Layout, Head) {
    /// Blocks, kernel, stride, expansion, channels, squeeze-and-excitation.
    const GROUPS: [(i64, i64, i64, i64, i64, bool); 7] = [
        (1, 3, 1, 1, 16, false),
        (2, 3, 2, 6, 24, false),
        (3, 5, 2, 3, 40, true),
        (4, 3, 2, 6, 80, false),
        (2, 3, 1, 6, 112, true),
        (3, 5, 2, 6, 160, true),
        (1, 3, 1, 6, 320, false),
    ];
    let mut c_in = 32;
    let mut blocks = Vec::new();
    for (n, ksize, stride, expansion, c, squeezes) in GROUPS {
        for i in 0..n {
            let before = std::mem::replace(&mut c_in, c);
            let stride = if i == 0 { stride } else { 1 };
            // A quarter of the block's own input, not of its hidden channels.
            let squeeze = squeezes.then_some((before / 4, Gate::Sigmoid));
            blocks.push(BlockConfig {
                squeeze,
                ..block((before, c), before * expansion, ksize, stride, Activation::Relu)
            });
        }
    }
    (layout(blocks, (32, 1280), Activation::Relu, TF_BN), PLAIN_HEAD)
}

/// Kernel, expansion, channels, stride, groups of the last convolution.
type FbnetRow = (i64, i64, i64, i64, i64);

/// Blocks that the search skipped are left out.
const FBNET_A: [FbnetRow; 19] = [
    (3, 3, 24, 2, 1),
    (3, 1, 24, 1, 1),
    (5, 6, 32, 2, 1),
    (3, 3, 32, 1, 1),
    (5, 1, 32, 1, 1),
    (3, 3, 32, 1, 1),
    (5, 6, 64, 2, 1),
    (5, 3, 64, 1, 1),
    (5, 1, 64, 1, 2),
    (5, 6, 64, 1, 1),
    (3, 6, 112, 1, 1),
    (5, 1, 112, 1, 2),
    (5, 3, 112, 1, 1),
    (3, 1, 112, 1, 2),
    (5, 6, 184, 2, 1),
    (5, 6, 184, 1, 1),
    (5, 3, 184, 1, 1),
    (5, 6, 184, 1, 1),
    (5, 6, 352, 1, 1),
];

const FBNET_B: [FbnetRow; 21] = [
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 1),
    (5, 1, 24, 1, 1),
    (3, 1, 24, 1, 1),
    (3, 1, 24, 1, 1),
    (5, 6, 32, 2, 1),
    (5, 3, 32, 1, 1),
    (3, 6, 32, 1, 1),
    (5, 6, 32, 1, 1),
    (5, 6, 64, 2, 1),
    (5, 6, 64, 1, 1),
    (5, 3, 64, 1, 1),
    (5, 6, 112, 1, 1),
    (3, 1, 112, 1, 1),
    (5, 1, 112, 1, 1),
    (5, 3, 112, 1, 1),
    (5, 6, 184, 2, 1),
    (5, 1, 184, 1, 1),
    (5, 6, 184, 1, 1),
    (5, 6, 184, 1, 1),
    (3, 6, 352, 1, 1),
];

const FBNET_C: [FbnetRow; 21] = [
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 1),
    (3, 1, 24, 1, 1),
    (3, 1, 24, 1, 1),
    (5, 6, 32, 2, 1),
    (5, 3, 32, 1, 1),
    (5, 6, 32, 1, 1),
    (3, 6, 32, 1, 1),
    (5, 6, 64, 2, 1),
    (5, 3, 64, 1, 1),
    (5, 6, 64, 1, 1),
    (5, 6, 64, 1, 1),
    (5, 6, 112, 1, 1),
    (5, 6, 112, 1, 1),
    (5, 6, 112, 1, 1),
    (5, 3, 112, 1, 1),
    (5, 6, 184, 2, 1),
    (5, 6, 184, 1, 1),
    (5, 6, 184, 1, 1),
    (5, 6, 184, 1, 1),
    (3, 6, 352, 1, 1),
];

/// As the authors' trained networks: convolutions have biases beside their norms.
fn fbnet(rows: &[FbnetRow], last: i64) -> (Layout, Head) {
    let mut c_in = 16;
    let blocks = rows.iter().map(|&(ksize, expansion, c, stride, groups)| {
        let before = std::mem::replace(&mut c_in, c);
        BlockConfig { groups, bias: true, ..block((before, c), before * expansion, ksize, stride, Activation::Relu) }
    });
    let layout = layout(blocks.collect(), (16, last), Activation::Relu, BnConfig::default());
    (Layout { bias: true, ..layout }, PLAIN_HEAD)
}

fn proxyless_gpu() -> (Layout, Head) {
    /// Kernel, expansion, channels, stride; blocks that the search skipped are left out.
    const ROWS: [(i64, i64, i64, i64); 14] = [
        (3, 1, 24, 1),
        (5, 3, 32, 2),
        (7, 3, 56, 2),
        (3, 3, 56, 1),
        (7, 6, 112, 2),
        (5, 3, 112, 1),
        (5, 6, 128, 1),
        (3, 3, 128, 1),
        (5, 3, 128, 1),
        (7, 6, 256, 2),
        (7, 6, 256, 1),
        (7, 6, 256, 1),
        (5, 6, 256, 1),
        (7, 6, 432, 1),
    ];
    let mut c_in = 40;
    let blocks = ROWS.iter().map(|&(ksize, expansion, c, stride)| {
        let before = std::mem::replace(&mut c_in, c);
        block((before, c), before * expansion, ksize, stride, Activation::Relu6)
    });
    let bn = BnConfig { momentum: 0.1, eps: 1e-3, affine: true };
    (layout(blocks.collect(), (40, 1728), Activation::Relu6, bn), Head { hidden: None, dropout: 0.0 })
}
