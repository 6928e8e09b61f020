//! From scores to detections: threshold, best of every level, suppression of doubles.

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::nms::nms;

/// What counts as a detection. The section `[model.head.detect]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectConfig {
    /// The score that a detection must exceed. For average precision it should be low.
    pub score: f64,
    /// Candidates kept of each level before suppression.
    pub per_level: i64,
    /// A detection is dropped when a better one of its class overlaps it by more than this IoU.
    pub iou: f32,
    /// Detections of an image.
    pub max: usize,
}

impl DetectConfig {
    pub(super) fn check(&self) -> Result<()> {
        let Self { score, per_level, iou, max } = self;
        ensure!((0.0..1.0).contains(score), "model.head.detect.score = {score}: expected 0 or more, below 1");
        ensure!(*per_level > 0, "model.head.detect.per_level = {per_level}: expected at least 1");
        ensure!((0.0..=1.0).contains(iou), "model.head.detect.iou = {iou}: expected 0 to 1");
        ensure!(*max > 0, "model.head.detect.max = 0: expected at least 1");
        Ok(())
    }
}

/// Objects found in one image, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detections {
    /// `[x0, y0, x1, y1]` in pixels of the network's input.
    pub boxes: Vec<[f32; 4]>,
    /// Scores in `0..=1`.
    pub scores: Vec<f32>,
    /// Classes, from 0.
    pub labels: Vec<usize>,
}

/// Detections of one image: `scores` `[N, K]` in the order of the levels, of which each has `level_sizes` rows; `decode`
/// gives boxes `[n, 4]` inside the image for rows `[n]`.
pub(super) fn detect(
    scores: &Tensor,
    level_sizes: &[i64],
    config: &DetectConfig,
    decode: impl Fn(&Tensor) -> Tensor,
) -> Detections {
    let num_classes = scores.size()[1];
    let mut start = 0;
    let (mut rows, mut kept, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for size in level_sizes {
        let level = scores.narrow(0, start, *size).reshape([-1]);
        let above = level.gt(config.score).nonzero().reshape([-1]);
        let values = level.index_select(0, &above);
        let (values, order) = values.sort_stable(true, 0, true);
        let n = values.size()[0].min(config.per_level);
        let index = above.index_select(0, &order.narrow(0, 0, n));
        rows.push(index.divide_scalar_mode(num_classes, "floor") + start);
        labels.push(index.remainder(num_classes));
        kept.push(values.narrow(0, 0, n));
        start += size;
    }
    let boxes = list(&decode(&Tensor::cat(&rows, 0)).to_kind(Kind::Float).reshape([-1]));
    let (boxes, _) = boxes.as_chunks::<4>();
    let scores = list(&Tensor::cat(&kept, 0));
    let labels: Vec<usize> = Vec::<i64>::try_from(Tensor::cat(&labels, 0).to_device(tch::Device::Cpu))
        .expect("a list of integers")
        .into_iter()
        .map(|label| label as usize)
        .collect();
    let chosen = nms(boxes, &scores, &labels, config.iou);
    let chosen = &chosen[..chosen.len().min(config.max)];
    Detections {
        boxes: chosen.iter().map(|i| boxes[*i]).collect(),
        scores: chosen.iter().map(|i| scores[*i]).collect(),
        labels: chosen.iter().map(|i| labels[*i]).collect(),
    }
}

fn list(xs: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(xs.to_device(tch::Device::Cpu).contiguous()).expect("a list of numbers")
}
