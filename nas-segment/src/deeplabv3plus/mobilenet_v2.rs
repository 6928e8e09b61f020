//! MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) without its last 1x1 convolution, as DeepLab uses it. Variables
//! have torchvision's names, so that its ImageNet weights load.

use anyhow::{Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{Activation, BatchNorm, BnConfig, Conv2d, ConvConfig, Mode, Module, Shape, VarBuilder};
use nas_core::space::{Backbone, FeatureInfo};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::StrideBudget;

/// Expansion, channels, blocks and stride of the groups of inverted residuals.
const GROUPS: [(i64, i64, usize, i64); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
/// Inverted residuals of the whole network.
const MAX_BLOCKS: usize = 17;
/// Index of the inverted residual whose depthwise output the decoder sees.
const TAPPED_BLOCK: usize = 2;
/// Channels are rounded to multiples of this.
const DIVISOR: i64 = 8;

/// How wide and how deep a MobileNetV2 is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MobileNetV2Config {
    /// Factor on the channels of every layer.
    pub width: f64,
    /// How many of the 17 inverted residuals are used, 3 to 17. The first 13 end at stride 16 with 96 channels.
    pub blocks: usize,
}

impl Default for MobileNetV2Config {
    fn default() -> Self {
        Self { width: 1.0, blocks: MAX_BLOCKS }
    }
}

impl MobileNetV2Config {
    /// Says which key has a value that no network can be made of.
    pub fn validate(&self) -> Result<()> {
        let Self { width, blocks } = self;
        ensure!(
            *width > 0.0 && *width <= 16.0,
            "model.backbone.width = {width}: expected a factor above 0 and up to 16"
        );
        let possible = TAPPED_BLOCK + 1..=MAX_BLOCKS;
        ensure!(
            possible.contains(blocks),
            "model.backbone.blocks = {blocks}: expected {} to {}",
            possible.start(),
            possible.end()
        );
        Ok(())
    }

    /// `channels` times the width, rounded to a multiple of 8, by at most a tenth down.
    fn scaled(&self, channels: i64) -> i64 {
        let exact = channels as f64 * self.width;
        let rounded = ((exact + DIVISOR as f64 / 2.0) as i64 / DIVISOR * DIVISOR).max(DIVISOR);
        if (rounded as f64) < 0.9 * exact { rounded + DIVISOR } else { rounded }
    }

    /// Expansion, channels and stride of every block that is used.
    fn layout(&self) -> Vec<(i64, i64, i64)> {
        let groups = GROUPS.iter().flat_map(|&(expansion, channels, blocks, stride)| {
            let c_out = self.scaled(channels);
            (0..blocks).map(move |i| (expansion, c_out, if i == 0 { stride } else { 1 }))
        });
        groups.take(self.blocks).collect()
    }
}

/// A MobileNetV2. Features: the depthwise convolution of the third inverted residual (stride 4), and the last inverted
/// residual, which ends without an activation.
#[derive(Debug)]
pub struct MobileNetV2 {
    stem: ConvNorm,
    blocks: Vec<InvertedResidual>,
    info: Vec<FeatureInfo>,
}

impl MobileNetV2 {
    /// A network whose last feature map has `output_stride`, or the stride of its last block if that is smaller.
    pub fn new(vb: &VarBuilder, config: &MobileNetV2Config, output_stride: i64, bn: BnConfig) -> Self {
        let vb = vb.sub("features");
        let stem = ConvConfig { stride: 2, ..Default::default() };
        let mut c_in = config.scaled(32);
        let stem = ConvNorm::new(&vb.sub(0), (3, c_in), 3, stem, bn);
        let mut budget = StrideBudget::new(output_stride, 2);
        let mut blocks = Vec::new();
        for (i, (expansion, c_out, stride)) in config.layout().into_iter().enumerate() {
            let geometry = budget.next(stride);
            let vb = vb.sub(i + 1).sub("conv");
            blocks.push(InvertedResidual::new(&vb, (c_in, c_out), expansion, geometry, bn));
            c_in = c_out;
        }
        let low_level = FeatureInfo { channels: blocks[TAPPED_BLOCK].hidden, stride: 4 };
        let last = FeatureInfo { channels: c_in, stride: budget.reached };
        Self { stem, blocks, info: vec![low_level, last] }
    }
}

impl Backbone for MobileNetV2 {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let (before, from) = self.blocks.split_at(TAPPED_BLOCK);
        let xs = before.iter().fold(self.stem.forward(xs, mode), |xs, block| block.forward(&xs, mode).1);
        let (low_level, xs) = from[0].forward(&xs, mode);
        let last = from[1..].iter().fold(xs, |xs, block| block.forward(&xs, mode).1);
        vec![low_level, last]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.clone()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let [mut stem, mut blocks] = [Cost::default(); 2];
        let mut xs = self.stem.cost(input, &mut stem);
        let mut low_level = xs;
        for (i, block) in self.blocks.iter().enumerate() {
            let (hidden, ys) = block.cost(xs, &mut blocks);
            if i == TAPPED_BLOCK {
                low_level = hidden;
            }
            xs = ys;
        }
        let parts = vec![("stem".to_string(), stem), ("inverted_residuals".to_string(), blocks)];
        (parts, vec![low_level, xs])
    }
}

/// 1x1 expansion (unless by 1), depthwise 3x3, linear 1x1; added to the input where the shapes agree.
#[derive(Debug)]
struct InvertedResidual {
    hidden: i64,
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    project: (Conv2d, BatchNorm),
    adds_input: bool,
}

impl InvertedResidual {
    fn new(
        vb: &VarBuilder,
        (c_in, c_out): (i64, i64),
        expansion: i64,
        (stride, dilation): (i64, i64),
        bn: BnConfig,
    ) -> Self {
        let hidden = c_in * expansion;
        let pointwise = ConvConfig::default();
        let expand = (expansion != 1).then(|| ConvNorm::new(&vb.sub(0), (c_in, hidden), 1, pointwise, bn));
        let depthwise = ConvConfig { stride, dilation, groups: hidden, ..pointwise };
        let next = usize::from(expand.is_some());
        Self {
            hidden,
            expand,
            depthwise: ConvNorm::new(&vb.sub(next), (hidden, hidden), 3, depthwise, bn),
            project: (
                Conv2d::new(&vb.sub(next + 1), hidden, c_out, 1, pointwise),
                BatchNorm::new(&vb.sub(next + 2), c_out, bn),
            ),
            adds_input: stride == 1 && c_in == c_out,
        }
    }

    /// Output of the depthwise convolution, and output of the block.
    fn forward(&self, xs: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let hidden = match &self.expand {
            Some(expand) => self.depthwise.forward(&expand.forward(xs, mode), mode),
            None => self.depthwise.forward(xs, mode),
        };
        let (conv, bn) = &self.project;
        let ys = bn.forward(&conv.forward(&hidden, mode), mode);
        (hidden, if self.adds_input { ys + xs } else { ys })
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> (Shape, Shape) {
        let hidden = self.expand.as_ref().map_or(xs, |expand| expand.cost(xs, cost));
        let hidden = self.depthwise.cost(hidden, cost);
        let (conv, bn) = &self.project;
        let ys = conv.cost(hidden, cost);
        (hidden, bn.cost(ys, cost))
    }
}

/// Convolution, norm, ReLU6; named `0` and `1` by torchvision.
#[derive(Debug)]
struct ConvNorm {
    conv: Conv2d,
    bn: BatchNorm,
}

impl ConvNorm {
    fn new(vb: &VarBuilder, (c_in, c_out): (i64, i64), ksize: i64, conv: ConvConfig, bn: BnConfig) -> Self {
        Self { conv: Conv2d::new(&vb.sub(0), c_in, c_out, ksize, conv), bn: BatchNorm::new(&vb.sub(1), c_out, bn) }
    }
}

impl Module for ConvNorm {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        Activation::Relu6.apply_(self.bn.forward(&self.conv.forward(xs, mode), mode))
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.conv.cost(xs, cost);
        self.bn.cost(ys, cost)
    }
}
