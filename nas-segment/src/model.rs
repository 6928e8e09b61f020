//! The configs that segmentation networks are built from.

use anyhow::{Result, bail, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::StageSize;
use nas_core::nn::VarBuilder;
use nas_core::space::Architecture;
use nas_core::task::TaskModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auto_deeplab::AutoDeepLabConfig;
use crate::deeplabv3plus::{BackboneConfig, DeepLabV3PlusConfig, MobileNetV2Config, Stages};
use crate::mobile_seg::{self, MobileSegConfig};

pub use crate::seg_net::SegNet;

/// The section `[model]` of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelConfig {
    /// DeepLabv3+ and, without a decoder, DeepLabv3.
    Deeplabv3plus(DeepLabV3PlusConfig),
    /// A network of Auto-DeepLab's space.
    AutoDeeplab(AutoDeepLabConfig),
    /// A network of inverted residuals for dense prediction.
    MobileSeg(MobileSegConfig),
}

impl ModelConfig {
    /// The network for `num_classes`, its weights under `vb`. A value that no network can be made of is an error that
    /// names the key.
    pub fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<SegNet> {
        ensure!(num_classes > 0, "{num_classes} classes: expected at least one");
        match self {
            Self::Deeplabv3plus(config) => config.build(vb, num_classes),
            Self::AutoDeeplab(config) => config.build(vb, num_classes),
            Self::MobileSeg(config) => config.build(vb, num_classes),
        }
    }

    /// The same network at another output stride.
    pub fn with_output_stride(self, output_stride: i64) -> Result<Self> {
        match self {
            Self::Deeplabv3plus(config) => Ok(Self::Deeplabv3plus(DeepLabV3PlusConfig { output_stride, ..config })),
            Self::AutoDeeplab(_) | Self::MobileSeg(_) => {
                bail!("the output stride of such a network is part of its architecture")
            }
        }
    }

    /// The network of another architecture of the same space.
    pub fn with_arch(self, arch: Architecture) -> Result<Self> {
        match self {
            Self::AutoDeeplab(config) => {
                Ok(Self::AutoDeeplab(AutoDeepLabConfig { arch, stages: Vec::new(), ..config }))
            }
            Self::Deeplabv3plus(_) => bail!("a DeepLabv3+ has no architecture to choose"),
            Self::MobileSeg(_) => bail!("a mobile_seg network is written out; its architecture is that of its space"),
        }
    }
}

impl TaskModel for ModelConfig {
    fn presets() -> Vec<(&'static str, Self)> {
        presets()
    }

    fn stages(&self) -> Result<Vec<StageSize>> {
        match self {
            Self::MobileSeg(config) => Ok(config.sizes()),
            Self::Deeplabv3plus(config) => Ok(config.backbone.sizes()),
            Self::AutoDeeplab(config) => config.sizes(),
        }
    }

    fn with_stages(mut self, stages: Vec<StageSize>) -> Result<Self> {
        match &mut self {
            Self::MobileSeg(config) => config.resize(&stages),
            Self::Deeplabv3plus(config) => config.backbone.resize(stages),
            Self::AutoDeeplab(config) => config.stages = stages,
        }
        Ok(self)
    }

    fn parts(&self) -> Option<Vec<BlockParts>> {
        match self {
            Self::MobileSeg(config) => Some(config.parts()),
            Self::Deeplabv3plus(config) => config.backbone.parts("backbone.").ok(),
            Self::AutoDeeplab(config) => config.parts("backbone.").ok(),
        }
    }
}

/// Every published network by name.
pub fn presets() -> Vec<(&'static str, ModelConfig)> {
    let deeplabv3plus = |backbone| ModelConfig::Deeplabv3plus(DeepLabV3PlusConfig::new(backbone));
    let mobilenet = MobileNetV2Config::default();
    let auto_deeplab = |filters| ModelConfig::AutoDeeplab(AutoDeepLabConfig::published(filters));
    let mut presets = vec![
        ("auto_deeplab_s", auto_deeplab(20)),
        ("auto_deeplab_m", auto_deeplab(32)),
        ("auto_deeplab_l", auto_deeplab(48)),
        ("deeplabv3plus_xception41", deeplabv3plus(BackboneConfig::Xception41(Stages::default()))),
        ("deeplabv3plus_xception65", deeplabv3plus(BackboneConfig::Xception65(Stages::default()))),
        ("deeplabv3plus_xception71", deeplabv3plus(BackboneConfig::Xception71(Stages::default()))),
        ("deeplabv3plus_resnet101", deeplabv3plus(BackboneConfig::Resnet101(Stages::default()))),
        ("deeplabv3plus_mobilenet_v2", deeplabv3plus(BackboneConfig::MobilenetV2(mobilenet))),
    ];
    presets.extend(mobile_seg::presets().into_iter().map(|(name, config)| (name, ModelConfig::MobileSeg(config))));
    presets
}
