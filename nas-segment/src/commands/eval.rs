//! `nas-segment eval`: scores of a trained network on a split.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::run::cli::{self, Compute, Format, print};
use nas_core::run::progress::Progress;
use nas_core::train::{all_variables, copy_into, read_tensors};
use nas_datasets::{EvalTransform, SegDataset, Split};
use tch::{Tensor, nn::VarStore};

use crate::evaluation::evaluate;
use crate::experiment::{self, EvalConfig, TrainExperiment};
use crate::model::SegNet;
use crate::training::new_network;

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
    /// Holds the network's weights.
    pub vs: VarStore,
    /// The network.
    pub net: SegNet,
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
        let Self { trained, split } = self;
        let compute = trained.compute.resolve()?;
        let experiment: TrainExperiment = experiment::load(&trained.config(), &trained.sets)?;
        let dataset = experiment.data.open(*split)?;
        Ok((Trained::load(experiment, dataset, &trained.weights(), compute)?, compute))
    }
}

impl Trained {
    /// The network of `experiment` with the weights of a file.
    pub fn load(
        experiment: TrainExperiment,
        dataset: Arc<dyn SegDataset>,
        weights: &Path,
        compute: Compute,
    ) -> Result<Self> {
        let (vs, net) = new_network(&experiment, dataset.classes().len(), compute)?;
        let saved = read_tensors(weights)?;
        copy_into(&all_variables(&vs), &saved).with_context(|| format!("{}: other network", weights.display()))?;
        let transform = EvalTransform::like(&experiment.augment, experiment.eval.resize);
        Ok(Self { vs, net, dataset, transform, eval: experiment.eval })
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let (trained, compute) = args.trained.load()?;
    let Trained { net, dataset, transform, eval, .. } = &trained;
    super::require_sound(&**dataset, &args.trained.split.to_string())?;
    let mut progress = Progress::new("eval", dataset.len(), 0, None)?;
    let forward = |xs: &Tensor, mode| net.forward(xs, mode);
    let scores = evaluate(&forward, dataset, transform, eval, compute, || progress.step(|| "images".into()))?;
    drop(progress);
    print(&scores, args.format)
}
