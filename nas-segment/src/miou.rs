//! Scores of label PNGs made by anybody against ground truth, without a network.

mod pairs;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use nas_core::run::cli::Format;
use nas_datasets::read_label;
use rayon::prelude::*;
use serde::Serialize;

use crate::metric::{ConfusionMatrix, Scores};

/// Score label PNGs against ground truth
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Both folders are searched to the bottom. A prediction belongs to the ground truth of the same relative path, else
of the same name; endings of Cityscapes (_gtFine_labelTrainIds, _gtFine_labelIds, _leftImg8bit) and _pred... do not count.
Label maps are PNGs of one channel with 8 bits; of palette PNGs the indices count, not the colours.

Example:
  nas-segment miou --pred predictions/labels --gt data/valannot --num-classes 11 --format json"
)]
pub struct MiouArgs {
    /// Folder of predicted ids
    #[arg(long, value_name = "DIR")]
    pred: PathBuf,
    /// Folder of true ids
    #[arg(long, value_name = "DIR")]
    gt: PathBuf,
    /// Classes are 0..K
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u8).range(1..=255))]
    num_classes: u8,
    /// Id in the ground truth of pixels that do not count; if it is one of the classes, that class has no score
    #[arg(long, default_value_t = 255, value_name = "ID")]
    ignore: u8,
    /// How to print the scores
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Scores over all pairs.
#[derive(Clone, Debug, Serialize)]
pub struct MiouReport {
    /// Pairs of files.
    pub images: usize,
    /// The scores.
    #[serde(flatten)]
    pub scores: Scores,
}

impl fmt::Display for MiouReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}\n{} images", self.scores, self.images)
    }
}

/// Runs the command.
pub fn run(args: &MiouArgs) -> Result<MiouReport> {
    let pairs = pairs::pair(&args.gt, &args.pred, args.num_classes)?;
    let empty = || ConfusionMatrix::new(args.num_classes.into()).ignoring(args.ignore);
    let count = |matrix, (gt, pred): &(PathBuf, PathBuf)| count(matrix, gt, pred, args);
    let merge = |a: ConfusionMatrix, b: ConfusionMatrix| Ok(a.merge(&b));
    let matrix = pairs.par_iter().try_fold(empty, count).try_reduce(empty, merge)?;
    Ok(MiouReport { images: pairs.len(), scores: matrix.scores() })
}

fn count(mut matrix: ConfusionMatrix, gt: &Path, pred: &Path, args: &MiouArgs) -> Result<ConfusionMatrix> {
    let (truth, guess) = (read_label(gt, "a label map")?, read_label(pred, "a label map")?);
    let ((w, h), (guess_w, guess_h)) = (truth.dimensions(), guess.dimensions());
    ensure!(
        (w, h) == (guess_w, guess_h),
        "{}: {guess_w}x{guess_h} pixels found, {w}x{h} expected as in {}",
        pred.display(),
        gt.display()
    );
    matrix.add(truth.as_raw(), guess.as_raw());
    // The files before this one had no stray ids, or the count would have ended there.
    if let Some(id) = matrix.stray_id() {
        let MiouArgs { num_classes, ignore, .. } = args;
        bail!("{}: id {id} found, expected 0..{num_classes} or the ignored {ignore}", gt.display());
    }
    Ok(matrix)
}
