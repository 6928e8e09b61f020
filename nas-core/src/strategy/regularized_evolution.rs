//! Regularized evolution (Real et al., arXiv 1802.01548): the best of a random sample of the population has a mutated
//! child, and the oldest member dies.

use std::collections::VecDeque;

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::registry::at_least;
use super::{Asking, Fitness, SearchStrategy, StrategyDef, StrategyInfo, fitness};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation, Origin};

/// Parameters of regularized evolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegularizedEvolutionConfig {
    /// Members of the population; as many random trials come first.
    pub population_size: usize,
    /// Members drawn, with replacement, of which the best becomes the parent.
    pub sample_size: usize,
}

impl Default for RegularizedEvolutionConfig {
    fn default() -> Self {
        Self { population_size: 30, sample_size: 10 }
    }
}

impl StrategyDef for RegularizedEvolutionConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("regularized_evolution", "Real et al. 2018, arXiv 1802.01548")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "population_size", self.population_size, 1)?;
        at_least(self, "sample_size", self.sample_size, 1)
    }

    fn build(&self, _: &dyn ChoiceSpace, _: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(RegularizedEvolution::new(self.clone()))
    }
}

#[derive(Debug)]
pub(super) struct RegularizedEvolution {
    config: RegularizedEvolutionConfig,
    population: VecDeque<(Architecture, Fitness)>,
    /// Trials of others, which take the place of random ones at the start.
    foreign: u64,
}

impl RegularizedEvolution {
    pub fn new(config: RegularizedEvolutionConfig) -> Self {
        Self { config, population: VecDeque::new(), foreign: 0 }
    }
}

impl SearchStrategy for RegularizedEvolution {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        if asking.id + self.foreign < self.config.population_size as u64 || self.population.is_empty() {
            return Some(asking.space.sample(rng).into());
        }
        let drawn = (0..self.config.sample_size).map(|_| &self.population[rng.random_range(0..self.population.len())]);
        let (parent, _) = drawn.max_by_key(|(_, fitness)| *fitness).expect("the sample is not empty");
        Some(asking.space.mutate(parent, rng).into())
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, observation: &Observation, _: &mut ChaCha8Rng) {
        let Some(fitness) = fitness(observation) else { return };
        self.foreign += u64::from(observation.origin != Origin::Proposed);
        self.population.push_back((observation.arch.clone(), fitness));
        if self.population.len() > self.config.population_size {
            self.population.pop_front();
        }
    }
}
