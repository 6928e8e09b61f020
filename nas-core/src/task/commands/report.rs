//! The `report` commands: what a run folder holds, as text and pictures.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::run::cli::{Format, print};
use crate::run::plot::{Series, curves};
use crate::run::run_dir::{read_result, read_text};
use crate::task::Task;
use crate::train::Metrics;

/// Summarise a run folder and draw its curves
#[derive(Clone, Debug, Args)]
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
    /// The metric that is better when larger, and its best value.
    best: Option<(String, f64)>,
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
        self.best.iter().try_for_each(|(name, best)| write!(f, "\n  best {name} {best}"))?;
        self.text.iter().try_for_each(|text| write!(f, "\n{}", text.trim_end()))?;
        self.curves.iter().try_for_each(|curves| write!(f, "\n  curves {curves}"))
    }
}

/// Runs the command: draws the metrics `drawn`, of which `score` is the one to be large.
pub fn run<T: Task>(args: &ReportArgs) -> Result<()> {
    let (drawn, score) = (T::CURVES, T::METRICS[0].0);
    let run = &args.run;
    ensure!(run.join("config.toml").exists(), "{}: no run folder (config.toml is missing)", run.display());
    let metrics = read_metrics(run)?;
    let result = read_result::<Value>(run)?;
    let best = series(&metrics, score).points.iter().map(|point| point.1).reduce(f64::max);
    let report = Report {
        run: run.display().to_string(),
        done: result.is_some(),
        epochs: metrics.len(),
        last: metrics.last().cloned(),
        best: best.map(|best| (score.to_string(), best)),
        text: ["table.txt", "result.txt", "architecture.txt"].iter().find_map(|name| read_text(&run.join(name)).ok()),
        curves: draw_curves(run, &metrics, drawn)?,
        result,
    };
    print(&report, args.format)
}

/// The lines of a run's `metrics.jsonl`; none where there is no file.
pub fn read_metrics(run: &Path) -> Result<Vec<Metrics>> {
    let path = run.join("metrics.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = read_text(&path)?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

/// A metric over the epochs that have it.
pub fn series(metrics: &[Metrics], name: &str) -> Series {
    let point = |line: &Metrics| Some((line.get("epoch")?.as_f64()?, line.get(name)?.as_f64()?));
    Series { name: name.to_string(), points: metrics.iter().filter_map(point).collect() }
}

/// Draws the metrics `names` into `curves.svg` where there are epochs to draw; returns its path.
pub fn draw_curves(run: &Path, metrics: &[Metrics], names: &[&str]) -> Result<Option<String>> {
    if metrics.is_empty() {
        return Ok(None);
    }
    let path = run.join("curves.svg");
    let series: Vec<Series> = names.iter().map(|name| series(metrics, name)).collect();
    curves(&path, &run.display().to_string(), &series)?;
    Ok(Some(path.display().to_string()))
}
