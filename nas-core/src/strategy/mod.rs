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
mod penalty;
mod random;
pub(crate) mod registry;
mod regularized_evolution;
mod reinforce;
mod sng;
#[cfg(test)]
mod tests;
mod tpe;

use std::cmp::Ordering;
use std::fmt;

use anyhow::Result;
use rand_chacha::ChaCha8Rng;

pub use controller::ControllerUpdate;
use registry::registry;
pub use registry::{StrategyDef, StrategyInfo};

use crate::search::pareto::Point;
use crate::space::trial::{Proposal, Trial};
use crate::space::{Architecture, ChoiceSpace, Observation, Origin};

registry! {
    /// `[strategy]` of a config: `kind` and the strategy's parameters, each with a default.
    pub enum StrategyConfig: StrategyDef {
        /// Random search.
        Random(random::RandomConfig),
        /// Local search with restarts.
        LocalSearch(local_search::LocalSearchConfig),
        /// Regularized evolution.
        RegularizedEvolution(regularized_evolution::RegularizedEvolutionConfig),
        /// The genetic algorithm of SPOS and DetNAS.
        Genetic(genetic::GeneticConfig),
        /// NSGA-II, for several objectives.
        Nsga2(nsga2::Nsga2Config),
        /// REINFORCE with independent logits.
        Reinforce(reinforce::ReinforceConfig),
        /// An LSTM controller.
        Controller(controller::ControllerConfig),
        /// Tree-structured Parzen estimator.
        Tpe(tpe::TpeConfig),
        /// Gaussian process.
        GaussianProcess(gaussian_process::GaussianProcessConfig),
        /// Ensemble predictor with Thompson sampling.
        Bananas(bananas::BananasConfig),
        /// Stochastic natural gradient, adaptive or not.
        Sng(sng::SngConfig),
        /// Multinomial distribution learning.
        Mdenas(mdenas::MdenasConfig),
        /// Dynamic distribution pruning.
        Ddpnas(ddpnas::DdpnasConfig),
        /// Successive halving.
        SuccessiveHalving(hyperband::SuccessiveHalvingConfig),
        /// Hyperband.
        Hyperband(hyperband::HyperbandConfig),
        /// Asynchronous successive halving.
        Asha(asha::AshaConfig),
        /// Hyperband with a density model.
        Bohb(hyperband::BohbConfig),
    }
}

impl StrategyConfig {
    /// Names of the strategies that have an ability.
    pub fn kinds(has: impl Fn(&StrategyInfo) -> bool) -> Vec<&'static str> {
        Self::all().iter().map(Self::info).filter(has).map(|info| info.kind).collect()
    }

    /// Name, paper and abilities.
    pub fn info(&self) -> StrategyInfo {
        self.def().info()
    }

    /// Says which parameter cannot be served.
    pub fn check(&self) -> Result<()> {
        self.def().check()
    }

    /// The strategy at its start.
    pub fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        self.def().build(space, rng)
    }
}

/// What a strategy may look at when it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The space.
    pub space: &'a dyn ChoiceSpace,
    /// Number of the proposal, consecutive from 0: the trial's, less those that the search was given to begin with.
    pub id: u64,
    /// Trials that were asked for and have not been told yet, by id.
    pub running: &'a [Trial],
}

impl Asking<'_> {
    fn is_running(&self, arch: &Architecture) -> bool {
        self.running.iter().any(|trial| trial.arch == *arch)
    }
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

fn fitness(observation: &Observation) -> Option<Fitness> {
    observation.value().map(|value| Fitness { violation: observation.violation, value })
}

/// All objectives of a trial that did not fail.
fn point(observation: &Observation) -> Option<Point> {
    observation.values.clone().map(|values| Point { values, violation: observation.violation })
}

/// Proposes architectures and learns from what became of them.
pub trait SearchStrategy: fmt::Debug {
    /// The next trial. `None` while a running trial must end first; `None` while nothing runs ends the search.
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal>;

    /// The most probable architecture, where the strategy learns a distribution.
    fn most_probable(&self, _space: &dyn ChoiceSpace) -> Option<Architecture> {
        None
    }

    /// Epochs of a trial that continues none, where the strategy chooses them.
    fn first_epochs(&self) -> Option<u32> {
        None
    }

    /// Takes a trial that has ended. The strategy need not have proposed it: see [`Origin`].
    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng);

    /// Trials of earlier searches have been told and nothing was asked yet: proposals that were made without them are made
    /// anew.
    fn begin(&mut self, _space: &dyn ChoiceSpace, _rng: &mut ChaCha8Rng) {}
}

/// Proposals that are made together and of which all must end before the next ones are made.
#[derive(Debug, Default)]
struct Generation {
    /// Number of the first proposal.
    first: u64,
    proposals: Vec<Proposal>,
    ended: usize,
}

impl Generation {
    fn new(proposals: Vec<Proposal>) -> Self {
        Self { first: 0, proposals, ended: 0 }
    }

    fn get(&self, id: u64) -> Option<Proposal> {
        self.proposals.get(usize::try_from(id.checked_sub(self.first)?).ok()?).cloned()
    }

    /// Counts a trial that has ended, if it is one of these; true when it was the last.
    fn end(&mut self, observation: &Observation) -> bool {
        if observation.origin != Origin::Proposed {
            return false;
        }
        self.ended += 1;
        self.ended == self.proposals.len()
    }

    /// Takes the place of proposals that have all ended, or of which none was asked for.
    fn next(&mut self, proposals: Vec<Proposal>) {
        *self = Self { first: self.first + self.ended as u64, proposals, ended: 0 };
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
