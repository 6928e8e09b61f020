//! A part of a data set of any kind.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;

use crate::classify::ClassifyDataset;
use crate::det::{CocoId, DetClasses, DetDataset, DetSample};
use crate::error::{DataError, Problem};
use crate::seg::{Classes, Sample, SegDataset};

/// Some samples of a set.
pub struct Subset<D: ?Sized> {
    of: Arc<D>,
    indices: Vec<usize>,
}

impl<D: ?Sized> Subset<D> {
    /// The samples `indices` of a set, in the order of the set. An index outside the set panics when it is used.
    pub fn new(of: Arc<D>, mut indices: Vec<usize>) -> Self {
        indices.sort_unstable();
        Self { of, indices }
    }
}

impl SegDataset for Subset<dyn SegDataset> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn name(&self, i: usize) -> &str {
        self.of.name(self.indices[i])
    }

    fn load(&self, i: usize) -> Result<Sample, DataError> {
        self.of.load(self.indices[i])
    }

    fn classes(&self) -> &Classes {
        self.of.classes()
    }

    fn has_labels(&self) -> bool {
        self.of.has_labels()
    }

    fn warnings(&self) -> &[String] {
        self.of.warnings()
    }

    fn image_path(&self, i: usize) -> Option<&Path> {
        self.of.image_path(self.indices[i])
    }
}

impl ClassifyDataset for Subset<dyn ClassifyDataset> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn name(&self, i: usize) -> Cow<'_, str> {
        self.of.name(self.indices[i])
    }

    fn image(&self, i: usize) -> Result<RgbImage, DataError> {
        self.of.image(self.indices[i])
    }

    fn label(&self, i: usize) -> usize {
        self.of.label(self.indices[i])
    }

    fn classes(&self) -> &[String] {
        self.of.classes()
    }

    fn orphans(&self) -> &[Problem] {
        self.of.orphans()
    }

    fn warnings(&self) -> &[String] {
        self.of.warnings()
    }

    fn image_path(&self, i: usize) -> Option<&Path> {
        self.of.image_path(self.indices[i])
    }
}

impl DetDataset for Subset<dyn DetDataset> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn name(&self, i: usize) -> &str {
        self.of.name(self.indices[i])
    }

    fn image_id(&self, i: usize) -> CocoId {
        self.of.image_id(self.indices[i])
    }

    fn load(&self, i: usize) -> Result<DetSample, DataError> {
        self.of.load(self.indices[i])
    }

    fn classes(&self) -> &DetClasses {
        self.of.classes()
    }

    fn warnings(&self) -> &[String] {
        self.of.warnings()
    }

    fn image_path(&self, i: usize) -> Option<&Path> {
        self.of.image_path(self.indices[i])
    }
}
