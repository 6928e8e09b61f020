//! One file per command of `nas-classify`.

pub mod bench;
pub mod bench_step;
pub mod compare;
pub mod cost;
pub mod data;
pub mod eval;
pub mod export;
mod one_shot;
pub mod predict;
pub mod search;
pub mod train;
pub mod trial;

use anyhow::Result;
use nas_core::run::cli;
use nas_datasets::classify::{ClassifyDataset, check};

/// Metrics that are drawn.
pub const CURVES: [&str; 3] = ["loss", "top1", "top5"];

/// Looks at every sample of a set before hours are spent on it.
fn require_sound(dataset: &dyn ClassifyDataset, what: &str) -> Result<()> {
    cli::require_sound(&check(dataset), dataset.len(), what, "nas-classify")
}
