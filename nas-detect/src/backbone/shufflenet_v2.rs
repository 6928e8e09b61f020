//! ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164) with torchvision's structure and variable names.

use anyhow::{Result, ensure};
use nas_core::models::{StageSize, sizes};
use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BnConfig, ConvConfig, ConvNorm, Mode, Module, Shape, VarBuilder, chain, chain_cost, max_pool,
    max_pool_shape, probe,
};
use nas_core::space::{Backbone, FeatureInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Channels of the stem.
const STEM: i64 = 24;
/// Units of each stage.
const REPEATS: [usize; 3] = [4, 8, 4];

/// A published width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShuffleNetWidth {
    /// 0.5
    #[serde(rename = "x0_5")]
    X0_5,
    /// 1.0
    #[serde(rename = "x1_0")]
    X1_0,
    /// 1.5
    #[serde(rename = "x1_5")]
    X1_5,
    /// 2.0
    #[serde(rename = "x2_0")]
    X2_0,
}

impl ShuffleNetWidth {
    /// The stem, one block, and the stages.
    pub fn sizes(self) -> Vec<StageSize> {
        let channels = match self {
            Self::X0_5 => [48, 96, 192],
            Self::X1_0 => [116, 232, 464],
            Self::X1_5 => [176, 352, 704],
            Self::X2_0 => [244, 488, 976],
        };
        let stages = channels.into_iter().zip(REPEATS).map(|(channels, blocks)| StageSize { channels, blocks });
        std::iter::once(StageSize { channels: STEM, blocks: 1 }).chain(stages).collect()
    }

    pub(super) fn last_channels(self) -> i64 {
        if self == Self::X2_0 { 2048 } else { 1024 }
    }
}

/// A ShuffleNetV2. Features: the pooled stem (stride 4) and its three stages (8, 16, 32).
#[derive(Debug)]
pub struct ShuffleNetV2 {
    stem: ConvNorm,
    stages: Vec<Vec<Unit>>,
    info: Vec<FeatureInfo>,
}

impl ShuffleNetV2 {
    /// A network of `sizes`, which are as many as [`ShuffleNetWidth::sizes`] has.
    ///
    /// # Errors
    /// If there are more or fewer, a stem of several blocks, or a stage of an odd number of channels.
    pub fn new(vb: &VarBuilder, sizes: &[StageSize], bn: BnConfig) -> Result<Self> {
        let key = "model.backbone.stages";
        sizes::check(key, &ShuffleNetWidth::X1_0.sizes(), sizes)?;
        ensure!(sizes[0].blocks == 1, "{key}[0].blocks = {}; expected 1, the first convolution", sizes[0].blocks);
        let odd = sizes[1..].iter().find(|size| size.channels % 2 == 1);
        ensure!(odd.is_none(), "{key}: {}; expected even channels", odd.map(StageSize::to_string).unwrap_or_default());
        let mut c_in = sizes[0].channels;
        let stage = |(i, size): (usize, &StageSize)| {
            let (vb, c_out) = (vb.sub(format!("stage{}", i + 2)), size.channels);
            let unit = |unit| Unit::new(&vb.sub(unit), std::mem::replace(&mut c_in, c_out), c_out, unit == 0, bn);
            (0..size.blocks).map(unit).collect()
        };
        let stem = ConvConfig { stride: 2, ..Default::default() };
        let layers = Layers { vb: vb.sub("conv1"), bn };
        let info = sizes.iter().zip([4, 8, 16, 32]);
        Ok(Self {
            stem: layers.add(0, (3, sizes[0].channels), 3, stem, Activation::Relu),
            stages: sizes[1..].iter().enumerate().map(stage).collect(),
            info: info.map(|(size, stride)| FeatureInfo { channels: size.channels, stride }).collect(),
        })
    }
}

impl Backbone for ShuffleNetV2 {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut features = vec![max_pool(&self.stem.forward(xs, mode))];
        for units in &self.stages {
            let xs = features[features.len() - 1].shallow_clone();
            features.push(units.iter().fold(xs, |xs, unit| probe::block(unit.forward(&xs, mode))));
        }
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.clone()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut stem = Cost::default();
        let mut xs = max_pool_shape(self.stem.cost(input, &mut stem));
        let (mut parts, mut features) = (vec![("stem".to_string(), stem)], vec![xs]);
        for (i, units) in self.stages.iter().enumerate() {
            let mut cost = Cost::default();
            xs = units.iter().fold(xs, |xs, unit| unit.cost(xs, &mut cost));
            parts.push((format!("stage_{}", i + 2), cost));
            features.push(xs);
        }
        (parts, features)
    }
}

/// Two branches on the whole input at stride 2, on half of it beside the other half at stride 1; then a shuffle.
#[derive(Debug)]
struct Unit {
    projection: Option<[ConvNorm; 2]>,
    branch: [ConvNorm; 3],
}

impl Unit {
    fn new(vb: &VarBuilder, c_in: i64, c_out: i64, strided: bool, bn: BnConfig) -> Self {
        let half = c_out / 2;
        let (stride, a) = if strided { (2, c_in) } else { (1, half) };
        let pointwise = ConvConfig::default();
        let depthwise = |c| ConvConfig { stride, groups: c, ..pointwise };
        let projection = strided.then(|| {
            let layers = Layers { vb: vb.sub("branch1"), bn };
            [
                layers.add(0, (c_in, c_in), 3, depthwise(c_in), Activation::Identity),
                layers.add(2, (c_in, half), 1, pointwise, Activation::Relu),
            ]
        });
        let layers = Layers { vb: vb.sub("branch2"), bn };
        let branch = [
            layers.add(0, (a, half), 1, pointwise, Activation::Relu),
            layers.add(3, (half, half), 3, depthwise(half), Activation::Identity),
            layers.add(5, (half, half), 1, pointwise, Activation::Relu),
        ];
        Self { projection, branch }
    }
}

impl Module for Unit {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let (kept, branch) = match &self.projection {
            Some(projection) => (chain(projection, xs, mode), chain(&self.branch, xs, mode)),
            None => {
                let half = xs.size()[1] / 2;
                (xs.narrow(1, 0, half), chain(&self.branch, &xs.narrow(1, half, half), mode))
            }
        };
        Tensor::cat(&[kept, branch], 1).channel_shuffle(2)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = match &self.projection {
            Some(projection) => {
                chain_cost(projection, xs, cost);
                chain_cost(&self.branch, xs, cost)
            }
            None => chain_cost(&self.branch, xs.with_channels(xs.c / 2), cost),
        };
        ys.with_channels(2 * ys.c)
    }
}

/// Makes the layers of a branch, whose convolutions and norms torchvision numbers in one row.
struct Layers<'a> {
    vb: VarBuilder<'a>,
    bn: BnConfig,
}

impl Layers<'_> {
    fn add(&self, i: usize, channels: (i64, i64), ksize: i64, conv: ConvConfig, activation: Activation) -> ConvNorm {
        ConvNorm::new([self.vb.sub(i), self.vb.sub(i + 1)], channels, ksize, conv, self.bn, activation)
    }
}
