//! Scores of label PNGs made by anybody against ground truth, without a network.

mod pairs;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use clap::Args;
use nas_core::run::cli::Format;
use nas_datasets::{IGNORE, LabelFile, cityscapes_label_ids};
use rayon::prelude::*;
use serde::Serialize;

use crate::metric::{ConfusionMatrix, Scores};

/// Score label PNGs against ground truth
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Both folders are searched to the bottom. A prediction belongs to the ground truth of the same relative path, else
of the same name; endings of Cityscapes (_gtFine_labelTrainIds, _gtFine_labelIds, _leftImg8bit) and _pred... do not count.
Label maps are PNGs of one channel; of palette PNGs the indices count, not the colours.

Cityscapes: where the ground truth are its own _gtFine_labelIds.png files and K is 19 or 34, predictions hold label ids too, as
`nas-segment predict` writes them, and the 19 classes are scored as cityscapesScripts does. Against _gtFine_labelTrainIds.png
files predictions hold train ids 0..18.

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
    let ids = Ids::of(&pairs, args);
    let counts = pairs.par_iter().try_fold(|| Counts::new(&ids), |counts, (gt, pred)| counts.add(gt, pred, &ids));
    let counts = counts.try_reduce(|| Counts::new(&ids), |a, b| Ok(a.merge(&b)))?;
    ids.check_kind(&counts.predicted, &args.pred)?;
    ensure!(
        counts.matrix.labelled_pixels() > 0,
        "{}: no pixel counts, all of them are void or hold the ignored id; there is no score",
        args.gt.display()
    );
    let scores = Scores { classes: ids.names(), ..counts.matrix.scores() };
    Ok(MiouReport { images: pairs.len(), scores })
}

/// What the ids in files mean.
enum Ids {
    /// Classes `0..num_classes`.
    Classes { num_classes: u8, ignore: u8 },
    /// Cityscapes' label ids, scored as cityscapesScripts does: 19 of them are classes, the others are void.
    Cityscapes { train_ids: Box<[Option<u8>; 256]>, names: Vec<String> },
}

/// What a void id in a prediction becomes: no class, so that it is an error of the true class alone.
const NO_CLASS: u8 = 254;

/// Numbers of Cityscapes' classes with and without the void ones.
const CITYSCAPES_CLASSES: [u8; 2] = [19, 34];

impl Ids {
    fn of(pairs: &[(PathBuf, PathBuf)], args: &MiouArgs) -> Self {
        let is_official = |(gt, _): &(PathBuf, PathBuf)| pairs::holds_label_ids(gt);
        if !CITYSCAPES_CLASSES.contains(&args.num_classes) || !pairs.iter().all(is_official) {
            return Self::Classes { num_classes: args.num_classes, ignore: args.ignore };
        }
        let (train_ids, classes) = cityscapes_label_ids();
        Self::Cityscapes { train_ids: Box::new(train_ids), names: classes.names }
    }

    fn num_classes(&self) -> usize {
        match self {
            Self::Classes { num_classes, .. } => (*num_classes).into(),
            Self::Cityscapes { names, .. } => names.len(),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Classes { .. } => Vec::new(),
            Self::Cityscapes { names, .. } => names.clone(),
        }
    }

    /// Whether a prediction may hold an id.
    fn may_predict(&self, id: u8) -> bool {
        match self {
            Self::Classes { num_classes, ignore } => id < *num_classes || id == *ignore || id == IGNORE,
            Self::Cityscapes { train_ids, .. } => train_ids[usize::from(id)].is_some(),
        }
    }

    /// Ground truth and prediction as classes.
    fn map(&self, truth: &mut [u8], guess: &mut [u8]) -> Result<(), u8> {
        let Self::Cityscapes { train_ids, .. } = self else { return Ok(()) };
        for id in truth.iter_mut() {
            *id = train_ids[usize::from(*id)].ok_or(*id)?;
        }
        for id in guess.iter_mut() {
            *id = train_ids[usize::from(*id)].filter(|class| *class != IGNORE).unwrap_or(NO_CLASS);
        }
        Ok(())
    }

    fn expected(&self) -> String {
        match self {
            Self::Classes { num_classes, ignore } => format!("0..={} or the ignored {ignore}", num_classes - 1),
            Self::Cityscapes { .. } => "a label id of Cityscapes, 0..=33 or 255".into(),
        }
    }

    /// What an id outside the range makes of the file that holds it.
    fn guess(&self, seen: &[bool; 256]) -> &'static str {
        let is_label_id = |id: usize| cityscapes_label_ids().0[id].is_some();
        let ids = || (0..256).filter(|id| seen[*id]);
        match self {
            Self::Classes { num_classes: 19, .. } if ids().all(is_label_id) => {
                "; the predictions look like Cityscapes' label ids, but the ground truth holds train ids: score them against the \
                 _gtFine_labelIds.png files"
            }
            _ => "",
        }
    }

    /// Refuses predictions that hold train ids where label ids are expected.
    fn check_kind(&self, predicted: &[bool; 256], pred: &Path) -> Result<()> {
        let Self::Cityscapes { names, .. } = self else { return Ok(()) };
        let ids = || (0..usize::from(IGNORE)).filter(|id| predicted[*id]);
        let (void, classes) = (0..7usize, names.len());
        ensure!(
            !(ids().any(|id| void.contains(&id)) && ids().all(|id| id < classes)),
            "{}: ids {:?} found; they look like train ids 0..=18, but the ground truth holds label ids (7 is road, 33 bicycle): \
             score them against _gtFine_labelTrainIds.png files",
            pred.display(),
            ids().collect::<Vec<_>>()
        );
        Ok(())
    }
}

/// Pixel counts, and which ids were predicted.
struct Counts {
    matrix: ConfusionMatrix,
    predicted: [bool; 256],
}

impl Counts {
    fn new(ids: &Ids) -> Self {
        let matrix = ConfusionMatrix::new(ids.num_classes());
        let matrix = match ids {
            Ids::Classes { ignore, .. } => matrix.ignoring(*ignore),
            Ids::Cityscapes { .. } => matrix.ignoring(IGNORE),
        };
        Self { matrix, predicted: [false; 256] }
    }

    fn merge(self, other: &Self) -> Self {
        let predicted = std::array::from_fn(|id| self.predicted[id] || other.predicted[id]);
        Self { matrix: self.matrix.merge(&other.matrix), predicted }
    }

    fn add(mut self, gt: &Path, pred: &Path, ids: &Ids) -> Result<Self> {
        const EXPECTED: &str = "a label map";
        let (truth, guess) = (LabelFile::open(gt, EXPECTED)?, LabelFile::open(pred, EXPECTED)?);
        let ((w, h), (guess_w, guess_h)) = (truth.dimensions(), guess.dimensions());
        ensure!(
            (w, h) == (guess_w, guess_h),
            "{}: {guess_w}x{guess_h} pixels found, {w}x{h} expected as in {}",
            pred.display(),
            gt.display()
        );
        let (mut truth, mut guess) = (truth.decode(gt, EXPECTED)?.into_raw(), guess.decode(pred, EXPECTED)?.into_raw());
        let mut seen = [false; 256];
        guess.iter().for_each(|id| seen[usize::from(*id)] = true);
        if let Some(id) = (0..=u8::MAX).find(|id| seen[usize::from(*id)] && !ids.may_predict(*id)) {
            bail!("{}: id {id} found, expected {}{}", pred.display(), ids.expected(), ids.guess(&seen));
        }
        let stray = |id: u8| anyhow!("{}: id {id} found, expected {}", gt.display(), ids.expected());
        ids.map(&mut truth, &mut guess).map_err(stray)?;
        self.matrix.add(&truth, &guess);
        // The files before this one had no stray ids, or the count would have ended there.
        if let Some(id) = self.matrix.stray_id() {
            return Err(stray(id));
        }
        self.predicted = std::array::from_fn(|id| self.predicted[id] || seen[id]);
        Ok(self)
    }
}
