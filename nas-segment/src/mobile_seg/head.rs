//! Heads of the space: a context module, refinements by finer maps, logits; and SqueezeNAS' own two (arXiv 1908.01748).
//! Variables of the former have the names of [`crate::head`].

use nas_core::nn::{
    Activation, BnConfig, Conv2d, ConvConfig, ConvNorm, Cost, Init, Mode, Module, Shape, VarBuilder, conv_bn,
    resize_bilinear,
};
use nas_core::space::{Backbone, FeatureInfo};
use tch::{Kind, Tensor};

use super::config::{DecoderStep, HeadConfig, MobileSegConfig, Tap};
use super::network::Trunk;
use crate::head::{self, Aspp, DenseHead};

/// The head of `config` over `trunk`, its weights under `vb`.
pub(super) fn build(vb: &VarBuilder, config: &MobileSegConfig, trunk: &Trunk, classes: i64) -> Box<dyn DenseHead> {
    let features = trunk.feature_info();
    match config.head.decoder() {
        Some(decoder) => {
            let names = HeadNames::Alone(vb.sub("head"));
            Box::new(RefinedHead::new(&names, config, decoder, &features, classes))
        }
        None => squeezenas(vb, &config.head, &features, config.bn, classes),
    }
}

/// As [`build`], with the weights of a supernet under `vb`.
pub(super) fn build_shared(
    vb: &VarBuilder,
    config: &MobileSegConfig,
    trunk: &Trunk,
    classes: i64,
) -> Box<dyn DenseHead> {
    let features = trunk.feature_info();
    match config.head.decoder() {
        Some(decoder) => {
            let names = HeadNames::Shared(vb.sub("head"));
            Box::new(RefinedHead::new(&names, config, decoder, &features, classes))
        }
        None => squeezenas(vb, &config.head, &features, config.bn, classes),
    }
}

fn squeezenas(
    vb: &VarBuilder,
    head: &HeadConfig,
    features: &[FeatureInfo],
    bn: BnConfig,
    classes: i64,
) -> Box<dyn DenseHead> {
    match head {
        HeadConfig::SqueezenasAspp { channels, .. } => Box::new(SqueezeAspp::new(vb, features, *channels, bn, classes)),
        HeadConfig::SqueezenasLrAspp { channels, .. } => {
            Box::new(SqueezeLrAspp::new(&vb.sub("decoder"), features, *channels, bn, classes))
        }
        _ => unreachable!("a head without a decoder"),
    }
}

/// Places of a head's layers.
enum HeadNames<'v> {
    /// Those of [`crate::head`].
    Alone(VarBuilder<'v>),
    /// A supernet's, by what the layers are.
    Shared(VarBuilder<'v>),
}

/// What a decoder step or the logits take: the context module's map or that of the step of a stride.
#[derive(Clone, Copy)]
enum From {
    Context,
    Step(i64),
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Context => f.write_str("context"),
            Self::Step(stride) => write!(f, "step_{stride}"),
        }
    }
}

impl<'v> HeadNames<'v> {
    fn context(&self, head: &HeadConfig) -> VarBuilder<'v> {
        let (kind, channels) = match head {
            HeadConfig::SeparableAspp { rates: [a, b, c], channels, .. } => (format!("aspp_{a}_{b}_{c}"), channels),
            HeadConfig::LrAspp { channels, .. } => ("lr_aspp".into(), channels),
            HeadConfig::Pooling { channels, .. }
            | HeadConfig::SqueezenasLrAspp { channels, .. }
            | HeadConfig::SqueezenasAspp { channels, .. } => ("pooling".into(), channels),
        };
        match (self, head) {
            (Self::Shared(vb), _) => vb.sub("context").sub(kind).sub(channels),
            (Self::Alone(vb), HeadConfig::LrAspp { .. }) => vb.sub("lr_aspp"),
            (Self::Alone(vb), _) => vb.sub("aspp"),
        }
    }

    /// The place of the `i`th step.
    fn step(&self, i: usize, stride: i64) -> VarBuilder<'v> {
        match self {
            Self::Shared(vb) => vb.sub("decoder").sub(stride),
            Self::Alone(vb) if i == 0 => vb.sub("decoder"),
            Self::Alone(vb) => vb.sub(format!("decoder_{}", i + 1)),
        }
    }

    fn low_level(&self, step: &VarBuilder<'v>, tap: Tap) -> VarBuilder<'v> {
        let vb = step.sub("low_level");
        match (self, tap) {
            (Self::Alone(_), _) => vb,
            (Self::Shared(_), Tap::Output) => vb.sub("output"),
            (Self::Shared(_), Tap::Hidden) => vb.sub("hidden"),
        }
    }

    /// The place of a step's `i`th convolution after a map of `coarse` channels.
    fn refine(&self, step: &VarBuilder<'v>, i: usize, (from, coarse): (From, i64)) -> VarBuilder<'v> {
        let vb = step.sub(format!("refine_{i}"));
        match self {
            Self::Shared(_) if i == 0 => vb.sub(from).sub(coarse),
            _ => vb,
        }
    }

    fn logits(&self, from: From) -> VarBuilder<'v> {
        match self {
            Self::Alone(vb) => vb.sub("logits"),
            Self::Shared(vb) => vb.sub("logits").sub(from),
        }
    }
}

/// Makes the largest tensors of a supernet's head.
pub(super) struct SharedHead<'a, 'v> {
    pub vb: &'a VarBuilder<'v>,
    pub config: &'a MobileSegConfig,
    /// Most channels of the last map.
    pub last: i64,
    /// Most channels of a tapped map.
    pub low_level: &'a dyn Fn(Tap) -> i64,
    pub classes: i64,
}

impl SharedHead<'_, '_> {
    /// The one head of all paths.
    pub fn declare_fixed(&self, head: &HeadConfig) {
        let taps = head.taps().into_iter().rev();
        let info = |channels, stride| FeatureInfo { channels, stride };
        let mut features: Vec<FeatureInfo> = taps.map(|(stride, tap)| info((self.low_level)(tap), stride)).collect();
        features.push(info(self.last, self.config.output_stride()));
        match head.decoder() {
            None => drop(squeezenas(self.vb, head, &features, self.config.bn, self.classes)),
            Some(decoder) => {
                let names = HeadNames::Shared(self.vb.sub("head"));
                drop(RefinedHead::new(&names, self.config, decoder, &features, self.classes));
            }
        }
    }

    pub fn declare_contexts(&self, contexts: &[HeadConfig]) {
        let names = HeadNames::Shared(self.vb.sub("head"));
        let last = FeatureInfo { channels: self.last, stride: self.config.output_stride() };
        for head in contexts {
            Context::new(&names, head, last, self.config);
        }
        let widest = contexts.iter().map(HeadConfig::channels).max().unwrap_or(1);
        logits(&names, (From::Context, widest), self.classes);
    }

    /// Steps of `decoders` with up to `low` channels of the finer map, `out` of the result and `convs` convolutions.
    pub fn declare_decoders(
        &self,
        decoders: &[Vec<i64>],
        taps: &[Tap],
        contexts: &[i64],
        coarse: &[i64],
        (low, out, convs): (i64, i64, usize),
    ) {
        let names = HeadNames::Shared(self.vb.sub("head"));
        let settings = separable(self.config);
        let mut made = std::collections::BTreeSet::new();
        for strides in decoders {
            for (i, stride) in strides.iter().enumerate() {
                let vb = names.step(i, *stride);
                if made.insert((*stride, 0)) {
                    for tap in taps {
                        let channels = ((self.low_level)(*tap), low);
                        reduction(&names.low_level(&vb, *tap), channels, &settings);
                    }
                    let any = (From::Context, 0);
                    (1..convs).for_each(|i| drop(head::conv_3x3(&names.refine(&vb, i, any), (out, out), 1, &settings)));
                    logits(&names, (From::Step(*stride), out), self.classes);
                }
                let before = i.checked_sub(1).map(|i| strides[i]);
                if made.insert((*stride, before.unwrap_or(1))) {
                    let (from, widths) = before.map_or((From::Context, contexts), |s| (From::Step(s), coarse));
                    for width in widths {
                        let place = names.refine(&vb, 0, (from, *width));
                        head::conv_3x3(&place, (width + low, out), 1, &settings);
                    }
                }
            }
        }
    }
}

/// The convolution that makes logits.
fn logits(names: &HeadNames, (from, channels): (From, i64), classes: i64) -> Conv2d {
    let conv = ConvConfig { bias: true, init: Init::Normal(0.01), ..Default::default() };
    Conv2d::new(&names.logits(from), channels, classes, 1, conv)
}

/// The convolution that reduces a finer map.
fn reduction(vb: &VarBuilder, channels: (i64, i64), head: &head::HeadConfig) -> ConvNorm {
    conv_bn(vb, channels, 1, ConvConfig::default(), head.bn, Activation::Relu)
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

impl Context {
    fn new(names: &HeadNames, head: &HeadConfig, last: FeatureInfo, config: &MobileSegConfig) -> Self {
        let (vb, channels) = (names.context(head), head.channels());
        let pyramid = head::HeadConfig { channels, ..separable(config) };
        match head {
            HeadConfig::SeparableAspp { rates, .. } => {
                Self::Pyramid(Aspp::new(&vb, last, &head::HeadConfig { rates: *rates, ..pyramid }))
            }
            HeadConfig::LrAspp { .. } => Self::LrAspp(LrAspp::new(&vb, last.channels, channels, config.bn)),
            HeadConfig::Pooling { .. } | HeadConfig::SqueezenasLrAspp { .. } | HeadConfig::SqueezenasAspp { .. } => {
                Self::Pyramid(Aspp::new(&vb, last, &head::HeadConfig { atrous_convs: false, ..pyramid }))
            }
        }
    }
}

impl RefinedHead {
    fn new(
        names: &HeadNames,
        config: &MobileSegConfig,
        decoder: &[DecoderStep],
        features: &[FeatureInfo],
        classes: i64,
    ) -> Self {
        let (last, low_levels) = features.split_last().expect("a last map");
        let mut coarse = (From::Context, config.head.channels());
        let mut steps = Vec::with_capacity(decoder.len());
        for (i, (step, low_level)) in decoder.iter().zip(low_levels.iter().rev()).enumerate() {
            steps.push(Step::new(names, i, step, low_level.channels, coarse, &separable(config)));
            coarse = (From::Step(step.stride), step.channels);
        }
        let context = Context::new(names, &config.head, *last, config);
        Self { context, steps, logits: logits(names, coarse, classes) }
    }
}

/// Settings of DeepLab's parts.
fn separable(config: &MobileSegConfig) -> head::HeadConfig {
    head::HeadConfig { separable: true, bn: config.bn, dropout: config.dropout, ..Default::default() }
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
    low_level: ConvNorm,
    refine: Vec<Box<dyn Module>>,
}

impl Step {
    fn new(
        names: &HeadNames,
        i: usize,
        step: &DecoderStep,
        fine: i64,
        coarse: (From, i64),
        head: &head::HeadConfig,
    ) -> Self {
        let DecoderStep { low_level_channels, channels, convs, .. } = *step;
        let vb = names.step(i, step.stride);
        let low_level = reduction(&names.low_level(&vb, step.tap), (fine, low_level_channels), head);
        let refine = (0..convs).map(|i| {
            let c_in = if i == 0 { coarse.1 + low_level_channels } else { channels };
            head::conv_3x3(&names.refine(&vb, i, coarse), (c_in, channels), 1, head)
        });
        Self { low_level, refine: refine.collect() }
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
    point: ConvNorm,
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
    point: ConvNorm,
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

    fn varies_with_size(&self) -> Option<&'static str> {
        Some("the gate pools windows of 49x49 of larger maps, and all of smaller ones")
    }
}

/// Rates of SqueezeNAS' pyramid, which has them at output stride 16.
const SQUEEZE_RATES: [i64; 3] = [6, 12, 18];

/// SqueezeNAS' pyramid and decoder.
#[derive(Debug)]
struct SqueezeAspp {
    branches: Vec<ConvNorm>,
    project: ConvNorm,
    low_level: Conv2d,
    refine: ConvNorm,
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
