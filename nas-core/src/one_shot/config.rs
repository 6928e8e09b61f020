//! One-shot methods by name: the enum is the registry.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::asng::AsngConfig;
use super::darts::{DartsConfig, Order};
use super::ddpnas::DdpnasConfig;
use super::drnas::DrnasConfig;
use super::enas::EnasConfig;
use super::fbnet::FbnetConfig;
use super::gdas::GdasConfig;
use super::mdenas::MdenasConfig;
use super::p_darts::PDartsConfig;
use super::pc_darts::PcDartsConfig;
use super::proxyless_nas::ProxylessNasConfig;
use super::random_nas_ws::RandomNasWsConfig;
use super::snas::SnasConfig;
use super::spos::SposConfig;
use super::{OneShot, Problem, SecondStage};
use crate::nn::Shape;
use crate::optim::OptimizerConfig;
use crate::space::{Choice, WeightSharing};

/// `method` of a config: `kind` and the method's parameters, each with a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OneShotConfig {
    /// DARTS, first or second order.
    Darts(DartsConfig),
    /// PC-DARTS.
    PcDarts(PcDartsConfig),
    /// P-DARTS.
    PDarts(PDartsConfig),
    /// SNAS.
    Snas(SnasConfig),
    /// GDAS.
    Gdas(GdasConfig),
    /// DrNAS.
    Drnas(DrnasConfig),
    /// ProxylessNAS.
    ProxylessNas(ProxylessNasConfig),
    /// FBNet.
    Fbnet(FbnetConfig),
    /// ENAS.
    Enas(EnasConfig),
    /// MdeNAS on shared weights.
    Mdenas(MdenasConfig),
    /// DDPNAS on shared weights.
    Ddpnas(DdpnasConfig),
    /// ASNG on shared weights.
    Asng(AsngConfig),
    /// SPOS.
    Spos(SposConfig),
    /// RandomNAS with weight sharing.
    RandomNasWs(RandomNasWsConfig),
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
        vec![
            Darts(Default::default()),
            PcDarts(Default::default()),
            PDarts(Default::default()),
            Snas(Default::default()),
            Gdas(Default::default()),
            Drnas(Default::default()),
            ProxylessNas(Default::default()),
            Fbnet(Default::default()),
            Enas(Default::default()),
            Mdenas(Default::default()),
            Ddpnas(Default::default()),
            Asng(Default::default()),
            Spos(Default::default()),
            RandomNasWs(Default::default()),
        ]
    }

    /// Name and paper.
    pub fn info(&self) -> OneShotInfo {
        use OneShotConfig::*;
        let (kind, paper) = match self {
            Darts(_) => ("darts", "Liu et al. 2019, arXiv 1806.09055"),
            PcDarts(_) => ("pc_darts", "Xu et al. 2019, arXiv 1907.05737"),
            PDarts(_) => ("p_darts", "Chen et al. 2019, arXiv 1904.12760"),
            Snas(_) => ("snas", "Xie et al. 2018, arXiv 1812.09926"),
            Gdas(_) => ("gdas", "Dong and Yang 2019, arXiv 1910.04465"),
            Drnas(_) => ("drnas", "Chen et al. 2020, arXiv 2006.10355"),
            ProxylessNas(_) => ("proxyless_nas", "Cai et al. 2018, arXiv 1812.00332"),
            Fbnet(_) => ("fbnet", "Wu et al. 2018, arXiv 1812.03443"),
            Enas(_) => ("enas", "Pham et al. 2018, arXiv 1802.03268"),
            Mdenas(_) => ("mdenas", "Zheng et al. 2019, arXiv 1905.07529"),
            Ddpnas(_) => ("ddpnas", "Zheng et al. 2019, arXiv 1905.13543"),
            Asng(_) => ("asng", "Akimoto et al. 2019, arXiv 1905.08537"),
            Spos(_) => ("spos", "Guo et al. 2019, arXiv 1904.00420"),
            RandomNasWs(_) => ("random_nas_ws", "Li and Talwalkar 2019, arXiv 1902.07638"),
        };
        OneShotInfo { kind, paper }
    }

    /// The search over the trained supernet that follows, for methods that leave the choice to one.
    pub fn second_stage(&self) -> Option<SecondStage> {
        match self {
            Self::Spos(config) => Some(config.second_stage()),
            Self::RandomNasWs(config) => Some(config.second_stage()),
            _ => None,
        }
    }

    /// Says which parameter cannot be served, or why the method cannot serve `space` on images of `input`.
    pub fn check(&self, space: &dyn WeightSharing, input: Shape) -> Result<()> {
        let positive = |name: &str, value: f64| {
            ensure!(value > 0.0 && value.is_finite(), "method.{name} = {value}; expected more than 0");
            Ok(())
        };
        let has = |choice: Choice| space.arch_parameters().iter().any(|p| p.choice == choice);
        let operators = || {
            let kind = self.info().kind;
            let name = space.name();
            ensure!(
                has(Choice::Operator),
                "method.kind = {kind:?} chooses operators, and the space {name} has none to choose"
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
            PcDarts(_) => {
                let name = space.name();
                ensure!(
                    has(Choice::Connection),
                    "method.kind = \"pc_darts\" weighs the edges into a node, and the space {name} has no such parameters"
                );
                operators()
            }
            PDarts(c) => {
                c.check(space)?;
                operators()
            }
            Snas(SnasConfig { temperature_start, temperature_end, .. })
            | Gdas(GdasConfig { temperature_start, temperature_end, .. }) => {
                positive("temperature_start", *temperature_start)?;
                positive("temperature_end", *temperature_end)?;
                operators()
            }
            Drnas(c) => {
                ensure!(c.anchor >= 0.0, "method.anchor = {}; expected 0 or more", c.anchor);
                operators()
            }
            ProxylessNas(c) => {
                ensure!(c.arch_every > 0, "method.arch_every = 0; expected at least 1");
                c.cost.check(space, input)?;
                operators()
            }
            Fbnet(c) => {
                positive("temperature", c.temperature)?;
                positive("temperature_decay", c.temperature_decay)?;
                c.cost.check(space, input)?;
                operators()
            }
            Enas(c) => c.strategy().check().context("method"),
            Mdenas(c) => c.strategy().check().context("method"),
            Ddpnas(c) => c.strategy().check().context("method"),
            Asng(c) => c.strategy().check().context("method"),
            Spos(c) => {
                let info = c.strategy.info();
                ensure!(
                    !info.multi_fidelity,
                    "method.strategy.kind = {:?} chooses the epochs of its trials, and a candidate of a trained supernet has none",
                    info.kind
                );
                ensure!(c.num_trials > 0, "method.num_trials = 0; expected at least 1");
                c.strategy.check().context("method")
            }
            RandomNasWs(c) => {
                ensure!(c.num_trials > 0, "method.num_trials = 0; expected at least 1");
                Ok(())
            }
        }
    }

    /// The method at its start, its architecture parameters drawn from libtorch's generator.
    pub fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        self.check(&*problem.space, problem.input)?;
        use OneShotConfig::*;
        Ok(match self.clone() {
            Darts(config) => {
                let first = config.order == Order::First;
                ensure!(first || !problem.amp, "method.order = \"second\" is not served under mixed precision (--amp)");
                Box::new(super::darts::Darts::new(config, problem))
            }
            PcDarts(config) => Box::new(super::pc_darts::PcDarts::new(config, problem)),
            PDarts(config) => Box::new(super::p_darts::PDarts::new(config, problem)),
            Snas(config) => Box::new(super::snas::Snas::new(config, problem)),
            Gdas(config) => Box::new(super::gdas::Gdas::new(config, problem)),
            Drnas(config) => Box::new(super::drnas::Drnas::new(config, problem)),
            ProxylessNas(config) => Box::new(super::proxyless_nas::ProxylessNas::new(config, problem)?),
            Fbnet(config) => Box::new(super::fbnet::Fbnet::new(config, problem)?),
            Enas(config) => Box::new(config.method(problem)),
            Mdenas(config) => Box::new(config.method(problem)),
            Ddpnas(config) => Box::new(config.method(problem)),
            Asng(config) => Box::new(config.method(problem)),
            Spos(config) => Box::new(config.method(problem)),
            RandomNasWs(config) => Box::new(config.method(problem)),
        })
    }
}
