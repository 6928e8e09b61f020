//! Scores of semantic segmentation from an integer confusion matrix.
//!
//! Absent classes follow cityscapesScripts' `evalPixelLevelSemanticLabeling`: a class that neither ground truth nor
//! prediction contains has no IoU and is left out of the mean; one that is only predicted has IoU 0. Pixels whose ground
//! truth is ignored count for nothing, whatever was predicted there.

use std::fmt;

use nas_core::nn::ranks;
use nas_core::run::confusion::Confusion;
use nas_core::run::words;
use serde::{Deserialize, Serialize};

/// Pixel counts by (ground truth, prediction).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfusionMatrix {
    num_classes: usize,
    /// A class that is not scored.
    ignored: Option<u8>,
    /// 256 x 256, ground truth by row: every pair of bytes has a cell, so that counting needs no check.
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// Adds up what all processes of the run have counted.
    pub fn of_all_ranks(&mut self) {
        ranks::sum_counts(&mut self.counts);
    }

    /// An empty matrix for classes `0..num_classes`; ground truth outside is ignored.
    pub fn new(num_classes: usize) -> Self {
        assert!((1..=255).contains(&num_classes), "1 to 255 classes");
        Self { num_classes, ignored: None, counts: vec![0; 256 * 256] }
    }

    /// The matrix of what [`Self::named`] has counted.
    pub fn of(confusion: &Confusion) -> Self {
        let mut matrix = Self::new(confusion.classes.len());
        for (gt, row) in (0u8..).zip(&confusion.counts) {
            (0u8..).zip(row).for_each(|(pred, count)| matrix.counts[cell(gt, pred)] = *count);
        }
        matrix
    }

    /// The counts of pixels of the classes, which have these names.
    pub fn named(&self, names: &[String]) -> Confusion {
        let row = |gt| (0..self.num_classes as u8).map(|pred| self.count(gt, pred)).collect();
        Confusion { classes: names.to_vec(), counts: (0..self.num_classes as u8).map(row).collect() }
    }

    /// Ignores ground truth of this id too; if it is one of the classes, that class has no score.
    pub fn ignoring(self, id: u8) -> Self {
        Self { ignored: Some(id), ..self }
    }

    /// Counts the pixels of one label map; both slices have one id per pixel.
    pub fn add(&mut self, gt: &[u8], pred: &[u8]) {
        assert_eq!(gt.len(), pred.len(), "one prediction per pixel");
        let ((gt_runs, gt_rest), (pred_runs, pred_rest)) = (gt.as_chunks::<RUN>(), pred.as_chunks::<RUN>());
        for (gt, pred) in gt_runs.iter().zip(pred_runs) {
            if is_constant(gt) && is_constant(pred) {
                self.counts[cell(gt[0], pred[0])] += RUN as u64;
            } else {
                self.add_each(gt, pred);
            }
        }
        self.add_each(gt_rest, pred_rest);
    }

    fn add_each(&mut self, gt: &[u8], pred: &[u8]) {
        gt.iter().zip(pred).for_each(|(gt, pred)| self.counts[cell(*gt, *pred)] += 1);
    }

    /// Adds the counts of another matrix.
    pub fn merge(mut self, other: &Self) -> Self {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self
    }

    /// Pixels of class `gt` that were predicted as `pred`.
    pub fn count(&self, gt: u8, pred: u8) -> u64 {
        self.counts[cell(gt, pred)]
    }

    /// The first id in the ground truth that is neither a class nor `ignored` by [`Self::ignoring`].
    pub fn stray_id(&self) -> Option<u8> {
        let outside = self.num_classes as u8..=u8::MAX;
        outside.filter(|id| self.ignored != Some(*id)).find(|id| self.labelled(*id) > 0)
    }

    /// Pixels that count.
    pub fn labelled_pixels(&self) -> u64 {
        (0..self.num_classes as u8).filter(|class| self.ignored != Some(*class)).map(|class| self.labelled(class)).sum()
    }

    /// Pixels of class `gt`, whatever was predicted there.
    fn labelled(&self, gt: u8) -> u64 {
        self.counts[cell(gt, 0)..=cell(gt, u8::MAX)].iter().sum()
    }

    /// All scores. Fractions; `None` where a class is empty or not scored.
    pub fn scores(&self) -> Scores {
        let scored: Vec<u8> = (0..self.num_classes as u8).filter(|class| self.ignored != Some(*class)).collect();
        let (mut iou, mut accuracy) = (vec![None; self.num_classes], Vec::new());
        let (mut hits, mut total, mut weighted) = (0, 0, 0.0);
        for &class in &scored {
            let (tp, gt) = (self.count(class, class), self.labelled(class));
            let predicted: u64 = scored.iter().map(|row| self.count(*row, class)).sum();
            let class_iou = ratio(tp, gt + predicted - tp);
            iou[usize::from(class)] = class_iou;
            accuracy.push(ratio(tp, gt));
            weighted += gt as f64 * class_iou.unwrap_or(0.0);
            (hits, total) = (hits + tp, total + gt);
        }
        Scores {
            miou: mean(&iou),
            pixel_acc: ratio(hits, total).unwrap_or(0.0),
            mean_acc: mean(&accuracy),
            fw_iou: if total > 0 { weighted / total as f64 } else { 0.0 },
            iou,
            classes: Vec::new(),
        }
    }
}

/// Pixels that are compared at once: label maps consist of areas, and adding to one counter pixel by pixel would wait for
/// each sum to come back from memory.
const RUN: usize = 8;

fn is_constant(run: &[u8; RUN]) -> bool {
    u64::from_ne_bytes(*run) == u64::from_ne_bytes([run[0]; RUN])
}

fn cell(gt: u8, pred: u8) -> usize {
    usize::from(gt) << 8 | usize::from(pred)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean(values: &[Option<f64>]) -> f64 {
    let present: Vec<f64> = values.iter().flatten().copied().collect();
    present.iter().sum::<f64>() / present.len().max(1) as f64
}

/// Scores of a split, as fractions; 0 where nothing was labelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean IoU over the classes that ground truth or prediction contain.
    pub miou: f64,
    /// Share of labelled pixels that are right.
    pub pixel_acc: f64,
    /// Mean over classes of the share of its pixels that are right.
    pub mean_acc: f64,
    /// IoU weighted by the classes' pixels.
    pub fw_iou: f64,
    /// IoU per class; null for a class that neither ground truth nor prediction contain, or that is not scored.
    pub iou: Vec<Option<f64>>,
    /// Names of the classes, where they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (class, iou) in self.iou.iter().enumerate() {
            let number = class.to_string();
            let name = words::name(self.classes.get(class).unwrap_or(&number));
            match iou {
                Some(iou) => writeln!(f, "{name:<14} IoU {:6.2} %", 100.0 * iou)?,
                None => writeln!(f, "{name:<14} absent")?,
            }
        }
        let Self { miou, pixel_acc, mean_acc, fw_iou, .. } = self;
        write!(f, "mIOU {:.2} %, pixel accuracy {:.2} %, ", 100.0 * miou, 100.0 * pixel_acc)?;
        write!(f, "mean accuracy {:.2} %, frequency-weighted IoU {:.2} %", 100.0 * mean_acc, 100.0 * fw_iou)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn absent_classes_are_left_out_and_predicted_ones_count_as_zero() {
        let mut matrix = ConfusionMatrix::new(4);
        matrix.add(&[0, 0, 1, 1, 255], &[0, 2, 1, 1, 3]);
        let scores = matrix.scores();
        let named = matrix.named(&["a", "b", "c", "d"].map(String::from));
        assert_eq!((named.counts[0][2], ConfusionMatrix::of(&named).scores()), (1, scores.clone()));
        assert_eq!(scores.iou, [Some(0.5), Some(1.0), Some(0.0), None]);
        assert_eq!(scores.miou, 0.5);
        assert_eq!((scores.pixel_acc, scores.mean_acc, scores.fw_iou), (0.75, 0.75, 0.75));
    }

    #[test]
    fn a_prediction_outside_the_classes_is_an_error_of_the_true_class_alone() {
        let mut matrix = ConfusionMatrix::new(2);
        matrix.add(&[0, 0, 1, 1], &[0, 255, 1, 7]);
        let scores = matrix.scores();
        assert_eq!(scores.iou, [Some(0.5), Some(0.5)]);
        assert_eq!(scores.pixel_acc, 0.5);
    }

    #[test]
    fn an_ignored_class_is_not_scored_and_its_pixels_blame_nobody() {
        let mut matrix = ConfusionMatrix::new(3).ignoring(0);
        matrix.add(&[0, 0, 1, 1, 2, 2], &[1, 2, 1, 0, 2, 2]);
        let scores = matrix.scores();
        assert_eq!(scores.iou, [None, Some(0.5), Some(1.0)]);
        assert_eq!((scores.miou, scores.mean_acc, scores.pixel_acc), (0.75, 0.75, 0.75));
    }

    #[test]
    fn runs_are_counted_like_single_pixels() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut areas = |len: usize| -> Vec<u8> {
            let ids = std::iter::repeat_with(|| (rng.random_range(0..=255), rng.random_range(1..30)));
            ids.flat_map(|(id, run)| std::iter::repeat_n(id, run)).take(len).collect()
        };
        let (gt, pred) = (areas(10_007), areas(10_007));
        let (mut at_once, mut single) = (ConfusionMatrix::new(255), ConfusionMatrix::new(255));
        at_once.add(&gt, &pred);
        single.add_each(&gt, &pred);
        assert_eq!(at_once, single);
    }

    #[test]
    fn ids_that_are_no_class_and_not_ignored_are_found() {
        let mut matrix = ConfusionMatrix::new(2).ignoring(255);
        matrix.add(&[0, 1, 255], &[9, 9, 9]);
        assert_eq!(matrix.stray_id(), None);
        matrix.add(&[200], &[0]);
        assert_eq!(matrix.stray_id(), Some(200));
    }

    #[test]
    fn merging_equals_counting_at_once() {
        let (mut a, mut b, mut both) = (ConfusionMatrix::new(2), ConfusionMatrix::new(2), ConfusionMatrix::new(2));
        a.add(&[0, 1], &[1, 1]);
        b.add(&[1, 0], &[1, 0]);
        both.add(&[0, 1, 1, 0], &[1, 1, 1, 0]);
        assert_eq!(a.merge(&b), both);
    }
}
