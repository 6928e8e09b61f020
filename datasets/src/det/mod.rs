//! Data sets for object detection: readers of COCO JSON and Pascal VOC XML, a synthetic set of shapes, transforms that
//! move image and boxes together, and loaders that are seeded and prefetch like those of segmentation.
//!
//! Boxes are `[left, top, right, bottom]` in pixels, continuous: the left edge of the first pixel is 0, the right edge
//! of the last one is the image's width.

use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;

use crate::classes::{ClassesDiffer, require_same_classes};
use crate::error::{DataError, Problem};

pub mod coco;
mod coco_id;
pub mod coco_json;
pub mod config;
pub mod loader;
pub mod shapes;
pub mod transform;
pub mod voc;

mod file_set;
mod xml;

pub use coco_id::CocoId;
pub use config::{CocoSplit, DetDataConfig};
pub use file_set::unlabelled;
pub use loader::{
    DetBatch, DetEvalBatch, DetEvalSample, DetTarget, DetTrainLoader, det_eval_batches, det_train_loader,
};
pub use transform::DetTransform;

/// The classes of a set, both lists in the order of class indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetClasses {
    names: Vec<String>,
    ids: Vec<CocoId>,
}

impl DetClasses {
    /// Classes by (id in the set's files, name); the class index is the place in the order of ids. `Err` is an id that
    /// is given twice.
    pub fn new(classes: impl IntoIterator<Item = (CocoId, String)>) -> Result<Self, CocoId> {
        let mut classes: Vec<_> = classes.into_iter().collect();
        classes.sort();
        match classes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(pair[0].0.clone()),
            None => {
                let (ids, names) = classes.into_iter().unzip();
                Ok(Self { names, ids })
            }
        }
    }

    /// Classes whose ids in files are 1, 2, ... in this order.
    pub fn numbered(names: impl IntoIterator<Item = String>) -> Self {
        let (ids, names) = (1..).map(CocoId::Number).zip(names).unzip();
        Self { names, ids }
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no class at all.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Names by class index.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Ids in files by class index, rising, maybe with gaps.
    pub fn ids(&self) -> &[CocoId] {
        &self.ids
    }

    /// The class index of an id in files.
    pub fn index(&self, id: &CocoId) -> Option<usize> {
        self.ids.binary_search(id).ok()
    }

    /// Refuses another list of classes, whose indices or ids would mean something else. The places say whose lists they are.
    ///
    /// # Errors
    /// The first difference in words.
    pub fn require_same(&self, place: &str, others: &Self, other_place: &str) -> Result<(), ClassesDiffer> {
        require_same_classes(place, &self.names, other_place, &others.names)?;
        let mut ids = self.names.iter().zip(self.ids.iter().zip(&others.ids));
        match ids.find(|(_, (id, other))| id != other) {
            Some((name, (id, other))) => Err(ClassesDiffer::new(format!(
                "the ids of classes differ: {place}: class {name} has id {id}; {other_place}: id {other}"
            ))),
            None => Ok(()),
        }
    }
}

/// An object in an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Left, top, right, bottom in pixels. May reach outside the image.
    pub bbox: [f64; 4],
    /// Class index.
    pub class: usize,
    /// Area of the object in square pixels, at most the box's where files tell it.
    pub area: f64,
    /// Whether this is a group that is not told apart: it neither trains nor counts as missed.
    pub crowd: bool,
    /// VOC's mark for objects that neither count as found nor as missed.
    pub difficult: bool,
}

impl Object {
    /// Whether the box has a width and a height.
    pub fn has_size(&self) -> bool {
        let [x0, y0, x1, y1] = self.bbox;
        x1 > x0 && y1 > y0
    }

    /// Whether any of the box lies in an image of this width and height.
    pub fn is_inside(&self, width: u32, height: u32) -> bool {
        let [x0, y0, x1, y1] = self.bbox;
        x1 > 0.0 && y1 > 0.0 && x0 < width.into() && y0 < height.into()
    }
}

/// A decoded image and its objects; there may be none.
#[derive(Clone, Debug, PartialEq)]
pub struct DetSample {
    /// The image.
    pub image: RgbImage,
    /// What is in it. Every box has a size and lies at least partly in the image.
    pub objects: Vec<Object>,
}

/// Images with boxes, by index.
pub trait DetDataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample; readers refuse such splits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of sample `i`, unique in the set and fit for the name of a file.
    fn name(&self, i: usize) -> &str;

    /// What results files call sample `i`. Samples are in the order of these ids.
    fn image_id(&self, i: usize) -> CocoId;

    /// Decodes sample `i`.
    fn load(&self, i: usize) -> Result<DetSample, DataError>;

    /// The classes that class indices stand for.
    fn classes(&self) -> &DetClasses;

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
pub fn check(dataset: &dyn DetDataset) -> Vec<Problem> {
    let broken = (0..dataset.len()).into_par_iter().filter_map(|i| match loader::load(dataset, i) {
        Ok(_) => None,
        Err(DataError::Invalid(problem)) => Some(problem),
        Err(other) => Some(Problem::new(dataset.name(i).as_ref(), other.to_string(), "a readable sample")),
    });
    broken.collect()
}

#[cfg(test)]
mod tests;
