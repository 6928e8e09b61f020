//! What sets of samples of all kinds have in common.

use std::path::Path;
use std::sync::Arc;

use crate::classify::ClassifyDataset;
use crate::det::DetDataset;
use crate::error::Problem;
use crate::seg::SegDataset;
use crate::subset::Subset;
use crate::{classify, det, seg};

/// A split of a data set, cheap to clone.
pub trait SampleSet: Clone + Send + Sync {
    /// Samples.
    fn len(&self) -> usize;

    /// Whether there is none; readers refuse such splits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of a sample, unique in the split.
    fn sample_name(&self, index: usize) -> String;

    /// The image file of a sample, where it has one of its own.
    fn image_path(&self, index: usize) -> Option<&Path>;

    /// The samples `indices`, in the order of the set.
    fn subset(&self, indices: Vec<usize>) -> Self;

    /// Every broken sample. Reads them all.
    fn problems(&self) -> Vec<Problem>;

    /// What is worth knowing of a set that is not broken, one sentence each.
    fn warnings(&self) -> Vec<String>;
}

macro_rules! sample_set {
    ($dataset:path, $check:path) => {
        impl SampleSet for Arc<dyn $dataset> {
            fn len(&self) -> usize {
                (**self).len()
            }

            fn sample_name(&self, index: usize) -> String {
                (**self).name(index).to_string()
            }

            fn image_path(&self, index: usize) -> Option<&Path> {
                (**self).image_path(index)
            }

            fn subset(&self, indices: Vec<usize>) -> Self {
                Arc::new(Subset::new(self.clone(), indices))
            }

            fn problems(&self) -> Vec<Problem> {
                $check(&**self)
            }

            fn warnings(&self) -> Vec<String> {
                (**self).warnings().to_vec()
            }
        }
    };
}

sample_set!(SegDataset, seg::check);
sample_set!(ClassifyDataset, classify::check);
sample_set!(DetDataset, det::check);
