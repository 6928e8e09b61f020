//! Cell spaces as choices: DARTS (arXiv 1806.09055), also in PC-DARTS' form (arXiv 1907.05737), and NASNet's, ENAS' and
//! AmoebaNet's (arXiv 1707.07012, 1802.03268, 1802.01548). Every combination of choices is an architecture.

use anyhow::{Result, ensure};
use nas_core::nn::{Op, VarBuilder};
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::Architecture;
use nas_core::space::{Backbone, ChoiceSpace, Graph, InvalidArchitecture, SearchSpace};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::frame::{FrameConfig, Place, StemKind};
use super::genotype::{Cell, Edge, Genotype};
use super::network::{NetworkConfig, Trunk};

/// Whose cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellForm {
    /// Four nodes with two different inputs each, seven operators; the output has all nodes.
    #[default]
    Darts,
    /// DARTS' cell whose supernet computes on a part of the channels and weighs edges.
    PcDarts,
    /// Five nodes of two inputs, which may be one, and thirteen operators; the output has the nodes that no other takes.
    Nasnet,
    /// NASNet's form with five operators.
    Enas,
    /// NASNet's form with eight operators.
    Amoebanet,
}

impl CellForm {
    /// The operators, in the order of their numbers.
    pub fn ops(self) -> &'static [Op] {
        use Op::*;
        match self {
            Self::Darts | Self::PcDarts => {
                &[MaxPool3x3, AvgPool3x3, SkipConnect, SepConv3x3, SepConv5x5, DilConv3x3, DilConv5x5]
            }
            Self::Nasnet => &[
                SkipConnect,
                Conv3x1And1x3,
                Conv7x1And1x7,
                DilConv3x3,
                AvgPool3x3,
                MaxPool3x3,
                MaxPool5x5,
                MaxPool7x7,
                Conv1x1,
                Conv3x3,
                SepConv3x3,
                SepConv5x5,
                SepConv7x7,
            ],
            Self::Enas => &[SkipConnect, SepConv3x3, SepConv5x5, AvgPool3x3, MaxPool3x3],
            Self::Amoebanet => {
                &[SkipConnect, SepConv3x3, SepConv5x5, SepConv7x7, AvgPool3x3, MaxPool3x3, DilConv3x3, Conv7x1And1x7]
            }
        }
    }

    /// Nodes of a cell.
    pub fn nodes(self) -> usize {
        if self.is_darts() { 4 } else { 5 }
    }

    pub(super) fn is_darts(self) -> bool {
        matches!(self, Self::Darts | Self::PcDarts)
    }
}

/// How many structures a network has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// One for all normal cells and one for all reductions.
    #[default]
    All,
    /// One for the normal cells of each stage and one for each reduction.
    Stage,
    /// One for each cell.
    None,
}

/// A space of cells in the frame of DARTS. The defaults are those of DARTS' search on CIFAR-10.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CellSpace {
    /// Whose cell.
    pub form: CellForm,
    /// How many structures a network has.
    pub share: Share,
    /// Cells of the networks.
    pub layers: usize,
    /// Channels of a node in the first cell.
    pub channels: i64,
    /// What comes before the cells.
    pub stem: StemKind,
    /// The supernet's operators see one of this many parts of the channels; 0 for the form's own: 4 for PC-DARTS, else 1.
    pub partial_channels: i64,
}

impl Default for CellSpace {
    fn default() -> Self {
        let (form, share) = Default::default();
        Self { form, share, layers: 8, channels: 16, stem: StemKind::Cifar, partial_channels: 0 }
    }
}

impl CellSpace {
    /// Says which key has an impossible value.
    pub fn check(&self) -> Result<()> {
        self.frame().validate("space")?;
        let parts = self.parts();
        ensure!(
            parts > 0 && self.channels % parts == 0,
            "space.partial_channels = {}: expected a divisor of channels = {}",
            self.partial_channels,
            self.channels
        );
        Ok(())
    }

    pub(super) fn frame(&self) -> FrameConfig {
        FrameConfig { channels: self.channels, layers: self.layers, stem: self.stem, stages: Vec::new() }
    }

    /// One of how many parts of the channels the supernet's operators see.
    pub(super) fn parts(&self) -> i64 {
        match (self.partial_channels, self.form) {
            (0, CellForm::PcDarts) => 4,
            (0, _) => 1,
            (parts, _) => parts,
        }
    }

    /// Names of the structures, as in a [`Genotype`].
    pub fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = Vec::new();
        for place in self.frame().places() {
            let name = self.group(place);
            if !groups.contains(&name) {
                groups.push(name);
            }
        }
        groups
    }

    /// Name of the structure of the cell at `place`.
    pub(super) fn group(&self, place: Place) -> String {
        let kind = if place.reduction { "reduce" } else { "normal" };
        match self.share {
            Share::All => kind.to_string(),
            Share::Stage => format!("{kind}_{}", place.number()),
            Share::None => format!("cell_{}", place.layer),
        }
    }

    fn cell_decisions(&self) -> Vec<u16> {
        let ops = self.form.ops().len() as u16;
        let node = |node: usize| {
            let states = 2 + node as u16;
            if self.form.is_darts() {
                vec![states * (states - 1) / 2, ops, ops]
            } else {
                vec![states, states, ops, ops]
            }
        };
        (0..self.form.nodes()).flat_map(node).collect()
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        let ops = self.form.ops();
        let of_node = |(cell, node): (&String, usize)| {
            let named = |what: &str| format!("{cell} {node} {what}");
            let states = 2 + node;
            let operators = ["first", "second"].map(|which| Decision::new(named(&format!("{which} operator")), ops));
            let inputs = match self.form.is_darts() {
                true => {
                    let pairs = (0..states * (states - 1) / 2).map(pair);
                    vec![Decision::new(named("states"), pairs.map(|(a, b)| format!("{a}+{b}")))]
                }
                false => {
                    let input = |which| Decision::new(named(&format!("{which} state")), 0..states);
                    vec![input("first"), input("second")]
                }
            };
            inputs.into_iter().chain(operators)
        };
        let groups = self.groups();
        groups.iter().flat_map(|cell| (0..self.form.nodes()).map(move |node| (cell, node))).flat_map(of_node).collect()
    }

    /// Name of a node of an architecture's graph: cell, and operator or state that comes in.
    pub fn label(&self, label: u16) -> String {
        let (ops, groups) = (self.form.ops(), self.groups());
        let (group, of_cell) = (usize::from(label - 2) / (2 + ops.len()), usize::from(label - 2) % (2 + ops.len()));
        let what = match of_cell {
            0 => "c_{k-2}".to_string(),
            1 => "c_{k-1}".to_string(),
            op => ops[op - 2].to_string(),
        };
        if groups.len() > 1 { format!("{} {what}", groups[group]) } else { what }
    }

    /// The cells of an architecture.
    pub fn genotype(&self, arch: &Architecture) -> Result<Genotype, InvalidArchitecture> {
        self.validate(arch)?;
        let choices: Vec<usize> = arch.choices().iter().map(|choice| usize::from(*choice)).collect();
        let per_cell = self.cell_decisions().len();
        let cells =
            self.groups().into_iter().zip(choices.chunks(per_cell)).map(|(name, choices)| (name, self.cell(choices)));
        Ok(Genotype { cells: cells.collect() })
    }

    fn cell(&self, choices: &[usize]) -> Cell {
        let edge = |state: usize, op: usize| Edge { state, op: self.form.ops()[op] };
        match self.form.is_darts() {
            true => {
                let node = |node: &[usize]| {
                    let (a, b) = pair(node[0]);
                    [edge(a, node[1]), edge(b, node[2])]
                };
                Cell::dense(choices.chunks(3).map(node).collect())
            }
            false => {
                let node = |node: &[usize]| [edge(node[0], node[2]), edge(node[1], node[3])];
                Cell::loose_ends(choices.chunks(4).map(node).collect())
            }
        }
    }

    /// The choices of a node with these edges (state, operator number).
    pub(super) fn node_choices(&self, [mut a, mut b]: [(usize, usize); 2]) -> Vec<u16> {
        if self.form.is_darts() {
            if a.0 > b.0 {
                (a, b) = (b, a);
            }
            [b.0 * (b.0 - 1) / 2 + a.0, a.1, b.1].map(|n| n as u16).to_vec()
        } else {
            [a.0, b.0, a.1, b.1].map(|n| n as u16).to_vec()
        }
    }

    /// The architecture of a genotype whose cells are of this space; the reason where they are not.
    pub fn architecture(&self, genotype: &Genotype) -> Result<Architecture, String> {
        let mut choices = Vec::new();
        for name in self.groups() {
            let found = genotype.cells.iter().find(|(known, _)| *known == name);
            let (_, cell) = found.ok_or_else(|| format!("no cell {name}"))?;
            for edges in &cell.nodes {
                let number = |edge: &Edge| {
                    let op = self.form.ops().iter().position(|op| *op == edge.op);
                    op.map(|op| (edge.state, op))
                        .ok_or_else(|| format!("{name} has {}, which is not of the space", edge.op))
                };
                let [a, b] = [number(&edges[0])?, number(&edges[1])?];
                if self.form.is_darts() && a.0 == b.0 {
                    return Err(format!("a node of {name} takes state {} twice", a.0));
                }
                choices.extend(self.node_choices([a, b]));
            }
        }
        let arch = Architecture::new(choices);
        match self.genotype(&arch) {
            Ok(_) => Ok(arch),
            Err(error) => Err(error.reason),
        }
    }

    /// The network of an architecture with this space's sizes.
    pub fn network(&self, arch: &Architecture) -> Result<NetworkConfig, InvalidArchitecture> {
        Ok(NetworkConfig {
            genotype: self.genotype(arch)?,
            form: self.form,
            share: self.share,
            channels: self.channels,
            layers: self.layers,
            stem: self.stem,
            auxiliary: false,
            drop_path: 0.0,
            pool_norm: false,
            stages: Vec::new(),
        })
    }
}

/// The pair (a, b), `a < b`, at `index` of (0,1), (0,2), (1,2), (0,3), …
fn pair(index: usize) -> (usize, usize) {
    let b = (1..).find(|b| b * (b + 1) / 2 > index).expect("triangular numbers grow");
    (index - b * (b - 1) / 2, b)
}

impl ChoiceSpace for CellSpace {
    fn name(&self) -> &str {
        "cells"
    }

    fn decisions(&self) -> Vec<u16> {
        self.cell_decisions().repeat(self.groups().len())
    }

    /// The cells side by side between one input and one output, operators as nodes. States 0 and 1 of a cell are nodes too.
    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        const OUTPUT: u16 = 1;
        let genotype = self.genotype(arch).ok()?;
        let (mut labels, mut edges, mut outputs) = (vec![0], Vec::new(), Vec::new());
        for (group, (_, cell)) in genotype.cells.iter().enumerate() {
            let base = 2 + group as u16 * (2 + self.form.ops().len() as u16);
            let mut sources: Vec<Vec<usize>> = Vec::new();
            for state in 0..2 {
                edges.push((0, labels.len()));
                sources.push(vec![labels.len()]);
                labels.push(base + state);
            }
            for inputs in &cell.nodes {
                let mut node = Vec::new();
                for edge in inputs {
                    let op = self.form.ops().iter().position(|op| *op == edge.op).expect("an operator of the space");
                    edges.extend(sources[edge.state].iter().map(|source| (*source, labels.len())));
                    node.push(labels.len());
                    labels.push(base + 2 + op as u16);
                }
                sources.push(node);
            }
            outputs.extend(cell.concat.iter().flat_map(|state| sources[*state].clone()));
        }
        edges.extend(outputs.into_iter().map(|node| (node, labels.len())));
        labels.push(OUTPUT);
        Some(Graph { labels, edges })
    }
}

impl SearchSpace for CellSpace {
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        let trunk = Trunk::new(vb, &self.network(arch)?).expect("the genotype has every cell");
        Ok(Box::new(trunk))
    }
}
