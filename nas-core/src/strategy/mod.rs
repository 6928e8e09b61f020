//! Search strategies, one file each. A strategy sees architectures and values, never a model, a data set, a file or a
//! clock. Its state changes only in [`SearchStrategy::tell`], so that replaying the trial log restores it.

mod asha;
pub(crate) mod bananas;
mod controller;
mod ddpnas;
mod distribution;
pub(crate) mod gaussian_process;
mod genetic;
mod history;
mod hyperband;
mod local_search;
mod mdenas;
pub(crate) mod mlp;
mod nsga2;
mod random;
mod registry;
mod regularized_evolution;
mod reinforce;
mod sng;
#[cfg(test)]
mod tests;
mod tpe;

use std::cmp::Ordering;
use std::fmt;

use rand_chacha::ChaCha8Rng;

pub use bananas::BananasConfig;
pub use controller::{ControllerConfig, ControllerUpdate};
pub use ddpnas::DdpnasConfig;
pub use gaussian_process::GaussianProcessConfig;
pub use genetic::GeneticConfig;
pub use hyperband::{BohbConfig, HyperbandConfig};
pub use mdenas::MdenasConfig;
pub use nsga2::Nsga2Config;
pub use registry::{NoParameters, StrategyConfig, StrategyInfo};
pub use regularized_evolution::RegularizedEvolutionConfig;
pub use reinforce::ReinforceConfig;
pub use sng::SngConfig;
pub use tpe::TpeConfig;

use crate::space::Architecture;
use crate::space::ChoiceSpace;
use crate::space::trial::{Proposal, Trial};

/// What a strategy may look at when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The space.
    pub space: &'a dyn ChoiceSpace,
    /// Number of the trial that is asked for. Ids are consecutive from 0.
    pub id: u64,
    /// Trials that were asked for and have not been told yet, by id.
    pub running: &'a [Trial],
}

impl Asking<'_> {
    fn is_running(&self, arch: &Architecture) -> bool {
        self.running.iter().any(|trial| trial.arch == *arch)
    }
}

/// A trial that has ended, as a strategy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Number of the trial.
    pub id: u64,
    /// The architecture.
    pub arch: Architecture,
    /// Epochs of the trial, where the strategy had chosen them.
    pub epochs: Option<u32>,
    /// The trial that it continues.
    pub parent: Option<u64>,
    /// Objectives, larger is better, the main one first. `None`: the trial failed.
    pub values: Option<Vec<f64>>,
    /// By how much the trial's metrics violate the constraints, relative to the bounds; 0 where they are met.
    pub violation: f64,
}

/// Orders observations: less violation first, then the main objective; larger is better.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fitness {
    violation: f64,
    value: f64,
}

impl Eq for Fitness {}

impl PartialOrd for Fitness {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fitness {
    fn cmp(&self, other: &Self) -> Ordering {
        other.violation.total_cmp(&self.violation).then(self.value.total_cmp(&other.value))
    }
}

impl Observation {
    /// The main objective; `None` where the trial failed.
    pub fn value(&self) -> Option<f64> {
        self.values.as_ref().map(|values| values[0])
    }

    fn fitness(&self) -> Option<Fitness> {
        self.value().map(|value| Fitness { violation: self.violation, value })
    }
}

/// Proposes architectures and learns from what became of them.
pub trait SearchStrategy: fmt::Debug {
    /// The next trial. `None` while a running trial must end first; `None` while nothing runs ends the search.
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal>;

    /// The most probable architecture, where the strategy learns a distribution.
    fn most_probable(&self, _space: &dyn ChoiceSpace) -> Option<Architecture> {
        None
    }

    /// Takes a trial that has ended.
    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng);
}

/// Proposals that are made together and of which all must end before the next ones are made.
#[derive(Debug, Default)]
struct Generation {
    /// Id of the first proposal's trial.
    first: u64,
    proposals: Vec<Proposal>,
    ended: usize,
}

impl Generation {
    fn new(proposals: Vec<Proposal>) -> Self {
        Self { first: 0, proposals, ended: 0 }
    }

    fn get(&self, id: u64) -> Option<Proposal> {
        self.proposals.get((id - self.first) as usize).cloned()
    }

    /// Counts a trial that has ended; true when it was the last.
    fn end_one(&mut self) -> bool {
        self.ended += 1;
        self.ended == self.proposals.len()
    }

    fn next(&mut self, proposals: Vec<Proposal>) {
        *self = Self { first: self.first + self.proposals.len() as u64, proposals, ended: 0 };
    }
}

/// Draws until the space accepts, then gives up on `draw` and samples the space.
fn draw_valid(
    space: &dyn ChoiceSpace,
    rng: &mut ChaCha8Rng,
    mut draw: impl FnMut(&mut ChaCha8Rng) -> Architecture,
) -> Architecture {
    const TRIES: usize = 1000;
    for _ in 0..TRIES {
        let arch = draw(rng);
        if space.validate(&arch).is_ok() {
            return arch;
        }
    }
    space.sample(rng)
}
