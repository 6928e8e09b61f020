//! Average precision of boxes by the rules of COCO and of Pascal VOC. All numbers are f64.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod coco;
pub mod files;
pub mod report;
pub mod voc;

/// A true box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Place of its image in the order of image ids.
    pub image: usize,
    /// Class index.
    pub class: usize,
    /// Left, top, width, height in pixels of the original image.
    pub bbox: [f64; 4],
    /// Area of the object in square pixels, which need not be the box's.
    pub area: f64,
    /// Whether it stands for a group of objects (COCO).
    pub crowd: bool,
    /// Whether it neither counts as found nor as missed (VOC).
    pub difficult: bool,
}

/// A box that a detector claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Place of its image in the order of image ids.
    pub image: usize,
    /// Class index.
    pub class: usize,
    /// Left, top, width, height in pixels of the original image.
    pub bbox: [f64; 4],
    /// Confidence.
    pub score: f64,
}

/// What one image holds of one class, in the order of the input.
#[derive(Default)]
struct Scene<'a> {
    truths: Vec<&'a Truth>,
    detections: Vec<&'a Detection>,
}

/// The scenes of each class in the order of images; an image that has nothing of a class has no scene there.
///
/// # Panics
/// If a class index is not below `num_classes`.
fn scenes<'a>(truths: &'a [Truth], detections: &'a [Detection], num_classes: usize) -> Vec<Vec<Scene<'a>>> {
    let mut classes: Vec<BTreeMap<usize, Scene>> = Vec::new();
    classes.resize_with(num_classes, BTreeMap::new);
    for truth in truths {
        classes[truth.class].entry(truth.image).or_default().truths.push(truth);
    }
    for detection in detections {
        classes[detection.class].entry(detection.image).or_default().detections.push(detection);
    }
    classes.into_iter().map(|scenes| scenes.into_values().collect()).collect()
}

/// Overlap of two boxes in square pixels. Boxes that only touch, or have no size, do not overlap.
fn intersection(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |i: usize| (a[i] + a[i + 2]).min(b[i] + b[i + 2]) - a[i].max(b[i]);
    let (w, h) = (side(0), side(1));
    if w > 0.0 && h > 0.0 { w * h } else { 0.0 }
}

/// Order of falling scores, equal ones as they were when the sort is stable.
fn by_score(a: &Detection, b: &Detection) -> std::cmp::Ordering {
    b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal)
}

#[cfg(test)]
mod tests;
