//! Seeded, prefetching epochs of batches over any kind of sample.
//!
//! What a batch holds is a function of (seed, purpose, epoch, batch number) alone; threads and prefetch change how fast
//! it comes.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;
use rayon::ThreadPool;

use crate::error::DataError;
use crate::loader::LoaderConfig;
use crate::prefetch::{Prefetch, guard, pool};
use crate::rng::{self, ChaCha8Rng};

/// How samples become batches.
pub trait Recipe: Send + Sync + 'static {
    /// A sample ready for a batch.
    type Prepared: Send + 'static;
    /// Samples of one step.
    type Batch: Send + 'static;

    /// Name of a sample, for errors.
    fn name(&self, index: usize) -> &str;

    /// Reads and transforms a sample.
    fn prepare(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Self::Prepared, DataError>;

    /// Puts the samples `indices` together.
    fn collate(&self, indices: &[usize], samples: Vec<Self::Prepared>) -> Self::Batch;
}

/// Shuffled batches of some samples of a set.
pub struct Epochs<R> {
    recipe: Arc<R>,
    indices: Vec<usize>,
    config: LoaderConfig,
    seed: u64,
    purpose: Arc<str>,
    pool: Arc<ThreadPool>,
}

impl<R: Recipe> Epochs<R> {
    /// Two loaders of one run differ in their `purpose`.
    pub fn new(
        recipe: R,
        indices: Vec<usize>,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<Self, DataError> {
        if config.batch_size == 0 {
            return Err(DataError::Setting { key: "batch_size", found: "0".into(), expected: "1 or more" });
        }
        if indices.len() < config.batch_size {
            return Err(DataError::SmallerThanBatch { samples: indices.len(), batch_size: config.batch_size });
        }
        let pool = pool(config.threads)?;
        Ok(Self { recipe: Arc::new(recipe), indices, config, seed, purpose: purpose.into(), pool })
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
    ) -> impl Iterator<Item = Result<R::Batch, DataError>> + Send + use<R> {
        let mut order = self.indices.clone();
        order.shuffle(&mut rng::stream(self.seed, &format!("{}/order", self.purpose), epoch as u64));
        order.truncate(self.batches_per_epoch() * self.config.batch_size);
        let plan = Plan {
            order,
            batch_size: self.config.batch_size,
            next: from_batch.min(self.batches_per_epoch()),
            seed: self.seed,
            purpose: format!("{}/transform", self.purpose),
            first_id: (epoch as u64) << 32,
        };
        plan.batches(self.recipe.clone(), self.pool.clone(), self.config.prefetch)
    }
}

/// All samples `0..len` in order, the last batch maybe smaller than the others.
pub fn in_order<R: Recipe>(
    recipe: R,
    len: usize,
    config: &LoaderConfig,
) -> Result<impl Iterator<Item = Result<R::Batch, DataError>> + Send + use<R>, DataError> {
    let batch_size = config.batch_size.max(1);
    let plan =
        Plan { order: (0..len).collect(), batch_size, next: 0, seed: 0, purpose: "in order".into(), first_id: 0 };
    Ok(plan.batches(Arc::new(recipe), pool(config.threads)?, config.prefetch))
}

/// Which samples make up which batch, and where their randomness comes from.
struct Plan {
    order: Vec<usize>,
    batch_size: usize,
    /// Number of the batch that comes next.
    next: usize,
    seed: u64,
    purpose: String,
    /// Number of the random stream of the first sample.
    first_id: u64,
}

impl Plan {
    fn batches<R: Recipe>(
        mut self,
        recipe: Arc<R>,
        pool: Arc<ThreadPool>,
        prefetch: usize,
    ) -> impl Iterator<Item = Result<R::Batch, DataError>> + Send {
        Prefetch::new(pool, prefetch, move |spawner, reply| {
            let first = self.next * self.batch_size;
            let indices: Vec<usize> = self.order.iter().skip(first).take(self.batch_size).copied().collect();
            if indices.is_empty() {
                return false;
            }
            let gather = Arc::new(Gather::new(recipe.clone(), indices, reply));
            for slot in 0..gather.indices.len() {
                let gather = gather.clone();
                let mut rng = rng::stream(self.seed, &self.purpose, self.first_id + (first + slot) as u64);
                spawner.spawn(move || {
                    let (recipe, index) = (&gather.recipe, gather.indices[slot]);
                    gather.put(slot, guard(recipe.name(index), || recipe.prepare(index, &mut rng)));
                });
            }
            self.next += 1;
            true
        })
    }
}

/// One batch under construction: samples arrive in any order, the last one completes it.
struct Gather<R: Recipe> {
    recipe: Arc<R>,
    indices: Vec<usize>,
    state: Mutex<State<R::Prepared>>,
    reply: SyncSender<Result<R::Batch, DataError>>,
}

struct State<T> {
    samples: Vec<Option<Result<T, DataError>>>,
    missing: usize,
}

impl<R: Recipe> Gather<R> {
    fn new(recipe: Arc<R>, indices: Vec<usize>, reply: SyncSender<Result<R::Batch, DataError>>) -> Self {
        let samples = indices.iter().map(|_| None).collect();
        let state = Mutex::new(State { samples, missing: indices.len() });
        Self { recipe, indices, state, reply }
    }

    fn put(&self, slot: usize, sample: Result<R::Prepared, DataError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.samples[slot] = Some(sample);
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        // Of several errors the one of the lowest slot is told, whichever thread was faster.
        let samples: Result<Vec<_>, _> = state.samples.drain(..).flatten().collect();
        // A consumer that went away does not want the batch: that is no error.
        let _ = self.reply.send(samples.map(|samples| self.recipe.collate(&self.indices, samples)));
    }
}
