//! `nas-classify search`: trials, a log, and a folder with what came of them.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nas_core::estimator::honesty::HonestyReport;
use nas_core::executor::{Executor, InProcess, Processes, trial_folder};
use nas_core::run::cli::{Compute, Format, RunArgs, run_in_folder};
use nas_core::run::plot::{self, Mark, Series};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::{RunDir, write_atomic};
use nas_core::search::goals::{Goals, Restricted};
use nas_core::search::log::TrialStore;
use nas_core::search::pareto::{Point, fronts};
use nas_core::search::{SearchLoop, Searcher, best_so_far};
use nas_core::space::Architecture;
use nas_core::space::trial::{Outcome, Record, Trial, Values};
use nas_core::strategy::{RandomConfig, StrategyConfig};
use serde::{Deserialize, Serialize};

use crate::experiment::{Evaluator, HonestyConfig, Part, SearchExperiment};
use crate::one_shot::OneShotExperiment;

/// Search an architecture by trials, or on the shared weights of a supernet
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --out runs/nb201
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --set strategy.kind=tpe --workers 2
  nas-classify search --config configs/classify/cifar10_darts.toml --set data.root=../shared/data/cifar10")]
pub struct SearchArgs {
    #[command(flatten)]
    pub(super) run: RunArgs,
    /// Trials side by side, each in a process of its own; without it they run one by one in this process
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
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
pub fn run(args: &SearchArgs) -> Result<()> {
    if OneShotExperiment::is_at(&args.run.config, &args.run.sets)? {
        anyhow::ensure!(args.workers.is_none(), "--workers: a search on shared weights runs in one process");
        return super::one_shot::run(args);
    }
    let experiment: SearchExperiment = nas_core::run::config::load(&args.run.config, &args.run.sets)?;
    let evaluator = experiment.open(&experiment.evaluator)?;
    experiment.check(&evaluator, args.workers)?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        search(dir, &experiment, args.workers, compute)
    })
}

fn search(
    dir: &RunDir,
    experiment: &SearchExperiment,
    workers: Option<usize>,
    compute: Compute,
) -> Result<SearchResult> {
    let job = Job { dir, experiment, workers, compute };
    let strategy = &experiment.strategy;
    let random = StrategyConfig::Random(RandomConfig {});
    let seed = |offset: u64| experiment.seed + offset;
    let mut num_trials = experiment.num_trials;
    if let Some(section) = &experiment.predictor {
        job.run(Part::Predictor, &random, seed(3), section.samples, Vec::new())?;
    }
    let searched = job.run(Part::Search, strategy, seed(0), num_trials, Vec::new())?;
    let mut records = searched.clone();
    if let Some(section) = &experiment.predictor {
        let best = job.best(&searched, section.verify);
        records = job.run(Part::Verify, &random, seed(0), best.len() as u64, best)?;
        // As many full evaluations as this search has had.
        num_trials = section.samples + records.len() as u64;
    }
    let goals = experiment.goals(Part::Verify);
    let mut result = job.result(strategy, &goals, &records);
    result.num_predicted = experiment.predictor.as_ref().map(|_| searched.len());
    let mut curves = vec![best_so_far(&result.strategy, &goals, &records)];
    if let Some(baseline) = &experiment.baseline {
        // Another seed: the first random architectures of both would be the same.
        let records = job.run(Part::Baseline, baseline, seed(1), num_trials, Vec::new())?;
        let of_baseline = job.result(baseline, &goals, &records);
        curves.push(best_so_far(&format!("baseline {}", of_baseline.strategy), &goals, &records));
        result.baseline = Some(Box::new(of_baseline));
    }
    if let Some(honesty) = &experiment.honesty {
        let records = job.run(Part::Honesty, &random, seed(2), honesty.samples, Vec::new())?;
        result.honesty = Some(report(honesty, &experiment.goals(Part::Honesty), &records)?);
    }
    let objective = &goals.objectives[0].metric;
    curves.retain(|curve| !curve.points.is_empty());
    if !curves.is_empty() {
        plot::lines(&dir.path("search.svg"), "best so far", "trials", objective, &curves)?;
    }
    if let Some(found) = &result.best
        && let Some(drawing) = experiment.space.drawing(&found.architecture)?
    {
        write_atomic(&dir.path("cells.svg"), drawing.as_bytes())?;
    }
    if !result.pareto.is_empty() {
        draw_pareto(&dir.path("pareto.svg"), &goals, &records, &result.pareto)?;
    }
    write_atomic(&dir.path("trials.csv"), csv_of(&searched)?.as_slice())?;
    write_atomic(&dir.path("result.txt"), format!("{result}\n").as_bytes())?;
    dir.finish(&result)?;
    Ok(result)
}

/// What the parts of one run have in common.
struct Job<'a> {
    dir: &'a RunDir,
    experiment: &'a SearchExperiment,
    workers: Option<usize>,
    compute: Compute,
}

impl Job<'_> {
    /// Runs the trials of a part, the `given` ones first.
    fn run(
        &self,
        part: Part,
        strategy: &StrategyConfig,
        seed: u64,
        num_trials: u64,
        given: Vec<Trial>,
    ) -> Result<Vec<Record>> {
        let Self { dir, experiment, workers, compute } = *self;
        let evaluator = Evaluator::of_part(experiment, part, dir.root())?;
        let folder = dir.path(part.folder());
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        let cost = |arch: &Architecture| evaluator.cost(arch);
        let space = experiment.space.build()?;
        let space = Restricted::new(&*space, &experiment.constraints, &cost)?;
        let (store, records) = TrialStore::open(folder.join("trials.jsonl"))?;
        let name = strategy.info().kind;
        let searcher = Searcher::new(&space, strategy, experiment.goals(part), experiment.budget, seed);
        let label = if part == Part::Search { name } else { part.folder() };
        let mut progress = Progress::new(label, num_trials as usize, records.len(), Some(&dir.path("run.log")))?;
        let on_end = |record: &Record| progress.trial(record);
        let mut search = SearchLoop::new(searcher, store, records, num_trials);
        match workers {
            None => {
                let trials = folder.join("trials");
                let evaluate = |trial: &Trial| evaluator.evaluate(trial, &trial_folder(&trials, trial.id), compute);
                search.run(&mut InProcess::new(evaluate), given, on_end)?
            }
            Some(workers) => {
                let mut processes = Processes::new(folder.join("trials"), workers, experiment.limits)?;
                let mut started = processes.started()?;
                started.extend(given.into_iter().filter(|trial| trial.id >= started.len() as u64).collect::<Vec<_>>());
                let executor: &mut dyn Executor = &mut processes;
                search.run(executor, started, on_end)?;
            }
        }
        Ok(search.records().to_vec())
    }

    /// The `count` best architectures of the records that meet the constraints, as trials of [`Part::Verify`].
    fn best(&self, records: &[Record], count: usize) -> Vec<Trial> {
        let goals = self.experiment.goals(Part::Search);
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
            run: self.dir.root().display().to_string(),
        }
    }
}

/// The main objective and the controls against the truth.
pub(super) fn report(honesty: &HonestyConfig, goals: &Goals, records: &[Record]) -> Result<HonestyReport> {
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
    let all = Series { name: "trials".into(), points: trials.collect() };
    let front = Series { name: "Pareto set".into(), points: front };
    let marked = [(Mark::Dots, &all), (Mark::Line, &front), (Mark::Dots, &front)];
    plot::chart(path, "trials and Pareto set", x, y, &marked)
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
