//! Trials: what a strategy asks for, and what came of it. Plain data, the only thing that crosses from strategy to
//! executor to evaluator.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::space::Architecture;

/// How much of the full evaluation a trial gets. Lower fidelities are cheaper and less exact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Epochs of training in all, those of the trial it continues included; the evaluator's own number where not given.
    pub epochs: Option<u32>,
    /// Part of the training samples, in (0, 1].
    pub data: f64,
    /// Image side as a part of the full one, in (0, 1].
    pub image: f64,
    /// Channels as a part of the full network's, in (0, 1].
    pub channels: f64,
    /// Repeated cells as a part of the full network's, in (0, 1].
    pub cells: f64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { epochs: None, data: 1.0, image: 1.0, channels: 1.0, cells: 1.0 }
    }
}

impl Budget {
    /// Says which part is none.
    pub fn check(&self) -> anyhow::Result<()> {
        let parts = [("data", self.data), ("image", self.image), ("channels", self.channels), ("cells", self.cells)];
        for (name, part) in parts {
            anyhow::ensure!(part > 0.0 && part <= 1.0, "budget.{name} = {part}; expected more than 0 and at most 1");
        }
        anyhow::ensure!(self.epochs != Some(0), "budget.epochs = 0; expected at least 1");
        Ok(())
    }
}

/// What a strategy wants evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The architecture.
    pub arch: Architecture,
    /// Epochs, where the strategy chooses them.
    pub epochs: Option<u32>,
    /// The trial whose weights are inherited or whose training is continued.
    pub parent: Option<u64>,
}

impl From<Architecture> for Proposal {
    fn from(arch: Architecture) -> Self {
        Self { arch, epochs: None, parent: None }
    }
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Number of the trial, from 0 in the order of proposal.
    pub id: u64,
    /// The architecture.
    pub arch: Architecture,
    /// How much of the full evaluation.
    #[serde(default)]
    pub budget: Budget,
    /// The trial whose weights are inherited or whose training is continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
}

/// Named numbers that an evaluation ends in, such as `valid_acc`, `macs`.
pub type Values = BTreeMap<String, f64>;

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All values are finite.
    Metrics(Values),
    /// Why there is no value: a panic, a time or memory limit, a value that is not finite, a killed process.
    Failed(String),
}

impl Outcome {
    /// Metrics, or a failure where one of them is not finite.
    pub fn of(values: Values) -> Self {
        match values.iter().find(|(_, value)| !value.is_finite()) {
            Some((name, value)) => Self::Failed(format!("{name} is {value}")),
            None => Self::Metrics(values),
        }
    }
}

/// A trial that has ended: one line of the trial log. Holds no times, so that equal searches write equal logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The trial.
    #[serde(flatten)]
    pub trial: Trial,
    /// How it ended.
    pub outcome: Outcome,
}

impl Record {
    /// A metric of a trial that did not fail.
    pub fn metric(&self, name: &str) -> Option<f64> {
        match &self.outcome {
            Outcome::Metrics(values) => values.get(name).copied(),
            Outcome::Failed(_) => None,
        }
    }
}
