//! What evaluates the trials of a search: a training at a budget, a table, the user's own program, proxies of untrained
//! networks, a predictor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use nas_datasets::{SampleSet, Split, rng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::experiment::{self, Experiment, Recipe, SearchExperiment, Setting, TrainExperiment};
use super::handed_down::Source;
use super::held_out::{HeldOut, held_out_part};
use super::latency::{Latencies, LatencyConfig};
use super::searched::SearchedSpace;
use super::supervised::{metrics_of, train_on};
use super::zero_cost::{ZeroCost, ZeroCostConfig};
use super::{CostFunction, Task};
use crate::estimator::predictor::{Predictor, PredictorConfig};
use crate::estimator::training_speed;
use crate::executor::{self, trial_folder};
use crate::nn::Shape;
use crate::run::cli::Compute;
use crate::run::config;
use crate::run::run_dir::{RunDir, last_weights, open_to_append, write_atomic_with};
use crate::run::words;
use crate::search::goals::Goals;
use crate::search::log as trial_log;
use crate::search::table::Table;
use crate::space::Architecture;
use crate::space::trial::{Budget, Record, Trial, Values};
use crate::strategy::StrategyConfig;
use crate::task::commands::train::TrainResult;
use crate::train::read_metrics;

/// `[evaluator]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EvaluatorConfig {
    /// Trains the architecture's network by `[train]` at the trial's budget, on a part of the train split, and scores it on the
    /// rest: the metrics are those of the task and the space's costs.
    Train {
        /// Part of the train split that trials are scored on.
        #[serde(default)]
        held_out: HeldOut,
        /// A trial starts from the trained weights of the one before it, of those that have ended, whose architecture differs
        /// in the fewest choices.
        #[serde(default, skip_serializing_if = "is_false")]
        inherit: bool,
    },
    /// Looks the architecture up; the metrics are the table's columns.
    Table {
        /// CSV files, gzipped or plain, with a column `arch`, or trial logs; several are joined by architecture. An empty cell
        /// or a negative number means that the network does not run there: a bound on the column is broken, and no trial has
        /// a value of it.
        path: Files,
        /// Columns whose negative numbers are values.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        signed: Vec<String>,
        /// Columns that the architecture alone decides, such as `params_m`: bounds on them hold before a trial starts.
        #[serde(default)]
        cost: Vec<String>,
    },
    /// Runs a program, which prints the metrics as one JSON object on its last line.
    Command {
        /// Program and arguments, in which names in braces are replaced: `{arch}`, `{notation}`, `{id}`, `{seed}`; the
        /// budget `{epochs}`, `{data}`, `{image}`, `{channels}`, `{cells}`; `{parent}`, the trial to go on from; the keys of
        /// `[space.recipe]`. What is not given is empty.
        command: Vec<String>,
        /// Names of the metrics.
        metrics: Vec<String>,
    },
    /// Scores of the untrained network.
    ZeroCost(ZeroCostConfig),
    /// None: trials are asked for and told by the commands `ask` and `tell`.
    Manual {
        /// Names of the metrics.
        metrics: Vec<String>,
    },
}

fn is_false(value: &bool) -> bool {
    !value
}

impl EvaluatorConfig {
    /// Whether trials start from each other's weights.
    pub fn inherits(&self) -> bool {
        matches!(self, Self::Train { inherit: true, .. })
    }
}

/// One file, or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a path or a list of paths")]
pub enum Files {
    /// One.
    One(PathBuf),
    /// Several.
    Several(Vec<PathBuf>),
}

impl Files {
    /// All of them.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths,
        }
    }
}

/// `[honesty]`: the main objective against a full evaluation on random architectures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HonestyConfig {
    /// The metric that the objective stands for; larger is better.
    pub truth: String,
    /// Random architectures to evaluate.
    #[serde(default = "default_samples")]
    pub samples: u64,
    /// Number of best ones of which the precision is reported.
    #[serde(default = "default_top")]
    pub top: usize,
    /// Metrics that are reported beside the objective, such as `params`, `macs`.
    #[serde(default)]
    pub controls: Vec<String>,
    /// What measures `truth`; the search's own evaluator where not given, which searches on shared weights have not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluator: Option<EvaluatorConfig>,
    /// Batches that the norms of an architecture are computed from before a supernet scores it; 0 for the supernet's own.
    #[serde(default)]
    pub recalibration_batches: usize,
}

impl HonestyConfig {
    /// Says what cannot be served, where these metrics are known.
    pub fn check(&self, known: &[String]) -> Result<()> {
        let Self { truth, samples, top, controls, .. } = self;
        for metric in [truth].into_iter().chain(controls) {
            ensure!(known.contains(metric), "honesty: unknown metric {metric:?}; expected one of {}", known.join(", "));
        }
        ensure!(*samples >= 2 && *top >= 1, "honesty: samples = {samples}, top = {top}; expected at least 2 and 1");
        Ok(())
    }
}

/// `[predictor]`: `samples` random architectures are evaluated, the search looks for the best by a predictor that has learned
/// from them, and the `verify` best that it finds are evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PredictorSection {
    /// The predictor.
    pub model: PredictorConfig,
    /// Random architectures to learn from.
    #[serde(default = "default_samples")]
    pub samples: u64,
    /// Architectures to evaluate at the end.
    #[serde(default = "default_top")]
    pub verify: usize,
}

/// Name of the metric that a predictor gives.
pub const PREDICTED: &str = "predicted";

fn default_samples() -> u64 {
    100
}

fn default_top() -> usize {
    10
}

/// What a trial is part of; its folder in the run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchPart {
    /// The search itself.
    Search,
    /// Random architectures that a predictor learns from.
    Predictor,
    /// The best by a predictor.
    Verify,
    /// The search that this one is compared with.
    Baseline,
    /// Random architectures for the honesty report.
    Honesty,
}

impl SearchPart {
    /// Its name.
    pub fn name(self) -> &'static str {
        if self == Self::Search { "search" } else { self.folder() }
    }

    /// Its folder in the run folder; none for the search itself.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Search => "",
            Self::Predictor => "predictor",
            Self::Verify => "verify",
            Self::Baseline => "baseline",
            Self::Honesty => "honesty",
        }
    }
}

/// What evaluators know of the search whose trials they evaluate.
#[derive(Clone, Debug)]
pub struct Searched<T: Task> {
    /// Seed of the run.
    pub seed: u64,
    /// The space.
    pub space: SearchedSpace<T>,
    /// The network that an architecture is for.
    pub model: Option<T::Model>,
    /// The recipe of trials that train.
    pub train: Recipe<T>,
    /// The data, where there are some.
    pub setting: Option<Setting<T>>,
    /// Height and width of the image that costs are counted for.
    pub cost_size: Option<(i64, i64)>,
    /// How much of the full evaluation a trial gets where its strategy does not choose.
    pub budget: Budget,
}

impl<T: Task> Searched<T> {
    /// Those of a search by trials.
    pub fn of(experiment: &SearchExperiment<T>) -> Self {
        let SearchExperiment { seed, space, model, train, cost_size, budget, .. } = experiment.clone();
        Self { seed, space, model, train, setting: experiment.setting().ok(), cost_size, budget }
    }

    fn setting(&self) -> Result<&Setting<T>> {
        self.setting.as_ref().context("data: the section is missing; the evaluator needs samples")
    }
}

/// An evaluator that is ready.
pub enum Evaluator<T: Task> {
    /// See [`EvaluatorConfig::Train`].
    Train(Box<TrainEvaluator<T>>),
    /// See [`EvaluatorConfig::Table`].
    Table {
        /// The table.
        table: Table,
        /// Columns that need no trial.
        cost: Vec<usize>,
    },
    /// See [`EvaluatorConfig::Command`].
    Command {
        /// Whose notation the program is given.
        space: SearchedSpace<T>,
        /// Program and arguments.
        command: Vec<String>,
        /// Names of the metrics.
        metrics: Vec<String>,
        /// Seed of the run.
        seed: u64,
    },
    /// See [`EvaluatorConfig::Manual`].
    Manual {
        /// Names of the metrics.
        metrics: Vec<String>,
    },
    /// See [`EvaluatorConfig::ZeroCost`].
    ZeroCost(Box<ZeroCost<T>>),
    /// See [`PredictorSection`].
    Predicted {
        /// Whose architectures are predicted.
        space: SearchedSpace<T>,
        /// The fitted predictor.
        predictor: Predictor,
        /// What the architecture alone decides comes from here.
        inner: Box<Evaluator<T>>,
    },
    /// See [`super::latency::LatencyConfig`].
    Latency(Box<Latencies<T>>),
    /// The metrics of both.
    Both(Box<[Evaluator<T>; 2]>),
}

impl<T: Task> Evaluator<T> {
    /// Opens what an `[evaluator]` names.
    pub fn open(config: &EvaluatorConfig, searched: &Searched<T>) -> Result<Self> {
        let Searched { seed, space, model, cost_size, .. } = searched;
        match config {
            EvaluatorConfig::Train { held_out, .. } => {
                Ok(Self::Train(Box::new(TrainEvaluator::new(*held_out, searched)?)))
            }
            EvaluatorConfig::Table { path, signed, cost } => {
                let choices = space.choices()?;
                let parse = |text: &str| {
                    let arch = space.parse(text)?;
                    choices.validate(&arch)?;
                    Ok(arch)
                };
                let table = Table::read(path.paths(), &parse)?.without_negatives(signed).context("evaluator.signed")?;
                let cost = cost.iter().map(|name| table.column(name)).collect::<Result<_>>();
                Ok(Self::Table { table, cost: cost.context("evaluator.cost")? })
            }
            EvaluatorConfig::Command { command, metrics } => {
                ensure!(!command.is_empty(), "evaluator.command is empty; expected a program and its arguments");
                ensure!(!metrics.is_empty(), "evaluator.metrics is empty; expected the names that the program prints");
                let recipe = space.recipe.choices()?;
                let known: Vec<&str> = PLACEHOLDERS.into_iter().chain(recipe.keys().map(String::as_str)).collect();
                words::check_placeholders("evaluator.command", command, &known)?;
                let space = space.clone();
                Ok(Self::Command { space, command: command.clone(), metrics: metrics.clone(), seed: *seed })
            }
            EvaluatorConfig::Manual { metrics } => {
                ensure!(!metrics.is_empty(), "evaluator.metrics is empty; expected the names that `tell` will give");
                Ok(Self::Manual { metrics: metrics.clone() })
            }
            EvaluatorConfig::ZeroCost(config) => {
                let recipe = &space.recipe.0;
                ensure!(recipe.is_empty(), "space.recipe: untrained networks do not depend on {}", recipe);
                let setting = || searched.setting().cloned();
                Ok(Self::ZeroCost(Box::new(ZeroCost::new(config, space, model.as_ref(), *cost_size, setting, *seed)?)))
            }
        }
    }

    /// What a search's trials are evaluated by: its `[evaluator]` and its `[latency]`.
    pub fn of_search(experiment: &SearchExperiment<T>) -> Result<Self> {
        let evaluator = Self::open(&experiment.evaluator, &Searched::of(experiment))?;
        let Some(latencies) = Latencies::open(experiment)? else { return Ok(evaluator) };
        Ok(Self::both(evaluator, Self::Latency(Box::new(latencies))))
    }

    /// Whether a second trial of an architecture would find what the first one found, at the price of a training.
    pub fn is_repeatable(&self) -> bool {
        matches!(self, Self::Train(_))
    }

    /// Whether trials are evaluated by hand.
    pub fn is_by_hand(&self) -> bool {
        match self {
            Self::Manual { .. } => true,
            Self::Both(both) => both.iter().any(Self::is_by_hand),
            _ => false,
        }
    }

    /// What evaluates the trials of a part of the search whose run folder is `run`.
    pub fn of_part(experiment: &SearchExperiment<T>, part: SearchPart, run: &Path) -> Result<Self> {
        let searched = Searched::of(experiment);
        let open = |config: &EvaluatorConfig| Self::open(config, &searched);
        let full = || Self::of_search(experiment);
        match (part, &experiment.predictor) {
            (SearchPart::Predictor | SearchPart::Verify | SearchPart::Baseline, _) | (SearchPart::Search, None) => {
                full()
            }
            (SearchPart::Search, Some(section)) => Self::predicted(experiment, section, run),
            (SearchPart::Honesty, predictor) => {
                let truth = experiment.honesty.as_ref().and_then(|honesty| honesty.evaluator.as_ref());
                match (predictor, truth) {
                    (None, None) => full(),
                    (Some(section), None) => Ok(Self::both(Self::predicted(experiment, section, run)?, full()?)),
                    (None, Some(truth)) => Ok(Self::both(full()?, open(truth)?)),
                    (Some(_), Some(_)) => {
                        bail!("honesty.evaluator: with [predictor], the truth is what it learns from")
                    }
                }
            }
        }
    }

    /// The evaluator of a trial in its folder, `RUN/trials/00007` or `RUN/baseline/trials/00007`.
    pub fn of_trial(folder: &Path) -> Result<Self> {
        let run = folder.ancestors().find(|folder| folder.join("config.toml").exists());
        let run = run.with_context(|| format!("{}: no config.toml above this folder", folder.display()))?;
        let experiment: SearchExperiment<T> = experiment::load(&run.join("config.toml"), &[])?;
        let parts = [SearchPart::Predictor, SearchPart::Verify, SearchPart::Baseline, SearchPart::Honesty];
        let part = parts.into_iter().find(|part| folder.starts_with(run.join(part.folder())));
        Self::of_part(&experiment, part.unwrap_or(SearchPart::Search), run)
    }

    fn both(a: Self, b: Self) -> Self {
        Self::Both(Box::new([a, b]))
    }

    /// Learns from the log of [`SearchPart::Predictor`].
    fn predicted(experiment: &SearchExperiment<T>, section: &PredictorSection, run: &Path) -> Result<Self> {
        let space = experiment.space.choices()?;
        let records = trial_log::read_of(&run.join(SearchPart::Predictor.folder()).join("trials.jsonl"), &*space)?;
        let goals = Goals { objectives: experiment.objectives[..1].to_vec(), constraints: Vec::new() };
        let value = |record: &Record| Some((record.trial.arch.clone(), goals.observe(record).values?[0]));
        let evaluated: Vec<(Architecture, f64)> = records.iter().filter_map(value).collect();
        let mut rng = rng::stream(experiment.seed, "predictor", 0);
        let predictor = Predictor::fit(&section.model, &*space, &evaluated, &mut rng)?;
        let inner = Box::new(Self::of_search(experiment)?);
        Ok(Self::Predicted { space: experiment.space.clone(), predictor, inner })
    }

    /// Names of the metrics of a trial; `of_architecture` are those that need none, as [`Evaluator::cost`] gives them.
    pub fn metrics(&self, of_architecture: &[String]) -> Vec<String> {
        let owned = |names: &mut dyn Iterator<Item = &str>| names.map(String::from).collect::<Vec<_>>();
        let mut names = match self {
            Self::Table { table, .. } => table.columns().to_vec(),
            Self::Command { metrics, .. } | Self::Manual { metrics } => metrics.clone(),
            Self::ZeroCost(proxies) => proxies.metrics().into_iter().collect(),
            Self::Predicted { inner, .. } => [vec![PREDICTED.to_string()], inner.metrics(&[])].concat(),
            Self::Latency(latencies) => latencies.metrics(),
            Self::Both(both) => both.iter().flat_map(|evaluator| evaluator.metrics(&[])).collect(),
            Self::Train(_) => owned(&mut T::METRICS.iter().map(|(key, _)| *key).chain(training_speed::NAMES)),
        };
        let more = of_architecture.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>();
        names.extend(more);
        names
    }

    /// Metrics that need no trial.
    pub fn cost(&self, arch: &Architecture) -> Values {
        match self {
            Self::Table { table, cost } => {
                // NaN breaks every bound.
                let value = |column: &usize| table.get(arch, *column).unwrap_or(f64::NAN);
                cost.iter().map(|column| (table.columns()[*column].clone(), value(column))).collect()
            }
            Self::Command { .. } | Self::Manual { .. } => Values::new(),
            Self::ZeroCost(proxies) => proxies.cost(arch).expect("an architecture of the space"),
            Self::Predicted { inner, .. } => inner.cost(arch),
            Self::Latency(latencies) => latencies.cost(arch),
            Self::Both(both) => both.iter().flat_map(|evaluator| evaluator.cost(arch)).collect(),
            // Nothing is known of a network that cannot be: its trial says why.
            Self::Train(train) => (train.costs)(arch).unwrap_or_default(),
        }
    }

    /// What runs trials on threads of this process, where they need no process of their own.
    pub fn on_threads(&self) -> Option<executor::Evaluate> {
        match self {
            Self::Table { table, .. } => {
                let table = table.clone();
                Some(Arc::new(move |trial, _| table.values(&trial.arch)))
            }
            Self::Command { space, command, metrics, seed } => {
                let (space, command, metrics, seed) = (space.clone(), command.clone(), metrics.clone(), *seed);
                Some(Arc::new(move |trial, folder| {
                    let log = open_to_append(&folder.join("run.log"))?;
                    run_program(&command, &metrics, &space, seed, trial, Some(log))
                }))
            }
            Self::Latency(latencies) => {
                let latencies = latencies.clone();
                Some(Arc::new(move |trial, folder| latencies.evaluate(trial, folder)))
            }
            Self::Both(both) => {
                let [a, b] = [both[0].on_threads()?, both[1].on_threads()?];
                Some(Arc::new(move |trial, folder| {
                    let mut values = a(trial, folder)?;
                    values.extend(b(trial, folder)?);
                    Ok(values)
                }))
            }
            _ => None,
        }
    }

    /// Runs a trial, whose own folder is `folder`.
    pub fn evaluate(&self, trial: &Trial, folder: &Path, compute: Compute) -> Result<Values> {
        match self {
            Self::Table { table, .. } => table.values(&trial.arch),
            Self::Command { space, command, metrics, seed } => run_program(command, metrics, space, *seed, trial, None),
            Self::Manual { .. } => bail!(BY_HAND),
            Self::ZeroCost(proxies) => proxies.evaluate(&trial.arch),
            Self::Predicted { space, predictor, inner } => {
                let mut values = inner.cost(&trial.arch);
                values.retain(|_, value| !value.is_nan());
                values.insert(PREDICTED.into(), predictor.predict(&*space.choices()?, &trial.arch));
                Ok(values)
            }
            Self::Both(both) => {
                let mut values = both[0].evaluate(trial, folder, compute)?;
                values.extend(both[1].evaluate(trial, folder, compute)?);
                Ok(values)
            }
            Self::Latency(latencies) => latencies.evaluate(trial, folder),
            Self::Train(train) => train.evaluate(trial, folder, compute),
        }
    }
}

/// What becomes of a trial of [`EvaluatorConfig::Manual`] that somebody runs.
pub const BY_HAND: &str =
    "evaluator.kind = \"manual\": trials are asked for by `ask`, evaluated by hand and told by `tell`";

/// Names in braces that a command knows, besides the keys of `[space.recipe]`.
pub(super) const PLACEHOLDERS: [&str; 10] =
    ["arch", "notation", "id", "seed", "epochs", "data", "image", "channels", "cells", "parent"];

fn run_program<T: Task>(
    command: &[String],
    metrics: &[String],
    space: &SearchedSpace<T>,
    seed: u64,
    trial: &Trial,
    log: Option<fs::File>,
) -> Result<Values> {
    let names = placeholders(space, seed, trial)?;
    executor::run_program(filled(command, &names), metrics, log)
}

/// Names in braces of a command and their values, for a trial.
pub(super) fn placeholders<T: Task>(
    space: &SearchedSpace<T>,
    seed: u64,
    trial: &Trial,
) -> Result<Vec<(String, String)>> {
    let Budget { epochs, data, image, channels, cells } = trial.budget;
    let optional = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let values = [
        trial.arch.to_string(),
        space.notation(&trial.arch)?,
        trial.id.to_string(),
        seed.to_string(),
        optional(epochs.map(u64::from)),
        data.to_string(),
        image.to_string(),
        channels.to_string(),
        cells.to_string(),
        optional(trial.parent),
    ];
    let fixed = PLACEHOLDERS.map(String::from).into_iter().zip(values);
    let recipe = space.overrides(&trial.arch)?.into_iter().map(|(key, value)| (key, plain(&value)));
    Ok(fixed.chain(recipe).collect())
}

/// A command with values in the place of names in braces. It must not be empty.
pub(super) fn filled(command: &[String], names: &[(String, String)]) -> Command {
    let values = || names.iter().map(|(name, value)| (name.as_str(), value));
    let replaced = |argument: &String| words::replace_placeholders(argument, values());
    let mut program = Command::new(replaced(&command[0]));
    program.args(command[1..].iter().map(replaced));
    program
}

/// A value as a program's argument: text without its quotes.
fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// A trial is a training of the architecture's network at the trial's budget, in the trial's folder.
///
/// A killed trial goes on where it was. A trial with a parent of the same architecture goes on from the parent's last
/// checkpoint, optimizer included; the learning rate follows the schedule of the longer run from there on. One with a parent of
/// another architecture starts from the parent's weights, and one without a parent in a search around a run from that run's, as
/// [`Source`] hands them down.
pub struct TrainEvaluator<T: Task> {
    searched: Searched<T>,
    setting: Setting<T>,
    held_out: HeldOut,
    costs: CostFunction,
    /// What trials without a parent start from.
    source: Option<Mutex<Source<T>>>,
    classes: Vec<String>,
}

impl<T: Task> TrainEvaluator<T> {
    /// What cannot be trained is said now, not by every trial.
    fn new(held_out: HeldOut, searched: &Searched<T>) -> Result<Self> {
        held_out.check("evaluator.held_out")?;
        let setting = searched.setting()?.clone();
        let sample = searched.space.choices()?.sample(&mut rng::stream(0, "check", 0));
        training_at(searched, &setting, &sample, &searched.budget)?.check().context("evaluator")?;
        let train = T::open(&setting.data, Split::Train)?;
        let (classes, input) = (T::classes(&train), cost_input::<T>(searched.cost_size, &setting, &train)?);
        let costs = searched.space.costs(searched.model.as_ref(), classes.len(), input)?;
        costs(&sample).context("evaluator")?;
        let source = searched.space.source()?.map(Mutex::new);
        Ok(Self { searched: searched.clone(), setting, held_out, costs, source, classes })
    }

    /// Trains in `folder`, the trial's own, and returns the metrics.
    fn evaluate(&self, trial: &Trial, folder: &Path, compute: Compute) -> Result<Values> {
        let run = folder.join("train");
        let stored = run.join("config.toml");
        // What a resumed trial started with: the best value so far may be another one by now.
        let experiment: TrainExperiment<T> = match stored.exists() {
            true => experiment::load(&stored, &[])?,
            false => {
                let experiment = training_at(&self.searched, &self.setting, &trial.arch, &trial.budget)?;
                let mut experiment = with_best(experiment, folder)?;
                match (trial.parent, &self.source) {
                    (Some(parent), _) => {
                        let parent = Source::open(&parent_run(folder, parent)?)?;
                        if !parent.is_of(&experiment) {
                            parent.hand_down(folder, &mut experiment, &self.classes)?;
                        }
                    }
                    (None, Some(source)) => {
                        // What a thread that panicked has read is as it was.
                        let source = source.lock().unwrap_or_else(PoisonError::into_inner);
                        source.hand_down(folder, &mut experiment, &self.classes)?;
                    }
                    (None, None) => {}
                }
                experiment
            }
        };
        let dir = RunDir::open(&run, &config::to_toml(&experiment), true, trial)?;
        let result: TrainResult<T::Scores> = match dir.result()? {
            Some(result) => result,
            None => {
                if let Some(parent) = trial.parent {
                    go_on_from(&parent_run(folder, parent)?, &run, &experiment)?;
                }
                train_on(&dir, experiment, self.sets(&trial.budget)?, compute)?
            }
        };
        let mut values = (self.costs)(&trial.arch)?;
        let scores: Vec<(&str, f64)> = metrics_of::<T>(&result.scores).collect();
        ensure!(!scores.is_empty(), "the held-out samples have nothing to score");
        let losses: Vec<f64> = read_metrics(&run)?.iter().filter_map(|line| line.get("loss")?.as_f64()).collect();
        let speed = training_speed::NAMES.into_iter().zip(training_speed::training_speed(&losses));
        values.extend(scores.into_iter().chain(speed).map(|(name, value)| (name.to_string(), value)));
        Ok(values)
    }

    /// What a trial is trained on, and what it is scored on: parts of the train split.
    fn sets(&self, budget: &Budget) -> Result<(T::Set, T::Set)> {
        let train = T::open(&self.setting.data, Split::Train)?;
        let (mut seen, held_out) = self.held_out.split::<T>(&train, self.searched.seed).context("evaluator")?;
        if budget.data < 1.0 {
            let (_, part) = held_out_part(seen.len(), budget.data, self.searched.seed);
            seen = part.into_iter().map(|i| seen[i]).collect();
        }
        Ok((train.subset(seen), train.subset(held_out)))
    }
}

/// Shape of the image that a search counts costs for.
pub fn cost_input<T: Task>(cost_size: Option<(i64, i64)>, setting: &Setting<T>, set: &T::Set) -> Result<Shape> {
    match cost_size {
        Some((h, w)) => {
            ensure!(h > 0 && w > 0, "cost_size = [{h}, {w}]; expected height and width of an image");
            Ok(Shape::new(3, h, w))
        }
        None => T::input(setting, set),
    }
}

/// The training of an architecture at a budget.
fn training_at<T: Task>(
    searched: &Searched<T>,
    setting: &Setting<T>,
    arch: &Architecture,
    budget: &Budget,
) -> Result<TrainExperiment<T>> {
    let Searched { seed, space, model, train, .. } = searched;
    let mut setting = setting.clone();
    if budget.image != 1.0 {
        (setting.augment, setting.eval) = T::resized(&setting.augment, &setting.eval, budget.image);
    }
    let train = space.recipe(train, arch)?;
    let train = Recipe { epochs: budget.epochs.map_or(train.epochs, |epochs| epochs as usize), ..train };
    Ok(TrainExperiment::new(*seed, reduced::<T>(space.derive(model.as_ref(), arch)?, budget)?, train, setting))
}

/// A network reduced to a budget.
fn reduced<T: Task>(model: T::Model, budget: &Budget) -> Result<T::Model> {
    let mut model = model;
    for (name, keys, factor) in [("channels", T::REDUCED[0], budget.channels), ("cells", T::REDUCED[1], budget.cells)] {
        if factor != 1.0 {
            model = config::scaled(&model, keys, factor).with_context(|| format!("budget.{name}"))?;
        }
    }
    Ok(model)
}

/// With early stopping: the best value that the log of the search holds is to be beaten.
fn with_best<T: Task>(mut experiment: TrainExperiment<T>, folder: &Path) -> Result<TrainExperiment<T>> {
    let Some(stop) = &mut experiment.train.early_stop else { return Ok(experiment) };
    let log = folder.parent().and_then(Path::parent).map(|part| part.join("trials.jsonl"));
    if let Some(log) = log.filter(|log| log.exists()) {
        let values = trial_log::read(&log)?.into_iter().filter_map(|record| record.metric(T::METRICS[0].0));
        stop.best = values.chain(stop.best).reduce(f64::max);
    }
    Ok(experiment)
}

/// The training of a trial's parent, which lies beside the trial's own folder.
fn parent_run(folder: &Path, parent: u64) -> Result<PathBuf> {
    let root = folder.parent().context("a trial's folder lies in the folder of all trials")?;
    Ok(trial_folder(root, parent).join("train"))
}

/// Makes the parent's last checkpoint that of `run`, where `run` has none yet and both train the same network.
fn go_on_from<T: Task>(parent: &Path, run: &Path, experiment: &TrainExperiment<T>) -> Result<()> {
    if last_weights(run).exists() {
        return Ok(());
    }
    let theirs: TrainExperiment<T> = experiment::load(&parent.join("config.toml"), &[])?;
    if theirs.model != experiment.model {
        return Ok(());
    }
    ensure!(last_weights(parent).exists(), "{}: the parent's checkpoint is missing", last_weights(parent).display());
    // The checkpoint comes last: without it everything is copied again.
    for file in ["metrics.jsonl".into(), last_weights(Path::new(""))] {
        let copy = |temporary: &Path| fs::copy(parent.join(&file), temporary).map(drop);
        write_atomic_with(&run.join(&file), copy)?;
    }
    Ok(())
}

/// Says what an experiment's strategies, objectives and evaluators cannot serve together, before anything runs.
pub fn check<T: Task>(experiment: &SearchExperiment<T>, evaluator: &Evaluator<T>) -> Result<()> {
    check_latency(experiment)?;
    let sample = experiment.space.choices()?.sample(&mut rng::stream(0, "check", 0));
    let of_architecture: Vec<String> = evaluator.cost(&sample).into_keys().collect();
    if let Some(honesty) = &experiment.honesty {
        let other = honesty.evaluator.as_ref().map(|other| Evaluator::open(other, &Searched::of(experiment)));
        let other = other.transpose().context("honesty.evaluator")?;
        let evaluators = [Some(evaluator), other.as_ref()].into_iter().flatten();
        honesty.check(&evaluators.flat_map(|evaluator| evaluator.metrics(&of_architecture)).collect::<Vec<_>>())?;
        let batches = honesty.recalibration_batches;
        ensure!(batches == 0, "honesty.recalibration_batches = {batches}: it is for searches on shared weights");
    }
    if let Some(PredictorSection { samples, verify, .. }) = &experiment.predictor {
        ensure!(
            *samples >= 2 && *verify >= 1,
            "predictor: samples = {samples}, verify = {verify}; expected at least 2 and 1"
        );
        let others = experiment.objectives.iter().skip(1).map(|objective| &objective.metric);
        let measured = others
            .chain(experiment.constraints.iter().map(|constraint| &constraint.metric))
            .find(|metric| !of_architecture.contains(metric));
        ensure!(
            measured.is_none(),
            "predictor: it predicts the first objective, and {} is not known from the architecture alone ({})",
            measured.map_or("", String::as_str),
            of_architecture.join(", ")
        );
    }
    for strategy in [Some(&experiment.strategy), experiment.baseline.as_ref()].into_iter().flatten() {
        strategy.check()?;
        check_fidelity(strategy, experiment)?;
    }
    let metrics = evaluator.metrics(&of_architecture);
    let goals = experiment.goals(SearchPart::Verify);
    goals.check(&experiment.strategy.info(), &text(&metrics), &text(&of_architecture))
}

fn check_latency<T: Task>(experiment: &SearchExperiment<T>) -> Result<()> {
    if !experiment.latency.as_ref().is_some_and(LatencyConfig::of_trials) {
        return Ok(());
    }
    let by_hand = matches!(experiment.evaluator, EvaluatorConfig::Manual { .. });
    ensure!(!by_hand, "latency.measure.when = \"trials\": {BY_HAND}, and so are their latencies");
    let proxies = matches!(&experiment.evaluator, EvaluatorConfig::ZeroCost(config) if config.latency);
    ensure!(!proxies, "latency.measure and evaluator.latency both measure the latency of trials; expected one of them");
    Ok(())
}

fn text(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn check_fidelity<T: Task>(strategy: &StrategyConfig, experiment: &SearchExperiment<T>) -> Result<()> {
    let info = strategy.info();
    let trains = matches!(
        experiment.evaluator,
        EvaluatorConfig::Command { .. } | EvaluatorConfig::Train { .. } | EvaluatorConfig::Manual { .. }
    );
    let fixed = !trains || experiment.predictor.is_some();
    ensure!(
        !(info.multi_fidelity && fixed),
        "strategy.kind = {}: it chooses the epochs of its trials, and a table, a proxy or a predictor knows none; use \
         `bench --low-fidelity COLUMN` or an evaluator of kind command or train",
        info.kind
    );
    Ok(())
}
