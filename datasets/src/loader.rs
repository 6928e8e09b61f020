//! Seeded, prefetching loaders: shuffled batches for training, single images in order for evaluation.
//!
//! What a batch holds is a function of (seed, purpose, epoch, batch number) alone. Threads, prefetch and cache change
//! how fast it comes; an epoch that is resumed in the middle continues with the same bits.

use std::sync::Arc;

use image::GrayImage;
use rand::seq::SliceRandom;
use rayon::ThreadPool;
use tch::Tensor;

use crate::assembly::Assembly;
use crate::cache::Cache;
use crate::dataset::SegDataset;
use crate::error::DataError;
use crate::prefetch::{Prefetch, guard, pool};
use crate::rng;
use crate::transform::{Cropped, EvalTransform, TrainTransform};

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

/// Shuffled, augmented batches of a data set or a part of it.
pub struct TrainLoader {
    source: Arc<Source>,
    indices: Vec<usize>,
    config: LoaderConfig,
    pool: Arc<ThreadPool>,
}

/// What a loader's threads share.
struct Source {
    samples: Cache<dyn SegDataset>,
    transform: TrainTransform,
    seed: u64,
    /// Name of the random stream of transforms.
    purpose: String,
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
        let len = dataset.len();
        let indices = indices.unwrap_or_else(|| (0..len).collect());
        assert!(indices.iter().all(|i| *i < len), "an index outside the {len} samples of the set");
        if config.batch_size == 0 {
            return Err(DataError::Setting { key: "batch_size", found: "0".into(), expected: "1 or more" });
        }
        if indices.len() < config.batch_size {
            return Err(DataError::SmallerThanBatch { samples: indices.len(), batch_size: config.batch_size });
        }
        if !dataset.has_labels() {
            let name = dataset.name(indices[0]).to_owned();
            return Err(DataError::Unlabelled { name });
        }
        let pool = pool(config.threads)?;
        let samples = Cache::new(dataset, config.cache_mb << 20);
        let source = Arc::new(Source { samples, transform, seed, purpose: purpose.to_owned() });
        Ok(Self { source, indices, config, pool })
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
    ) -> impl Iterator<Item = Result<Batch, DataError>> + Send + use<> {
        let (source, order) = (self.source.clone(), self.order(epoch));
        let batch_size = self.config.batch_size;
        let mut next = from_batch.min(self.batches_per_epoch());
        let end = self.batches_per_epoch();
        Prefetch::new(self.pool.clone(), self.config.prefetch, move |spawner, reply| {
            if next == end {
                return false;
            }
            let first = next * batch_size;
            let indices = order[first..first + batch_size].to_vec();
            let assembly = Arc::new(Assembly::new(indices.clone(), source.transform.crop, reply));
            for (slot, index) in indices.into_iter().enumerate() {
                let (source, assembly) = (source.clone(), assembly.clone());
                spawner.spawn(move || assembly.put(slot, source.sample(epoch, first + slot, index)));
            }
            next += 1;
            true
        })
    }

    /// The samples in the order of an epoch.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let Source { seed, purpose, .. } = &*self.source;
        let mut order = self.indices.clone();
        order.shuffle(&mut rng::stream(*seed, &format!("{purpose}/order"), epoch as u64));
        order
    }
}

impl Source {
    /// Sample `index` as transformed at `position` of an epoch.
    fn sample(&self, epoch: usize, position: usize, index: usize) -> Result<Cropped, DataError> {
        let name = self.samples.dataset().name(index);
        guard(name, || {
            let sample = self.samples.load(index)?;
            let label = sample.label.as_ref().ok_or_else(|| DataError::Unlabelled { name: name.to_owned() })?;
            let id = (epoch as u64) << 32 | position as u64;
            let mut rng = rng::stream(self.seed, &format!("{}/transform", self.purpose), id);
            Ok(self.transform.apply(&sample.image, label, &mut rng))
        })
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
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut rng::stream(seed, "halves", 0));
    let (first, rest) = order.split_at(len / 2);
    let (mut first, mut second) = (first.to_vec(), rest[..len / 2].to_vec());
    first.sort_unstable();
    second.sort_unstable();
    (first, second)
}

#[cfg(test)]
mod tests;
