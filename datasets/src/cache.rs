//! Decoded samples kept in memory, up to a limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::dataset::{Sample, SegDataset};
use crate::error::DataError;

/// Where samples come from.
pub trait Source: Send + Sync {
    /// A decoded sample.
    type Sample: Send + Sync;

    /// Number of samples.
    fn count(&self) -> usize;

    /// Decodes sample `i`.
    fn decode(&self, i: usize) -> Result<Self::Sample, DataError>;

    /// Bytes that a sample takes.
    fn bytes(sample: &Self::Sample) -> usize;
}

impl Source for dyn SegDataset {
    type Sample = Sample;

    fn count(&self) -> usize {
        self.len()
    }

    fn decode(&self, i: usize) -> Result<Sample, DataError> {
        self.load(i)
    }

    fn bytes(sample: &Sample) -> usize {
        sample.image.as_raw().len() + sample.label.as_ref().map_or(0, |label| label.as_raw().len())
    }
}

/// A data set whose samples are decoded once, as long as there is room for them. A sample that does not fit any more
/// is decoded every time: evicting another would not help a loader that visits each sample once per epoch.
pub struct Cache<D: Source + ?Sized> {
    dataset: Arc<D>,
    samples: Vec<OnceLock<Arc<D::Sample>>>,
    free_bytes: AtomicUsize,
}

impl<D: Source + ?Sized> Cache<D> {
    /// Room for `bytes` of pixels.
    pub fn new(dataset: Arc<D>, bytes: usize) -> Self {
        let samples = (0..dataset.count()).map(|_| OnceLock::new()).collect();
        Self { dataset, samples, free_bytes: AtomicUsize::new(bytes) }
    }

    /// The data set itself.
    pub fn dataset(&self) -> &D {
        &self.dataset
    }

    /// Sample `i`.
    pub fn load(&self, i: usize) -> Result<Arc<D::Sample>, DataError> {
        if let Some(sample) = self.samples[i].get() {
            return Ok(sample.clone());
        }
        let sample = Arc::new(self.dataset.decode(i)?);
        let bytes = D::bytes(&sample);
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
    use crate::dataset::Split;
    use crate::synth::SynthDataset;
    use crate::transform::Size;

    #[test]
    fn samples_are_kept_until_the_limit_and_are_the_same_beyond_it() {
        let dataset: Arc<dyn SegDataset> = Arc::new(SynthDataset::new(3, Size::new(16, 32), 0, Split::Train).unwrap());
        let cache = Cache::new(dataset.clone(), 2 * 16 * 32 * 4 + 100);
        let first: Vec<_> = (0..3).map(|i| cache.load(i).unwrap()).collect();
        let second: Vec<_> = (0..3).map(|i| cache.load(i).unwrap()).collect();
        assert_eq!(first, second);
        let kept: Vec<bool> = first.iter().zip(&second).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(kept, [true, true, false]);
        assert_eq!(cache.free_bytes.into_inner(), 100);
    }
}
