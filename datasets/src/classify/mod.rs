//! Data sets for image classification: readers of public formats, augmentation, batches.

mod auto_augment;
mod cifar;
mod config;
mod folder;
mod loader;
mod mnist;
mod part;
mod rand_augment;
mod synth;
mod transform;

pub use auto_augment::AutoAugment;
pub use config::ClassifyDataConfig;
pub use loader::{ClassifyBatch, ClassifyEvalBatch, Images, eval_batches, train_loader};
pub use part::Part;
pub use rand_augment::RandAugment;
pub use transform::{ClassifyEvalTransform, ClassifyTransform, Crop, ResizedCrop};

use std::borrow::Cow;
use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;

use crate::error::{DataError, Problem};

/// Images with a class each, by index.
pub trait ClassifyDataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample; readers refuse such splits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of sample `i`, unique in the split, such as `test_batch/00012` or `cat/1.jpg`.
    fn name(&self, i: usize) -> Cow<'_, str>;

    /// Decodes the image of sample `i`.
    fn image(&self, i: usize) -> Result<RgbImage, DataError>;

    /// Class of sample `i`, an index into [`ClassifyDataset::classes`].
    fn label(&self, i: usize) -> usize;

    /// Names of the classes.
    fn classes(&self) -> &[String];

    /// Files that are no sample, such as a text among the images.
    fn orphans(&self) -> &[Problem] {
        &[]
    }

    /// What was left out or looks like a mistake though the set can be used, with counts, one sentence each.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// The image file of sample `i`, where it has one of its own.
    fn image_path(&self, _i: usize) -> Option<&Path> {
        None
    }
}

/// Reads every sample and lists what is wrong, in the set's order, on all cores of rayon's global pool.
pub fn check(dataset: &dyn ClassifyDataset) -> Vec<Problem> {
    let broken = (0..dataset.len()).into_par_iter().filter_map(|i| match dataset.image(i) {
        Ok(_) => None,
        Err(DataError::Invalid(problem)) => Some(problem),
        Err(other) => Some(Problem::new(dataset.name(i).as_ref().as_ref(), other.to_string(), "a readable sample")),
    });
    let mut problems: Vec<Problem> = broken.collect();
    problems.extend_from_slice(dataset.orphans());
    problems
}

/// Samples that are in memory as bytes.
struct InMemory {
    /// Name of the file of each part, and its number of samples.
    files: Vec<(String, usize)>,
    /// Height and width.
    size: (u32, u32),
    /// One RGB image after the other, `[H, W, 3]` each.
    pixels: Vec<u8>,
    labels: Vec<u16>,
    classes: Vec<String>,
}

impl ClassifyDataset for InMemory {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn name(&self, i: usize) -> Cow<'_, str> {
        let mut rest = i;
        for (file, len) in &self.files {
            if rest < *len {
                return format!("{file}/{rest:05}").into();
            }
            rest -= len;
        }
        unreachable!("sample {i} of {}", self.len())
    }

    fn image(&self, i: usize) -> Result<RgbImage, DataError> {
        let ((h, w), bytes) = (self.size, (self.size.0 * self.size.1 * 3) as usize);
        Ok(RgbImage::from_raw(w, h, self.pixels[i * bytes..][..bytes].to_vec()).expect("three bytes per pixel"))
    }

    fn label(&self, i: usize) -> usize {
        self.labels[i].into()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }
}

#[cfg(test)]
mod tests;
