//! NAS-Bench-201 as a space of networks that share weights: all five operators on every edge.

use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Mode, Module, Shape, VarBuilder, relu};
use nas_core::space::Architecture;
use nas_core::space::{
    ArchParameter, Backbone, Choice, ChoiceSpace, FeatureInfo, Graph, InvalidArchitecture, Mixture, SearchSpace,
    Supernet, WeightSharing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::network::{Edge, NetworkConfig, Reduction, STAGES, Trunk};
use super::space::{EDGES, NasBench201, OPS};

/// Norms of relaxed cells learn no scale: it would undo the architecture weights.
const SEARCH_BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: false };
const NONE: usize = 0;

/// The cells of NAS-Bench-201 in networks of a given size. The defaults are the benchmark's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NasBench201Nets {
    /// Channels of the first stage.
    pub channels: i64,
    /// Cells of each of the three stages.
    pub cells: usize,
}

impl Default for NasBench201Nets {
    fn default() -> Self {
        let NetworkConfig { channels, cells, .. } = Default::default();
        Self { channels, cells }
    }
}

impl NasBench201Nets {
    fn config(&self) -> NetworkConfig {
        NetworkConfig { channels: self.channels, cells: self.cells, ..Default::default() }
    }

    /// Says which key has an impossible value.
    pub fn check(&self) -> anyhow::Result<()> {
        self.config().validate()
    }
}

impl ChoiceSpace for NasBench201Nets {
    fn name(&self) -> &str {
        NasBench201.name()
    }

    fn decisions(&self) -> Vec<u16> {
        NasBench201.decisions()
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        NasBench201.validate(arch)
    }

    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        NasBench201.graph(arch)
    }
}

impl SearchSpace for NasBench201Nets {
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        self.validate(arch)?;
        let choices = arch.choices().try_into().expect("a valid architecture has six choices");
        Ok(Box::new(Trunk::new(vb, &self.config().sizes(), choices).expect("sizes that were checked")))
    }
}

impl WeightSharing for NasBench201Nets {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(NasBench201Supernet::new(vb, *self))
    }

    /// `alpha [6, 5]`.
    fn arch_parameters(&self) -> Vec<ArchParameter> {
        vec![ArchParameter::new("alpha", &[EDGES.len() as i64, OPS.len() as i64], Choice::Operator)]
    }

    fn adds_undrawn(&self) -> bool {
        true
    }

    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let best = Vec::<i64>::try_from(weights[0].argmax(1, false)).expect("a row for each edge");
        Architecture::new(best.into_iter().map(|op| op as u16).collect())
    }

    fn macs_table(&self, input: Shape) -> Option<(u64, Vec<Vec<f64>>)> {
        let macs = |choices: [u16; 6]| {
            let trunk =
                Trunk::new(&VarBuilder::dry(), &self.config().sizes(), choices).expect("sizes that were checked");
            let (parts, _) = trunk.cost_parts(input);
            parts.into_iter().map(|(_, Cost { macs, .. })| macs).sum::<u64>()
        };
        let fixed = macs([NONE as u16; 6]);
        let entry = |edge: usize, op: usize| {
            let mut choices = [NONE as u16; 6];
            choices[edge] = op as u16;
            (macs(choices) - fixed) as f64
        };
        let alpha = (0..EDGES.len()).flat_map(|edge| (0..OPS.len()).map(move |op| (edge, op)));
        Some((fixed, vec![alpha.map(|(edge, op)| entry(edge, op)).collect()]))
    }
}

/// Stem, relaxed cells and reductions. Features as those of [`Trunk`].
#[derive(Debug)]
pub struct NasBench201Supernet {
    stem: (Conv2d, BatchNorm),
    stages: Vec<(Option<Reduction>, Vec<MixedCell>)>,
    last_norm: BatchNorm,
    channels: i64,
}

impl NasBench201Supernet {
    /// The supernet of networks of the given size.
    pub fn new(vb: &VarBuilder, NasBench201Nets { channels, cells }: NasBench201Nets) -> Self {
        let stem = vb.sub("stem");
        let conv = Conv2d::new(&stem.sub(0), 3, channels, 3, ConvConfig::default());
        let stem = (conv, BatchNorm::new(&stem.sub(1), channels, BnConfig::default()));
        let mut layers = (0..).map(|i| vb.sub("cells").sub(i));
        let mut next = || layers.next().expect("without end");
        let stages = (0..STAGES).map(|i| {
            let c = channels << i;
            let reduction = (i > 0).then(|| Reduction::new(&next(), c / 2, c));
            (reduction, (0..cells).map(|_| MixedCell::new(&next(), c)).collect())
        });
        let stages = stages.collect();
        let last_norm = BatchNorm::new(&vb.sub("lastact").sub(0), channels << (STAGES - 1), BnConfig::default());
        Self { stem, stages, last_norm, channels }
    }
}

impl Supernet for NasBench201Supernet {
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        let plan = plan(mixture);
        let (conv, bn) = &self.stem;
        let mut xs = bn.forward(&conv.forward(xs, mode), mode);
        let mut features = Vec::new();
        for (reduction, cells) in &self.stages {
            xs = reduction.iter().fold(xs, |xs, layer| layer.forward(&xs, mode));
            xs = cells.iter().fold(xs, |xs, cell| cell.forward(&xs, &plan, mode));
            features.push(xs.shallow_clone());
        }
        features[STAGES - 1] = relu(&self.last_norm.forward(&xs, mode));
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        (0..STAGES).map(|i| FeatureInfo { channels: self.channels << i, stride: 1 << i }).collect()
    }
}

/// What is computed on an edge.
#[derive(Default)]
struct PlannedEdge {
    /// Operators but `none`, with their weights; no weight stands for 1.
    ops: Vec<(usize, Option<Tensor>)>,
    /// The sum of the weights of operators that are not drawn, where it is a term.
    undrawn: Option<Tensor>,
}

fn plan(mixture: Mixture) -> Vec<PlannedEdge> {
    let (weights, active, undrawn) = match mixture {
        Mixture::Path(arch) => {
            let op = |choice: &u16| Some(usize::from(*choice)).filter(|op| *op != NONE).map(|op| (op, None));
            let edge = |choice| PlannedEdge { ops: op(choice).into_iter().collect(), undrawn: None };
            return arch.choices().iter().map(edge).collect();
        }
        Mixture::Weights(weights) => (weights, None, false),
        Mixture::Sampled { weights, active, undrawn, .. } => (weights, Some(active), undrawn),
    };
    let alpha = weights[0].reshape([-1]).unbind(0);
    let is_active = |i: usize| active.is_none_or(|active| active[0][i]);
    let edge = |edge: usize| {
        let weight = |op: usize| alpha[edge * OPS.len() + op].shallow_clone();
        let (drawn, others): (Vec<usize>, Vec<usize>) = (0..OPS.len()).partition(|op| is_active(edge * OPS.len() + op));
        let ops = drawn.into_iter().filter(|op| *op != NONE).map(|op| (op, Some(weight(op)))).collect();
        PlannedEdge { ops, undrawn: undrawn.then(|| others.into_iter().map(weight).sum()) }
    };
    (0..EDGES.len()).map(edge).collect()
}

/// All operators on all edges.
#[derive(Debug)]
struct MixedCell {
    edges: Vec<Vec<Edge>>,
}

impl MixedCell {
    fn new(vb: &VarBuilder, c: i64) -> Self {
        let vb = vb.sub("layers");
        let op = |edge: usize, op: usize| Edge::new(&vb.sub(edge).sub(op), c, op as u16, SEARCH_BN);
        Self { edges: (0..EDGES.len()).map(|edge| (0..OPS.len()).map(|i| op(edge, i)).collect()).collect() }
    }

    fn forward(&self, xs: &Tensor, plan: &[PlannedEdge], mode: Mode) -> Tensor {
        let mut nodes: Vec<Option<Tensor>> = vec![Some(xs.shallow_clone()), None, None, None];
        for (((from, to), ops), planned) in EDGES.into_iter().zip(&self.edges).zip(plan) {
            let add = |nodes: &mut [Option<Tensor>], ys: Tensor| {
                nodes[to] = Some(match nodes[to].take() {
                    Some(node) => node + ys,
                    None => ys,
                });
            };
            for (op, weight) in &planned.ops {
                let Some(source) = &nodes[from] else { continue };
                let ys = ops[*op].forward(source, mode);
                add(&mut nodes, weight.as_ref().map_or_else(|| ys.shallow_clone(), |weight| &ys * weight));
            }
            if let Some(undrawn) = &planned.undrawn {
                add(&mut nodes, undrawn.expand_as(xs));
            }
        }
        nodes.pop().flatten().unwrap_or_else(|| xs * 0.0)
    }
}
