//! What becomes of a trial, as a strategy sees it.

use serde::{Deserialize, Serialize};

use super::Architecture;

/// Who chose a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The strategy that is told of it.
    #[default]
    Proposed,
    /// The user: a trial of this search that it began with.
    Given,
    /// Another search, whose numbers of trials and checkpoints are not this one's.
    Earlier,
}

/// A trial that has ended, as a strategy sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// By how much the trial's metrics violate the constraints, relative to the bounds; 0 where they are met, infinite where a
    /// bounded metric is missing: the network does not run there.
    pub violation: f64,
    /// Who chose the trial.
    #[serde(default)]
    pub origin: Origin,
}

impl Observation {
    /// The main objective; `None` where the trial failed.
    pub fn value(&self) -> Option<f64> {
        self.values.as_ref().map(|values| values[0])
    }
}
