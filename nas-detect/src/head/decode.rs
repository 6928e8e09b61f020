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

impl Detections {
    /// Those of a batch as tensors with room for `room` of each image: boxes `[B, D, 4]`, scores `[B, D]`, classes `[B, D]` and numbers
    /// `[B]`. What is left of the room has the score 0 and the class -1.
    ///
    /// # Panics
    /// If an image has more.
    pub fn padded(batch: &[Self], room: usize) -> Vec<Tensor> {
        let (mut boxes, mut scores, mut labels, mut counts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for found in batch {
            let padding = room.checked_sub(found.scores.len()).expect("room for all detections");
            boxes.extend(found.boxes.iter().flatten().copied().chain(std::iter::repeat_n(0.0, 4 * padding)));
            scores.extend(found.scores.iter().copied().chain(std::iter::repeat_n(0.0, padding)));
            labels.extend(found.labels.iter().map(|label| *label as i64).chain(std::iter::repeat_n(-1, padding)));
            counts.push(found.scores.len() as i64);
        }
        let (b, room) = (batch.len() as i64, room as i64);
        vec![
            Tensor::from_slice::<f32>(&boxes).reshape([b, room, 4]),
            Tensor::from_slice::<f32>(&scores).reshape([b, room]),
            Tensor::from_slice::<i64>(&labels).reshape([b, room]),
            Tensor::from_slice::<i64>(&counts),
        ]
    }

    /// Those of a batch that [`Detections::padded`] tensors hold.
    pub fn of_padded([boxes, scores, labels, counts]: &[Tensor; 4]) -> Result<Vec<Self>> {
        let counts = Vec::<i64>::try_from(counts)?;
        let image = |(i, count): (usize, i64)| -> Result<Self> {
            let part = |xs: &Tensor| Ok::<_, anyhow::Error>(xs.f_get(i as i64)?.f_narrow(0, 0, count)?.contiguous());
            let labels = Vec::<i64>::try_from(part(labels)?)?;
            ensure!(labels.iter().all(|label| *label >= 0), "a detection of no class");
            Ok(Self {
                boxes: list(&part(boxes)?.reshape([-1])).as_chunks::<4>().0.to_vec(),
                scores: list(&part(scores)?),
                labels: labels.into_iter().map(|label| label as usize).collect(),
            })
        };
        counts.into_iter().enumerate().map(image).collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detections_go_into_tensors_with_padding_and_come_back() {
        let two = Detections { boxes: vec![[1.0; 4], [2.0; 4]], scores: vec![0.5, 0.25], labels: vec![0, 3] };
        let batch = [two, Detections::default()];
        let tensors: [Tensor; 4] = Detections::padded(&batch, 3).try_into().unwrap();
        assert_eq!(tensors.each_ref().map(Tensor::size), [vec![2, 3, 4], vec![2, 3], vec![2, 3], vec![2]]);
        assert_eq!(Vec::<i64>::try_from(tensors[2].reshape([-1])).unwrap(), [0, 3, -1, -1, -1, -1]);
        assert_eq!(Detections::of_padded(&tensors).unwrap(), batch);
    }
}
