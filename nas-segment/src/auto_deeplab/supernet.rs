//! The trellis of relaxed cells (arXiv 1901.02985, equations 1 to 8) and its search head.
//!
//! Mistakes of public implementations that the form of this code rules out: raw betas in place of probabilities, or two
//! softmaxes (there is one place that makes probabilities, `ArchParameter::softmax`); wrong indices or slices of beta at the borders
//! (an edge is found by its target level); state left from the forward pass before (nothing is kept between passes);
//! `None` in place of a missing H[l-2] (every node has one, see [`Node`]); interpolation in place of the strided
//! convolution ([`Preprocess`]).

use std::cell::OnceCell;
use std::slice;

use nas_core::nn::{
    Activation, BnConfig, Conv2d, ConvConfig, ConvNorm, Mode, Module, Moves, Shared, VarBuilder, conv_bn,
    resize_bilinear,
};
use nas_core::space::{FeatureInfo, Mixture, Supernet};
use tch::{Device, Kind, Tensor};

use super::decode::LEVELS;
use super::genotype::Genotype;
use super::mixed_cell::{CellWeights, JointKernels, MixedCell, SEARCH_BN};
use super::space::AutoDeepLabSpace;
use super::stem::{Preprocess, Stem};

/// Norms of stem and search head.
const OUTER_BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: true };

/// Maps of one layer by level; `None` where the trellis or the path has none.
type Layer = [Option<Shared>; LEVELS];

/// All paths and cells at once.
#[derive(Debug)]
pub struct Trellis {
    space: AutoDeepLabSpace,
    stem: Stem,
    /// `[layer][level]`.
    nodes: Vec<Vec<Node>>,
    /// Of the kernels of all cells, on a card.
    joint_order: OnceCell<Tensor>,
}

impl Trellis {
    /// The supernet of `space`.
    pub fn new(vb: &VarBuilder, space: &AutoDeepLabSpace) -> Self {
        let layer = |layer: usize| {
            let levels = 0..LEVELS.min(layer + 2);
            levels.map(|level| Node::new(&vb.sub("layers").sub(layer).sub(level), space, layer, level)).collect()
        };
        Self {
            space: space.clone(),
            stem: Stem::new(&vb.sub("stem"), space.stem, OUTER_BN),
            nodes: (0..space.layers).map(layer).collect(),
            joint_order: OnceCell::new(),
        }
    }

    /// Maps of the last layer.
    fn last_layer(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Layer {
        let relaxed = |alpha: &Tensor| {
            let level = |level| CellWeights::new(alpha, self.space.blocks, self.space.filters << level);
            (0..LEVELS).map(level).collect::<Vec<_>>()
        };
        let (weights, transitions) = match mixture {
            Mixture::Weights([alpha, beta]) | Mixture::Sampled { weights: [alpha, beta], .. } => {
                (relaxed(alpha), Transitions::soft(beta))
            }
            Mixture::Weights(_) | Mixture::Sampled { .. } => panic!("weights of alpha and beta"),
            Mixture::Path(arch) => {
                let Genotype { path, cell } =
                    self.space.genotype(arch).expect("the architecture is of the supernet's space");
                ((0..LEVELS).map(|_| CellWeights::Path(cell.clone())).collect(), Transitions::Path(path))
            }
        };
        let relaxed = matches!(weights[0], CellWeights::Relaxed(_));
        let joint = (relaxed && xs.device().is_cuda()).then(|| self.joint_kernels(xs.device()));
        let mut joint = joint.into_iter().flatten();
        let [half, quarter] = self.stem.forward(xs, mode);
        let (_, _, h, w) = quarter.size4().expect("a feature map has four dimensions");
        let sizes = level_sizes((h, w));
        let mut before = Before::Half(Shared::new(&half));
        let mut last: Layer = [Some(Shared::new(&quarter)), None, None, None];
        let mut moves = Moves::default();
        for (layer, nodes) in self.nodes.iter().enumerate() {
            let mut next: Layer = Default::default();
            for (level, node) in nodes.iter().enumerate() {
                let edges = transitions.edges_into(layer, level, &last);
                let joint: Vec<JointKernels> = joint.by_ref().take(node.cells.each().len()).collect();
                let ys =
                    node.forward(&before, &last, edges, (&weights[level], &joint), sizes[level], (mode, &mut moves));
                next[level] = ys.map(|ys| Shared::new(&ys));
            }
            before = Before::Layer(last);
            last = next;
        }
        moves.apply();
        last
    }
}

impl Trellis {
    /// For the cells of all nodes.
    fn joint_kernels(&self, device: Device) -> Vec<JointKernels> {
        let cells: Vec<&MixedCell> = self.nodes.iter().flatten().flat_map(|node| node.cells.each()).collect();
        let order = || Tensor::from_slice(&MixedCell::joint_order(&cells)).to_device(device);
        MixedCell::joint_kernels(&cells, self.joint_order.get_or_init(order))
    }
}

impl Supernet for Trellis {
    /// The maps of the last layer, finest first; under [`Mixture::Path`] the one where the path ends.
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        self.last_layer(xs, mixture, mode).into_iter().flatten().map(|map| map.map().shallow_clone()).collect()
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        let levels = 0..LEVELS.min(self.space.layers + 1);
        let channels = self.space.blocks as i64 * self.space.filters;
        levels.map(|level| FeatureInfo { channels: channels << level, stride: 4 << level }).collect()
    }
}

/// Height and width of the four levels.
fn level_sizes(quarter: (i64, i64)) -> [(i64, i64); LEVELS] {
    let halve = |n: i64| (n + 1) / 2;
    let mut sizes = [quarter; LEVELS];
    for level in 1..LEVELS {
        sizes[level] = (halve(sizes[level - 1].0), halve(sizes[level - 1].1));
    }
    sizes
}

/// Weights of the trellis' edges.
enum Transitions {
    /// Probabilities of the edges that end in each node, `[layer][level]`, in the order of the levels where they start.
    Soft(Vec<Vec<Tensor>>),
    /// The levels of one path.
    Path(Vec<usize>),
}

/// Levels of the nodes before `layer` whose edges can end in `level`.
fn sources(layer: usize, level: usize) -> impl Iterator<Item = usize> {
    (0..LEVELS.min(layer + 1)).filter(move |source| source.abs_diff(level) <= 1)
}

impl Transitions {
    /// From weights `[layers, levels, 3]` of the edges that leave each node.
    fn soft(beta: &Tensor) -> Self {
        let layers = beta.size()[0] as usize;
        let nodes = || (0..layers).flat_map(|layer| (0..LEVELS.min(layer + 2)).map(move |level| (layer, level)));
        let edge = |layer, level, source| ((layer * LEVELS + source) * 3 + level + 1 - source) as i64;
        let into = |(layer, level)| sources(layer, level).map(move |source| edge(layer, level, source));
        let index: Vec<i64> = nodes().flat_map(into).collect();
        let each: Vec<i64> = nodes().map(|node| into(node).count() as i64).collect();
        let index = Tensor::from_slice(&index).to_device(beta.device());
        let mut shares = beta.reshape([-1]).index_select(0, &index).split_with_sizes(each, 0).into_iter();
        Self::Soft((0..layers).map(|layer| shares.by_ref().take(LEVELS.min(layer + 2)).collect()).collect())
    }

    /// Levels where the edges start that end in `level` of `layer`, of those that have a map, and their weights; without those, 1.
    fn edges_into(&self, layer: usize, level: usize, last: &Layer) -> (Vec<usize>, Option<Tensor>) {
        let sources = sources(layer, level);
        match self {
            Self::Soft(shares) => (sources.collect(), Some(shares[layer][level].shallow_clone())),
            Self::Path(path) => {
                (sources.filter(|source| path[layer] == level && last[*source].is_some()).collect(), None)
            }
        }
    }
}

/// The maps two layers before a node.
enum Before {
    /// Before the first layer: the stem's map of stride 2.
    Half(Shared),
    Layer(Layer),
}

/// One stride of one layer.
///
/// H[l-2] at a node's own stride is missing where the trellis widens; there the node takes "the tensor with the most
/// similar spatial size" (the authors, NoamRosenberg/autodeeplab#77): the coarsest one there is, through a strided
/// convolution.
#[derive(Debug)]
struct Node {
    level: usize,
    /// From the next finer, the same and the next coarser level.
    preprocess_last: [Option<Preprocess>; 3],
    preprocess_before: Preprocess,
    /// Level that `preprocess_before` takes; -1 is the stem's map of stride 2.
    before_level: i64,
    cells: Cells,
}

/// The cells of equation 6 that end in a node.
#[derive(Debug)]
enum Cells {
    /// One for all sources.
    Shared(MixedCell),
    /// One each, in the order of [`Node::preprocess_last`].
    Separate([Option<MixedCell>; 3]),
}

impl Cells {
    fn each(&self) -> Vec<&MixedCell> {
        match self {
            Self::Shared(cell) => vec![cell],
            Self::Separate(cells) => cells.iter().flatten().collect(),
        }
    }
}

impl Node {
    fn new(vb: &VarBuilder, space: &AutoDeepLabSpace, layer: usize, level: usize) -> Self {
        let channels = |level: i64| space.filters << level;
        let outputs = |level: i64| space.blocks as i64 * channels(level);
        let (own, here) = (channels(level as i64), level as i64);
        let before_level = here.min(layer as i64 - 1);
        let c_before = match layer {
            0 => space.stem[1],
            1 => space.stem[2],
            _ => outputs(before_level),
        };
        let preprocess_last = [-1, 0, 1].map(|offset| {
            let source = here + offset;
            let exists = (0..LEVELS as i64).contains(&source) && source <= layer as i64;
            let c_in = if layer == 0 { space.stem[2] } else { outputs(source.max(0)) };
            let stride = if offset == -1 { 2 } else { 1 };
            exists.then(|| Preprocess::new(&vb.sub("from").sub(source), c_in, own, stride, SEARCH_BN))
        });
        let cell = |i: usize| MixedCell::new(&vb.sub("cells").sub(i), space.blocks, own);
        let cells = match space.share_cell_weights {
            true => Cells::Shared(cell(0)),
            false => Cells::Separate(std::array::from_fn(|i| preprocess_last[i].is_some().then(|| cell(i)))),
        };
        Self {
            level,
            preprocess_last,
            preprocess_before: Preprocess::new(&vb.sub("before"), c_before, own, 1 << (here - before_level), SEARCH_BN),
            before_level,
            cells,
        }
    }

    fn forward(
        &self,
        before: &Before,
        last: &Layer,
        (sources, shares): (Vec<usize>, Option<Tensor>),
        (weights, joint): (&CellWeights, &[JointKernels]),
        size: (i64, i64),
        (mode, moves): (Mode, &mut Moves),
    ) -> Option<Tensor> {
        if sources.is_empty() {
            return None;
        }
        let before = match before {
            Before::Half(half) => Some(half),
            Before::Layer(layer) => layer[self.before_level as usize].as_ref(),
        };
        let take = |source: &usize| {
            let xs = last[*source].as_ref().expect("edges start at nodes that have a map");
            let position = source + 1 - self.level;
            let preprocess = self.preprocess_last[position].as_ref().expect("an edge of the trellis");
            match position {
                2 => preprocess.forward(&resize_bilinear(xs.map(), size), mode),
                _ => preprocess.forward_rectified(&xs.relu(), mode),
            }
        };
        let xs: Vec<Tensor> = sources.iter().map(take).collect();
        // Off the path, the layer before the last is zero.
        let before = before.map_or_else(
            || xs[0].zeros_like(),
            |before| self.preprocess_before.forward_rectified(&before.relu(), mode),
        );
        match &self.cells {
            Cells::Shared(cell) => {
                Some(cell.forward(&xs, &before, shares.as_ref(), weights, joint.first(), (mode, moves)))
            }
            Cells::Separate(cells) => {
                let shares = shares.map(|shares| shares.split(1, 0));
                let run = |(i, source): (usize, &usize)| {
                    let cell = cells[source + 1 - self.level].as_ref().expect("an edge of the trellis");
                    let share = shares.as_ref().map(|shares| &shares[i]);
                    cell.forward(slice::from_ref(&xs[i]), &before, share, weights, joint.get(i), (mode, &mut *moves))
                };
                sources.iter().enumerate().map(run).reduce(|sum, term| sum + term)
            }
        }
    }
}

/// The supernet with the head it is searched with: at each stride a pyramid of three branches (1x1, 3x3 at rate 96/s, mean
/// of the image), projected to classes, resized to the image and summed.
#[derive(Debug)]
pub struct SearchNet {
    trellis: Trellis,
    heads: Vec<SearchHead>,
}

impl SearchNet {
    /// The supernet of `space` for `num_classes`.
    pub fn new(vb: &VarBuilder, space: &AutoDeepLabSpace, num_classes: i64) -> Self {
        let trellis = Trellis::new(&vb.sub("trellis"), space);
        let head =
            |(level, info): (usize, FeatureInfo)| SearchHead::new(&vb.sub("heads").sub(level), info, num_classes);
        let heads = trellis.feature_info().into_iter().enumerate().map(head).collect();
        Self { trellis, heads }
    }

    /// Logits `[B, K, H, W]` of images `[B, 3, H, W]`. [`Mixture::Weights`] are those of alpha and beta.
    pub fn forward(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Tensor {
        let (_, _, h, w) = xs.size4().expect("an image batch has four dimensions");
        let maps = self.trellis.last_layer(xs, mixture, mode);
        let logits = maps.iter().zip(&self.heads).filter_map(|(map, head)| {
            let logits = head.forward(&map.as_ref()?.relu(), mode);
            Some(resize_bilinear(&logits, (h, w)))
        });
        logits.reduce(|sum, logits| sum + logits).expect("the last layer has a map")
    }

    /// The supernet without its head.
    pub fn trellis(&self) -> &Trellis {
        &self.trellis
    }
}

/// The pyramid at one stride.
#[derive(Debug)]
struct SearchHead {
    point: ConvNorm,
    atrous: ConvNorm,
    pooled: ConvNorm,
    project: Conv2d,
}

impl SearchHead {
    fn new(vb: &VarBuilder, FeatureInfo { channels, stride }: FeatureInfo, num_classes: i64) -> Self {
        let branch = |name: &str, ksize, dilation| {
            let conv = ConvConfig { dilation, ..Default::default() };
            conv_bn(&vb.sub(name), (channels, channels), ksize, conv, OUTER_BN, Activation::Relu)
        };
        let bias = ConvConfig { bias: true, ..Default::default() };
        Self {
            point: branch("point", 1, 1),
            atrous: branch("atrous", 3, 96 / stride),
            pooled: branch("pooled", 1, 1),
            project: Conv2d::new(&vb.sub("project"), 3 * channels, num_classes, 1, bias),
        }
    }

    /// Of a map that is past its ReLU.
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
        let mean = xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
        let pooled = self.pooled.forward(&mean, mode).expand([-1, -1, h, w], false);
        let branches = [self.point.forward(xs, mode), self.atrous.forward(xs, mode), pooled];
        self.project.forward(&Tensor::cat(&branches, 1), mode)
    }
}

#[cfg(test)]
mod tests;
