//! What becomes of a trial, as a strategy sees it.

use super::Architecture;

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

impl Observation {
    /// The main objective; `None` where the trial failed.
    pub fn value(&self) -> Option<f64> {
        self.values.as_ref().map(|values| values[0])
    }
}
