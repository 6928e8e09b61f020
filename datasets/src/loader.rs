//! The seeded, prefetching loader of any [`Source`]: shuffled batches for training.
//!
//! What a batch holds is a function of (seed, purpose, epoch, batch number) alone. Threads, prefetch and cache change
//! how fast it comes; an epoch that is resumed in the middle continues with the same bits.

mod assembly;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use rand::seq::SliceRandom;
use rayon::ThreadPool;

use crate::error::DataError;
use crate::prefetch::{Prefetch, guard, pool};
use crate::rng::{self, ChaCha8Rng};
use assembly::Assembly;

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
pub struct TrainLoader<S: Source> {
    source: Arc<S>,
    indices: Vec<usize>,
    config: LoaderConfig,
    pool: Arc<ThreadPool>,
    seed: u64,
    /// Name of the random streams.
    purpose: String,
    /// Samples of a batch, by position, that this loader makes.
    slots: Range<usize>,
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
        let (pool, slots) = (pool(config.threads)?, 0..config.batch_size);
        Ok(Self { source: Arc::new(source), indices, config, pool, seed, purpose: purpose.to_owned(), slots })
    }

    /// The same loader, which makes the part `index` of `of` equal ones of every batch: those of all parts, one after the other,
    /// are the batch, as far as [`Source::collate`] sees to it.
    ///
    /// # Errors
    /// If a batch cannot be divided so.
    pub fn part(self, index: usize, of: usize) -> Result<Self, DataError> {
        let len = self.config.batch_size;
        if !len.is_multiple_of(of) {
            let found = format!("{len}, of which {of} processes take a part each");
            return Err(DataError::Setting { key: "batch_size", found, expected: "a multiple of their number" });
        }
        Ok(Self { slots: len / of * index..len / of * (index + 1), ..self })
    }

    /// The loader of whole batches that this one is a part of.
    #[must_use]
    pub fn whole(&self) -> Self {
        let Self { source, indices, config, pool, seed, purpose, .. } = self;
        Self {
            source: source.clone(),
            indices: indices.clone(),
            config: config.clone(),
            pool: pool.clone(),
            seed: *seed,
            purpose: purpose.clone(),
            slots: 0..config.batch_size,
        }
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
        let (order, batch_size, slots) = (self.order(epoch), self.config.batch_size, self.slots.clone());
        let batches = (from_batch..self.batches_per_epoch()).map(move |batch| {
            let first = batch * batch_size;
            (first, first + slots.start, order[first..][slots.clone()].to_vec())
        });
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

/// Batches, given as (number, position of the first sample, samples), put together ahead of their use. `streams` gives the
/// generator of a sample's transform by its position and of a batch by its number.
pub(crate) fn assemble<S: Source>(
    source: Arc<S>,
    mut batches: impl Iterator<Item = (usize, usize, Vec<usize>)> + Send,
    pool: Arc<ThreadPool>,
    prefetch: usize,
    streams: impl Fn(&str, usize) -> ChaCha8Rng + Send + Sync + Clone + 'static,
) -> impl Iterator<Item = Result<S::Batch, DataError>> + Send {
    Prefetch::new(pool, prefetch, move |spawner, reply| {
        let Some((number, first, indices)) = batches.next() else { return false };
        let assembly = Assembly::new(source.clone(), indices.clone(), streams("batch", number), reply);
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

/// The numbers `0..len` in two random halves that share none; of an odd number the first has one more. Auto-DeepLab
/// trains weights on one half and the architecture on the other (<https://arxiv.org/abs/1901.02985>, section 4.1);
/// public re-implementations give both the same images, or let the halves overlap.
pub fn disjoint_halves(len: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let order = shuffled(len, seed, "halves");
    let (first, rest) = order.split_at(len.div_ceil(2));
    (sorted(first), sorted(rest))
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
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn halves_are_disjoint_random_and_leave_out_none() {
        for len in [0, 1, 2, 367, 2975] {
            let (a, b) = disjoint_halves(len, 0);
            assert_eq!((a.len(), b.len()), (len - len / 2, len / 2));
            let union: HashSet<usize> = a.iter().chain(&b).copied().collect();
            assert!(union.len() == len && union.iter().all(|i| *i < len));
        }
        assert_ne!(disjoint_halves(367, 0), disjoint_halves(367, 1));
        let (a, _) = disjoint_halves(2975, 0);
        assert!((500..1000).contains(&a.iter().filter(|i| **i < 1487).count())); // neither first half nor second
    }

    #[test]
    fn held_out_numbers_are_no_others_and_follow_the_seed() {
        let (rest, held_out) = hold_out(50, 12, 3);
        assert_eq!((rest.len(), held_out.len()), (38, 12));
        let mut all = [rest.clone(), held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
        assert!(rest.is_sorted() && held_out.is_sorted());
        assert_eq!(hold_out(50, 12, 3), (rest, held_out.clone()));
        assert_ne!(hold_out(50, 12, 4).1, held_out);
        assert_ne!(held_out, (0..12).collect::<Vec<_>>());
    }
}
