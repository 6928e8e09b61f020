//! A part of a data set.

use std::sync::Arc;

use super::{DetClasses, DetDataset, DetSample};
use crate::error::DataError;

/// Some samples of a set.
pub struct Subset {
    of: Arc<dyn DetDataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The samples `indices` of a set, in the order of the set.
    ///
    /// # Panics
    /// If an index lies outside the set.
    pub fn new(of: Arc<dyn DetDataset>, mut indices: Vec<usize>) -> Self {
        assert!(indices.iter().all(|i| *i < of.len()), "an index outside the {} samples of the set", of.len());
        indices.sort_unstable();
        Self { of, indices }
    }
}

impl DetDataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn name(&self, i: usize) -> &str {
        self.of.name(self.indices[i])
    }

    fn image_id(&self, i: usize) -> i64 {
        self.of.image_id(self.indices[i])
    }

    fn load(&self, i: usize) -> Result<DetSample, DataError> {
        self.of.load(self.indices[i])
    }

    fn classes(&self) -> &DetClasses {
        self.of.classes()
    }
}
