//! DARTS' relaxed cells in few operators, for a card: what it waits for is launches. The edges that leave one state run as one, the
//! kernels of each kind of convolution side by side. The last norms of all operators are one, whose scales are the architecture
//! weights; poolings, whose norms see the same map on every edge, and the identity are a product of matrices.
//!
//! The CPU, which these would cost more copies than calls, takes each operator of each edge by itself (`supernet.rs`).

use std::cell::OnceCell;

use nas_core::nn::{Activation, BatchNorm, Conv2d, Mode, Module, Moves, map, rows};
use tch::{Kind, Tensor};

use super::supernet::MixedCell;

/// Numbers of the operators in DARTS' order, behind `none`.
const MAX_POOL: usize = 0;
const AVERAGE_POOL: usize = 1;
const SKIP: usize = 2;
/// Sizes, rates and rounds of depthwise and pointwise convolutions.
const CONVOLUTIONS: [Convolution; 4] = [
    Convolution { op: 3, ksize: 3, rate: 1, rounds: 2 },
    Convolution { op: 4, ksize: 5, rate: 1, rounds: 2 },
    Convolution { op: 5, ksize: 3, rate: 2, rounds: 1 },
    Convolution { op: 6, ksize: 5, rate: 2, rounds: 1 },
];
const KSIZES: [i64; 2] = [3, 5];
/// Operators and `none`.
const COLUMNS: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Convolution {
    op: usize,
    ksize: i64,
    rate: i64,
    rounds: usize,
}

/// The edges that leave one state of a cell.
#[derive(Debug)]
struct State<'a> {
    /// Operators of each edge, and its row in the architecture parameters.
    edges: Vec<(&'a [Box<dyn Module>], usize)>,
    channels: i64,
    stride: i64,
}

impl<'a> State<'a> {
    fn all(cell: &'a MixedCell) -> Vec<Self> {
        let state = |state: usize| {
            let consumers = cell.banks.iter().filter(|bank| state < bank.states());
            let rows = consumers.map(|bank| bank.first_edge + state);
            let edges = rows.map(|row| (&cell.edges[row][..], row)).collect();
            State { edges, channels: cell.place.channels, stride: cell.place.stride(state) }
        };
        (0..1 + cell.nodes).map(state).collect()
    }

    /// The operators whose maps all edges share. One edge shares with none.
    fn poolings(&self) -> &'static [usize] {
        if self.edges.len() == 1 { &[] } else { &[MAX_POOL, AVERAGE_POOL] }
    }

    /// The operator without a norm.
    fn identity(&self) -> &'static [usize] {
        if self.stride == 1 { &[SKIP] } else { &[] }
    }

    /// The operators whose maps differ from edge to edge.
    fn convolutions(&self) -> Vec<usize> {
        let reduces = (self.stride != 1).then_some(SKIP);
        CONVOLUTIONS.iter().map(|of| of.op).chain(reduces).collect()
    }

    fn norm(&self, op: usize, edge: usize, i: usize) -> &'a BatchNorm {
        self.edges[edge].0[op].parts().1[i]
    }

    fn conv(&self, op: usize, edge: usize, i: usize) -> &'a Conv2d {
        self.edges[edge].0[op].parts().0[i]
    }

    fn width(&self) -> i64 {
        self.edges.len() as i64 * self.channels
    }
}

/// Where things are in tensors of all cells; the same in every pass.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Of depthwise kernels, by [`KSIZES`].
    kernels: OnceCell<[Tensor; 2]>,
    /// Of architecture weights, in normal cells and reductions.
    weights: [OnceCell<Tensor>; 2],
}

/// Kernels of one round of one kind of convolution on all edges of a state.
#[derive(Debug)]
struct Round {
    /// `[edges * channels, 1, ksize, ksize]`: those of a first round, which read one map, by channel and then by edge.
    depthwise: Tensor,
    /// `[edges * channels, channels, 1, 1]`.
    pointwise: Tensor,
}

/// Kernels of all cells, by cell, state, convolution and round.
pub(super) fn kernels(cells: &[&MixedCell], places: &Places) -> Vec<Kernels> {
    let states: Vec<Vec<State>> = cells.iter().map(|cell| State::all(cell)).collect();
    let rounds = || {
        let of_state = |state| CONVOLUTIONS.into_iter().map(move |of| (state, of));
        let each = states.iter().flatten().flat_map(of_state);
        each.flat_map(|(state, of)| (0..of.rounds).map(move |round| (state, of, round)))
    };
    let depthwise = |ksize: i64| {
        rounds().filter(move |(_, of, _)| of.ksize == ksize).flat_map(|(state, of, round)| {
            (0..state.edges.len()).map(move |edge| state.conv(of.op, edge, 2 * round).weight())
        })
    };
    let joined = KSIZES.map(|ksize| Tensor::cat(&depthwise(ksize).collect::<Vec<_>>(), 0));
    let order = |ksize: i64| {
        let (mut order, mut start) = (Vec::new(), 0);
        for (state, _, round) in rounds().filter(|(_, of, _)| of.ksize == ksize) {
            let (edges, channels) = (state.edges.len() as i64, state.channels);
            match round {
                0 => order.extend((0..channels).flat_map(|c| (0..edges).map(move |edge| start + edge * channels + c))),
                _ => order.extend(start..start + edges * channels),
            }
            start += edges * channels;
        }
        Tensor::from_slice(&order).to_device(joined[0].device())
    };
    let order = places.kernels.get_or_init(|| KSIZES.map(order));
    let each = [0, 1].map(|size| {
        let sizes = rounds().filter(|(_, of, _)| of.ksize == KSIZES[size]).map(|(state, ..)| state.width());
        joined[size].index_select(0, &order[size]).split_with_sizes(sizes.collect::<Vec<_>>(), 0)
    });
    let pointwise = rounds().flat_map(|(state, of, round)| {
        (0..state.edges.len()).map(move |edge| state.conv(of.op, edge, 2 * round + 1).weight().reshape([-1]))
    });
    let sizes: Vec<i64> = rounds().map(|(state, ..)| state.width() * state.channels).collect();
    let pointwise = Tensor::cat(&pointwise.collect::<Vec<_>>(), 0).split_with_sizes(&sizes, 0);
    let mut depthwise = each.map(Vec::into_iter);
    let mut pointwise = pointwise.into_iter();
    let mut round = |channels: i64, of: Convolution| Round {
        depthwise: depthwise[usize::from(of.ksize == KSIZES[1])].next().expect("a kernel of each round"),
        pointwise: pointwise.next().expect("a kernel of each round").view([-1, channels, 1, 1]),
    };
    let mut state = |of: &State| CONVOLUTIONS.map(|kind| (0..kind.rounds).map(|_| round(of.channels, kind)).collect());
    states.iter().map(|states| Kernels(states.iter().map(&mut state).collect())).collect()
}

/// Kernels of one cell, by state, convolution and round.
#[derive(Debug)]
pub(super) struct Kernels(Vec<[Vec<Round>; 4]>);

/// Architecture weights of the edges that leave one state.
#[derive(Debug)]
struct Weights {
    /// `[edges, operators]` of [`State::poolings`].
    poolings: Tensor,
    /// `[edges, operators]` of [`State::identity`].
    identity: Tensor,
    /// Of the last norms, per channel: those of shared poolings are 1.
    scale: Tensor,
}

/// From the weights `alpha [edges, 8]` of a structure.
fn weights(states: &[State], alpha: &Tensor, place: &OnceCell<Tensor>) -> Vec<Weights> {
    let one = alpha.numel() as i64;
    let entry = |row: usize, op: usize| (row * COLUMNS + 1 + op) as i64;
    let of = |state: &State, ops: &[usize]| -> Vec<i64> {
        state.edges.iter().flat_map(|(_, row)| ops.iter().map(|op| entry(*row, *op))).collect()
    };
    let scales = |state: &State| -> Vec<i64> {
        let poolings = [MAX_POOL, AVERAGE_POOL].map(|op| match state.poolings() {
            [] => entry(state.edges[0].1, op),
            _ => one,
        });
        let convolutions = state.convolutions().into_iter();
        let entries = convolutions.flat_map(|op| state.edges.iter().map(move |(_, row)| entry(*row, op)));
        poolings.into_iter().chain(entries).collect()
    };
    let lists = [
        states.iter().map(|state| of(state, state.poolings())).collect::<Vec<_>>(),
        states.iter().map(|state| of(state, state.identity())).collect(),
        states.iter().map(scales).collect(),
    ];
    let index = || Tensor::from_slice(&lists.concat().concat()).to_device(alpha.device());
    let with_one = Tensor::cat(&[alpha.reshape([-1]), Tensor::ones([1], (alpha.kind(), alpha.device()))], 0);
    let all = with_one.index_select(0, place.get_or_init(index));
    let sizes = lists.each_ref().map(|lists| lists.iter().map(|list| list.len() as i64).collect::<Vec<_>>());
    let parts = all.split_with_sizes(sizes.each_ref().map(|sizes| sizes.iter().sum::<i64>()), 0);
    let channels = states[0].channels;
    let scales = parts[2].unsqueeze(1).expand([-1, channels], false).reshape([-1]);
    let scales = scales.split_with_sizes(sizes[2].iter().map(|len| len * channels).collect::<Vec<_>>(), 0);
    let [poolings, identities] = [0, 1].map(|i| parts[i].split_with_sizes(&sizes[i], 0));
    let state = |(i, scale): (usize, Tensor)| {
        let matrix = |part: &Tensor, ops: &[usize]| part.view([states[i].edges.len() as i64, ops.len() as i64]);
        Weights {
            poolings: matrix(&poolings[i], states[i].poolings()),
            identity: matrix(&identities[i], states[i].identity()),
            scale,
        }
    };
    scales.into_iter().enumerate().map(state).collect()
}

/// The output of `cell` for its preprocessed `inputs` under the weights `alpha` of its structure, in training.
pub(super) fn forward(
    cell: &MixedCell,
    [first, second]: [Tensor; 2],
    alpha: &Tensor,
    (kernels, places): (&Kernels, &Places),
    mode: Mode,
) -> Tensor {
    let states = State::all(cell);
    let weights = weights(&states, alpha, &places.weights[usize::from(cell.place.reduction)]);
    let mut moves = Moves::default();
    let mut mixed = |i: usize, xs: &Tensor, sum: Option<&Tensor>| {
        states[i].forward(xs, &weights[i], &kernels.0[i], sum, mode, &mut moves)
    };
    let terms = mixed(1, &second, None);
    let mut sums = mixed(0, &first, Some(&terms));
    let mut done = Vec::new();
    for node in 0..cell.nodes - 1 {
        let parts = sums.split_with_sizes([1, (cell.nodes - node) as i64 - 1], 0);
        // A sum with zero is a copy: kept for the gradient, a part would be the whole.
        let xs = parts[0].squeeze_dim(0) + 0.0;
        sums = mixed(2 + node, &map(&xs), Some(&parts[1]));
        done.push(xs);
    }
    done.push(sums.squeeze_dim(0));
    moves.apply();
    map(&Tensor::cat(&done, 3))
}

impl State<'_> {
    /// One term `[edges, B, H, W, channels]` for each edge, in the order of the nodes they end in, plus `sum`.
    fn forward(
        &self,
        xs: &Tensor,
        weights: &Weights,
        kernels: &[Vec<Round>; 4],
        sum: Option<&Tensor>,
        mode: Mode,
        moves: &mut Moves,
    ) -> Tensor {
        let (edges, c, width) = (self.edges.len() as i64, self.channels, self.width());
        let stride = [self.stride; 2];
        let relu = xs.relu();
        let mut maps = vec![
            xs.max_pool2d([3, 3], stride, [1, 1], [1, 1], false),
            xs.avg_pool2d([3, 3], stride, [1, 1], false, false, None),
        ];
        for (of, rounds) in CONVOLUTIONS.iter().zip(kernels) {
            maps.push(self.convolve(&relu, *of, rounds, mode, moves));
        }
        if self.stride != 1 {
            maps.push(self.reduce(&relu));
        }
        let maps = map(&Tensor::cat(&maps.iter().map(rows).collect::<Vec<_>>(), 3));
        let last = |op: usize| (0..self.edges.len()).map(move |edge| self.edges[edge].0[op].parts().1);
        let of_edges = self.convolutions().into_iter().flat_map(last);
        let of_edges = of_edges.map(|norms| *norms.last().expect("a convolution ends in a norm"));
        let poolings = [MAX_POOL, AVERAGE_POOL].map(|op| self.norm(op, 0, 0));
        let norms: Vec<&BatchNorm> = poolings.into_iter().chain(of_edges).collect();
        let normed = BatchNorm::joint(&norms, &maps, Some(&weights.scale), Activation::Identity, mode, moves);
        for (op, edge) in
            [MAX_POOL, AVERAGE_POOL].into_iter().flat_map(|op| (1..self.edges.len()).map(move |e| (op, e)))
        {
            moves.alike(self.norm(op, edge, 0), self.norm(op, 0, 0));
        }
        let normed = rows(&normed);
        let (b, h, w, all) = normed.size4().expect("a feature map has four dimensions");
        let by_edge = |xs: &Tensor| {
            let sums = xs.reshape([b, h, w, -1, width]).sum_dim_intlist(3, false, None::<Kind>);
            sums.view([b, h, w, edges, c]).permute([3, 0, 1, 2, 4])
        };
        let (shared, own) = match self.poolings() {
            [] => (sum.map(Tensor::shallow_clone), by_edge(&normed)),
            _ => {
                // One split, not two slices: its gradient is one concatenation.
                let parts = normed.split_with_sizes([2 * c, all - 2 * c], 3);
                let pooled = parts[0].reshape([b, h, w, 2, c]).permute([3, 0, 1, 2, 4]).reshape([2, -1]);
                let sums = match sum {
                    Some(sum) => sum.reshape([edges, -1]).addmm(&weights.poolings, &pooled),
                    None => weights.poolings.matmul(&pooled),
                };
                (Some(sums.view([edges, b, h, w, c])), by_edge(&parts[1]))
            }
        };
        let shared = match (shared, self.identity()) {
            (shared, []) => shared,
            (shared, _) => {
                // Of all copies of the map, the gradient keeps none.
                let (xs, weight) =
                    (rows(xs).unsqueeze(0), weights.identity.to_kind(xs.kind()).view([edges, 1, 1, 1, 1]));
                Some(shared.map_or_else(|| &xs * &weight, |shared| shared.addcmul(&xs, &weight)))
            }
        };
        shared.map_or_else(|| own.shallow_clone(), |shared| shared + &own)
    }

    /// One kind of convolution on all edges `[B, edges * channels, H, W]`, before its last norm.
    fn convolve(&self, relu: &Tensor, of: Convolution, rounds: &[Round], mode: Mode, moves: &mut Moves) -> Tensor {
        let (edges, c) = (self.edges.len() as i64, self.channels);
        let depthwise = |xs: &Tensor, round: &Round, stride| {
            let padding = of.rate * (of.ksize - 1) / 2;
            xs.conv2d(&round.depthwise, None::<&Tensor>, [stride; 2], [padding; 2], [of.rate; 2], xs.size()[1])
        };
        let pointwise =
            |xs: &Tensor, round: &Round| xs.conv2d(&round.pointwise, None::<&Tensor>, [1, 1], [0, 0], [1, 1], edges);
        // Several kernels for each channel that there is, in place of as many copies of the map.
        let by_channel = rows(&depthwise(relu, &rounds[0], self.stride));
        let (b, h, w, _) = by_channel.size4().expect("a feature map has four dimensions");
        let by_edge = by_channel.reshape([b, h, w, c, edges]).transpose(3, 4).reshape([b, h, w, edges * c]);
        let ys = pointwise(&map(&by_edge), &rounds[0]);
        rounds[1..].iter().enumerate().fold(ys, |ys, (i, round)| {
            let norms: Vec<&BatchNorm> = (0..self.edges.len()).map(|edge| self.norm(of.op, edge, i)).collect();
            let middle = BatchNorm::joint(&norms, &ys, None, Activation::Relu, mode, moves);
            pointwise(&depthwise(&middle, round, 1), round)
        })
    }

    /// As [`nas_core::nn::FactorizedReduce`], on all edges, before the norm.
    fn reduce(&self, relu: &Tensor) -> Tensor {
        let (_, _, h, w) = relu.size4().expect("a feature map has four dimensions");
        let even = if h % 2 + w % 2 == 0 { relu.shallow_clone() } else { relu.constant_pad_nd([0, w % 2, 0, h % 2]) };
        let shifted = even.slice(2, 1, None, 1).slice(3, 1, None, 1);
        let halves = [relu, &shifted].into_iter().enumerate().map(|(i, xs)| {
            let kernels: Vec<&Tensor> = (0..self.edges.len()).map(|edge| self.conv(SKIP, edge, i).weight()).collect();
            let ys = rows(&xs.conv2d(&Tensor::cat(&kernels, 0), None::<&Tensor>, [2, 2], [0, 0], [1, 1], 1));
            let (b, h, w, all) = ys.size4().expect("a feature map has four dimensions");
            let edges = self.edges.len() as i64;
            ys.reshape([b, h, w, edges, all / edges])
        });
        map(&Tensor::cat(&halves.collect::<Vec<_>>(), 4).flatten(3, 4))
    }
}
