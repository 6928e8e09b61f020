//! Data sets for semantic segmentation: readers of public formats, synthetic street scenes, paired transforms and loaders.

pub mod camvid;
pub mod cityscapes;
pub mod config;
pub mod folder;
pub mod loader;
pub mod synth;
pub mod transform;

mod file_set;
mod palette;

use std::path::{Path, PathBuf};

use image::{GrayImage, RgbImage};
use rayon::prelude::*;

use crate::error::{DataError, Problem};
use crate::names;

/// Label value of pixels that neither train nor score.
pub const IGNORE: u8 = 255;

/// The classes of a set; all three lists are indexed by train id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Names.
    pub names: Vec<String>,
    /// Colours for pictures.
    pub colors: Vec<[u8; 3]>,
    /// Ids that the set's own label files use (Cityscapes: 7, 8, 11, ...).
    pub file_ids: Vec<u8>,
}

impl Classes {
    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no class at all.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// One decoded sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The image.
    pub image: RgbImage,
    /// Train ids (or [`IGNORE`]) of the same height and width; `None` in unlabelled splits.
    pub label: Option<GrayImage>,
}

/// Images with labels, by index.
pub trait SegDataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample; readers refuse such splits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of sample `i`, unique in the set and fit for the name of a file below a folder, such as `aachen_000000_000019`.
    fn name(&self, i: usize) -> &str;

    /// Decodes sample `i`. An `Ok` sample is sound: sizes agree and every label value is a train id or [`IGNORE`].
    fn load(&self, i: usize) -> Result<Sample, DataError>;

    /// The classes that label values stand for.
    fn classes(&self) -> &Classes;

    /// Whether every sample has a label.
    fn has_labels(&self) -> bool;

    /// Files that belong to no sample, such as a label without image.
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

impl Classes {
    /// Classes of which the names alone are known: with Cityscapes' or CamVid's colours and ids where the names are theirs.
    pub fn named(names: &[String]) -> Self {
        let known = [palette::cityscapes(), palette::camvid()].into_iter().find(|classes| classes.names == names);
        known.unwrap_or_else(|| Self {
            names: names.to_vec(),
            colors: (0..names.len()).map(palette::distinct).collect(),
            file_ids: (0..names.len()).map(|id| id as u8).collect(),
        })
    }

    /// Cityscapes' 19 classes.
    pub fn cityscapes() -> Self {
        palette::cityscapes()
    }
}

/// Image files without labels.
///
/// # Errors
/// If there is none.
pub fn unlabelled(classes: Classes, images: &[PathBuf]) -> Result<impl SegDataset + use<>, DataError> {
    if images.is_empty() {
        return Err(Problem::new("images".as_ref(), "none", "at least one").into());
    }
    let pair = |image: &PathBuf| file_set::Pair { name: names::stem(image), image: image.clone(), label: None };
    Ok(file_set::FileSet::new(classes, images.iter().map(pair).collect(), Vec::new()))
}

/// Reads every sample and lists what is wrong, in the set's order, on all cores of rayon's global pool.
pub fn check(dataset: &dyn SegDataset) -> Vec<Problem> {
    let broken = (0..dataset.len()).into_par_iter().filter_map(|i| match dataset.load(i) {
        Ok(_) => None,
        Err(DataError::Invalid(problem)) => Some(problem),
        Err(other) => Some(Problem::new(dataset.name(i).as_ref(), other.to_string(), "a readable sample")),
    });
    let mut problems: Vec<Problem> = broken.collect();
    problems.extend_from_slice(dataset.orphans());
    problems
}
