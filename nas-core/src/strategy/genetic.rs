//! The genetic algorithm of SPOS and DetNAS (Guo et al., arXiv 1904.00420; Chen et al., arXiv 1903.10979): the best
//! architectures so far have mutated and crossed children; what is missing in a generation is drawn at random. No
//! architecture is evaluated twice.

use std::collections::HashSet;

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::registry::{at_least, part};
use super::{Asking, Fitness, Generation, SearchStrategy, StrategyDef, StrategyInfo, fitness};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation, Origin};

/// Parameters of the genetic algorithm; the defaults are SPOS's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeneticConfig {
    /// Trials of a generation.
    pub population_size: usize,
    /// Best architectures of the whole search that become parents.
    pub parents: usize,
    /// Mutated children of a generation.
    pub mutations: usize,
    /// Crossed children of a generation.
    pub crossovers: usize,
    /// Probability that a decision of a mutated child is drawn anew.
    pub mutation_probability: f64,
}

impl Default for GeneticConfig {
    fn default() -> Self {
        Self { population_size: 50, parents: 10, mutations: 25, crossovers: 25, mutation_probability: 0.1 }
    }
}

impl StrategyDef for GeneticConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("genetic", "Guo et al. 2019, arXiv 1904.00420")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "population_size", self.population_size, 1)?;
        at_least(self, "parents", self.parents, 1)?;
        part("mutation_probability", self.mutation_probability)
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Genetic::new(self.clone(), space, rng))
    }
}

#[derive(Debug)]
pub(super) struct Genetic {
    config: GeneticConfig,
    generation: Generation,
    /// The best so far, best first.
    parents: Vec<(Architecture, Fitness)>,
    visited: HashSet<Architecture>,
}

impl Genetic {
    pub fn new(config: GeneticConfig, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let generation = Generation::default();
        let mut genetic = Self { config, generation, parents: Vec::new(), visited: HashSet::new() };
        genetic.breed(space, rng);
        genetic
    }

    /// Draws up to `count` architectures that are new to the search.
    fn extend(
        &mut self,
        children: &mut Vec<Proposal>,
        count: usize,
        space: &dyn ChoiceSpace,
        mut draw: impl FnMut() -> Architecture,
    ) {
        const TRIES_EACH: usize = 100;
        let wanted = children.len() + count;
        for _ in 0..TRIES_EACH * count {
            if children.len() == wanted {
                return;
            }
            let child = draw();
            if space.validate(&child).is_ok() && self.visited.insert(child.clone()) {
                children.push(child.into());
            }
        }
    }

    fn breed(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        let config = self.config.clone();
        let parents: Vec<Architecture> = self.parents.iter().map(|(arch, _)| arch.clone()).collect();
        let mut children = Vec::new();
        if !parents.is_empty() {
            let decisions = space.decisions();
            let mutations = config.mutations.min(config.population_size);
            self.extend(&mut children, mutations, space, || {
                let parent = &parents[rng.random_range(0..parents.len())];
                mutate_each(parent, &decisions, config.mutation_probability, rng)
            });
            let crossovers = config.crossovers.min(config.population_size - children.len());
            self.extend(&mut children, crossovers, space, || {
                let [a, b] = [(); 2].map(|()| &parents[rng.random_range(0..parents.len())]);
                cross(a, b, rng)
            });
        }
        let missing = config.population_size - children.len();
        self.extend(&mut children, missing, space, || space.sample(rng));
        self.generation.next(children);
    }
}

/// Each decision is drawn anew with probability `probability`.
pub(super) fn mutate_each(
    parent: &Architecture,
    decisions: &[u16],
    probability: f64,
    rng: &mut ChaCha8Rng,
) -> Architecture {
    let gene = |(choice, options): (&u16, &u16)| {
        if rng.random_bool(probability) { rng.random_range(0..*options) } else { *choice }
    };
    Architecture::new(parent.choices().iter().zip(decisions).map(gene).collect())
}

/// Each decision is taken from one of the parents.
pub(super) fn cross(a: &Architecture, b: &Architecture, rng: &mut ChaCha8Rng) -> Architecture {
    let gene = |(a, b): (&u16, &u16)| if rng.random_bool(0.5) { *a } else { *b };
    Architecture::new(a.choices().iter().zip(b.choices()).map(gene).collect())
}

impl SearchStrategy for Genetic {
    fn ask(&self, asking: &Asking, _: &mut ChaCha8Rng) -> Option<Proposal> {
        self.generation.get(asking.id)
    }

    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng) {
        if let Some(fitness) = fitness(observation) {
            let place = self.parents.partition_point(|(_, other)| *other >= fitness);
            self.parents.insert(place, (observation.arch.clone(), fitness));
            self.parents.truncate(self.config.parents);
        }
        if observation.origin != Origin::Proposed {
            self.visited.insert(observation.arch.clone());
        }
        if self.generation.end(observation) {
            self.breed(space, rng);
        }
    }

    fn begin(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        for Proposal { arch, .. } in &self.generation.proposals {
            self.visited.remove(arch);
        }
        self.breed(space, rng);
    }
}
