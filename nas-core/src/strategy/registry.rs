//! Strategies by name: the enum is the registry.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};


use super::bananas::{BananasConfig};
use super::controller::{ControllerConfig};
use super::ddpnas::{DdpnasConfig};
use super::gaussian_process::{GaussianProcessConfig};
use super::genetic::{GeneticConfig};
use super::hyperband::{BohbConfig, Brackets, HyperbandConfig};

use super::mdenas::{MdenasConfig};
use super::nsga2::{Nsga2Config};
use super::random::RandomSearch;
use super::regularized_evolution::{RegularizedEvolutionConfig};
use super::reinforce::{ReinforceConfig};
use super::sng::{SngConfig};
use super::tpe::{TpeConfig};
use super::SearchStrategy;
use crate::space::ChoiceSpace;

/// A strategy without parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

/// `[strategy]` of a config: `kind` and the strategy's parameters, each with a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StrategyConfig {
    /// Random search.
    Random(NoParameters),
    /// Local search with restarts.
    LocalSearch(NoParameters),
    /// Regularized evolution.
    RegularizedEvolution(RegularizedEvolutionConfig),
    /// The genetic algorithm of SPOS and DetNAS.
    Genetic(GeneticConfig),
    /// NSGA-II, for several objectives.
    Nsga2(Nsga2Config),
    /// REINFORCE with independent logits.
    Reinforce(ReinforceConfig),
    /// An LSTM controller.
    Controller(ControllerConfig),
    /// Tree-structured Parzen estimator.
    Tpe(TpeConfig),
    /// Gaussian process.
    GaussianProcess(GaussianProcessConfig),
    /// Ensemble predictor with Thompson sampling.
    Bananas(BananasConfig),
    /// Stochastic natural gradient, adaptive or not.
    Sng(SngConfig),
    /// Multinomial distribution learning.
    Mdenas(MdenasConfig),
    /// Dynamic distribution pruning.
    Ddpnas(DdpnasConfig),
    /// Successive halving.
    SuccessiveHalving(HyperbandConfig),
    /// Hyperband.
    Hyperband(HyperbandConfig),
    /// Asynchronous successive halving.
    Asha(HyperbandConfig),
    /// Hyperband with a density model.
    Bohb(BohbConfig),
}

/// What the registry knows of a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StrategyInfo {
    /// Name, as configs spell it.
    pub kind: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// Chooses the epochs of its trials.
    pub multi_fidelity: bool,
    /// Keeps a Pareto set; the others look at the first objective.
    pub multi_objective: bool,
    /// Serves constraints on metrics that are known only after the evaluation, such as a measured latency. Constraints
    /// that the architecture alone decides (params, macs) are served by all.
    pub measured_constraints: bool,
}

impl StrategyConfig {
    /// One of each kind, with default parameters.
    pub fn all() -> Vec<Self> {
        use StrategyConfig::*;
        vec![
            Random(NoParameters {}),
            LocalSearch(NoParameters {}),
            RegularizedEvolution(Default::default()),
            Genetic(Default::default()),
            Nsga2(Default::default()),
            Reinforce(Default::default()),
            Controller(Default::default()),
            Tpe(Default::default()),
            GaussianProcess(Default::default()),
            Bananas(Default::default()),
            Sng(Default::default()),
            Mdenas(Default::default()),
            Ddpnas(Default::default()),
            SuccessiveHalving(Default::default()),
            Hyperband(Default::default()),
            Asha(Default::default()),
            Bohb(Default::default()),
        ]
    }

    /// Name, paper and abilities.
    pub fn info(&self) -> StrategyInfo {
        use StrategyConfig::*;
        let (kind, paper) = match self {
            Random(_) => ("random", "Li and Talwalkar 2019, arXiv 1902.07638"),
            LocalSearch(_) => ("local_search", "White et al. 2020, arXiv 2005.02960"),
            RegularizedEvolution(_) => ("regularized_evolution", "Real et al. 2018, arXiv 1802.01548"),
            Genetic(_) => ("genetic", "Guo et al. 2019, arXiv 1904.00420"),
            Nsga2(_) => ("nsga2", "Deb et al. 2002, doi 10.1109/4235.996017"),
            Reinforce(_) => ("reinforce", "Williams 1992; Dong and Yang 2020, arXiv 2001.00326"),
            Controller(_) => ("controller", "Zoph et al. 2017, arXiv 1707.07012 (PPO); Pham et al. 2018, arXiv 1802.03268"),
            Tpe(_) => ("tpe", "Bergstra et al. 2011"),
            GaussianProcess(_) => ("gaussian_process", "Ru et al. 2020, arXiv 2006.07556"),
            Bananas(_) => ("bananas", "White et al. 2019, arXiv 1910.11858"),
            Sng(_) => ("sng", "Akimoto et al. 2019, arXiv 1905.08537"),
            Mdenas(_) => ("mdenas", "Zheng et al. 2019, arXiv 1905.07529"),
            Ddpnas(_) => ("ddpnas", "Zheng et al. 2019, arXiv 1905.13543"),
            SuccessiveHalving(_) => ("successive_halving", "Jamieson and Talwalkar 2016, arXiv 1502.07943"),
            Hyperband(_) => ("hyperband", "Li et al. 2016, arXiv 1603.06560"),
            Asha(_) => ("asha", "Li et al. 2018, arXiv 1810.05934"),
            Bohb(_) => ("bohb", "Falkner et al. 2018, arXiv 1807.01774"),
        };
        let multi_fidelity = matches!(self, SuccessiveHalving(_) | Hyperband(_) | Asha(_) | Bohb(_));
        let by_rank = matches!(self, Random(_) | LocalSearch(_) | RegularizedEvolution(_) | Genetic(_) | Tpe(_));
        let multi_objective = matches!(self, Nsga2(_));
        let measured_constraints = multi_fidelity || multi_objective || by_rank;
        StrategyInfo { kind, paper, multi_fidelity, multi_objective, measured_constraints }
    }

    /// Says which parameter cannot be served.
    pub fn check(&self) -> anyhow::Result<()> {
        let least = |name: &str, value: usize, least: usize| {
            let kind = self.info().kind;
            anyhow::ensure!(value >= least, "strategy.{name} = {value}; {kind} needs at least {least}");
            Ok(())
        };
        let part = |name: &str, value: f64| {
            anyhow::ensure!((0.0..=1.0).contains(&value), "strategy.{name} = {value}; expected 0 to 1");
            Ok(())
        };
        let positive = |name: &str, value: f64| {
            anyhow::ensure!(value > 0.0 && value.is_finite(), "strategy.{name} = {value}; expected more than 0");
            Ok(())
        };
        let halving = |config: &HyperbandConfig| config.check().map_err(|error| anyhow::anyhow!("strategy: {error}"));
        use StrategyConfig::*;
        match self {
            Random(_) | LocalSearch(_) => Ok(()),
            RegularizedEvolution(c) => {
                least("population_size", c.population_size, 1)?;
                least("sample_size", c.sample_size, 1)
            }
            Genetic(c) => {
                least("population_size", c.population_size, 1)?;
                least("parents", c.parents, 1)?;
                part("mutation_probability", c.mutation_probability)
            }
            Nsga2(c) => {
                least("population_size", c.population_size, 2)?;
                part("crossover_probability", c.crossover_probability)?;
                c.mutation_probability.map_or(Ok(()), |p| part("mutation_probability", p))
            }
            Reinforce(c) => {
                positive("lr", c.lr)?;
                part("baseline_decay", c.baseline_decay)
            }
            Controller(c) => {
                least("hidden", c.hidden.max(0) as usize, 1)?;
                least("batch", c.batch, 1)?;
                least("ppo_steps", c.ppo_steps, 1)?;
                positive("lr", c.lr)?;
                positive("temperature", c.temperature)?;
                part("baseline_decay", c.baseline_decay)
            }
            Tpe(c) => {
                least("candidates", c.candidates, 1)?;
                least("good_max", c.good_max, 1)?;
                part("good_part", c.good_part)?;
                positive("prior_weight", c.prior_weight)
            }
            GaussianProcess(c) => {
                least("startup", c.startup, 2)?;
                least("batch", c.batch, 1)?;
                least("pool", c.pool, c.batch)?;
                least("max_points", c.max_points, 4)
            }
            Bananas(c) => {
                least("startup", c.startup, 2)?;
                least("batch", c.batch, 1)?;
                least("candidates", c.candidates, c.batch)?;
                least("ensemble", c.ensemble, 1)?;
                least("width", c.width, 1)?;
                positive("lr", c.lr)
            }
            Sng(c) => {
                least("samples", c.samples, 2)?;
                positive("step", c.step)?;
                positive("alpha", c.alpha)
            }
            Mdenas(c) => positive("lr", c.lr),
            Ddpnas(c) => {
                least("rounds", c.rounds, 1)?;
                part("momentum", c.momentum)
            }
            SuccessiveHalving(c) | Hyperband(c) | Asha(c) => halving(c),
            Bohb(c) => {
                halving(&HyperbandConfig { min_epochs: c.min_epochs, max_epochs: c.max_epochs, eta: c.eta })?;
                least("candidates", c.candidates, 1)?;
                part("good_part", c.good_part)?;
                part("random_part", c.random_part)
            }
        }
    }

    /// The strategy at its start.
    pub fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        use StrategyConfig::*;
        match self.clone() {
            Random(_) => Box::new(RandomSearch),
            LocalSearch(_) => Box::new(super::local_search::LocalSearch::new(space, rng)),
            RegularizedEvolution(config) => Box::new(super::regularized_evolution::RegularizedEvolution::new(config)),
            Genetic(config) => Box::new(super::genetic::Genetic::new(config, space, rng)),
            Nsga2(config) => Box::new(super::nsga2::Nsga2::new(config, space, rng)),
            Reinforce(config) => Box::new(super::reinforce::Reinforce::new(config, space)),
            Controller(config) => Box::new(super::controller::Controller::new(config, space, rng)),
            Tpe(config) => Box::new(super::tpe::Tpe::new(config, space)),
            GaussianProcess(config) => Box::new(super::gaussian_process::GaussianProcess::new(config, space, rng)),
            Bananas(config) => Box::new(super::bananas::Bananas::new(config, space, rng)),
            Sng(config) => Box::new(super::sng::Sng::new(config, space)),
            Mdenas(config) => Box::new(super::mdenas::Mdenas::new(config, space)),
            Ddpnas(config) => Box::new(super::ddpnas::Ddpnas::new(config, space, rng)),
            SuccessiveHalving(config) => {
                Box::new(super::hyperband::Hyperband::new(config, Brackets::Longest, space, rng))
            }
            Hyperband(config) => Box::new(super::hyperband::Hyperband::new(config, Brackets::All, space, rng)),
            Asha(config) => Box::new(super::asha::Asha::new(config)),
            Bohb(config) => Box::new(super::hyperband::Hyperband::bohb(config, space, rng)),
        }
    }
}
