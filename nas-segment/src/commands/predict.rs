//! `nas-segment predict`: label-id PNGs and colour overlays for images, or for all of a split.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use image::GrayImage;
use nas_core::run::cli::{self, Format, print};
use nas_core::run::picture::write_png;
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::open_output;
use nas_datasets::{Classes, eval_samples, image_files};
use serde::Serialize;
use tch::Tensor;

use super::eval::{Trained, TrainedArgs};
use crate::picture::{overlay, to_file_ids};
use crate::task::evaluation::{PREFETCH, predict};

/// Write label-id PNGs that cityscapesScripts accepts, and colour overlays
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment predict --model squeezenas_mac_small street.jpg holidays/ --out predictions
  nas-segment predict --run runs/derived --out predictions
  nas-segment predict --run runs/derived --split test --out submission --no-overlays
  nas-segment predict --model squeezenas_mac_small --set data.kind=cityscapes --set data.root=DIR --out predictions")]
pub struct PredictArgs {
    #[command(flatten)]
    trained: TrainedArgs,
    /// Image files, folders of them, or patterns, in the place of a split
    #[arg(value_name = "IMAGE", conflicts_with = "split")]
    images: Vec<PathBuf>,
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only the label maps
    #[arg(long)]
    no_overlays: bool,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct PredictReport {
    images: usize,
    labels: PathBuf,
    overlays: Option<PathBuf>,
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    image: String,
    /// The file in the folders of labels and overlays.
    file: String,
    /// Parts of the pixels by class, those that occur.
    classes: BTreeMap<String, f64>,
}

impl fmt::Display for PredictReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} label maps in {}", self.images, self.labels.display())?;
        self.overlays.iter().try_for_each(|dir| write!(f, ", overlays in {}", dir.display()))
    }
}

/// Runs the command.
pub fn run(args: &PredictArgs) -> Result<()> {
    let (trained, compute) = args.trained.load(&image_files(&args.images)?)?;
    let Trained { net, dataset, transform, eval, .. } = &trained;
    let (labels, overlays) = (args.out.join("labels"), args.out.join("overlays"));
    open_output(&args.out, &cli::job())?;
    let mut progress = Progress::new("predict", dataset.len(), 0, None)?;
    let mut predictions = Vec::new();
    let forward = |xs: &Tensor, mode| Ok(net.forward(xs, None, mode));
    for sample in eval_samples(dataset.clone(), transform.clone(), compute.threads, PREFETCH) {
        let sample = sample?;
        let (h, w) = sample.size;
        let ids = predict(&forward, &sample.image, (h.into(), w.into()), eval, compute)?;
        let ids = GrayImage::from_raw(w, h, ids).expect("one id per pixel");
        let name = dataset.name(sample.index);
        let path = dataset.image_path(sample.index);
        predictions.push(Prediction {
            image: path.map_or_else(|| name.to_string(), |path| path.display().to_string()),
            file: format!("{name}.png"),
            classes: parts(&ids, dataset.classes()),
        });
        write_png(&labels.join(format!("{name}.png")), &to_file_ids(&ids, dataset.classes()))?;
        if !args.no_overlays {
            let image = dataset.load(sample.index)?.image;
            write_png(&overlays.join(format!("{name}.png")), &overlay(&image, &ids, dataset.classes()))?;
        }
        progress.step(|| "images".into());
    }
    drop(progress);
    let overlays = (!args.no_overlays).then_some(overlays);
    print(&PredictReport { images: dataset.len(), labels, overlays, predictions }, args.format)
}

fn parts(ids: &GrayImage, classes: &Classes) -> BTreeMap<String, f64> {
    let mut counts = vec![0usize; classes.len()];
    ids.as_raw().iter().for_each(|id| counts[usize::from(*id)] += 1);
    let named = classes.names.iter().cloned().zip(counts).filter(|(_, count)| *count > 0);
    named.map(|(name, count)| (name, count as f64 / ids.as_raw().len() as f64)).collect()
}
