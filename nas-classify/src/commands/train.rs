//! `nas-classify train`: one network, one recipe, one seed.

use anyhow::{Context, Result};
use nas_core::nn::Shape;
use nas_core::run::cli::{Compute, run_in_folder};
use nas_core::run::run_dir::{RunDir, write_atomic};
use nas_core::task::commands::report::{draw_curves, read_metrics};
use nas_core::task::commands::train::{TrainArgs, TrainResult};
use nas_core::train::{self, LoopConfig};
use nas_datasets::Split;

use super::{CURVES, require_sound};
use crate::metric::Scores;
use crate::train_experiment::{self, TrainExperiment};
use crate::training::Training;

/// Runs the command.
pub fn run(args: &TrainArgs) -> Result<()> {
    let experiment: TrainExperiment = train_experiment::load(&args.run.config, &args.run.sets)?;
    experiment.check()?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        require_sound(&*experiment.data.open(Split::Train)?, "train")?;
        require_sound(&*experiment.data.open(Split::Val)?, "val")?;
        train(dir, experiment.clone(), compute)
    })
}

/// Trains to the end in `dir` and writes its result.
pub fn train(dir: &RunDir, experiment: TrainExperiment, compute: Compute) -> Result<TrainResult<Scores>> {
    let (size, names) = (experiment.augment.size, experiment.data.open(Split::Val)?.classes().to_vec());
    let settings = LoopConfig::new(experiment.train.epochs, experiment.seed);
    let mut training = Training::new(experiment, compute)?;
    let summary = train::run(&mut training, "train", dir, settings)?;
    let matrix = training.validate()?;
    write_atomic(&dir.path("confusion.csv"), &matrix.csv(&names)?)?;
    let picture = dir.path("confusion.png");
    matrix.picture().save(&picture).with_context(|| format!("{}: cannot write", picture.display()))?;
    let cost = training.net().cost(Shape::new(3, size.height().into(), size.width().into()));
    let result = TrainResult::new(matrix.scores(&names), cost, training.stopped(), &summary, dir);
    draw_curves(dir.root(), &read_metrics(dir.root())?, &CURVES)?;
    dir.finish(&result)?;
    Ok(result)
}
