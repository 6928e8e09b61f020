//! The blocks of DetNAS: a branch on half of the channels, or, where the stride is 2, on all of them beside a projection.

use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BatchNorm, BnConfig, ConvConfig, ConvNorm, Init, Mode, Module, Shape, VarBuilder, chain, chain_cost,
    conv_bn,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The choices of a block, in the order of DetNAS' encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// ShuffleNetV2's branch around a depthwise 3x3.
    Shuffle3x3,
    /// ShuffleNetV2's branch around a depthwise 5x5.
    Shuffle5x5,
    /// ShuffleNetV2's branch around a depthwise 7x7.
    Shuffle7x7,
    /// Three rounds of depthwise 3x3 and pointwise.
    Xception,
}

impl BlockOp {
    /// Every choice; its index is the encoding.
    pub const ALL: [Self; 4] = [Self::Shuffle3x3, Self::Shuffle5x5, Self::Shuffle7x7, Self::Xception];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shuffle3x3 => "shuffle 3x3",
            Self::Shuffle5x5 => "shuffle 5x5",
            Self::Shuffle7x7 => "shuffle 7x7",
            Self::Xception => "xception",
        }
    }

    /// Kernel of the depthwise convolutions.
    fn ksize(self) -> i64 {
        match self {
            Self::Shuffle3x3 | Self::Xception => 3,
            Self::Shuffle5x5 => 5,
            Self::Shuffle7x7 => 7,
        }
    }
}

/// Which half of a map's channels a block of stride 1 hands on, which it transforms. Weights trained under one are
/// meaningless under the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelShuffle {
    /// Even channels pass, odd ones are transformed: the authors' final networks ("method 2").
    #[default]
    EvenOdd,
    /// Channels are shuffled in two groups; the first half passes: the authors' published supernets ("method 1").
    TwoGroups,
}

impl ChannelShuffle {
    /// Halves `[B, C/2, H, W]` of `xs` `[B, C, H, W]`: the one that passes, the one that is transformed.
    fn split(self, xs: &Tensor) -> (Tensor, Tensor) {
        match self {
            Self::EvenOdd => (xs.slice(1, 0, None, 2), xs.slice(1, 1, None, 2)),
            Self::TwoGroups => {
                let mut halves = xs.channel_shuffle(2).chunk(2, 1).into_iter();
                let mut half = || halves.next().expect("two chunks");
                (half(), half())
            }
        }
    }
}

/// Initial weights of convolutions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightInit {
    /// He et al. 2015, fan-out.
    #[default]
    Kaiming,
    /// The authors': `N(0, 1/c²)` with `c` the input channels per group (1 for depthwise kernels), `N(0, 0.01²)` in the stem.
    Authors,
}

impl WeightInit {
    fn of(self, channels_per_group: i64) -> Init {
        match self {
            Self::Kaiming => Init::KaimingFanOut,
            Self::Authors => Init::Normal(1.0 / channels_per_group as f64),
        }
    }

    pub(super) fn stem(self) -> Init {
        match self {
            Self::Kaiming => Init::KaimingFanOut,
            Self::Authors => Init::Normal(0.01),
        }
    }
}

/// What a block consists of.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockConfig {
    pub op: BlockOp,
    pub c_in: i64,
    pub c_out: i64,
    pub stride: i64,
    pub shuffle: ChannelShuffle,
    pub bn: BnConfig,
    pub init: WeightInit,
}

/// One block. Stride 2: `cat(projection(x), branch(x))`; stride 1: `cat(p, branch(q))` of the halves `p`, `q` of `x`.
#[derive(Debug)]
pub(super) struct Block {
    shuffle: ChannelShuffle,
    projection: Option<[ConvNorm; 2]>,
    branch: Vec<ConvNorm>,
}

impl Block {
    pub fn new(vb: &VarBuilder, config: BlockConfig) -> Self {
        let BlockConfig { op, c_in, c_out, stride, shuffle, .. } = config;
        let ksize = op.ksize();
        let strided = stride == 2;
        let projection = strided.then(|| {
            let layers = Layers { vb: vb.sub("projection"), config };
            [layers.depthwise(0, c_in, ksize, stride), layers.pointwise(1, c_in, c_in)]
        });
        let (a, b) = if strided { (c_in, c_out - c_in) } else { (c_in / 2, c_out / 2) };
        let mid = c_out / 2;
        let layers = Layers { vb: vb.sub("branch"), config };
        let branch = match op {
            BlockOp::Xception => vec![
                layers.depthwise(0, a, ksize, stride),
                layers.pointwise(1, a, mid),
                layers.depthwise(2, mid, ksize, 1),
                layers.pointwise(3, mid, mid),
                layers.depthwise(4, mid, ksize, 1),
                layers.pointwise(5, mid, b),
            ],
            _ => {
                vec![layers.pointwise(0, a, mid), layers.depthwise(1, mid, ksize, stride), layers.pointwise(2, mid, b)]
            }
        };
        Self { shuffle, projection, branch }
    }

    /// Its batch norms.
    pub fn norms(&self) -> impl Iterator<Item = &BatchNorm> {
        self.projection.iter().flatten().chain(&self.branch).filter_map(ConvNorm::batch_norm)
    }
}

impl Module for Block {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let (kept, branch) = match &self.projection {
            Some(projection) => (chain(projection, xs, mode), chain(&self.branch, xs, mode)),
            None => {
                let (kept, transformed) = self.shuffle.split(xs);
                (kept, chain(&self.branch, &transformed, mode))
            }
        };
        Tensor::cat(&[kept, branch], 1)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        match &self.projection {
            Some(projection) => {
                let kept = chain_cost(projection, xs, cost);
                let ys = chain_cost(&self.branch, xs, cost);
                ys.with_channels(kept.c + ys.c)
            }
            None => {
                let ys = chain_cost(&self.branch, xs.with_channels(xs.c / 2), cost);
                ys.with_channels(xs.c / 2 + ys.c)
            }
        }
    }
}

/// Makes the layers of a branch.
struct Layers<'a> {
    vb: VarBuilder<'a>,
    config: BlockConfig,
}

impl Layers<'_> {
    /// Depthwise convolution and norm.
    fn depthwise(&self, i: usize, c: i64, ksize: i64, stride: i64) -> ConvNorm {
        let conv = ConvConfig { stride, groups: c, init: self.config.init.of(1), ..Default::default() };
        conv_bn(&self.vb.sub(i), (c, c), ksize, conv, self.config.bn, Activation::Identity)
    }

    /// 1x1 convolution, norm, ReLU.
    fn pointwise(&self, i: usize, c_in: i64, c_out: i64) -> ConvNorm {
        let conv = ConvConfig { init: self.config.init.of(c_in), ..Default::default() };
        conv_bn(&self.vb.sub(i), (c_in, c_out), 1, conv, self.config.bn, Activation::Relu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn halves_are_those_of_the_authors_two_methods() {
        let xs = Tensor::arange(8, (Kind::Float, Device::Cpu)).view([1, 8, 1, 1]);
        let list = |xs: Tensor| Vec::<f32>::try_from(xs.reshape([-1])).unwrap();
        let (kept, transformed) = ChannelShuffle::EvenOdd.split(&xs);
        assert_eq!((list(kept), list(transformed)), (vec![0.0, 2.0, 4.0, 6.0], vec![1.0, 3.0, 5.0, 7.0]));
        let (kept, transformed) = ChannelShuffle::TwoGroups.split(&xs);
        assert_eq!((list(kept), list(transformed)), (vec![0.0, 4.0, 1.0, 5.0], vec![2.0, 6.0, 3.0, 7.0]));
    }
}
