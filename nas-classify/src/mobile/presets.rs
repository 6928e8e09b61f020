//! Spaces of inverted residuals as the literature has them.

use nas_core::nn::Activation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::space::{Stage, without};

/// Forms of the literature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MobilePreset {
    /// ProxylessNAS' for ImageNet: kernels 3, 5, 7, expansions 3 and 6.
    #[default]
    Proxyless,
    /// FBNet's: kernels 3 and 5, expansions 1, 3 and 6.
    Fbnet,
    /// MnasNet's: one block for all layers of a stage, of kernels 3 and 5, expansions 3 and 6, squeeze-and-excitation or not;
    /// three quarters, all or five quarters of the channels.
    Mnasnet,
    /// MobileNetV3's block: kernels 3 and 5, expansions 3, 4 and 6, with or without squeeze-and-excitation, ReLU or hard swish.
    MobilenetV3,
    /// Four stages for images of 32 pixels.
    Tiny,
}

impl MobilePreset {
    /// Channels and stride of the first convolution, channels of the last, stages (channels, layers, stride).
    pub(super) fn frame(self) -> (i64, i64, i64, &'static [(i64, usize, i64)]) {
        match self {
            Self::Proxyless => {
                (32, 2, 1280, &[(16, 1, 1), (24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)])
            }
            Self::Fbnet => {
                (16, 2, 1984, &[(16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)])
            }
            Self::Mnasnet => {
                (32, 2, 1280, &[(16, 1, 1), (24, 3, 2), (40, 4, 2), (80, 4, 2), (112, 3, 1), (160, 4, 2), (320, 1, 1)])
            }
            Self::MobilenetV3 => {
                (16, 2, 960, &[(16, 1, 1), (24, 3, 2), (40, 4, 2), (80, 4, 2), (112, 3, 1), (160, 4, 2)])
            }
            Self::Tiny => (16, 1, 256, &[(16, 1, 1), (24, 3, 2), (40, 3, 2), (80, 3, 2)]),
        }
    }

    /// The stages of the form.
    pub(super) fn stages(self) -> Vec<Stage> {
        let (_, _, _, rows) = self.frame();
        let (kernels, expansions, squeeze, activations): (&[i64], &[i64], &[bool], &[Activation]) = match self {
            Self::Proxyless => (&[3, 5, 7], &[3, 6], &[false], &[Activation::Relu6]),
            Self::Fbnet => (&[3, 5], &[1, 3, 6], &[false], &[Activation::Relu]),
            Self::Mnasnet => (&[3, 5], &[3, 6], &[false, true], &[Activation::Relu]),
            Self::MobilenetV3 => (&[3, 5], &[3, 4, 6], &[false, true], &[Activation::Relu, Activation::Hswish]),
            Self::Tiny => (&[3, 5], &[3, 6], &[false], &[Activation::Relu]),
        };
        let stage = |(i, &(channels, layers, stride)): (usize, &(i64, usize, i64))| {
            let (squeeze, activations, skip) = (squeeze.to_vec(), activations.to_vec(), layers > 1);
            let shared = self == Self::Mnasnet && i > 0;
            let widths: &[i64] = if shared { &[3, 4, 5] } else { &[4] };
            let channels = widths.iter().map(|quarters| (channels * quarters / 4 + 4) / 8 * 8).collect();
            match i {
                // The first block is the same in all forms.
                0 => Stage {
                    channels,
                    layers,
                    stride,
                    kernels: vec![3],
                    expansions: vec![1],
                    squeeze: without(),
                    activations: activations[..1].to_vec(),
                    skip,
                    shared,
                },
                _ => Stage {
                    channels,
                    layers,
                    stride,
                    kernels: kernels.to_vec(),
                    expansions: expansions.to_vec(),
                    squeeze,
                    activations,
                    skip,
                    shared,
                },
            }
        };
        rows.iter().enumerate().map(stage).collect()
    }
}
