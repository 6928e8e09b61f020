//! `nas-classify search`: trials, a log, and a folder with what came of them.

use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::arch::Architecture;
use nas_core::cli::{Compute, Format, RunArgs, open_run, print};
use nas_core::estimator::honesty::HonestyReport;
use nas_core::executor::{Executor, InProcess, Processes, trial_folder};
use nas_core::goals::{Goal, Goals, Restricted};
use nas_core::pareto::{Point, fronts};
use nas_core::plot::{self, Series};
use nas_core::progress::Progress;
use nas_core::run_dir::{RunDir, write_atomic};
use nas_core::search::{SearchLoop, Searcher};
use nas_core::strategy::{NoParameters, StrategyConfig};
use nas_core::trial::{Outcome, Record, Trial, Values};
use nas_core::trial_store::TrialStore;
use serde::{Deserialize, Serialize};

use crate::experiment::{Evaluator, HonestyConfig, SearchExperiment};

/// Search an architecture by trials
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --out runs/nb201
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --set strategy.kind=tpe --workers 2")]
pub struct SearchArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Trials side by side, each in a process of its own; without it they run one by one in this process
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// An architecture and its metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Trial that evaluated it.
    pub trial: u64,
    /// As configs and `--arch` take it.
    pub architecture: Architecture,
    /// In the literature's notation.
    pub notation: String,
    /// Metrics of the trial.
    pub metrics: Values,
}

/// `result.json` of a search by trials.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchResult {
    /// Name of the strategy.
    pub strategy: String,
    /// The best by the main objective among those that meet the constraints; none where no trial does.
    pub best: Option<Found>,
    /// Architectures that no other one dominates, for several objectives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pareto: Vec<Found>,
    /// Trials that ended.
    pub num_trials: usize,
    /// Trials that failed.
    pub num_failed: usize,
    /// The same of the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Box<SearchResult>>,
    /// The main objective against what it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyReport>,
    /// The run folder.
    pub run: String,
}

impl fmt::Display for SearchResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.lines(f)?;
        if let Some(baseline) = &self.baseline {
            write!(f, "baseline ")?;
            baseline.lines(f)?;
        }
        self.honesty.iter().try_for_each(|report| writeln!(f, "{report}"))?;
        write!(f, "everything is in {}", self.run)
    }
}

impl SearchResult {
    fn lines(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}: {} trials, {} failed", self.strategy, self.num_trials, self.num_failed)?;
        let shown = if self.pareto.is_empty() { self.best.as_slice() } else { &self.pareto };
        if shown.is_empty() {
            writeln!(f, "  no trial meets the constraints")?;
        }
        for Found { trial, architecture, notation, metrics } in shown {
            write!(f, "  trial {trial}: {architecture}  {notation}\n   ")?;
            metrics.iter().try_for_each(|(name, value)| write!(f, " {name} {value}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> Result<()> {
    let experiment: SearchExperiment = nas_core::config::load(&args.run.config, &args.run.sets)?;
    let compute = args.run.compute.resolve()?;
    let evaluator = Evaluator::open(&experiment)?;
    experiment.check(&evaluator, args.workers)?;
    let dir = open_run(&args.run, Some(experiment.seed), &experiment, compute)?;
    let result = match dir.result()? {
        Some(result) => result,
        None => search(&dir, &experiment, &evaluator, args.workers, compute)?,
    };
    print(&result, args.format)
}

fn search(
    dir: &RunDir,
    experiment: &SearchExperiment,
    evaluator: &Evaluator,
    workers: Option<usize>,
    compute: Compute,
) -> Result<SearchResult> {
    let goals = experiment.goals();
    let num_trials = experiment.num_trials;
    let job = Job { dir, experiment, evaluator, workers, compute };
    let records = job.run(&experiment.strategy, goals.clone(), Part { name: "", seed: 0, num_trials })?;
    let mut result = job.result(&experiment.strategy, &goals, &records);
    let mut curves = vec![best_so_far(&result.strategy, &goals, &records)];
    if let Some(baseline) = &experiment.baseline {
        let main = Goals { objectives: goals.objectives[..1].to_vec(), ..goals.clone() };
        // Another seed: the first random architectures of both would be the same.
        let records = job.run(baseline, main, Part { name: "baseline", seed: 1, num_trials })?;
        let of_baseline = job.result(baseline, &goals, &records);
        curves.push(best_so_far(&format!("baseline {}", of_baseline.strategy), &goals, &records));
        result.baseline = Some(Box::new(of_baseline));
    }
    result.honesty = experiment.honesty.as_ref().map(|honesty| job.honesty(honesty, &goals)).transpose()?;
    let objective = &goals.objectives[0].metric;
    curves.retain(|curve| !curve.points.is_empty());
    if !curves.is_empty() {
        plot::lines(&dir.path("search.svg"), "best so far", "trials", objective, &curves)?;
    }
    write_atomic(&dir.path("trials.csv"), csv_of(&records)?.as_slice())?;
    write_atomic(&dir.path("result.txt"), format!("{result}\n").as_bytes())?;
    dir.finish(&result)?;
    Ok(result)
}

/// What the searches of one run have in common.
struct Job<'a> {
    dir: &'a RunDir,
    experiment: &'a SearchExperiment,
    evaluator: &'a Evaluator,
    workers: Option<usize>,
    compute: Compute,
}

/// One of the searches of a run.
struct Part {
    /// Its folder in the run folder.
    name: &'static str,
    /// Added to the run's seed.
    seed: u64,
    num_trials: u64,
}

impl Job<'_> {
    fn run(&self, strategy: &StrategyConfig, goals: Goals, part: Part) -> Result<Vec<Record>> {
        let Self { dir, experiment, evaluator, workers, compute } = *self;
        let (folder, seed) = (dir.path(part.name), experiment.seed + part.seed);
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        let cost = |arch: &Architecture| evaluator.cost(arch);
        let space = Restricted::new(experiment.space.open(), &experiment.constraints, &cost)?;
        let (store, records) = TrialStore::open(folder.join("trials.jsonl"))?;
        let name = strategy.info().kind;
        let searcher = Searcher::new(&space, strategy, goals, experiment.budget, seed);
        let total = part.num_trials as usize;
        let mut progress = Progress::new(name, total, records.len(), Some(&dir.path("run.log")))?;
        let on_end = |record: &Record| {
            if let Outcome::Failed(reason) = &record.outcome {
                progress.line(format!("trial {} failed: {reason}", record.trial.id));
            }
            progress.step(|| format!("trial {}", record.trial.id));
        };
        let mut search = SearchLoop::new(searcher, store, records, part.num_trials);
        match workers {
            None => {
                let trials = folder.join("trials");
                let evaluate = |trial: &Trial| evaluator.evaluate(trial, &trial_folder(&trials, trial.id), compute);
                search.run(&mut InProcess::new(evaluate), Vec::new(), on_end)?
            }
            Some(workers) => {
                let mut processes = Processes::new(folder.join("trials"), workers, experiment.limits)?;
                let started = processes.started()?;
                let executor: &mut dyn Executor = &mut processes;
                search.run(executor, started, on_end)?;
            }
        }
        Ok(search.records().to_vec())
    }

    /// Evaluates random architectures and compares the main objective and the controls with the truth.
    fn honesty(&self, honesty: &HonestyConfig, goals: &Goals) -> Result<HonestyReport> {
        let HonestyConfig { truth, samples, top, controls } = honesty;
        let random = StrategyConfig::Random(NoParameters {});
        let goals = Goals { objectives: goals.objectives[..1].to_vec(), constraints: Vec::new() };
        let records = self.run(&random, goals.clone(), Part { name: "honesty", seed: 2, num_trials: *samples })?;
        let complete = |record: &&Record| {
            [truth].into_iter().chain(controls).all(|metric| record.metric(metric).is_some())
                && goals.observe(record).values.is_some()
        };
        let records: Vec<&Record> = records.iter().filter(complete).collect();
        anyhow::ensure!(records.len() >= 2, "honesty: {} of {samples} trials have all metrics", records.len());
        let column =
            |metric: &String| -> Vec<f64> { records.iter().filter_map(|record| record.metric(metric)).collect() };
        let objective = records.iter().filter_map(|record| goals.observe(record).values).map(|values| values[0]);
        let mut estimates = vec![(goals.objectives[0].metric.clone(), objective.collect())];
        estimates.extend(controls.iter().map(|metric| (metric.clone(), column(metric))));
        Ok(HonestyReport::new((truth, &column(truth)), &estimates, *top))
    }

    fn result(&self, strategy: &StrategyConfig, goals: &Goals, records: &[Record]) -> SearchResult {
        let found = |record: &Record| match &record.outcome {
            Outcome::Metrics(metrics) => Some(Found {
                trial: record.trial.id,
                architecture: record.trial.arch.clone(),
                notation: self.experiment.space.notation(&record.trial.arch),
                metrics: metrics.clone(),
            }),
            Outcome::Failed(_) => None,
        };
        let points: Vec<(&Record, Point)> =
            records.iter().filter_map(|record| Some((record, point(goals, record)?))).collect();
        let feasible: Vec<&(&Record, Point)> = points.iter().filter(|(_, point)| point.violation == 0.0).collect();
        // The first of equally good ones.
        let best = feasible.iter().rev().max_by(|a, b| a.1.values[0].total_cmp(&b.1.values[0]));
        let mut pareto = Vec::new();
        if goals.objectives.len() > 1 {
            let values: Vec<&Point> = feasible.iter().map(|(_, point)| point).collect();
            let front = fronts(&values).into_iter().next().unwrap_or_default();
            let mut seen = std::collections::HashSet::new();
            let members = front.into_iter().map(|i| feasible[i].0).filter(|record| seen.insert(&record.trial.arch));
            pareto = members.filter_map(found).collect();
        }
        SearchResult {
            strategy: strategy.info().kind.to_string(),
            best: best.and_then(|(record, _)| found(record)),
            pareto,
            num_trials: records.len(),
            num_failed: records.iter().filter(|record| matches!(record.outcome, Outcome::Failed(_))).count(),
            baseline: None,
            honesty: None,
            run: self.dir.root().display().to_string(),
        }
    }
}

fn point(goals: &Goals, record: &Record) -> Option<Point> {
    let observation = goals.observe(record);
    Some(Point { values: observation.values?, violation: observation.violation })
}

/// The best main objective of the trials so far that meet the constraints.
fn best_so_far(name: &str, goals: &Goals, records: &[Record]) -> Series {
    let sign = if goals.objectives[0].goal == Goal::Maximize { 1.0 } else { -1.0 };
    let mut best = f64::NEG_INFINITY;
    let mut points = Vec::new();
    for (i, record) in records.iter().enumerate() {
        let feasible = point(goals, record).filter(|point| point.violation == 0.0);
        best = feasible.map_or(best, |point| best.max(point.values[0]));
        if best.is_finite() {
            points.push((i as f64 + 1.0, sign * best));
        }
    }
    Series { name: name.to_string(), points }
}

/// All trials as a table.
fn csv_of(records: &[Record]) -> Result<Vec<u8>> {
    let mut names: Vec<&String> = records.iter().flat_map(metrics_of).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let mut csv = csv::Writer::from_writer(Vec::new());
    let fixed = ["trial", "arch", "epochs", "parent", "failed"];
    csv.write_record(fixed.iter().map(ToString::to_string).chain(names.iter().map(ToString::to_string)))?;
    for record in records {
        let Record { trial, outcome } = record;
        let optional = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
        let failed = if let Outcome::Failed(reason) = outcome { reason.clone() } else { String::new() };
        let (epochs, parent) = (optional(trial.budget.epochs.map(u64::from)), optional(trial.parent));
        let fixed = [trial.id.to_string(), trial.arch.to_string(), epochs, parent, failed];
        let metric = |name: &&String| record.metric(name).map_or(String::new(), |value| value.to_string());
        csv.write_record(fixed.into_iter().chain(names.iter().map(metric)))?;
    }
    csv.into_inner().map_err(|error| error.into_error().into())
}

fn metrics_of(record: &Record) -> impl Iterator<Item = (&String, &f64)> {
    let metrics = if let Outcome::Metrics(metrics) = &record.outcome { Some(metrics) } else { None };
    metrics.into_iter().flatten()
}
