//! NSGA-II (Deb et al. 2002): non-dominated sorting, crowding distance, tournaments; constraints by domination.

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::genetic::{cross, mutate_each};
use super::registry::{at_least, part};
use super::{Asking, Generation, SearchStrategy, StrategyDef, StrategyInfo, draw_valid, point};
use crate::search::pareto::{Point, Ranked, ranked};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation};

/// Parameters of NSGA-II.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Nsga2Config {
    /// Members of the population, and children of a generation.
    pub population_size: usize,
    /// Probability that a child has two parents.
    pub crossover_probability: f64,
    /// Probability that a decision of a child is drawn anew; one decision per child on average where not given.
    pub mutation_probability: Option<f64>,
}

impl Default for Nsga2Config {
    fn default() -> Self {
        Self { population_size: 20, crossover_probability: 0.9, mutation_probability: None }
    }
}

impl StrategyDef for Nsga2Config {
    fn info(&self) -> StrategyInfo {
        StrategyInfo { multi_objective: true, ..StrategyInfo::new("nsga2", "Deb et al. 2002, doi 10.1109/4235.996017") }
    }

    fn check(&self) -> Result<()> {
        at_least(self, "population_size", self.population_size, 2)?;
        part("crossover_probability", self.crossover_probability)?;
        self.mutation_probability.map_or(Ok(()), |p| part("mutation_probability", p))
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Nsga2::new(self.clone(), space, rng))
    }
}

#[derive(Clone, Debug)]
struct Member {
    arch: Architecture,
    point: Point,
    rank: usize,
    crowding: f64,
}

#[derive(Debug)]
pub(super) struct Nsga2 {
    config: Nsga2Config,
    generation: Generation,
    population: Vec<Member>,
    children: Vec<Member>,
}

impl Nsga2 {
    pub fn new(config: Nsga2Config, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let first = (0..config.population_size).map(|_| space.sample(rng).into()).collect();
        Self { config, generation: Generation::new(first), population: Vec::new(), children: Vec::new() }
    }

    /// The best of parents and children: whole fronts, and of the last front the least crowded.
    fn select(&mut self) {
        let mut all = std::mem::take(&mut self.population);
        all.append(&mut self.children);
        let points: Vec<&Point> = all.iter().map(|member| &member.point).collect();
        let best = ranked(&points).into_iter().take(self.config.population_size);
        let member = |Ranked { index, rank, crowding }: Ranked| Member { rank, crowding, ..all[index].clone() };
        self.population = best.map(member).collect();
    }

    fn parent(&self, rng: &mut ChaCha8Rng) -> &Architecture {
        let [a, b] = [(); 2].map(|()| &self.population[rng.random_range(0..self.population.len())]);
        let better = a.rank < b.rank || (a.rank == b.rank && a.crowding > b.crowding);
        if better { &a.arch } else { &b.arch }
    }

    fn breed(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Vec<Proposal> {
        if self.population.is_empty() {
            return (0..self.config.population_size).map(|_| space.sample(rng).into()).collect();
        }
        let decisions = space.decisions();
        let probability = self.config.mutation_probability.unwrap_or(1.0 / decisions.len() as f64);
        let child = |_| {
            draw_valid(space, rng, |rng| {
                let first = self.parent(rng);
                let child = match rng.random_bool(self.config.crossover_probability) {
                    true => cross(first, self.parent(rng), rng),
                    false => first.clone(),
                };
                mutate_each(&child, &decisions, probability, rng)
            })
        };
        (0..self.config.population_size).map(child).map(Proposal::from).collect()
    }
}

impl SearchStrategy for Nsga2 {
    fn ask(&self, asking: &Asking, _: &mut ChaCha8Rng) -> Option<Proposal> {
        self.generation.get(asking.id)
    }

    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng) {
        if let Some(point) = point(observation) {
            self.children.push(Member { arch: observation.arch.clone(), point, rank: 0, crowding: 0.0 });
        }
        if self.generation.end(observation) {
            self.begin(space, rng);
        }
    }

    fn begin(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        self.select();
        let children = self.breed(space, rng);
        self.generation.next(children);
    }
}
