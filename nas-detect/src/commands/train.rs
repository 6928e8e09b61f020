//! `nas-detect train`: one network, one recipe, one seed.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use nas_core::cli::{Compute, Format, RunArgs, open_run, print};
use nas_core::run_dir::RunDir;
use nas_core::space::Cost;
use nas_core::train::{self, LoopConfig};
use serde::{Deserialize, Serialize};

use super::{draw_run, require_sound};
use crate::backbone::total;
use crate::eval::report::CocoReport;
use crate::experiment::{self, TrainExperiment};
use crate::training::Training;

/// Train a searched detector, a preset or a baseline
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-detect train --config configs/detect/shapes.toml --out runs/shapes
  nas-detect train --config my.toml --set model.backbone.arch=runs/search/result.json --set train.init=runs/search --resume")]
pub struct TrainArgs {
    #[command(flatten)]
    run: RunArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `result.json` of a training.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainResult {
    /// Scores of the last weights on the validation split.
    pub scores: CocoReport,
    /// Parameters, and multiply-adds at the size of the first validation image as the network sees it.
    pub cost: Cost,
    /// Seconds in optimisation steps.
    pub train_secs: f64,
    /// Images per second of those.
    pub images_per_sec: f64,
    /// The run folder.
    pub run: String,
}

impl fmt::Display for TrainResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.scores)?;
        write!(f, "trained in {:.0} s at {:.1} images/s; {}", self.train_secs, self.images_per_sec, self.run)
    }
}

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let experiment: TrainExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    experiment.train.check("train")?;
    let compute = args.run.compute.resolve()?;
    let dir = open_run(&args.run, Some(experiment.seed), &experiment, compute)?;
    print(&train(&dir, experiment, compute)?, args.format)
}

fn train(dir: &RunDir, experiment: TrainExperiment, compute: Compute) -> Result<TrainResult> {
    if let Some(result) = dir.result()? {
        return Ok(result);
    }
    require_sound(&experiment.data)?;
    let settings = loop_config(experiment.train.epochs, experiment.seed);
    let mut training = Training::of_detector(experiment, compute)?;
    let summary = train::run(&mut training, "train", dir, settings)?;
    let size = training.task.image_size()?;
    let result = TrainResult {
        scores: training.task.scores().expect("the last epoch validates").clone(),
        cost: total(&training.task.net().cost_parts(size).concat()),
        train_secs: summary.train_secs,
        images_per_sec: summary.images_per_sec,
        run: dir.root().display().to_string(),
    };
    draw_run(dir.root())?;
    dir.finish(&result)?;
    Ok(result)
}

/// The loop's settings; a checkpoint within an epoch at most every minute.
pub(super) fn loop_config(epochs: usize, seed: u64) -> LoopConfig {
    LoopConfig { epochs, seed, checkpoint_every: Duration::from_secs(60) }
}
