//! `nas-classify train`: one network, one recipe, one seed.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::cli::{Compute, Format, RunArgs, open_run, print};
use nas_core::estimator::learning_curve::Stopped;
use nas_core::nn::Shape;
use nas_core::report::{draw_curves, read_metrics};
use nas_core::run_dir::{RunDir, write_atomic};
use nas_core::space::Cost;
use nas_core::train::{self, LoopConfig};
use nas_datasets::Split;
use serde::{Deserialize, Serialize};

use super::{CURVES, require_sound};
use crate::metric::Scores;
use crate::train_experiment::{self, TrainExperiment};
use crate::training::Training;

/// Train a searched architecture, a preset or a baseline
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify train --config configs/classify/cifar10_small.toml --set data.root=../shared/data/cifar10
  nas-classify train --config my.toml --set model.arch=runs/search/result.json --out runs/derived --resume")]
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

impl fmt::Display for TrainResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.scores)?;
        self.stopped.iter().try_for_each(|stopped| writeln!(f, "{stopped}"))?;
        write!(f, "trained in {:.0} s at {:.1} images/s; {}", self.train_secs, self.images_per_sec, self.run)
    }
}

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let experiment: TrainExperiment = train_experiment::load(&args.run.config, &args.run.sets)?;
    experiment.check()?;
    let compute = args.run.compute.resolve()?;
    let dir = open_run(&args.run, Some(experiment.seed), &experiment, compute)?;
    let result = match dir.result()? {
        Some(result) => result,
        None => {
            require_sound(&*experiment.data.open(Split::Train)?, "train")?;
            require_sound(&*experiment.data.open(Split::Val)?, "val")?;
            train(&dir, experiment, compute)?
        }
    };
    print(&result, args.format)
}

/// Trains to the end in `dir` and writes its result.
pub fn train(dir: &RunDir, experiment: TrainExperiment, compute: Compute) -> Result<TrainResult> {
    const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
    let (size, names) = (experiment.augment.size, experiment.data.open(Split::Val)?.classes().to_vec());
    let settings =
        LoopConfig { epochs: experiment.train.epochs, seed: experiment.seed, checkpoint_every: CHECKPOINT_EVERY };
    let mut training = Training::new(experiment, compute)?;
    let summary = train::run(&mut training, "train", dir, settings)?;
    let matrix = training.validate()?;
    write_atomic(&dir.path("confusion.csv"), &matrix.csv(&names)?)?;
    let picture = dir.path("confusion.png");
    matrix.picture().save(&picture).with_context(|| format!("{}: cannot write", picture.display()))?;
    let result = TrainResult {
        scores: matrix.scores(&names),
        cost: training.net().cost(Shape::new(3, size.height().into(), size.width().into())),
        stopped: training.stopped(),
        train_secs: summary.train_secs,
        images_per_sec: summary.images_per_sec,
        run: dir.root().display().to_string(),
    };
    draw_curves(dir.root(), &read_metrics(dir.root())?, &CURVES)?;
    dir.finish(&result)?;
    Ok(result)
}
