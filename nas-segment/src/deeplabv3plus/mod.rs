//! DeepLabv3+ (Chen et al. 2018, arXiv 1802.02611): an ImageNet backbone whose last strides are traded for atrous
//! convolutions, under the head of [`crate::head`].
//!
//! Parameters at 19 classes: Xception-41 28.11 M, Xception-65 41.05 M, Xception-71 43,477,323, ResNet-101 59.47 M,
//! MobileNetV2 2.11 M.

mod mobilenet_v2;
mod xception;

pub use mobilenet_v2::MobileNetV2Config;

use anyhow::{Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{ResNet, ResNetConfig, StageSize, StrideBudget, Taps};
use nas_core::nn::{BnConfig, NormConfig, VarBuilder};
use nas_core::space::Backbone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::head::{Head, HeadConfig};
use crate::seg_net::SegNet;
use xception::{Xception, XceptionDepth};

/// A DeepLabv3+.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeepLabV3PlusConfig {
    /// Input pixels per pixel of the final feature map along one side: 8, 16 or 32. Strides beyond it become atrous rates.
    #[serde(default = "default_output_stride")]
    pub output_stride: i64,
    /// Norms of the backbone.
    #[serde(default = "default_bn")]
    pub bn: BnConfig,
    /// The backbone.
    pub backbone: BackboneConfig,
    /// The head.
    #[serde(default)]
    pub head: HeadConfig,
}

fn default_output_stride() -> i64 {
    16
}

/// TF's decay 0.9997 and epsilon 0.001.
fn default_bn() -> BnConfig {
    BnConfig { momentum: 3e-4, eps: 1e-3, affine: true }
}

/// Backbone of a DeepLabv3+.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BackboneConfig {
    /// Aligned Xception with 8 units in its middle flow.
    Xception41(Stages),
    /// Aligned Xception with 16 units in its middle flow.
    Xception65(Stages),
    /// Aligned Xception with 16 units in its middle flow and 5 blocks in its entry flow.
    Xception71(Stages),
    /// ResNet-101 with a root of three 3x3 convolutions ("beta").
    Resnet101(Stages),
    /// MobileNetV2, of any width, whole or its first blocks.
    MobilenetV2(MobileNetV2Config),
}

/// Sizes other than the published ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackboneStages")]
pub struct Stages {
    /// Channels and blocks of every stage, of a ResNet the base channels; none for the published ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

impl Stages {
    fn or(&self, published: Vec<StageSize>) -> Vec<StageSize> {
        if self.stages.is_empty() { published } else { self.stages.clone() }
    }

    fn resnet_101(&self, output_stride: i64) -> Result<ResNetConfig> {
        let plain = ResNetConfig::deeplab_101(output_stride);
        let sized = plain.with_sizes("model.backbone.stages", &self.or(plain.sizes()))?;
        // The decoder sees the second unit of the first stage, or the only one.
        let block = sized.stages[0].units.min(2) - 1;
        Ok(ResNetConfig { taps: Taps::Within { block }, ..sized })
    }
}

impl BackboneConfig {
    fn build(&self, vb: &VarBuilder, output_stride: i64, bn: BnConfig) -> Result<Box<dyn Backbone>> {
        let xception = |depth| anyhow::Ok(Box::new(Xception::new(vb, depth, &self.sizes(), output_stride, bn)?));
        Ok(match self {
            Self::Xception41(_) => xception(XceptionDepth::X41)?,
            Self::Xception65(_) => xception(XceptionDepth::X65)?,
            Self::Xception71(_) => xception(XceptionDepth::X71)?,
            Self::Resnet101(stages) => {
                let config = ResNetConfig { norm: NormConfig::Batch(bn), ..stages.resnet_101(output_stride)? };
                Box::new(ResNet::new(vb, &config))
            }
            Self::MobilenetV2(config) => {
                config.validate()?;
                Box::new(config.build(vb, output_stride, bn)?)
            }
        })
    }

    /// Channels and blocks of the stages.
    pub fn sizes(&self) -> Vec<StageSize> {
        match self {
            Self::Xception41(stages) => stages.or(XceptionDepth::X41.sizes()),
            Self::Xception65(stages) => stages.or(XceptionDepth::X65.sizes()),
            Self::Xception71(stages) => stages.or(XceptionDepth::X71.sizes()),
            Self::Resnet101(stages) => stages.or(ResNetConfig::deeplab_101(default_output_stride()).sizes()),
            Self::MobilenetV2(config) => config.sizes(),
        }
    }

    /// Gives it other [`BackboneConfig::sizes`].
    pub fn resize(&mut self, sizes: Vec<StageSize>) {
        match self {
            Self::Xception41(of) | Self::Xception65(of) | Self::Xception71(of) | Self::Resnet101(of) => {
                of.stages = sizes;
            }
            Self::MobilenetV2(config) => config.stages = sizes,
        }
    }

    /// What weight inheritance knows of the blocks, whose names begin with `prefix`.
    pub fn parts(&self, prefix: &str) -> Result<Vec<BlockParts>> {
        match self {
            Self::Xception41(_) | Self::Xception65(_) | Self::Xception71(_) => {
                Ok(xception::parts(&self.sizes(), prefix))
            }
            Self::Resnet101(stages) => Ok(stages.resnet_101(default_output_stride())?.parts(prefix)),
            Self::MobilenetV2(config) => config.parts(prefix),
        }
    }
}

impl DeepLabV3PlusConfig {
    /// The paper's network with this backbone: a separable head for Xception, a regular one for ResNet, and for
    /// MobileNetV2 neither atrous branches nor decoder.
    pub fn new(backbone: BackboneConfig) -> Self {
        let head = match backbone {
            BackboneConfig::Xception41(_) | BackboneConfig::Xception65(_) | BackboneConfig::Xception71(_) => {
                HeadConfig { separable: true, ..Default::default() }
            }
            BackboneConfig::Resnet101(_) => HeadConfig::default(),
            BackboneConfig::MobilenetV2(_) => HeadConfig { atrous_convs: false, decoder: None, ..Default::default() },
        };
        Self { output_stride: default_output_stride(), bn: default_bn(), backbone, head }
    }

    /// The network for `num_classes`, its weights under `vb`. A value that no network can be made of is an error that
    /// names the key.
    pub fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<SegNet> {
        let stride = self.output_stride;
        ensure!([8, 16, 32].contains(&stride), "model.output_stride = {stride}: expected 8, 16 or 32");
        self.head.validate()?;
        let backbone = self.backbone.build(&vb.sub("backbone"), stride, self.bn)?;
        let head = Head::new(&vb.sub("head"), &backbone.feature_info(), num_classes, &self.head);
        Ok(SegNet { backbone, head: Box::new(head) })
    }
}

#[cfg(test)]
mod tests;
