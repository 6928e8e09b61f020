//! Batches of images with boxes: shuffled and augmented for training, in order for evaluation.

use std::borrow::Cow;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::transform::{DetTransform, Prepared};
use super::{DetDataset, DetSample, Object};
use crate::cache::Cache;
use crate::error::{DataError, Problem};
use crate::loader::{LoaderConfig, Source, TrainLoader, assemble};
use crate::prefetch::pool;
use crate::rng::{self, ChaCha8Rng};
use crate::size::{Size, channels_last};

/// What is to be found in one image of a batch.
#[derive(Debug)]
pub struct DetTarget {
    /// Left, top, right, bottom in pixels of the batch, f32 `[n, 4]`; `n` may be 0.
    pub boxes: Tensor,
    /// Class indices, i64 `[n]`.
    pub labels: Tensor,
}

impl DetTarget {
    /// Boxes with one class index each.
    ///
    /// # Panics
    /// If the numbers of boxes and labels differ.
    pub fn new(boxes: &[[f32; 4]], labels: &[i64]) -> Self {
        assert_eq!(boxes.len(), labels.len(), "one label per box");
        let boxes = Tensor::from_slice(boxes.as_flattened()).view([labels.len() as i64, 4]);
        Self { boxes, labels: Tensor::from_slice(labels) }
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.boxes.size()[0] == 0
    }

    /// The same on `device`.
    pub fn to_device(&self, device: Device) -> Self {
        Self { boxes: self.boxes.to_device(device), labels: self.labels.to_device(device) }
    }
}

/// Training samples of one step.
#[derive(Debug)]
pub struct DetBatch {
    /// Normalised images, f32 `[B, 3, H, W]` in channels-last memory, at the upper left; the rest holds the mean colour.
    pub images: Tensor,
    /// By image.
    pub targets: Vec<DetTarget>,
    /// Which samples of the data set these are.
    pub indices: Vec<usize>,
}

/// Images with boxes, transformed for training; [`det_train_loader`] makes one.
pub struct Boxes {
    dataset: Arc<dyn DetDataset>,
    cache: Cache<DetSample>,
    transform: DetTransform,
}

/// Shuffled, augmented batches of a data set or a part of it.
pub type DetTrainLoader = TrainLoader<Boxes>;

impl Source for Boxes {
    type Item = Prepared;
    type Batch = DetBatch;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn name(&self, index: usize) -> Cow<'_, str> {
        self.dataset.name(index).into()
    }

    fn draw(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Prepared, DataError> {
        let bytes = |sample: &DetSample| sample.image.as_raw().len() + size_of_val(&*sample.objects);
        let sample = self.cache.load(index, || load(&*self.dataset, index), bytes)?;
        Ok(self.transform.train(&sample, rng))
    }

    fn collate(&self, indices: Vec<usize>, samples: Vec<Prepared>, _: &mut ChaCha8Rng) -> DetBatch {
        let images = pad(&samples, self.transform.pad_multiple);
        let targets = samples.iter().map(|sample| DetTarget::new(&sample.boxes, &sample.labels)).collect();
        DetBatch { images, targets, indices }
    }
}

/// Reads a sample; a class that the set does not have is refused here, before a loss or a score counts with it.
pub(super) fn load(dataset: &dyn DetDataset, index: usize) -> Result<DetSample, DataError> {
    let (sample, num_classes) = (dataset.load(index)?, dataset.classes().len());
    match sample.objects.iter().find(|object| object.class >= num_classes) {
        Some(Object { class, .. }) => {
            let expected = format!("at most {}: the set has {num_classes} classes", num_classes.saturating_sub(1));
            Err(Problem::new(dataset.name(index).as_ref(), format!("an object of class index {class}"), expected)
                .into())
        }
        None => Ok(sample),
    }
}

/// Images side by side in the smallest common size whose sides are multiples of `multiple`.
fn pad(samples: &[Prepared], multiple: u32) -> Tensor {
    let largest = |side: fn(Size) -> u32| {
        let side = samples.iter().map(|sample| side(sample.size)).max().unwrap_or(1);
        side.next_multiple_of(multiple)
    };
    let size = Size::new(largest(Size::height), largest(Size::width));
    let row = size.width() as usize * 3;
    let mut values = vec![0.0; samples.len() * size.height() as usize * row]; // 0 is the mean colour
    for (image, sample) in values.chunks_exact_mut(size.height() as usize * row).zip(samples) {
        let width = sample.size.width() as usize * 3;
        for (target, source) in image.chunks_exact_mut(row).zip(sample.image.chunks_exact(width)) {
            target[..width].copy_from_slice(source);
        }
    }
    channels_last(&values, samples.len(), size)
}

/// A loader of the samples `indices` (all if `None`). Two loaders of one run differ in their `purpose`.
///
/// # Errors
/// If there are fewer samples than a batch needs, or a setting of `transform` makes no sense.
///
/// # Panics
/// If an index lies outside the set.
pub fn det_train_loader(
    dataset: Arc<dyn DetDataset>,
    indices: Option<Vec<usize>>,
    transform: DetTransform,
    config: LoaderConfig,
    seed: u64,
    purpose: &str,
) -> Result<DetTrainLoader, DataError> {
    transform.validate()?;
    let cache = Cache::new(dataset.len(), config.cache_mb << 20);
    TrainLoader::of(Boxes { dataset, cache, transform }, indices, config, seed, purpose)
}

/// Images to be scored.
#[derive(Debug)]
pub struct DetEvalBatch {
    /// Normalised images, f32 `[B, 3, H, W]` in channels-last memory, at the upper left; the rest holds the mean colour.
    pub images: Tensor,
    /// By image.
    pub samples: Vec<DetEvalSample>,
}

/// What is known about an image of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct DetEvalSample {
    /// Which sample of the data set this is.
    pub index: usize,
    /// Size of the original image.
    pub original: Size,
    /// Size of the image in the batch, without padding.
    pub scaled: Size,
    /// Objects in pixels of the original image, crowds included.
    pub objects: Vec<Object>,
}

impl DetEvalSample {
    /// A box (left, top, right, bottom) of the batch in pixels of the original image, clipped to it.
    pub fn to_original(&self, bbox: [f32; 4]) -> [f64; 4] {
        let ends = [self.original.width(), self.original.height()].map(f64::from);
        let scaled = [self.scaled.width(), self.scaled.height()].map(f64::from);
        [0, 1, 2, 3].map(|i| (f64::from(bbox[i]) * ends[i % 2] / scaled[i % 2]).clamp(0.0, ends[i % 2]))
    }
}

/// All samples in the order of the set, resized as `transform` says and not otherwise changed. The last batch may be
/// smaller than the others; nothing is cached.
pub fn det_eval_batches(
    dataset: Arc<dyn DetDataset>,
    transform: DetTransform,
    config: &LoaderConfig,
) -> Result<impl Iterator<Item = Result<DetEvalBatch, DataError>> + Send + use<>, DataError> {
    transform.validate()?;
    let (len, size) = (dataset.len(), config.batch_size.max(1));
    let batches = (0..len).step_by(size).map(move |first| (first, first, (first..len.min(first + size)).collect()));
    let source = Arc::new(Evaluation { dataset, transform });
    // Nothing is random here.
    let streams = |_: &str, _: usize| rng::stream(0, "eval", 0);
    Ok(assemble(source, batches, pool(config.threads)?, config.prefetch, streams))
}

struct Evaluation {
    dataset: Arc<dyn DetDataset>,
    transform: DetTransform,
}

impl Source for Evaluation {
    type Item = (Prepared, DetEvalSample);
    type Batch = DetEvalBatch;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn name(&self, index: usize) -> Cow<'_, str> {
        self.dataset.name(index).into()
    }

    fn draw(&self, index: usize, _: &mut ChaCha8Rng) -> Result<Self::Item, DataError> {
        let sample = load(&*self.dataset, index)?;
        let prepared = self.transform.eval(&sample);
        let original = Size::new(sample.image.height(), sample.image.width());
        let scaled = prepared.size;
        Ok((prepared, DetEvalSample { index, original, scaled, objects: sample.objects }))
    }

    fn collate(&self, _: Vec<usize>, samples: Vec<Self::Item>, _: &mut ChaCha8Rng) -> DetEvalBatch {
        let (images, samples): (Vec<Prepared>, Vec<DetEvalSample>) = samples.into_iter().unzip();
        DetEvalBatch { images: pad(&images, self.transform.pad_multiple), samples }
    }
}

#[cfg(test)]
mod tests;
