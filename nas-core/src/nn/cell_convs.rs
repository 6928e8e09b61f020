//! Convolutions of cell spaces: a rectifier comes before the convolution, a batch norm after it.

use tch::Tensor;

use super::ops::{OpConfig, strided};
use super::{
    Activation, BatchNorm, BnConfig, Conv2d, ConvConfig, Mode, Module, Shape, Shared, VarBuilder, resize_bilinear,
};
use crate::nn::Cost;

/// Rounds of ReLU, depthwise, pointwise, batch norm; the stride is in the first.
#[derive(Debug)]
pub(super) struct Separable {
    rounds: Vec<(Conv2d, Conv2d, BatchNorm)>,
}

impl Separable {
    pub(super) fn twice(vb: &VarBuilder, ksize: i64, config: OpConfig) -> Self {
        let second = OpConfig { stride: 1, ..config };
        Self { rounds: vec![round(&vb.sub(0), ksize, 1, config), round(&vb.sub(1), ksize, 1, second)] }
    }

    pub(super) fn dilated(vb: &VarBuilder, ksize: i64, config: OpConfig) -> Self {
        Self { rounds: vec![round(&vb.sub(0), ksize, 2, config)] }
    }
}

fn round(vb: &VarBuilder, ksize: i64, dilation: i64, config: OpConfig) -> (Conv2d, Conv2d, BatchNorm) {
    let OpConfig { channels: c, stride, bn, .. } = config;
    (
        Conv2d::depthwise(&vb.sub("depthwise"), c, ksize, ConvConfig { stride, dilation, ..Default::default() }),
        Conv2d::new(&vb.sub("pointwise"), c, c, 1, ConvConfig::default()),
        BatchNorm::new(&vb.sub("bn"), c, bn),
    )
}

impl Module for Separable {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_shared(&Shared::new(xs), None, mode)
    }

    fn forward_shared(&self, xs: &Shared, scale: Option<&Tensor>, mode: Mode) -> Tensor {
        let (last, before) = self.rounds.split_last().expect("at least one round");
        let convolved = |xs: &Tensor, (depthwise, pointwise, _): &(Conv2d, Conv2d, BatchNorm)| {
            pointwise.forward(&depthwise.forward(xs, mode), mode)
        };
        let rectified = before.iter().fold(xs.relu(), |xs, round| {
            let (_, _, bn) = round;
            bn.forward_activated(&convolved(&xs, round), None, Activation::Relu, mode)
        });
        last.2.forward_scaled(&convolved(&rectified, last), scale, mode)
    }

    fn parts(&self) -> (Vec<&Conv2d>, Vec<&BatchNorm>) {
        let convs = self.rounds.iter().flat_map(|(depthwise, pointwise, _)| [depthwise, pointwise]);
        (convs.collect(), self.rounds.iter().map(|(_, _, bn)| bn).collect())
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.rounds.iter().fold(xs, |xs, (depthwise, pointwise, bn)| {
            let ys = depthwise.cost(xs, cost);
            let ys = pointwise.cost(ys, cost);
            bn.cost(ys, cost)
        })
    }
}

/// ReLU, convolution, batch norm; a strided atrous one halves its input by interpolation and runs at rate 1, as TF's
/// `nas_cell` does.
#[derive(Debug)]
pub struct ReluConvBn {
    halve: bool,
    conv: Conv2d,
    bn: BatchNorm,
}

impl ReluConvBn {
    /// The 1x1 form that brings a cell's inputs to its own channels.
    pub fn pointwise(vb: &VarBuilder, (c_in, c_out): (i64, i64), bn: BnConfig) -> Self {
        Self {
            halve: false,
            conv: Conv2d::new(&vb.sub("conv"), c_in, c_out, 1, ConvConfig::default()),
            bn: BatchNorm::new(&vb.sub("bn"), c_out, bn),
        }
    }

    pub(super) fn new(vb: &VarBuilder, ksize: i64, dilation: i64, config: OpConfig) -> Self {
        let conv = ConvConfig { stride: config.stride, dilation, ..Default::default() };
        Self {
            halve: false,
            conv: Conv2d::new(&vb.sub("conv"), config.channels, config.channels, ksize, conv),
            bn: BatchNorm::new(&vb.sub("bn"), config.channels, config.bn),
        }
    }

    pub(super) fn atrous(vb: &VarBuilder, ksize: i64, config: OpConfig) -> Self {
        let halve = config.stride == 2;
        let dilation = if halve { 1 } else { 2 };
        Self { halve, ..Self::new(vb, ksize, dilation, OpConfig { stride: 1, ..config }) }
    }
}

impl Module for ReluConvBn {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_shared(&Shared::new(xs), None, mode)
    }

    fn forward_shared(&self, xs: &Shared, scale: Option<&Tensor>, mode: Mode) -> Tensor {
        let xs = xs.relu();
        let xs = match self.halve {
            true => {
                let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
                resize_bilinear(&xs, (strided(h, 2), strided(w, 2)))
            }
            false => xs,
        };
        self.bn.forward_scaled(&self.conv.forward(&xs, mode), scale, mode)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let xs = match self.halve {
            true => xs.with_size((strided(xs.h, 2), strided(xs.w, 2))),
            false => xs,
        };
        let ys = self.conv.cost(xs, cost);
        self.bn.cost(ys, cost)
    }
}

/// ReLU, a row of weights, a column of weights, batch norm.
#[derive(Debug)]
pub(super) struct FactorizedConv {
    row: Conv2d,
    column: Conv2d,
    bn: BatchNorm,
}

impl FactorizedConv {
    pub(super) fn new(vb: &VarBuilder, ksize: i64, config: OpConfig) -> Self {
        let OpConfig { channels: c, stride, bn, .. } = config;
        Self {
            row: Conv2d::rectangular(&vb.sub("row"), (c, c), [1, ksize], [1, stride]),
            column: Conv2d::rectangular(&vb.sub("column"), (c, c), [ksize, 1], [stride, 1]),
            bn: BatchNorm::new(&vb.sub("bn"), c, bn),
        }
    }
}

impl Module for FactorizedConv {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_shared(&Shared::new(xs), None, mode)
    }

    fn forward_shared(&self, xs: &Shared, scale: Option<&Tensor>, mode: Mode) -> Tensor {
        self.bn.forward_scaled(&self.column.forward(&self.row.forward(&xs.relu(), mode), mode), scale, mode)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.row.cost(xs, cost);
        let ys = self.column.cost(ys, cost);
        self.bn.cost(ys, cost)
    }
}

/// Halves a map without losing pixels (Zoph et al. 2018, DARTS' `FactorizedReduce`): ReLU, two 1x1 convolutions of stride 2
/// whose taps are one pixel apart, batch norm. An odd side is continued by zeros.
#[derive(Debug)]
pub struct FactorizedReduce {
    convs: [Conv2d; 2],
    bn: BatchNorm,
}

impl FactorizedReduce {
    /// Half of `c_out` comes from either convolution.
    pub fn new(vb: &VarBuilder, (c_in, c_out): (i64, i64), bn: BnConfig) -> Self {
        let stride = ConvConfig { stride: 2, ..Default::default() };
        let conv = |name: &str, c_out| Conv2d::new(&vb.sub(name), c_in, c_out, 1, stride);
        Self {
            convs: [conv("conv_1", c_out / 2), conv("conv_2", c_out - c_out / 2)],
            bn: BatchNorm::new(&vb.sub("bn"), c_out, bn),
        }
    }
}

impl Module for FactorizedReduce {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_shared(&Shared::new(xs), None, mode)
    }

    fn forward_shared(&self, xs: &Shared, scale: Option<&Tensor>, mode: Mode) -> Tensor {
        let xs = xs.relu();
        let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
        let even = xs.constant_pad_nd([0, w % 2, 0, h % 2]);
        let shifted = even.slice(2, 1, None, 1).slice(3, 1, None, 1);
        let [first, second] = &self.convs;
        let halves = [first.forward(&xs, mode), second.forward(&shifted, mode)];
        self.bn.forward_scaled(&Tensor::cat(&halves, 1), scale, mode)
    }

    fn parts(&self) -> (Vec<&Conv2d>, Vec<&BatchNorm>) {
        (self.convs.iter().collect(), vec![&self.bn])
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let channels: i64 = self.convs.iter().map(|conv| conv.cost(xs, cost).c).sum();
        self.bn.cost(Shape::new(channels, strided(xs.h, 2), strided(xs.w, 2)), cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    #[test]
    fn factorized_reduction_takes_even_and_odd_pixels() {
        let vs = VarStore::new(Device::Cpu);
        let layer = FactorizedReduce::new(&VarBuilder::new(&vs), (1, 2), BnConfig { eps: 0.0, ..Default::default() });
        tch::no_grad(|| {
            vs.variables().iter().filter(|(name, _)| name.contains("conv")).for_each(|(_, weight)| {
                let _ = weight.shallow_clone().fill_(1.0);
            })
        });
        let xs = Tensor::arange(9, (Kind::Float, Device::Cpu)).view([1, 1, 3, 3]);
        let ys = layer.forward(&xs, Mode::EVAL).view(-1);
        let expected = Tensor::from_slice(&[0f32, 2., 6., 8., 4., 0., 0., 0.]);
        assert_eq!(ys, expected);
        let mut cost = Cost::default();
        assert_eq!(layer.cost(Shape::new(1, 3, 3), &mut cost), Shape::new(2, 2, 2));
        assert_eq!((cost.params, cost.macs), (2 + 4, 8));
    }
}
