//! What strategies that model the values remember, and where their candidates come from.

use std::cmp::Reverse;
use std::collections::HashSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Fitness, fitness};
use crate::space::{Architecture, ChoiceSpace, Observation};
use crate::stats::normal_scores;

/// Trials that did not fail, in order of time, and every architecture that was tried.
#[derive(Debug, Default)]
pub(super) struct History {
    pub trials: Vec<(Architecture, Fitness)>,
    seen: HashSet<Architecture>,
}

impl History {
    pub fn len(&self) -> usize {
        self.trials.len()
    }

    pub fn observe(&mut self, observation: &Observation) {
        self.seen.insert(observation.arch.clone());
        self.trials.extend(fitness(observation).map(|fitness| (observation.arch.clone(), fitness)));
    }

    /// Up to `count` architectures that were not tried: one half mutants of the `parents` best, the other half random.
    pub fn candidates(
        &self,
        space: &dyn ChoiceSpace,
        count: usize,
        parents: usize,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Architecture> {
        let mut best: Vec<&(Architecture, Fitness)> = self.trials.iter().collect();
        best.sort_by_key(|(_, fitness)| Reverse(*fitness));
        best.dedup_by(|a, b| a.0 == b.0);
        best.truncate(parents);
        self.untried(&[], count, |attempt| match attempt % 2 == 0 && !best.is_empty() {
            true => space.mutate(&best[rng.random_range(0..best.len())].0, rng),
            false => space.sample(rng),
        })
    }

    /// Up to `count` mutants of those of `pool` at `parents`, neither tried nor in the pool.
    pub fn around(
        &self,
        space: &dyn ChoiceSpace,
        pool: &[Architecture],
        parents: &[usize],
        count: usize,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Architecture> {
        self.untried(pool, count, |_| space.mutate(&pool[parents[rng.random_range(0..parents.len())]], rng))
    }

    /// Up to `count` architectures of those that are drawn, each once, neither tried nor in `pool`.
    fn untried(
        &self,
        pool: &[Architecture],
        count: usize,
        draw: impl FnMut(usize) -> Architecture,
    ) -> Vec<Architecture> {
        const TRIES_EACH: usize = 20;
        let mut taken: HashSet<Architecture> = pool.iter().cloned().collect();
        let drawn = (0..TRIES_EACH * count).map(draw);
        drawn.filter(|arch| !self.seen.contains(arch) && taken.insert(arch.clone())).take(count).collect()
    }
}

/// Normal quantiles of the ranks of trials: those that break a bound come below all that do not, by how much they break it.
pub(super) fn scores<'a>(trials: impl Iterator<Item = &'a Fitness>) -> Vec<f64> {
    let trials: Vec<Fitness> = trials.copied().collect();
    let mut sorted = trials.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let place = |fitness: &Fitness| sorted.partition_point(|other| other < fitness) as f64;
    normal_scores(&trials.iter().map(place).collect::<Vec<_>>())
}
