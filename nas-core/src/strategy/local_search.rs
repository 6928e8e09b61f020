//! Local search (White et al., arXiv 2005.02960; den Ottelander et al., arXiv 2004.08996): move to the first neighbour
//! that is better, start again at random where none is. No architecture is evaluated twice.

use std::collections::{HashMap, VecDeque};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Asking, Fitness, SearchStrategy, StrategyDef, StrategyInfo, fitness};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation, Origin};

/// Local search has no parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalSearchConfig {}

impl StrategyDef for LocalSearchConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("local_search", "White et al. 2020, arXiv 2005.02960")
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(LocalSearch::new(space, rng))
    }
}

#[derive(Debug)]
pub(super) struct LocalSearch {
    /// The best architecture of this climb.
    current: Option<(Architecture, Fitness)>,
    /// Architectures to evaluate next: a random start, or neighbours of `current`.
    frontier: VecDeque<Architecture>,
    /// Everything that was evaluated; failures have no fitness.
    seen: HashMap<Architecture, Option<Fitness>>,
}

impl LocalSearch {
    pub fn new(space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        Self { current: None, frontier: [space.sample(rng)].into(), seen: HashMap::new() }
    }

    fn moves_to(&mut self, arch: Architecture, fitness: Fitness, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        let mut neighbors = space.neighbors(&arch);
        neighbors.shuffle(rng);
        self.frontier = neighbors.into();
        self.current = Some((arch, fitness));
    }

    fn restart(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        const TRIES: usize = 10_000;
        self.current = None;
        let fresh = (0..TRIES).map(|_| space.sample(rng)).find(|arch| !self.seen.contains_key(arch));
        // A space of which nothing is left ends the search.
        self.frontier = fresh.into_iter().collect();
    }
}

impl SearchStrategy for LocalSearch {
    fn ask(&self, asking: &Asking, _: &mut ChaCha8Rng) -> Option<Proposal> {
        let waiting = |arch: &&Architecture| !self.seen.contains_key(*arch) && !asking.is_running(arch);
        self.frontier.iter().find(waiting).map(|arch| arch.clone().into())
    }

    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng) {
        let fitness = fitness(observation);
        self.seen.insert(observation.arch.clone(), fitness);
        if observation.origin != Origin::Proposed {
            let better = fitness.filter(|new| self.current.as_ref().is_none_or(|(_, current)| new > current));
            // The climb goes on from a trial of others that is better than where it is.
            better.into_iter().for_each(|fitness| self.moves_to(observation.arch.clone(), fitness, space, rng));
        }
        // Walk over neighbours whose values are known until one is missing.
        loop {
            let Some(next) = self.frontier.front() else {
                self.restart(space, rng);
                return;
            };
            let Some(known) = self.seen.get(next).copied() else { return };
            let next = self.frontier.pop_front().expect("has a front");
            let better = known.filter(|known| self.current.as_ref().is_none_or(|(_, fitness)| known > fitness));
            if let Some(fitness) = better {
                self.moves_to(next, fitness, space, rng);
            }
        }
    }
}
