//! `nas-segment train`: one network, one recipe, one seed.

use anyhow::Result;
use nas_core::run::cli::{Compute, run_in_folder};
use nas_core::run::run_dir::RunDir;
use nas_core::task::commands::train::{TrainArgs, TrainResult};
use nas_core::train::{self, LoopConfig};
use nas_datasets::Split;

use super::{draw_run, require_sound};
use crate::experiment::{self, TrainExperiment};
use crate::metric::Scores;
use crate::training::Training;

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let experiment: TrainExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        train(dir, experiment.clone(), compute)
    })
}

fn train(dir: &RunDir, experiment: TrainExperiment, compute: Compute) -> Result<TrainResult<Scores>> {
    require_sound(&*experiment.data.open(Split::Train)?, "train")?;
    require_sound(&*experiment.data.open(Split::Val)?, "val")?;
    let crop = experiment.augment.crop;
    let settings = LoopConfig::new(experiment.train.epochs, experiment.seed);
    let mut training = Training::new(experiment, compute)?;
    let summary = train::run(&mut training, "train", dir, settings)?;
    let scores = training.scores().expect("the last epoch validates").clone();
    let cost = training.net().cost((crop.height().into(), crop.width().into()));
    let result = TrainResult::new(scores, cost, training.stopped(), &summary, dir);
    draw_run(dir.root())?;
    dir.finish(&result)?;
    Ok(result)
}
