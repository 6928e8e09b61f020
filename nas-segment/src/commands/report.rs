//! `nas-segment report`: what a run folder holds, as text and pictures.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use nas_core::cli::{Format, print};
use nas_core::plot::{Series, curves};
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

/// Runs the command.
pub fn run(args: &ReportArgs) -> Result<()> {
    if !args.run.join("config.toml").exists() {
        bail!("{}: no run folder (config.toml is missing)", args.run.display());
    }
    print(&report(&args.run)?, args.format)
}

/// Draws the curves of a run folder and gathers its summary.
fn report(run: &Path) -> Result<Report> {
    let metrics = read_metrics(&run.join("metrics.jsonl"))?;
    let result = nas_core::run_dir::read_result::<Value>(run)?;
    Ok(Report {
        run: run.display().to_string(),
        done: result.is_some(),
        epochs: metrics.len(),
        last: metrics.last().cloned(),
        best_miou: series(&metrics, "miou").points.iter().map(|point| point.1).reduce(f64::max),
        table: fs::read_to_string(run.join("table.txt")).ok(),
        curves: draw(run, &metrics)?,
        result,
    })
}

/// Draws the curves of a run that ended.
pub(super) fn draw_run(run: &Path) -> Result<()> {
    draw(run, &read_metrics(&run.join("metrics.jsonl"))?).map(drop)
}

/// Draws `curves.svg` where there are epochs to draw; returns its path.
fn draw(run: &Path, metrics: &[Metrics]) -> Result<Option<String>> {
    if metrics.is_empty() {
        return Ok(None);
    }
    let path = run.join("curves.svg");
    let series = ["loss", "miou", "pixel_acc"].map(|name| series(metrics, name));
    curves(&path, &run.display().to_string(), &series)?;
    Ok(Some(path.display().to_string()))
}

/// The lines of a metrics file; none where there is no file.
fn read_metrics(path: &Path) -> Result<Vec<Metrics>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

fn series(metrics: &[Metrics], name: &str) -> Series {
    let point = |line: &Metrics| Some((line.get("epoch")?.as_f64()?, line.get(name)?.as_f64()?));
    Series { name: name.to_string(), points: metrics.iter().filter_map(point).collect() }
}
