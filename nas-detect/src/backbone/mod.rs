//! Backbones of detectors: maps at strides 4, 8, 16 and 32 for a neck. The DetNAS space has its own module.

mod classifier;
mod shufflenet_v2;

pub use classifier::{Classifier, SuperClassifier};
pub use nas_core::models::ResNetDepth;
pub use shufflenet_v2::{ShuffleNetV2, ShuffleNetWidth};

use anyhow::{Result, bail};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::resnet::DrawOrder;
use nas_core::models::{self, Layout, MobileNet, ResNet, StageSize, mobilenet_v2};
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
        /// Channels and blocks of the first convolution, which is one block, and of every stage; none for the published ones.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stages: Vec<StageSize>,
    },
    /// ResNet as torchvision has it.
    Resnet(ResNetConfig),
    /// MobileNetV2 as torchvision has it, without its last 1x1 convolution.
    MobilenetV2 {
        /// Channels and blocks of the first convolution, which is one block, and of every stage; none for the published ones.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stages: Vec<StageSize>,
    },
}

/// Which ResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Its layers.
    pub depth: ResNetDepth,
    /// Norms are fixed, as in torchvision's detectors: for pretrained weights and small batches.
    #[serde(default)]
    pub frozen_norms: bool,
    /// Channels and blocks of every stage; none for the published ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

impl ResNetConfig {
    fn config(&self) -> Result<models::ResNetConfig> {
        let norm = match self.frozen_norms {
            true => NormConfig::Frozen,
            false => NormConfig::Batch(BnConfig::default()),
        };
        let plain = models::ResNetConfig::torchvision(self.depth);
        let config = models::ResNetConfig { norm, draws: DrawOrder::StagesFirst, ..plain };
        if self.stages.is_empty() { Ok(config) } else { config.with_sizes("model.backbone.stages", &self.stages) }
    }
}

fn mobilenet(stages: &[StageSize]) -> Result<Layout> {
    let layout = mobilenet_v2::trunk(1.0, mobilenet_v2::BLOCKS);
    if stages.is_empty() { Ok(layout) } else { layout.with_sizes("model.backbone.stages", stages) }
}

impl BackboneConfig {
    /// The backbone, its weights under `vb`. A value that no network can be made of is an error that names the key.
    pub fn build(&self, vb: &VarBuilder) -> Result<Box<dyn Backbone>> {
        Ok(match self {
            Self::Detnas(config) => Box::new(DetNasNet::new(vb, &config.space()?, &config.arch()?)?),
            Self::ShufflenetV2 { .. } => Box::new(ShuffleNetV2::new(vb, &self.stages()?, BnConfig::default())?),
            Self::Resnet(config) => Box::new(ResNet::new(vb, &config.config()?)),
            Self::MobilenetV2 { stages } => Box::new(MobileNet::new(vb, &mobilenet(stages)?)),
        })
    }

    /// Channels and blocks of its stages.
    pub fn stages(&self) -> Result<Vec<StageSize>> {
        match self {
            Self::Resnet(config) => Ok(config.config()?.sizes()),
            Self::MobilenetV2 { stages } if stages.is_empty() => Ok(mobilenet(stages)?.sizes()),
            Self::ShufflenetV2 { width, stages } if stages.is_empty() => Ok(width.sizes()),
            Self::MobilenetV2 { stages } | Self::ShufflenetV2 { stages, .. } => Ok(stages.clone()),
            Self::Detnas(config) => config.sizes(),
        }
    }

    /// The same backbone with other stages.
    pub fn with_stages(self, stages: Vec<StageSize>) -> Result<Self> {
        Ok(match self {
            Self::Resnet(config) => Self::Resnet(ResNetConfig { stages, ..config }),
            Self::MobilenetV2 { .. } => Self::MobilenetV2 { stages },
            Self::ShufflenetV2 { width, .. } => Self::ShufflenetV2 { width, stages },
            Self::Detnas(config) => Self::Detnas(config.with_sizes(&stages)?),
        })
    }

    /// What weight inheritance knows of the blocks, whose names begin with `prefix`.
    pub fn parts(&self, prefix: &str) -> Option<Vec<BlockParts>> {
        match self {
            Self::Resnet(config) => Some(config.config().ok()?.parts(prefix)),
            Self::MobilenetV2 { stages } => Some(mobilenet(stages).ok()?.parts(prefix, &self.stages().ok()?)),
            Self::Detnas(config) => config.parts(prefix).ok(),
            // Stages are called by number, and nothing is added to a unit's output.
            Self::ShufflenetV2 { .. } => None,
        }
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
