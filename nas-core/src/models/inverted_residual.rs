//! The inverted residual with what its descendants added (MobileNetV2, arXiv 1801.04381; MnasNet, 1807.11626; MobileNetV3,
//! 1905.02244): kernel size, expansion, squeeze-and-excitation, activation.

use tch::Tensor;

use crate::estimator::inheritance::BlockParts;
use crate::nn::{Activation, BnConfig, Conv2d, ConvConfig, ConvNorm, Cost, Init, Mode, Module, Shape, VarBuilder};

/// Which of torchvision's naming schemes a block's variables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// MobileNetV2's: `conv.0.0`, …, with the last convolution and norm beside each other.
    V2,
    /// MobileNetV3's: `block.0.0`, ….
    V3,
}

/// The last function of a squeeze-and-excitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The logistic function.
    Sigmoid,
    /// `min(max(x + 3, 0), 6) / 6`.
    HardSigmoid,
}

/// An inverted residual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    /// Channels in and out.
    pub channels: (i64, i64),
    /// Channels between; as many as come in make a block without a first convolution.
    pub hidden: i64,
    /// Side of the depthwise kernel.
    pub ksize: i64,
    /// Step of the depthwise kernel.
    pub stride: i64,
    /// Atrous rate of the depthwise kernel.
    pub dilation: i64,
    /// Channels of the squeeze, and the gate.
    pub squeeze: Option<(i64, Gate)>,
    /// Follows the first and the depthwise convolution.
    pub activation: Activation,
    /// Groups of the last convolution.
    pub groups: i64,
    /// Convolutions have a bias beside the norm's.
    pub bias: bool,
    /// Adds the input where the shapes agree.
    pub residual: bool,
}

impl BlockConfig {
    /// MobileNetV2's block: ReLU6, added to the input where the shapes agree.
    pub fn new(channels: (i64, i64), hidden: i64, ksize: i64, stride: i64) -> Self {
        Self {
            channels,
            hidden,
            ksize,
            stride,
            dilation: 1,
            squeeze: None,
            activation: Activation::Relu6,
            groups: 1,
            bias: false,
            residual: true,
        }
    }

    /// Whether the output has the input as a term.
    pub fn adds_input(&self) -> bool {
        self.residual && self.stride == 1 && self.channels.0 == self.channels.1
    }

    /// Its layers below `prefix`, for weight inheritance.
    pub fn parts(&self, naming: Naming, prefix: &str, place: (usize, usize)) -> BlockParts {
        let root = if naming == Naming::V2 { "conv" } else { "block" };
        let expand = (self.hidden != self.channels.0).then_some("expand");
        let present = expand.into_iter().chain(["depthwise"]).chain(self.squeeze.map(|_| "squeeze")).chain(["project"]);
        let mut layers: Vec<(&'static str, String)> =
            present.enumerate().map(|(i, name)| (name, format!("{prefix}{root}.{i}."))).collect();
        let last = layers.len() - 1;
        let norm = match naming {
            Naming::V2 => format!("{prefix}{root}.{}.", last + 1),
            Naming::V3 => format!("{prefix}{root}.{last}.1."),
        };
        if naming == Naming::V2 {
            layers.push(("project norm", norm.clone()));
        }
        BlockParts { place, layers, silencer: self.adds_input().then(|| format!("{norm}weight")) }
    }
}

/// A first 1x1 convolution, a depthwise one, squeeze-and-excitation, a linear 1x1; added to the input.
#[derive(Debug)]
pub struct InvertedResidual {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    squeeze: Option<SqueezeExcitation>,
    project: ConvNorm,
    adds_input: bool,
    shuffle: i64,
}

impl InvertedResidual {
    /// A block whose variables lie under `vb` by `naming`, its convolutions initialised by `init`.
    pub fn new(vb: &VarBuilder, config: &BlockConfig, naming: Naming, bn: BnConfig, init: Init) -> Self {
        let BlockConfig { channels: (c_in, c_out), hidden, ksize, stride, dilation, .. } = *config;
        let BlockConfig { squeeze, activation, groups, bias, .. } = *config;
        let vb = vb.sub(if naming == Naming::V2 { "conv" } else { "block" });
        let mut places = (0..).map(|i| vb.sub(i));
        let mut next = || places.next().expect("without end");
        let conv = ConvConfig { bias, init, ..Default::default() };
        let expand = (hidden != c_in).then(|| ConvNorm::numbered(&next(), (c_in, hidden), 1, conv, bn, activation));
        let spatial = ConvConfig { stride, dilation, groups: hidden, ..conv };
        let depthwise = ConvNorm::numbered(&next(), (hidden, hidden), ksize, spatial, bn, activation);
        let squeeze = squeeze.map(|(squeezed, gate)| SqueezeExcitation::new(&next(), hidden, squeezed, gate));
        let places = match naming {
            Naming::V2 => [next(), next()],
            Naming::V3 => {
                let place = next();
                [place.sub(0), place.sub(1)]
            }
        };
        let linear = ConvConfig { groups, ..conv };
        let project = ConvNorm::new(places, (hidden, c_out), 1, linear, bn, Activation::Identity);
        Self { expand, depthwise, squeeze, project, adds_input: config.adds_input(), shuffle: groups }
    }

    /// Whether the output has the input as a term.
    pub fn adds_input(&self) -> bool {
        self.adds_input
    }

    /// What the depthwise convolution gives `[B, hidden, H', W']`, and what the block gives.
    pub fn forward_tapped(&self, xs: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let ys = self.expand.as_ref().map_or_else(|| xs.shallow_clone(), |conv| conv.forward(xs, mode));
        let ys = if self.shuffle > 1 { ys.channel_shuffle(self.shuffle) } else { ys };
        let hidden = self.depthwise.forward(&ys, mode);
        let ys = self.squeeze.as_ref().map_or_else(|| hidden.shallow_clone(), |squeeze| squeeze.forward(&hidden, mode));
        let ys = self.project.forward(&ys, mode);
        (hidden, if self.adds_input { ys + xs } else { ys })
    }

    /// Adds the block's cost on an input of shape `xs`; the shapes of what [`InvertedResidual::forward_tapped`] gives.
    pub fn cost_tapped(&self, xs: Shape, cost: &mut Cost) -> (Shape, Shape) {
        let ys = self.expand.as_ref().map_or(xs, |conv| conv.cost(xs, cost));
        let hidden = self.depthwise.cost(ys, cost);
        let ys = self.squeeze.as_ref().map_or(hidden, |squeeze| squeeze.cost(hidden, cost));
        (hidden, self.project.cost(ys, cost))
    }
}

impl Module for InvertedResidual {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_tapped(xs, mode).1
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.cost_tapped(xs, cost).1
    }
}

/// Scales channels by a function of their means (Hu et al. 2018, arXiv 1709.01507).
#[derive(Debug)]
pub struct SqueezeExcitation {
    fc1: Conv2d,
    fc2: Conv2d,
    gate: Gate,
}

impl SqueezeExcitation {
    /// Of maps `[B, channels, H, W]`, by `squeezed` values between its two 1x1 convolutions `fc1` and `fc2` under `vb`.
    pub fn new(vb: &VarBuilder, channels: i64, squeezed: i64, gate: Gate) -> Self {
        let bias = ConvConfig { bias: true, ..Default::default() };
        Self {
            fc1: Conv2d::new(&vb.sub("fc1"), channels, squeezed, 1, bias),
            fc2: Conv2d::new(&vb.sub("fc2"), squeezed, channels, 1, bias),
            gate,
        }
    }
}

impl Module for SqueezeExcitation {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let mean = xs.mean_dim([2i64, 3].as_slice(), true, None);
        let hidden = Activation::Relu.apply_(self.fc1.forward(&mean, mode));
        let scale = self.fc2.forward(&hidden, mode);
        match self.gate {
            Gate::Sigmoid => xs * scale.sigmoid(),
            Gate::HardSigmoid => xs * scale.hardsigmoid(),
        }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let hidden = self.fc1.cost(xs.with_size((1, 1)), cost);
        self.fc2.cost(hidden, cost);
        xs
    }
}
