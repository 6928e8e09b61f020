//! Seeded, prefetching loaders: shuffled batches for training, single images in order for evaluation.
//!
//! What a batch holds is a function of (seed, purpose, epoch, batch number) alone. Threads, prefetch and cache change
//! how fast it comes; an epoch that is resumed in the middle continues with the same bits.

use std::borrow::Cow;
use std::sync::Arc;

use image::GrayImage;
use rand::seq::SliceRandom;
use rayon::ThreadPool;
use tch::Tensor;

use crate::assembly::Assembly;
use crate::cache::Cache;
use crate::dataset::{Sample, SegDataset};
use crate::error::DataError;
use crate::prefetch::{Prefetch, guard, pool};
use crate::rng::{self, ChaCha8Rng};
use crate::transform::{Cropped, EvalTransform, TrainTransform, channels_last};

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

/// How samples are read. Only `batch_size` changes what is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Samples per batch.
    pub batch_size: usize,
    /// Threads that decode and transform; 0 counts as 1.
    pub threads: usize,
    /// Batches that are made ahead of the one in use.
    pub prefetch: usize,
    /// Megabytes (2^20 bytes) of decoded samples to keep in memory; 0 for none.
    pub cache_mb: usize,
}

/// What a loader turns into batches.
pub trait Source: Send + Sync + 'static {
    /// A sample as it enters a batch.
    type Item: Send;
    /// What samples are put together to.
    type Batch: Send;

    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of a sample, for errors.
    fn name(&self, index: usize) -> Cow<'_, str>;

    /// Reads and transforms a sample. All that is random comes from `rng`.
    fn draw(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Self::Item, DataError>;

    /// Makes a batch of the samples `indices`. What is random in the batch as a whole comes from `rng`.
    fn collate(&self, indices: Vec<usize>, items: Vec<Self::Item>, rng: &mut ChaCha8Rng) -> Self::Batch;
}

/// Shuffled, augmented batches of a data set or a part of it.
pub struct TrainLoader<S: Source = Pairs> {
    source: Arc<S>,
    indices: Vec<usize>,
    config: LoaderConfig,
    pool: Arc<ThreadPool>,
    seed: u64,
    /// Name of the random streams.
    purpose: String,
}

impl<S: Source> TrainLoader<S> {
    /// A loader of the samples `indices` (all if `None`). Two loaders of one run differ in their `purpose`.
    ///
    /// # Errors
    /// If the set is smaller than a batch or the threads cannot be started.
    ///
    /// # Panics
    /// If an index lies outside the set.
    pub fn of(
        source: S,
        indices: Option<Vec<usize>>,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<Self, DataError> {
        let len = source.len();
        let indices = indices.unwrap_or_else(|| (0..len).collect());
        assert!(indices.iter().all(|i| *i < len), "an index outside the {len} samples of the set");
        if config.batch_size == 0 {
            return Err(DataError::Setting { key: "batch_size", found: "0".into(), expected: "1 or more" });
        }
        if indices.len() < config.batch_size {
            return Err(DataError::SmallerThanBatch { samples: indices.len(), batch_size: config.batch_size });
        }
        let pool = pool(config.threads)?;
        Ok(Self { source: Arc::new(source), indices, config, pool, seed, purpose: purpose.to_owned() })
    }

    /// Batches of an epoch. The samples that do not fill a last batch are left out, other ones in every epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.indices.len() / self.config.batch_size
    }

    /// The batches of epoch number `epoch` from number `from_batch` on. After an error the iterator goes on with the
    /// next batch.
    pub fn epoch(
        &self,
        epoch: usize,
        from_batch: usize,
    ) -> impl Iterator<Item = Result<S::Batch, DataError>> + Send + use<S> {
        let (order, batch_size) = (self.order(epoch), self.config.batch_size);
        let batches = (from_batch..self.batches_per_epoch())
            .map(move |batch| (batch * batch_size, order[batch * batch_size..][..batch_size].to_vec()));
        let (seed, purpose) = (self.seed, self.purpose.clone());
        let streams = move |what: &str, id: usize| {
            rng::stream(seed, &format!("{purpose}/{what}"), (epoch as u64) << 32 | id as u64)
        };
        assemble(self.source.clone(), batches, self.pool.clone(), self.config.prefetch, streams)
    }

    /// The samples in the order of an epoch.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order = self.indices.clone();
        order.shuffle(&mut rng::stream(self.seed, &format!("{}/order", self.purpose), epoch as u64));
        order
    }
}

/// Batches, given as (position of the first sample, samples), put together ahead of their use. `streams` gives the
/// generator of a sample's transform by its position and of a batch by its first.
pub(crate) fn assemble<S: Source>(
    source: Arc<S>,
    mut batches: impl Iterator<Item = (usize, Vec<usize>)> + Send,
    pool: Arc<ThreadPool>,
    prefetch: usize,
    streams: impl Fn(&str, usize) -> ChaCha8Rng + Send + Sync + Clone + 'static,
) -> impl Iterator<Item = Result<S::Batch, DataError>> + Send {
    Prefetch::new(pool, prefetch, move |spawner, reply| {
        let Some((first, indices)) = batches.next() else { return false };
        let assembly = Assembly::new(source.clone(), indices.clone(), streams("batch", first), reply);
        let assembly = Arc::new(assembly);
        for (slot, index) in indices.into_iter().enumerate() {
            let (source, assembly, streams) = (source.clone(), assembly.clone(), streams.clone());
            spawner.spawn(move || {
                let draw = || source.draw(index, &mut streams("transform", first + slot));
                assembly.put(slot, guard(&source.name(index), draw));
            });
        }
        true
    })
}

/// Pairs of image and label map, cut and coloured together.
pub struct Pairs {
    dataset: Arc<dyn SegDataset>,
    cache: Cache<Sample>,
    transform: TrainTransform,
}

impl TrainLoader {
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

/// The numbers `0..len` in two random halves of equal size that share none; an odd one is left out. Auto-DeepLab
/// trains weights on one half and the architecture on the other (<https://arxiv.org/abs/1901.02985>, section 4.1);
/// public re-implementations give both the same images, or let the halves overlap.
pub fn disjoint_halves(len: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let order = shuffled(len, seed, "halves");
    let (first, rest) = order.split_at(len / 2);
    (sorted(first), sorted(&rest[..len / 2]))
}

/// The numbers `0..len` without a random `count` of them, and these: what a search trains on, and what it scores on.
///
/// # Panics
/// If `count` is larger than `len`.
pub fn hold_out(len: usize, count: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let order = shuffled(len, seed, "hold_out");
    let (held_out, rest) = order.split_at(count);
    (sorted(rest), sorted(held_out))
}

fn shuffled(len: usize, seed: u64, purpose: &str) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut rng::stream(seed, purpose, 0));
    order
}

fn sorted(indices: &[usize]) -> Vec<usize> {
    let mut indices = indices.to_vec();
    indices.sort_unstable();
    indices
}

#[cfg(test)]
mod tests;
