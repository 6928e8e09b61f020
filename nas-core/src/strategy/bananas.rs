//! BANANAS (White et al., arXiv 1910.11858): an ensemble of small networks on the path encoding predicts values; each
//! candidate's value is drawn from the ensemble's spread (independent Thompson sampling), and the best draws are evaluated. Where
//! trials have broken bounds, a second ensemble learns which keep them, and its draws come first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::history::{History, scores};
use super::mlp::{Mlp, MlpConfig};
use super::registry::{at_least, positive};
use super::{Asking, Fitness, Generation, SearchStrategy, StrategyDef, StrategyInfo};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Graph, Observation};
use crate::stats::normal_quantile;

/// Parameters of BANANAS; the defaults are the authors' but for the depth of the networks (theirs is 10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BananasConfig {
    /// Random trials at the start.
    pub startup: usize,
    /// Trials that are proposed together.
    pub batch: usize,
    /// Candidates of which the best draws are proposed; half are mutants of the best so far.
    pub candidates: usize,
    /// Best architectures so far that are mutated.
    pub parents: usize,
    /// Networks of the ensemble.
    pub ensemble: usize,
    /// Hidden layers of a network.
    pub hidden_layers: usize,
    /// Units of a hidden layer.
    pub width: usize,
    /// Passes over the observations.
    pub epochs: usize,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Most paths of the encoding, the shortest first.
    pub max_paths: usize,
}

impl Default for BananasConfig {
    fn default() -> Self {
        Self {
            startup: 10,
            batch: 10,
            candidates: 100,
            parents: 5,
            ensemble: 5,
            hidden_layers: 3,
            width: 20,
            epochs: 150,
            lr: 0.01,
            max_paths: 500,
        }
    }
}

impl BananasConfig {
    /// Sizes and training of a network of the ensemble.
    pub(crate) fn mlp(&self) -> MlpConfig {
        const BATCH: usize = 32;
        let Self { hidden_layers, width, epochs, lr, .. } = *self;
        MlpConfig { hidden_layers, width, epochs, batch: BATCH, lr: lr as f32 }
    }
}

impl StrategyDef for BananasConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("bananas", "White et al. 2019, arXiv 1910.11858")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "startup", self.startup, 2)?;
        at_least(self, "batch", self.batch, 1)?;
        at_least(self, "candidates", self.candidates, self.batch)?;
        at_least(self, "ensemble", self.ensemble, 1)?;
        at_least(self, "width", self.width, 1)?;
        positive("lr", self.lr)
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Bananas::new(self.clone(), space, rng))
    }
}

#[derive(Debug)]
pub(super) struct Bananas {
    config: BananasConfig,
    generation: Generation,
    history: History,
}

impl Bananas {
    pub fn new(config: BananasConfig, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let first = (0..config.startup).map(|_| space.sample(rng).into()).collect();
        Self { config, generation: Generation::new(first), history: History::default() }
    }

    fn propose(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Vec<Proposal> {
        let config = &self.config;
        let pool = self.history.candidates(space, config.candidates, config.parents, rng);
        if self.history.len() < 2 || pool.is_empty() {
            return (0..config.batch).map(|_| space.sample(rng).into()).collect();
        }
        let archs: Vec<&Architecture> = self.history.trials.iter().map(|(arch, _)| arch).chain(&pool).collect();
        let encoding = Encoding::new(space, &archs, config.max_paths);
        let features: Vec<Vec<f32>> = archs.iter().map(|arch| encoding.of(space, arch)).collect();
        let (known, unknown) = features.split_at(self.history.len());
        let fitness = self.history.trials.iter().map(|(_, fitness)| *fitness);
        let values: Vec<Fitness> = fitness.clone().map(|fitness| Fitness { violation: 0.0, ..fitness }).collect();
        let values = self.draws(known, unknown, &scores(values.iter()), rng);
        // Below 0 a bound is expected to be broken.
        let mut bounds = vec![0.0; pool.len()];
        if fitness.clone().any(|fitness| fitness.violation > 0.0) {
            let kept: Vec<f64> = fitness.map(|fitness| if fitness.violation > 0.0 { -1.0 } else { 1.0 }).collect();
            bounds = self.draws(known, unknown, &kept, rng);
        }
        let draw = |i: usize| Fitness { violation: (-bounds[i]).max(0.0), value: values[i] };
        let mut order: Vec<usize> = (0..pool.len()).collect();
        order.sort_by_key(|i| Reverse(draw(*i)));
        order.into_iter().take(config.batch).map(|i| pool[i].clone().into()).collect()
    }

    /// For each of `unknown` a draw from what an ensemble that learned `targets` predicts.
    fn draws(&self, known: &[Vec<f32>], unknown: &[Vec<f32>], targets: &[f64], rng: &mut ChaCha8Rng) -> Vec<f64> {
        let config = &self.config;
        let targets: Vec<f32> = targets.iter().map(|target| *target as f32).collect();
        let ensemble: Vec<Mlp> = (0..config.ensemble).map(|_| Mlp::fit(config.mlp(), known, &targets, rng)).collect();
        let mut draw = |features: &Vec<f32>| {
            let predictions: Vec<f64> = ensemble.iter().map(|mlp| f64::from(mlp.predict(features))).collect();
            let mean = predictions.iter().sum::<f64>() / predictions.len() as f64;
            let variance = predictions.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / predictions.len() as f64;
            mean + variance.sqrt() * normal_quantile(rng.random_range(1e-9..1.0 - 1e-9))
        };
        unknown.iter().map(&mut draw).collect()
    }
}

impl SearchStrategy for Bananas {
    fn ask(&self, asking: &Asking, _: &mut ChaCha8Rng) -> Option<Proposal> {
        self.generation.get(asking.id)
    }

    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng) {
        self.history.observe(observation);
        if self.generation.end(observation) {
            let proposals = self.propose(space, rng);
            self.generation.next(proposals);
        }
    }

    fn begin(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        if self.history.len() >= self.config.startup {
            let proposals = self.propose(space, rng);
            self.generation.next(proposals);
        }
    }
}

/// One feature per label sequence from input to output that any of some graphs has (the path encoding); where the space has
/// no graph, one per trait.
#[derive(Debug)]
pub(crate) struct Encoding {
    columns: BTreeMap<Vec<u16>, usize>,
}

impl Encoding {
    /// The features that `archs` have, at most `max_paths`, the shortest paths first.
    pub fn new(space: &dyn ChoiceSpace, archs: &[&Architecture], max_paths: usize) -> Self {
        let all: HashSet<Vec<u16>> = archs.iter().flat_map(|arch| features(space, arch)).collect();
        let mut all: Vec<Vec<u16>> = all.into_iter().collect();
        all.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        all.truncate(max_paths);
        Self { columns: all.into_iter().enumerate().map(|(i, path)| (path, i)).collect() }
    }

    /// 1 for features that `arch` has, 0 for the others.
    pub fn of(&self, space: &dyn ChoiceSpace, arch: &Architecture) -> Vec<f32> {
        let mut row = vec![0.0; self.columns.len()];
        features(space, arch).iter().filter_map(|path| self.columns.get(path)).for_each(|i| row[*i] = 1.0);
        row
    }
}

fn features(space: &dyn ChoiceSpace, arch: &Architecture) -> HashSet<Vec<u16>> {
    let traits = || space.traits(arch).into_iter().enumerate().map(|(i, value)| vec![i as u16, value]).collect();
    space.graph(arch).map_or_else(traits, |graph| paths(&graph))
}

/// Label sequences of all paths from the first node to the last, ends not included.
fn paths(graph: &Graph) -> HashSet<Vec<u16>> {
    let last = graph.labels.len() - 1;
    let mut from: Vec<Vec<Vec<u16>>> = vec![Vec::new(); graph.labels.len()];
    from[0].push(Vec::new());
    for node in 1..=last {
        let before = graph.edges.iter().filter(|(_, to)| *to == node);
        let mut here: Vec<Vec<u16>> = before.flat_map(|(source, _)| from[*source].clone()).collect();
        if node < last {
            here.iter_mut().for_each(|path| path.push(graph.labels[node]));
        }
        from[node] = here;
    }
    from.pop().unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_small_graph() {
        // input -> a -> b -> output, input -> b, a -> output
        let graph = Graph { labels: vec![0, 5, 6, 1], edges: vec![(0, 1), (1, 2), (0, 2), (2, 3), (1, 3)] };
        let expected: HashSet<Vec<u16>> = [vec![5, 6], vec![6], vec![5]].into();
        assert_eq!(paths(&graph), expected);
    }
}
