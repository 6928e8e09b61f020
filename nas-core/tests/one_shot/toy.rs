//! A space whose best architecture is known: on each edge, scaled functions of that edge's input are candidates, and the
//! target contains one of them far more than the others.

use std::rc::Rc;

use anyhow::Result;
use nas_core::nn::{Cost, Init, Mode, Shape, VarBuilder};
use nas_core::one_shot::{Objective, OneShot, OneShotConfig, Part, Problem, SecondStage};
use nas_core::optim::{Named, named_parameters};
use nas_core::search::goals::Goals;
use nas_core::space::Architecture;
use nas_core::space::{
    ArchParameter, Backbone, Choice, ChoiceSpace, FeatureInfo, InvalidArchitecture, Mixture, SearchSpace, Supernet,
    WeightSharing,
};
use nas_core::train::At;
use nas_datasets::rng;
use rand::Rng;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

pub const EDGES: usize = 4;
/// Functions of an edge, the first is zero.
pub const OPS: usize = 5;
pub const BATCH: i64 = 64;
/// Below what the target asks of the best operator: trained, it still wants more weight, and the others do not.
const LARGEST_SCALE: f64 = 0.6;
const FIRST_SCALE: f64 = 0.3;

/// `connections`: the edges' outputs are weighed too, as by the edge normalisation of PC-DARTS.
#[derive(Clone, Debug)]
pub struct Toy {
    pub connections: bool,
}

impl ChoiceSpace for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    fn decisions(&self) -> Vec<u16> {
        vec![OPS as u16; EDGES]
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        let valid = arch.choices().len() == EDGES && arch.choices().iter().all(|op| usize::from(*op) < OPS);
        let reason = "expected an operator for each edge".to_string();
        let error = || InvalidArchitecture { space: "toy".into(), arch: arch.to_string(), reason };
        valid.then_some(()).ok_or_else(error)
    }
}

impl SearchSpace for Toy {
    fn build(&self, _: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        let reason = "the toy has no networks of its own".to_string();
        Err(InvalidArchitecture { space: "toy".into(), arch: arch.to_string(), reason })
    }

    /// Operator `k` of any edge costs `100 k`.
    fn cost(&self, arch: &Architecture, _: Shape) -> Result<Cost, InvalidArchitecture> {
        Ok(Cost { params: 0, macs: arch.choices().iter().map(|op| 100 * u64::from(*op)).sum() })
    }
}

impl WeightSharing for Toy {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(ToyNet { scales: vb.weight("scales", &[EDGES as i64, OPS as i64], Init::Const(FIRST_SCALE)) })
    }

    fn arch_parameters(&self) -> Vec<ArchParameter> {
        let mut parameters = vec![ArchParameter::new("alpha", &[EDGES as i64, OPS as i64], Choice::Operator)];
        if self.connections {
            parameters.push(ArchParameter::new("beta", &[1, EDGES as i64], Choice::Connection));
        }
        parameters
    }

    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let best = Vec::<i64>::try_from(weights[0].argmax(-1, false)).unwrap();
        Architecture::new(best.into_iter().map(|op| op as u16).collect())
    }

    /// The toy has no layers: a deeper one is the same.
    fn with_layers(&self, _: usize) -> Option<Rc<dyn WeightSharing>> {
        Some(Rc::new(self.clone()))
    }

    /// Operator `k` of any edge costs `100 k`.
    fn macs_table(&self, _: Shape) -> Option<(u64, Vec<Vec<f64>>)> {
        let alpha = (0..EDGES * OPS).map(|i| 100.0 * (i % OPS) as f64).collect();
        let beta = self.connections.then(|| vec![0.0; EDGES]);
        Some((1000, [alpha].into_iter().chain(beta).collect()))
    }
}

#[derive(Debug)]
pub struct ToyNet {
    pub scales: Tensor,
}

/// `[B, E, K]`: zero and the orthonormal polynomials of degree 1 to 4 of each input, which is normal.
pub fn functions(xs: &Tensor) -> Tensor {
    let square = xs.square();
    let second = (&square - 1.0) / 2f64.sqrt();
    let third = (&square - 3.0) * xs / 6f64.sqrt();
    let fourth = (&square * &square - &square * 6.0 + 3.0) / 24f64.sqrt();
    Tensor::stack(&[xs.zeros_like(), xs.shallow_clone(), second, third, fourth], -1)
}

impl Supernet for ToyNet {
    /// One map: `[B]`. Candidates that are not active are left out, as by a real supernet: no gradient reaches them.
    fn features(&self, xs: &Tensor, mixture: Mixture, _: Mode) -> Vec<Tensor> {
        let edge_weights = |weights: &[Tensor]| weights.get(1).map(|beta| beta.view([-1]) * EDGES as f64);
        let (ops, edges) = match mixture {
            Mixture::Weights(weights) => (weights[0].shallow_clone(), edge_weights(weights)),
            Mixture::Sampled { weights, active, .. } => {
                let active = Tensor::from_slice(&active[0]).view([EDGES as i64, OPS as i64]);
                (&weights[0] * active.to_kind(weights[0].kind()), edge_weights(weights))
            }
            Mixture::Path(arch) => {
                let choices: Vec<i64> = arch.choices().iter().map(|op| i64::from(*op)).collect();
                (Tensor::from_slice(&choices).one_hot(OPS as i64).to_kind(xs.kind()), None)
            }
        };
        let outputs = functions(xs) * (self.scales.tanh() * LARGEST_SCALE * ops).unsqueeze(0);
        let edges_out = outputs.sum_dim_intlist(-1, false, None::<Kind>);
        let edges_out = edges.map_or(edges_out.shallow_clone(), |edges| edges_out * edges);
        vec![edges_out.sum_dim_intlist(-1, false, None::<Kind>)]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        vec![FeatureInfo { channels: 1, stride: 1 }]
    }
}

/// The toy at a seed: its best architecture, its supernet, batches that follow from (seed, step).
pub struct Search {
    pub best: Architecture,
    pub method: Box<dyn OneShot>,
    pub vs: VarStore,
    pub data: Data,
    seed: u64,
}

pub struct Data {
    pub net: Box<dyn Supernet>,
    weights: Vec<Named>,
    target: Tensor,
    seed: u64,
    drawn: [u64; 2],
    batches: [Option<(Tensor, Tensor)>; 2],
}

impl Search {
    pub fn new(config: &OneShotConfig, connections: bool, seed: u64) -> Self {
        tch::set_num_threads(1);
        let mut rng = rng::stream(seed, "toy", 0);
        // Never zero: a choice between operators that contribute.
        let best: Vec<u16> = (0..EDGES).map(|_| rng.random_range(1..OPS as u16)).collect();
        let contribution = |(op, best): (usize, &u16)| if op == usize::from(*best) { 1f32 } else { 0.2 };
        let target: Vec<f32> = best.iter().flat_map(|best| (0..OPS).map(move |op| contribution((op, best)))).collect();
        let target = Tensor::from_slice(&target).view([EDGES as i64, OPS as i64]);
        tch::manual_seed(rng::torch_seed(seed, "init", 0));
        let vs = VarStore::new(Device::Cpu);
        let space = Rc::new(Toy { connections });
        let net = space.supernet(&VarBuilder::new(&vs));
        let input = Shape::new(1, 1, 1);
        let problem = Problem { space, weights: named_parameters(&vs), input, latency: None, amp: false, seed };
        let method = config.build(problem).unwrap();
        let data = Data { net, weights: named_parameters(&vs), target, seed, drawn: [0, 0], batches: [None, None] };
        Self { best: Architecture::new(best), method, vs, data, seed }
    }

    /// Steps `from..to` of `total`, ten to an epoch.
    pub fn run(&mut self, from: usize, to: usize, total: usize) {
        for global_step in from..to {
            let at = At { epoch: global_step / 10, step: global_step % 10, global_step, total_steps: total };
            tch::manual_seed(rng::torch_seed(self.seed, "step", global_step as u64));
            self.data.drawn = [global_step as u64; 2];
            let step = self.method.step(at, &mut self.data).unwrap();
            assert!(step.loss.is_finite() && step.images == BATCH as usize);
        }
    }
}

impl Search {
    /// What the search over the trained supernet finds.
    pub fn second_stage(&mut self, stage: &SecondStage) -> Architecture {
        let dir = tempfile::tempdir().unwrap();
        self.data.drawn = [u64::MAX; 2];
        self.data.next(Part::Arch).unwrap();
        let at = At { epoch: 0, step: 0, global_step: 0, total_steps: 1 };
        let evaluate = |arch: &Architecture, _| {
            Ok([("score".to_string(), self.data.score(Part::Arch, Mixture::Path(arch), at)?)].into())
        };
        let space = Toy { connections: false };
        let goals = Goals::maximize("score");
        let (_, best) = stage.run(&space, &goals, self.seed, dir.path(), evaluate, |_| ()).unwrap();
        best.trial.arch
    }
}

impl Data {
    fn batch(&self, part: Part) -> &(Tensor, Tensor) {
        self.batches[part as usize].as_ref().expect("a batch was taken")
    }

    fn error(&self, part: Part, mixture: Mixture) -> Tensor {
        let (xs, ys) = self.batch(part);
        (self.net.features(xs, mixture, Mode::train(0.0)).remove(0) - ys).square().mean(None::<Kind>)
    }
}

impl Objective for Data {
    fn next(&mut self, part: Part) -> Result<usize> {
        let mut rng = rng::stream(self.seed, &format!("{part:?}"), self.drawn[part as usize]);
        // The sum of twelve uniform numbers is nearly normal.
        let normal = |_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        let xs: Vec<f32> = (0..BATCH * EDGES as i64).map(normal).collect();
        let xs = Tensor::from_slice(&xs).view([BATCH, EDGES as i64]);
        let ys =
            (functions(&xs) * self.target.unsqueeze(0)).sum_dim_intlist([-1i64, -2].as_slice(), false, None::<Kind>);
        self.batches[part as usize] = Some((xs, ys));
        Ok(BATCH as usize)
    }

    fn loss(&self, part: Part, mixture: Mixture, _: At) -> Tensor {
        self.error(part, mixture)
    }

    /// The toy's weights start at one value, so a new supernet is the present one with that value.
    fn rebuild(&mut self, _: &dyn WeightSharing) -> Result<Vec<Named>> {
        tch::no_grad(|| self.weights.iter_mut().for_each(|(_, scales)| _ = scales.fill_(FIRST_SCALE)));
        Ok(self.weights.iter().map(|(name, scales)| (name.clone(), scales.shallow_clone())).collect())
    }

    /// Part of the target's variance that is explained.
    fn score(&self, part: Part, mixture: Mixture, _: At) -> Result<f64> {
        let error = tch::no_grad(|| self.error(part, mixture)).double_value(&[]);
        Ok(1.0 - error / self.batch(part).1.square().mean(None::<Kind>).double_value(&[]))
    }
}
