//! `train`: one network, one recipe, one seed.

use std::fmt;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::estimator::learning_curve::Stopped;
use crate::nn::Cost;
use crate::run::cli::{Format, RunArgs, count, print, run_in_folder};
use crate::run::launch;
use crate::run::run_dir::RunDir;
use crate::task::experiment::{self, TrainExperiment};
use crate::task::find_batch::{FindBatchArgs, find_batch};
use crate::task::{Task, supervised};
use crate::train::Summary;

/// Train a searched architecture, a preset or a baseline
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// Experiment, run folder and device
    #[command(flatten)]
    pub run: RunArgs,
    /// Processes that share every batch, each on a card of its own where there are cards; also started by torchrun, srun, mpirun
    #[arg(long, value_name = "N", value_parser = count(1, 4096))]
    pub procs: Option<usize>,
    /// The largest batch in the place of a training
    #[command(flatten)]
    pub largest: FindBatchArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `result.json` of a training; `S` are the scores of the task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainResult<S> {
    /// Scores of the last weights on the validation split.
    pub scores: S,
    /// Parameters, and multiply-adds at the size of the training images.
    pub cost: Cost,
    /// Where the run ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Seconds in optimisation steps.
    pub train_secs: f64,
    /// Images per second of those.
    pub images_per_sec: f64,
    /// The run folder.
    pub run: String,
}

impl<S> TrainResult<S> {
    /// The result of a training in `dir`.
    pub fn new(scores: S, cost: Cost, stopped: Option<Stopped>, summary: &Summary, dir: &RunDir) -> Self {
        let Summary { train_secs, images_per_sec, .. } = *summary;
        Self { scores, cost, stopped, train_secs, images_per_sec, run: dir.root().display().to_string() }
    }
}

impl<S: fmt::Display> fmt::Display for TrainResult<S> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.scores)?;
        self.stopped.iter().try_for_each(|stopped| writeln!(f, "{stopped}"))?;
        write!(f, "trained in {:.0} s at {:.1} images/s; {}", self.train_secs, self.images_per_sec, self.run)
    }
}

/// Runs the command.
pub fn run<T: Task>(args: &TrainArgs) -> Result<()> {
    let experiment: TrainExperiment<T> = experiment::load(&args.run.config, &args.run.sets)?;
    if args.largest.find_batch {
        let compute = args.run.compute.resolve()?;
        return print(&find_batch(&experiment, compute, args.largest.limit())?, args.format);
    }
    if launch::begin(args.procs)? {
        return Ok(());
    }
    let compute = args.run.compute.resolve()?;
    run_in_folder(&args.run, compute, Some(experiment.seed), (&experiment, Some("train.epochs")), args.format, |dir| {
        supervised::train(dir, experiment.clone(), compute)
    })
}
