//! `nas-segment predict`: label-id PNGs and colour overlays for every image of a split.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use image::GrayImage;
use nas_core::run::cli::{self, Format, print};
use nas_core::run::picture::write_png;
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::open_output;
use nas_datasets::eval_samples;
use serde::Serialize;
use tch::Tensor;

use super::eval::{Trained, TrainedArgs};
use crate::picture::{overlay, to_file_ids};
use crate::task::evaluation::{PREFETCH, predict};

/// Write label-id PNGs that cityscapesScripts accepts, and colour overlays
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment predict --run runs/derived --out predictions
  nas-segment predict --run runs/derived --split test --out submission --no-overlays
  nas-segment predict --model squeezenas_mac_small --weights mac_small.safetensors --set data.kind=cityscapes \\
      --set data.root=DIR --out predictions")]
pub struct PredictArgs {
    #[command(flatten)]
    trained: TrainedArgs,
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
}

impl fmt::Display for PredictReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} label maps in {}", self.images, self.labels.display())?;
        self.overlays.iter().try_for_each(|dir| write!(f, ", overlays in {}", dir.display()))
    }
}

/// Runs the command.
pub fn run(args: &PredictArgs) -> Result<()> {
    let (trained, compute) = args.trained.load()?;
    let Trained { net, dataset, transform, eval, .. } = &trained;
    let (labels, overlays) = (args.out.join("labels"), args.out.join("overlays"));
    open_output(&args.out, &cli::job())?;
    let mut progress = Progress::new("predict", dataset.len(), 0, None)?;
    let forward = |xs: &Tensor, mode| net.forward(xs, None, mode);
    for sample in eval_samples(dataset.clone(), transform.clone(), compute.threads, PREFETCH) {
        let sample = sample?;
        let (h, w) = sample.size;
        let ids = predict(&forward, &sample.image, (h.into(), w.into()), eval, compute);
        let ids = GrayImage::from_raw(w, h, ids).expect("one id per pixel");
        let name = dataset.name(sample.index);
        write_png(&labels.join(format!("{name}.png")), &to_file_ids(&ids, dataset.classes()))?;
        if !args.no_overlays {
            let image = dataset.load(sample.index)?.image;
            write_png(&overlays.join(format!("{name}.png")), &overlay(&image, &ids, dataset.classes()))?;
        }
        progress.step(|| "images".into());
    }
    drop(progress);
    let overlays = (!args.no_overlays).then_some(overlays);
    print(&PredictReport { images: dataset.len(), labels, overlays }, args.format)
}
