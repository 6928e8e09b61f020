//! `nas-detect train`: one network, one recipe, one seed.

use anyhow::Result;
use nas_core::run::cli::{Compute, run_in_folder};
use nas_core::run::run_dir::RunDir;
use nas_core::task::commands::train::{TrainArgs, TrainResult};
use nas_core::train::{self, LoopConfig};

use super::{draw_run, require_sound};
use crate::backbone::total;
use crate::eval::report::CocoReport;
use crate::experiment::{self, TrainExperiment};
use crate::training::Training;

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let experiment: TrainExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    experiment.check()?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        train(dir, experiment.clone(), compute)
    })
}

fn train(dir: &RunDir, experiment: TrainExperiment, compute: Compute) -> Result<TrainResult<CocoReport>> {
    require_sound(&experiment.data)?;
    let settings = LoopConfig::new(experiment.train.epochs, experiment.seed);
    let mut training = Training::of_detector(experiment, compute)?;
    let summary = train::run(&mut training, "train", dir, settings)?;
    let size = training.task.image_size()?;
    let scores = training.task.scores().expect("the last epoch validates").clone();
    let cost = total(&training.task.net().cost_parts(size).concat());
    let result = TrainResult::new(scores, cost, training.task.stopped(), &summary, dir);
    draw_run(dir.root())?;
    dir.finish(&result)?;
    Ok(result)
}
