//! One file per command of `nas-detect`.

pub mod compare;
pub mod data;
pub mod eval;
pub mod neck_search;
pub mod predict;
pub mod search;
pub mod train;

use std::path::Path;

use anyhow::Result;
use nas_core::run::cli;
use nas_core::task::commands::report::{draw_curves, read_metrics};
use nas_datasets::Split;
use nas_datasets::det::{DetDataConfig, DetDataset, check};

/// Metrics that are drawn.
pub const CURVES: [&str; 3] = ["loss", "ap", "ap50"];

/// Draws the curves of a run that ended.
fn draw_run(run: &Path) -> Result<()> {
    draw_curves(run, &read_metrics(run)?, &CURVES).map(drop)
}

/// Looks at every sample of both splits before hours are spent on them; says on stderr what was left out.
fn require_sound(data: &DetDataConfig) -> Result<()> {
    for split in [Split::Train, Split::Val] {
        let dataset = data.open(split)?;
        sound(&*dataset, split)?;
        dataset.warnings().iter().for_each(|warning| eprintln!("warning: {split}: {warning}"));
    }
    Ok(())
}

fn sound(dataset: &dyn DetDataset, split: Split) -> Result<()> {
    cli::require_sound(&check(dataset), dataset.len(), split.as_str(), "nas-detect")
}
