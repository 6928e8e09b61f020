//! Asynchronous successive halving (Li et al., arXiv 1810.05934): whenever a worker is free, the best trial of a rung that
//! is among the top `1/eta` there and has not gone on yet goes on; else a new one starts.

use std::collections::HashSet;

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hyperband::HyperbandConfig;
use super::{Asking, Fitness, SearchStrategy, StrategyDef, StrategyInfo, point};
use crate::search::pareto::{Point, best_first};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation, Origin};

/// Parameters of asynchronous successive halving.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "HyperbandConfig")]
pub struct AshaConfig(pub HyperbandConfig);

impl StrategyDef for AshaConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo {
            multi_fidelity: true,
            multi_objective: true,
            ..StrategyInfo::new("asha", "Li et al. 2018, arXiv 1810.05934")
        }
    }

    fn check(&self) -> Result<()> {
        self.0.check_rungs()
    }

    fn build(&self, _: &dyn ChoiceSpace, _: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Asha::new(self.0.clone()))
    }
}

#[derive(Debug)]
pub(super) struct Asha {
    eta: f64,
    epochs: Vec<u32>,
    /// Ended trials of each rung, best first.
    rungs: Vec<Vec<(u64, Architecture, Point)>>,
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
        if observation.origin == Origin::Earlier {
            // There is no checkpoint to go on from.
            return;
        }
        // A continuation that failed is not tried again.
        self.promoted.extend(observation.parent);
        let rung = self.epochs.iter().position(|epochs| observation.epochs == Some(*epochs));
        if let (Some(rung), Some(point)) = (rung, point(observation)) {
            insert(&mut self.rungs[rung], (observation.id, observation.arch.clone(), point));
        }
    }

    fn first_epochs(&self) -> Option<u32> {
        self.epochs.first().copied()
    }
}

/// Keeps a rung in the order of [`best_first`], to which one objective needs no more than the right place.
fn insert(rung: &mut Vec<(u64, Architecture, Point)>, new: (u64, Architecture, Point)) {
    if new.2.values.len() == 1 {
        let fitness = |point: &Point| Fitness { violation: point.violation, value: point.values[0] };
        let place = rung.partition_point(|(_, _, other)| fitness(other) >= fitness(&new.2));
        rung.insert(place, new);
    } else {
        rung.push(new);
        let order = best_first(&rung.iter().map(|(_, _, point)| point).collect::<Vec<_>>());
        *rung = order.into_iter().map(|i| rung[i].clone()).collect();
    }
}
