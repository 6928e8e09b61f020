//! The inverted residual with what its descendants added (MobileNetV2, arXiv 1801.04381; MnasNet, 1807.11626; MobileNetV3,
//! 1905.02244): kernel size, expansion, squeeze-and-excitation, activation.

use nas_core::nn::Cost;
use nas_core::nn::{Activation, BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder};
use tch::Tensor;

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

/// A first 1x1 convolution, a depthwise one, squeeze-and-excitation, a linear 1x1; added to the input.
#[derive(Debug)]
pub struct InvertedResidual {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    squeeze: Option<SqueezeExcitation>,
    project: (Conv2d, BatchNorm),
    adds_input: bool,
    shuffle: i64,
}

impl InvertedResidual {
    /// A block whose variables lie under `vb` by `naming`.
    pub fn new(vb: &VarBuilder, config: &BlockConfig, naming: Naming, bn: BnConfig) -> Self {
        let BlockConfig { channels: (c_in, c_out), hidden, ksize, stride, squeeze, activation, groups, bias, .. } =
            *config;
        let vb = vb.sub(if naming == Naming::V2 { "conv" } else { "block" });
        let mut places = (0..).map(|i| vb.sub(i));
        let mut next = || places.next().expect("without end");
        let conv = ConvConfig { bias, init: Init::KaimingFanOut, ..Default::default() };
        let expand = (hidden != c_in).then(|| ConvNorm::new(&next(), (c_in, hidden), 1, conv, bn, activation));
        let spatial = ConvConfig { stride, groups: hidden, ..conv };
        let depthwise = ConvNorm::new(&next(), (hidden, hidden), ksize, spatial, bn, activation);
        let squeeze = squeeze.map(|(squeezed, gate)| SqueezeExcitation::new(&next(), hidden, squeezed, gate));
        let [at_conv, at_bn] = match naming {
            Naming::V2 => [next(), next()],
            Naming::V3 => {
                let place = next();
                [place.sub(0), place.sub(1)]
            }
        };
        let project = Conv2d::new(&at_conv, hidden, c_out, 1, ConvConfig { groups, ..conv });
        let adds_input = config.residual && stride == 1 && c_in == c_out;
        Self {
            expand,
            depthwise,
            squeeze,
            project: (project, BatchNorm::new(&at_bn, c_out, bn)),
            adds_input,
            shuffle: groups,
        }
    }
}

impl InvertedResidual {
    /// Whether the output has the input as a term.
    pub(super) fn adds_input(&self) -> bool {
        self.adds_input
    }
}

impl Module for InvertedResidual {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let ys = self.expand.as_ref().map_or_else(|| xs.shallow_clone(), |conv| conv.forward(xs, mode));
        let ys = if self.shuffle > 1 { ys.channel_shuffle(self.shuffle) } else { ys };
        let ys = self.depthwise.forward(&ys, mode);
        let ys = self.squeeze.as_ref().map_or_else(|| ys.shallow_clone(), |squeeze| squeeze.forward(&ys, mode));
        let (conv, bn) = &self.project;
        let ys = bn.forward(&conv.forward(&ys, mode), mode);
        if self.adds_input { ys + xs } else { ys }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.expand.as_ref().map_or(xs, |conv| conv.cost(xs, cost));
        let ys = self.depthwise.cost(ys, cost);
        let ys = self.squeeze.as_ref().map_or(ys, |squeeze| squeeze.cost(ys, cost));
        let (conv, bn) = &self.project;
        let ys = conv.cost(ys, cost);
        bn.cost(ys, cost)
    }
}

/// Scales channels by a function of their means (Hu et al. 2018, arXiv 1709.01507).
#[derive(Debug)]
struct SqueezeExcitation {
    fc1: Conv2d,
    fc2: Conv2d,
    gate: Gate,
}

impl SqueezeExcitation {
    fn new(vb: &VarBuilder, channels: i64, squeezed: i64, gate: Gate) -> Self {
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

/// Convolution, norm, activation; named `0` and `1` by torchvision.
#[derive(Debug)]
pub struct ConvNorm {
    conv: Conv2d,
    bn: BatchNorm,
    activation: Activation,
}

impl ConvNorm {
    /// A square convolution with what follows it.
    pub fn new(
        vb: &VarBuilder,
        (c_in, c_out): (i64, i64),
        ksize: i64,
        conv: ConvConfig,
        bn: BnConfig,
        activation: Activation,
    ) -> Self {
        let conv = Conv2d::new(&vb.sub(0), c_in, c_out, ksize, conv);
        Self { conv, bn: BatchNorm::new(&vb.sub(1), c_out, bn), activation }
    }
}

impl Module for ConvNorm {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.activation.apply_(self.bn.forward(&self.conv.forward(xs, mode), mode))
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.conv.cost(xs, cost);
        self.bn.cost(ys, cost)
    }
}
