//! ResNet-101 (He et al. 2016, arXiv 1512.03385) as DeepLab uses it: a root of three 3x3 convolutions, the stride in the
//! last unit of a stage, and atrous rates 1, 2, 4 within the last stage (arXiv 1706.05587, "multi-grid").

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BnConfig, ConvBn, ConvConfig, Mode, Module, Shape, VarBuilder, conv_bn};
use nas_core::space::{Backbone, FeatureInfo};
use tch::Tensor;

use super::StrideBudget;

/// Base channels, units and stride of the stages.
const STAGES_101: [(i64, usize, i64); 4] = [(64, 3, 2), (128, 4, 2), (256, 23, 2), (512, 3, 1)];
/// Rates of the units of the last stage, beside those that replace strides.
const MULTI_GRID: [i64; 3] = [1, 2, 4];
/// Channels of a unit's output per base channel.
const EXPANSION: i64 = 4;
/// The unit of the first stage whose last convolution the decoder sees.
const TAPPED_UNIT: usize = 1;

/// A ResNet of bottlenecks. Features: the last convolution of the second unit before its addition (stride 4, 256
/// channels), and the last layer (2048 channels).
#[derive(Debug)]
pub struct ResNet {
    root: [ConvBn; 3],
    stages: Vec<Vec<Bottleneck>>,
    stride: i64,
}

impl ResNet {
    /// ResNet-101 whose last feature map has `output_stride`.
    pub fn new_101(vb: &VarBuilder, output_stride: i64, bn: BnConfig) -> Self {
        let root = |i: usize, channels, stride| {
            let conv = ConvConfig { stride, ..Default::default() };
            conv_bn(&vb.sub("root").sub(i), channels, 3, conv, bn, Activation::Relu)
        };
        let mut budget = StrideBudget::new(output_stride, 4);
        let mut c_in = 128;
        let mut stages = Vec::new();
        for (stage, (base, units, stride)) in STAGES_101.into_iter().enumerate() {
            let vb = vb.sub(format!("stage_{stage}"));
            let last_stage = stage + 1 == STAGES_101.len();
            let unit = |unit: usize| {
                let stride = if unit + 1 == units { stride } else { 1 };
                let (stride, rate) = budget.next(stride);
                let rate = if last_stage { rate * MULTI_GRID[unit] } else { rate };
                let c_in = std::mem::replace(&mut c_in, base * EXPANSION);
                Bottleneck::new(&vb.sub(unit), c_in, base, (stride, rate), bn)
            };
            stages.push((0..units).map(unit).collect());
        }
        Self {
            root: [root(0, (3, 64), 2), root(1, (64, 64), 1), root(2, (64, 128), 1)],
            stages,
            stride: budget.reached,
        }
    }

    fn units(&self) -> impl Iterator<Item = &Bottleneck> {
        self.stages.iter().flatten()
    }
}

impl Backbone for ResNet {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let xs = self.root.iter().fold(xs.shallow_clone(), |xs, conv| conv.forward(&xs, mode));
        let mut xs = xs.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false);
        let mut low_level = None;
        for (i, unit) in self.units().enumerate() {
            let branch = unit.branch(&xs, mode);
            let shortcut = unit.shortcut(&xs, mode);
            if i == TAPPED_UNIT {
                low_level = Some(branch.shallow_clone());
            }
            xs = (branch + shortcut).relu_();
        }
        vec![low_level.expect("the first stage has a second unit"), xs]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        let channels = |stage: usize| STAGES_101[stage].0 * EXPANSION;
        vec![
            FeatureInfo { channels: channels(0), stride: 4 },
            FeatureInfo { channels: channels(STAGES_101.len() - 1), stride: self.stride },
        ]
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut cost = Cost::default();
        let xs = self.root.iter().fold(input, |xs, conv| conv.cost(xs, &mut cost));
        let mut xs = xs.with_size(((xs.h - 1) / 2 + 1, (xs.w - 1) / 2 + 1));
        let mut parts = vec![("root".to_string(), cost)];
        let mut low_level = xs;
        for (stage, units) in self.stages.iter().enumerate() {
            let mut cost = Cost::default();
            for (i, unit) in units.iter().enumerate() {
                xs = unit.cost(xs, &mut cost);
                if (stage, i) == (0, TAPPED_UNIT) {
                    low_level = xs;
                }
            }
            parts.push((format!("stage_{stage}"), cost));
        }
        (parts, vec![low_level, xs])
    }
}

/// 1x1, 3x3, 1x1; added to a shortcut.
#[derive(Debug)]
struct Bottleneck {
    convs: [ConvBn; 3],
    stride: i64,
    projection: Option<ConvBn>,
}

impl Bottleneck {
    fn new(vb: &VarBuilder, c_in: i64, base: i64, (stride, rate): (i64, i64), bn: BnConfig) -> Self {
        let c_out = base * EXPANSION;
        let pointwise = |name: &str, channels, stride, activation| {
            let conv = ConvConfig { stride, ..Default::default() };
            conv_bn(&vb.sub(name), channels, 1, conv, bn, activation)
        };
        let spatial = ConvConfig { stride, dilation: rate, ..Default::default() };
        let projection = (c_in != c_out).then(|| pointwise("projection", (c_in, c_out), stride, Activation::Identity));
        Self {
            convs: [
                pointwise("reduce", (c_in, base), 1, Activation::Relu),
                conv_bn(&vb.sub("spatial"), (base, base), 3, spatial, bn, Activation::Relu),
                pointwise("expand", (base, c_out), 1, Activation::Identity),
            ],
            stride,
            projection,
        }
    }

    fn branch(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.convs.iter().fold(xs.shallow_clone(), |xs, conv| conv.forward(&xs, mode))
    }

    fn shortcut(&self, xs: &Tensor, mode: Mode) -> Tensor {
        match &self.projection {
            Some(projection) => projection.forward(xs, mode),
            None if self.stride == 1 => xs.shallow_clone(),
            None => xs.slice(2, None, None, self.stride).slice(3, None, None, self.stride),
        }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        if let Some(projection) = &self.projection {
            projection.cost(xs, cost);
        }
        self.convs.iter().fold(xs, |xs, conv| conv.cost(xs, cost))
    }
}
