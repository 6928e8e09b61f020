//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) without its last 1x1 convolution, as DeepLab uses it. Its ImageNet
//! weights load by torchvision's names.

use anyhow::{Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{Layout, MobileNet, StageSize, Taps, mobilenet_v2};
use nas_core::nn::{BnConfig, Init, VarBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Index of the inverted residual whose depthwise output the decoder sees, the last of the second stage.
const TAPPED_BLOCK: usize = 2;

/// How wide and how deep a MobileNetV2 is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MobileNetV2Config {
    /// Factor on the channels of every layer.
    pub width: f64,
    /// How many of the 17 inverted residuals are used, 3 to 17. The first 13 end at stride 16 with 96 channels.
    pub blocks: usize,
    /// Channels and blocks of the first convolution, which is one block, and of every stage; none for those that `width` and
    /// `blocks` give.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

impl Default for MobileNetV2Config {
    fn default() -> Self {
        Self { width: 1.0, blocks: mobilenet_v2::BLOCKS, stages: Vec::new() }
    }
}

impl MobileNetV2Config {
    /// Says which key has a value that no network can be made of.
    pub fn validate(&self) -> Result<()> {
        let Self { width, blocks, .. } = self;
        ensure!(
            *width > 0.0 && *width <= 16.0,
            "model.backbone.width = {width}: expected a factor above 0 and up to 16"
        );
        let possible = TAPPED_BLOCK + 1..=mobilenet_v2::BLOCKS;
        ensure!(
            possible.contains(blocks),
            "model.backbone.blocks = {blocks}: expected {} to {}",
            possible.start(),
            possible.end()
        );
        self.layout().map(drop)
    }

    fn layout(&self) -> Result<Layout> {
        let layout = mobilenet_v2::trunk(self.width, self.blocks);
        if self.stages.is_empty() { Ok(layout) } else { layout.with_sizes("model.backbone.stages", &self.stages) }
    }

    /// The first convolution and the stages.
    pub fn sizes(&self) -> Vec<StageSize> {
        if self.stages.is_empty() { mobilenet_v2::trunk(self.width, self.blocks).sizes() } else { self.stages.clone() }
    }

    /// What weight inheritance knows of the blocks, whose names begin with `prefix`.
    pub fn parts(&self, prefix: &str) -> Result<Vec<BlockParts>> {
        Ok(self.layout()?.parts(prefix, &self.sizes()))
    }

    /// The network whose last feature map has `output_stride`, or the stride of its last block if that is smaller. Maps: the
    /// depthwise convolution of the second stage's last inverted residual (stride 4; the third of all where stages have their own
    /// sizes), and the last inverted residual, which ends without an activation.
    ///
    /// # Errors
    /// If `stages` are none of this network.
    pub fn build(&self, vb: &VarBuilder, output_stride: i64, bn: BnConfig) -> Result<MobileNet> {
        let sizes = self.sizes();
        let block = sizes.iter().skip(1).take(2).map(|stage| stage.blocks).sum::<usize>() - 1;
        let layout = Layout {
            bn,
            init: Init::FanIn,
            output_stride: Some(output_stride),
            taps: Taps::Within { block },
            ..self.layout()?
        };
        Ok(MobileNet::new(vb, &layout))
    }
}
