//! Pairs of image and label map as batches for training, and single images in order for evaluation.

use std::borrow::Cow;
use std::sync::Arc;

use image::GrayImage;
use rayon::ThreadPool;
use tch::Tensor;

use super::transform::{Cropped, EvalTransform, TrainTransform};
use super::{Sample, SegDataset};
use crate::cache::Cache;
use crate::error::DataError;
use crate::loader::{LoaderConfig, Source, TrainLoader};
use crate::prefetch::{Prefetch, guard, pool};
use crate::rng::ChaCha8Rng;
use crate::size::channels_last;

/// Training samples of one step.
#[derive(Debug)]
pub struct Batch {
    /// Normalised images, f32 `[B, 3, H, W]` in channels-last memory.
    pub images: Tensor,
    /// Train ids, i64 `[B, H, W]`; [`IGNORE`](crate::IGNORE) where a pixel does not count.
    pub labels: Tensor,
    /// Which samples of the data set these are.
    pub indices: Vec<usize>,
}

/// Pairs of image and label map, cut and coloured together.
pub struct Pairs {
    dataset: Arc<dyn SegDataset>,
    cache: Cache<Sample>,
    transform: TrainTransform,
}

impl TrainLoader<Pairs> {
    /// A loader of the samples `indices` (all if `None`). Two loaders of one run differ in their `purpose`.
    ///
    /// # Errors
    /// If the set is unlabelled, smaller than a batch, or a setting of `transform` makes no sense.
    ///
    /// # Panics
    /// If an index lies outside the set.
    pub fn new(
        dataset: Arc<dyn SegDataset>,
        indices: Option<Vec<usize>>,
        transform: TrainTransform,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<Self, DataError> {
        transform.validate()?;
        if !dataset.has_labels() {
            let first = indices.as_ref().and_then(|indices| indices.first()).copied().unwrap_or(0);
            return Err(DataError::Unlabelled { name: dataset.name(first).to_owned() });
        }
        let cache = Cache::new(dataset.len(), config.cache_mb << 20);
        Self::of(Pairs { dataset, cache, transform }, indices, config, seed, purpose)
    }
}

impl Source for Pairs {
    type Item = Cropped;
    type Batch = Batch;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn name(&self, index: usize) -> Cow<'_, str> {
        self.dataset.name(index).into()
    }

    fn draw(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Cropped, DataError> {
        let bytes = |sample: &Sample| {
            sample.image.as_raw().len() + sample.label.as_ref().map_or(0, |label| label.as_raw().len())
        };
        let sample = self.cache.load(index, || self.dataset.load(index), bytes)?;
        let unlabelled = || DataError::Unlabelled { name: self.dataset.name(index).to_owned() };
        Ok(self.transform.apply(&sample.image, sample.label.as_ref().ok_or_else(unlabelled)?, rng))
    }

    fn collate(&self, indices: Vec<usize>, items: Vec<Cropped>, _rng: &mut ChaCha8Rng) -> Batch {
        let size = self.transform.crop;
        let images: Vec<f32> = items.iter().flat_map(|item| &item.image).copied().collect();
        let labels: Vec<i64> = items.iter().flat_map(|item| &item.label).map(|id| i64::from(*id)).collect();
        let dims = [items.len() as i64, size.height().into(), size.width().into()];
        let images = channels_last(&images, items.len(), size);
        Batch { images, labels: Tensor::from_slice(&labels).view(dims), indices }
    }
}

/// A sample to be scored or predicted.
#[derive(Debug)]
pub struct EvalSample {
    /// Which sample of the data set this is.
    pub index: usize,
    /// Normalised image, f32 `[1, 3, H, W]` in channels-last memory.
    pub image: Tensor,
    /// Train ids at their own resolution, if the split is labelled.
    pub label: Option<GrayImage>,
    /// Height and width of the image before it was resized.
    pub size: (u32, u32),
}

/// All samples in the order of the set, `prefetch` of them decoded ahead on `threads` threads.
pub fn eval_samples(
    dataset: Arc<dyn SegDataset>,
    transform: EvalTransform,
    threads: usize,
    prefetch: usize,
) -> impl Iterator<Item = Result<EvalSample, DataError>> + Send {
    let (samples, error) = match pool(threads) {
        Ok(pool) => (Some(in_order(dataset, transform, pool, prefetch)), None),
        Err(error) => (None, Some(Err(error))),
    };
    error.into_iter().chain(samples.into_iter().flatten())
}

fn in_order(
    dataset: Arc<dyn SegDataset>,
    transform: EvalTransform,
    pool: Arc<ThreadPool>,
    prefetch: usize,
) -> impl Iterator<Item = Result<EvalSample, DataError>> + Send {
    let shared = Arc::new((dataset, transform));
    let mut indices = 0..shared.0.len();
    Prefetch::new(pool, prefetch, move |spawner, reply| {
        let Some(index) = indices.next() else { return false };
        let shared = shared.clone();
        spawner.spawn(move || {
            let (dataset, transform) = &*shared;
            let sample = guard(dataset.name(index), || eval_sample(&**dataset, transform, index));
            // A consumer that went away does not want the sample: that is no error.
            let _ = reply.send(sample);
        });
        true
    })
}

fn eval_sample(dataset: &dyn SegDataset, transform: &EvalTransform, index: usize) -> Result<EvalSample, DataError> {
    let sample = dataset.load(index)?;
    let size = (sample.image.height(), sample.image.width());
    Ok(EvalSample { index, image: transform.apply(&sample.image), label: sample.label, size })
}

#[cfg(test)]
mod tests;
