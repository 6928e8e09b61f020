//! `nas-classify eval`: scores of a trained network on a split.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nas_core::run::cli::{Compute, ComputeArgs, Format, print};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::write_atomic;
use nas_core::task::commands::trained::NetworkArgs;
use nas_core::task::experiment::TrainExperiment;
use nas_core::task::supervised::trained_network;
use nas_core::task::{Pass, Task};
use nas_datasets::classify::{ClassifyDataset, ClassifyEvalTransform};
use nas_datasets::{LoaderConfig, Split, require_same_classes};
use tch::nn::VarStore;

use crate::task::{Classification, Net};

/// Score a trained network: top-1, top-5, accuracy per class
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify eval --run runs/derived
  nas-classify eval --model resnet20 --weights resnet20.safetensors --set data.kind=cifar10 --set data.root=DIR
  nas-classify eval --run runs/derived --weights last --confusion matrix.csv")]
pub struct EvalArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Where and how to compute
    #[command(flatten)]
    compute: ComputeArgs,
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
    pub net: Net,
    /// How it was trained.
    pub experiment: TrainExperiment<Classification>,
    /// What is done to an image first.
    pub transform: ClassifyEvalTransform,
    /// Names of its classes.
    pub classes: Vec<String>,
    /// Where it computes.
    pub compute: Compute,
}

impl Trained {
    /// The network that a command is given.
    pub fn open(args: &NetworkArgs, compute: Compute) -> Result<Self> {
        let experiment: TrainExperiment<Classification> = args.experiment()?;
        let (classes, weights) = (args.classes(&experiment)?, args.weights::<Classification>()?);
        let (vs, net) = trained_network::<Classification>(&experiment.model, classes.len(), weights.path(), compute)?;
        let transform = ClassifyEvalTransform::like(&experiment.augment, experiment.eval.resize)?;
        Ok(Self { vs, net, experiment, transform, classes, compute })
    }

    /// The network at work.
    pub fn pass(&self) -> Pass<'_, Classification> {
        Pass { net: &self.net, mixture: None, compute: self.compute }
    }

    /// Refuses a data set whose classes are not those of the run.
    pub fn require_classes(&self, dataset: &dyn ClassifyDataset) -> Result<()> {
        let place = self.experiment.data.place();
        Ok(require_same_classes("the run", &self.classes, &place, dataset.classes())?)
    }

    /// How images are read.
    pub fn loader(&self) -> LoaderConfig {
        self.experiment.setting().loading(self.experiment.eval.batch_size, self.compute)
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let trained = Trained::open(&args.network, args.compute.resolve()?)?;
    let setting = trained.experiment.setting();
    let dataset = setting.open_sound(args.split)?;
    trained.require_classes(&*dataset)?;
    let mut progress = Progress::new("eval", dataset.len(), 0, None)?;
    let matrix =
        Classification::validate(trained.pass(), &setting, &dataset, &mut || progress.step(|| "images".into()))?;
    drop(progress);
    if let Some(path) = &args.confusion {
        write_atomic(path, &matrix.named(&trained.classes).csv()?)?;
    }
    print(&matrix.scores(&trained.classes), args.format)
}
