//! Candidate operators of cell spaces, by the names the literature gives them.

use std::fmt;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::cell_convs::{FactorizedConv, ReluConvBn, Separable};
use super::shared::{PoolKind, Pooling};
use super::{BatchNorm, BnConfig, Conv2d, Mode, Module, Shape, Shared, VarBuilder};
use crate::nn::Cost;

/// An operator from `c` channels to `c` channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Zero: no connection.
    None,
    /// 3x3 max pooling.
    #[serde(rename = "max_pool_3x3")]
    MaxPool3x3,
    /// 5x5 max pooling.
    #[serde(rename = "max_pool_5x5")]
    MaxPool5x5,
    /// 7x7 max pooling.
    #[serde(rename = "max_pool_7x7")]
    MaxPool7x7,
    /// 3x3 average pooling; the padding is not counted in the average.
    #[serde(rename = "avg_pool_3x3")]
    AvgPool3x3,
    /// Identity.
    SkipConnect,
    /// ReLU, 1x1, batch norm.
    #[serde(rename = "conv_1x1")]
    Conv1x1,
    /// ReLU, 3x3, batch norm.
    #[serde(rename = "conv_3x3")]
    Conv3x3,
    /// ReLU, 5x5, batch norm.
    #[serde(rename = "conv_5x5")]
    Conv5x5,
    /// ReLU, 1x3, 3x1, batch norm.
    #[serde(rename = "conv_3x1_1x3")]
    Conv3x1And1x3,
    /// ReLU, 1x7, 7x1, batch norm.
    #[serde(rename = "conv_7x1_1x7")]
    Conv7x1And1x7,
    /// ReLU, depthwise 3x3, pointwise, batch norm; twice.
    #[serde(rename = "sep_conv_3x3")]
    SepConv3x3,
    /// ReLU, depthwise 5x5, pointwise, batch norm; twice.
    #[serde(rename = "sep_conv_5x5")]
    SepConv5x5,
    /// ReLU, depthwise 7x7, pointwise, batch norm; twice.
    #[serde(rename = "sep_conv_7x7")]
    SepConv7x7,
    /// ReLU, depthwise 3x3 of rate 2, pointwise, batch norm: DARTS' dilated convolution.
    #[serde(rename = "dil_conv_3x3")]
    DilConv3x3,
    /// ReLU, depthwise 5x5 of rate 2, pointwise, batch norm.
    #[serde(rename = "dil_conv_5x5")]
    DilConv5x5,
    /// ReLU, *dense* 3x3 of rate 2, batch norm: Auto-DeepLab's atrous convolution, which is not separable.
    #[serde(rename = "atrous_conv_3x3")]
    AtrousConv3x3,
    /// ReLU, *dense* 5x5 of rate 2, batch norm.
    #[serde(rename = "atrous_conv_5x5")]
    AtrousConv5x5,
}

impl Op {
    /// Every operator.
    pub const ALL: [Op; 18] = [
        Op::None,
        Op::MaxPool3x3,
        Op::MaxPool5x5,
        Op::MaxPool7x7,
        Op::AvgPool3x3,
        Op::SkipConnect,
        Op::Conv1x1,
        Op::Conv3x3,
        Op::Conv5x5,
        Op::Conv3x1And1x3,
        Op::Conv7x1And1x7,
        Op::SepConv3x3,
        Op::SepConv5x5,
        Op::SepConv7x7,
        Op::DilConv3x3,
        Op::DilConv5x5,
        Op::AtrousConv3x3,
        Op::AtrousConv5x5,
    ];

    /// The operator's name in the literature.
    pub fn name(self) -> &'static str {
        match self {
            Op::None => "none",
            Op::MaxPool3x3 => "max_pool_3x3",
            Op::MaxPool5x5 => "max_pool_5x5",
            Op::MaxPool7x7 => "max_pool_7x7",
            Op::AvgPool3x3 => "avg_pool_3x3",
            Op::SkipConnect => "skip_connect",
            Op::Conv1x1 => "conv_1x1",
            Op::Conv3x3 => "conv_3x3",
            Op::Conv5x5 => "conv_5x5",
            Op::Conv3x1And1x3 => "conv_3x1_1x3",
            Op::Conv7x1And1x7 => "conv_7x1_1x7",
            Op::SepConv3x3 => "sep_conv_3x3",
            Op::SepConv5x5 => "sep_conv_5x5",
            Op::SepConv7x7 => "sep_conv_7x7",
            Op::DilConv3x3 => "dil_conv_3x3",
            Op::DilConv5x5 => "dil_conv_5x5",
            Op::AtrousConv3x3 => "atrous_conv_3x3",
            Op::AtrousConv5x5 => "atrous_conv_5x5",
        }
    }

    /// The operator called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
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
            Op::MaxPool3x3 => Box::new(Pool::new(vb, PoolKind::Max, 3, config)),
            Op::MaxPool5x5 => Box::new(Pool::new(vb, PoolKind::Max, 5, config)),
            Op::MaxPool7x7 => Box::new(Pool::new(vb, PoolKind::Max, 7, config)),
            Op::AvgPool3x3 => Box::new(Pool::new(vb, PoolKind::Average, 3, config)),
            Op::Conv1x1 => Box::new(ReluConvBn::new(vb, 1, 1, config)),
            Op::Conv3x3 => Box::new(ReluConvBn::new(vb, 3, 1, config)),
            Op::Conv5x5 => Box::new(ReluConvBn::new(vb, 5, 1, config)),
            Op::Conv3x1And1x3 => Box::new(FactorizedConv::new(vb, 3, config)),
            Op::Conv7x1And1x7 => Box::new(FactorizedConv::new(vb, 7, config)),
            Op::SepConv3x3 => Box::new(Separable::twice(vb, 3, config)),
            Op::SepConv5x5 => Box::new(Separable::twice(vb, 5, config)),
            Op::SepConv7x7 => Box::new(Separable::twice(vb, 7, config)),
            Op::DilConv3x3 => Box::new(Separable::dilated(vb, 3, config)),
            Op::DilConv5x5 => Box::new(Separable::dilated(vb, 5, config)),
            Op::AtrousConv3x3 => Box::new(ReluConvBn::atrous(vb, 3, config)),
            Op::AtrousConv5x5 => Box::new(ReluConvBn::atrous(vb, 5, config)),
        }
    }
}

pub(super) fn strided(n: i64, stride: i64) -> i64 {
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

#[derive(Debug)]
struct Pool {
    pooling: Pooling,
    bn: Option<BatchNorm>,
}

impl Pool {
    fn new(vb: &VarBuilder, kind: PoolKind, ksize: i64, config: OpConfig) -> Self {
        let bn = config.pool_bn.then(|| BatchNorm::new(&vb.sub("bn"), config.channels, config.bn));
        Self { pooling: Pooling { kind, ksize, stride: config.stride }, bn }
    }
}

impl Module for Pool {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_shared(&Shared::new(xs), None, mode)
    }

    fn forward_shared(&self, xs: &Shared, scale: Option<&Tensor>, mode: Mode) -> Tensor {
        let ys = xs.pooled(self.pooling);
        match &self.bn {
            Some(bn) => bn.forward_scaled(&ys, scale, mode),
            None => scale.map_or_else(|| ys.shallow_clone(), |scale| &ys * scale),
        }
    }

    fn parts(&self) -> (Vec<&Conv2d>, Vec<&BatchNorm>) {
        (Vec::new(), self.bn.iter().collect())
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = xs.with_size((strided(xs.h, self.pooling.stride), strided(xs.w, self.pooling.stride)));
        match &self.bn {
            Some(bn) => bn.cost(ys, cost),
            None => ys,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn};

    #[test]
    fn every_operator_counts_what_it_allocates_and_returns_the_shape_it_says() {
        for (op, stride) in Op::ALL.iter().flat_map(|op| [(op, 1), (op, 2)]) {
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
        for op in Op::ALL {
            assert_eq!(serde_json::to_value(op).unwrap(), op.to_string());
            assert_eq!(Op::from_name(op.name()), Some(op));
        }
    }
}
