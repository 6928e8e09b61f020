//! The frame of DARTS' networks (arXiv 1806.09055): a stem and a chain of cells, each of which takes the outputs of the two
//! before it. Cells at one and two thirds of the depth halve the map and double the channels. Derived networks and
//! supernets differ in their cells alone.

use anyhow::{Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{StageSize, sizes};
use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BnConfig, ConvConfig, ConvNorm, FactorizedReduce, Mode, Module, ReluConvBn, Sequential, Shape, Shared,
    VarBuilder, conv_bn, relu,
};
use nas_core::space::FeatureInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// What comes before the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StemKind {
    /// One 3x3 convolution to three times the channels of the first cell.
    #[default]
    Cifar,
    /// Three 3x3 convolutions of stride 2.
    Imagenet,
}

/// Channels of CIFAR's stem per channel of the first cell.
const STEM_MULTIPLIER: i64 = 3;
const STAGES: usize = 3;

/// Width and depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameConfig {
    /// Channels of a node in the first cell, where no stages are given.
    pub channels: i64,
    /// Cells.
    pub layers: usize,
    /// What comes before the cells.
    pub stem: StemKind,
    /// Channels of a node and cells, the reduction among them, of each of the three stages; none for those that `channels` and
    /// `layers` give.
    pub stages: Vec<StageSize>,
}

/// Where a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Cells before it.
    pub layer: usize,
    /// Reductions up to and with it.
    pub stage: usize,
    /// Whether it halves the map.
    pub reduction: bool,
    /// Channels of its nodes.
    pub channels: i64,
}

impl Place {
    /// From 1: which of the stages a normal cell belongs to, or which of the reductions it is.
    pub fn number(&self) -> usize {
        self.stage + usize::from(!self.reduction)
    }

    /// Stride of the edges that leave `state`.
    pub fn stride(&self, state: usize) -> i64 {
        if self.reduction && state < 2 { 2 } else { 1 }
    }
}

impl FrameConfig {
    /// Says which key, below `section`, has a value that no network can be made of.
    pub fn validate(&self, section: &str) -> Result<()> {
        let Self { channels, layers, .. } = self;
        ensure!((2..=4096).contains(channels), "{section}.channels = {channels}: expected 2 to 4096");
        ensure!((STAGES..=100).contains(layers), "{section}.layers = {layers}: expected {STAGES} to 100");
        sizes::check(&format!("{section}.stages"), &self.by_thirds(), &self.sizes())
    }

    /// Cells at one and two thirds of the depth double the channels.
    fn by_thirds(&self) -> Vec<StageSize> {
        let starts = [0, self.layers / 3, 2 * self.layers / 3, self.layers];
        let stage = |i: usize| StageSize { channels: self.channels << i, blocks: starts[i + 1] - starts[i] };
        (0..STAGES).map(stage).collect()
    }

    /// Channels of a node and cells of the stages.
    pub fn sizes(&self) -> Vec<StageSize> {
        if self.stages.is_empty() { self.by_thirds() } else { self.stages.clone() }
    }

    /// The places of all cells.
    pub fn places(&self) -> Vec<Place> {
        let sizes = self.sizes().into_iter().enumerate();
        let cells = sizes.flat_map(|(stage, size)| (0..size.blocks).map(move |i| (stage, i, size.channels)));
        let place = |(layer, (stage, i, channels))| Place { layer, stage, reduction: stage > 0 && i == 0, channels };
        cells.enumerate().map(place).collect()
    }

    /// What weight inheritance knows of the cells.
    pub fn parts(&self) -> Vec<BlockParts> {
        sizes::numbered_through(&self.sizes(), "cells.")
    }
}

/// A cell between its preprocessed inputs and its output.
#[derive(Debug)]
pub struct Layer<C> {
    preprocess: [Box<dyn Module>; 2],
    /// The cell.
    pub cell: C,
    /// Where it stands.
    pub place: Place,
}

impl<C> Layer<C> {
    /// Preprocessed inputs `[B, place.channels, H, W]` of the outputs of the two cells before.
    fn inputs(&self, before: &Shared, last: &Shared, mode: Mode) -> [Tensor; 2] {
        [self.preprocess[0].forward_shared(before, None, mode), self.preprocess[1].forward_shared(last, None, mode)]
    }
}

/// Stem and layers.
#[derive(Debug)]
pub struct Frame<C> {
    stem: Stem,
    layers: Vec<Layer<C>>,
    info: Vec<FeatureInfo>,
}

impl<C> Frame<C> {
    /// A frame whose cells are made by `cell`, which also says how many of their nodes are in their output. `bn` is for the
    /// preprocessing of their inputs.
    pub fn new<E>(
        vb: &VarBuilder,
        config: FrameConfig,
        bn: BnConfig,
        mut cell: impl FnMut(&VarBuilder, Place) -> Result<(C, usize), E>,
    ) -> Result<Self, E> {
        let (stem, channels, stride) = Stem::new(&vb.sub("stem"), &config);
        let [mut before, mut last] = [channels; 2];
        let mut after_reduction = config.stem == StemKind::Imagenet;
        let mut layers = Vec::new();
        let mut info = vec![FeatureInfo { channels, stride }; STAGES];
        for place in config.places() {
            let (vb, c) = (vb.sub("cells").sub(place.layer), place.channels);
            let first = vb.sub("preprocess_0");
            let preprocess: [Box<dyn Module>; 2] = [
                match after_reduction {
                    true => Box::new(FactorizedReduce::new(&first, (before, c), bn)),
                    false => Box::new(ReluConvBn::pointwise(&first, (before, c), bn)),
                },
                Box::new(ReluConvBn::pointwise(&vb.sub("preprocess_1"), (last, c), bn)),
            ];
            let (cell, outputs) = cell(&vb, place)?;
            layers.push(Layer { preprocess, cell, place });
            (before, last) = (last, outputs as i64 * c);
            info[place.stage] = FeatureInfo { channels: last, stride: stride << place.stage };
            after_reduction = place.reduction;
        }
        Ok(Self { stem, layers, info })
    }

    /// The last map of each stage for images `[B, 3, H, W]`; `cell` computes a layer's output from its preprocessed inputs.
    pub fn features(&self, xs: &Tensor, mode: Mode, cell: impl FnMut(&Layer<C>, [Tensor; 2]) -> Tensor) -> Vec<Tensor> {
        self.features_of(xs, false, mode, cell)
    }

    /// [`Frame::features`]; where `shares`, a map that two cells take in is rectified once, and probes see it once.
    pub fn features_of(
        &self,
        xs: &Tensor,
        shares: bool,
        mode: Mode,
        mut cell: impl FnMut(&Layer<C>, [Tensor; 2]) -> Tensor,
    ) -> Vec<Tensor> {
        let [before, last] = self.stem.forward(xs, mode);
        let [mut before, mut last] = [Shared::new(&before), Shared::new(&last)];
        let mut features: Vec<Tensor> = Vec::new();
        for layer in &self.layers {
            let ys = cell(layer, layer.inputs(&before, &last, mode));
            before = if shares { last } else { Shared::new(last.map()) };
            last = Shared::new(&ys);
            features.truncate(layer.place.stage);
            features.push(ys);
        }
        features
    }

    /// The cells and their preprocessing.
    pub fn layers(&self) -> &[Layer<C>] {
        &self.layers
    }

    /// Channels and stride of the maps of [`Frame::features`].
    pub fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.clone()
    }

    /// Costs of stem, stages and reductions on an image of `input`, and the shapes of [`Frame::features`]; `cell` adds a
    /// cell's cost on inputs of the given shape and returns its output's.
    pub fn cost_parts(
        &self,
        input: Shape,
        cell: impl Fn(&Layer<C>, [Shape; 2], &mut Cost) -> Shape,
    ) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut parts = vec![("stem".to_string(), Cost::default())];
        let [mut before, mut last] = self.stem.cost(input, &mut parts[0].1);
        let mut shapes: Vec<Shape> = Vec::new();
        for layer in &self.layers {
            let kind = if layer.place.reduction { "reduction" } else { "stage" };
            let name = format!("{kind}_{}", layer.place.number());
            if parts.last().is_none_or(|(last, _)| *last != name) {
                parts.push((name, Cost::default()));
            }
            let cost = &mut parts.last_mut().expect("just pushed").1;
            let inputs = [layer.preprocess[0].cost(before, cost), layer.preprocess[1].cost(last, cost)];
            (before, last) = (last, cell(layer, inputs, cost));
            shapes.truncate(layer.place.stage);
            shapes.push(last);
        }
        (parts, shapes)
    }
}

#[derive(Debug)]
enum Stem {
    Cifar(ConvNorm),
    /// The first two convolutions; the third.
    Imagenet(Sequential, ConvNorm),
}

impl Stem {
    /// The stem, its channels and the stride of its last output.
    fn new(vb: &VarBuilder, config: &FrameConfig) -> (Self, i64, i64) {
        let c = config.sizes()[0].channels;
        let half = |name: &str, channels, activation| conv_norm(&vb.sub(name), channels, 2, activation);
        match config.stem {
            StemKind::Cifar => {
                let channels = STEM_MULTIPLIER * c;
                (Self::Cifar(conv_norm(vb, (3, channels), 1, Activation::Identity)), channels, 1)
            }
            StemKind::Imagenet => {
                let first = half("0", (3, c / 2), Activation::Relu);
                let first = Sequential::default().add(first).add(half("1", (c / 2, c), Activation::Identity));
                (Self::Imagenet(first, half("2", (c, c), Activation::Identity)), c, 8)
            }
        }
    }

    /// What the first cell takes for the outputs of the two cells before it.
    fn forward(&self, xs: &Tensor, mode: Mode) -> [Tensor; 2] {
        match self {
            Self::Cifar(conv) => {
                let ys = conv.forward(xs, mode);
                [ys.shallow_clone(), ys]
            }
            Self::Imagenet(first, second) => {
                let before = first.forward(xs, mode);
                let last = second.forward(&relu(&before), mode);
                [before, last]
            }
        }
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> [Shape; 2] {
        match self {
            Self::Cifar(conv) => [conv.cost(xs, cost); 2],
            Self::Imagenet(first, second) => {
                let before = first.cost(xs, cost);
                [before, second.cost(before, cost)]
            }
        }
    }
}

fn conv_norm(vb: &VarBuilder, channels: (i64, i64), stride: i64, activation: Activation) -> ConvNorm {
    conv_bn(vb, channels, 3, ConvConfig { stride, ..Default::default() }, BnConfig::default(), activation)
}
