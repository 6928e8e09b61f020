//! `[sections]` of an experiment file of `nas-classify search`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nas_core::arch::Architecture;
use nas_core::cli::Compute;
use nas_core::executor::{Limits, die_with_parent};
use nas_core::goals::{Constraint, Goals, Objective};
use nas_core::space::ChoiceSpace;
use nas_core::strategy::StrategyConfig;
use nas_core::trial::{Budget, Trial, Values};
use serde::{Deserialize, Serialize};

use crate::nasbench201::{NasBench201, Table};
use crate::trial_training::{self, TrainEvaluator};

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
}

fn default_samples() -> u64 {
    100
}

fn default_top() -> usize {
    10
}

/// `[space]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SpaceConfig {
    /// NAS-Bench-201's cell.
    Nasbench201 {},
}

impl SpaceConfig {
    /// The space.
    pub fn open(&self) -> &'static dyn ChoiceSpace {
        match self {
            SpaceConfig::Nasbench201 {} => &NasBench201,
        }
    }

    /// An architecture in the literature's notation.
    pub fn notation(&self, arch: &Architecture) -> String {
        match self {
            SpaceConfig::Nasbench201 {} => NasBench201::notation(arch),
        }
    }
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
    /// Trains the space's network; the metrics are `top1`, `top5`, `params`, `macs`.
    Train(Box<TrainEvaluator>),
}

/// An evaluator that is ready.
#[derive(Debug)]
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
    /// See [`EvaluatorConfig::Train`].
    Train {
        /// What is trained and how.
        config: Box<TrainEvaluator>,
        /// How much of the full evaluation a trial gets where its strategy does not choose.
        budget: Budget,
        /// Seed of the run.
        seed: u64,
    },
}

impl Evaluator {
    /// Opens what the experiment names.
    pub fn open(experiment: &SearchExperiment) -> Result<Self> {
        match &experiment.evaluator {
            EvaluatorConfig::Table { path, cost } => {
                let table = Table::read(path)?;
                let cost = cost.iter().map(|name| table.column(name)).collect::<Result<_>>();
                let cost = cost.context("evaluator.cost")?;
                Ok(Self::Table { table, cost })
            }
            EvaluatorConfig::Command { command, metrics } => {
                ensure!(!command.is_empty(), "evaluator.command is empty; expected a program and its arguments");
                ensure!(!metrics.is_empty(), "evaluator.metrics is empty; expected the names that the program prints");
                let (space, seed) = (experiment.space, experiment.seed);
                Ok(Self::Command { space, command: command.clone(), metrics: metrics.clone(), seed })
            }
            EvaluatorConfig::Train(config) => {
                experiment.budget.check()?;
                let sample = experiment.space.open().sample(&mut sample_rng());
                // What cannot be trained is said now, not by every trial.
                config.experiment(&sample, &experiment.budget, experiment.seed)?.check().context("evaluator")?;
                config.cost(&sample, &experiment.budget).context("evaluator")?;
                Ok(Self::Train { config: config.clone(), budget: experiment.budget, seed: experiment.seed })
            }
        }
    }

    /// Names of the metrics of a trial.
    pub fn metrics(&self) -> Vec<&str> {
        match self {
            Self::Table { table, .. } => table.columns().iter().map(String::as_str).collect(),
            Self::Command { metrics, .. } => metrics.iter().map(String::as_str).collect(),
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
            Self::Train { config, budget, .. } => {
                config.cost(arch, budget).expect("as for the sample when the evaluator was opened")
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
            Self::Command { space, command, metrics, seed } => run_program(command, metrics, *space, *seed, trial),
            Self::Train { config, seed, .. } => config.evaluate(trial, folder, *seed, compute),
        }
    }
}

fn run_program(command: &[String], metrics: &[String], space: SpaceConfig, seed: u64, trial: &Trial) -> Result<Values> {
    let Budget { epochs, data, image, channels, cells } = trial.budget;
    let optional = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
    let names = [
        ("{arch}", trial.arch.to_string()),
        ("{notation}", space.notation(&trial.arch)),
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
    /// Objectives and constraints.
    pub fn goals(&self) -> Goals {
        Goals { objectives: self.objectives.clone(), constraints: self.constraints.clone() }
    }

    /// Says what cannot be served, before anything runs.
    pub fn check(&self, evaluator: &Evaluator, workers: Option<usize>) -> Result<()> {
        ensure!(self.num_trials > 0, "num_trials = 0; expected at least 1");
        ensure!(workers != Some(0), "--workers 0; expected at least 1");
        let limited = self.limits != Limits::default();
        ensure!(!limited || workers.is_some(), "limits: trials run in this process; limits need --workers N");
        self.budget.check()?;
        if let Some(HonestyConfig { truth, samples, top, controls }) = &self.honesty {
            let known = evaluator.metrics();
            for metric in [truth].into_iter().chain(controls) {
                let is_known = known.contains(&metric.as_str());
                ensure!(is_known, "honesty: unknown metric {metric:?}; expected one of {}", known.join(", "));
            }
            ensure!(*samples >= 2 && *top >= 1, "honesty: samples = {samples}, top = {top}; expected at least 2 and 1");
        }
        let known: Vec<String> = evaluator.cost(&self.space.open().sample(&mut sample_rng())).into_keys().collect();
        let of_architecture: Vec<&str> = known.iter().map(String::as_str).collect();
        for strategy in [Some(&self.strategy), self.baseline.as_ref()].into_iter().flatten() {
            strategy.check()?;
            let info = strategy.info();
            let fixed = matches!(self.evaluator, EvaluatorConfig::Table { .. });
            ensure!(
                !(info.multi_fidelity && fixed),
                "strategy.kind = {}: it chooses the epochs of its trials, and a table has one value for each metric; use \
                 `nas-classify bench --low-fidelity COLUMN` or an evaluator of kind command",
                info.kind
            );
            if strategy == &self.strategy {
                self.goals().check(&info, &evaluator.metrics(), &of_architecture)?;
            }
        }
        Ok(())
    }
}

fn sample_rng() -> nas_datasets::rng::ChaCha8Rng {
    nas_datasets::rng::stream(0, "check", 0)
}

/// The experiment in the run folder of a trial: `RUN/trials/00007` or `RUN/baseline/trials/00007`.
pub fn of_trial(folder: &Path) -> Result<SearchExperiment> {
    let config = folder.ancestors().map(|folder| folder.join("config.toml")).find(|config| config.exists());
    let config = config.with_context(|| format!("{}: no config.toml above this folder", folder.display()))?;
    Ok(nas_core::config::load(&config, &[])?)
}
