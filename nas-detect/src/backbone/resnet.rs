//! ResNet-18 and ResNet-50 (He et al. 2016, arXiv 1512.03385) with torchvision's structure (the stride is in the 3x3
//! convolution) and variable names.

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BnConfig, Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder};
use nas_core::space::{Backbone, FeatureInfo};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::layers::{ConvNorm, NormConfig, chain, chain_cost};

/// Base channels of the stages.
const BASES: [i64; 4] = [64, 128, 256, 512];

/// A published depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum ResNetDepth {
    /// 18 layers: two 3x3 convolutions per unit.
    R18,
    /// 50 layers: bottlenecks.
    R50,
}

impl TryFrom<u8> for ResNetDepth {
    type Error = String;

    fn try_from(layers: u8) -> Result<Self, String> {
        match layers {
            18 => Ok(Self::R18),
            50 => Ok(Self::R50),
            _ => Err(format!("{layers} layers: expected 18 or 50")),
        }
    }
}

impl From<ResNetDepth> for u8 {
    fn from(depth: ResNetDepth) -> u8 {
        match depth {
            ResNetDepth::R18 => 18,
            ResNetDepth::R50 => 50,
        }
    }
}

impl ResNetDepth {
    fn units(self) -> [usize; 4] {
        match self {
            Self::R18 => [2, 2, 2, 2],
            Self::R50 => [3, 4, 6, 3],
        }
    }

    /// Channels of a unit's output per base channel.
    fn expansion(self) -> i64 {
        match self {
            Self::R18 => 1,
            Self::R50 => 4,
        }
    }
}

/// Which ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Its layers.
    pub depth: ResNetDepth,
    /// Norms are fixed, as in torchvision's detectors: for pretrained weights and small batches.
    #[serde(default)]
    pub frozen_norms: bool,
}

/// A ResNet. Features: its four stages, strides 4, 8, 16, 32.
#[derive(Debug)]
pub struct ResNet {
    stem: ConvNorm,
    stages: Vec<Vec<Unit>>,
    expansion: i64,
}

impl ResNet {
    /// The network of `config`.
    pub fn new(vb: &VarBuilder, config: ResNetConfig) -> Self {
        let norm = match config.frozen_norms {
            true => NormConfig::Frozen,
            false => NormConfig::Batch(BnConfig::default()),
        };
        let expansion = config.depth.expansion();
        let mut c_in = BASES[0];
        let stage = |(i, units): (usize, usize)| {
            let vb = vb.sub(format!("layer{}", i + 1));
            let unit = |unit: usize| {
                let stride = if unit == 0 && i > 0 { 2 } else { 1 };
                let c_in = std::mem::replace(&mut c_in, BASES[i] * expansion);
                Unit::new(&vb.sub(unit), c_in, BASES[i], stride, config.depth, norm)
            };
            (0..units).map(unit).collect()
        };
        let stages = config.depth.units().into_iter().enumerate().map(stage).collect();
        let stem = ConvConfig { stride: 2, init: Init::KaimingFanOut, ..Default::default() };
        let stem = Conv2d::new(&vb.sub("conv1"), 3, BASES[0], 7, stem);
        let stem = ConvNorm::new(stem, norm.build(&vb.sub("bn1"), BASES[0]), Activation::Relu);
        Self { stem, stages, expansion }
    }
}

impl Backbone for ResNet {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut xs = max_pool(&self.stem.forward(xs, mode));
        let stage = |units: &Vec<Unit>| {
            xs = units.iter().fold(xs.shallow_clone(), |xs, unit| unit.forward(&xs, mode));
            xs.shallow_clone()
        };
        self.stages.iter().map(stage).collect()
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        let info = |(base, stride)| FeatureInfo { channels: base * self.expansion, stride };
        BASES.into_iter().zip([4, 8, 16, 32]).map(info).collect()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut stem = Cost::default();
        let mut xs = max_pool_shape(self.stem.cost(input, &mut stem));
        let (mut parts, mut features) = (vec![("stem".to_string(), stem)], Vec::new());
        for (i, units) in self.stages.iter().enumerate() {
            let mut cost = Cost::default();
            xs = units.iter().fold(xs, |xs, unit| unit.cost(xs, &mut cost));
            parts.push((format!("stage_{}", i + 1), cost));
            features.push(xs);
        }
        (parts, features)
    }
}

/// 3x3 max pooling of stride 2.
pub(super) fn max_pool(xs: &Tensor) -> Tensor {
    xs.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
}

/// What [`max_pool`] gives.
pub(super) fn max_pool_shape(xs: Shape) -> Shape {
    xs.with_size(((xs.h - 1) / 2 + 1, (xs.w - 1) / 2 + 1))
}

/// Convolutions, added to a shortcut.
#[derive(Debug)]
struct Unit {
    convs: Vec<ConvNorm>,
    shortcut: Option<ConvNorm>,
}

impl Unit {
    fn new(vb: &VarBuilder, c_in: i64, base: i64, stride: i64, depth: ResNetDepth, norm: NormConfig) -> Self {
        let layer = |i: usize, channels: (i64, i64), ksize, stride, activation| {
            let conv = ConvConfig { stride, init: Init::KaimingFanOut, ..Default::default() };
            let conv = Conv2d::new(&vb.sub(format!("conv{i}")), channels.0, channels.1, ksize, conv);
            ConvNorm::new(conv, norm.build(&vb.sub(format!("bn{i}")), channels.1), activation)
        };
        let c_out = base * depth.expansion();
        let convs = match depth {
            ResNetDepth::R18 => vec![
                layer(1, (c_in, base), 3, stride, Activation::Relu),
                layer(2, (base, c_out), 3, 1, Activation::Identity),
            ],
            ResNetDepth::R50 => vec![
                layer(1, (c_in, base), 1, 1, Activation::Relu),
                layer(2, (base, base), 3, stride, Activation::Relu),
                layer(3, (base, c_out), 1, 1, Activation::Identity),
            ],
        };
        let shortcut = (stride != 1 || c_in != c_out).then(|| {
            let conv = ConvConfig { stride, init: Init::KaimingFanOut, ..Default::default() };
            let vb = vb.sub("downsample");
            let conv = Conv2d::new(&vb.sub(0), c_in, c_out, 1, conv);
            ConvNorm::new(conv, norm.build(&vb.sub(1), c_out), Activation::Identity)
        });
        Self { convs, shortcut }
    }
}

impl Module for Unit {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let ys = chain(&self.convs, xs, mode);
        let shortcut = self.shortcut.as_ref().map_or_else(|| xs.shallow_clone(), |conv| conv.forward(xs, mode));
        Activation::Relu.apply_(ys + shortcut)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        if let Some(shortcut) = &self.shortcut {
            shortcut.cost(xs, cost);
        }
        chain_cost(&self.convs, xs, cost)
    }
}
