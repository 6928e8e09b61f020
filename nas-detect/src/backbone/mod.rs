//! Backbones of detectors: maps at strides 4, 8, 16 and 32 for a neck. The DetNAS space has its own module.

mod classifier;
mod mobilenet_v2;
mod resnet;
mod shufflenet_v2;

pub use classifier::{Classifier, SuperClassifier};
pub use mobilenet_v2::MobileNetV2;
pub use resnet::{ResNet, ResNetConfig, ResNetDepth};
pub use shufflenet_v2::{ShuffleNetV2, ShuffleNetWidth};

use anyhow::{Result, bail};
use nas_core::nn::Cost;
use nas_core::nn::{BnConfig, VarBuilder};
use nas_core::space::Architecture;
use nas_core::space::Backbone;
use serde::{Deserialize, Serialize};

use crate::detnas::{DetNasConfig, DetNasNet};

/// The section `[model.backbone]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

impl BackboneConfig {
    /// The backbone, its weights under `vb`. A value that no network can be made of is an error that names the key.
    pub fn build(&self, vb: &VarBuilder) -> Result<Box<dyn Backbone>> {
        Ok(match self {
            Self::Detnas(config) => Box::new(DetNasNet::new(vb, &config.space()?, &config.arch()?)?),
            Self::ShufflenetV2 { width } => Box::new(ShuffleNetV2::new(vb, *width, BnConfig::default())),
            Self::Resnet(config) => Box::new(ResNet::new(vb, *config)),
            Self::MobilenetV2 {} => Box::new(MobileNetV2::new(vb, BnConfig::default())),
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
