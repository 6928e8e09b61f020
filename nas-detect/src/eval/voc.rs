//! Pascal VOC's average precision (Everingham et al. 2010): by the area under the curve (VOC 2010 and later) and at 11
//! recalls (VOC 2007).
//!
//! VOC's corners are pixels that belong to the box, hence the "+1" in its areas. Boxes of left, top, width and height
//! say the same without it: the box from pixel 10 to pixel 19 has width 10.

use std::iter::zip;

use rayon::prelude::*;

use super::{Detection, Scene, Truth, by_score, intersection, scenes};

/// Overlap from which a detection counts as a hit. MATLAB's devkit has `>=` here, py-faster-rcnn `>`.
const MIN_IOU: f64 = 0.5;

/// The two average precisions of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VocAp {
    /// Area under the envelope of the curve.
    pub area: f64,
    /// Mean of the best precisions at recalls from 0, 0.1, ..., 1 on.
    pub eleven_point: f64,
}

/// Scores by class; `None` for a class without truths that count.
#[derive(Clone, Debug, PartialEq)]
pub struct VocScores {
    /// By class index.
    pub classes: Vec<Option<VocAp>>,
}

/// Judges detections. Equal scores are taken in the order of images, then of the input.
///
/// # Panics
/// If a class index is not below `num_classes`.
pub fn evaluate(truths: &[Truth], detections: &[Detection], num_classes: usize) -> VocScores {
    let classes = scenes(truths, detections, num_classes);
    VocScores { classes: classes.par_iter().map(|scenes| score(scenes)).collect() }
}

impl VocScores {
    /// Mean over the classes that have truths; `None` if no class has.
    pub fn mean(&self) -> Option<VocAp> {
        let count = self.classes.iter().flatten().count() as f64;
        let mean = |value: fn(&VocAp) -> f64| self.classes.iter().flatten().map(value).sum::<f64>() / count;
        (count > 0.0).then(|| VocAp { area: mean(|ap| ap.area), eleven_point: mean(|ap| ap.eleven_point) })
    }
}

fn score(scenes: &[Scene]) -> Option<VocAp> {
    let positives = scenes.iter().flat_map(|scene| &scene.truths).filter(|truth| !is_ignored(truth)).count() as f64;
    if positives == 0.0 {
        return None;
    }
    let mut claims: Vec<(&Detection, &Scene, usize)> = Vec::new();
    for (number, scene) in scenes.iter().enumerate() {
        claims.extend(scene.detections.iter().map(|detection| (*detection, scene, number)));
    }
    claims.sort_by(|(a, ..), (b, ..)| by_score(a, b));
    let mut taken: Vec<Vec<bool>> = scenes.iter().map(|scene| vec![false; scene.truths.len()]).collect();
    let (mut recalls, mut precisions) = (Vec::new(), Vec::new());
    let (mut tp, mut fp) = (0.0, 0.0);
    for (detection, scene, number) in claims {
        let partner = nearest(detection, &scene.truths).filter(|(_, iou)| *iou >= MIN_IOU);
        match partner {
            Some((truth, _)) if is_ignored(scene.truths[truth]) => continue,
            Some((truth, _)) if !std::mem::replace(&mut taken[number][truth], true) => tp += 1.0,
            _ => fp += 1.0,
        }
        recalls.push(tp / positives);
        precisions.push(tp / (tp + fp));
    }
    Some(VocAp { area: area(&recalls, &precisions), eleven_point: eleven_point(&recalls, &precisions) })
}

fn is_ignored(truth: &Truth) -> bool {
    truth.difficult || truth.crowd
}

/// The truth of largest overlap, the first of equal ones, taken or not.
fn nearest(detection: &Detection, truths: &[&Truth]) -> Option<(usize, f64)> {
    let area = |bbox: &[f64; 4]| bbox[2] * bbox[3];
    let iou = |truth: &Truth| {
        let overlap = intersection(&detection.bbox, &truth.bbox);
        if overlap == 0.0 { 0.0 } else { overlap / (area(&detection.bbox) + area(&truth.bbox) - overlap) }
    };
    let ious = truths.iter().map(|truth| iou(truth)).enumerate();
    ious.reduce(|best, next| if next.1 > best.1 { next } else { best })
}

fn area(recalls: &[f64], precisions: &[f64]) -> f64 {
    let mut envelope = precisions.to_vec();
    for i in (1..envelope.len()).rev() {
        envelope[i - 1] = envelope[i - 1].max(envelope[i]);
    }
    let before = [0.0].iter().chain(recalls);
    zip(zip(before, recalls), envelope).map(|((before, recall), precision)| (recall - before) * precision).sum()
}

fn eleven_point(recalls: &[f64], precisions: &[f64]) -> f64 {
    // Multiples of 0.1 as floats: a recall of exactly 0.3 does not reach the third (0.30000000000000004).
    let best = |threshold: f64| {
        let reached = zip(recalls, precisions).filter(|(recall, _)| **recall >= threshold);
        reached.map(|(_, precision)| *precision).fold(0.0, f64::max)
    };
    (0..=10).map(|k| best(f64::from(k) * 0.1)).sum::<f64>() / 11.0
}
