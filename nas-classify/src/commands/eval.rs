//! `nas-classify eval`: scores of a trained network on a split.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::run::cli::{Compute, Format, TrainedArgs, print};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::write_atomic;
use nas_core::train::{all_variables, copy_into, read_tensors};
use nas_datasets::classify::{ClassifyDataset, ClassifyEvalTransform};
use nas_datasets::{LoaderConfig, Split};
use tch::nn::VarStore;

use super::require_sound;
use crate::evaluation::evaluate;
use crate::metric::ConfusionMatrix;
use crate::model::Classifier;
use crate::train_experiment::{self, TrainExperiment};
use crate::training::new_network;

/// Score a trained network: top-1, top-5, accuracy per class
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify eval --run runs/derived
  nas-classify eval --run runs/derived --weights runs/derived/checkpoints/best.safetensors --confusion matrix.csv")]
pub struct EvalArgs {
    #[command(flatten)]
    trained: TrainedArgs,
    /// train, val or test
    #[arg(long, default_value = "val", value_name = "SPLIT")]
    split: Split,
    /// File to write the confusion matrix to
    #[arg(long, value_name = "FILE.csv")]
    confusion: Option<PathBuf>,
    /// How to print the scores
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A trained network.
pub struct Trained {
    /// Holds the network's weights.
    pub vs: VarStore,
    /// The network.
    pub net: Box<dyn Classifier>,
    /// How it was trained.
    pub experiment: TrainExperiment,
    /// What is done to an image first.
    pub transform: ClassifyEvalTransform,
    /// Names of its classes.
    pub classes: Vec<String>,
}

impl Trained {
    /// The network that a command is given.
    pub fn open(args: &TrainedArgs) -> Result<(Self, Compute)> {
        let compute = args.compute.resolve()?;
        let experiment: TrainExperiment = train_experiment::load(&args.config(), &args.sets)?;
        Ok((Self::load(experiment, &args.weights(), compute)?, compute))
    }

    /// The network of `experiment` with the weights of a file.
    pub fn load(experiment: TrainExperiment, weights: &Path, compute: Compute) -> Result<Self> {
        let classes = experiment.data.open(Split::Val)?.classes().to_vec();
        let (vs, net) = new_network(&experiment, classes.len(), compute)?;
        let saved = read_tensors(weights)?;
        copy_into(&all_variables(&vs), &saved).with_context(|| format!("{}: other network", weights.display()))?;
        let transform = ClassifyEvalTransform::like(&experiment.augment, experiment.eval.resize)?;
        Ok(Self { vs, net, experiment, transform, classes })
    }

    /// How images are read.
    pub fn loader(&self, compute: Compute) -> LoaderConfig {
        self.experiment.loader.with(self.experiment.eval.batch_size, compute.threads)
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let (trained, compute) = Trained::open(&args.trained)?;
    let dataset: Arc<dyn ClassifyDataset> = trained.experiment.data.open(args.split)?;
    ConfusionMatrix::new(trained.classes.len()).matches(dataset.classes())?;
    require_sound(&*dataset, args.split.as_str())?;
    let mut progress = Progress::new("eval", dataset.len(), 0, None)?;
    let tick = || progress.step(|| "images".into());
    let matrix = evaluate(&*trained.net, &dataset, &trained.transform, &trained.loader(compute), compute, tick)?;
    drop(progress);
    if let Some(path) = &args.confusion {
        write_atomic(path, &matrix.csv(&trained.classes)?)?;
    }
    print(&matrix.scores(&trained.classes), args.format)
}
