//! `nas-detect predict`: pictures with boxes, and what was found as COCO's results file has it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use nas_core::run::cli::{self, ComputeArgs, Format, print};
use nas_core::run::picture::write_png;
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::{open_output, write_atomic};
use nas_core::task::commands::trained::NetworkArgs;
use nas_core::task::experiment::TrainExperiment;
use nas_datasets::det::{DetClasses, DetDataset, unlabelled};
use nas_datasets::{Split, image_files};
use serde::Serialize;

use super::eval::Trained;
use crate::picture::{draw, marked};
use crate::task::Detection;
use crate::task::evaluation::{evaluate, results};

/// Write pictures with boxes, and results.json that pycocotools reads
#[derive(Clone, Debug, Args)]
#[command(after_help = "Images that are named get the ids 1, 2, ... in results.json, in this order.

Examples:
  nas-detect predict --run runs/shapes --out predictions
  nas-detect predict --run runs/bccd blood/*.jpg --out predictions --min-score 0.5")]
pub struct PredictArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Where and how to compute
    #[command(flatten)]
    compute: ComputeArgs,
    /// Split to look at: train, val or test
    #[arg(long, default_value = "val", value_name = "SPLIT")]
    split: Split,
    /// Image files, folders of them, or patterns, in the place of a split
    #[arg(value_name = "IMAGE", conflicts_with = "split")]
    images: Vec<PathBuf>,
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Least score of a box that is drawn; results.json has all
    #[arg(long, default_value_t = 0.3, value_name = "S", value_parser = cli::fraction)]
    min_score: f64,
    /// Only results.json
    #[arg(long)]
    no_pictures: bool,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct PredictReport {
    images: usize,
    /// Image files by their id in the results, where they have one of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<PathBuf>,
    detections: usize,
    results: PathBuf,
    pictures: Option<PathBuf>,
}

impl fmt::Display for PredictReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} detections in {} images: {}", self.detections, self.images, self.results.display())?;
        self.pictures.iter().try_for_each(|dir| write!(f, ", pictures in {}", dir.display()))
    }
}

/// Runs the command.
pub fn run(args: &PredictArgs) -> Result<()> {
    let (network, compute) = (&args.network, args.compute.resolve()?);
    let experiment: TrainExperiment<Detection> = network.experiment()?;
    let named = image_files(&args.images)?;
    let of_data = experiment.data.open(args.split);
    let dataset: Arc<dyn DetDataset> = match of_data {
        // Category ids are the data set's; where it is not here they are 1, 2, ...
        Err(_) if !named.is_empty() => {
            Arc::new(unlabelled(DetClasses::numbered(network.classes(&experiment)?), &named)?)
        }
        of_data => {
            let dataset = of_data?;
            network.require_classes::<Detection>(&experiment.data.place(args.split), dataset.classes().names())?;
            match named.is_empty() {
                true => dataset,
                false => Arc::new(unlabelled(dataset.classes().clone(), &named)?),
            }
        }
    };
    let weights = network.weights::<Detection>()?;
    let Trained { net, reading } = Trained::load(&experiment, dataset.classes().len(), weights.path(), compute)?;
    open_output(&args.out, &cli::job())?;
    let pictures = (!args.no_pictures).then(|| args.out.join("pictures"));
    let mut progress = Progress::new("predict", dataset.len(), 0, None)?;
    let files = evaluate(&|images| Ok(net.detect(images, None)), &dataset, &reading, compute, |sample, found| {
        if let Some(folder) = &pictures {
            let image = dataset.load(sample.index)?.image;
            let picture = draw(&image, &marked(found, dataset.classes(), args.min_score));
            write_png(&folder.join(format!("{}.png", dataset.name(sample.index))), &picture)?;
        }
        progress.step(|| "images".into());
        Ok(())
    })?;
    drop(progress);
    let path = args.out.join("results.json");
    write_atomic(&path, &serde_json::to_vec(&results(&files))?)?;
    let (images, detections) = (dataset.len(), files.detections.len());
    print(&PredictReport { images, files: named, detections, results: path, pictures }, args.format)
}
