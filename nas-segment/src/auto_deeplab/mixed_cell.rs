//! The relaxed cell: every operator on every edge at once.
//!
//! All edges that leave one state are computed together. Their operators see the same input, so one convolution with the
//! edges' kernels side by side stands for all of them, the two poolings need no weights and are computed once, and the
//! architecture weight of an edge is the scale of its operator's last batch norm (which has none of its own during search).
//! At the small maps of a search, where calls cost more than arithmetic, this is several times faster than one call per
//! edge and operator.

use nas_core::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Mode, Module, VarBuilder};
use tch::{Kind, Tensor};

use super::decode::first_edge;
use super::genotype::OPS;

/// Norms of relaxed cells learn no scale: it would undo the architecture weights.
pub const SEARCH_BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: false };

/// Architecture weights as a cell of given channels needs them: per state and operator, one scale per output channel.
#[derive(Debug)]
pub struct CellWeights {
    /// `[state][operator]`, each `[edges * channels]`.
    scales: Vec<Vec<Tensor>>,
}

impl CellWeights {
    /// From edge probabilities `alpha [edges, 8]`.
    pub fn new(alpha: &Tensor, blocks: usize, channels: i64) -> Self {
        let state = |state: usize| {
            let edges: Vec<i64> = consumers(state, blocks).map(|block| (first_edge(block) + state) as i64).collect();
            let index = Tensor::from_slice(&edges).to_device(alpha.device());
            let alpha = alpha.index_select(0, &index);
            let scale = |op: usize| alpha.select(1, op as i64).repeat_interleave_self_int(channels, 0, None);
            (0..OPS.len()).map(scale).collect()
        };
        Self { scales: (0..=blocks).map(state).collect() }
    }
}

/// Blocks that can take `state` as an input.
fn consumers(state: usize, blocks: usize) -> std::ops::Range<usize> {
    state.saturating_sub(1)..blocks
}

/// A cell with all operators on all edges.
#[derive(Debug)]
pub struct MixedCell {
    states: Vec<MixedState>,
    blocks: usize,
    channels: i64,
}

impl MixedCell {
    /// A cell of `blocks` blocks over maps of `channels`.
    pub fn new(vb: &VarBuilder, blocks: usize, channels: i64) -> Self {
        let state = |state: usize| MixedState::new(&vb.sub(state), consumers(state, blocks).len() as i64, channels);
        Self { states: (0..=blocks).map(state).collect(), blocks, channels }
    }

    /// Output `[B, blocks * channels, H, W]` for preprocessed inputs `[B, channels, H, W]`: H[l-1], then H[l-2].
    pub fn forward(&self, last: &Tensor, before: &Tensor, weights: &CellWeights, mode: Mode) -> Tensor {
        let mut sums: Vec<Option<Tensor>> = (0..self.blocks).map(|_| None).collect();
        let mut blocks: Vec<Tensor> = Vec::with_capacity(self.blocks);
        for (state, (mixed, scales)) in self.states.iter().zip(&weights.scales).enumerate() {
            let xs = match state {
                0 => last,
                1 => before,
                state => {
                    // All inputs of a block are states before its own, so its sum is complete by now.
                    blocks.push(sums[state - 2].take().expect("every block has inputs"));
                    &blocks[state - 2]
                }
            };
            let ys = mixed.forward(xs, scales, mode);
            for (edge, block) in consumers(state, self.blocks).enumerate() {
                let term = ys.narrow(1, edge as i64 * self.channels, self.channels);
                sums[block] = Some(match sums[block].take() {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        blocks.extend(sums.into_iter().flatten());
        Tensor::cat(&blocks, 1)
    }
}

/// All operators on all edges that leave one state.
#[derive(Debug)]
struct MixedState {
    edges: i64,
    max_bn: BatchNorm,
    average_bn: BatchNorm,
    separable: [MixedSeparable; 2],
    atrous: [MixedAtrous; 2],
}

impl MixedState {
    fn new(vb: &VarBuilder, edges: i64, channels: i64) -> Self {
        Self {
            edges,
            max_bn: BatchNorm::new(&vb.sub("max_pool"), channels, SEARCH_BN),
            average_bn: BatchNorm::new(&vb.sub("avg_pool"), channels, SEARCH_BN),
            separable: [3, 5]
                .map(|ksize| MixedSeparable::new(&vb.sub(format!("sep_conv_{ksize}")), edges, channels, ksize)),
            atrous: [3, 5]
                .map(|ksize| MixedAtrous::new(&vb.sub(format!("atrous_conv_{ksize}")), edges, channels, ksize)),
        }
    }

    /// `[B, edges * channels, H, W]`. `none` contributes nothing; its probability lowers the others'.
    fn forward(&self, xs: &Tensor, scales: &[Tensor], mode: Mode) -> Tensor {
        let [_, max, average, skip, sep3, sep5, atrous3, atrous5] = scales else { panic!("eight operators") };
        let pooled_max = self.max_bn.forward(&xs.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false), mode);
        let pooled_average = self.average_bn.forward(&xs.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None), mode);
        let scaled = |xs: &Tensor, scale: &Tensor| repeat(xs, self.edges) * scale.view([1, -1, 1, 1]);
        let relu = xs.relu();
        let repeated = repeat(&relu, self.edges);
        scaled(&pooled_max, max)
            + scaled(&pooled_average, average)
            + scaled(xs, skip)
            + self.separable[0].forward(&repeated, sep3, mode)
            + self.separable[1].forward(&repeated, sep5, mode)
            + self.atrous[0].forward(&relu, atrous3, mode)
            + self.atrous[1].forward(&relu, atrous5, mode)
    }
}

/// `n` copies along the channels; `cat` keeps channels-last memory, `repeat` does not.
fn repeat(xs: &Tensor, n: i64) -> Tensor {
    match n {
        1 => xs.shallow_clone(),
        n => Tensor::cat(&vec![xs; n as usize], 1),
    }
}

/// Batch norm whose scale is given from outside.
#[derive(Debug)]
struct ScaledNorm {
    running_mean: Tensor,
    running_var: Tensor,
}

impl ScaledNorm {
    fn new(vb: &VarBuilder, channels: i64) -> Self {
        let buffer = |name, value| vb.buffer(name, &[channels], value);
        Self { running_mean: buffer("running_mean", 0.0), running_var: buffer("running_var", 1.0) }
    }

    fn forward(&self, xs: &Tensor, scale: &Tensor, mode: Mode) -> Tensor {
        let train = mode.train && xs.numel() as i64 > self.running_mean.size()[0];
        let (mean, var) = (Some(&self.running_mean), Some(&self.running_var));
        xs.batch_norm(Some(scale), None, mean, var, train, SEARCH_BN.momentum, SEARCH_BN.eps, true)
    }
}

/// The separable convolutions of one kernel size on all edges. Inputs are past their first ReLU and repeated per edge.
#[derive(Debug)]
struct MixedSeparable {
    depthwise: [Conv2d; 2],
    pointwise: [Conv2d; 2],
    bn: BatchNorm,
    norm: ScaledNorm,
}

impl MixedSeparable {
    fn new(vb: &VarBuilder, edges: i64, channels: i64, ksize: i64) -> Self {
        let all = edges * channels;
        let depthwise =
            |round: i64| Conv2d::depthwise(&vb.sub(round).sub("depthwise"), all, ksize, ConvConfig::default());
        let per_edge = ConvConfig { groups: edges, ..Default::default() };
        let pointwise = |round: i64| Conv2d::new(&vb.sub(round).sub("pointwise"), all, all, 1, per_edge);
        Self {
            depthwise: [depthwise(0), depthwise(1)],
            pointwise: [pointwise(0), pointwise(1)],
            bn: BatchNorm::new(&vb.sub("0").sub("bn"), all, SEARCH_BN),
            norm: ScaledNorm::new(&vb.sub("1").sub("bn"), all),
        }
    }

    fn forward(&self, repeated: &Tensor, scale: &Tensor, mode: Mode) -> Tensor {
        let conv =
            |round: usize, xs: &Tensor| self.pointwise[round].forward(&self.depthwise[round].forward(xs, mode), mode);
        let middle = self.bn.forward(&conv(0, repeated), mode).relu_();
        self.norm.forward(&conv(1, &middle), scale, mode)
    }
}

/// The dense atrous convolutions of one kernel size on all edges.
#[derive(Debug)]
struct MixedAtrous {
    conv: Conv2d,
    norm: ScaledNorm,
}

impl MixedAtrous {
    fn new(vb: &VarBuilder, edges: i64, channels: i64, ksize: i64) -> Self {
        let rate_2 = ConvConfig { dilation: 2, ..Default::default() };
        Self {
            conv: Conv2d::new(&vb.sub("conv"), channels, edges * channels, ksize, rate_2),
            norm: ScaledNorm::new(&vb.sub("bn"), edges * channels),
        }
    }

    fn forward(&self, relu: &Tensor, scale: &Tensor, mode: Mode) -> Tensor {
        self.norm.forward(&self.conv.forward(relu, mode), scale, mode)
    }
}

/// Probabilities of the operators of each edge, `[edges, 8]`, from raw alpha.
pub fn edge_probabilities(alpha: &Tensor) -> Tensor {
    alpha.softmax(-1, None::<Kind>)
}
