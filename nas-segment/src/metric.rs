//! Scores of semantic segmentation from an integer confusion matrix.
//!
//! Absent classes follow cityscapesScripts' `evalPixelLevelSemanticLabeling`: a class that neither ground truth nor
//! prediction contains has no IoU and is left out of the mean; one that is only predicted has IoU 0. Pixels whose ground
//! truth is ignored count for nothing, whatever was predicted there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Pixel counts by (ground truth, prediction).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfusionMatrix {
    num_classes: usize,
    /// 256 x 256, ground truth by row: every pair of bytes has a cell, so that counting needs no branch.
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// An empty matrix for classes `0..num_classes`; ground truth outside is ignored.
    pub fn new(num_classes: usize) -> Self {
        assert!((1..=255).contains(&num_classes), "1 to 255 classes");
        Self { num_classes, counts: vec![0; 256 * 256] }
    }

    /// Counts the pixels of one label map; both slices have one id per pixel.
    pub fn add(&mut self, gt: &[u8], pred: &[u8]) {
        assert_eq!(gt.len(), pred.len(), "one prediction per pixel");
        for (gt, pred) in gt.iter().zip(pred) {
            self.counts[usize::from(*gt) << 8 | usize::from(*pred)] += 1;
        }
    }

    /// Adds the counts of another matrix.
    pub fn merge(mut self, other: &Self) -> Self {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self
    }

    /// Pixels of class `gt` that were predicted as `pred`.
    pub fn count(&self, gt: usize, pred: usize) -> u64 {
        self.counts[gt << 8 | pred]
    }

    /// All scores. Fractions; `None` where a class or the whole is empty.
    pub fn scores(&self) -> Scores {
        let n = self.num_classes;
        let tp: Vec<u64> = (0..n).map(|c| self.count(c, c)).collect();
        let gt: Vec<u64> = (0..n).map(|c| self.counts[c << 8..(c + 1) << 8].iter().sum()).collect();
        let pred: Vec<u64> = (0..n).map(|c| (0..n).map(|row| self.count(row, c)).sum()).collect();
        let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let iou: Vec<Option<f64>> = (0..n).map(|c| ratio(tp[c], gt[c] + pred[c] - tp[c])).collect();
        let accuracy: Vec<Option<f64>> = (0..n).map(|c| ratio(tp[c], gt[c])).collect();
        let total: u64 = gt.iter().sum();
        let weighted: f64 = (0..n).filter_map(|c| Some(gt[c] as f64 * iou[c]?)).sum();
        Scores {
            miou: mean(&iou),
            pixel_acc: ratio(tp.iter().sum(), total).unwrap_or(0.0),
            mean_acc: mean(&accuracy),
            fw_iou: if total > 0 { weighted / total as f64 } else { 0.0 },
            iou,
        }
    }
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
    /// IoU per class; null for a class that neither ground truth nor prediction contain.
    pub iou: Vec<Option<f64>>,
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (class, iou) in self.iou.iter().enumerate() {
            match iou {
                Some(iou) => writeln!(f, "class {class:>3}  IoU {:6.2} %", 100.0 * iou)?,
                None => writeln!(f, "class {class:>3}  absent")?,
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

    #[test]
    fn absent_classes_are_left_out_and_predicted_ones_count_as_zero() {
        let mut matrix = ConfusionMatrix::new(4);
        matrix.add(&[0, 0, 1, 1, 255], &[0, 2, 1, 1, 3]);
        let scores = matrix.scores();
        assert_eq!(scores.iou, [Some(0.5), Some(1.0), Some(0.0), None]);
        assert_eq!(scores.miou, 0.5);
        assert_eq!((scores.pixel_acc, scores.mean_acc, scores.fw_iou), (0.75, 0.75, 0.75));
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
