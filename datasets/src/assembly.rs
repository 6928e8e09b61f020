//! One batch under construction: samples arrive in any order, the last one completes it.

use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use tch::Tensor;

use crate::error::DataError;
use crate::loader::Batch;
use crate::transform::{Cropped, Size, channels_last};

/// A batch of which some samples are missing.
pub struct Assembly {
    indices: Vec<usize>,
    size: Size,
    state: Mutex<State>,
    reply: SyncSender<Result<Batch, DataError>>,
}

struct State {
    images: Vec<f32>,
    labels: Vec<i64>,
    missing: usize,
    /// The error of the lowest slot, so that what is reported does not depend on which thread was faster.
    error: Option<(usize, DataError)>,
}

impl Assembly {
    /// An empty batch of the samples `indices`, all of one `size`, which is sent to `reply` when it is complete.
    pub fn new(indices: Vec<usize>, size: Size, reply: SyncSender<Result<Batch, DataError>>) -> Self {
        let pixels = indices.len() * size.height() as usize * size.width() as usize;
        let state =
            State { images: vec![0.0; pixels * 3], labels: vec![0; pixels], missing: indices.len(), error: None };
        Self { indices, size, state: Mutex::new(state), reply }
    }

    /// Puts a sample in its place.
    pub fn put(&self, slot: usize, sample: Result<Cropped, DataError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match sample {
            Ok(Cropped { image, label }) => {
                state.images[slot * image.len()..][..image.len()].copy_from_slice(&image);
                let target = &mut state.labels[slot * label.len()..][..label.len()];
                target.iter_mut().zip(label).for_each(|(target, id)| *target = id.into());
            }
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

    fn finish(&self, state: &mut State) -> Result<Batch, DataError> {
        if let Some((_, error)) = state.error.take() {
            return Err(error);
        }
        let dims = [self.indices.len() as i64, self.size.height().into(), self.size.width().into()];
        Ok(Batch {
            images: channels_last(&state.images, self.indices.len(), self.size),
            labels: Tensor::from_slice(&state.labels).view(dims),
            indices: self.indices.clone(),
        })
    }
}
