//! ResNets (He et al. 2016, arXiv 1512.03385): torchvision's, whose stride is in the 3x3 convolution of a stage's first unit;
//! the paper's for CIFAR; DeepLab's (arXiv 1706.05587) with a root of three convolutions, the stride in a stage's last unit
//! and atrous rates 1, 2, 4 in the last stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{StrideBudget, Taps, ends_stride};
use crate::nn::{
    Activation, BnConfig, ConvConfig, ConvNorm, Cost, Init, Mode, Module, NormConfig, Shape, VarBuilder, chain,
    chain_cost, max_pool, max_pool_shape, probe,
};
use crate::space::{Backbone, FeatureInfo};

/// A published depth for ImageNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u8", into = "u8")]
#[schemars(extend("enum" = [18, 50]))]
pub enum ResNetDepth {
    /// 18 layers: two 3x3 convolutions per unit.
    R18,
    /// 50 layers: bottlenecks.
    R50,
}

impl ResNetDepth {
    /// Whether units are bottlenecks, and units of the stages.
    fn units(self) -> (UnitKind, [usize; 4]) {
        match self {
            Self::R18 => (UnitKind::Basic, [2, 2, 2, 2]),
            Self::R50 => (UnitKind::Bottleneck, [3, 4, 6, 3]),
        }
    }
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

/// What comes before the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// A 7x7 convolution of stride 2, and pooling.
    Conv7x7,
    /// A 3x3 convolution of stride 1, for small images.
    Conv3x3,
    /// Three 3x3 convolutions, of which the last has twice the channels, and pooling.
    ThreeConvs,
}

impl Stem {
    /// Kernel and stride of the convolutions, and how many times the base channels each gives.
    fn convs(self) -> &'static [(i64, i64, i64)] {
        match self {
            Self::Conv7x7 => &[(7, 2, 1)],
            Self::Conv3x3 => &[(3, 1, 1)],
            Self::ThreeConvs => &[(3, 2, 1), (3, 1, 1), (3, 1, 2)],
        }
    }

    fn pools(self) -> bool {
        self != Self::Conv3x3
    }

    fn stride(self) -> i64 {
        if self.pools() { 4 } else { 1 }
    }
}

/// What a unit consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1, the last of which has four times the channels.
    Bottleneck,
}

impl UnitKind {
    /// Channels of a unit's output per base channel.
    fn expansion(self) -> i64 {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// A stage of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Base channels.
    pub base: i64,
    /// Units.
    pub units: usize,
    /// Stride of the unit that halves.
    pub stride: i64,
}

/// What is added to the convolutions of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortcutKind {
    /// A 1x1 convolution and a norm where the shape changes (the paper's option B).
    Project,
    /// A 1x1 convolution and a norm where the channels change; elsewhere the input, every second pixel of it at stride 2.
    ProjectChannels,
    /// Every second pixel, and zeros for the channels that are new (option A).
    Pad,
}

/// How variables are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.bn1`, `layer2.0.downsample.0`, ….
    Torchvision,
    /// `root.0.conv`, `root.0.bn`, `stage_0.0.reduce.conv`, `.spatial`, `.expand`, `.projection`, ….
    Deeplab,
}

/// In which order initial weights are drawn: what a seed gives hangs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawOrder {
    /// As images flow: stem, stages; in a unit convolutions, shortcut.
    Forward,
    /// Stages, stem.
    StagesFirst,
    /// Stages, stem; in a unit shortcut, convolutions.
    ShortcutsFirst,
}

/// What a [`ResNet`] consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// What comes before the stages.
    pub stem: Stem,
    /// The units.
    pub unit: UnitKind,
    /// The stages, with the strides of the plain network.
    pub stages: Vec<Stage>,
    /// The last unit of a stage has its stride, not the first.
    pub strides_late: bool,
    /// What is added to convolutions.
    pub shortcut: ShortcutKind,
    /// Atrous rates of the units of the last stage, beside those that replace strides; 1 where there is none.
    pub multi_grid: Vec<i64>,
    /// The stride beyond which strides become atrous rates.
    pub output_stride: Option<i64>,
    /// Which maps are given out; [`Taps::Within`] gives a unit's convolutions before the addition.
    pub taps: Taps,
    /// The norms.
    pub norm: NormConfig,
    /// Initial weights of the convolutions.
    pub init: Init,
    /// Names of the variables.
    pub naming: Naming,
    /// Order of the initial weights' draws.
    pub draws: DrawOrder,
}

impl ResNetConfig {
    /// Torchvision's network. Maps: its four stages.
    pub fn torchvision(depth: ResNetDepth) -> Self {
        let (unit, units) = depth.units();
        let stage = |(i, units)| Stage { base: 64_i64 << i, units, stride: if i == 0 { 1 } else { 2 } };
        Self {
            stem: Stem::Conv7x7,
            unit,
            stages: units.into_iter().enumerate().map(stage).collect(),
            strides_late: false,
            shortcut: ShortcutKind::Project,
            multi_grid: Vec::new(),
            output_stride: None,
            taps: Taps::Strides { from: 4 },
            norm: NormConfig::Batch(BnConfig::default()),
            init: Init::KaimingFanOut,
            naming: Naming::Torchvision,
            draws: DrawOrder::Forward,
        }
    }

    /// The paper's network for CIFAR of `6 units + 2` layers. Maps: its three stages.
    pub fn cifar(units: usize) -> Self {
        let stage = |i| Stage { base: 16_i64 << i, units, stride: if i == 0 { 1 } else { 2 } };
        Self {
            stem: Stem::Conv3x3,
            stages: (0..3).map(stage).collect(),
            shortcut: ShortcutKind::Pad,
            taps: Taps::Strides { from: 1 },
            ..Self::torchvision(ResNetDepth::R18)
        }
    }

    /// DeepLab's ResNet-101 ("beta"). Maps: the convolutions of the first stage's second unit (stride 4, 256 channels), and the
    /// last layer (2048 channels).
    pub fn deeplab_101(output_stride: i64) -> Self {
        let stage = |(base, units, stride)| Stage { base, units, stride };
        Self {
            stem: Stem::ThreeConvs,
            stages: [(64, 3, 2), (128, 4, 2), (256, 23, 2), (512, 3, 1)].map(stage).into(),
            strides_late: true,
            shortcut: ShortcutKind::ProjectChannels,
            multi_grid: vec![1, 2, 4],
            output_stride: Some(output_stride),
            taps: Taps::Within { block: 1 },
            init: Init::FanIn,
            naming: Naming::Deeplab,
            draws: DrawOrder::ShortcutsFirst,
            ..Self::torchvision(ResNetDepth::R50)
        }
    }

    /// Convolution, norm and activation whose places under `vb` have these names.
    fn layer(&self, places: [VarBuilder; 2], channels: (i64, i64), layer: LayerShape) -> ConvNorm {
        let LayerShape { ksize, stride, dilation, activation } = layer;
        let conv = ConvConfig { stride, dilation, init: self.init, ..Default::default() };
        ConvNorm::new(places, channels, ksize, conv, self.norm, activation)
    }

    fn stem(&self, vb: &VarBuilder) -> Vec<ConvNorm> {
        let base = self.stages[0].base;
        let mut c_in = 3;
        let conv = |(i, &(ksize, stride, times)): (usize, &(i64, i64, i64))| {
            let places = match self.naming {
                Naming::Torchvision => [format!("conv{}", i + 1), format!("bn{}", i + 1)].map(|name| vb.sub(name)),
                Naming::Deeplab => ["conv", "bn"].map(|name| vb.sub("root").sub(i).sub(name)),
            };
            let channels = (std::mem::replace(&mut c_in, base * times), base * times);
            self.layer(places, channels, LayerShape { ksize, stride, dilation: 1, activation: Activation::Relu })
        };
        self.stem.convs().iter().enumerate().map(conv).collect()
    }

    fn stages(&self, vb: &VarBuilder) -> (Vec<Vec<Unit>>, Vec<i64>) {
        let mut budget = StrideBudget::new(self.output_stride, self.stem.stride());
        let mut c_in = self.stages[0].base * self.stem.convs().last().map_or(1, |(_, _, times)| *times);
        let (mut stages, mut reached) = (Vec::new(), Vec::new());
        for (i, stage) in self.stages.iter().enumerate() {
            let vb = match self.naming {
                Naming::Torchvision => vb.sub(format!("layer{}", i + 1)),
                Naming::Deeplab => vb.sub(format!("stage_{i}")),
            };
            let is_last = i + 1 == self.stages.len();
            let unit = |unit: usize| {
                let strided = if self.strides_late { unit + 1 == stage.units } else { unit == 0 };
                let (stride, rate) = budget.next(if strided { stage.stride } else { 1 });
                let grid = self.multi_grid.get(unit).filter(|_| is_last).unwrap_or(&1);
                reached.push(budget.reached);
                let c_in = std::mem::replace(&mut c_in, stage.base * self.unit.expansion());
                self.unit(&vb.sub(unit), c_in, stage.base, (stride, rate * grid))
            };
            stages.push((0..stage.units).map(unit).collect());
        }
        (stages, reached)
    }

    fn unit(&self, vb: &VarBuilder, c_in: i64, base: i64, geometry: (i64, i64)) -> Unit {
        let channels = (c_in, base * self.unit.expansion());
        let shortcut = || self.shortcut(vb, channels, geometry.0);
        match self.draws {
            DrawOrder::Forward | DrawOrder::StagesFirst => {
                let convs = self.convs(vb, channels, base, geometry);
                Unit { convs, shortcut: shortcut() }
            }
            DrawOrder::ShortcutsFirst => {
                let shortcut = shortcut();
                Unit { convs: self.convs(vb, channels, base, geometry), shortcut }
            }
        }
    }

    fn convs(
        &self,
        vb: &VarBuilder,
        (c_in, c_out): (i64, i64),
        base: i64,
        (stride, dilation): (i64, i64),
    ) -> Vec<ConvNorm> {
        let point = LayerShape { ksize: 1, stride: 1, dilation: 1, activation: Activation::Relu };
        let spatial = LayerShape { ksize: 3, stride, dilation, ..point };
        let rows = match self.unit {
            UnitKind::Basic => vec![
                ("spatial", (c_in, base), spatial),
                ("expand", (base, c_out), LayerShape { stride: 1, activation: Activation::Identity, ..spatial }),
            ],
            UnitKind::Bottleneck => vec![
                ("reduce", (c_in, base), point),
                ("spatial", (base, base), spatial),
                ("expand", (base, c_out), LayerShape { activation: Activation::Identity, ..point }),
            ],
        };
        let conv = |(i, (name, channels, layer))| {
            let places = match self.naming {
                Naming::Torchvision => [format!("conv{}", i + 1), format!("bn{}", i + 1)].map(|name| vb.sub(name)),
                Naming::Deeplab => ["conv", "bn"].map(|part| vb.sub(name).sub(part)),
            };
            self.layer(places, channels, layer)
        };
        rows.into_iter().enumerate().map(conv).collect()
    }

    fn shortcut(&self, vb: &VarBuilder, (c_in, c_out): (i64, i64), stride: i64) -> Shortcut {
        let projects = match self.shortcut {
            ShortcutKind::Project => stride != 1 || c_in != c_out,
            ShortcutKind::ProjectChannels => c_in != c_out,
            ShortcutKind::Pad => false,
        };
        if !projects {
            return Shortcut::Input { stride, zeros: (c_out - c_in) / 2 };
        }
        let places = match self.naming {
            Naming::Torchvision => [0, 1].map(|i| vb.sub("downsample").sub(i)),
            Naming::Deeplab => ["conv", "bn"].map(|part| vb.sub("projection").sub(part)),
        };
        let layer = LayerShape { ksize: 1, stride, dilation: 1, activation: Activation::Identity };
        Shortcut::Projection(self.layer(places, (c_in, c_out), layer))
    }
}

/// Kernel and what follows it.
#[derive(Clone, Copy, Debug)]
struct LayerShape {
    ksize: i64,
    stride: i64,
    dilation: i64,
    activation: Activation,
}

/// A ResNet.
#[derive(Debug)]
pub struct ResNet {
    stem: Vec<ConvNorm>,
    pools: bool,
    stages: Vec<Vec<Unit>>,
    tapped: Vec<Tap>,
    info: Vec<FeatureInfo>,
}

/// Where a map comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tap {
    Convs(usize),
    Unit(usize),
}

impl ResNet {
    /// The network of `config`, its variables under `vb`.
    pub fn new(vb: &VarBuilder, config: &ResNetConfig) -> Self {
        let (stem, (stages, reached)) = match config.draws {
            DrawOrder::Forward => {
                let stem = config.stem(vb);
                (stem, config.stages(vb))
            }
            DrawOrder::StagesFirst | DrawOrder::ShortcutsFirst => {
                let stages = config.stages(vb);
                (config.stem(vb), stages)
            }
        };
        let last = reached.len() - 1;
        let tapped: Vec<Tap> = match config.taps {
            Taps::Strides { from } => (0..=last).filter(|i| ends_stride(&reached, *i, from)).map(Tap::Unit).collect(),
            Taps::Within { block } => vec![Tap::Convs(block), Tap::Unit(last)],
        };
        let bases: Vec<i64> = config.stages.iter().flat_map(|stage| vec![stage.base; stage.units]).collect();
        let info = |tap: &Tap| {
            let (Tap::Convs(unit) | Tap::Unit(unit)) = *tap;
            FeatureInfo { channels: bases[unit] * config.unit.expansion(), stride: reached[unit] }
        };
        let info = tapped.iter().map(info).collect();
        Self { stem, pools: config.stem.pools(), stages, tapped, info }
    }
}

impl Backbone for ResNet {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut xs = chain(&self.stem, xs, mode);
        if self.pools {
            xs = max_pool(&xs);
        }
        let mut features = Vec::new();
        for (i, unit) in self.stages.iter().flatten().enumerate() {
            let (convs, ys) = unit.forward_tapped(&xs, mode);
            features.extend(self.tapped.contains(&Tap::Convs(i)).then_some(convs));
            features.extend(self.tapped.contains(&Tap::Unit(i)).then(|| ys.shallow_clone()));
            xs = probe::block(ys);
        }
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.clone()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut cost = Cost::default();
        let mut xs = chain_cost(&self.stem, input, &mut cost);
        if self.pools {
            xs = max_pool_shape(xs);
        }
        let (mut parts, mut shapes, mut i) = (vec![("stem".to_string(), cost)], Vec::new(), 0);
        for (stage, units) in self.stages.iter().enumerate() {
            let mut cost = Cost::default();
            for unit in units {
                xs = unit.cost(xs, &mut cost);
                let is_tapped = self.tapped.contains(&Tap::Convs(i)) || self.tapped.contains(&Tap::Unit(i));
                shapes.extend(is_tapped.then_some(xs));
                i += 1;
            }
            parts.push((format!("stage_{}", stage + 1), cost));
        }
        (parts, shapes)
    }
}

/// Convolutions, added to a shortcut.
#[derive(Debug)]
struct Unit {
    convs: Vec<ConvNorm>,
    shortcut: Shortcut,
}

#[derive(Debug)]
enum Shortcut {
    /// Every `stride`-th pixel; this many channels of zeros on either side.
    Input {
        stride: i64,
        zeros: i64,
    },
    Projection(ConvNorm),
}

impl Unit {
    /// What the convolutions give, and what the unit gives, both `[B, C', H', W']`.
    fn forward_tapped(&self, xs: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let convs = chain(&self.convs, xs, mode);
        let ys = Activation::Relu.apply_(&convs + self.shortcut.forward(xs, mode));
        (convs, ys)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        if let Shortcut::Projection(conv) = &self.shortcut {
            conv.cost(xs, cost);
        }
        chain_cost(&self.convs, xs, cost)
    }
}

impl Shortcut {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        match *self {
            Self::Projection(ref conv) => conv.forward(xs, mode),
            Self::Input { stride, zeros } => {
                let ys = match stride {
                    1 => xs.shallow_clone(),
                    _ => xs.slice(2, None, None, stride).slice(3, None, None, stride),
                };
                if zeros > 0 { ys.constant_pad_nd([0, 0, 0, 0, zeros, zeros]) } else { ys }
            }
        }
    }
}
