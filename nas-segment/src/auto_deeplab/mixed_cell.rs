//! The relaxed cell: every operator on every edge at once.
//!
//! A search works on small maps, where calls cost more than arithmetic. So the cell makes few and large ones:
//! - All edges that leave one state see the same input: one convolution with the edges' kernels side by side stands for
//!   all of them. Poolings and identity have no weights and are computed once for all edges.
//! - The architecture weight of a convolution is the scale of its last batch norm, which has none of its own.
//! - The cells of equation 6 that end in one node and share their weights run as one batch, each with batch statistics
//!   of its own. They have H[l-2] in common, and what comes from it is computed once.

use std::borrow::Borrow;

use nas_core::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Mode, Module, Op, VarBuilder};
use tch::Tensor;

use super::decode::first_edge;
use super::genotype::Edge;

/// Norms of relaxed cells learn no scale: it would undo the architecture weights.
pub const SEARCH_BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: false };

/// Architecture weights as a cell of given channels needs them.
#[derive(Debug)]
pub enum CellWeights {
    /// Of all operators on all edges, by state.
    Relaxed(Vec<StateWeights>),
    /// One cell: of each block, the two inputs with their operators. Nothing else is computed.
    Path(Vec<[Edge; 2]>),
}

/// Architecture weights of the edges that leave one state.
#[derive(Debug)]
pub struct StateWeights {
    /// Of max pooling, average pooling and identity, `[edges, 3]`.
    weightless: Tensor,
    /// Of the four convolutions, each `[edges * channels]`.
    convolutions: [Tensor; 4],
}

impl CellWeights {
    /// From edge probabilities `alpha [edges, 8]`. `none` contributes nothing; its probability lowers the others'.
    pub fn new(alpha: &Tensor, blocks: usize, channels: i64) -> Self {
        let state = |state: usize| {
            let edges: Vec<i64> = consumers(state, blocks).map(|block| (first_edge(block) + state) as i64).collect();
            let index = Tensor::from_slice(&edges).to_device(alpha.device());
            let alpha = alpha.index_select(0, &index);
            let scale = |op: i64| alpha.select(1, op).repeat_interleave_self_int(channels, 0, None);
            StateWeights { weightless: alpha.narrow(1, 1, 3), convolutions: [4, 5, 6, 7].map(scale) }
        };
        Self::Relaxed((0..=blocks).map(state).collect())
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
}

impl MixedCell {
    /// A cell of `blocks` blocks over maps of `channels`.
    pub fn new(vb: &VarBuilder, blocks: usize, channels: i64) -> Self {
        let state = |state: usize| MixedState::new(&vb.sub(state), consumers(state, blocks).len() as i64, channels);
        Self { states: (0..=blocks).map(state).collect(), blocks }
    }

    /// Outputs `[B, blocks * channels, H, W]`, one for each of the H[l-1] in `last`; `before` is the H[l-2] that they
    /// share. Inputs are preprocessed maps `[B, channels, H, W]`.
    pub fn forward(&self, last: &[Tensor], before: &Tensor, weights: &CellWeights, mode: Mode) -> Vec<Tensor> {
        let sources = last.len();
        let states = match weights {
            CellWeights::Relaxed(states) => states,
            CellWeights::Path(cell) => return last.iter().map(|xs| self.path(xs, before, cell, mode)).collect(),
        };
        let mixed = |state: usize, xs: &Tensor, sources| self.states[state].forward(xs, sources, &states[state], mode);
        let from_before = mixed(1, before, 1).into_iter().map(|term| cat(&vec![&term; sources], 0));
        let from_last = mixed(0, &cat(last, 0), sources);
        let mut sums: Vec<Tensor> = from_before.zip(from_last).map(|(a, b)| a + b).collect();
        for block in 0..self.blocks - 1 {
            // The inputs of a block are states before its own, so its sum is complete by now.
            for (term, to) in mixed(2 + block, &sums[block], sources).into_iter().zip(block + 1..) {
                sums[to] = &sums[to] + term;
            }
        }
        Tensor::cat(&sums, 1).chunk(sources as i64, 0)
    }
}

impl MixedCell {
    /// The output of one cell.
    fn path(&self, last: &Tensor, before: &Tensor, cell: &[[Edge; 2]], mode: Mode) -> Tensor {
        let mut states = vec![last.shallow_clone(), before.shallow_clone()];
        for (block, inputs) in cell.iter().enumerate() {
            let term = |edge: &Edge| {
                let out = block - consumers(edge.state, self.blocks).start;
                self.states[edge.state].operator(&states[edge.state], out as i64, edge.op, mode)
            };
            let [a, b] = inputs.each_ref().map(term);
            states.push(a + b);
        }
        Tensor::cat(&states[2..], 1)
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
        let separable = |k| MixedSeparable::new(&vb.sub(format!("sep_conv_{k}")), edges, channels, k);
        let atrous = |k| MixedAtrous::new(&vb.sub(format!("atrous_conv_{k}")), edges, channels, k);
        Self {
            edges,
            max_bn: BatchNorm::new(&vb.sub("max_pool"), channels, SEARCH_BN),
            average_bn: BatchNorm::new(&vb.sub("avg_pool"), channels, SEARCH_BN),
            separable: [3, 5].map(separable),
            atrous: [3, 5].map(atrous),
        }
    }

    /// One term `[sources * B, channels, H, W]` for each edge, in the order of the blocks they end in.
    fn forward(&self, xs: &Tensor, sources: usize, weights: &StateWeights, mode: Mode) -> Vec<Tensor> {
        let [sep3, sep5, atrous3, atrous5] = &weights.convolutions;
        let relu = xs.relu();
        let repeated = cat(&vec![&relu; self.edges as usize], 1);
        let convolved = self.separable[0].forward(&repeated, sources, sep3, mode)
            + self.separable[1].forward(&repeated, sources, sep5, mode)
            + self.atrous[0].forward(&relu, sources, atrous3, mode)
            + self.atrous[1].forward(&relu, sources, atrous5, mode);
        let weightless = self.weightless(xs, sources, &weights.weightless, mode);
        // One `chunk`, not a `narrow` per edge: its gradient is one concatenation, which keeps channels-last memory.
        weightless.into_iter().zip(convolved.chunk(self.edges, 1)).map(|(a, b)| a + b).collect()
    }

    /// One operator on the `edge`th edge, at weight 1.
    fn operator(&self, xs: &Tensor, edge: i64, op: Op, mode: Mode) -> Tensor {
        match op {
            Op::MaxPool3x3 => self.max_bn.forward(&max_pool(xs), mode),
            Op::AvgPool3x3 => self.average_bn.forward(&average_pool(xs), mode),
            Op::SkipConnect => xs.shallow_clone(),
            Op::SepConv3x3 => self.separable[0].edge(&xs.relu(), edge, mode),
            Op::SepConv5x5 => self.separable[1].edge(&xs.relu(), edge, mode),
            Op::AtrousConv3x3 => self.atrous[0].edge(&xs.relu(), edge, mode),
            Op::AtrousConv5x5 => self.atrous[1].edge(&xs.relu(), edge, mode),
            _ => xs.zeros_like(),
        }
    }

    /// Weighted sums of max pooling, average pooling and identity: a product of matrices `[edges, 3]` and
    /// `[3, values of a map]`.
    fn weightless(&self, xs: &Tensor, sources: usize, weights: &Tensor, mode: Mode) -> Vec<Tensor> {
        let (max, average) = (max_pool(xs), average_pool(xs));
        let max = per_source(&max, sources, |xs| self.max_bn.forward(xs, mode));
        let average = per_source(&average, sources, |xs| self.average_bn.forward(xs, mode));
        let maps = Tensor::cat(&[&max, &average, xs], 0).permute([0, 2, 3, 1]);
        let (_, h, w, c) = maps.size4().expect("a feature map has four dimensions");
        let sums = weights.matmul(&maps.reshape([3, -1])).view([-1, h, w, c]).permute([0, 3, 1, 2]);
        sums.chunk(self.edges, 0)
    }
}

fn max_pool(xs: &Tensor) -> Tensor {
    xs.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false)
}

fn average_pool(xs: &Tensor) -> Tensor {
    xs.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)
}

/// Applies a norm to the part of a batch that belongs to each source.
fn per_source(xs: &Tensor, sources: usize, norm: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let parts: Vec<Tensor> = xs.chunk(sources as i64, 0).iter().map(norm).collect();
    cat(&parts, 0)
}

/// Concatenation that copies nothing where there is one part.
fn cat(parts: &[impl Borrow<Tensor>], dim: i64) -> Tensor {
    match parts {
        [part] => part.borrow().shallow_clone(),
        parts => Tensor::cat(parts, dim),
    }
}

/// The separable convolutions of one kernel size on all edges. Inputs are past their first ReLU and repeated per edge.
#[derive(Debug)]
struct MixedSeparable {
    depthwise: [Conv2d; 2],
    pointwise: [MixedPointwise; 2],
    bn: BatchNorm,
    /// Its scale is the architecture weight.
    norm: BatchNorm,
}

impl MixedSeparable {
    fn new(vb: &VarBuilder, edges: i64, channels: i64, ksize: i64) -> Self {
        let all = edges * channels;
        let depthwise =
            |round: i64| Conv2d::depthwise(&vb.sub(round).sub("depthwise"), all, ksize, ConvConfig::default());
        let pointwise = |round: i64| MixedPointwise::new(&vb.sub(round).sub("pointwise"), edges, channels);
        Self {
            depthwise: [0, 1].map(depthwise),
            pointwise: [0, 1].map(pointwise),
            bn: BatchNorm::new(&vb.sub("0").sub("bn"), all, SEARCH_BN),
            norm: BatchNorm::new(&vb.sub("1").sub("bn"), all, SEARCH_BN),
        }
    }

    fn forward(&self, repeated: &Tensor, sources: usize, scale: &Tensor, mode: Mode) -> Tensor {
        let conv = |round: usize, xs: &Tensor| self.pointwise[round].forward(&self.depthwise[round].forward(xs, mode));
        let mut middle = per_source(&conv(0, repeated), sources, |xs| self.bn.forward(xs, mode));
        let ys = conv(1, &middle.relu_());
        per_source(&ys, sources, |xs| self.norm.forward_scaled(xs, Some(scale), mode))
    }

    /// The convolutions of one edge on a rectified map.
    fn edge(&self, relu: &Tensor, edge: i64, mode: Mode) -> Tensor {
        let channels = self.pointwise[0].channels;
        let (start, len) = (edge * channels, channels);
        let conv = |round: usize, xs: &Tensor| {
            let xs = self.depthwise[round].outputs(start, len).forward(xs, mode);
            self.pointwise[round].edge(&xs, edge)
        };
        let middle = self.bn.part(start, len).forward(&conv(0, relu), mode).relu_();
        self.norm.part(start, len).forward(&conv(1, &middle), mode)
    }
}

/// 1x1 convolutions within each edge.
#[derive(Debug)]
struct MixedPointwise {
    edges: i64,
    channels: i64,
    weight: Tensor,
}

/// With fewer channels per edge than this, a dense convolution whose weights are zero between edges is faster than a
/// grouped one.
const GROUPED_FROM: i64 = 16;

impl MixedPointwise {
    fn new(vb: &VarBuilder, edges: i64, channels: i64) -> Self {
        let weight = vb.weight("weight", &[edges * channels, channels, 1, 1], Init::FanIn);
        Self { edges, channels, weight }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let conv = |weight: &Tensor, groups| xs.conv2d(weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], groups);
        if self.channels >= GROUPED_FROM {
            return conv(&self.weight, self.edges);
        }
        let per_edge = self.weight.flatten(1, 3).chunk(self.edges, 0);
        conv(&Tensor::block_diag(&per_edge).unsqueeze(-1).unsqueeze(-1), 1)
    }
}

impl MixedPointwise {
    /// The convolution of one edge on its own channels.
    fn edge(&self, xs: &Tensor, edge: i64) -> Tensor {
        let weight = self.weight.narrow(0, edge * self.channels, self.channels);
        xs.conv2d(&weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1)
    }
}

/// The dense atrous convolutions of one kernel size on all edges.
#[derive(Debug)]
struct MixedAtrous {
    channels: i64,
    conv: Conv2d,
    /// Its scale is the architecture weight.
    norm: BatchNorm,
}

impl MixedAtrous {
    fn new(vb: &VarBuilder, edges: i64, channels: i64, ksize: i64) -> Self {
        let rate_2 = ConvConfig { dilation: 2, ..Default::default() };
        Self {
            channels,
            conv: Conv2d::new(&vb.sub("conv"), channels, edges * channels, ksize, rate_2),
            norm: BatchNorm::new(&vb.sub("bn"), edges * channels, SEARCH_BN),
        }
    }

    fn forward(&self, relu: &Tensor, sources: usize, scale: &Tensor, mode: Mode) -> Tensor {
        per_source(&self.conv.forward(relu, mode), sources, |xs| self.norm.forward_scaled(xs, Some(scale), mode))
    }

    /// The convolution of one edge on a rectified map.
    fn edge(&self, relu: &Tensor, edge: i64, mode: Mode) -> Tensor {
        let (start, len) = (edge * self.channels, self.channels);
        self.norm.part(start, len).forward(&self.conv.outputs(start, len).forward(relu, mode), mode)
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::super::genotype::OPS;
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    /// Equation 2, at channels on both sides of [`GROUPED_FROM`].
    #[test]
    fn a_relaxed_block_is_the_weighted_sum_of_its_operators() {
        for channels in [4, 16] {
            tch::manual_seed(0);
            let vs = VarStore::new(Device::Cpu);
            let cell = MixedCell::new(&VarBuilder::new(&vs), 1, channels);
            let map = || Tensor::randn([2, channels, 9, 7], CPU);
            let (last, before) = ([map()], map());
            let block = |alpha: &Tensor| {
                let weights = CellWeights::new(alpha, 1, channels);
                cell.forward(&last, &before, &weights, Mode::train(0.0)).remove(0)
            };
            let alpha = Tensor::rand([2, 8], CPU);
            let mut sum = Tensor::zeros([2, channels, 9, 7], CPU);
            for (edge, op) in (0..2).flat_map(|edge| (0..8).map(move |op| (edge, op))) {
                let one_hot = Tensor::zeros([2, 8], CPU);
                let _ = one_hot.get(edge).get(op).fill_(1.0);
                let term = block(&one_hot);
                assert_eq!(term.count_nonzero(None).int64_value(&[]) == 0, op == 0, "only none is zero: {edge} {op}");
                sum += term * alpha.double_value(&[edge, op]);
            }
            assert!(difference(&block(&alpha), &sum) < 1e-4);
        }
    }

    /// The value, and that nothing of what the path leaves out moves: neither weights nor statistics.
    #[test]
    fn a_path_is_the_cell_of_weights_0_and_1_and_touches_nothing_else() {
        for channels in [4, 16] {
            for ops in [[4, 5], [6, 7], [1, 2], [3, 4], [5, 6]] {
                tch::manual_seed(2);
                let vs = VarStore::new(Device::Cpu);
                let cell = MixedCell::new(&VarBuilder::new(&vs), 2, channels);
                let [last, before] = [0, 1].map(|_| Tensor::randn([2, channels, 9, 7], CPU));
                let edge = |state, op: usize| Edge { state, op: OPS[op] };
                let path = vec![[edge(0, ops[0]), edge(1, ops[1])], [edge(1, ops[1]), edge(2, ops[0])]];
                let alpha = Tensor::zeros([5, 8], CPU);
                for (at, op) in [(0, ops[0]), (1, ops[1]), (3, ops[1]), (4, ops[0])] {
                    let _ = alpha.get(at).get(op as i64).fill_(1.0);
                }
                let last = slice::from_ref(&last);
                let path = CellWeights::Path(path);
                let forward = |weights: &CellWeights, mode| cell.forward(last, &before, weights, mode).remove(0);
                let found = forward(&path, Mode::train(0.0));
                let moved = |(name, tensor): (String, Tensor)| {
                    (name.ends_with("running_mean") && tensor.ne(0.0).any().int64_value(&[]) != 0).then_some(name)
                };
                let moved: Vec<String> = vs.variables().into_iter().filter_map(moved).collect();
                let chosen = |name: &String| {
                    let of = |op: usize| match OPS[op] {
                        Op::MaxPool3x3 => "max_pool".to_string(),
                        Op::AvgPool3x3 => "avg_pool".to_string(),
                        op => op.to_string().replace("x3", "").replace("x5", ""),
                    };
                    ops.iter().any(|op| name.contains(&of(*op)))
                };
                assert!(moved.iter().all(chosen), "{ops:?}: {moved:?}");
                let expected = forward(&CellWeights::new(&alpha, 2, channels), Mode::train(0.0));
                assert!(difference(&found, &expected) < 1e-4, "{ops:?}: {}", difference(&found, &expected));
                if ops == [1, 2] {
                    continue;
                }
                forward(&path, Mode::train(0.0)).square().sum(Kind::Float).backward();
                for (name, weight) in vs.variables().into_iter().filter(|(_, tensor)| tensor.requires_grad()) {
                    assert!(chosen(&name) || !weight.grad().defined(), "{ops:?}: {name}");
                }
            }
        }
    }

    /// What recalibration asks for: the plain mean of the batches', nothing of what was there.
    #[test]
    fn averaging_reaches_norms_whose_scale_is_an_architecture_weight() {
        tch::manual_seed(3);
        let vs = VarStore::new(Device::Cpu);
        let cell = MixedCell::new(&VarBuilder::new(&vs), 1, 4);
        let weights = CellWeights::new(&Tensor::rand([2, 8], CPU), 1, 4);
        let maps: Vec<[Tensor; 1]> = (0..3).map(|_| [Tensor::randn([2, 4, 9, 7], CPU)]).collect();
        let name = "0.atrous_conv_3.bn.running_mean";
        let run = |maps: &[Tensor]| {
            let _ = cell.forward(maps, &maps[0], &weights, Mode::train(0.0));
        };
        let alone = |maps: &[Tensor; 1]| {
            let _average = nas_core::nn::AverageAll::start();
            run(maps);
            vs.variables()[name].copy()
        };
        let each: Vec<Tensor> = maps.iter().map(alone).collect();
        let _average = nas_core::nn::AverageAll::start();
        maps.iter().for_each(|maps| run(maps));
        let expected = (&each[0] + &each[1] + &each[2]) / 3.0;
        assert!(difference(&vs.variables()[name], &expected) < 1e-6);
        assert!(expected.abs().max().double_value(&[]) > 1e-3);
    }

    #[test]
    fn sources_that_share_a_cell_do_not_see_each_other() {
        tch::manual_seed(1);
        let vs = VarStore::new(Device::Cpu);
        let cell = MixedCell::new(&VarBuilder::new(&vs), 3, 4);
        let weights = CellWeights::new(&Tensor::rand([9, 8], CPU), 3, 4);
        let [a, b, before] = [1.0, 5.0, 1.0].map(|scale| Tensor::randn([2, 4, 9, 7], CPU) * scale);
        let alone = |xs: &Tensor| cell.forward(&[xs.shallow_clone()], &before, &weights, Mode::train(0.0)).remove(0);
        let expected = [alone(&a), alone(&b)];
        let found = cell.forward(&[a, b], &before, &weights, Mode::train(0.0));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(difference(found, expected) < 1e-4, "{}", difference(found, expected));
        }
    }
}
