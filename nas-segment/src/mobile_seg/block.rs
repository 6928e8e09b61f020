//! One block: an [`Operator`] between given channels, as SqueezeNAS and MobileNetV4 define them.

use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{Gate, SqueezeExcitation};
use nas_core::nn::{Activation, BnConfig, ConvConfig, ConvNorm, Cost, Init, Mode, Module, Shape, VarBuilder, relu};
use tch::Tensor;

use super::operator::{Bottleneck, Operator};

/// Whose variable names a network has, so that published weights load. Its initial weights are the same source's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Names {
    /// torchvision's MobileNetV2: `backbone.features.1.conv.0.0.weight`.
    #[default]
    Torchvision,
    /// SqueezeNAS: `encoder.residuals.0.op.0.weight`.
    Squeezenas,
}

impl Names {
    pub(super) fn init(self) -> Init {
        match self {
            Self::Torchvision => Init::FanIn,
            Self::Squeezenas => Init::KaimingFanOut,
        }
    }
}

/// What all blocks of a network have in common.
#[derive(Clone, Copy, Debug)]
pub struct BlockStyle {
    /// Variable names and initial weights.
    pub names: Names,
    /// Follows the expansion and the depthwise convolution after it.
    pub activation: Activation,
    /// Norms.
    pub bn: BnConfig,
}

/// Place of a block in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Channels in and out.
    pub channels: (i64, i64),
    /// Step of its first depthwise kernel after the expansion, or before it where that is the only one.
    pub stride: i64,
}

impl Place {
    /// Whether a block here has its input as a term, and may thus be left out.
    pub fn is_residual(self) -> bool {
        self.stride == 1 && self.channels.0 == self.channels.1
    }
}

/// A block.
#[derive(Debug)]
pub struct Block {
    layers: Layers,
    adds_input: bool,
    /// Channels of the map between the depthwise convolution after the expansion and the last one.
    hidden: Option<i64>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
enum Layers {
    Identity,
    /// SqueezeNAS' skip between different channels: ReLU, 1x1, norm.
    Project(ConvNorm),
    /// SqueezeNAS' skip of stride 2: ReLU, then two 1x1 of stride 2, the second on the map shifted by one pixel.
    Halves([ConvNorm; 2]),
    Bottleneck {
        start: Option<ConvNorm>,
        expand: Option<ConvNorm>,
        middle: Option<ConvNorm>,
        squeeze: Option<SqueezeExcitation>,
        project: ConvNorm,
    },
}

impl Block {
    /// The block of `operator` at `place`, its weights under `vb`: torchvision's `conv` or SqueezeNAS' `op`.
    ///
    /// # Panics
    /// Where [`Operator::can_stride`] and groups do not allow the place; configs are checked before.
    pub fn new(vb: &VarBuilder, operator: Operator, place: Place, style: BlockStyle) -> Self {
        match operator {
            Operator::Skip => Self::skip(vb, place, style),
            Operator::Bottleneck(bottleneck) => Self::bottleneck(vb, bottleneck, place, style),
        }
    }

    fn skip(vb: &VarBuilder, place: Place, style: BlockStyle) -> Self {
        let layers = match place.stride {
            _ if place.is_residual() => Layers::Identity,
            1 => Self::change_of_channels(vb, place, style),
            _ => Self::change_of_stride(vb, place, style),
        };
        Self { layers, adds_input: false, hidden: None }
    }

    /// Makes the weights of all that a skip of `strides` between these or fewer channels can be.
    pub(super) fn declare_skip(vb: &VarBuilder, place: Place, strides: &[i64], style: BlockStyle) {
        for stride in strides {
            match stride {
                1 => Self::change_of_channels(vb, place, style),
                _ => Self::change_of_stride(vb, Place { stride: 2, ..place }, style),
            };
        }
    }

    fn pointwise(vb: [VarBuilder; 2], channels: (i64, i64), stride: i64, style: BlockStyle) -> ConvNorm {
        let conv = ConvConfig { stride, init: style.names.init(), ..Default::default() };
        ConvNorm::new(vb, channels, 1, conv, style.bn, Activation::Identity)
    }

    fn change_of_channels(vb: &VarBuilder, place: Place, style: BlockStyle) -> Layers {
        let vb = match style.names {
            Names::Squeezenas => [1, 2].map(|i| vb.sub("op").sub(i)),
            Names::Torchvision => [0, 1].map(|i| vb.sub(i)),
        };
        Layers::Project(Self::pointwise(vb, place.channels, 1, style))
    }

    fn change_of_stride(vb: &VarBuilder, place: Place, style: BlockStyle) -> Layers {
        let (c_in, c_out) = place.channels;
        Layers::Halves(["conv_1", "conv_2"].map(|name| {
            let vb = vb.sub(name);
            Self::pointwise([vb.sub(0), vb.sub(1)], (c_in, c_out / 2), place.stride, style)
        }))
    }

    fn bottleneck(vb: &VarBuilder, form: Bottleneck, place: Place, style: BlockStyle) -> Self {
        let Bottleneck { start, middle, expansion, groups, dilation, fused, squeeze } = form;
        let Place { channels: (c_in, c_out), stride } = place;
        assert!(stride == 1 || start.is_some() || middle.is_some(), "a stride needs a kernel");
        let BlockStyle { names, activation, bn } = style;
        let hidden = c_in * expansion.unwrap_or(1);
        let conv = ConvConfig { init: names.init(), ..Default::default() };
        let pointwise = ConvConfig { groups, ..conv };
        let spatial = |stride, groups| ConvConfig { stride, dilation, groups, ..conv };
        let mut names = BlockNames { vb, names, next: 0 };
        let start = start.map(|ksize| {
            let conv = spatial(if middle.is_some() { 1 } else { stride }, c_in);
            ConvNorm::new(names.start(), (c_in, c_in), ksize, conv, bn, Activation::Identity)
        });
        let expand = expansion.filter(|_| !fused);
        let expand = expand.map(|_| ConvNorm::new(names.hidden(0), (c_in, hidden), 1, pointwise, bn, activation));
        let middle = middle.map(|ksize| {
            let (from, groups) = if fused { (c_in, groups) } else { (hidden, hidden) };
            ConvNorm::new(names.hidden(3), (from, hidden), ksize, spatial(stride, groups), bn, activation)
        });
        let tapped = middle.is_some().then_some(hidden);
        let squeeze = squeeze.then(|| {
            SqueezeExcitation::new(&vb.sub("squeeze"), hidden, Bottleneck::squeezed(hidden), Gate::HardSigmoid)
        });
        let project = ConvNorm::new(names.project(), (hidden, c_out), 1, pointwise, bn, Activation::Identity);
        let layers = Layers::Bottleneck { start, expand, middle, squeeze, project };
        Self { layers, adds_input: place.is_residual(), hidden: tapped }
    }

    /// Channels of the map that [`Block::forward`] gives beside its output.
    pub fn hidden(&self) -> Option<i64> {
        self.hidden
    }

    /// The map after the depthwise convolution that follows the expansion, where there is one, and the output
    /// `[B, C', H', W']`, for `xs` `[B, C, H, W]`.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> (Option<Tensor>, Tensor) {
        let (hidden, ys) = match &self.layers {
            Layers::Identity => (None, xs.shallow_clone()),
            Layers::Project(conv) => (None, conv.forward(&relu(xs), mode)),
            Layers::Halves([even, odd]) => {
                let xs = relu(xs);
                let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
                // The published form needs even sides; a last row or column of odd ones is doubled.
                let xs_odd = match (h % 2, w % 2) {
                    (0, 0) => xs.shallow_clone(),
                    (down, right) => xs.replication_pad2d([0, right, 0, down]),
                };
                let shifted = xs_odd.slice(2, 1, None, 1).slice(3, 1, None, 1);
                (None, Tensor::cat(&[even.forward(&xs, mode), odd.forward(&shifted, mode)], 1))
            }
            Layers::Bottleneck { start, expand, middle, squeeze, project } => {
                let apply = |layer: &Option<ConvNorm>, xs: Tensor| match layer {
                    Some(layer) => layer.forward(&xs, mode),
                    None => xs,
                };
                let hidden = apply(middle, apply(expand, apply(start, xs.shallow_clone())));
                let ys = match squeeze {
                    Some(squeeze) => project.forward(&squeeze.forward(&hidden, mode), mode),
                    None => project.forward(&hidden, mode),
                };
                (middle.is_some().then_some(hidden), ys)
            }
        };
        (hidden, if self.adds_input { ys + xs } else { ys })
    }

    /// Adds the block's parameters and multiply-adds on an input of shape `xs`; the shapes of [`Block::forward`].
    pub fn cost(&self, xs: Shape, cost: &mut Cost) -> (Option<Shape>, Shape) {
        match &self.layers {
            Layers::Identity => (None, xs),
            Layers::Project(conv) => (None, conv.cost(xs, cost)),
            Layers::Halves([even, odd]) => {
                let ys = even.cost(xs, cost);
                odd.cost(xs, cost);
                (None, ys.with_channels(2 * ys.c))
            }
            Layers::Bottleneck { start, expand, middle, squeeze, project } => {
                let mut add = |layer: &Option<ConvNorm>, xs| layer.as_ref().map_or(xs, |layer| layer.cost(xs, cost));
                let xs = add(start, xs);
                let xs = add(expand, xs);
                let hidden = add(middle, xs);
                let _ = squeeze.as_ref().map(|squeeze| squeeze.cost(hidden, cost));
                (middle.is_some().then_some(hidden), project.cost(hidden, cost))
            }
        }
    }
}

/// What weight inheritance knows of a block whose variables begin with `prefix`.
pub(super) fn block_parts(
    operator: Operator,
    block: Place,
    names: Names,
    prefix: &str,
    place: (usize, usize),
) -> BlockParts {
    let Operator::Bottleneck(Bottleneck { start, middle, expansion, fused, squeeze, .. }) = operator else {
        return BlockParts { place, layers: vec![("skip", prefix.to_string())], silencer: None };
    };
    let mut layers: Vec<(&'static str, String)> = start.iter().map(|_| ("start", format!("{prefix}start."))).collect();
    layers.extend(squeeze.then(|| ("squeeze", format!("{prefix}squeeze."))));
    // As `BlockNames` hands them out.
    let hidden = match fused {
        true => [Some("fused"), None],
        false => [expansion.map(|_| "expand"), middle.map(|_| "middle")],
    };
    let norm = match names {
        Names::Torchvision => {
            let present = hidden.into_iter().flatten().chain(["project", "norm"]);
            layers.extend(present.enumerate().map(|(i, name)| (name, format!("{prefix}{i}."))));
            layers.last().expect("a norm").1.clone()
        }
        Names::Squeezenas => {
            let kernel = if fused { ["fused", "fused norm"] } else { ["middle", "middle norm"] };
            let numbered = ["expand", "expand norm", "", kernel[0], kernel[1], "", "project", "norm"];
            let named = numbered.into_iter().enumerate().filter(|(_, name)| !name.is_empty());
            layers.extend(named.map(|(i, name)| (name, format!("{prefix}{i}."))));
            format!("{prefix}7.")
        }
    };
    BlockParts { place, layers, silencer: block.is_residual().then(|| format!("{norm}weight")) }
}

/// Hands out the places of a bottleneck's convolutions and norms.
struct BlockNames<'a, 'v> {
    vb: &'a VarBuilder<'v>,
    names: Names,
    /// Number of torchvision's next layer.
    next: usize,
}

impl<'v> BlockNames<'_, 'v> {
    fn start(&mut self) -> [VarBuilder<'v>; 2] {
        let vb = self.vb.sub("start");
        [vb.sub(0), vb.sub(1)]
    }

    /// Place of the expansion (SqueezeNAS' layer 0) or of the depthwise convolution (its layer 3).
    fn hidden(&mut self, layer: usize) -> [VarBuilder<'v>; 2] {
        match self.names {
            Names::Squeezenas => [layer, layer + 1].map(|i| self.vb.sub(i)),
            Names::Torchvision => {
                let vb = self.vb.sub(self.next);
                self.next += 1;
                [vb.sub(0), vb.sub(1)]
            }
        }
    }

    fn project(&mut self) -> [VarBuilder<'v>; 2] {
        let first = if self.names == Names::Squeezenas { 6 } else { self.next };
        [first, first + 1].map(|i| self.vb.sub(i))
    }
}
