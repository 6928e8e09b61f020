//! The relaxed cells: every operator on every edge (DARTS, arXiv 1806.09055), on a part of the channels with weighted edges
//! (PC-DARTS, arXiv 1907.05737), or one bank of edges for each of a node's two inputs (NASNet's form).

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, BnConfig, Mode, Module, Op, OpConfig, Shape, Shared, Sum, VarBuilder, dropout};
use nas_core::space::Architecture;
use nas_core::space::{ArchParameter, Choice, FeatureInfo, Mixture, Supernet, WeightSharing};
use tch::Tensor;

use super::frame::{Frame, Place};
use super::joint;
use super::network::operator;
use super::plan::{Output, Plan};
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

    /// Where structures are shared by cells, so that their number does not follow the depth.
    fn with_layers(&self, layers: usize) -> Option<Rc<dyn WeightSharing>> {
        let space = CellSpace { layers, ..self.clone() };
        (space.check().is_ok() && space.groups() == self.groups()).then(|| Rc::new(space) as Rc<dyn WeightSharing>)
    }

    fn skip_connects(&self, arch: &Architecture) -> Vec<(usize, usize)> {
        let genotype = self.genotype(arch).expect("the architecture is of this space");
        let skip = self.form.ops().iter().position(|op| *op == Op::SkipConnect).expect("every form has an identity");
        let banks = self.banks();
        let normal = |place: &Place| !place.reduction;
        let normal: Vec<String> = self.frame().places().into_iter().filter(normal).map(|p| self.group(p)).collect();
        let cells = genotype.cells.iter().enumerate().filter(|(_, (name, _))| normal.contains(name));
        let inputs = cells.flat_map(|(group, (_, cell))| {
            let banks_of_node = banks.len() / cell.nodes.len();
            let edges = cell
                .nodes
                .iter()
                .enumerate()
                .flat_map(|(node, edges)| edges.iter().enumerate().map(move |e| (node, e)));
            edges.map(move |(node, (slot, edge))| (group, node * banks_of_node + slot.min(banks_of_node - 1), edge))
        });
        let skips = inputs.filter(|(_, _, edge)| edge.op == Op::SkipConnect);
        let entry =
            |bank: usize, state: usize| (banks[bank].first_edge + state) * self.columns() + self.none_columns() + skip;
        skips.map(|(group, bank, edge)| (group, entry(bank, edge.state))).collect()
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
    joint: joint::Places,
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
        Self { space: space.clone(), groups, frame, joint: joint::Places::default() }
    }
}

impl CellSupernet {
    /// All edges of a state in few operators.
    fn features_jointly(&self, xs: &Tensor, alphas: &[Tensor], mode: Mode) -> Vec<Tensor> {
        let cells: Vec<&MixedCell> = self.frame.layers().iter().map(|layer| &layer.cell).collect();
        let kernels = joint::kernels(&cells, &self.joint);
        self.frame.features_of(xs, true, mode, |layer, inputs| {
            let layer_number = layer.place.layer;
            let alpha = &alphas[self.groups[layer_number]];
            joint::forward(&layer.cell, inputs, alpha, (&kernels[layer_number], &self.joint), mode)
        })
    }
}

impl Supernet for CellSupernet {
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        if let Mixture::Weights(alphas) = mixture
            && self.space.form == CellForm::Darts
            && xs.device().is_cuda()
            && mode.train
            && BatchNorm::is_joint(mode)
        {
            return self.features_jointly(xs, alphas, mode);
        }
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

/// A cell with all operators on all edges, on one of `parts` parts of the channels.
#[derive(Debug)]
pub(super) struct MixedCell {
    pub(super) banks: Vec<Bank>,
    /// Operators of each edge.
    pub(super) edges: Vec<Vec<Box<dyn Module>>>,
    /// Number of the identity among the operators.
    skip: Option<usize>,
    pub(super) place: Place,
    pub(super) nodes: usize,
    parts: i64,
}

impl MixedCell {
    fn new(vb: &VarBuilder, space: &CellSpace, place: Place) -> Self {
        let (banks, parts) = (space.banks(), space.parts());
        let edges = banks.iter().flat_map(|bank| (0..bank.states()).map(|state| (bank.first_edge + state, state)));
        let edge = |(i, state): (usize, usize)| {
            let channels = place.channels / parts;
            let config = OpConfig { channels, stride: place.stride(state), bn: SEARCH_BN, pool_bn: true };
            let op = |op: &Op| operator(&vb.sub("edges").sub(i).sub(op), *op, config);
            space.form.ops().iter().map(op).collect()
        };
        let skip = space.form.ops().iter().position(|op| *op == Op::SkipConnect);
        Self { edges: edges.map(edge).collect(), banks, skip, place, nodes: space.form.nodes(), parts }
    }

    fn forward(&self, inputs: [Tensor; 2], plan: &Plan, mode: Mode) -> Tensor {
        let state = |(i, xs)| State::new(xs, self.parts, self.place.stride(i));
        let mut states: Vec<State> = inputs.into_iter().enumerate().map(state).collect();
        for node in 0..self.nodes {
            let xs = self.node(node, &states, plan, mode);
            states.push(State::new(xs, self.parts, 1));
        }
        let last = states.len() - 1;
        let outputs = (2..).zip(&plan.outputs).map(|(i, output)| (i, &states[i].whole, output));
        let outputs = outputs.map(|(i, xs, output)| match output {
            // The gradient of a concatenation is a strided view. The last node has no other gradient that would make it
            // dense, and norms walk over a strided one slowly.
            Output::Whole if i == last => xs * 1.0,
            Output::Whole => xs.shallow_clone(),
            Output::Zero => xs.zeros_like(),
            Output::Scaled(scale) => xs * scale,
        });
        Tensor::cat(&outputs.collect::<Vec<_>>(), 1)
    }

    /// The sum of a node's edges. The channels that go around the operators are interleaved with the others, so that the next
    /// edge sees others; as this is linear, it is done once for all edges.
    fn node(&self, node: usize, states: &[State], plan: &Plan, mode: Mode) -> Tensor {
        let (mut through, mut around) = (Sum::default(), Sum::default());
        for (bank, edges) in self.banks.iter().zip(&plan.banks).filter(|(bank, _)| bank.node == node) {
            for edge in edges {
                let state = &states[edge.state];
                let ops = &self.edges[bank.first_edge + edge.state];
                for (op, weight) in &edge.ops {
                    let scale = product(edge.weight.as_ref(), weight.as_ref());
                    let drops = mode.train && plan.skip_dropout > 0.0 && state.stride == 1 && Some(*op) == self.skip;
                    let dropped = drops.then(|| Shared::new(&dropout(state.seen.map(), plan.skip_dropout, true)));
                    let seen = dropped.as_ref().unwrap_or(&state.seen);
                    through.add(ops[*op].forward_shared(seen, scale.as_ref(), mode));
                }
                if self.parts > 1 {
                    let rest = state.around();
                    around.add(edge.weight.as_ref().map_or_else(|| rest.shallow_clone(), |weight| &rest * weight));
                }
            }
        }
        let zeros = |xs: &Tensor| strided(xs, self.place.stride(0)).zeros_like();
        match (through.total(), around.total()) {
            (through, None) => through.unwrap_or_else(|| zeros(&states[0].whole)),
            (through, Some(around)) => {
                let through = through.unwrap_or_else(|| zeros(states[0].seen.map()));
                Tensor::cat(&[through, around], 1).channel_shuffle(self.parts)
            }
        }
    }
}

/// The product of what there is of two numbers.
fn product(a: Option<&Tensor>, b: Option<&Tensor>) -> Option<Tensor> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a * b),
        (one, other) => one.or(other).map(Tensor::shallow_clone),
    }
}

/// A state as the edges that leave it need it.
#[derive(Debug)]
struct State {
    whole: Tensor,
    /// The first part of the channels, which goes through the operators.
    seen: Shared,
    stride: i64,
    around: OnceCell<Tensor>,
}

impl State {
    fn new(whole: Tensor, parts: i64, stride: i64) -> Self {
        let seen = match parts {
            1 => Shared::new(&whole),
            parts => Shared::new(&whole.narrow(1, 0, whole.size()[1] / parts)),
        };
        Self { whole, seen, stride, around: OnceCell::new() }
    }

    /// The channels that go around the operators.
    fn around(&self) -> Tensor {
        let around = || {
            let seen = self.seen.map().size()[1];
            let rest = self.whole.narrow(1, seen, self.whole.size()[1] - seen);
            match self.stride {
                1 => rest,
                stride => rest.max_pool2d([stride; 2], [stride; 2], [0, 0], [1, 1], true),
            }
        };
        self.around.get_or_init(around).shallow_clone()
    }
}

fn strided(xs: &Tensor, stride: i64) -> Tensor {
    xs.slice(2, None, None, stride).slice(3, None, None, stride)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, nn::VarStore};

    /// Maps, gradients and running statistics in double precision, on sides that halve evenly and on others.
    #[test]
    fn all_edges_of_a_state_at_once_are_each_by_itself() {
        let space = CellSpace { layers: 3, channels: 4, ..Default::default() };
        for (side, average) in [(12, false), (13, true)] {
            let run = |jointly: bool| {
                tch::manual_seed(4);
                let mut vs = VarStore::new(Device::Cpu);
                let net = CellSupernet::new(&VarBuilder::new(&vs), &space);
                vs.double();
                let leaf = |xs: Tensor| xs.set_requires_grad(true);
                let random = |dims: &[i64]| Tensor::rand(dims, (Kind::Double, Device::Cpu));
                let alphas: Vec<Tensor> = [0, 1].map(|_| leaf(random(&[14, 8]))).into();
                let images = leaf(random(&[3, 3, side, side]) * 2.0 - 1.0);
                let _average = average.then(nas_core::nn::AverageAll::start);
                let mut found = Vec::new();
                let mut variables: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
                variables.sort_by(|a, b| a.0.cmp(&b.0));
                let trained = variables.iter().map(|(_, tensor)| tensor).filter(|tensor| tensor.requires_grad());
                let inputs: Vec<&Tensor> = alphas.iter().chain([&images]).chain(trained).collect();
                for _ in 0..2 {
                    let maps = match jointly {
                        true => net.features_jointly(&images, &alphas, Mode::train(0.0)),
                        false => net.features(&images, Mixture::Weights(&alphas), Mode::train(0.0)),
                    };
                    let loss = maps.iter().map(|map| (map * random(&map.size())).mean(Kind::Double)).sum::<Tensor>();
                    found.extend(Tensor::run_backward(&[loss], &inputs, false, false));
                    found.extend(maps.iter().map(Tensor::detach));
                }
                found.extend(variables.into_iter().map(|(_, tensor)| tensor));
                found
            };
            let [found, expected] = [true, false].map(run);
            assert_eq!(found.len(), expected.len());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let scale = expected.abs().max().double_value(&[]).max(1e-2);
                let error = (found - expected).abs().max().double_value(&[]) / scale;
                assert!(error < 1e-9, "side {side}, {i}: off by {error:.1e}");
            }
        }
    }
}
