//! One file per command of `nas-segment`.

pub mod bench;
pub mod compare;
pub mod data;
pub mod eval;
pub mod gpu_check;
pub mod predict;
pub mod search;
pub mod train;

use std::path::Path;

use anyhow::Result;
use nas_core::run::cli;
use nas_core::task::commands::report::{draw_curves, read_metrics};
use nas_datasets::{SegDataset, check};

/// Metrics that are drawn.
pub const CURVES: [&str; 3] = ["loss", "miou", "pixel_acc"];

/// Draws the curves of a run that ended.
fn draw_run(run: &Path) -> Result<()> {
    draw_curves(run, &read_metrics(run)?, &CURVES).map(drop)
}

/// Looks at every sample of a set before hours are spent on it.
fn require_sound(dataset: &dyn SegDataset, what: &str) -> Result<()> {
    cli::require_sound(&check(dataset), dataset.len(), what, "nas-segment")
}
