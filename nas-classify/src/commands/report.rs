//! `nas-classify report`: what a run folder of a training or a comparison holds, as text and pictures.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use nas_core::cli::{Format, print};
use nas_core::report::{draw_curves, read_metrics, series};
use nas_core::run_dir::read_result;
use nas_core::train::Metrics;
use serde::Serialize;
use serde_json::Value;

/// Summarise a run folder and draw its curves
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-classify report runs/derived")]
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
    best_top1: Option<f64>,
    /// Text of a comparison or of a search.
    text: Option<String>,
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
        self.best_top1.iter().try_for_each(|best| write!(f, "\n  best top1 {best}"))?;
        self.text.iter().try_for_each(|text| write!(f, "\n{}", text.trim_end()))?;
        self.curves.iter().try_for_each(|curves| write!(f, "\n  curves {curves}"))
    }
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<()> {
    if !args.run.join("config.toml").exists() {
        bail!("{}: no run folder (config.toml is missing)", args.run.display());
    }
    print(&report(&args.run)?, args.format)
}

fn report(run: &Path) -> Result<Report> {
    let metrics = read_metrics(run)?;
    let result = read_result::<Value>(run)?;
    let texts = ["table.txt", "result.txt"];
    Ok(Report {
        run: run.display().to_string(),
        done: result.is_some(),
        epochs: metrics.len(),
        last: metrics.last().cloned(),
        best_top1: series(&metrics, "top1").points.iter().map(|point| point.1).reduce(f64::max),
        text: texts.iter().find_map(|name| fs::read_to_string(run.join(name)).ok()),
        curves: draw_curves(run, &metrics, &["loss", "top1", "top5"])?,
        result,
    })
}
