//! What every strategy says of itself beside its algorithm, and the macro by which one list becomes the enum of configs.

use std::fmt;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::SearchStrategy;
use crate::space::ChoiceSpace;

/// Parameters of a strategy, which know what it is, what they cannot be, and how it starts.
pub trait StrategyDef: fmt::Debug {
    /// Name, paper and abilities.
    fn info(&self) -> StrategyInfo;

    /// Says which parameter cannot be served.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The strategy at its start.
    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy>;
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

impl StrategyInfo {
    /// A strategy for one objective at full fidelity that orders trials by their violation of constraints first.
    pub(super) const fn new(kind: &'static str, paper: &'static str) -> Self {
        Self { kind, paper, multi_fidelity: false, multi_objective: false, measured_constraints: true }
    }
}

/// Refuses a number of things below `least`.
pub(super) fn at_least(strategy: &dyn StrategyDef, name: &str, value: usize, least: usize) -> Result<()> {
    let kind = strategy.info().kind;
    ensure!(value >= least, "strategy.{name} = {value}; {kind} needs at least {least}");
    Ok(())
}

/// Refuses what is no part of a whole.
pub(super) fn part(name: &str, value: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&value), "strategy.{name} = {value}; expected 0 to 1");
    Ok(())
}

/// Refuses what is not finite and above 0.
pub(super) fn positive(name: &str, value: f64) -> Result<()> {
    ensure!(value > 0.0 && value.is_finite(), "strategy.{name} = {value}; expected more than 0");
    Ok(())
}

/// The enum of configs from a list of `/// doc`, variant and `module::Config`: serde reads it by `kind`, `all` has each with
/// its defaults, and `def` is the config as the trait that its module implements.
macro_rules! registry {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $def:ident {
            $($(#[$doc:meta])* $variant:ident($module:ident::$config:ident),)+
        }
    ) => {
        $(pub use $module::$config;)+

        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        pub enum $name {
            $($(#[$doc])* $variant($config),)+
        }

        impl $name {
            /// One of each kind, with default parameters.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$variant(Default::default()),)+]
            }

            fn def(&self) -> &dyn $def {
                match self {
                    $(Self::$variant(config) => config,)+
                }
            }
        }
    };
}

pub(crate) use registry;
