//! `nas-segment report`: what a run folder holds, as text and pictures.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use nas_core::cli::{Format, print};
use nas_core::report::{draw_curves, read_metrics, series};
use nas_core::train::Metrics;
use serde::Serialize;
use serde_json::Value;

/// Summarise a run folder and draw its curves
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-segment report runs/search")]
pub struct ReportArgs {
    /// Run folder of a search, a training or a comparison
    #[arg(value_name = "DIR")]
    run: PathBuf,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    run: String,
    done: bool,
    epochs: usize,
    last: Option<Metrics>,
    best_miou: Option<f64>,
    table: Option<String>,
    curves: Option<String>,
    result: Option<Value>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.run, if self.done { "done" } else { "not done" })?;
        if self.epochs > 0 {
            write!(f, ", {} epochs", self.epochs)?;
        }
        for (name, value) in self.last.iter().flatten() {
            write!(f, "\n  {name} {value}")?;
        }
        self.best_miou.iter().try_for_each(|best| write!(f, "\n  best miou {best}"))?;
        self.table.iter().try_for_each(|table| write!(f, "\n{table}"))?;
        self.curves.iter().try_for_each(|curves| write!(f, "\n  curves {curves}"))
    }
}

/// Metrics that are drawn.
const CURVES: [&str; 3] = ["loss", "miou", "pixel_acc"];

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<()> {
    if !args.run.join("config.toml").exists() {
        bail!("{}: no run folder (config.toml is missing)", args.run.display());
    }
    print(&report(&args.run)?, args.format)
}

/// Draws the curves of a run folder and gathers its summary.
fn report(run: &Path) -> Result<Report> {
    let metrics = read_metrics(run)?;
    let result = nas_core::run_dir::read_result::<Value>(run)?;
    Ok(Report {
        run: run.display().to_string(),
        done: result.is_some(),
        epochs: metrics.len(),
        last: metrics.last().cloned(),
        best_miou: series(&metrics, "miou").points.iter().map(|point| point.1).reduce(f64::max),
        table: fs::read_to_string(run.join("table.txt")).ok(),
        curves: draw_curves(run, &metrics, &CURVES)?,
        result,
    })
}

/// Draws the curves of a run that ended.
pub(super) fn draw_run(run: &Path) -> Result<()> {
    draw_curves(run, &read_metrics(run)?, &CURVES).map(drop)
}
