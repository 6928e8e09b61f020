//! Asynchronous successive halving (Li et al., arXiv 1810.05934): whenever a worker is free, the best trial of a rung that
//! is among the top `1/eta` there and has not gone on yet goes on; else a new one starts.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;

use super::hyperband::HyperbandConfig;
use super::{Asking, Fitness, Observation, SearchStrategy};
use crate::space::Architecture;
use crate::space::ChoiceSpace;
use crate::space::trial::Proposal;

#[derive(Debug)]
pub(super) struct Asha {
    eta: f64,
    epochs: Vec<u32>,
    /// Ended trials of each rung, best first.
    rungs: Vec<Vec<(u64, Architecture, Fitness)>>,
    /// Trials of which the continuation has ended too.
    promoted: HashSet<u64>,
}

impl Asha {
    pub fn new(config: HyperbandConfig) -> Self {
        let epochs = config.rungs();
        Self { eta: config.eta, rungs: vec![Vec::new(); epochs.len()], epochs, promoted: HashSet::new() }
    }
}

impl SearchStrategy for Asha {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        let goes_on = |id: u64| asking.running.iter().any(|trial| trial.parent == Some(id));
        for rung in (0..self.rungs.len() - 1).rev() {
            let promotable = (self.rungs[rung].len() as f64 / self.eta) as usize;
            let top = self.rungs[rung].iter().take(promotable);
            let mut waiting = top.filter(|(id, ..)| !self.promoted.contains(id) && !goes_on(*id));
            if let Some((id, arch, _)) = waiting.next() {
                let epochs = Some(self.epochs[rung + 1]);
                return Some(Proposal { arch: arch.clone(), epochs, parent: Some(*id) });
            }
        }
        Some(Proposal { arch: asking.space.sample(rng), epochs: Some(self.epochs[0]), parent: None })
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, observation: &Observation, _: &mut ChaCha8Rng) {
        // A continuation that failed is not tried again.
        self.promoted.extend(observation.parent);
        let rung = self.epochs.iter().position(|epochs| observation.epochs == Some(*epochs));
        if let (Some(rung), Some(fitness)) = (rung, observation.fitness()) {
            let place = self.rungs[rung].partition_point(|(_, _, other)| *other >= fitness);
            self.rungs[rung].insert(place, (observation.id, observation.arch.clone(), fitness));
        }
    }
}
