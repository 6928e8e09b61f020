//! Feature pyramid network (Lin et al. 2017, arXiv 1612.03144), with RetinaNet's further levels.

use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder, relu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Inputs, Levels, Neck, size_of, upsample};

/// What P6 is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExtraInput {
    /// The output P5.
    #[default]
    P5,
    /// The backbone's C5 (the RetinaNet paper; torchvision's second version).
    C5,
}

/// What an [`Fpn`] consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FpnConfig {
    /// Channels of every level.
    pub channels: i64,
    /// Levels.
    pub levels: Levels,
    /// What P6 is made of.
    pub extra: ExtraInput,
}

impl Default for FpnConfig {
    fn default() -> Self {
        Self { channels: 256, levels: Levels::default(), extra: ExtraInput::default() }
    }
}

/// 1x1 convolutions of the backbone's maps, added from coarse to fine, each followed by a 3x3 convolution; then P6 and, of
/// its rectified values, P7, by 3x3 convolutions of stride 2. Neither norms nor other activations.
#[derive(Debug)]
pub struct Fpn {
    inputs: Inputs,
    extra_input: ExtraInput,
    laterals: Vec<Conv2d>,
    outputs: Vec<Conv2d>,
    extra: Vec<Conv2d>,
}

impl Fpn {
    pub(super) fn new(vb: &VarBuilder, config: &FpnConfig, inputs: Inputs) -> Self {
        let c = config.channels;
        let extra_channels = match config.extra {
            ExtraInput::P5 => c,
            ExtraInput::C5 => inputs.last_channels(),
        };
        let lateral = |(i, c_in)| conv(&vb.sub("inner_blocks").sub(i).sub(0), (c_in, c), 1, 1);
        let output = |i| conv(&vb.sub("layer_blocks").sub(i).sub(0), (c, c), 3, 1);
        let extra = |i| {
            let c_in = if i == 0 { extra_channels } else { c };
            conv(&vb.sub("extra_blocks").sub(format!("p{}", 6 + i)), (c_in, c), 3, 2)
        };
        Self {
            laterals: inputs.channels().enumerate().map(lateral).collect(),
            outputs: (0..inputs.maps.len()).map(output).collect(),
            extra: (0..inputs.num_extra()).map(extra).collect(),
            extra_input: config.extra,
            inputs,
        }
    }
}

/// A convolution with bias and the variance of torchvision's initial weights (`kaiming_uniform` with `a = 1`).
fn conv(vb: &VarBuilder, (c_in, c_out): (i64, i64), ksize: i64, stride: i64) -> Conv2d {
    let init = Init::Normal(1.0 / ((c_in * ksize * ksize) as f64).sqrt());
    Conv2d::new(vb, c_in, c_out, ksize, ConvConfig { stride, bias: true, init, ..Default::default() })
}

impl Neck for Fpn {
    fn forward(&self, features: &[Tensor], mode: Mode) -> Vec<Tensor> {
        let features = self.inputs.pick(features);
        let laterals = self.laterals.iter().zip(&features).rev();
        let mut above: Option<Tensor> = None;
        let merged = laterals.map(|(lateral, xs)| {
            let xs = lateral.forward(xs, mode);
            let sum = match &above {
                Some(above) => &xs + upsample(above, size_of(&xs)),
                None => xs,
            };
            above = Some(sum.shallow_clone());
            sum
        });
        let merged: Vec<Tensor> = merged.collect();
        let outputs = self.outputs.iter().zip(merged.iter().rev());
        let mut levels: Vec<Tensor> = outputs.map(|(output, xs)| output.forward(xs, mode)).collect();
        for (i, conv) in self.extra.iter().enumerate() {
            let last = &levels[levels.len() - 1];
            let xs = match (i, self.extra_input) {
                (0, ExtraInput::P5) => last.shallow_clone(),
                (0, ExtraInput::C5) => features[features.len() - 1].shallow_clone(),
                _ => relu(last),
            };
            levels.push(conv.forward(&xs, mode));
        }
        levels
    }

    fn cost(&self, features: &[Shape], cost: &mut Cost) -> Vec<Shape> {
        let features = self.inputs.pick(features);
        let layers = self.laterals.iter().zip(&self.outputs).zip(&features);
        let layers = layers.map(|((lateral, output), xs)| {
            let ys = lateral.cost(**xs, cost);
            output.cost(ys, cost)
        });
        let mut levels: Vec<Shape> = layers.collect();
        for (i, conv) in self.extra.iter().enumerate() {
            let xs = match (i, self.extra_input) {
                (0, ExtraInput::C5) => *features[features.len() - 1],
                _ => levels[levels.len() - 1],
            };
            levels.push(conv.cost(xs, cost));
        }
        levels
    }

    fn norms(&self) -> Vec<&BatchNorm> {
        Vec::new()
    }
}
