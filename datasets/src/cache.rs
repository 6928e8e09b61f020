//! Decoded samples kept in memory, up to a limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::DataError;

/// Samples that are decoded once, as long as there is room for them. A sample that does not fit any more is decoded every
/// time: evicting another would not help a loader that visits each sample once per epoch.
pub struct Cache<T> {
    samples: Vec<OnceLock<Arc<T>>>,
    free_bytes: AtomicUsize,
}

impl<T> Cache<T> {
    /// Room for `bytes` of the `len` samples of a set.
    pub fn new(len: usize, bytes: usize) -> Self {
        Self { samples: (0..len).map(|_| OnceLock::new()).collect(), free_bytes: AtomicUsize::new(bytes) }
    }

    /// Sample `i`, by `decode` where it is not kept; `bytes` tells its size.
    pub fn load(
        &self,
        i: usize,
        decode: impl FnOnce() -> Result<T, DataError>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<Arc<T>, DataError> {
        if let Some(sample) = self.samples[i].get() {
            return Ok(sample.clone());
        }
        let sample = Arc::new(decode()?);
        let bytes = bytes(&sample);
        let take = |free: usize| free.checked_sub(bytes);
        if self.free_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            && self.samples[i].set(sample.clone()).is_err()
        {
            self.free_bytes.fetch_add(bytes, Ordering::Relaxed); // another thread was faster
        }
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_kept_until_the_limit_and_are_the_same_beyond_it() {
        let cache = Cache::new(3, 2 * 10 + 3);
        let load = |i: usize| cache.load(i, || Ok(vec![i; 10]), Vec::len).unwrap();
        let first: Vec<_> = (0..3).map(load).collect();
        let second: Vec<_> = (0..3).map(load).collect();
        assert_eq!(first, second);
        let kept: Vec<bool> = first.iter().zip(&second).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(kept, [true, true, false]);
        assert_eq!(cache.free_bytes.into_inner(), 3);
    }
}
