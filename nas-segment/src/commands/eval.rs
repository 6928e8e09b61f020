//! `nas-segment eval`: scores of a trained network on a split.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use nas_core::run::cli::{self, Compute, ComputeArgs, Format, print};
use nas_core::run::progress::Progress;
use nas_core::task::Task;
use nas_core::task::commands::trained::NetworkArgs;
use nas_core::task::experiment::TrainExperiment;
use nas_datasets::{Classes, EvalTransform, SegDataset, Split, check, unlabelled};
use tch::Tensor;

use crate::task::evaluation::evaluate;
use crate::task::{EvalConfig, Net, Segmentation, scores, trained};

/// Score a trained network: mIOU, per-class IoU, accuracies
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment eval --run runs/derived
  nas-segment eval --model squeezenas_mac_small --set data.kind=cityscapes --set data.root=DIR
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
    network: NetworkArgs,
    /// Where and how to compute
    #[command(flatten)]
    compute: ComputeArgs,
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
    /// Loads the network and opens the split, or `images` where there are some: those need no data set.
    pub fn load(&self, images: &[PathBuf]) -> Result<(Trained, Compute)> {
        let compute = self.compute.resolve()?;
        let experiment: TrainExperiment<Segmentation> = self.network.experiment()?;
        let known = self.network.known_classes::<Segmentation>()?;
        let dataset: Arc<dyn SegDataset> = match (&known, images.is_empty()) {
            (Some(names), false) => Arc::new(unlabelled(Classes::named(names), images)?),
            (None, false) => Arc::new(unlabelled(experiment.data.open(self.split)?.classes().clone(), images)?),
            (_, true) => experiment.data.open(self.split)?,
        };
        self.network.require_classes::<Segmentation>(&experiment.data.place(), &dataset.classes().names)?;
        let weights = self.network.weights::<Segmentation>()?;
        let net = trained(&experiment.model, dataset.classes().len(), weights.path(), compute)?;
        let transform = EvalTransform::like(&experiment.augment, experiment.eval.resize);
        Ok((Trained { net, dataset, transform, eval: experiment.eval }, compute))
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let (trained, compute) = args.trained.load(&[])?;
    let Trained { net, dataset, transform, eval, .. } = &trained;
    cli::require_sound(&check(&**dataset), dataset.len(), args.trained.split.as_str(), Segmentation::PROGRAM)?;
    let mut progress = Progress::new("eval", dataset.len(), 0, None)?;
    let forward = |xs: &Tensor, mode| Ok(net.forward(xs, None, mode));
    let found = evaluate(&forward, dataset, transform, eval, compute, || progress.step(|| "images".into()))?;
    let scores = scores(&found);
    drop(progress);
    print(&scores, args.format)
}
