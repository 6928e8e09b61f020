//! The relaxed cell: every operator on every edge at once.
//!
//! A search works on small maps, where calls cost more than arithmetic. So the cell makes few and large ones:
//! - All edges that leave one state see the same input: one convolution with the edges' kernels side by side stands for
//!   all of them. Poolings and identity have no weights and are computed once for all edges.
//! - The architecture weight of an operator is the scale of its last batch norm, which has none of its own. The last norms of all
//!   operators are one, on the CPU with the sums of what they give ([`BatchNorm::mixed`]).
//! - The cells of equation 6 that end in one node and share their weights run together, each with batch statistics of its own.
//!   They have H[l-2] in common, and what comes from it is computed once.
//!
//! The maps of several sources are one tensor in whose memory their pixels take turns: `[B, H, W, sources, C]`. Without a copy that
//! is a map `[B, C, H, W * sources]`, as convolutions take it, and one `[B, sources * C, H, W]`, whose channels are those of each
//! source, as norms and poolings take it.
//!
//! A card is given convolutions of both sizes as one, kernels of 3x3 with a border of zeros among those of 5x5: it waits for
//! launches, where the CPU would wait for the zeros.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use nas_core::nn::{
    Activation, BatchNorm, BnConfig, Conv2d, ConvConfig, Init, MixedNorms, Mode, Module, Moves, Op, VarBuilder, map,
    pointwise, rows,
};
use tch::{Kind, Tensor};

use super::decode::first_edge;
use super::genotype::{Edge, OPS};

/// Norms of relaxed cells learn no scale: it would undo the architecture weights.
pub const SEARCH_BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: false };

/// Operators without weights, but for `none`: two poolings with norms, and the identity.
const WEIGHTLESS: std::ops::Range<i64> = 1..4;
const POOLINGS: i64 = 2;
/// Two separable convolutions, two atrous ones.
const CONVOLUTIONS: std::ops::Range<i64> = 4..8;

/// Architecture weights as a cell of given channels needs them.
#[derive(Debug)]
pub enum CellWeights {
    /// Of all operators on all edges.
    Relaxed(Relaxed),
    /// One cell: of each block, the two inputs with their operators. Nothing else is computed.
    Path(Vec<[Edge; 2]>),
}

impl CellWeights {
    /// From edge probabilities `alpha [edges, 8]`. `none` contributes nothing; its probability lowers the others'.
    pub fn new(alpha: &Tensor, blocks: usize, channels: i64) -> Self {
        Self::Relaxed(Relaxed::new(alpha, blocks, channels))
    }
}

/// Architecture weights of a cell, state by state.
#[derive(Debug)]
pub struct Relaxed {
    blocks: usize,
    /// `[edges, 3]` of all states, flat.
    weightless: Tensor,
    /// What the last norms of each state are scaled by, per channel.
    scales: Vec<Tensor>,
    /// Both in one tensor, by the number of sources.
    flat: RefCell<HashMap<i64, Tensor>>,
}

/// Architecture weights of the edges that leave one state.
#[derive(Debug)]
struct StateWeights {
    /// Of max pooling, average pooling and identity, `[edges, 3]`.
    weightless: Tensor,
    /// Of the joint norm, `[sources * channels]`: those of poolings are 1.
    scale: Tensor,
}

impl Relaxed {
    fn new(alpha: &Tensor, blocks: usize, channels: i64) -> Self {
        let states = || 0..=blocks;
        let of_edges =
            |state| consumers(state, blocks).map(move |block| ((first_edge(block) + state) * OPS.len()) as i64);
        let weightless =
            states().flat_map(|state| of_edges(state).flat_map(|edge| WEIGHTLESS.map(move |op| edge + op)));
        let one = alpha.numel() as i64;
        let scales = |state| {
            let convolutions = CONVOLUTIONS.flat_map(move |op| of_edges(state).map(move |edge| edge + op));
            [one; POOLINGS as usize].into_iter().chain(convolutions)
        };
        let index: Vec<i64> = weightless.chain(states().flat_map(scales)).collect();
        let index = Tensor::from_slice(&index).to_device(alpha.device());
        let with_one = Tensor::cat(&[alpha.reshape([-1]), Tensor::ones([1], (alpha.kind(), alpha.device()))], 0);
        let edges: usize = states().map(|state| consumers(state, blocks).len()).sum();
        let lens: Vec<i64> = states().map(|state| scales(state).count() as i64 * channels).collect();
        let [weightless, scales] = [edges as i64 * WEIGHTLESS.count() as i64, lens.iter().sum::<i64>() / channels];
        let parts = with_one.index_select(0, &index).split_with_sizes([weightless, scales], 0);
        let scales = parts[1].unsqueeze(1).expand([-1, channels], false).reshape([-1]);
        let weightless = parts[0].shallow_clone();
        Self { blocks, weightless, scales: scales.split_with_sizes(&lens, 0), flat: RefCell::default() }
    }

    /// Weights for `sources` of every state but that of H[l-2], which has one.
    fn states(&self, sources: i64) -> Vec<StateWeights> {
        let times = |state: usize| if state == 1 { 1 } else { sources };
        let flat = || {
            let scales = self.scales.iter().enumerate();
            let scales = scales.flat_map(|(state, scale)| std::iter::repeat_n(scale, times(state) as usize));
            Tensor::cat(&std::iter::once(&self.weightless).chain(scales).collect::<Vec<_>>(), 0)
        };
        let flat = self.flat.borrow_mut().entry(sources).or_insert_with(flat).shallow_clone();
        let edges = (0..=self.blocks).map(|state| consumers(state, self.blocks).len() as i64);
        let weightless = edges.map(|edges| edges * WEIGHTLESS.count() as i64);
        let scales = self.scales.iter().enumerate().map(|(state, scale)| times(state) * scale.size()[0]);
        // One split for all: its gradient is one tensor, which the cells of a level add up.
        let parts = flat.split_with_sizes(weightless.chain(scales).collect::<Vec<_>>(), 0);
        let (weightless, scales) = parts.split_at(self.scales.len());
        let state = |(weightless, scale): (&Tensor, &Tensor)| StateWeights {
            weightless: weightless.view([-1, WEIGHTLESS.count() as i64]),
            scale: scale.shallow_clone(),
        };
        weightless.iter().zip(scales).map(state).collect()
    }
}

/// Blocks that can take `state` as an input.
fn consumers(state: usize, blocks: usize) -> std::ops::Range<usize> {
    state.saturating_sub(1)..blocks
}

/// Of `[B, C, H, W * sources]`, the channels side by side: `[B, sources * C, H, W]`.
fn side_by_side(xs: &Tensor, sources: i64) -> Tensor {
    let (b, c, h, w) = xs.size4().expect("a feature map has four dimensions");
    map(&rows(xs).reshape([b, h, w / sources, sources * c]))
}

/// Of `[B, sources * C, H, W]`, the pixels in turns: `[B, C, H, W * sources]`.
fn in_turns(xs: &Tensor, sources: i64) -> Tensor {
    let (b, c, h, w) = xs.size4().expect("a feature map has four dimensions");
    map(&rows(xs).reshape([b, h, w * sources, c / sources]))
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

    /// The sum of the outputs `[B, blocks * channels, H, W]` for each of the H[l-1] in `last`, times their `shares` `[sources]`, or 1;
    /// `before` is the H[l-2] that they share. Inputs are preprocessed maps `[B, channels, H, W]`. With kernels, convolutions of both
    /// sizes are one. Running statistics move by `moves`.
    pub fn forward(
        &self,
        last: &[Tensor],
        before: &Tensor,
        shares: Option<&Tensor>,
        weights: &CellWeights,
        joint: Option<&JointKernels>,
        (mode, moves): (Mode, &mut Moves),
    ) -> Tensor {
        let outputs = self.outputs(last, before, weights, joint, (mode, moves));
        // Half precision stays what it is.
        let shares = shares.map(|shares| shares.to_kind(outputs.kind()).view([-1, 1]));
        let weighted = shares.map_or_else(|| outputs.shallow_clone(), |shares| &outputs * shares);
        map(&match last {
            [_] => weighted.squeeze_dim(3),
            _ => weighted.sum_dim_intlist(3, false, None::<Kind>),
        })
    }

    /// `[B, H, W, sources, blocks * channels]`.
    fn outputs(
        &self,
        last: &[Tensor],
        before: &Tensor,
        weights: &CellWeights,
        joint: Option<&JointKernels>,
        (mode, moves): (Mode, &mut Moves),
    ) -> Tensor {
        let relaxed = match weights {
            CellWeights::Relaxed(relaxed) => relaxed,
            CellWeights::Path(cell) => {
                let path = |xs: &Tensor| rows(&self.path(xs, before, cell, mode));
                return Tensor::stack(&last.iter().map(path).collect::<Vec<_>>(), 3);
            }
        };
        let sources = last.len() as i64;
        let weights = relaxed.states(sources);
        let joint = |state: usize| joint.map(|joint| &joint.0[state]);
        let mut mixed = |state: usize, xs: &Tensor, sources, sum: Option<&Tensor>| {
            self.states[state].forward(xs, sources, &weights[state], sum, joint(state), (mode, &mut *moves))
        };
        let from_before = mixed(1, before, 1, None);
        let together = Tensor::stack(&last.iter().map(rows).collect::<Vec<_>>(), 3);
        let from_last = mixed(0, &map(&together.flatten(2, 3)), sources, None);
        let (_, b, h, w, c) = from_before.size5().expect("terms of all edges");
        let apart = [-1, b, h, w, sources, c];
        let mut sums = (from_last.view(apart) + from_before.unsqueeze(4)).flatten(3, 4);
        let mut done = Vec::new();
        for block in 0..self.blocks - 1 {
            // The inputs of a block are states before its own, so its sum is complete by now.
            let parts = sums.split_with_sizes([1, (self.blocks - block) as i64 - 1], 0);
            let first = parts[0].squeeze_dim(0);
            // A sum with zero is a copy: kept for the gradient, a part is the whole, which a card has rather than one more launch.
            let first = if before.device().is_cuda() { first } else { first + 0.0 };
            sums = mixed(2 + block, &map(&first), sources, Some(&parts[1]));
            done.push(first);
        }
        done.push(sums.squeeze_dim(0));
        Tensor::cat(&done, 3).view([b, h, w, sources, -1])
    }
}

impl MixedCell {
    /// Kernels of the convolutions of both sizes as one, for each of `cells`; few operators for all. `order` is what
    /// [`MixedCell::joint_order`] gives for the same cells.
    pub fn joint_kernels(cells: &[&Self], order: &Tensor) -> Vec<JointKernels> {
        let states = || cells.iter().flat_map(|cell| &cell.states);
        let rounds = || states().flat_map(|state| [0, 1].map(|round| (state, round)));
        let depthwise =
            |size: usize| rounds().map(move |(state, round)| state.separable[size].depthwise[round].weight());
        let bordered = Tensor::cat(&depthwise(0).collect::<Vec<_>>(), 0).constant_pad_nd([1, 1, 1, 1]);
        let kernels: Vec<&Tensor> = std::iter::once(&bordered).chain(depthwise(1)).collect();
        let lens: Vec<i64> = rounds().map(|(state, _)| state.inner_channels()).collect();
        let depthwise = Tensor::cat(&kernels, 0).index_select(0, order).split_with_sizes(&lens, 0);
        let pointwise = rounds()
            .flat_map(|(state, round)| state.separable.each_ref().map(|op| op.pointwise[round].weight.reshape([-1])));
        let pointwise = Tensor::cat(&pointwise.collect::<Vec<_>>(), 0);
        let sizes: Vec<i64> = rounds().map(|(state, _)| state.inner_channels() * state.channels).collect();
        let pointwise = pointwise.split_with_sizes(&sizes, 0);
        let mut kernels = depthwise.into_iter().zip(pointwise);
        let mut atrous = Self::joint_atrous(cells).into_iter();
        let mut state = |state: &MixedState| StateKernels {
            separable: [0, 1].map(|_| {
                let (depthwise, pointwise) = kernels.next().expect("two rounds of each state");
                RoundKernels { depthwise, pointwise: pointwise.view([-1, state.channels, 1, 1]) }
            }),
            atrous: atrous.next().expect("of each state"),
        };
        let mut cell = |cell: &&Self| JointKernels(cell.states.iter().map(&mut state).collect());
        cells.iter().map(&mut cell).collect()
    }

    /// Kernels of the atrous convolutions of both sizes as one, for each state of `cells`. Among many channels the zeros take memory
    /// that the launches are not worth: there is none.
    fn joint_atrous(cells: &[&Self]) -> Vec<Option<Tensor>> {
        let states: Vec<&MixedState> = cells.iter().flat_map(|cell| &cell.states).collect();
        let widths: BTreeSet<i64> = states.iter().map(|state| state.channels).filter(|width| *width <= 32).collect();
        let mut joint: Vec<Option<Tensor>> = states.iter().map(|_| None).collect();
        for width in widths {
            let of: Vec<usize> = (0..states.len()).filter(|i| states[*i].channels == width).collect();
            let kernels =
                |size: usize| of.iter().map(|i| rows(states[*i].atrous[size].conv.weight())).collect::<Vec<_>>();
            let lens: Vec<i64> = of.iter().map(|i| states[*i].edges * width).collect();
            let bordered = Tensor::cat(&kernels(0), 0).constant_pad_nd([0, 0, 1, 1, 1, 1]).split_with_sizes(&lens, 0);
            let both = bordered.into_iter().zip(kernels(1)).flat_map(|(three, five)| [three, five]);
            let both = Tensor::cat(&both.collect::<Vec<_>>(), 0);
            let both = both.split_with_sizes(lens.iter().map(|len| 2 * len).collect::<Vec<_>>(), 0);
            of.iter().zip(both).for_each(|(i, kernels)| joint[*i] = Some(map(&kernels)));
        }
        joint
    }

    /// Of which row of all depthwise kernels, first those of 3x3, each of [`MixedCell::joint_kernels`] is a copy. The first
    /// round's are in the order of what they read, `[channels, size, edges]`, the second's `[size, edges, channels]`.
    pub fn joint_order(cells: &[&Self]) -> Vec<i64> {
        let states = || cells.iter().flat_map(|cell| &cell.states);
        let of_size: i64 = states().map(MixedState::inner_channels).sum();
        let (mut order, mut start) = (Vec::new(), 0);
        for state in states() {
            let (edges, channels) = (state.edges, state.channels);
            let row = |start, at, channel| start + at / edges * of_size + at % edges * channels + channel;
            order.extend((0..channels).flat_map(|channel| (0..2 * edges).map(move |at| row(start, at, channel))));
            start += edges * channels;
            order.extend((0..2 * edges).flat_map(|at| (0..channels).map(move |channel| row(start, at, channel))));
            start += edges * channels;
        }
        order
    }

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
    channels: i64,
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
            channels,
            max_bn: BatchNorm::new(&vb.sub("max_pool"), channels, SEARCH_BN),
            average_bn: BatchNorm::new(&vb.sub("avg_pool"), channels, SEARCH_BN),
            separable: [3, 5].map(separable),
            atrous: [3, 5].map(atrous),
        }
    }

    /// Channels of one source in the norms between convolutions.
    fn inner_channels(&self) -> i64 {
        self.separable.len() as i64 * self.edges * self.channels
    }

    /// One term `[edges, B, H, W * sources, channels]` for each edge, in the order of the blocks they end in, plus `sum`.
    /// `xs` is `[B, channels, H, W * sources]`.
    fn forward(
        &self,
        xs: &Tensor,
        sources: i64,
        weights: &StateWeights,
        sum: Option<&Tensor>,
        joint: Option<&StateKernels>,
        (mode, moves): (Mode, &mut Moves),
    ) -> Tensor {
        let (b, c, h, w) = xs.size4().expect("a feature map has four dimensions");
        let all = self.edges * c;
        let beside = side_by_side(xs, sources);
        let pooled = [max_pool(&beside), average_pool(&beside)].map(|pooled| in_turns(&pooled, sources));
        let relu = xs.relu();
        let separable = match joint {
            Some(joint) => vec![self.separable_jointly(&relu, sources, &joint.separable, mode, moves)],
            None => {
                let repeated = rows(&relu).unsqueeze(3).expand([b, h, w, self.edges, c], false);
                let repeated = map(&repeated.reshape([b, h, w, all]));
                self.separable.iter().map(|op| op.forward(&repeated, sources, mode, moves)).collect()
            }
        };
        let atrous = match joint.and_then(|joint| joint.atrous.as_ref()) {
            Some(kernels) => {
                vec![relu.conv2d(kernels, None::<&Tensor>, [1, 1], [4, 4 * sources], [2, 2 * sources], 1)]
            }
            None => self.atrous.iter().map(|op| op.conv.forward_in_turns(&relu, sources)).collect(),
        };
        let last = self.separable.iter().map(|op| &op.norm).chain(self.atrous.iter().map(|op| &op.norm));
        let norms: Vec<&BatchNorm> = [&self.max_bn, &self.average_bn].into_iter().chain(last).collect();
        let maps: Vec<&Tensor> = pooled.iter().chain(&separable).chain(&atrous).collect();
        if joint.is_none() {
            let (weights, scale) = (&weights.weightless, &weights.scale);
            let of = MixedNorms { shared: pooled.len(), identity: Some(xs), weights, scale, before: sum, sources };
            if let Some(ys) = BatchNorm::mixed(&norms, &maps, &of, mode, moves) {
                return ys;
            }
        }
        let maps: Vec<Tensor> = maps.into_iter().map(rows).collect();
        let maps = side_by_side(&map(&Tensor::cat(&maps, 3)), sources);
        let normed = BatchNorm::joint(&norms, &maps, Some(&weights.scale), Activation::Identity, mode, moves);
        // One split, not two slices: its gradient is one concatenation. In five dimensions, where it takes gradients as they lie.
        let normed = rows(&in_turns(&normed, sources)).view([b, h, w, -1, c]);
        let parts = normed.split_with_sizes([POOLINGS, normed.size()[3] - POOLINGS], 3);
        let convolved = parts[1].view([b, h, w, -1, self.edges, c]);
        // The CPU is faster at sums of long rows; a card saves the launch that turns them.
        let convolved = match xs.device().is_cuda() {
            true => convolved.permute([4, 3, 0, 1, 2, 5]).sum_dim_intlist(1, false, None::<Kind>),
            false => convolved.sum_dim_intlist(3, false, None::<Kind>).permute([3, 0, 1, 2, 4]),
        };
        let sum = sum.map_or_else(|| convolved.shallow_clone(), |sum| sum + &convolved);
        // Weighted sums of poolings and identity: a product of matrices `[edges, 3]` and `[3, values of a map]`.
        let pooled = parts[0].permute([3, 0, 1, 2, 4]);
        let maps = Tensor::cat(&[pooled, rows(xs).unsqueeze(0)], 0).reshape([WEIGHTLESS.count() as i64, -1]);
        sum.reshape([self.edges, -1]).addmm(&weights.weightless, &maps).view([self.edges, b, h, w, c])
    }

    /// The separable convolutions of both sizes before their last norms, side by side in the channels.
    fn separable_jointly(
        &self,
        relu: &Tensor,
        sources: i64,
        [first, second]: &[RoundKernels; 2],
        mode: Mode,
        moves: &mut Moves,
    ) -> Tensor {
        let (b, c, h, w) = relu.size4().expect("a feature map has four dimensions");
        let many = 2 * self.edges;
        // Taps that lie `sources` times as far apart meet one source only.
        let depthwise = |xs: &Tensor, kernels: &Tensor| {
            xs.conv2d(kernels, None::<&Tensor>, [1, 1], [2, 2 * sources], [1, sources], xs.size()[1])
        };
        let pointwise =
            |xs: &Tensor, kernels: &Tensor| xs.conv2d(kernels, None::<&Tensor>, [1, 1], [0, 0], [1, 1], many);
        // Several kernels for each channel that there is, in place of as many copies of the map.
        let by_channel = rows(&depthwise(relu, &first.depthwise));
        let by_edge = by_channel.reshape([b, h, w, c, many]).transpose(3, 4).reshape([b, h, w, many * c]);
        let middle = side_by_side(&pointwise(&map(&by_edge), &first.pointwise), sources);
        let norms = self.separable.each_ref().map(|op| &op.bn);
        let middle = in_turns(&BatchNorm::joint(&norms, &middle, None, Activation::Relu, mode, moves), sources);
        pointwise(&depthwise(&middle, &second.depthwise), &second.pointwise)
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
}

fn max_pool(xs: &Tensor) -> Tensor {
    xs.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false)
}

fn average_pool(xs: &Tensor) -> Tensor {
    xs.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None)
}

/// Kernels of the convolutions of both sizes as one, by state.
#[derive(Debug)]
pub struct JointKernels(Vec<StateKernels>);

#[derive(Debug)]
struct StateKernels {
    separable: [RoundKernels; 2],
    /// `[2 * edges * channels, channels, 5, 5]`, of few channels.
    atrous: Option<Tensor>,
}

#[derive(Debug)]
struct RoundKernels {
    /// `[2 * edges * channels, 1, 5, 5]`.
    depthwise: Tensor,
    /// `[2 * edges * channels, channels, 1, 1]`.
    pointwise: Tensor,
}

/// The separable convolutions of one kernel size on all edges. Inputs are past their first ReLU and repeated per edge.
#[derive(Debug)]
struct MixedSeparable {
    depthwise: [Conv2d; 2],
    pointwise: [MixedPointwise; 2],
    bn: BatchNorm,
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

    /// The convolutions before the last norm, of maps `[B, edges * channels, H, W * sources]`.
    fn forward(&self, repeated: &Tensor, sources: i64, mode: Mode, moves: &mut Moves) -> Tensor {
        let conv = |round: usize, beside: &Tensor| {
            let depthwise = self.depthwise[round].side_by_side(sources).forward(beside, mode);
            self.pointwise[round].forward(&in_turns(&depthwise, sources))
        };
        let middle = side_by_side(&conv(0, &side_by_side(repeated, sources)), sources);
        let middle = BatchNorm::joint(&[&self.bn], &middle, None, Activation::Relu, mode, moves);
        conv(1, &middle)
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
const GROUPED_FROM: i64 = 8;

impl MixedPointwise {
    fn new(vb: &VarBuilder, edges: i64, channels: i64) -> Self {
        let weight = vb.weight("weight", &[edges * channels, channels, 1, 1], Init::FanIn);
        Self { edges, channels, weight }
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        if self.channels >= GROUPED_FROM {
            return pointwise(xs, &self.weight, self.edges);
        }
        let per_edge = self.weight.flatten(1, 3).chunk(self.edges, 0);
        pointwise(xs, &Tensor::block_diag(&per_edge).unsqueeze(-1).unsqueeze(-1), 1)
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

    fn forward(
        cell: &MixedCell,
        last: &[Tensor],
        before: &Tensor,
        (shares, joint): (Option<&Tensor>, Option<&JointKernels>),
        weights: &CellWeights,
        mode: Mode,
    ) -> Tensor {
        let mut moves = Moves::default();
        let ys = cell.forward(last, before, shares, weights, joint, (mode, &mut moves));
        moves.apply();
        ys
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
                forward(&cell, &last, &before, (None, None), &weights, Mode::train(0.0))
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
                let forward = |weights: &CellWeights, mode| forward(&cell, last, &before, (None, None), weights, mode);
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
            let _ = forward(&cell, maps, &maps[0], (None, None), &weights, Mode::train(0.0));
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

    /// Value, gradients and running statistics, in training and in evaluation, of three sources together and one after the other.
    #[test]
    fn sources_that_share_a_cell_do_not_see_each_other() {
        for (channels, train, jointly) in [4, 40].into_iter().flat_map(|channels| {
            [(true, false), (true, true), (false, false), (false, true)]
                .map(|(train, jointly)| (channels, train, jointly))
        }) {
            let mode = if train { Mode::train(0.0) } else { Mode::EVAL };
            let run = |together: bool| {
                tch::manual_seed(1);
                let mut vs = VarStore::new(Device::Cpu);
                let cell = MixedCell::new(&VarBuilder::new(&vs), 3, channels);
                vs.double();
                let leaf = |xs: Tensor| xs.to_kind(Kind::Double).set_requires_grad(true);
                let maps = [1.0, 5.0, 2.0, 1.0].map(|scale| leaf(Tensor::randn([2, channels, 9, 7], CPU) * scale));
                let [alpha, shares] = [vec![9, 8], vec![3]].map(|dims| leaf(Tensor::rand(dims, CPU)));
                let weights = CellWeights::new(&alpha, 3, channels);
                let [last @ .., before] = &maps;
                let out = match together {
                    true => {
                        let cells = [&cell];
                        let order = Tensor::from_slice(&MixedCell::joint_order(&cells));
                        let joint = jointly.then(|| MixedCell::joint_kernels(&cells, &order).remove(0));
                        forward(&cell, last, before, (Some(&shares), joint.as_ref()), &weights, mode)
                    }
                    false => {
                        let alone = |(xs, share)| {
                            forward(&cell, slice::from_ref(xs), before, (None, None), &weights, mode) * share
                        };
                        last.iter().zip(shares.unbind(0)).map(alone).sum()
                    }
                };
                let up = Tensor::randn(out.size(), CPU).to_kind(Kind::Double);
                let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
                variables.sort_by(|a, b| a.0.cmp(&b.0));
                let trained = variables.iter().map(|(_, tensor)| tensor).filter(|tensor| tensor.requires_grad());
                let inputs: Vec<&Tensor> = maps.iter().chain([&alpha, &shares]).chain(trained).collect();
                let mut found = Tensor::run_backward(&[(&out * up).sum(Kind::Double)], &inputs, false, false);
                found.push(out.detach());
                // One source after the other, H[l-2] moves its norms three times: once more or less is no matter of sources.
                let of_before = |name: &str| name.starts_with("1.");
                let running = variables.into_iter().filter(|(name, xs)| !xs.requires_grad() && !of_before(name));
                found.extend(running.map(|(_, tensor)| tensor));
                found
            };
            let [found, expected] = [true, false].map(run);
            assert_eq!(found.len(), expected.len());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let scale = expected.abs().max().double_value(&[]).max(1.0);
                let error = difference(found, expected) / scale;
                assert!(error < 1e-9, "{channels} channels, train {train}, jointly {jointly}, {i}: off by {error:.1e}");
            }
        }
    }
}
