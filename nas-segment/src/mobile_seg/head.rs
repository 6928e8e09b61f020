//! Heads of the space: a context module, refinements by finer maps, logits; and SqueezeNAS' own two (arXiv 1908.01748).
//! Variables of the former have the names of [`crate::head`].

use nas_core::nn::{
    Activation, BnConfig, Conv2d, ConvBn, ConvConfig, Cost, Init, Mode, Module, Shape, VarBuilder, conv_bn,
    resize_bilinear,
};
use nas_core::space::{Backbone, FeatureInfo};
use tch::{Kind, Tensor};

use super::config::{DecoderStep, HeadConfig, MobileSegConfig};
use super::network::Trunk;
use crate::head::{self, Aspp, DenseHead};

/// The head of `config` over `trunk`, its weights under `vb`.
pub(super) fn build(vb: &VarBuilder, config: &MobileSegConfig, trunk: &Trunk, classes: i64) -> Box<dyn DenseHead> {
    let features = trunk.feature_info();
    match &config.head {
        HeadConfig::SeparableAspp { decoder, .. }
        | HeadConfig::LrAspp { decoder, .. }
        | HeadConfig::Pooling { decoder, .. } => {
            Box::new(RefinedHead::new(&vb.sub("head"), config, decoder, &features, classes))
        }
        HeadConfig::SqueezenasLrAspp { channels, .. } => {
            Box::new(SqueezeLrAspp::new(&vb.sub("decoder"), &features, *channels, config.bn, classes))
        }
        HeadConfig::SqueezenasAspp { channels, .. } => {
            Box::new(SqueezeAspp::new(vb, &features, *channels, config.bn, classes))
        }
    }
}

/// Context, refinements, logits.
#[derive(Debug)]
struct RefinedHead {
    context: Context,
    /// The coarser first.
    steps: Vec<Step>,
    logits: Conv2d,
}

#[derive(Debug)]
enum Context {
    Pyramid(Aspp),
    LrAspp(LrAspp),
}

impl RefinedHead {
    fn new(
        vb: &VarBuilder,
        config: &MobileSegConfig,
        decoder: &[DecoderStep],
        features: &[FeatureInfo],
        classes: i64,
    ) -> Self {
        let (last, low_levels) = features.split_last().expect("a last map");
        let (channels, pyramid) = context(config);
        let mut coarse = channels;
        let steps = decoder.iter().zip(low_levels.iter().rev()).enumerate().map(|(i, (step, low_level))| {
            let name = if i == 0 { "decoder".to_string() } else { format!("decoder_{}", i + 1) };
            let step = Step::new(&vb.sub(name), (coarse, low_level.channels), step, &separable(config));
            coarse = step.channels;
            step
        });
        let steps: Vec<Step> = steps.collect();
        let context = match pyramid {
            Some(pyramid) => Context::Pyramid(Aspp::new(&vb.sub("aspp"), *last, &pyramid)),
            None => Context::LrAspp(LrAspp::new(&vb.sub("lr_aspp"), last.channels, channels, config.bn)),
        };
        let logits = ConvConfig { bias: true, init: Init::Normal(0.01), ..Default::default() };
        Self { context, steps, logits: Conv2d::new(&vb.sub("logits"), coarse, classes, 1, logits) }
    }
}

/// Settings of DeepLab's parts.
fn separable(config: &MobileSegConfig) -> head::HeadConfig {
    head::HeadConfig { separable: true, bn: config.bn, dropout: config.dropout, ..Default::default() }
}

/// Channels of the context, and the pyramid's settings where it is one.
fn context(config: &MobileSegConfig) -> (i64, Option<head::HeadConfig>) {
    match config.head {
        HeadConfig::SeparableAspp { rates, channels, .. } => {
            (channels, Some(head::HeadConfig { rates, channels, ..separable(config) }))
        }
        HeadConfig::Pooling { channels, .. } => {
            (channels, Some(head::HeadConfig { atrous_convs: false, channels, ..separable(config) }))
        }
        HeadConfig::LrAspp { channels, .. }
        | HeadConfig::SqueezenasLrAspp { channels, .. }
        | HeadConfig::SqueezenasAspp { channels, .. } => (channels, None),
    }
}

impl DenseHead for RefinedHead {
    fn forward(&self, features: &[Tensor], size: (i64, i64), mode: Mode) -> Tensor {
        let (last, low_levels) = features.split_last().expect("a last map");
        let context = match &self.context {
            Context::Pyramid(pyramid) => pyramid.forward(last, mode),
            Context::LrAspp(lr_aspp) => lr_aspp.forward(last, mode),
        };
        let steps = self.steps.iter().zip(low_levels.iter().rev());
        let ys = steps.fold(context, |ys, (step, low_level)| step.forward(&ys, low_level, mode));
        resize_bilinear(&self.logits.forward(&ys, mode), size)
    }

    fn cost_parts(&self, features: &[Shape]) -> Vec<(String, Cost)> {
        let (last, low_levels) = features.split_last().expect("a last map");
        let mut context = Cost::default();
        let mut ys = match &self.context {
            Context::Pyramid(pyramid) => pyramid.cost(*last, &mut context),
            Context::LrAspp(lr_aspp) => lr_aspp.cost(*last, &mut context),
        };
        let mut parts = vec![("context".to_string(), context)];
        let mut decoder = Cost::default();
        for (step, low_level) in self.steps.iter().zip(low_levels.iter().rev()) {
            ys = step.cost(ys, *low_level, &mut decoder);
        }
        if !self.steps.is_empty() {
            parts.push(("decoder".to_string(), decoder));
        }
        let mut logits = Cost::default();
        self.logits.cost(ys, &mut logits);
        parts.push(("logits".to_string(), logits));
        parts
    }
}

/// One refinement.
#[derive(Debug)]
struct Step {
    low_level: ConvBn,
    refine: Vec<Box<dyn Module>>,
    channels: i64,
}

impl Step {
    fn new(vb: &VarBuilder, (coarse, fine): (i64, i64), step: &DecoderStep, head: &head::HeadConfig) -> Self {
        let DecoderStep { low_level_channels, channels, convs, .. } = *step;
        let low_level = (fine, low_level_channels);
        let low_level = conv_bn(&vb.sub("low_level"), low_level, 1, ConvConfig::default(), head.bn, Activation::Relu);
        let refine = (0..convs).map(|i| {
            let c_in = if i == 0 { coarse + low_level_channels } else { channels };
            head::conv_3x3(&vb.sub(format!("refine_{i}")), (c_in, channels), 1, head)
        });
        Self { low_level, refine: refine.collect(), channels }
    }

    fn forward(&self, xs: &Tensor, low_level: &Tensor, mode: Mode) -> Tensor {
        let low_level = self.low_level.forward(low_level, mode);
        let (_, _, h, w) = low_level.size4().expect("a feature map has four dimensions");
        let ys = Tensor::cat(&[resize_bilinear(xs, (h, w)), low_level], 1);
        self.refine.iter().fold(ys, |ys, conv| conv.forward(&ys, mode))
    }

    fn cost(&self, xs: Shape, low_level: Shape, cost: &mut Cost) -> Shape {
        let reduced = self.low_level.cost(low_level, cost);
        let ys = reduced.with_channels(xs.c + reduced.c);
        self.refine.iter().fold(ys, |ys, conv| conv.cost(ys, cost))
    }
}

/// Lite R-ASPP with the mean of the whole image.
#[derive(Debug)]
struct LrAspp {
    point: ConvBn,
    gate: Conv2d,
}

impl LrAspp {
    fn new(vb: &VarBuilder, c_in: i64, channels: i64, bn: BnConfig) -> Self {
        let bias = ConvConfig { bias: true, ..Default::default() };
        Self {
            point: conv_bn(&vb.sub("point"), (c_in, channels), 1, ConvConfig::default(), bn, Activation::Relu),
            gate: Conv2d::new(&vb.sub("gate"), c_in, channels, 1, bias),
        }
    }
}

impl Module for LrAspp {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let mean = xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
        self.point.forward(xs, mode) * self.gate.forward(&mean, mode).sigmoid()
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.gate.cost(xs.with_size((1, 1)), cost);
        self.point.cost(xs, cost)
    }
}

/// A named 1x1 convolution with bias.
fn biased(vb: &VarBuilder, channels: (i64, i64)) -> Conv2d {
    Conv2d::new(vb, channels.0, channels.1, 1, ConvConfig { bias: true, ..Default::default() })
}

/// Bilinear interpolation without aligned corners.
fn resize_unaligned(xs: &Tensor, (h, w): (i64, i64)) -> Tensor {
    xs.upsample_bilinear2d([h, w], false, None, None)
}

fn size(xs: &Tensor) -> (i64, i64) {
    let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
    (h, w)
}

/// The gate's window and its strides.
const GATE_WINDOW: i64 = 49;
const GATE_STRIDES: [i64; 2] = [16, 20];

/// SqueezeNAS' Lite R-ASPP. The published network refuses a last map below 49x49; here the gate then pools all of it.
#[derive(Debug)]
struct SqueezeLrAspp {
    point: ConvBn,
    gate: Conv2d,
    logits: Conv2d,
    low_level_logits: Conv2d,
}

impl SqueezeLrAspp {
    fn new(vb: &VarBuilder, features: &[FeatureInfo], channels: i64, bn: BnConfig, classes: i64) -> Self {
        let [low_level, last] = [features[0], features[1]].map(|info| info.channels);
        let conv = ConvConfig { init: Init::KaimingFanOut, ..Default::default() };
        Self {
            point: conv_bn(&vb.sub("_1x1_TL"), (last, channels), 1, conv, bn, Activation::Relu),
            gate: biased(&vb.sub("_1x1_BL"), (last, channels)),
            logits: biased(&vb.sub("_1x1_TR"), (channels, classes)),
            low_level_logits: biased(&vb.sub("_1x1_BR"), (low_level, classes)),
        }
    }

    /// Height and width of the pooled map.
    fn pooled((h, w): (i64, i64)) -> Option<(i64, i64)> {
        let windows = |n: i64, stride: i64| (n - GATE_WINDOW) / stride + 1;
        (h.min(w) >= GATE_WINDOW).then(|| (windows(h, GATE_STRIDES[0]), windows(w, GATE_STRIDES[1])))
    }
}

impl DenseHead for SqueezeLrAspp {
    fn forward(&self, features: &[Tensor], image: (i64, i64), mode: Mode) -> Tensor {
        let [low_level, deep] = features else { panic!("a finer and a last map") };
        let pooled = match Self::pooled(size(deep)) {
            Some(_) => deep.avg_pool2d([GATE_WINDOW; 2], GATE_STRIDES, [0, 0], false, true, None),
            None => deep.mean_dim([2i64, 3].as_slice(), true, None::<Kind>),
        };
        let gate = self.gate.forward(&pooled, mode).sigmoid();
        let ys = self.point.forward(deep, mode) * resize_unaligned(&gate, size(deep));
        let ys = self.logits.forward(&resize_unaligned(&ys, size(low_level)), mode);
        resize_bilinear(&(ys + self.low_level_logits.forward(low_level, mode)), image)
    }

    fn cost_parts(&self, features: &[Shape]) -> Vec<(String, Cost)> {
        let [low_level, deep] = features else { panic!("a finer and a last map") };
        let [mut context, mut logits] = [Cost::default(); 2];
        let ys = self.point.cost(*deep, &mut context);
        self.gate.cost(deep.with_size(Self::pooled(deep.size()).unwrap_or((1, 1))), &mut context);
        self.logits.cost(ys.with_size(low_level.size()), &mut logits);
        self.low_level_logits.cost(*low_level, &mut logits);
        vec![("context".to_string(), context), ("logits".to_string(), logits)]
    }
}

/// Rates of SqueezeNAS' pyramid, which has them at output stride 16.
const SQUEEZE_RATES: [i64; 3] = [6, 12, 18];

/// SqueezeNAS' pyramid and decoder.
#[derive(Debug)]
struct SqueezeAspp {
    branches: Vec<ConvBn>,
    project: ConvBn,
    low_level: Conv2d,
    refine: ConvBn,
    logits: Conv2d,
}

impl SqueezeAspp {
    fn new(vb: &VarBuilder, features: &[FeatureInfo], channels: i64, bn: BnConfig, classes: i64) -> Self {
        let [low_level, last] = [features[0], features[1]].map(|info| info.channels);
        let conv = ConvConfig { init: Init::KaimingFanOut, ..Default::default() };
        let decoder = vb.sub("decoder");
        let named = |name: &str, c_in, ksize, conv| {
            conv_bn(&decoder.sub(name), (c_in, channels), ksize, conv, bn, Activation::Relu)
        };
        let mut branches = vec![named("_1x1_1_conv", last, 1, conv)];
        let groups = channels.min(last);
        branches.extend(SQUEEZE_RATES.iter().enumerate().map(|(i, dilation)| {
            named(&format!("_3x3_{}_conv", i + 1), last, 3, ConvConfig { dilation: *dilation, groups, ..conv })
        }));
        let c = channels + low_level;
        Self {
            project: named("_1x1_2_conv", 4 * channels + last, 1, conv),
            branches,
            low_level: biased(&vb.sub("lowlevel1x1"), (low_level, low_level)),
            refine: conv_bn(&vb.sub("logits2"), (c, c), 3, ConvConfig { groups: c, ..conv }, bn, Activation::Relu),
            logits: biased(&vb.sub("logits3"), (c, classes)),
        }
    }
}

impl DenseHead for SqueezeAspp {
    fn forward(&self, features: &[Tensor], image: (i64, i64), mode: Mode) -> Tensor {
        let [low_level, deep] = features else { panic!("a finer and a last map") };
        let mut views: Vec<Tensor> = self.branches.iter().map(|branch| branch.forward(deep, mode)).collect();
        let mean = deep.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
        let (h, w) = size(deep);
        views.push(mean.expand([-1, -1, h, w], false));
        let ys = self.project.forward(&Tensor::cat(&views, 1), mode);
        let finer = self.low_level.forward(low_level, mode);
        let ys = Tensor::cat(&[resize_bilinear(&ys, size(low_level)), finer], 1);
        resize_bilinear(&self.logits.forward(&self.refine.forward(&ys, mode), mode), image)
    }

    fn cost_parts(&self, features: &[Shape]) -> Vec<(String, Cost)> {
        let [low_level, deep] = features else { panic!("a finer and a last map") };
        let [mut context, mut decoder, mut logits] = [Cost::default(); 3];
        let c: i64 = self.branches.iter().map(|branch| branch.cost(*deep, &mut context).c).sum();
        let ys = self.project.cost(deep.with_channels(c + deep.c), &mut context);
        let finer = self.low_level.cost(*low_level, &mut decoder);
        let ys = self.refine.cost(finer.with_channels(ys.c + finer.c), &mut decoder);
        self.logits.cost(ys, &mut logits);
        vec![("context".to_string(), context), ("decoder".to_string(), decoder), ("logits".to_string(), logits)]
    }
}
