//! `nas-detect eval`: average precision of a trained network, or of anybody's detections.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use nas_core::run::cli::{self, Compute, ComputeArgs, Format, print};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::write_atomic;
use nas_core::task::experiment::{self, TrainExperiment};
use nas_core::task::supervised::trained_network;
use nas_datasets::Split;

use crate::eval::files::{self, EvalFiles};
use crate::eval::report::{CocoReport, VocReport};
use crate::task::evaluation::{Reading, evaluate, results};
use crate::task::{Detection, Net, reading};

/// Score a trained network, or anybody's detections, by the rules of COCO or Pascal VOC
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "With --run the network is run over a split. With --gt and --dt, both files are JSON as COCO has it: --gt holds {\"images\", \"annotations\", \"categories\"}, --dt what a detector found,
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
    /// Run folder of a training
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// A file of weights, or `last` for those of the run's last epoch [default: those of its best validation]
    #[arg(long, value_name = "FILE|last", requires = "run")]
    weights: Option<PathBuf>,
    /// Replace a key of the run's config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "run")]
    sets: Vec<String>,
    /// Where and how to run the network
    #[command(flatten)]
    compute: ComputeArgs,
    /// Split of the network's data set: train, val or test
    #[arg(long, default_value = "val", value_name = "SPLIT")]
    split: Split,
    /// Where to write what the network finds, as pycocotools reads it
    #[arg(long, value_name = "FILE", requires = "run")]
    results: Option<PathBuf>,
    /// Ground truth
    #[arg(long, value_name = "FILE", requires = "dt", conflicts_with = "run")]
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

/// The experiment of a run, and where to compute.
pub fn open(args: &cli::TrainedArgs) -> Result<(TrainExperiment<Detection>, Compute)> {
    let compute = args.compute.resolve()?;
    Ok((experiment::load(&args.config(), &args.sets)?, compute))
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
    let files = match (&args.run, &args.gt, &args.dt) {
        (Some(run), ..) => {
            let EvalArgs { weights, sets, compute, .. } = args.clone();
            let trained = cli::TrainedArgs { run: run.clone(), weights, sets, compute };
            of_network(&trained, args.split, args.results.as_deref())?
        }
        (None, Some(gt), Some(dt)) => files::read(gt, dt)?,
        _ => bail!("nothing to score: expected --run DIR, or --gt FILE and --dt FILE"),
    };
    files.warnings.iter().for_each(cli::warn);
    match args.metric {
        Metric::Coco => print(&CocoReport::new(&files, &args.max_dets), args.format),
        Metric::Voc => print(&VocReport::new(&files), args.format),
    }
}

fn of_network(args: &cli::TrainedArgs, split: Split, out: Option<&Path>) -> Result<EvalFiles> {
    let (experiment, compute) = open(args)?;
    let dataset = experiment.setting().open_sound(split)?;
    args.require_classes(&experiment.data.place(split), dataset.classes().names())?;
    let Trained { net, reading } = Trained::load(&experiment, dataset.classes().len(), &args.weights(), compute)?;
    let mut progress = Progress::new("eval", dataset.len(), 0, None)?;
    let mut files = evaluate(&|images| Ok(net.detect(images, None)), &dataset, &reading, compute, |_, _| {
        progress.step(|| "images".into());
        Ok(())
    })?;
    files.warnings.extend_from_slice(dataset.warnings());
    if let Some(out) = out {
        write_atomic(out, &serde_json::to_vec(&results(&files))?)?;
    }
    Ok(files)
}
