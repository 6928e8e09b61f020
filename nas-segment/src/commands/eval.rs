//! `nas-segment eval`: scores of a trained network on a split.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use nas_core::run::cli::{self, Compute, ComputeArgs, Format, print};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::read_classes;
use nas_core::task::Task;
use nas_core::task::experiment::{self, TrainExperiment};
use nas_datasets::{EvalTransform, SegDataset, Split, check, require_same_classes};
use tch::Tensor;

use crate::task::evaluation::evaluate;
use crate::task::{EvalConfig, Net, Segmentation, trained};

/// Score a trained network: mIOU, per-class IoU, accuracies
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment eval --run runs/derived
  nas-segment eval --model squeezenas_mac_small --weights mac_small.safetensors --set data.kind=cityscapes --set data.root=DIR
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
    /// Run folder of a training
    #[arg(long, value_name = "DIR", required_unless_present = "model")]
    run: Option<PathBuf>,
    /// In the place of a run: a preset, or an experiment file of kind train
    #[arg(long, value_name = "NAME", conflicts_with = "run", requires = "weights")]
    model: Option<String>,
    /// A file of weights, or `last` for those of the run's last epoch [default: those of its best validation]
    #[arg(long, value_name = "FILE|last")]
    weights: Option<PathBuf>,
    /// Replace a key of the config (data.root, eval.resize, ...); may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
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
    /// Loads the network and opens the split.
    pub fn load(&self) -> Result<(Trained, Compute)> {
        let compute = self.compute.resolve()?;
        let experiment = self.experiment()?;
        let dataset = experiment.data.open(self.split)?;
        if let Some(run) = &self.run {
            let place = experiment.data.place();
            require_same_classes("the run", &read_classes(run)?, &place, &dataset.classes().names)?;
        }
        let net = trained(&experiment.model, dataset.classes().len(), &self.weights(), compute)?;
        let transform = EvalTransform::like(&experiment.augment, experiment.eval.resize);
        Ok((Trained { net, dataset, transform, eval: experiment.eval }, compute))
    }

    fn experiment(&self) -> Result<TrainExperiment<Segmentation>> {
        match (&self.run, &self.model) {
            (Some(run), _) => experiment::load(&run.join("config.toml"), &self.sets),
            (None, Some(model)) => experiment::of_model(model, &self.sets),
            (None, None) => bail!("expected --run or --model"),
        }
    }

    fn weights(&self) -> PathBuf {
        match &self.run {
            Some(run) => cli::weights_of(run, self.weights.as_deref()),
            None => self.weights.clone().unwrap_or_default(),
        }
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
