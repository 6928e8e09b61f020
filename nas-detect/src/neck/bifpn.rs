//! BiFPN, EfficientDet's neck (Tan et al. 2020, arXiv 1911.09070).

use anyhow::{Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BatchNorm, BnConfig, Conv2d, ConvConfig, ConvNorm, Init, Mode, Module, Shape, VarBuilder, conv_bn,
    max_pool,
};
use nas_core::run::drawing::Diagram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Inputs, Levels, Neck, halved, size_of, upsample};

/// How a node adds its inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// `Σ relu(w_i) x_i / (Σ relu(w_i) + 1e-4)`.
    #[default]
    Fast,
    /// `Σ softmax(w)_i x_i`.
    Softmax,
    /// `Σ x_i`.
    Sum,
}

/// Which maps a bottom-up node between the ends takes besides the level below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeInputs {
    /// The cell's input and the top-down node of its level.
    #[default]
    Both,
    /// The top-down node alone.
    TopDown,
    /// The cell's input alone.
    Input,
}

/// One node of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BiFpnNode {
    /// How it adds.
    pub fusion: Fusion,
    /// What it adds; only bottom-up nodes between the ends have a choice.
    pub inputs: NodeInputs,
}

/// What a [`BiFpn`] consists of. The defaults are EfficientDet-D0's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BiFpnConfig {
    /// Channels of every level.
    pub channels: i64,
    /// Levels.
    pub levels: Levels,
    /// Cells in a row.
    pub cells: usize,
    /// Nodes of every cell, top-down from the second coarsest level, then bottom-up from the second finest; empty: all fast
    /// and with both inputs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<BiFpnNode>,
    /// Norms; EfficientDet's eps is 1e-3.
    pub bn: BnConfig,
}

impl Default for BiFpnConfig {
    fn default() -> Self {
        let bn = BnConfig { momentum: 0.01, eps: 1e-3, affine: true };
        Self { channels: 64, levels: Levels::default(), cells: 3, nodes: Vec::new(), bn }
    }
}

impl BiFpnConfig {
    /// EfficientDet's width and depth from D0 to D5.
    pub fn efficientdet(phi: usize) -> Option<Self> {
        const SIZES: [(i64, usize); 6] = [(64, 3), (88, 4), (112, 5), (160, 6), (224, 7), (288, 7)];
        SIZES.get(phi).map(|&(channels, cells)| Self { channels, cells, ..Default::default() })
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure!((1..=16).contains(&self.cells), "model.neck.cells = {}: expected 1 to 16", self.cells);
        let (found, expected) = (self.nodes.len(), num_nodes(self.levels));
        ensure!(found == 0 || found == expected, "model.neck.nodes: {found} nodes, expected {expected} or none");
        Ok(())
    }

    fn node(&self, i: usize) -> BiFpnNode {
        self.nodes.get(i).copied().unwrap_or_default()
    }

    /// The nodes of a cell over `levels` levels, top-down and then bottom-up: level, and sources with their levels. Levels count from
    /// the finest.
    fn wiring(&self, levels: usize) -> Vec<(usize, Vec<(Source, usize)>)> {
        let top = levels - 1;
        let mut nodes = Vec::new();
        // the node that holds each level so far; the coarsest starts as the input itself
        let mut held: Vec<Source> = (0..=top).map(Source::Input).collect();
        for level in (0..top).rev() {
            let i = nodes.len();
            nodes.push((level, vec![(Source::Input(level), level), (held[level + 1], level + 1)]));
            held[level] = Source::Node(i);
        }
        for (level, top_down) in held.into_iter().enumerate().skip(1) {
            let i = nodes.len();
            let own = match (level < top, self.node(i).inputs) {
                (false, _) | (true, NodeInputs::Input) => vec![(Source::Input(level), level)],
                (true, NodeInputs::TopDown) => vec![(top_down, level)],
                (true, NodeInputs::Both) => vec![(Source::Input(level), level), (top_down, level)],
            };
            nodes.push((level, [own, vec![(Source::Node(i - 1), level - 1)]].concat()));
        }
        nodes
    }

    /// One of its cells as a graph: the maps that come in, then the nodes.
    pub fn diagram(&self) -> Diagram {
        let levels = self.levels.count();
        let name = |level: usize| format!("P{}", self.levels.min as usize + level);
        let wiring = self.wiring(levels);
        let at = |source: Source| match source {
            Source::Input(level) => level,
            Source::Node(i) => levels + i,
        };
        let arrows = wiring.iter().enumerate().flat_map(|(i, (_, sources))| {
            let fusion = format!("{:?}", self.node(i).fusion).to_lowercase();
            sources.iter().map(move |(source, _)| (at(*source), levels + i, fusion.clone()))
        });
        let nodes = (0..levels).map(name).chain(wiring.iter().map(|(level, _)| name(*level))).collect();
        let title = format!("BiFPN, {} cells of {} channels", self.cells, self.channels);
        Diagram { title, nodes, arrows: arrows.collect() }
    }
}

/// Nodes of a cell.
pub(super) fn num_nodes(levels: Levels) -> usize {
    2 * (levels.count() - 1)
}

/// Cells of a top-down and a bottom-up path.
#[derive(Debug)]
pub struct BiFpn {
    inputs: Inputs,
    /// 1x1 and norm before the pooling that makes the first level above 5.
    extra: Option<ConvNorm>,
    cells: Vec<Cell>,
}

impl BiFpn {
    pub(super) fn new(vb: &VarBuilder, config: &BiFpnConfig, inputs: Inputs) -> Self {
        let c = config.channels;
        let extra = (inputs.num_extra() > 0).then(|| adapt(&vb.sub("p6"), inputs.last_channels(), config));
        let raw: Vec<Option<i64>> = inputs.channels().map(Some).chain(vec![None; inputs.num_extra()]).collect();
        let same = vec![None; raw.len()];
        let cell = |i| Cell::new(&vb.sub("cells").sub(i), c, if i == 0 { &raw } else { &same }, config);
        Self { extra, cells: (0..config.cells).map(cell).collect(), inputs }
    }
}

impl Neck for BiFpn {
    fn forward(&self, features: &[Tensor], mode: Mode) -> Vec<Tensor> {
        let mut maps: Vec<Tensor> = self.inputs.pick(features).into_iter().map(Tensor::shallow_clone).collect();
        if let Some(extra) = &self.extra {
            let mut xs = extra.forward(&maps[maps.len() - 1], mode);
            for _ in 0..self.inputs.num_extra() {
                xs = max_pool(&xs);
                maps.push(xs.shallow_clone());
            }
        }
        self.cells.iter().fold(maps, |maps, cell| cell.forward(&maps, mode))
    }

    fn cost(&self, features: &[Shape], cost: &mut Cost) -> Vec<Shape> {
        let mut maps: Vec<Shape> = self.inputs.pick(features).into_iter().copied().collect();
        if let Some(extra) = &self.extra {
            let mut xs = extra.cost(maps[maps.len() - 1], cost);
            for _ in 0..self.inputs.num_extra() {
                xs = halved(xs);
                maps.push(xs);
            }
        }
        self.cells.iter().fold(maps, |maps, cell| cell.cost(&maps, cost))
    }

    fn norms(&self) -> Vec<&BatchNorm> {
        let extra = self.extra.iter().filter_map(ConvNorm::batch_norm);
        extra.chain(self.cells.iter().flat_map(Cell::norms)).collect()
    }
}

/// 1x1 convolution with bias, norm.
fn adapt(vb: &VarBuilder, c_in: i64, config: &BiFpnConfig) -> ConvNorm {
    let conv = ConvConfig { bias: true, ..Default::default() };
    conv_bn(vb, (c_in, config.channels), 1, conv, config.bn, Activation::Identity)
}

/// Where an input of a node comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The cell's input of this level.
    Input(usize),
    /// The output of a node.
    Node(usize),
}

#[derive(Debug)]
struct Cell {
    channels: i64,
    nodes: Vec<Node>,
    /// The node that gives each level.
    outputs: Vec<usize>,
}

#[derive(Debug)]
struct Node {
    level: usize,
    /// Source, its level, and the adaptation of a backbone's map: every use has its own.
    inputs: Vec<(Source, usize, Option<ConvNorm>)>,
    fusion: Fusion,
    weights: Option<Tensor>,
    depthwise: Conv2d,
    pointwise: ConvNorm,
}

impl Cell {
    /// `raw`: channels of the levels that are still a backbone's.
    fn new(vb: &VarBuilder, c: i64, raw: &[Option<i64>], config: &BiFpnConfig) -> Self {
        let node = |(i, (level, sources)): (usize, (usize, Vec<(Source, usize)>))| {
            let vb = vb.sub("nodes").sub(i);
            let input = |(k, (source, from)): (usize, (Source, usize))| {
                let c_in = raw[from].filter(|_| matches!(source, Source::Input(_)));
                (source, from, c_in.map(|c_in| adapt(&vb.sub("inputs").sub(k), c_in, config)))
            };
            let fusion = config.node(i).fusion;
            let learned = fusion != Fusion::Sum;
            Node {
                level,
                fusion,
                weights: learned.then(|| vb.weight("weights", &[sources.len() as i64], Init::Const(1.0))),
                depthwise: Conv2d::depthwise(&vb.sub("depthwise"), c, 3, ConvConfig::default()),
                pointwise: adapt(&vb.sub("pointwise"), c, config),
                inputs: sources.into_iter().enumerate().map(input).collect(),
            }
        };
        let nodes = config.wiring(raw.len()).into_iter().enumerate().map(node).collect();
        // The last of the top-down nodes gives the finest level, the bottom-up ones the others.
        let outputs = (raw.len() - 2..2 * (raw.len() - 1)).collect();
        Self { channels: c, nodes, outputs }
    }

    fn forward(&self, maps: &[Tensor], mode: Mode) -> Vec<Tensor> {
        // sizes of the levels come from the maps, so that odd ones fit
        let sizes: Vec<(i64, i64)> = maps.iter().map(size_of).collect();
        let mut done: Vec<Tensor> = Vec::new();
        for node in &self.nodes {
            let inputs = node.inputs.iter().map(|(source, from, adapt)| {
                let xs = match source {
                    Source::Input(level) => &maps[*level],
                    Source::Node(i) => &done[*i],
                };
                let xs = adapt.as_ref().map_or_else(|| xs.shallow_clone(), |adapt| adapt.forward(xs, mode));
                match from.cmp(&node.level) {
                    std::cmp::Ordering::Less => max_pool(&xs),
                    std::cmp::Ordering::Equal => xs,
                    std::cmp::Ordering::Greater => upsample(&xs, sizes[node.level]),
                }
            });
            let inputs: Vec<Tensor> = inputs.collect();
            let xs = node.fuse(&inputs).silu();
            done.push(node.pointwise.forward(&node.depthwise.forward(&xs, mode), mode));
        }
        self.outputs.iter().map(|i| done[*i].shallow_clone()).collect()
    }

    fn cost(&self, maps: &[Shape], cost: &mut Cost) -> Vec<Shape> {
        let mut done: Vec<Shape> = Vec::new();
        for node in &self.nodes {
            for (_, from, adapt) in &node.inputs {
                if let Some(adapt) = adapt {
                    adapt.cost(maps[*from], cost);
                }
            }
            cost.params += node.weights.as_ref().map_or(0, |_| node.inputs.len() as u64);
            let xs = maps[node.level].with_channels(self.channels);
            let xs = node.depthwise.cost(xs, cost);
            done.push(node.pointwise.cost(xs, cost));
        }
        self.outputs.iter().map(|i| done[*i]).collect()
    }

    fn norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let adapted = self.nodes.iter().flat_map(|node| node.inputs.iter().filter_map(|(_, _, adapt)| adapt.as_ref()));
        adapted.chain(self.nodes.iter().map(|node| &node.pointwise)).filter_map(ConvNorm::batch_norm)
    }
}

impl Node {
    fn fuse(&self, inputs: &[Tensor]) -> Tensor {
        let sum = |scaled: &mut dyn Iterator<Item = Tensor>| scaled.reduce(|a, b| a + b).expect("a node has inputs");
        let Some(weights) = &self.weights else { return sum(&mut inputs.iter().map(Tensor::shallow_clone)) };
        let weights = match self.fusion {
            Fusion::Softmax => weights.softmax(0, weights.kind()),
            _ => {
                let weights = weights.relu();
                &weights / (weights.sum(weights.kind()) + 1e-4)
            }
        };
        sum(&mut inputs.iter().enumerate().map(|(i, xs)| xs * weights.get(i as i64).to_kind(xs.kind())))
    }
}
