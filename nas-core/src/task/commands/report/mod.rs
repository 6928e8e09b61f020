//! The `report` commands: what run folders hold, as text, as pictures and as one page.

mod optuna;
mod pages;
mod samples;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

pub(super) use self::pages::{Page, Part, Run};
use crate::run::cli::{ComputeArgs, Format, count, print, warn};
use crate::run::page::page;
use crate::run::plot::{Series, curves};
use crate::run::run_dir::{read_result, read_text, write_atomic};
use crate::task::Task;
use crate::train::{Metrics, read_metrics};

/// Summarise run folders, draw their curves, and put them on one page
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Run folders of searches, trainings or comparisons
    #[arg(value_name = "DIR", required = true)]
    runs: Vec<PathBuf>,
    /// Also write a page that shows and compares the runs; it needs no other file and no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Also write the trials as a journal of Optuna, for its dashboard and JournalStorage; a study for every trial log
    #[arg(long, value_name = "FILE")]
    optuna: Option<PathBuf>,
    /// Also show on the page the N worst and the N best validation samples of every training that is named, and what its network makes
    /// of them
    #[arg(long, value_name = "N", requires = "html", value_parser = count(1, 64))]
    images: Option<usize>,
    /// For --images: replace a key of the runs' experiments (data.root, ...); may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "images")]
    sets: Vec<String>,
    /// For --images: where networks compute
    #[command(flatten)]
    compute: ComputeArgs,
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

/// Several run folders.
#[derive(Serialize)]
struct Reports {
    runs: Vec<Report>,
}

impl fmt::Display for Reports {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let texts: Vec<String> = self.runs.iter().map(Report::to_string).collect();
        write!(f, "{}", texts.join("\n\n"))
    }
}

/// Runs the command. Of one folder the summary is printed as it is, of several as a list `runs`.
pub fn run<T: Task>(args: &ReportArgs) -> Result<()> {
    let mut runs = args.runs.iter().map(|run| report::<T>(run)).collect::<Result<Vec<Report>>>()?;
    if args.html.is_some() || args.optuna.is_some() {
        let mut data = Page::read::<T>(&args.runs)?;
        if let Some(count) = args.images {
            let compute = args.compute.resolve()?;
            let trainings = data.runs.iter_mut().filter(|run| run.parent.is_none() && run.is_training());
            for run in trainings {
                run.pictures.extend(samples::worst_and_best::<T>(Path::new(&run.path), &args.sets, count, compute)?);
            }
        }
        let html = args.html.as_ref().map(|path| (path, Ok(page(&data.title(), &data))));
        let optuna = args.optuna.as_ref().map(|path| (path, optuna::journal(&data)));
        for (path, text) in html.into_iter().chain(optuna) {
            write_atomic(path, text?.as_bytes())?;
        }
    }
    match args.runs.len() {
        1 => print(&runs.remove(0), args.format),
        _ => print(&Reports { runs }, args.format),
    }
}

/// The summary of a run; draws its curves into its folder.
fn report<T: Task>(run: &Path) -> Result<Report> {
    let (drawn, score) = (T::CURVES, T::METRICS[0].0);
    ensure!(run.join("config.toml").exists(), "{}: no run folder (config.toml is missing)", run.display());
    let metrics = read_metrics(run)?;
    let result = read_result::<Value>(run)?;
    let best = series(&metrics, score).points.iter().map(|point| point.1).reduce(f64::max);
    Ok(Report {
        run: run.display().to_string(),
        done: result.is_some(),
        epochs: metrics.len(),
        last: metrics.last().cloned(),
        best: best.map(|best| (score.to_string(), best)),
        text: ["table.txt", "result.txt", "architecture.txt"].iter().find_map(|name| read_text(&run.join(name)).ok()),
        // A folder that may only be read has a summary too.
        curves: draw_curves(run, &metrics, drawn).unwrap_or_else(|error| {
            warn(format!("{error:#}"));
            None
        }),
        result,
    })
}

/// A metric over the epochs that have it.
pub fn series(metrics: &[Metrics], name: &str) -> Series {
    let point = |line: &Metrics| Some((line.get("epoch")?.as_f64()?, line.get(name)?.as_f64()?));
    Series::new(name, metrics.iter().filter_map(point).collect())
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
