//! What a network finds in a set, beside what is there.

use std::sync::Arc;

use anyhow::{Context, Result};
use nas_core::run::cli::Compute;
use nas_core::task::experiment::LoaderSection;
use nas_datasets::LoaderConfig;
use nas_datasets::det::coco_json::CocoResult;
use nas_datasets::det::{CocoId, DetDataset, DetEvalBatch, DetEvalSample, DetTransform, Object, det_eval_batches};
use tch::Tensor;

use crate::eval::files::{Category, EvalFiles};
use crate::eval::{Detection, Truth};
use crate::head::Detections;
use crate::task::EvalConfig;

/// The objects in each of a batch of images, see [`crate::model::Detector::detect`].
pub type Detect<'a> = dyn Fn(&Tensor) -> Result<Vec<Detections>> + 'a;

/// How images reach a network that is not trained.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Resizing and padding.
    pub transform: DetTransform,
    /// Batches and threads.
    pub loader: LoaderConfig,
}

impl Reading {
    /// As an experiment says.
    pub fn new(transform: &DetTransform, loader: &LoaderSection, eval: &EvalConfig, compute: Compute) -> Self {
        Self { transform: transform.clone(), loader: loader.with(eval.batch_size, compute.threads) }
    }

    /// Batches of a set in its order.
    pub fn batches(&self, dataset: &Arc<dyn DetDataset>) -> Result<impl Iterator<Item = Result<DetEvalBatch>> + use<>> {
        let batches = det_eval_batches(dataset.clone(), self.transform.clone(), &self.loader)?;
        Ok(batches.map(|batch| Ok(batch?)))
    }

    /// Height and width of the first image of a set as the network sees it.
    pub fn image_size(&self, dataset: &Arc<dyn DetDataset>) -> Result<(i64, i64)> {
        let size = self.first_image(dataset)?.size();
        Ok((size[2], size[3]))
    }

    /// The first image of a set as the network sees it, `[1, 3, H, W]`.
    pub fn first_image(&self, dataset: &Arc<dyn DetDataset>) -> Result<Tensor> {
        let single = Self { loader: LoaderConfig { batch_size: 1, ..self.loader.clone() }, ..self.clone() };
        Ok(single.batches(dataset)?.next().context("the set has no image")??.images)
    }
}

/// A detection in pixels of the original image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Left, top, right, bottom.
    pub bbox: [f64; 4],
    /// Class index.
    pub class: usize,
    /// Confidence.
    pub score: f64,
}

/// Detections of one image of a batch in pixels of the original, best first. What lies in the padding alone is left out.
pub fn in_original(detections: &Detections, sample: &DetEvalSample) -> Vec<Found> {
    let Detections { boxes, scores, labels } = detections;
    let found = boxes.iter().zip(scores).zip(labels).map(|((bbox, score), class)| Found {
        bbox: sample.to_original(*bbox),
        class: *class,
        score: f64::from(*score),
    });
    found.filter(|Found { bbox: [x0, y0, x1, y1], .. }| x1 > x0 && y1 > y0).collect()
}

/// Left, top, width, height of left, top, right, bottom.
pub fn corner_and_size([x0, y0, x1, y1]: [f64; 4]) -> [f64; 4] {
    [x0, y0, x1 - x0, y1 - y0]
}

/// Truths and detections of a whole set. `each` sees the detections of every image.
pub fn evaluate(
    detect: &Detect,
    dataset: &Arc<dyn DetDataset>,
    reading: &Reading,
    compute: Compute,
    mut each: impl FnMut(&DetEvalSample, &[Found]) -> Result<()>,
) -> Result<EvalFiles> {
    let classes = dataset.classes();
    let category = |(id, name): (&CocoId, &String)| Category { id: id.clone(), name: name.clone() };
    let mut files = EvalFiles {
        images: (0..dataset.len()).map(|i| dataset.image_id(i)).collect(),
        categories: classes.ids().iter().zip(classes.names()).map(category).collect(),
        ..Default::default()
    };
    for batch in reading.batches(dataset)? {
        let DetEvalBatch { images, samples } = batch?;
        let found = nas_core::nn::autocast(compute.amp, || detect(&images.to_device(compute.device)))?;
        for (sample, found) in samples.iter().zip(&found) {
            let image = sample.index;
            files.truths.extend(sample.objects.iter().map(|object| truth(image, object)));
            let found = in_original(found, sample);
            each(sample, &found)?;
            files.detections.extend(found.into_iter().map(|Found { bbox, class, score }| Detection {
                image,
                class,
                bbox: corner_and_size(bbox),
                score,
            }));
        }
    }
    Ok(files)
}

fn truth(image: usize, object: &Object) -> Truth {
    let Object { bbox, class, area, crowd, difficult } = *object;
    Truth { image, class, bbox: corner_and_size(bbox), area, crowd, difficult }
}

/// Detections as COCO's results file has them.
pub fn results(files: &EvalFiles) -> Vec<CocoResult> {
    let result = |found: &Detection| CocoResult {
        image_id: files.images[found.image].clone(),
        category_id: files.categories[found.class].id.clone(),
        bbox: found.bbox,
        score: found.score,
    };
    files.detections.iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use nas_datasets::Size;

    use super::*;

    #[test]
    fn detections_come_back_in_pixels_of_the_original_and_padding_holds_none() {
        let sample =
            DetEvalSample { index: 0, original: Size::new(100, 200), scaled: Size::new(50, 100), objects: Vec::new() };
        let detections = Detections {
            boxes: vec![[10.0, 20.0, 30.0, 60.0], [101.0, 0.0, 120.0, 9.0], [0.0, 51.0, 9.0, 64.0]],
            scores: vec![0.5, 0.25, 0.125],
            labels: vec![2, 0, 1],
        };
        let found = in_original(&detections, &sample);
        assert_eq!(found, [Found { bbox: [20.0, 40.0, 60.0, 100.0], class: 2, score: 0.5 }]);
        assert_eq!(corner_and_size(found[0].bbox), [20.0, 40.0, 40.0, 60.0]);
    }
}
