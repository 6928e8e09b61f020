//! One-shot methods by name: the enum is the registry.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::darts::{DartsConfig, Order};
use super::gdas::GdasConfig;
use super::snas::SnasConfig;
use super::{OneShot, Problem};
use crate::optim::OptimizerConfig;
use crate::space::{Choice, WeightSharing};

/// `method` of a config: `kind` and the method's parameters, each with a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OneShotConfig {
    /// DARTS, first or second order.
    Darts(DartsConfig),
    /// SNAS.
    Snas(SnasConfig),
    /// GDAS.
    Gdas(GdasConfig),
}

/// What the registry knows of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OneShotInfo {
    /// Name, as configs spell it.
    pub kind: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
}

impl OneShotConfig {
    /// One of each kind, with default parameters.
    pub fn all() -> Vec<Self> {
        use OneShotConfig::*;
        vec![Darts(Default::default()), Snas(Default::default()), Gdas(Default::default())]
    }

    /// Name and paper.
    pub fn info(&self) -> OneShotInfo {
        use OneShotConfig::*;
        let (kind, paper) = match self {
            Darts(_) => ("darts", "Liu et al. 2019, arXiv 1806.09055"),
            Snas(_) => ("snas", "Xie et al. 2018, arXiv 1812.09926"),
            Gdas(_) => ("gdas", "Dong and Yang 2019, arXiv 1910.04465"),
        };
        OneShotInfo { kind, paper }
    }

    /// Says which parameter cannot be served, or why the method cannot serve `space`.
    pub fn check(&self, space: &dyn WeightSharing) -> Result<()> {
        let positive = |name: &str, value: f64| {
            ensure!(value > 0.0 && value.is_finite(), "method.{name} = {value}; expected more than 0");
            Ok(())
        };
        let operators = || {
            let found = space.arch_parameters().iter().any(|p| p.choice == Choice::Operator);
            let kind = self.info().kind;
            ensure!(
                found,
                "method.kind = {kind:?} chooses operators, and the space {} has none to choose",
                space.name()
            );
            Ok(())
        };
        use OneShotConfig::*;
        match self {
            Darts(c) => {
                let sgd = matches!(c.weights, OptimizerConfig::Sgd(_));
                ensure!(
                    c.order == Order::First || sgd,
                    "method.order = \"second\" looks ahead along weights.kind = \"sgd\" only"
                );
                operators()
            }
            Snas(SnasConfig { temperature_start, temperature_end, .. })
            | Gdas(GdasConfig { temperature_start, temperature_end, .. }) => {
                positive("temperature_start", *temperature_start)?;
                positive("temperature_end", *temperature_end)?;
                operators()
            }
        }
    }

    /// The method at its start, its architecture parameters drawn from libtorch's generator.
    pub fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        self.check(&*problem.space)?;
        use OneShotConfig::*;
        Ok(match self.clone() {
            Darts(config) => {
                let first = config.order == Order::First;
                ensure!(first || !problem.amp, "method.order = \"second\" is not served under mixed precision (--amp)");
                Box::new(super::darts::Darts::new(config, problem))
            }
            Snas(config) => Box::new(super::snas::Snas::new(config, problem)),
            Gdas(config) => Box::new(super::gdas::Gdas::new(config, problem)),
        })
    }
}
