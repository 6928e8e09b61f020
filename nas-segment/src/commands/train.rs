//! `nas-segment train`: one network, one recipe, one seed.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use nas_core::cli::{Compute, Format, RunArgs, open_run, print};
use nas_core::estimator::learning_curve::Stopped;
use nas_core::run_dir::RunDir;
use nas_core::space::Cost;
use nas_core::train::{self, LoopConfig};
use nas_datasets::Split;
use serde::{Deserialize, Serialize};

use super::{draw_run, require_sound};
use crate::experiment::{self, TrainExperiment};
use crate::metric::Scores;
use crate::training::Training;

/// Train a searched architecture, a preset or a baseline
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment train --config configs/segment/camvid_deeplabv3plus.toml --set data.root=../shared/data/camvid
  nas-segment train --config my.toml --set model.arch=runs/search/result.json --out runs/derived --resume")]
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
    pub scores: Scores,
    /// Parameters, and multiply-adds at the crop size.
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

impl fmt::Display for TrainResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.scores)?;
        self.stopped.iter().try_for_each(|stopped| writeln!(f, "{stopped}"))?;
        write!(f, "trained in {:.0} s at {:.1} images/s; {}", self.train_secs, self.images_per_sec, self.run)
    }
}

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let experiment: TrainExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    let compute = args.run.compute.resolve()?;
    let dir = open_run(&args.run, Some(experiment.seed), &experiment, compute)?;
    print(&train(&dir, experiment, compute)?, args.format)
}

fn train(dir: &RunDir, experiment: TrainExperiment, compute: Compute) -> Result<TrainResult> {
    if let Some(result) = dir.result()? {
        return Ok(result);
    }
    require_sound(&*experiment.data.open(Split::Train)?, "train")?;
    require_sound(&*experiment.data.open(Split::Val)?, "val")?;
    let crop = experiment.augment.crop;
    let settings = loop_config(experiment.train.epochs, experiment.seed);
    let mut training = Training::new(experiment, compute)?;
    let summary = train::run(&mut training, "train", dir, settings)?;
    let result = TrainResult {
        scores: training.scores().expect("the last epoch validates").clone(),
        cost: training.net().cost((crop.height().into(), crop.width().into())),
        stopped: training.stopped(),
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
