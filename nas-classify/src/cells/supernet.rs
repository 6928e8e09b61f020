//! The relaxed cells: every operator on every edge (DARTS, arXiv 1806.09055), on a part of the channels with weighted edges
//! (PC-DARTS, arXiv 1907.05737), or one bank of edges for each of a node's two inputs (NASNet's form).

use std::cell::RefCell;

use nas_core::arch::Architecture;
use nas_core::nn::{BnConfig, Mode, Module, Op, OpConfig, Shape, VarBuilder};
use nas_core::space::{ArchParameter, Choice, Cost, FeatureInfo, Mixture, Supernet, WeightSharing};
use tch::Tensor;

use super::frame::{Frame, Place};
use super::network::operator;
use super::plan::{Output, Plan, PlannedEdge};
use super::space::{CellForm, CellSpace};

/// Norms of relaxed cells learn no scale: it would undo the architecture weights.
const SEARCH_BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: false };

/// Where the edges into a node, or into one of its two inputs, are in the architecture parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bank {
    pub(super) node: usize,
    pub(super) first_edge: usize,
}

impl Bank {
    pub(super) fn states(self) -> usize {
        2 + self.node
    }
}

impl CellSpace {
    /// One bank for each node, or two where its inputs are chosen apart.
    pub(super) fn banks(&self) -> Vec<Bank> {
        let mut first_edge = 0;
        let slots = if self.form.is_darts() { 1 } else { 2 };
        let nodes = (0..self.form.nodes()).flat_map(|node| std::iter::repeat_n(node, slots));
        nodes
            .map(|node| {
                let bank = Bank { node, first_edge };
                first_edge += bank.states();
                bank
            })
            .collect()
    }

    fn num_edges(&self) -> usize {
        self.banks().iter().map(|bank| bank.states()).sum()
    }

    /// Columns before the operators: DARTS' `none`.
    pub(super) fn none_columns(&self) -> usize {
        usize::from(self.form.is_darts())
    }

    pub(super) fn columns(&self) -> usize {
        self.none_columns() + self.form.ops().len()
    }

    fn weighs_edges(&self) -> bool {
        self.form != CellForm::Darts
    }
}

impl WeightSharing for CellSpace {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(CellSupernet::new(vb, self))
    }

    /// For each structure `alpha_NAME [edges, operators]`, in DARTS' forms with a column of `none` before the operators; then,
    /// in all forms but DARTS', for each `beta_NAME [banks, states]`: a bank is a node, or one of its two inputs where they
    /// are chosen apart.
    fn arch_parameters(&self) -> Vec<ArchParameter> {
        let (groups, banks) = (self.groups(), self.banks());
        let dims = [self.num_edges() as i64, self.columns() as i64];
        let alpha = |name: &String| ArchParameter::new(&format!("alpha_{name}"), &dims, Choice::Operator);
        let width = 1 + self.form.nodes();
        let exists: Vec<bool> = banks.iter().flat_map(|bank| (0..width).map(|state| state < bank.states())).collect();
        let beta = |name: &String| {
            let dims = [banks.len() as i64, width as i64];
            let beta = ArchParameter::new(&format!("beta_{name}"), &dims, Choice::Connection);
            ArchParameter { exists: exists.clone(), ..beta }
        };
        let betas = groups.iter().filter(|_| self.weighs_edges()).map(beta);
        groups.iter().map(alpha).chain(betas).collect()
    }

    /// Each edge keeps its best operator but `none`; each node keeps the two best edges, or the best one for each input. Edges
    /// are compared by the weight of their operator times their own.
    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let groups = self.groups().len();
        let table = |tensor: &Tensor| Vec::<Vec<f64>>::try_from(tensor).expect("a matrix of numbers");
        let mut choices = Vec::new();
        for group in 0..groups {
            let alpha = table(&weights[group]);
            let beta = weights.get(groups + group).map(table);
            let banks = self.banks();
            let ranked: Vec<Vec<(usize, usize)>> = banks
                .iter()
                .enumerate()
                .map(|(row, bank)| {
                    let scored = (0..bank.states()).map(|state| {
                        let ops = &alpha[bank.first_edge + state][self.none_columns()..];
                        let op = (0..ops.len()).rev().max_by(|a, b| ops[*a].total_cmp(&ops[*b])).expect("an operator");
                        (ops[op] * beta.as_ref().map_or(1.0, |beta| beta[row][state]), state, op)
                    });
                    let mut scored: Vec<_> = scored.collect();
                    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
                    scored.into_iter().map(|(_, state, op)| (state, op)).collect()
                })
                .collect();
            for node in 0..self.form.nodes() {
                let inputs = match self.form.is_darts() {
                    true => [ranked[node][0], ranked[node][1]],
                    false => [ranked[2 * node][0], ranked[2 * node + 1][0]],
                };
                choices.extend(self.node_choices(inputs));
            }
        }
        Architecture::new(choices)
    }

    /// Of the derived networks, in DARTS' form: elsewhere an edge's share is a product of two choices.
    fn macs_table(&self, input: Shape) -> Option<(u64, Vec<Vec<f64>>)> {
        if self.weighs_edges() {
            return None;
        }
        let groups = self.groups();
        let tables = vec![vec![0.0; self.num_edges() * self.columns()]; groups.len()];
        let tables = RefCell::new(tables);
        let frame = Frame::new(&VarBuilder::dry(), self.frame(), SEARCH_BN, |_, _| {
            Ok::<_, std::convert::Infallible>(((), self.form.nodes()))
        });
        let Ok(frame) = frame;
        let (parts, _) = frame.cost_parts(input, |layer, inputs, _| {
            let name = self.group(layer.place);
            let group = groups.iter().position(|group| *group == name).expect("every place has a group");
            self.add_macs(&mut tables.borrow_mut()[group], layer.place, inputs)
        });
        Some((parts.iter().map(|(_, cost)| cost.macs).sum(), tables.into_inner()))
    }
}

impl CellSpace {
    /// Adds what each operator takes in a cell on maps of `inputs` to `table`; returns the shape of the cell's output.
    fn add_macs(&self, table: &mut [f64], place: Place, inputs: [Shape; 2]) -> Shape {
        let mut node_shape = inputs[0];
        for bank in self.banks() {
            for (state, op) in
                (0..bank.states()).flat_map(|state| (0..self.form.ops().len()).map(move |op| (state, op)))
            {
                let stride = place.stride(state);
                let config = OpConfig { channels: place.channels, stride, bn: SEARCH_BN, pool_bn: true };
                let layer = operator(&VarBuilder::dry(), self.form.ops()[op], config);
                let mut cost = Cost::default();
                let ys = layer.cost(if state < 2 { inputs[state] } else { node_shape }, &mut cost);
                table[(bank.first_edge + state) * self.columns() + self.none_columns() + op] += cost.macs as f64;
                if state == 0 {
                    node_shape = ys;
                }
            }
        }
        node_shape.with_channels(self.form.nodes() as i64 * place.channels)
    }
}

/// All cells of a [`CellSpace`] at once. Features as those of the derived networks; a node that is not in a cell's output
/// leaves its channels zero.
#[derive(Debug)]
pub struct CellSupernet {
    space: CellSpace,
    /// Structure of each layer.
    groups: Vec<usize>,
    frame: Frame<MixedCell>,
}

impl CellSupernet {
    /// The supernet of `space`.
    pub fn new(vb: &VarBuilder, space: &CellSpace) -> Self {
        let names = space.groups();
        let group = |place| names.iter().position(|name| *name == space.group(place)).expect("every place has a group");
        let groups = space.frame().places().into_iter().map(group).collect();
        let frame = Frame::new(vb, space.frame(), SEARCH_BN, |vb, place| {
            Ok::<_, std::convert::Infallible>((MixedCell::new(vb, space, place), space.form.nodes()))
        });
        let Ok(frame) = frame;
        Self { space: space.clone(), groups, frame }
    }
}

impl Supernet for CellSupernet {
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        let genotype = match mixture {
            Mixture::Path(arch) => {
                Some(self.space.genotype(arch).expect("the architecture is of the supernet's space"))
            }
            _ => None,
        };
        let groups = self.space.groups().len();
        let cell = |group: usize| genotype.as_ref().map(|genotype| &genotype.cells[group].1);
        let plans: Vec<Plan> =
            (0..groups).map(|group| Plan::new(&self.space, mixture, group, groups, cell(group))).collect();
        self.frame.features(xs, mode, |layer, inputs| {
            layer.cell.forward(inputs, &plans[self.groups[layer.place.layer]], mode)
        })
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.frame.feature_info()
    }
}

/// A cell with all operators on all edges.
#[derive(Debug)]
struct MixedCell {
    banks: Vec<Bank>,
    edges: Vec<MixedEdge>,
    nodes: usize,
    stride: i64,
}

impl MixedCell {
    fn new(vb: &VarBuilder, space: &CellSpace, place: Place) -> Self {
        let banks = space.banks();
        let edges = banks.iter().flat_map(|bank| (0..bank.states()).map(|state| (bank.first_edge + state, state)));
        let edge = |(i, state)| MixedEdge::new(&vb.sub("edges").sub(i), space, place, state);
        Self { edges: edges.map(edge).collect(), banks, nodes: space.form.nodes(), stride: place.stride(0) }
    }

    fn forward(&self, [before, last]: [Tensor; 2], plan: &Plan, mode: Mode) -> Tensor {
        let zeros = || strided(&before, self.stride).zeros_like();
        let mut states = vec![before.shallow_clone(), last];
        for node in 0..self.nodes {
            let banks = self.banks.iter().zip(&plan.banks).filter(|(bank, _)| bank.node == node);
            let terms =
                banks.flat_map(|(bank, edges)| edges.iter().map(move |edge| (bank.first_edge + edge.state, edge)));
            let terms = terms.filter_map(|(i, edge)| self.edges[i].forward(&states[edge.state], edge, mode));
            let sum = terms.reduce(|a, b| a + b).unwrap_or_else(zeros);
            states.push(sum);
        }
        let outputs = states[2..].iter().zip(&plan.outputs).map(|(ys, output)| match output {
            Output::Whole => ys.shallow_clone(),
            Output::Zero => ys.zeros_like(),
            Output::Scaled(scale) => ys * scale,
        });
        Tensor::cat(&outputs.collect::<Vec<_>>(), 1)
    }
}

fn strided(xs: &Tensor, stride: i64) -> Tensor {
    xs.slice(2, None, None, stride).slice(3, None, None, stride)
}

/// All operators on one edge, on one of `parts` parts of the channels.
#[derive(Debug)]
struct MixedEdge {
    ops: Vec<Box<dyn Module>>,
    parts: i64,
    stride: i64,
}

impl MixedEdge {
    fn new(vb: &VarBuilder, space: &CellSpace, place: Place, state: usize) -> Self {
        let (parts, stride) = (space.parts(), place.stride(state));
        let config = OpConfig { channels: place.channels / parts, stride, bn: SEARCH_BN, pool_bn: true };
        let op = |op: &Op| operator(&vb.sub(op), *op, config);
        Self { ops: space.form.ops().iter().map(op).collect(), parts, stride }
    }

    /// `None` where the edge contributes nothing.
    fn forward(&self, xs: &Tensor, edge: &PlannedEdge, mode: Mode) -> Option<Tensor> {
        let mixed = |xs: &Tensor| {
            let terms = edge.ops.iter().map(|(op, weight)| {
                let ys = self.ops[*op].forward(xs, mode);
                weight.as_ref().map_or_else(|| ys.shallow_clone(), |weight| &ys * weight)
            });
            terms.reduce(|a, b| a + b)
        };
        let ys = match self.parts {
            1 => mixed(xs)?,
            parts => self.partial(xs, parts, mixed),
        };
        Some(edge.weight.as_ref().map_or_else(|| ys.shallow_clone(), |weight| &ys * weight))
    }

    /// The first part of the channels through the operators, the others around them; then the parts are interleaved, so that
    /// the next edge sees others.
    fn partial(&self, xs: &Tensor, parts: i64, mixed: impl Fn(&Tensor) -> Option<Tensor>) -> Tensor {
        let c = xs.size()[1];
        let (seen, rest) = (xs.narrow(1, 0, c / parts), xs.narrow(1, c / parts, c - c / parts));
        let around = match self.stride {
            1 => rest,
            stride => rest.max_pool2d([stride; 2], [stride; 2], [0, 0], [1, 1], true),
        };
        let through = mixed(&seen).unwrap_or_else(|| strided(&seen, self.stride).zeros_like());
        Tensor::cat(&[through, around], 1).channel_shuffle(parts)
    }
}
