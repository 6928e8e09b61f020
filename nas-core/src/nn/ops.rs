//! Candidate operators of cell spaces, by the names the literature gives them.

use std::fmt;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{BatchNorm, BnConfig, Conv2d, ConvConfig, Mode, Module, Shape, VarBuilder, relu, resize_bilinear};
use crate::space::Cost;

/// An operator from `c` channels to `c` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Zero: no connection.
    None,
    /// 3x3 max pooling.
    #[serde(rename = "max_pool_3x3")]
    MaxPool3x3,
    /// 3x3 average pooling; the padding is not counted in the average.
    #[serde(rename = "avg_pool_3x3")]
    AvgPool3x3,
    /// Identity.
    SkipConnect,
    /// ReLU, depthwise 3x3, pointwise, batch norm; twice.
    #[serde(rename = "sep_conv_3x3")]
    SepConv3x3,
    /// ReLU, depthwise 5x5, pointwise, batch norm; twice.
    #[serde(rename = "sep_conv_5x5")]
    SepConv5x5,
    /// ReLU, *dense* 3x3 of rate 2, batch norm: Auto-DeepLab's atrous convolution, which is not separable.
    #[serde(rename = "atrous_conv_3x3")]
    AtrousConv3x3,
    /// ReLU, *dense* 5x5 of rate 2, batch norm.
    #[serde(rename = "atrous_conv_5x5")]
    AtrousConv5x5,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Op::None => "none",
            Op::MaxPool3x3 => "max_pool_3x3",
            Op::AvgPool3x3 => "avg_pool_3x3",
            Op::SkipConnect => "skip_connect",
            Op::SepConv3x3 => "sep_conv_3x3",
            Op::SepConv5x5 => "sep_conv_5x5",
            Op::AtrousConv3x3 => "atrous_conv_3x3",
            Op::AtrousConv5x5 => "atrous_conv_5x5",
        })
    }
}

/// Surroundings of an operator.
#[derive(Clone, Copy, Debug)]
pub struct OpConfig {
    /// Channels in and out.
    pub channels: i64,
    /// 1 or 2.
    pub stride: i64,
    /// Norms inside the operator.
    pub bn: BnConfig,
    /// A norm after pooling: DARTS' practice while searching, so that no candidate wins by its scale.
    pub pool_bn: bool,
}

impl Op {
    /// The operator's layer, its weights under `vb`.
    pub fn build(self, vb: &VarBuilder, config: OpConfig) -> Box<dyn Module> {
        match self {
            Op::None => Box::new(Zero { stride: config.stride }),
            Op::SkipConnect if config.stride == 1 => Box::new(Identity),
            Op::SkipConnect => Box::new(ReluConvBn::new(vb, 1, 1, config)),
            Op::MaxPool3x3 => Box::new(Pool::new(vb, PoolKind::Max, config)),
            Op::AvgPool3x3 => Box::new(Pool::new(vb, PoolKind::Average, config)),
            Op::SepConv3x3 => Box::new(SepConv::new(vb, 3, config)),
            Op::SepConv5x5 => Box::new(SepConv::new(vb, 5, config)),
            Op::AtrousConv3x3 => Box::new(ReluConvBn::atrous(vb, 3, config)),
            Op::AtrousConv5x5 => Box::new(ReluConvBn::atrous(vb, 5, config)),
        }
    }
}

/// Drops whole samples of `xs` `[B, C, H, W]` with probability `1 - keep` and scales the others by `1 / keep`
/// (Larsson et al. 2017).
pub fn drop_path(xs: &Tensor, keep: f64) -> Tensor {
    if keep >= 1.0 {
        return xs.shallow_clone();
    }
    let mask = Tensor::rand([xs.size()[0], 1, 1, 1], (xs.kind(), xs.device()));
    xs * ((mask + keep).floor() / keep)
}

fn strided(n: i64, stride: i64) -> i64 {
    (n - 1) / stride + 1
}

#[derive(Debug)]
struct Zero {
    stride: i64,
}

impl Module for Zero {
    fn forward(&self, xs: &Tensor, _mode: Mode) -> Tensor {
        match self.stride {
            1 => xs.zeros_like(),
            stride => xs.slice(2, None, None, stride).slice(3, None, None, stride).zeros_like(),
        }
    }

    fn cost(&self, xs: Shape, _cost: &mut Cost) -> Shape {
        xs.with_size((strided(xs.h, self.stride), strided(xs.w, self.stride)))
    }
}

#[derive(Debug)]
struct Identity;

impl Module for Identity {
    fn forward(&self, xs: &Tensor, _mode: Mode) -> Tensor {
        xs.shallow_clone()
    }

    fn cost(&self, xs: Shape, _cost: &mut Cost) -> Shape {
        xs
    }
}

#[derive(Clone, Copy, Debug)]
enum PoolKind {
    Max,
    Average,
}

#[derive(Debug)]
struct Pool {
    kind: PoolKind,
    stride: i64,
    bn: Option<BatchNorm>,
}

impl Pool {
    fn new(vb: &VarBuilder, kind: PoolKind, config: OpConfig) -> Self {
        let bn = config.pool_bn.then(|| BatchNorm::new(&vb.sub("bn"), config.channels, config.bn));
        Self { kind, stride: config.stride, bn }
    }
}

impl Module for Pool {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let stride = [self.stride, self.stride];
        let ys = match self.kind {
            PoolKind::Max => xs.max_pool2d([3, 3], stride, [1, 1], [1, 1], false),
            PoolKind::Average => xs.avg_pool2d([3, 3], stride, [1, 1], false, false, None),
        };
        match &self.bn {
            Some(bn) => bn.forward(&ys, mode),
            None => ys,
        }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = xs.with_size((strided(xs.h, self.stride), strided(xs.w, self.stride)));
        match &self.bn {
            Some(bn) => bn.cost(ys, cost),
            None => ys,
        }
    }
}

/// Two rounds of ReLU, depthwise, pointwise, batch norm; the stride is in the first.
#[derive(Debug)]
struct SepConv {
    rounds: [(Conv2d, Conv2d, BatchNorm); 2],
}

impl SepConv {
    fn new(vb: &VarBuilder, ksize: i64, config: OpConfig) -> Self {
        let c = config.channels;
        let round = |i: usize, stride| {
            let vb = vb.sub(i);
            (
                Conv2d::depthwise(&vb.sub("depthwise"), c, ksize, ConvConfig { stride, ..Default::default() }),
                Conv2d::new(&vb.sub("pointwise"), c, c, 1, ConvConfig::default()),
                BatchNorm::new(&vb.sub("bn"), c, config.bn),
            )
        };
        Self { rounds: [round(0, config.stride), round(1, 1)] }
    }
}

impl Module for SepConv {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.rounds.iter().fold(xs.shallow_clone(), |xs, (depthwise, pointwise, bn)| {
            bn.forward(&pointwise.forward(&depthwise.forward(&relu(&xs), mode), mode), mode)
        })
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
struct ReluConvBn {
    halve: bool,
    conv: Conv2d,
    bn: BatchNorm,
}

impl ReluConvBn {
    fn new(vb: &VarBuilder, ksize: i64, dilation: i64, config: OpConfig) -> Self {
        let conv = ConvConfig { stride: config.stride, dilation, ..Default::default() };
        Self {
            halve: false,
            conv: Conv2d::new(&vb.sub("conv"), config.channels, config.channels, ksize, conv),
            bn: BatchNorm::new(&vb.sub("bn"), config.channels, config.bn),
        }
    }

    fn atrous(vb: &VarBuilder, ksize: i64, config: OpConfig) -> Self {
        let halve = config.stride == 2;
        let dilation = if halve { 1 } else { 2 };
        Self { halve, ..Self::new(vb, ksize, dilation, OpConfig { stride: 1, ..config }) }
    }
}

impl Module for ReluConvBn {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let xs = relu(xs);
        let xs = match self.halve {
            true => {
                let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
                resize_bilinear(&xs, (strided(h, 2), strided(w, 2)))
            }
            false => xs,
        };
        self.bn.forward(&self.conv.forward(&xs, mode), mode)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn};

    const ALL: [Op; 8] = [
        Op::None,
        Op::MaxPool3x3,
        Op::AvgPool3x3,
        Op::SkipConnect,
        Op::SepConv3x3,
        Op::SepConv5x5,
        Op::AtrousConv3x3,
        Op::AtrousConv5x5,
    ];

    #[test]
    fn every_operator_counts_what_it_allocates_and_returns_the_shape_it_says() {
        for (op, stride) in ALL.iter().flat_map(|op| [(op, 1), (op, 2)]) {
            let vs = nn::VarStore::new(Device::Cpu);
            let config = OpConfig { channels: 6, stride, bn: BnConfig::default(), pool_bn: true };
            let layer = op.build(&VarBuilder::new(&vs), config);
            let ys = layer.forward(&Tensor::randn([2, 6, 9, 8], (Kind::Float, Device::Cpu)), Mode::train(0.5));
            let mut cost = Cost::default();
            let shape = layer.cost(Shape::new(6, 9, 8), &mut cost);
            assert_eq!(ys.size(), [2, shape.c, shape.h, shape.w], "{op} at stride {stride}");
            let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
            assert_eq!(cost.params, allocated as u64, "{op} at stride {stride}");
        }
    }

    #[test]
    fn names_in_configs_are_the_literature_names() {
        for op in ALL {
            assert_eq!(serde_json::to_value(op).unwrap(), op.to_string());
        }
    }

    #[test]
    fn drop_path_keeps_the_mean_and_drops_whole_samples() {
        tch::manual_seed(7);
        let ys = drop_path(&Tensor::ones([4000, 2, 1, 1], (Kind::Float, Device::Cpu)), 0.8);
        assert!((ys.mean(Kind::Float).double_value(&[]) - 1.0).abs() < 0.03);
        let per_sample = ys.sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float);
        let (dropped, kept) = (per_sample.eq(0.0), per_sample.eq(2.5));
        assert!(bool::try_from(dropped.logical_or(&kept).all()).unwrap());
    }
}
