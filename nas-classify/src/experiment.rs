//! `[sections]` of an experiment file of `nas-classify search`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nas_core::estimator::predictor::{Predictor, PredictorConfig};
use nas_core::executor::{Limits, die_with_parent};
use nas_core::run::cli::Compute;
use nas_core::search::goals::{Constraint, Goal, Goals, Objective};
use nas_core::search::log as trial_log;
use nas_core::space::Architecture;
use nas_core::space::trial::{Budget, Record, Trial, Values};
use nas_core::strategy::StrategyConfig;
use serde::{Deserialize, Serialize};

use crate::nasbench201::Table;
use crate::search_net::SpaceConfig;
use crate::trial_training::{self, TrainEvaluator};
use crate::zero_cost::{ZeroCost, ZeroCostConfig};

/// A search by trials.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchExperiment {
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Trials in all.
    pub num_trials: u64,
    /// The space.
    pub space: SpaceConfig,
    /// What proposes architectures.
    pub strategy: StrategyConfig,
    /// What to make better; several need a strategy that keeps a Pareto set.
    pub objectives: Vec<Objective>,
    /// Bounds.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// How much of the full evaluation every trial gets.
    #[serde(default)]
    pub budget: Budget,
    /// What evaluates them.
    pub evaluator: EvaluatorConfig,
    /// Limits of a trial; they need `--workers`.
    #[serde(default)]
    pub limits: Limits,
    /// A second search with the same number of trials to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<StrategyConfig>,
    /// Learns the main objective from random architectures; the search then runs on what is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictor: Option<PredictorSection>,
    /// How far the main objective can be trusted, where it is only an estimate of another metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyConfig>,
}

/// `[honesty]`: the main objective against a full evaluation on random architectures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub fn check(&self, known: &[&str]) -> Result<()> {
        let Self { truth, samples, top, controls, .. } = self;
        for metric in [truth].into_iter().chain(controls) {
            let is_known = known.contains(&metric.as_str());
            ensure!(is_known, "honesty: unknown metric {metric:?}; expected one of {}", known.join(", "));
        }
        ensure!(*samples >= 2 && *top >= 1, "honesty: samples = {samples}, top = {top}; expected at least 2 and 1");
        Ok(())
    }
}

/// `[predictor]`: `samples` random architectures are evaluated, the search looks for the best by a predictor that has learned
/// from them, and the `verify` best that it finds are evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// `[evaluator]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EvaluatorConfig {
    /// Looks the architecture up in a table; the metrics are the table's columns.
    Table {
        /// CSV file, gzipped or plain.
        path: PathBuf,
        /// Columns that the architecture alone decides, such as `params_m`: bounds on them hold before a trial starts.
        #[serde(default)]
        cost: Vec<String>,
    },
    /// Runs a program, which prints the metrics as one JSON object on its last line.
    Command {
        /// Program and arguments, in which names in braces are replaced: `{arch}`, `{notation}`, `{id}`, `{seed}`; the
        /// budget `{epochs}`, `{data}`, `{image}`, `{channels}`, `{cells}`; `{parent}`, the trial to go on from. What is not
        /// given is empty.
        command: Vec<String>,
        /// Names of the metrics.
        metrics: Vec<String>,
    },
    /// Scores of the untrained network.
    ZeroCost(ZeroCostConfig),
    /// Trains the space's network; the metrics are `top1`, `top5`, `params`, `macs`.
    Train(Box<TrainEvaluator>),
}

/// What a trial is part of; its folder in the run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
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

impl Part {
    /// Its folder in the run folder; none for the search itself.
    pub fn folder(self) -> &'static str {
        match self {
            Part::Search => "",
            Part::Predictor => "predictor",
            Part::Verify => "verify",
            Part::Baseline => "baseline",
            Part::Honesty => "honesty",
        }
    }
}

/// An evaluator that is ready.
pub enum Evaluator {
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
        space: SpaceConfig,
        /// Program and arguments.
        command: Vec<String>,
        /// Names of the metrics.
        metrics: Vec<String>,
        /// Seed of the run.
        seed: u64,
    },
    /// See [`EvaluatorConfig::ZeroCost`].
    ZeroCost {
        /// The proxies.
        proxies: Box<ZeroCost>,
        /// Names of the metrics.
        metrics: Vec<String>,
    },
    /// See [`PredictorSection`].
    Predicted {
        /// Whose architectures are predicted.
        space: SpaceConfig,
        /// The fitted predictor.
        predictor: Predictor,
        /// What the architecture alone decides comes from here.
        inner: Box<Evaluator>,
    },
    /// The metrics of both.
    Both(Box<[Evaluator; 2]>),
    /// See [`EvaluatorConfig::Train`].
    Train {
        /// Whose networks are trained.
        space: SpaceConfig,
        /// How.
        config: Box<TrainEvaluator>,
        /// How much of the full evaluation a trial gets where its strategy does not choose.
        budget: Budget,
        /// Seed of the run.
        seed: u64,
    },
}

impl Evaluator {
    /// What evaluates the trials of a part of the search whose run folder is `run`.
    pub fn of_part(experiment: &SearchExperiment, part: Part, run: &Path) -> Result<Self> {
        let full = || experiment.open(&experiment.evaluator);
        match (part, &experiment.predictor) {
            (Part::Predictor | Part::Verify | Part::Baseline, _) | (Part::Search, None) => full(),
            (Part::Search, Some(section)) => Self::predicted(experiment, section, run),
            (Part::Honesty, predictor) => {
                let truth = experiment.honesty.as_ref().and_then(|honesty| honesty.evaluator.as_ref());
                match (predictor, truth) {
                    (None, None) => full(),
                    (Some(section), None) => Ok(Self::both(Self::predicted(experiment, section, run)?, full()?)),
                    (None, Some(truth)) => Ok(Self::both(full()?, experiment.open(truth)?)),
                    (Some(_), Some(_)) => {
                        bail!("honesty.evaluator: with [predictor], the truth is what it learns from")
                    }
                }
            }
        }
    }

    fn both(a: Self, b: Self) -> Self {
        Self::Both(Box::new([a, b]))
    }

    /// Learns from the log of [`Part::Predictor`].
    fn predicted(experiment: &SearchExperiment, section: &PredictorSection, run: &Path) -> Result<Self> {
        let records = trial_log::read(&run.join(Part::Predictor.folder()).join("trials.jsonl"))?;
        let goals = Goals { objectives: experiment.objectives[..1].to_vec(), constraints: Vec::new() };
        let value = |record: &Record| Some((record.trial.arch.clone(), goals.observe(record).values?[0]));
        let evaluated: Vec<(Architecture, f64)> = records.iter().filter_map(value).collect();
        let mut rng = nas_datasets::rng::stream(experiment.seed, "predictor", 0);
        let predictor = Predictor::fit(&section.model, &*experiment.space.build()?, &evaluated, &mut rng)?;
        let inner = Box::new(experiment.open(&experiment.evaluator)?);
        Ok(Self::Predicted { space: experiment.space.clone(), predictor, inner })
    }

    /// Opens what an `[evaluator]` names, for architectures of `space`.
    pub fn open(config: &EvaluatorConfig, space: &SpaceConfig, budget: Budget, seed: u64) -> Result<Self> {
        match config {
            EvaluatorConfig::Table { path, cost } => {
                ensure!(
                    matches!(space, SpaceConfig::Nasbench201(_)),
                    "evaluator.kind = \"table\": a table is of space.kind = \"nasbench201\""
                );
                let table = Table::read(path)?;
                let cost = cost.iter().map(|name| table.column(name)).collect::<Result<_>>();
                let cost = cost.context("evaluator.cost")?;
                Ok(Self::Table { table, cost })
            }
            EvaluatorConfig::Command { command, metrics } => {
                ensure!(!command.is_empty(), "evaluator.command is empty; expected a program and its arguments");
                ensure!(!metrics.is_empty(), "evaluator.metrics is empty; expected the names that the program prints");
                let space = space.clone();
                Ok(Self::Command { space, command: command.clone(), metrics: metrics.clone(), seed })
            }
            EvaluatorConfig::ZeroCost(config) => {
                let proxies = ZeroCost::new(config, space, seed)?;
                let metrics = proxies.metrics().into_iter().collect();
                Ok(Self::ZeroCost { proxies: Box::new(proxies), metrics })
            }
            EvaluatorConfig::Train(config) => {
                budget.check()?;
                let sample = space.build()?.sample(&mut sample_rng());
                // What cannot be trained is said now, not by every trial.
                config.experiment(space, &sample, &budget, seed)?.check().context("evaluator")?;
                config.cost(space, &sample, &budget).context("evaluator")?;
                let space = space.clone();
                Ok(Self::Train { space, config: config.clone(), budget, seed })
            }
        }
    }

    /// Names of the metrics of a trial.
    pub fn metrics(&self) -> Vec<&str> {
        match self {
            Self::Table { table, .. } => table.columns().iter().map(String::as_str).collect(),
            Self::Command { metrics, .. } | Self::ZeroCost { metrics, .. } => {
                metrics.iter().map(String::as_str).collect()
            }
            Self::Predicted { inner, .. } => [PREDICTED].into_iter().chain(inner.metrics()).collect(),
            Self::Both(both) => both.iter().flat_map(Self::metrics).collect(),
            Self::Train { .. } => trial_training::METRICS.to_vec(),
        }
    }

    /// Metrics that need no trial.
    pub fn cost(&self, arch: &Architecture) -> Values {
        match self {
            Self::Table { table, cost } => {
                cost.iter().map(|column| (table.columns()[*column].clone(), table.get(arch, *column))).collect()
            }
            Self::Command { .. } => Values::new(),
            Self::ZeroCost { proxies, .. } => proxies.cost(arch).expect("an architecture of the space"),
            Self::Predicted { inner, .. } => inner.cost(arch),
            Self::Both(both) => both.iter().flat_map(|evaluator| evaluator.cost(arch)).collect(),
            Self::Train { space, config, budget, .. } => {
                config.cost(space, arch, budget).expect("as for the sample when the evaluator was opened")
            }
        }
    }

    /// Runs a trial, whose own folder is `folder`.
    pub fn evaluate(&self, trial: &Trial, folder: &Path, compute: Compute) -> Result<Values> {
        match self {
            Self::Table { table, .. } => {
                let names = table.columns().iter().enumerate();
                Ok(names.map(|(column, name)| (name.clone(), table.get(&trial.arch, column))).collect())
            }
            Self::Command { space, command, metrics, seed } => run_program(command, metrics, space, *seed, trial),
            Self::ZeroCost { proxies, .. } => proxies.evaluate(&trial.arch),
            Self::Predicted { space, predictor, inner } => {
                let mut values = inner.cost(&trial.arch);
                values.insert(PREDICTED.into(), predictor.predict(&*space.build()?, &trial.arch));
                Ok(values)
            }
            Self::Both(both) => {
                let mut values = both[0].evaluate(trial, folder, compute)?;
                values.extend(both[1].evaluate(trial, folder, compute)?);
                Ok(values)
            }
            Self::Train { space, config, seed, .. } => config.evaluate(space, trial, folder, *seed, compute),
        }
    }
}

fn run_program(
    command: &[String],
    metrics: &[String],
    space: &SpaceConfig,
    seed: u64,
    trial: &Trial,
) -> Result<Values> {
    let Budget { epochs, data, image, channels, cells } = trial.budget;
    let optional = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let names = [
        ("{arch}", trial.arch.to_string()),
        ("{notation}", space.notation(&trial.arch)?),
        ("{id}", trial.id.to_string()),
        ("{seed}", seed.to_string()),
        ("{epochs}", optional(epochs.map(u64::from))),
        ("{data}", data.to_string()),
        ("{image}", image.to_string()),
        ("{channels}", channels.to_string()),
        ("{cells}", cells.to_string()),
        ("{parent}", optional(trial.parent)),
    ];
    let replaced = |argument: &String| {
        names.iter().fold(argument.clone(), |argument, (name, value)| argument.replace(name, value))
    };
    let mut program = Command::new(replaced(&command[0]));
    program.args(command[1..].iter().map(replaced)).stderr(std::process::Stdio::inherit());
    die_with_parent(&mut program);
    let output = program.output().with_context(|| format!("cannot start {}", command[0]))?;
    ensure!(output.status.success(), "{} ended with {}", command[0], output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let values: Values = serde_json::from_str(last)
        .with_context(|| format!("{}: the last line is {last:?}, expected a JSON object of numbers", command[0]))?;
    let missing = metrics.iter().find(|metric| !values.contains_key(*metric));
    ensure!(missing.is_none(), "{} printed no {}", command[0], missing.map_or("", String::as_str));
    Ok(values)
}

impl SearchExperiment {
    /// Objectives and constraints of the trials of a part.
    pub fn goals(&self, part: Part) -> Goals {
        let mut goals = Goals { objectives: self.objectives.clone(), constraints: self.constraints.clone() };
        match part {
            // A predictor is taught that larger is better.
            Part::Search if self.predictor.is_some() => {
                goals.objectives[0] = Objective { metric: PREDICTED.into(), goal: Goal::Maximize };
            }
            Part::Search | Part::Verify => {}
            Part::Predictor | Part::Baseline => goals.objectives.truncate(1),
            Part::Honesty => {
                goals = self.goals(Part::Search);
                goals.objectives.truncate(1);
                goals.constraints.clear();
            }
        }
        goals
    }

    /// Opens what an `[evaluator]` of this experiment names.
    pub fn open(&self, config: &EvaluatorConfig) -> Result<Evaluator> {
        Evaluator::open(config, &self.space, self.budget, self.seed)
    }

    /// Says what cannot be served, before anything runs.
    pub fn check(&self, evaluator: &Evaluator, workers: Option<usize>) -> Result<()> {
        ensure!(self.num_trials > 0, "num_trials = 0; expected at least 1");
        ensure!(workers != Some(0), "--workers 0; expected at least 1");
        let limited = self.limits != Limits::default();
        ensure!(!limited || workers.is_some(), "limits: trials run in this process; limits need --workers N");
        self.budget.check()?;
        if let Some(honesty) = &self.honesty {
            let other =
                honesty.evaluator.as_ref().map(|other| self.open(other)).transpose().context("honesty.evaluator")?;
            let evaluators = [Some(evaluator), other.as_ref()].into_iter().flatten();
            honesty.check(&evaluators.flat_map(Evaluator::metrics).collect::<Vec<_>>())?;
            ensure!(
                honesty.recalibration_batches == 0,
                "honesty.recalibration_batches = {}: it is for searches on shared weights",
                honesty.recalibration_batches
            );
        }
        let known: Vec<String> = evaluator.cost(&self.space.build()?.sample(&mut sample_rng())).into_keys().collect();
        let of_architecture: Vec<&str> = known.iter().map(String::as_str).collect();
        if let Some(PredictorSection { samples, verify, .. }) = &self.predictor {
            ensure!(
                *samples >= 2 && *verify >= 1,
                "predictor: samples = {samples}, verify = {verify}; expected at least 2 and 1"
            );
            let others =
                self.objectives.iter().skip(1).map(|o| &o.metric).chain(self.constraints.iter().map(|c| &c.metric));
            let measured = others.into_iter().find(|metric| !of_architecture.contains(&metric.as_str()));
            ensure!(
                measured.is_none(),
                "predictor: it predicts the first objective, and {} is not known from the architecture alone ({})",
                measured.map_or("", String::as_str),
                of_architecture.join(", ")
            );
        }
        for strategy in [Some(&self.strategy), self.baseline.as_ref()].into_iter().flatten() {
            strategy.check()?;
            let info = strategy.info();
            let trains = matches!(self.evaluator, EvaluatorConfig::Command { .. } | EvaluatorConfig::Train(_));
            let fixed = !trains || self.predictor.is_some();
            ensure!(
                !(info.multi_fidelity && fixed),
                "strategy.kind = {}: it chooses the epochs of its trials, and a table, a proxy or a predictor knows none; use \
                 `nas-classify bench --low-fidelity COLUMN` or an evaluator of kind command or train",
                info.kind
            );
            if strategy == &self.strategy {
                self.goals(Part::Verify).check(&info, &evaluator.metrics(), &of_architecture)?;
            }
        }
        Ok(())
    }
}

fn sample_rng() -> nas_datasets::rng::ChaCha8Rng {
    nas_datasets::rng::stream(0, "check", 0)
}

/// The evaluator of a trial in its folder, `RUN/trials/00007` or `RUN/baseline/trials/00007`.
pub fn of_trial(folder: &Path) -> Result<Evaluator> {
    let run = folder.ancestors().find(|folder| folder.join("config.toml").exists());
    let run = run.with_context(|| format!("{}: no config.toml above this folder", folder.display()))?;
    let experiment: SearchExperiment = nas_core::run::config::load(&run.join("config.toml"), &[])?;
    let parts = [Part::Predictor, Part::Verify, Part::Baseline, Part::Honesty];
    let part = parts.into_iter().find(|part| folder.starts_with(run.join(part.folder())));
    Evaluator::of_part(&experiment, part.unwrap_or(Part::Search), run)
}
