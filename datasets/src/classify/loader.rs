//! Batches of a classification set: shuffled and augmented for training, in order for evaluation.

use std::borrow::Cow;
use std::sync::Arc;

use image::RgbImage;
use rand::Rng;
use rand_distr::Beta;
use tch::Tensor;

use super::{ClassifyDataset, ClassifyEvalTransform, ClassifyTransform};
use crate::cache::Cache;
use crate::error::DataError;
use crate::loader::{LoaderConfig, Source, TrainLoader, assemble};
use crate::prefetch::pool;
use crate::rng::{self, ChaCha8Rng};
use crate::size::channels_last;

/// Training samples of one step.
#[derive(Debug)]
pub struct ClassifyBatch {
    /// Normalised images, f32 `[B, 3, H, W]` in channels-last memory; with mixup, blends of two.
    pub images: Tensor,
    /// Classes, i64 `[B]`; with mixup, of the first image of each blend.
    pub labels: Tensor,
    /// With mixup: the share of each class, f32 `[B, K]`.
    pub mixed: Option<Tensor>,
    /// Which samples of the data set these are.
    pub indices: Vec<usize>,
}

/// A classification set with its augmentation, as a loader's source.
pub struct Images {
    dataset: Arc<dyn ClassifyDataset>,
    cache: Cache<RgbImage>,
    transform: ClassifyTransform,
    mixup: Option<Beta<f64>>,
}

/// A loader of the samples `indices` (all if `None`). Two loaders of one run differ in their `purpose`.
///
/// # Errors
/// If the set is smaller than a batch, or a setting of `transform` makes no sense.
///
/// # Panics
/// If an index lies outside the set.
pub fn train_loader(
    dataset: Arc<dyn ClassifyDataset>,
    indices: Option<Vec<usize>>,
    transform: ClassifyTransform,
    config: LoaderConfig,
    seed: u64,
    purpose: &str,
) -> Result<TrainLoader<Images>, DataError> {
    transform.validate()?;
    let beta = |alpha| Beta::new(alpha, alpha).expect("a finite number above 0");
    let mixup = (transform.mixup > 0.0).then(|| beta(transform.mixup));
    let cache = Cache::new(dataset.len(), config.cache_mb << 20);
    TrainLoader::of(Images { dataset, cache, transform, mixup }, indices, config, seed, purpose)
}

impl Source for Images {
    type Item = Vec<f32>;
    type Batch = ClassifyBatch;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn name(&self, index: usize) -> Cow<'_, str> {
        self.dataset.name(index)
    }

    fn draw(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f32>, DataError> {
        let image = self.cache.load(index, || self.dataset.image(index), |image| image.as_raw().len())?;
        Ok(self.transform.apply(&image, rng))
    }

    fn collate(&self, indices: Vec<usize>, items: Vec<Vec<f32>>, rng: &mut ChaCha8Rng) -> ClassifyBatch {
        let labels: Vec<i64> = indices.iter().map(|index| self.dataset.label(*index) as i64).collect();
        let images = channels_last(&items.concat(), items.len(), self.transform.size);
        let labels = Tensor::from_slice(&labels);
        let Some(beta) = &self.mixup else {
            return ClassifyBatch { images, labels, mixed: None, indices };
        };
        let share = rng.sample(beta);
        let others = Tensor::from_slice(&partners(items.len()));
        let blend = |tensor: &Tensor| tensor * share + tensor.index_select(0, &others) * (1.0 - share);
        let classes = labels.one_hot(self.dataset.classes().len() as i64).to_kind(tch::Kind::Float);
        ClassifyBatch { images: blend(&images), labels, mixed: Some(blend(&classes)), indices }
    }
}

/// Who is mixed with whom: neighbours, whose order is random; the last three of an odd number go round. A part of a batch, of
/// an even number of samples, so mixes as it does in the batch.
fn partners(len: usize) -> Vec<i64> {
    let mut partners: Vec<i64> = (0..len as i64).collect();
    let (pairs, odd) = partners.split_at_mut(if len.is_multiple_of(2) { len } else { len.saturating_sub(3) });
    pairs.chunks_mut(2).for_each(|pair| pair.swap(0, 1));
    odd.rotate_left(odd.len().min(1));
    partners
}

/// Samples to be scored or predicted.
#[derive(Debug)]
pub struct ClassifyEvalBatch {
    /// Normalised images, f32 `[B, 3, H, W]` in channels-last memory.
    pub images: Tensor,
    /// Classes, i64 `[B]`.
    pub labels: Tensor,
    /// Which samples of the data set these are.
    pub indices: Vec<usize>,
}

struct InOrder {
    dataset: Arc<dyn ClassifyDataset>,
    transform: ClassifyEvalTransform,
}

impl Source for InOrder {
    type Item = Vec<f32>;
    type Batch = ClassifyEvalBatch;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn name(&self, index: usize) -> Cow<'_, str> {
        self.dataset.name(index)
    }

    fn draw(&self, index: usize, _rng: &mut ChaCha8Rng) -> Result<Vec<f32>, DataError> {
        Ok(self.transform.values(&self.dataset.image(index)?))
    }

    fn collate(&self, indices: Vec<usize>, items: Vec<Vec<f32>>, _rng: &mut ChaCha8Rng) -> ClassifyEvalBatch {
        let labels: Vec<i64> = indices.iter().map(|index| self.dataset.label(*index) as i64).collect();
        let images = channels_last(&items.concat(), items.len(), self.transform.size);
        ClassifyEvalBatch { images, labels: Tensor::from_slice(&labels), indices }
    }
}

/// All samples in the order of the set; the last batch may be smaller. `config.cache_mb` is not used.
///
/// # Errors
/// If the batch size is zero or the threads cannot be started.
pub fn eval_batches(
    dataset: Arc<dyn ClassifyDataset>,
    transform: ClassifyEvalTransform,
    config: &LoaderConfig,
) -> Result<impl Iterator<Item = Result<ClassifyEvalBatch, DataError>> + Send + use<>, DataError> {
    if config.batch_size == 0 {
        return Err(DataError::Setting { key: "eval.batch_size", found: "0".into(), expected: "1 or more" });
    }
    let (len, batch_size) = (dataset.len(), config.batch_size);
    let batches =
        (0..len).step_by(batch_size).map(move |first| (first, first, (first..len.min(first + batch_size)).collect()));
    // Nothing is drawn.
    let streams = |purpose: &str, id: usize| rng::stream(0, purpose, id as u64);
    let source = Arc::new(InOrder { dataset, transform });
    Ok(assemble(source, batches, pool(config.threads)?, config.prefetch, streams))
}
