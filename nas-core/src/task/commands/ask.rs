//! `ask` and `tell`: a search whose trials somebody else runs, one by one: by hand, on a cluster, in a laboratory.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::search::open_part;
use crate::executor::{self, trial_folder};
use crate::run::cli::{Compute, ComputeArgs, Format, RunArgs, count, open_folder, print};
use crate::run::config::to_toml;
use crate::run::run_dir::{RunDir, pretty, read_json, write_atomic};
use crate::search::SearchLoop;
use crate::search::goals::Restricted;
use crate::space::Architecture;
use crate::space::trial::{Budget, Outcome, Record, Trial, Values};
use crate::task::Task;
use crate::task::evaluator::{self, Evaluator, SearchPart};
use crate::task::experiment::{self, SearchExperiment};

/// Ask a search for architectures to evaluate, which `tell` is told of
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// Experiment of kind search [default: that of the run folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace a key of the experiment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    sets: Vec<String>,
    /// Run folder of the search, which begins with its first `ask`
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Architectures to ask for
    #[arg(long, default_value_t = 1, value_parser = count(1, 65_536))]
    count: usize,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Tell a search how a trial that `ask` gave has ended
#[derive(Clone, Debug, Args)]
pub struct TellArgs {
    /// Run folder of the search
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Number of the trial
    #[arg(value_name = "TRIAL")]
    trial: u64,
    /// Metrics of the trial; without any those that the command `trial` has left in its folder
    #[arg(value_name = "METRIC=VALUE", value_parser = metric)]
    metrics: Vec<(String, f64)>,
    /// Why the trial has no metrics
    #[arg(long, value_name = "REASON", conflicts_with = "metrics")]
    failed: Option<String>,
    /// How to print where the search stands
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn metric(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("expected METRIC=VALUE")?;
    let number: f64 = value.parse().map_err(|_| format!("{value:?} is no number"))?;
    Ok((name.to_string(), number))
}

/// A trial to evaluate.
#[derive(Clone, Debug, Serialize)]
struct Asked {
    id: u64,
    architecture: Architecture,
    notation: String,
    budget: Budget,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<u64>,
    /// Holds `trial.json` and, where the experiment has data, `train.toml`; the command `trial` runs it.
    folder: PathBuf,
}

/// Where a search stands.
#[derive(Clone, Debug, Serialize)]
struct Standing {
    asked: Vec<Asked>,
    running: Vec<u64>,
    ended: usize,
    num_trials: u64,
    /// What writes the result, when all trials have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for Asked { id, architecture, notation, budget, parent, folder } in &self.asked {
            write!(f, "trial {id}: {architecture}  {notation}")?;
            budget.epochs.iter().try_for_each(|epochs| write!(f, ", {epochs} epochs"))?;
            parent.iter().try_for_each(|parent| write!(f, ", goes on from trial {parent}"))?;
            writeln!(f, ", in {}", folder.display())?;
        }
        write!(f, "{} of {} trials have ended", self.ended, self.num_trials)?;
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        if !running.is_empty() {
            write!(f, ", running: {}", running.join(", "))?;
        }
        self.next.iter().try_for_each(|command| write!(f, "\n{command} writes the result"))
    }
}

/// A search in its folder, with what its trials need.
struct Open<T: Task> {
    dir: RunDir,
    experiment: SearchExperiment<T>,
    evaluator: Evaluator<T>,
}

impl<T: Task> Open<T> {
    fn new(config: &Path, sets: &[String], run: &Path) -> Result<Self> {
        let experiment: SearchExperiment<T> = experiment::load(config, sets)?;
        ensure!(experiment.predictor.is_none(), "{}: predictor: `ask` serves searches without one", config.display());
        let evaluator = Evaluator::of_search(&experiment)?;
        evaluator::check(&experiment, &evaluator).with_context(|| config.display().to_string())?;
        let args = RunArgs {
            config: config.to_path_buf(),
            sets: sets.to_vec(),
            out: Some(run.to_path_buf()),
            resume: true,
            tensorboard: false,
            compute: ComputeArgs::cpu(),
        };
        let compute = Compute { device: tch::Device::Cpu, threads: 1, amp: false };
        let dir = open_folder(&args, compute, Some(experiment.seed), (&experiment, Some("num_trials")))?;
        Ok(Self { dir, experiment, evaluator })
    }

    /// Does `work` on the search where it stands, then says where it stands.
    fn with(&self, work: impl FnOnce(&mut SearchLoop, &Path) -> Result<Vec<Asked>>) -> Result<Standing> {
        let Self { dir, experiment, evaluator } = self;
        let cost = |arch: &Architecture| evaluator.cost(arch);
        let space = experiment.space.choices()?;
        let space = Restricted::new(&*space, &experiment.constraints, &cost)?;
        let SearchExperiment { strategy, seed, num_trials, .. } = experiment;
        let mut search = open_part(dir, experiment, SearchPart::Search, (strategy, *seed, *num_trials), &space)?;
        let trials = dir.path("trials");
        search.take_over(executor::started(&trials)?)?;
        let asked = work(&mut search, &trials)?;
        let ended = search.records().len();
        let config = dir.path("config.toml");
        let next =
            || format!("{} search --config {} --out {} --resume", T::PROGRAM, config.display(), dir.root().display());
        Ok(Standing {
            asked,
            running: search.running().iter().map(|trial| trial.id).collect(),
            ended,
            num_trials: *num_trials,
            next: (ended as u64 >= *num_trials).then(next),
        })
    }

    /// The trial's folder, with what it takes to run it.
    fn prepare(&self, trial: Trial, trials: &Path) -> Result<Asked> {
        let folder = trial_folder(trials, trial.id);
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        if let Some(training) = self.experiment.training_of(&trial.arch)? {
            write_atomic(&folder.join("train.toml"), to_toml(&training).as_bytes())?;
        }
        write_atomic(&folder.join("trial.json"), pretty(&trial).as_bytes())?;
        let notation = self.experiment.space.notation(&trial.arch)?;
        let Trial { id, arch: architecture, budget, parent } = trial;
        Ok(Asked { id, architecture, notation, budget, parent, folder })
    }
}

/// Runs `ask`.
pub fn ask<T: Task>(args: &AskArgs) -> Result<()> {
    let own = args.run.join("config.toml");
    let config = args.config.as_ref().or(own.exists().then_some(&own));
    let config = config.with_context(|| format!("{}: no run yet; begin it by --config", args.run.display()))?;
    let open = Open::<T>::new(config, &args.sets, &args.run)?;
    let standing = open.with(|search, trials| {
        let mut asked = Vec::new();
        while asked.len() < args.count
            && let Some(trial) = search.ask()
        {
            asked.push(open.prepare(trial, trials)?);
        }
        Ok(asked)
    })?;
    print(&standing, args.format)
}

/// Runs `tell`.
pub fn tell<T: Task>(args: &TellArgs) -> Result<()> {
    let config = args.run.join("config.toml");
    ensure!(config.exists(), "{}: no run of a search (config.toml is missing)", args.run.display());
    let open = Open::<T>::new(&config, &[], &args.run)?;
    let standing = open.with(|search, trials| {
        let running = search.running().iter().find(|trial| trial.id == args.trial).cloned();
        let Some(trial) = running else {
            let ended = search.records().iter().any(|record| record.trial.id == args.trial);
            let why = if ended { "has been told already" } else { "was not asked for" };
            bail!("trial {} {why}", args.trial);
        };
        let outcome = open.outcome(args, &trial, &trial_folder(trials, trial.id))?;
        search.tell(Record { trial, outcome })?;
        Ok(Vec::new())
    })?;
    print(&standing, args.format)
}

impl<T: Task> Open<T> {
    fn outcome(&self, args: &TellArgs, trial: &Trial, folder: &Path) -> Result<Outcome> {
        if let Some(reason) = &args.failed {
            return Ok(Outcome::Failed(reason.clone()));
        }
        if args.metrics.is_empty() {
            let file = folder.join("record.json");
            ensure!(file.exists(), "trial {}: expected METRIC=VALUE, --failed REASON, or {}", trial.id, file.display());
            let record: Record = read_json(&file)?;
            ensure!(record.trial == *trial, "{}: it is of another trial", file.display());
            return Ok(record.outcome);
        }
        let mut values: Values = self.evaluator.cost(&trial.arch);
        values.retain(|_, value| !value.is_nan());
        values.extend(args.metrics.iter().cloned());
        let SearchExperiment { objectives, constraints, .. } = &self.experiment;
        let wanted = objectives.iter().map(|objective| &objective.metric);
        for metric in wanted.chain(constraints.iter().map(|constraint| &constraint.metric)) {
            let given: Vec<&str> = args.metrics.iter().map(|(name, _)| name.as_str()).collect();
            ensure!(
                values.contains_key(metric),
                "trial {}: {} given; expected {metric} too, which the search looks at",
                trial.id,
                given.join(", ")
            );
        }
        Ok(Outcome::of(values))
    }
}
