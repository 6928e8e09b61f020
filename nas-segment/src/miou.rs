//! Scores of label PNGs made by anybody against ground truth, without a network.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_core::cli::Format;
use nas_datasets::read_label;
use rayon::prelude::*;
use serde::Serialize;

use crate::metric::{ConfusionMatrix, Scores};

/// Score label PNGs against ground truth
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Files are paired by name. Endings of Cityscapes (_gtFine_labelTrainIds, _gtFine_labelIds, _leftImg8bit,
_pred...) do not count. Both folders are searched to the bottom.

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
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u8).range(1..=254))]
    num_classes: u8,
    /// Id in the ground truth of pixels that do not count
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
    let pairs = pair(&args.gt, &args.pred)?;
    let num_classes = usize::from(args.num_classes);
    let empty = || ConfusionMatrix::new(num_classes);
    let count = |matrix: ConfusionMatrix, (gt, pred): &(PathBuf, PathBuf)| -> Result<ConfusionMatrix> {
        count(matrix, gt, pred, args)
    };
    let merge = |a: ConfusionMatrix, b: ConfusionMatrix| Ok(a.merge(&b));
    let matrix = pairs.par_iter().try_fold(empty, count).try_reduce(empty, merge)?;
    Ok(MiouReport { images: pairs.len(), scores: matrix.scores() })
}

fn count(mut matrix: ConfusionMatrix, gt: &Path, pred: &Path, args: &MiouArgs) -> Result<ConfusionMatrix> {
    let (truth, guess) = (read_label(gt, "a label map")?, read_label(pred, "a label map")?);
    ensure!(
        truth.dimensions() == guess.dimensions(),
        "{}: {:?} pixels found, but {} has {:?}",
        pred.display(),
        guess.dimensions(),
        gt.display(),
        truth.dimensions()
    );
    let (k, ignore) = (args.num_classes, args.ignore);
    if let Some(id) = truth.as_raw().iter().find(|id| **id >= k && **id != ignore) {
        bail!("{}: id {id} found, expected 0..{k} or the ignored {ignore}", gt.display());
    }
    if ignore < k {
        let masked = truth.as_raw().iter().map(|id| if *id == ignore { u8::MAX } else { *id });
        matrix.add(&masked.collect::<Vec<u8>>(), guess.as_raw());
    } else {
        matrix.add(truth.as_raw(), guess.as_raw());
    }
    Ok(matrix)
}

/// (truth, prediction) for every file of the ground truth.
fn pair(gt: &Path, pred: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let (truths, mut guesses) = (by_name(gt)?, by_name(pred)?);
    ensure!(!truths.is_empty(), "{}: no PNG found", gt.display());
    let pairs = truths.into_iter().map(|(name, truth)| match guesses.remove(&name) {
        Some(guess) => Ok((truth, guess)),
        None => bail!("{}: no prediction for it in {}", truth.display(), pred.display()),
    });
    let pairs = pairs.collect::<Result<Vec<_>>>()?;
    if let Some((_, guess)) = guesses.first_key_value() {
        bail!("{}: no ground truth for it in {}", guess.display(), gt.display());
    }
    Ok(pairs)
}

fn by_name(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("{}: cannot read the folder", folder.display()))?;
        for path in entries.map(|entry| entry.map(|entry| entry.path())) {
            let path = path?;
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
                let name = stem(&path);
                if let Some(other) = files.insert(name, path.clone()) {
                    bail!("{} and {}: two files of one name", other.display(), path.display());
                }
            }
        }
    }
    Ok(files)
}

fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let endings = ["_gtFine_labelTrainIds", "_gtFine_labelIds", "_leftImg8bit", "_pred"];
    let end = endings.iter().filter_map(|ending| stem.find(ending)).min().unwrap_or(stem.len());
    stem[..end].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_the_endings_of_cityscapes() {
        for name in ["a_000019_gtFine_labelTrainIds", "a_000019_leftImg8bit", "a_000019_pred_labelIds", "a_000019"] {
            assert_eq!(stem(Path::new(&format!("x/{name}.png"))), "a_000019");
        }
    }
}
