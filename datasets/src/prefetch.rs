//! Results computed ahead of their use on a thread pool, taken in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::DataError;

/// A promised result: exactly one message comes.
type Pending<T> = Receiver<Result<T, DataError>>;

/// Hands work to the pool of a [`Prefetch`]; work that nobody waits for any more is skipped.
pub struct Spawner {
    pool: Arc<ThreadPool>,
    dropped: Arc<AtomicBool>,
}

impl Spawner {
    /// Runs `work` on the pool.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        let dropped = self.dropped.clone();
        self.pool.spawn(move || {
            if !dropped.load(Ordering::Relaxed) {
                work();
            }
        });
    }
}

/// An iterator over results that are computed ahead. `launch` starts the next one, by spawning tasks of which the last
/// sends to the given sender, or says with `false` that there is none. At most `ahead + 1` are under way at any time.
/// No thread waits for the consumer, so dropping the iterator ends everything after the tasks that are running.
pub struct Prefetch<T, F> {
    spawner: Spawner,
    launch: F,
    ahead: usize,
    pending: VecDeque<Pending<T>>,
}

impl<T, F: FnMut(&Spawner, SyncSender<Result<T, DataError>>) -> bool> Prefetch<T, F> {
    /// Nothing is launched before the first call of `next`.
    pub fn new(pool: Arc<ThreadPool>, ahead: usize, launch: F) -> Self {
        let spawner = Spawner { pool, dropped: Arc::new(AtomicBool::new(false)) };
        Self { spawner, launch, ahead, pending: VecDeque::new() }
    }

    fn launch_one(&mut self) -> bool {
        let (sender, receiver) = sync_channel(1);
        let launched = (self.launch)(&self.spawner, sender);
        if launched {
            self.pending.push_back(receiver);
        }
        launched
    }
}

impl<T, F: FnMut(&Spawner, SyncSender<Result<T, DataError>>) -> bool> Iterator for Prefetch<T, F> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.pending.len() <= self.ahead && self.launch_one() {}
        Some(self.pending.pop_front()?.recv().expect("every launched result is sent"))
    }
}

impl<T, F> Drop for Prefetch<T, F> {
    fn drop(&mut self) {
        self.spawner.dropped.store(true, Ordering::Relaxed);
    }
}

/// A pool for decoding and transforming.
pub fn pool(threads: usize) -> Result<Arc<ThreadPool>, DataError> {
    let builder = ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|i| format!("loader-{i}"));
    Ok(Arc::new(builder.build()?))
}

/// Runs the work on one sample and turns a panic into an error that names it.
pub fn guard<T>(name: &str, work: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("no message").to_owned();
        Err(DataError::Panic { name: name.to_owned(), message })
    })
}
