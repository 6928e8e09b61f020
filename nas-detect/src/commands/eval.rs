//! `nas-detect eval`: average precision of a trained network, or of anybody's detections.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use nas_core::run::cli::{self, Compute, ComputeArgs, Format, print};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::write_atomic;
use nas_core::task::commands::trained::NetworkArgs;
use nas_core::task::experiment::TrainExperiment;
use nas_core::task::supervised::trained_network;
use nas_datasets::Split;

use crate::eval::files::{self, EvalFiles};
use crate::eval::report::{CocoReport, VocReport};
use crate::task::evaluation::{Reading, evaluate, results};
use crate::task::{Detection, Net, reading};

/// Score a trained network, or anybody's detections, by the rules of COCO or Pascal VOC
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "With --run or --model the network is run over a split. With --gt and --dt, both files are JSON as COCO has it: --gt holds {\"images\", \"annotations\", \"categories\"}, --dt what a detector found,
[{\"image_id\", \"category_id\", \"bbox\": [left, top, width, height], \"score\"}, ...] in pixels of the original images.

coco: pycocotools' 12 numbers, digit for digit (JSON key `stats`), and the same per class. -1 stands for \"there was nothing to
      find\". Crowds (`iscrowd`) are neither found nor missed; `ignore` and `difficult` are not looked at.
voc:  AP at overlap 0.5 by area (VOC 2010 and later) and at 11 points (VOC 2007). Annotations with `difficult`, `ignore` or
      `iscrowd` set are neither found nor missed. A box [x, y, w, h] covers w times h pixels, as VOC's inclusive corners
      (xmin = x + 1, xmax = x + w) do with their \"+1\".

Detections of images that --gt does not have are refused, those of unknown categories are left out with a warning.

Examples:
  nas-detect eval --run runs/shapes --results results.json
  nas-detect eval --gt instances_val2017.json --dt results.json --metric coco --format json"
)]
pub struct EvalArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Where and how to run the network
    #[command(flatten)]
    compute: ComputeArgs,
    /// Split of the network's data set: train, val or test
    #[arg(long, default_value = "val", value_name = "SPLIT")]
    split: Split,
    /// Where to write what the network finds, as pycocotools reads it
    #[arg(long, value_name = "FILE", conflicts_with = "gt")]
    results: Option<PathBuf>,
    /// Ground truth
    #[arg(long, value_name = "FILE", requires = "dt", conflicts_with_all = ["run", "model", "weights", "sets"])]
    gt: Option<PathBuf>,
    /// Detections
    #[arg(long, value_name = "FILE", requires = "gt")]
    dt: Option<PathBuf>,
    /// Whose rules
    #[arg(long, value_enum, default_value_t)]
    metric: Metric,
    /// Detections per image and class that count (coco); AP uses the largest
    #[arg(long, value_name = "N,N,N", value_delimiter = ',', default_values_t = crate::eval::coco::MAX_DETS, value_parser = cli::count(1, 1_000_000))]
    max_dets: Vec<usize>,
    /// How to print the scores
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Metric {
    #[default]
    Coco,
    Voc,
}

/// A trained network.
pub struct Trained {
    /// The network.
    pub net: Net,
    /// How images reach it.
    pub reading: Reading,
}

impl Trained {
    /// The network of `experiment` with the weights of a file.
    pub fn load(
        experiment: &TrainExperiment<Detection>,
        num_classes: usize,
        weights: &Path,
        compute: Compute,
    ) -> Result<Self> {
        let (_, net) = trained_network::<Detection>(&experiment.model, num_classes, weights, compute)?;
        Ok(Self { net, reading: reading(&experiment.setting(), compute) })
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let NetworkArgs { run, model, .. } = &args.network;
    let files = match (&args.gt, &args.dt) {
        (Some(gt), Some(dt)) => files::read(gt, dt)?,
        _ if run.is_some() || model.is_some() => of_network(args)?,
        _ => {
            bail!("nothing to score: expected --run DIR, --model NAME with --weights FILE, or --gt FILE and --dt FILE")
        }
    };
    files.warnings.iter().for_each(cli::warn);
    match args.metric {
        Metric::Coco => print(&CocoReport::new(&files, &args.max_dets).numbers(), args.format),
        Metric::Voc => print(&VocReport::new(&files), args.format),
    }
}

fn of_network(args: &EvalArgs) -> Result<EvalFiles> {
    let EvalArgs { network, split, .. } = args;
    let compute = args.compute.resolve()?;
    let experiment: TrainExperiment<Detection> = network.experiment()?;
    let dataset = experiment.setting().open_sound(*split)?;
    network.require_classes::<Detection>(&experiment.data.place(*split), dataset.classes().names())?;
    let weights = network.weights::<Detection>()?;
    let Trained { net, reading } = Trained::load(&experiment, dataset.classes().len(), weights.path(), compute)?;
    let mut progress = Progress::new("eval", dataset.len(), 0, None)?;
    let mut files = evaluate(&|images| Ok(net.detect(images, None)), &dataset, &reading, compute, |_, _| {
        progress.step(|| "images".into());
        Ok(())
    })?;
    files.warnings.extend_from_slice(dataset.warnings());
    if let Some(out) = &args.results {
        write_atomic(out, &serde_json::to_vec(&results(&files))?)?;
    }
    Ok(files)
}
