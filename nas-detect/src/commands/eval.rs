//! `nas-detect eval`: average precision of detections.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use nas_core::cli::{Format, print};

use crate::eval::files;
use crate::eval::report::{CocoReport, VocReport};

/// Score detections by the rules of COCO or Pascal VOC
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Both files are JSON as COCO has it: --gt holds {\"images\", \"annotations\", \"categories\"}, --dt what a detector found,
[{\"image_id\", \"category_id\", \"bbox\": [left, top, width, height], \"score\"}, ...] in pixels of the original images.

coco: pycocotools' 12 numbers, digit for digit (JSON key `stats`), and the same per class. -1 stands for \"there was nothing to
      find\". Crowds (`iscrowd`) are neither found nor missed; `ignore` and `difficult` are not looked at.
voc:  AP at overlap 0.5 by area (VOC 2010 and later) and at 11 points (VOC 2007). Annotations with `difficult`, `ignore` or
      `iscrowd` set are neither found nor missed. A box [x, y, w, h] covers w times h pixels, as VOC's inclusive corners
      (xmin = x + 1, xmax = x + w) do with their \"+1\".

Detections of images that --gt does not have are refused, those of unknown categories are left out with a warning.

Example:
  nas-detect eval --gt instances_val2017.json --dt results.json --metric coco --format json"
)]
pub struct EvalArgs {
    /// Ground truth
    #[arg(long, value_name = "FILE")]
    gt: PathBuf,
    /// Detections
    #[arg(long, value_name = "FILE")]
    dt: PathBuf,
    /// Whose rules
    #[arg(long, value_enum, default_value_t)]
    metric: Metric,
    /// Detections per image and class that count (coco); AP uses the largest
    #[arg(long, value_name = "N,N,N", value_delimiter = ',', default_values_t = crate::eval::coco::MAX_DETS)]
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

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    ensure!(!args.max_dets.contains(&0), "--max-dets holds 0, expected numbers of at least 1");
    let files = files::read(&args.gt, &args.dt)?;
    files.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    match args.metric {
        Metric::Coco => print(&CocoReport::new(&files, &args.max_dets), args.format),
        Metric::Voc => print(&VocReport::new(&files), args.format),
    }
}
