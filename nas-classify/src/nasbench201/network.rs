//! The networks of NAS-Bench-201 (Dong and Yang 2020, arXiv 2001.00326): a stem, three stages of equal cells with a
//! residual block of stride 2 between them, and a linear classifier. Variables have the names of the benchmark's own
//! checkpoints.

use anyhow::{Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{StageSize, sizes};
use nas_core::nn::Cost;
use nas_core::nn::{
    BatchNorm, BnConfig, Conv2d, ConvConfig, Linear, Mode, Module, Shape, VarBuilder, probe, probe::Site, relu,
};
use nas_core::space::Architecture;
use nas_core::space::{Backbone, ChoiceSpace, FeatureInfo};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::space::{EDGES, NasBench201};
use crate::classifier::{Classifier, Logits};

pub(super) const STAGES: usize = 3;

/// Width and depth of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Channels of the first stage; the second has twice, the third four times as many.
    pub channels: i64,
    /// Cells of each of the three stages.
    pub cells: usize,
    /// Classes of the logits.
    pub num_classes: i64,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { channels: 16, cells: 5, num_classes: 10 }
    }
}

impl NetworkConfig {
    /// Says which key has a value that no network can be made of.
    pub fn validate(&self) -> Result<()> {
        let Self { channels, cells, num_classes } = self;
        ensure!((1..=4096).contains(channels), "model.channels = {channels}: expected 1 to 4096");
        ensure!((1..=100).contains(cells), "model.cells = {cells}: expected 1 to 100");
        ensure!((1..=1_000_000).contains(num_classes), "model.num_classes = {num_classes}: expected 1 to 1000000");
        Ok(())
    }

    /// Channels and cells of the three stages.
    pub fn sizes(&self) -> Vec<StageSize> {
        (0..STAGES).map(|i| StageSize { channels: self.channels << i, blocks: self.cells }).collect()
    }
}

/// A classifier of images.
#[derive(Debug)]
pub struct Network {
    /// Everything before the classifier.
    pub trunk: Trunk,
    classifier: Linear,
}

impl Network {
    /// The network of `arch`, one operator number per edge 0->1, 0->2, 1->2, 0->3, 1->3, 2->3. A number above 4 is an
    /// [`InvalidArchitecture`](nas_core::space::InvalidArchitecture), an impossible config an error that names the key.
    pub fn new(vb: &VarBuilder, config: &NetworkConfig, arch: [u16; 6]) -> Result<Self> {
        Self::of_sizes(vb, config, &config.sizes(), arch)
    }

    /// The same of other [`NetworkConfig::sizes`].
    pub fn of_sizes(vb: &VarBuilder, config: &NetworkConfig, sizes: &[StageSize], arch: [u16; 6]) -> Result<Self> {
        config.validate()?;
        sizes::check("model.stages", &config.sizes(), sizes)?;
        let trunk = Trunk::new(vb, sizes, arch)?;
        let classifier = Linear::new(&vb.sub("classifier"), trunk.channels(), config.num_classes);
        Ok(Self { trunk, classifier })
    }

    /// Logits `[B, K]` of images `[B, 3, H, W]`.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.classifier.forward(&self.features(xs, mode))
    }

    /// The classifier's input `[B, 4C]` for images `[B, 3, H, W]`: the mean over the pixels of the last feature map.
    pub fn features(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.trunk.last(xs, mode).mean_dim([2i64, 3].as_slice(), false, None)
    }

    /// Cost of every part for an image of `input`, from input to output.
    pub fn cost_parts(&self, input: Shape) -> Vec<(String, Cost)> {
        let (mut parts, _) = self.trunk.cost_parts(input);
        parts.push(("classifier".to_string(), self.classifier.cost()));
        parts
    }

    /// Cost for an image of `input`. The benchmark's FLOPs are these multiply-adds plus one per class.
    pub fn cost(&self, input: Shape) -> Cost {
        let mut total = Cost::default();
        self.cost_parts(input).into_iter().for_each(|(_, part)| total += part);
        total
    }
}

impl Classifier for Network {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Logits {
        Logits { main: self.forward(xs, mode), aux: None }
    }

    fn features(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.trunk.last(xs, mode)
    }

    fn cost_parts(&self, input: Shape) -> Vec<(String, Cost)> {
        self.cost_parts(input)
    }
}

/// Stem, cells and reductions. Features: the output of each stage, at strides 1, 2 and 4; the last after a norm and a
/// rectifier.
#[derive(Debug)]
pub struct Trunk {
    stem: (Conv2d, BatchNorm),
    stages: Vec<Stage>,
    last_norm: BatchNorm,
    channels: Vec<i64>,
}

/// What weight inheritance knows of the cells and reductions of a network of `sizes`.
pub fn parts(sizes: &[StageSize]) -> Vec<BlockParts> {
    // All stages but the first begin with a reduction, which is a block like the others here.
    let blocks = |(i, size): (usize, &StageSize)| StageSize { blocks: size.blocks + usize::from(i > 0), ..*size };
    sizes::numbered_through(&sizes.iter().enumerate().map(blocks).collect::<Vec<_>>(), "cells.")
}

impl Trunk {
    /// The trunk of `arch` with three stages of `sizes`; errors as those of [`Network::new`].
    pub fn new(vb: &VarBuilder, sizes: &[StageSize], arch: [u16; 6]) -> Result<Self> {
        NasBench201.validate(&Architecture::new(arch.to_vec()))?;
        let channels: Vec<i64> = sizes.iter().map(|size| size.channels).collect();
        let stem = vb.sub("stem");
        let conv = Conv2d::new(&stem.sub(0), 3, channels[0], 3, ConvConfig::default());
        let stem = (conv, BatchNorm::new(&stem.sub(1), channels[0], BnConfig::default()));
        let mut layers = (0..).map(|i| vb.sub("cells").sub(i));
        let mut next = || layers.next().expect("without end");
        let stages = sizes.iter().enumerate().map(|(i, size)| Stage {
            reduction: (i > 0).then(|| Reduction::new(&next(), channels[i - 1], size.channels)),
            cells: (0..size.blocks).map(|_| Cell::new(&next(), size.channels, arch)).collect(),
        });
        let stages = stages.collect();
        let last_norm = BatchNorm::new(&vb.sub("lastact").sub(0), channels[STAGES - 1], BnConfig::default());
        Ok(Self { stem, stages, last_norm, channels })
    }

    /// The last feature map `[B, 4C, H/4, W/4]` of images `[B, 3, H, W]`.
    pub fn last(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.features(xs, mode).pop().expect("three stages")
    }

    fn channels(&self) -> i64 {
        self.channels[STAGES - 1]
    }
}

impl Backbone for Trunk {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let (conv, bn) = &self.stem;
        let mut xs = bn.forward(&conv.forward(xs, mode), mode);
        probe::report(Site::Block, &xs);
        let mut features = Vec::new();
        for stage in &self.stages {
            xs = stage.forward(&xs, mode);
            features.push(xs.shallow_clone());
        }
        features[STAGES - 1] = relu(&self.last_norm.forward(&xs, mode));
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.channels.iter().enumerate().map(|(i, c)| FeatureInfo { channels: *c, stride: 1 << i }).collect()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let (mut parts, mut shapes) = (Vec::new(), Vec::new());
        let mut cost = Cost::default();
        let mut xs = self.stem.1.cost(self.stem.0.cost(input, &mut cost), &mut cost);
        parts.push(("stem".to_string(), cost));
        for (i, stage) in self.stages.iter().enumerate() {
            let mut cost = Cost::default();
            xs = stage.cost(xs, &mut cost);
            parts.push((format!("stage_{}", i + 1), cost));
            shapes.push(xs);
        }
        let mut cost = Cost::default();
        self.last_norm.cost(xs, &mut cost);
        parts.push(("last_norm".to_string(), cost));
        (parts, shapes)
    }
}

/// Cells, all but the first stage after a reduction.
#[derive(Debug)]
struct Stage {
    reduction: Option<Reduction>,
    cells: Vec<Cell>,
}

impl Stage {
    fn layers(&self) -> impl Iterator<Item = &dyn Module> {
        let reduction = self.reduction.iter().map(|layer| layer as &dyn Module);
        reduction.chain(self.cells.iter().map(|cell| cell as &dyn Module))
    }
}

impl Module for Stage {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.layers().fold(xs.shallow_clone(), |xs, layer| {
            let ys = layer.forward(&xs, mode);
            probe::report(Site::Block, &ys);
            ys
        })
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.layers().fold(xs, |xs, layer| layer.cost(xs, cost))
    }
}

/// Every node is the sum of its edges, the last one is the output. Edges that lead nowhere are computed like the others:
/// the benchmark counts and trains them.
#[derive(Debug)]
struct Cell {
    edges: Vec<Edge>,
}

impl Cell {
    fn new(vb: &VarBuilder, c: i64, arch: [u16; 6]) -> Self {
        let vb = vb.sub("layers");
        let edge = |(i, choice)| Edge::new(&vb.sub(i), c, choice, BnConfig::default());
        Self { edges: arch.into_iter().enumerate().map(edge).collect() }
    }
}

impl Module for Cell {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let mut nodes = vec![xs.shallow_clone()];
        for ((from, to), edge) in EDGES.into_iter().zip(&self.edges) {
            let ys = edge.forward(&nodes[from], mode);
            match nodes.get_mut(to) {
                Some(node) => *node = &*node + ys,
                None => nodes.push(ys),
            }
        }
        nodes.pop().expect("four nodes")
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.edges.iter().fold(xs, |xs, edge| edge.cost(xs, cost))
    }
}

#[derive(Debug)]
pub(super) enum Edge {
    Zero,
    Skip,
    Conv(ReluConvBn),
    Pool,
}

impl Edge {
    pub(super) fn new(vb: &VarBuilder, c: i64, choice: u16, bn: BnConfig) -> Self {
        match choice {
            0 => Edge::Zero,
            1 => Edge::Skip,
            2 => Edge::Conv(ReluConvBn::new(vb, (c, c), 1, 1, bn)),
            3 => Edge::Conv(ReluConvBn::new(vb, (c, c), 3, 1, bn)),
            _ => Edge::Pool,
        }
    }
}

impl Module for Edge {
    /// `none` multiplies by zero: what hangs on it alone has a gradient, of zeros.
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        match self {
            Edge::Zero => xs * 0.0,
            Edge::Skip => xs.shallow_clone(),
            Edge::Conv(conv) => conv.forward(xs, mode),
            Edge::Pool => xs.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None),
        }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        match self {
            Edge::Conv(conv) => conv.cost(xs, cost),
            Edge::Zero | Edge::Skip | Edge::Pool => xs,
        }
    }
}

/// Rectifier, convolution, batch norm.
#[derive(Debug)]
pub(super) struct ReluConvBn {
    conv: Conv2d,
    bn: BatchNorm,
}

impl ReluConvBn {
    fn new(vb: &VarBuilder, (c_in, c_out): (i64, i64), ksize: i64, stride: i64, bn: BnConfig) -> Self {
        let (vb, config) = (vb.sub("op"), ConvConfig { stride, ..Default::default() });
        Self { conv: Conv2d::new(&vb.sub(1), c_in, c_out, ksize, config), bn: BatchNorm::new(&vb.sub(2), c_out, bn) }
    }
}

impl Module for ReluConvBn {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.bn.forward(&self.conv.forward(&relu(xs), mode), mode)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.conv.cost(xs, cost);
        self.bn.cost(ys, cost)
    }
}

/// A residual block of stride 2 whose shortcut is the mean of 2x2 pixels and a 1x1 convolution without a norm.
#[derive(Debug)]
pub(super) struct Reduction {
    first: ReluConvBn,
    second: ReluConvBn,
    shortcut: Conv2d,
}

impl Reduction {
    pub(super) fn new(vb: &VarBuilder, c_in: i64, c_out: i64) -> Self {
        let bn = BnConfig::default();
        Self {
            first: ReluConvBn::new(&vb.sub("conv_a"), (c_in, c_out), 3, 2, bn),
            second: ReluConvBn::new(&vb.sub("conv_b"), (c_out, c_out), 3, 1, bn),
            shortcut: Conv2d::new(&vb.sub("downsample").sub(1), c_in, c_out, 1, ConvConfig::default()),
        }
    }
}

impl Module for Reduction {
    /// An odd side is halved upwards by both branches.
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let shortcut = xs.avg_pool2d([2, 2], [2, 2], [0, 0], true, false, None);
        self.shortcut.forward(&shortcut, mode) + self.second.forward(&self.first.forward(xs, mode), mode)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let ys = self.first.cost(xs, cost);
        self.shortcut.cost(ys.with_channels(xs.c), cost);
        self.second.cost(ys, cost)
    }
}

#[cfg(test)]
mod tests;
