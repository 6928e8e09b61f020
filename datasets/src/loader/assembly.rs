//! One batch under construction: samples arrive in any order, the last one completes it.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use super::Source;
use crate::error::DataError;
use crate::rng::ChaCha8Rng;

/// A batch of which some samples are missing.
pub struct Assembly<S: Source> {
    source: Arc<S>,
    indices: Vec<usize>,
    state: Mutex<State<S::Item>>,
    /// The randomness of the batch as a whole.
    rng: ChaCha8Rng,
    reply: SyncSender<Result<S::Batch, DataError>>,
}

struct State<T> {
    items: Vec<Option<T>>,
    missing: usize,
    /// The error of the lowest slot, so that what is reported does not depend on which thread was faster.
    error: Option<(usize, DataError)>,
}

impl<S: Source> Assembly<S> {
    /// An empty batch of the samples `indices`, which is sent to `reply` when it is complete.
    pub fn new(
        source: Arc<S>,
        indices: Vec<usize>,
        rng: ChaCha8Rng,
        reply: SyncSender<Result<S::Batch, DataError>>,
    ) -> Self {
        let items = indices.iter().map(|_| None).collect();
        let state = State { items, missing: indices.len(), error: None };
        Self { source, indices, state: Mutex::new(state), rng, reply }
    }

    /// Puts a sample in its place.
    pub fn put(&self, slot: usize, sample: Result<S::Item, DataError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match sample {
            Ok(item) => state.items[slot] = Some(item),
            Err(error) if state.error.as_ref().is_none_or(|(other, _)| slot < *other) => {
                state.error = Some((slot, error));
            }
            Err(_) => {}
        }
        state.missing -= 1;
        if state.missing == 0 {
            // A consumer that went away does not want the batch: that is no error.
            let _ = self.reply.send(self.finish(&mut state));
        }
    }

    fn finish(&self, state: &mut State<S::Item>) -> Result<S::Batch, DataError> {
        match state.error.take() {
            Some((_, error)) => Err(error),
            None => {
                let items = state.items.drain(..).flatten().collect();
                Ok(self.source.collate(self.indices.clone(), items, &mut self.rng.clone()))
            }
        }
    }
}
