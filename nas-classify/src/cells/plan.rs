//! What a mixture asks of the relaxed cells, worked out once for each pass.

use nas_core::space::Mixture;
use tch::Tensor;

use super::genotype::{Cell, Edge};
use super::space::CellSpace;
use super::supernet::Bank;

/// What a forward pass computes in the cells of one structure. A weight of `None` stands for 1.
#[derive(Debug)]
pub(super) struct Plan {
    /// `[bank]`: the states it takes.
    pub(super) banks: Vec<Vec<PlannedEdge>>,
    /// Scale of each node in the output.
    pub(super) outputs: Vec<Output>,
    /// Share of the values behind an identity that are dropped while training.
    pub(super) skip_dropout: f64,
}

#[derive(Debug)]
pub(super) struct PlannedEdge {
    pub(super) state: usize,
    pub(super) weight: Option<Tensor>,
    /// Operators, without `none`.
    pub(super) ops: Vec<(usize, Option<Tensor>)>,
}

#[derive(Debug)]
pub(super) enum Output {
    Whole,
    Zero,
    Scaled(Tensor),
}

impl Plan {
    /// The plan of `group` of `groups` under `mixture`.
    pub(super) fn new(space: &CellSpace, mixture: Mixture, group: usize, groups: usize, cell: Option<&Cell>) -> Self {
        let (weights, active, skip_dropout) = match mixture {
            Mixture::Path(_) => return Self::path(space, cell.expect("a path has cells")),
            Mixture::Weights(weights) => (weights, None, 0.0),
            Mixture::Sampled { weights, active, skip_dropout, .. } => (weights, Some(active), skip_dropout),
        };
        let is_active = |tensor: usize, i: usize| active.is_none_or(|active| active[tensor][i]);
        let scalars = |tensor: usize| weights.get(tensor).map(|weights| weights.reshape([-1]).unbind(0));
        let alpha = scalars(group).expect("weights of the operators");
        let beta = scalars(groups + group);
        let (columns, nones, width) = (space.columns(), space.none_columns(), 1 + space.form.nodes());
        let bank = |(row, bank): (usize, Bank)| {
            let states =
                (0..bank.states()).filter(|state| beta.is_none() || is_active(groups + group, row * width + state));
            let edges = states.map(|state| {
                let first = (bank.first_edge + state) * columns + nones;
                let ops = (0..columns - nones).filter(|op| is_active(group, first + op));
                PlannedEdge {
                    state,
                    weight: beta.as_ref().map(|beta| beta[row * width + state].shallow_clone()),
                    ops: ops.map(|op| (op, Some(alpha[first + op].shallow_clone()))).collect(),
                }
            });
            edges.collect()
        };
        let banks = space.banks().into_iter().enumerate().map(bank).collect();
        let outputs = (0..space.form.nodes()).map(|node| match (&beta, space.form.is_darts()) {
            (Some(beta), false) => unused(space, beta, width, node),
            _ => Output::Whole,
        });
        Self { banks, outputs: outputs.collect(), skip_dropout }
    }

    fn path(space: &CellSpace, cell: &Cell) -> Self {
        let planned = |edge: &Edge| {
            let op = space.form.ops().iter().position(|op| *op == edge.op).expect("an operator of the space");
            PlannedEdge { state: edge.state, weight: None, ops: vec![(op, None)] }
        };
        let banks = match space.form.is_darts() {
            true => cell.nodes.iter().map(|edges| edges.iter().map(planned).collect()).collect(),
            false => cell.nodes.iter().flatten().map(|edge| vec![planned(edge)]).collect(),
        };
        let output = |state| if cell.concat.contains(&state) { Output::Whole } else { Output::Zero };
        Self { banks, outputs: (2..2 + cell.nodes.len()).map(output).collect(), skip_dropout: 0.0 }
    }
}

/// The probability that no later input takes `node`, where inputs are drawn by their weights.
fn unused(space: &CellSpace, beta: &[Tensor], width: usize, node: usize) -> Output {
    let later = space.banks().into_iter().enumerate().filter(|(_, bank)| bank.node > node);
    let product = later.map(|(row, _)| 1.0 - &beta[row * width + 2 + node]).reduce(|a, b| a * b);
    product.map_or(Output::Whole, Output::Scaled)
}
