//! The choices: for each layer its operator, then for each layer before it whether its output is added.

use anyhow::{Result, ensure};
use nas_core::nn::{Op, VarBuilder};
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::Architecture;
use nas_core::space::{
    ArchParameter, Backbone, Choice, ChoiceSpace, Graph, InvalidArchitecture, SearchSpace, Supernet, WeightSharing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::network::{ChainNetwork, ChainSupernet};

/// Operators in the order of their numbers.
pub(super) const OPS: [Op; 6] =
    [Op::Conv3x3, Op::Conv5x5, Op::SepConv3x3, Op::SepConv5x5, Op::AvgPool3x3, Op::MaxPool3x3];
const STAGES: usize = 3;

/// Sizes of the space. The defaults are ENAS' for CIFAR-10; channels double where the map is halved, at one and two thirds
/// of the depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChainSpace {
    /// Layers.
    pub layers: usize,
    /// Channels of the first stage.
    pub channels: i64,
}

impl Default for ChainSpace {
    fn default() -> Self {
        Self { layers: 12, channels: 36 }
    }
}

impl ChainSpace {
    /// Says which key has an impossible value.
    pub fn check(&self) -> Result<()> {
        let Self { layers, channels } = self;
        ensure!((STAGES..=60).contains(layers), "space.layers = {layers}: expected {STAGES} to 60");
        ensure!((2..=4096).contains(channels), "space.channels = {channels}: expected 2 to 4096");
        Ok(())
    }

    /// Halvings before `layer` computes.
    pub(super) fn stage(&self, layer: usize) -> usize {
        [self.layers / 3, 2 * self.layers / 3].iter().filter(|start| **start <= layer).count()
    }

    /// First layers of the second and the third stage.
    pub(super) fn starts(&self) -> [usize; STAGES - 1] {
        [self.layers / 3, 2 * self.layers / 3]
    }

    /// Row of the connection `from` -> `to` among all.
    pub(super) fn connection(from: usize, to: usize) -> usize {
        to * (to - 1) / 2 + from
    }

    /// Where a layer's operator is among the choices; its connections follow.
    fn position(layer: usize) -> usize {
        layer + layer * layer.saturating_sub(1) / 2
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        let of_layer = |layer: usize| {
            let adds = (0..layer).map(move |from| Decision::new(format!("{layer}<-{from}"), ["no", "yes"]));
            std::iter::once(Decision::new(format!("layer {layer}"), OPS)).chain(adds)
        };
        (0..self.layers).flat_map(of_layer).collect()
    }

    /// Operator of a node of an architecture's graph.
    pub fn label(label: u16) -> String {
        OPS[usize::from(label - 2)].to_string()
    }

    /// Operator of a layer of an architecture of the space.
    pub fn op_of(arch: &Architecture, layer: usize) -> Op {
        OPS[Self::op(arch, layer)]
    }

    /// From and to of the connections that an architecture adds beside those from the layer just before, layers counted from 1.
    pub fn skips(&self, arch: &Architecture) -> impl Iterator<Item = (usize, usize)> {
        let pairs = (0..self.layers).flat_map(|to| (0..to.saturating_sub(1)).map(move |from| (from, to)));
        pairs.filter(|(from, to)| Self::connects(arch, *from, *to)).map(|(from, to)| (from + 1, to + 1))
    }

    /// Operator number of a layer of an architecture.
    pub(super) fn op(arch: &Architecture, layer: usize) -> usize {
        usize::from(arch.choices()[Self::position(layer)])
    }

    /// Whether an architecture adds the output of `from` in `to`.
    pub(super) fn connects(arch: &Architecture, from: usize, to: usize) -> bool {
        arch.choices()[Self::position(to) + 1 + from] == 1
    }
}

impl ChoiceSpace for ChainSpace {
    fn name(&self) -> &str {
        "chain"
    }

    fn decisions(&self) -> Vec<u16> {
        let layer = |layer: usize| std::iter::once(OPS.len() as u16).chain(std::iter::repeat_n(2, layer));
        (0..self.layers).flat_map(layer).collect()
    }

    /// Layers as nodes. A connection from the layer just before is the edge that is there anyway.
    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        self.validate(arch).ok()?;
        let ops = (0..self.layers).map(|layer| 2 + Self::op(arch, layer) as u16);
        let labels = std::iter::once(0).chain(ops).chain(std::iter::once(1)).collect();
        let mut edges: Vec<(usize, usize)> = (0..=self.layers).map(|node| (node, node + 1)).collect();
        edges.extend(self.skips(arch));
        Some(Graph { labels, edges })
    }
}

impl SearchSpace for ChainSpace {
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        self.validate(arch)?;
        Ok(Box::new(ChainNetwork::new(vb, self, arch)))
    }
}

impl WeightSharing for ChainSpace {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(ChainSupernet::new(vb, self))
    }

    /// `op [layers, 6]` and `skip [connections, 2]` (absent, present) with the connections 0->1, 0->2, 1->2, 0->3, ….
    fn arch_parameters(&self) -> Vec<ArchParameter> {
        let layers = self.layers as i64;
        vec![
            ArchParameter::new("op", &[layers, OPS.len() as i64], Choice::Operator),
            ArchParameter::new("skip", &[layers * (layers - 1) / 2, 2], Choice::Connection),
        ]
    }

    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let [ops, skips] =
            [0, 1].map(|i| Vec::<i64>::try_from(weights[i].argmax(1, false)).expect("a choice for each row"));
        let layer = |to: usize| {
            let skips = (0..to).map(|from| skips[Self::connection(from, to)] as u16).collect::<Vec<_>>();
            std::iter::once(ops[to] as u16).chain(skips)
        };
        Architecture::new((0..self.layers).flat_map(layer).collect())
    }
}
