//! `nas-segment eval`: scores of a trained network on a split.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use nas_core::run::cli::{self, Compute, Format, print};
use nas_core::run::progress::Progress;
use nas_core::task::Task;
use nas_core::task::experiment::{self, TrainExperiment};
use nas_datasets::{EvalTransform, SegDataset, Split, check};
use tch::Tensor;

use crate::evaluation::evaluate;
use crate::task::{EvalConfig, Net, Segmentation, trained};

/// Score a trained network: mIOU, per-class IoU, accuracies
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment eval --run runs/derived
  nas-segment eval --run runs/derived --set eval.scales=[0.75,1.0,1.25] --set eval.flip=true --format json")]
pub struct EvalArgs {
    #[command(flatten)]
    trained: TrainedArgs,
    /// How to print the scores
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Which network and which images.
#[derive(Clone, Debug, Args)]
pub struct TrainedArgs {
    #[command(flatten)]
    trained: cli::TrainedArgs,
    /// train, val or test
    #[arg(long, default_value = "val", value_name = "SPLIT")]
    pub split: Split,
}

/// A trained network with the images it is asked about.
pub struct Trained {
    /// The network.
    pub net: Net,
    /// The split.
    pub dataset: Arc<dyn SegDataset>,
    /// What is done to an image first.
    pub transform: EvalTransform,
    /// How predictions are made.
    pub eval: EvalConfig,
}

impl TrainedArgs {
    /// Loads the network and opens the split.
    pub fn load(&self) -> Result<(Trained, Compute)> {
        let Self { trained: args, split } = self;
        let compute = args.compute.resolve()?;
        let experiment: TrainExperiment<Segmentation> = experiment::load(&args.config(), &args.sets)?;
        let dataset = experiment.data.open(*split)?;
        args.require_classes(&experiment.data.place(), &dataset.classes().names)?;
        let net = trained(&experiment.model, dataset.classes().len(), &args.weights(), compute)?;
        let transform = EvalTransform::like(&experiment.augment, experiment.eval.resize);
        Ok((Trained { net, dataset, transform, eval: experiment.eval }, compute))
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let (trained, compute) = args.trained.load()?;
    let Trained { net, dataset, transform, eval, .. } = &trained;
    cli::require_sound(&check(&**dataset), dataset.len(), args.trained.split.as_str(), Segmentation::PROGRAM)?;
    let mut progress = Progress::new("eval", dataset.len(), 0, None)?;
    let forward = |xs: &Tensor, mode| net.forward(xs, None, mode);
    let scores = evaluate(&forward, dataset, transform, eval, compute, || progress.step(|| "images".into()))?;
    drop(progress);
    print(&scores, args.format)
}
