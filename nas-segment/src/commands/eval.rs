//! `nas-segment eval`: scores of a trained network on a split.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use nas_core::run::cli::{self, Compute, ComputeArgs, Format, print};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::read_classes;
use nas_core::task::Task;
use nas_core::task::experiment::{self, TrainExperiment, Weights};
use nas_datasets::{Classes, EvalTransform, SegDataset, Split, check, require_same_classes, unlabelled};
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
    /// Run folder of a training
    #[arg(long, value_name = "DIR", required_unless_present = "model")]
    run: Option<PathBuf>,
    /// In the place of a run: a preset, or an experiment file of kind train
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    model: Option<String>,
    /// A file of weights, or `last` for those of the run's last epoch [default: those of its best validation, or those that
    /// come with the program]
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
    /// Loads the network and opens the split, or `images` where there are some: those need no data set.
    pub fn load(&self, images: &[PathBuf]) -> Result<(Trained, Compute)> {
        let compute = self.compute.resolve()?;
        let experiment = self.experiment()?;
        let known = match (&self.run, &self.model) {
            (Some(run), _) => Some(read_classes(run)?),
            (None, model) => model.as_deref().and_then(Segmentation::preset_classes),
        };
        let dataset: Arc<dyn SegDataset> = match (&known, images.is_empty()) {
            (Some(names), false) => Arc::new(unlabelled(Classes::named(names), images)?),
            (None, false) => Arc::new(unlabelled(experiment.data.open(self.split)?.classes().clone(), images)?),
            (_, true) => experiment.data.open(self.split)?,
        };
        if let Some(names) = &known {
            let owner = self.model.as_deref().unwrap_or("the run");
            require_same_classes(owner, names, &experiment.data.place(), &dataset.classes().names)?;
        }
        let weights = match (&self.run, &self.model) {
            (Some(run), _) => Weights::Named(cli::weights_of(run, self.weights.as_deref())),
            (None, model) => {
                Weights::of_model::<Segmentation>(model.as_deref().unwrap_or_default(), self.weights.as_deref())?
            }
        };
        let net = trained(&experiment.model, dataset.classes().len(), weights.path(), compute)?;
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
