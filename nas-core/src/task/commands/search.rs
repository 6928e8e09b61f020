//! `search`: by trials, or on the shared weights of a supernet; a folder with what came of it.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nas_datasets::Split;
use serde::{Deserialize, Serialize};

use super::one_shot;
use crate::estimator::honesty::HonestyReport;
use crate::executor::{
    self, Executor, ExecutorConfig, InProcess, Jobs, Limits, Pilots, Processes, Queue, Ray, Slurm, Threads,
    trial_folder,
};
use crate::run::cli::{self, Compute, Format, RunArgs, count, run_in_folder};
use crate::run::config::to_toml;
use crate::run::plot::{self, Axis, Keep, Mark, Series};
use crate::run::progress::Progress;
use crate::run::run_dir::{RunDir, write_atomic};
use crate::run::times::Stopwatch;
use crate::search::board::TrialBoard;
use crate::search::goals::{Goal, Goals, Objective, Restricted};
use crate::search::log::TrialStore;
use crate::search::pareto::{Point, fronts};
use crate::search::start::StartConfig;
use crate::search::{SearchLoop, Searcher, best_so_far};
use crate::space::Architecture;
use crate::space::trial::{Budget, Outcome, Record, Trial, Values};
use crate::strategy::{RandomConfig, StrategyConfig};
use crate::task::Task;
use crate::task::evaluator::{self, BY_HAND, Evaluator, EvaluatorConfig, HonestyConfig, SearchPart, Searched};
use crate::task::experiment::{self, Kind, SearchExperiment};
use crate::task::find_batch::FindBatchArgs;
use crate::task::latency::{Latencies, LatencyReport};

/// Search an architecture by trials, or on the shared weights of a supernet
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// Experiment, run folder and device
    #[command(flatten)]
    pub run: RunArgs,
    /// Trials side by side, each in a process of its own, in the place of the experiment's `executor`
    #[arg(long, value_name = "N", value_parser = count(1, 4096))]
    pub workers: Option<usize>,
    /// On shared weights: processes that share every batch, as of `train`
    #[arg(long, value_name = "N", value_parser = count(1, 4096))]
    pub procs: Option<usize>,
    /// On shared weights: the largest batch in the place of a search
    #[command(flatten)]
    pub largest: FindBatchArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// What a search began from, as JSON, in its run folder.
const START: &str = "start.json";

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
    /// Architectures that a predictor looked at before; the trials are its best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_predicted: Option<usize>,
    /// Trials that failed.
    pub num_failed: usize,
    /// The same of the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Box<SearchResult>>,
    /// The main objective against what it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyReport>,
    /// What `[latency]` says of what was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyReport>,
    /// What trains the best, where there are data to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<String>,
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
        self.latency.iter().try_for_each(|report| writeln!(f, "{report}"))?;
        self.train.iter().try_for_each(|command| writeln!(f, "train it: {command}"))?;
        write!(f, "everything is in {}", self.run)
    }
}

impl SearchResult {
    fn lines(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: ", self.strategy)?;
        self.num_predicted.iter().try_for_each(|number| write!(f, "{number} predictions, "))?;
        writeln!(f, "{} trials, {} failed", self.num_trials, self.num_failed)?;
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
pub fn run<T: Task>(args: &SearchArgs) -> Result<()> {
    let RunArgs { config, sets, .. } = &args.run;
    if experiment::kind_at(config, sets)? == Some(Kind::OneShot) {
        ensure!(
            args.workers.is_none(),
            "--workers: a search on shared weights has no trials; --procs shares its batches"
        );
        return one_shot::run::<T>(args);
    }
    ensure!(
        !args.largest.find_batch,
        "--find-batch: a search by trials has no batch of its own; `train --find-batch` finds that of a training"
    );
    ensure!(args.procs.is_none(), "--procs: a search by trials runs them side by side by --workers");
    let experiment: SearchExperiment<T> = experiment::load(config, sets)?;
    let compute = args.run.compute.resolve()?;
    let evaluator = Evaluator::of_search(&experiment)?;
    evaluator::check(&experiment, &evaluator).with_context(|| config.display().to_string())?;
    // What a search began from is in its folder from then on.
    if experiment.start != StartConfig::default() && !args.run.folder(Some(experiment.seed)).join(START).exists() {
        let (space, cost) = (experiment.space.choices()?, |arch: &Architecture| evaluator.cost(arch));
        let space = Restricted::new(&*space, &experiment.constraints, &cost)?;
        let parse = |text: &str| experiment.space.parse(text);
        experiment.start.other_space(&experiment.space).into_iter().for_each(cli::warn);
        experiment.start.open(&space, &experiment.goals(SearchPart::Search), parse)?;
    }
    drop(evaluator);
    let executor = experiment.executor.clone().with_workers(args.workers);
    experiment.limits.check(&executor).with_context(|| config.display().to_string())?;
    // The best of more predictions would be others than those that were verified.
    let grows = experiment.predictor.is_none().then_some("num_trials");
    run_in_folder(&args.run, compute, Some(experiment.seed), (&experiment, grows), args.format, |dir| {
        Job { dir, experiment: &experiment, executor, compute }.search()
    })
}

/// What the parts of one run have in common.
struct Job<'a, T: Task> {
    dir: &'a RunDir,
    experiment: &'a SearchExperiment<T>,
    executor: ExecutorConfig,
    compute: Compute,
}

/// A part of a search over `space` in the run folder `dir`, where its log ended.
pub(super) fn open_part<'s, T: Task>(
    dir: &RunDir,
    experiment: &SearchExperiment<T>,
    part: SearchPart,
    (strategy, seed, num_trials): (&StrategyConfig, u64, u64),
    space: &'s Restricted,
) -> Result<SearchLoop<'s>> {
    let folder = dir.path(part.folder());
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    let (store, records) = TrialStore::open(folder.join("trials.jsonl"))?;
    let goals = experiment.goals(part);
    let mut searcher = Searcher::new(space, strategy, goals.clone(), experiment.budget, seed);
    if part == SearchPart::Search && experiment.start != StartConfig::default() {
        let parse = |text: &str| experiment.space.parse(text);
        searcher = searcher.starting_from(&experiment.start.open_once(&dir.path(START), space, &goals, parse)?);
    }
    if experiment.evaluator.inherits() && part != SearchPart::Honesty {
        searcher = searcher.inheriting();
    }
    SearchLoop::new(searcher, store, records, num_trials)
}

impl<T: Task> Job<'_, T> {
    fn search(&self) -> Result<SearchResult> {
        let strategy = &self.experiment.strategy;
        let random = StrategyConfig::Random(RandomConfig {});
        let seed = |offset: u64| self.experiment.seed + offset;
        let mut num_trials = self.experiment.num_trials;
        if let Some(section) = &self.experiment.predictor {
            self.run(SearchPart::Predictor, &random, seed(3), section.samples, Vec::new())?;
        }
        let searched = self.run(SearchPart::Search, strategy, seed(0), num_trials, Vec::new())?;
        let mut records = searched.clone();
        if let Some(section) = &self.experiment.predictor {
            let best = self.best(&searched, section.verify);
            records = self.run(SearchPart::Verify, &random, seed(0), best.len() as u64, best)?;
            // As many full evaluations as this search has had.
            num_trials = section.samples + records.len() as u64;
        }
        let goals = self.experiment.goals(SearchPart::Verify);
        let mut result = self.result(strategy, &goals, &records);
        result.num_predicted = self.experiment.predictor.as_ref().map(|_| searched.len());
        let mut curves = vec![best_so_far(&result.strategy, &goals, &records)];
        if let Some(baseline) = &self.experiment.baseline {
            // Another seed: the first random architectures of both would be the same.
            let records = self.run(SearchPart::Baseline, baseline, seed(1), num_trials, Vec::new())?;
            let of_baseline = self.result(baseline, &goals, &records);
            curves.push(best_so_far(&format!("baseline {}", of_baseline.strategy), &goals, &records));
            result.baseline = Some(Box::new(of_baseline));
        }
        if let Some(honesty) = &self.experiment.honesty {
            let records = self.run(SearchPart::Honesty, &random, seed(2), honesty.samples, Vec::new())?;
            let mut report = report(honesty, &self.experiment.goals(SearchPart::Honesty), &records)?;
            self.place(&mut report, honesty, &result, "")?;
            result.baseline.iter().try_for_each(|of| self.place(&mut report, honesty, of, "baseline "))?;
            result.honesty = Some(report);
        }
        let objective = &goals.objectives[0].metric;
        curves.retain(|curve| !curve.points.is_empty());
        if !curves.is_empty() {
            plot::lines(&self.dir.path("search.svg"), "best so far", "trials", objective, &curves)?;
        }
        if let Some(found) = &result.best
            && let Some(drawing) = self.experiment.space.drawing(&found.architecture)?
        {
            write_atomic(&self.dir.path("architecture.svg"), drawing.as_bytes())?;
        }
        if !result.pareto.is_empty() {
            draw_pareto(&self.dir.path("pareto.svg"), &goals, &records, &result.pareto)?;
        }
        if let Some(latencies) = Latencies::open(self.experiment)? {
            let mut found: Vec<u64> = result.best.iter().chain(&result.pareto).map(|found| found.trial).collect();
            let mut seen = HashSet::new();
            found.retain(|trial| seen.insert(*trial));
            result.latency = Some(latencies.report(&found, &records, &self.dir.path("latency"))?);
        }
        result.train = self.write_training(result.best.as_ref())?;
        write_atomic(&self.dir.path("trials.csv"), csv_of(&searched)?.as_slice())?;
        write_atomic(&self.dir.path("result.txt"), format!("{result}\n").as_bytes())?;
        self.dir.finish(&result)?;
        Ok(result)
    }

    /// Adds the best of a search to the report: its true value where its trial has measured it, or a table knows it.
    fn place(
        &self,
        report: &mut HonestyReport,
        honesty: &HonestyConfig,
        result: &SearchResult,
        prefix: &str,
    ) -> Result<()> {
        let Some(found) = &result.best else { return Ok(()) };
        let mut metrics = found.metrics.clone();
        if let Some(table @ EvaluatorConfig::Table { .. }) = &honesty.evaluator {
            let (id, arch) = (found.trial, found.architecture.clone());
            let trial = Trial { id, arch, budget: Budget::default(), parent: None };
            let table = Evaluator::open(table, &Searched::of(self.experiment)).context("honesty.evaluator")?;
            metrics.extend(table.evaluate(&trial, Path::new(""), self.compute)?);
        }
        let cost = honesty.controls.iter().filter_map(|name| Some((name.clone(), *metrics.get(name)?))).collect();
        let name = format!("{prefix}{}", result.strategy);
        report.place(&name, result.num_trials, metrics.get(&honesty.truth).copied(), cost);
        Ok(())
    }

    /// Writes the experiment of a training of what was found; returns its command.
    fn write_training(&self, found: Option<&Found>) -> Result<Option<String>> {
        let Some(found) = found else { return Ok(None) };
        let Some(mut training) = self.experiment.training_of(&found.architecture)? else { return Ok(None) };
        if let Some(source) = self.experiment.space.source()? {
            let classes = T::classes(&T::open(&training.data, Split::Train)?);
            source.hand_down(self.dir.root(), &mut training, &classes)?;
        }
        let path = self.dir.path("train.toml");
        write_atomic(&path, to_toml(&training).as_bytes())?;
        Ok(Some(format!("{} train --config {}", T::PROGRAM, path.display())))
    }

    /// Runs the trials of a part, the `given` ones first.
    fn run(
        &self,
        part: SearchPart,
        strategy: &StrategyConfig,
        seed: u64,
        num_trials: u64,
        given: Vec<Trial>,
    ) -> Result<Vec<Record>> {
        let Self { dir, experiment, ref executor, compute } = *self;
        let evaluator = Evaluator::<T>::of_part(experiment, part, dir.root())?;
        let folder = dir.path(part.folder());
        let cost = |arch: &Architecture| evaluator.cost(arch);
        let space = experiment.space.choices()?;
        let space = Restricted::new(&*space, &experiment.constraints, &cost)?;
        let mut search = open_part(dir, experiment, part, (strategy, seed, num_trials), &space)?;
        let goals = experiment.goals(part);
        let ended = search.records();
        let by_hand = evaluator.is_by_hand() && (ended.len() as u64) < num_trials;
        ensure!(!by_hand, "{BY_HAND}; {} of {num_trials} have ended", ended.len());
        let label = if part == SearchPart::Search { strategy.info().kind } else { part.folder() };
        let mut progress = Progress::new(label, num_trials as usize, ended.len(), Some(&dir.path("run.log")))?;
        let mut times = Stopwatch::open(&folder)?;
        let board = dir.tensorboard().map(|board| board.join(part.folder()));
        let names = experiment.space.names()?;
        let mut board = board.map(|board| TrialBoard::open(&board, &folder, names, &goals, ended)).transpose()?;
        let on_end = |record: &Record| {
            progress.trial(record);
            times.mark(record.trial.id);
            board.iter_mut().for_each(|board| board.trial(record));
        };
        let trials = folder.join("trials");
        let evaluate = |trial: &Trial| evaluator.evaluate(trial, &trial_folder(&trials, trial.id), compute);
        let limits = experiment.limits;
        let processes =
            |workers| Ok::<_, anyhow::Error>(Processes::new(trials.clone(), workers, limits)?.computing(compute));
        let mut running: Box<dyn Executor + '_> = match executor {
            ExecutorConfig::InProcess => Box::new(InProcess::new(evaluate)),
            // Limits are kept on processes.
            ExecutorConfig::Processes { workers, .. } => {
                match evaluator.on_threads().filter(|_| limits == Limits::default()) {
                    Some(evaluate) => Box::new(Threads::new(trials.clone(), *workers, evaluate)),
                    None => Box::new(processes(*workers)?),
                }
            }
            ExecutorConfig::Command { workers, command, .. } => {
                Box::new(processes(*workers)?.launched_by(command.clone()))
            }
            ExecutorConfig::Slurm { workers, options, pilots, .. } => {
                by_queue(Slurm { options: options.clone() }, &folder, (*workers, *pilots), compute)?
            }
            ExecutorConfig::Ray { workers, address, cpus, gpus, pilots, .. } => {
                let ray = Ray { address: address.clone(), cpus: *cpus, gpus: *gpus };
                by_queue(ray, &folder, (*workers, *pilots), compute)?
            }
        };
        let mut started = executor::started(&trials)?;
        started.extend(given.into_iter().filter(|trial| trial.id >= started.len() as u64).collect::<Vec<_>>());
        if evaluator.is_repeatable() && !strategy.info().multi_fidelity {
            search = search.repeating();
        }
        search.run(&mut *running, executor.is_ordered(), started, on_end)?;
        Ok(search.records().to_vec())
    }

    /// The `count` best architectures of the records that meet the constraints, as trials of [`SearchPart::Verify`].
    fn best(&self, records: &[Record], count: usize) -> Vec<Trial> {
        let goals = self.experiment.goals(SearchPart::Search);
        let feasible = records.iter().filter_map(|record| Some((record, point(&goals, record)?)));
        let mut ranked: Vec<(&Record, Point)> = feasible.filter(|(_, point)| point.violation == 0.0).collect();
        ranked.sort_by(|a, b| b.1.values[0].total_cmp(&a.1.values[0]));
        let mut seen = HashSet::new();
        let distinct = ranked.into_iter().filter(|(record, _)| seen.insert(&record.trial.arch)).take(count);
        let trial = |(id, (record, _)): (usize, (&Record, Point))| Trial { id: id as u64, ..record.trial.clone() };
        distinct.enumerate().map(trial).collect()
    }

    fn notation(&self, arch: &Architecture) -> String {
        self.experiment.space.notation(arch).unwrap_or_else(|_| arch.to_string())
    }

    fn result(&self, strategy: &StrategyConfig, goals: &Goals, records: &[Record]) -> SearchResult {
        let found = |record: &Record| match &record.outcome {
            Outcome::Metrics(metrics) => Some(Found {
                trial: record.trial.id,
                architecture: record.trial.arch.clone(),
                notation: self.notation(&record.trial.arch),
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
            let mut seen = HashSet::new();
            let members = front.into_iter().map(|i| feasible[i].0).filter(|record| seen.insert(&record.trial.arch));
            pareto = members.filter_map(found).collect();
        }
        SearchResult {
            strategy: strategy.info().kind.to_string(),
            best: best.and_then(|(record, _)| found(record)),
            pareto,
            num_trials: records.len(),
            num_predicted: None,
            num_failed: records.iter().filter(|record| matches!(record.outcome, Outcome::Failed(_))).count(),
            baseline: None,
            honesty: None,
            latency: None,
            train: None,
            run: self.dir.root().display().to_string(),
        }
    }
}

/// Trials of a part's `folder` by jobs of a queue: one each, or by jobs that stay.
fn by_queue<Q: Queue + 'static>(
    queue: Q,
    folder: &Path,
    (workers, pilots): (usize, bool),
    compute: Compute,
) -> Result<Box<dyn Executor>> {
    Ok(match pilots {
        true => Box::new(Pilots::new(queue, folder, workers, compute)?),
        false => Box::new(Jobs::new(queue, &folder.join("trials"), workers, compute)?),
    })
}

/// The main objective and the controls against the truth.
pub fn report(honesty: &HonestyConfig, goals: &Goals, records: &[Record]) -> Result<HonestyReport> {
    let HonestyConfig { truth, samples, top, controls, .. } = honesty;
    let complete = |record: &&Record| {
        [truth].into_iter().chain(controls).all(|metric| record.metric(metric).is_some())
            && goals.observe(record).values.is_some()
    };
    let records: Vec<&Record> = records.iter().filter(complete).collect();
    ensure!(records.len() >= 2, "honesty: {} of {samples} trials have all metrics", records.len());
    let column = |metric: &String| -> Vec<f64> { records.iter().filter_map(|record| record.metric(metric)).collect() };
    let objective = records.iter().filter_map(|record| goals.observe(record).values).map(|values| values[0]);
    let mut estimates = vec![(goals.objectives[0].metric.clone(), objective.collect())];
    estimates.extend(controls.iter().map(|metric| (metric.clone(), column(metric))));
    Ok(HonestyReport::new((truth, &column(truth)), &estimates, *top))
}

fn point(goals: &Goals, record: &Record) -> Option<Point> {
    let observation = goals.observe(record);
    Some(Point { values: observation.values?, violation: observation.violation })
}

/// The first two objectives of all trials and of the Pareto set.
fn draw_pareto(path: &Path, goals: &Goals, records: &[Record], pareto: &[Found]) -> Result<()> {
    let (y, x) = (&goals.objectives[0].metric, &goals.objectives[1].metric);
    let trials = records.iter().filter_map(|record| Some((record.metric(x)?, record.metric(y)?)));
    let mut front: Vec<(f64, f64)> = pareto.iter().map(|found| (found.metrics[x], found.metrics[y])).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all = Series::new("trials", trials.collect());
    let front = Series::new("Pareto set", front);
    let keep = |objective: &Objective| if objective.goal == Goal::Maximize { Keep::High } else { Keep::Low };
    let axes = (Axis { name: x, keep: keep(&goals.objectives[1]) }, Axis { name: y, keep: keep(&goals.objectives[0]) });
    let marked = [(Mark::Dots, &all), (Mark::Line, &front), (Mark::Dots, &front)];
    plot::chart(path, "trials and Pareto set", axes, &marked)
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
