//! Backbones of detectors: maps at strides 4, 8, 16 and 32 for a neck. The DetNAS space has its own module.

mod classifier;
mod shufflenet_v2;

pub use classifier::{Classifier, SuperClassifier};
pub use nas_core::models::ResNetDepth;
pub use shufflenet_v2::{ShuffleNetV2, ShuffleNetWidth};

use anyhow::{Result, bail};
use nas_core::models::resnet::DrawOrder;
use nas_core::models::{self, MobileNet, ResNet, mobilenet_v2};
use nas_core::nn::{BnConfig, Cost, NormConfig, VarBuilder};
use nas_core::space::{Architecture, Backbone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::detnas::{DetNasConfig, DetNasNet};

/// The section `[model.backbone]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BackboneConfig {
    /// A network of DetNAS' space.
    Detnas(DetNasConfig),
    /// ShuffleNetV2 as torchvision has it.
    ShufflenetV2 {
        /// Its width.
        width: ShuffleNetWidth,
    },
    /// ResNet as torchvision has it.
    Resnet(ResNetConfig),
    /// MobileNetV2 as torchvision has it, without its last 1x1 convolution.
    MobilenetV2 {},
}

/// Which ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Its layers.
    pub depth: ResNetDepth,
    /// Norms are fixed, as in torchvision's detectors: for pretrained weights and small batches.
    #[serde(default)]
    pub frozen_norms: bool,
}

impl ResNetConfig {
    fn build(self, vb: &VarBuilder) -> ResNet {
        let norm = match self.frozen_norms {
            true => NormConfig::Frozen,
            false => NormConfig::Batch(BnConfig::default()),
        };
        let plain = models::ResNetConfig::torchvision(self.depth);
        ResNet::new(vb, &models::ResNetConfig { norm, draws: DrawOrder::StagesFirst, ..plain })
    }
}

impl BackboneConfig {
    /// The backbone, its weights under `vb`. A value that no network can be made of is an error that names the key.
    pub fn build(&self, vb: &VarBuilder) -> Result<Box<dyn Backbone>> {
        Ok(match self {
            Self::Detnas(config) => Box::new(DetNasNet::new(vb, &config.space()?, &config.arch()?)?),
            Self::ShufflenetV2 { width } => Box::new(ShuffleNetV2::new(vb, *width, BnConfig::default())),
            Self::Resnet(config) => Box::new(config.build(vb)),
            Self::MobilenetV2 {} => Box::new(MobileNet::new(vb, &mobilenet_v2::trunk(1.0, mobilenet_v2::BLOCKS))),
        })
    }

    /// The same backbone with another architecture of its space.
    pub fn with_arch(self, arch: Architecture) -> Result<Self> {
        match self {
            Self::Detnas(config) => Ok(Self::Detnas(DetNasConfig { arch: Some(arch), ..config })),
            _ => bail!("this backbone has no architecture to choose"),
        }
    }
}

/// The sum of the costs of parts.
pub fn total(parts: &[(String, Cost)]) -> Cost {
    let mut total = Cost::default();
    parts.iter().for_each(|(_, part)| total += *part);
    total
}

#[cfg(test)]
mod tests;
