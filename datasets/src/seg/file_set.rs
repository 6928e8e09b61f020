//! The data set behind every format on disk: pairs of an image file and a label file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::GrayImage;

use super::{Classes, IGNORE, Sample, SegDataset};
use crate::error::{DataError, Problem};
use crate::images::{self, LabelFile};
use crate::names::Unique;
use crate::tally::Tally;

/// What the pixel values of a label file mean.
pub struct LabelIds {
    train_ids: [Option<u8>; 256],
    expected: String,
}

impl LabelIds {
    /// Meaning by pairs of (value in the file, train id); other values are errors that say what was `expected`.
    pub fn new(pairs: impl IntoIterator<Item = (u8, u8)>, expected: impl Into<String>) -> Arc<Self> {
        let mut train_ids = [None; 256];
        for (value, train_id) in pairs {
            train_ids[usize::from(value)] = Some(train_id);
        }
        Arc::new(Self { train_ids, expected: expected.into() })
    }

    /// Values that are train ids `0..num_classes` already.
    pub fn identity(num_classes: usize) -> Arc<Self> {
        let pairs = (0..num_classes as u8).map(|id| (id, id)).chain([(IGNORE, IGNORE)]);
        Self::new(pairs, format!("a class id 0..={} or {IGNORE} (ignore)", num_classes - 1))
    }

    /// Train ids by value.
    pub fn train_ids(&self) -> &[Option<u8>; 256] {
        &self.train_ids
    }

    /// Replaces values by train ids; the error says which value at which pixel has no meaning.
    fn apply(&self, label: &mut GrayImage) -> Result<(), String> {
        for (x, y, pixel) in label.enumerate_pixels_mut() {
            match self.train_ids[usize::from(pixel[0])] {
                Some(train_id) => pixel[0] = train_id,
                None => return Err(format!("label value {} at x={x} y={y}", pixel[0])),
            }
        }
        Ok(())
    }
}

/// A label file and what its values mean.
#[derive(Clone)]
pub struct Label {
    pub path: PathBuf,
    pub ids: Arc<LabelIds>,
}

/// An image file and its label, if it has one.
pub struct Pair {
    pub name: String,
    pub image: PathBuf,
    pub label: Option<Label>,
}

/// Samples on disk.
pub struct FileSet {
    classes: Classes,
    pairs: Vec<Pair>,
    orphans: Vec<Problem>,
    warnings: Vec<String>,
}

impl FileSet {
    /// Leaves out pairs that are listed again and numbers others of one name, both with a warning.
    pub fn new(classes: Classes, mut pairs: Vec<Pair>, orphans: Vec<Problem>) -> Self {
        let (mut names, mut seen) = (Unique::default(), HashSet::new());
        let (mut again, mut numbered, mut warnings) = (Tally::default(), Tally::default(), Vec::new());
        pairs.retain_mut(|pair| {
            if !seen.insert((pair.image.clone(), pair.label.as_ref().map(|label| label.path.clone()))) {
                again.add(|| pair.name.clone());
                return false;
            }
            let name = names.claim(&pair.name);
            if name != pair.name {
                numbered.add(|| format!("{} as {name}", pair.image.display()));
                pair.name = name;
            }
            true
        });
        again.report("samples are listed a second time and were left out there", &mut warnings);
        numbered.report("samples have the name of another one and got a number", &mut warnings);
        Self { classes, pairs, orphans, warnings }
    }
}

impl SegDataset for FileSet {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn name(&self, i: usize) -> &str {
        &self.pairs[i].name
    }

    fn load(&self, i: usize) -> Result<Sample, DataError> {
        let pair = &self.pairs[i];
        let Some(label) = &pair.label else {
            return Ok(Sample { image: images::read_image(&pair.image)?, label: None });
        };
        let read = images::read_turned(&pair.image)?;
        let partner = format!("a one-channel PNG of class ids, the label of {}", pair.image.display());
        let file = LabelFile::open(&label.path, &partner)?;
        let (found_w, found_h) = file.dimensions();
        if (found_w, found_h) != read.image.dimensions() {
            let expected = format!("{} as in {}", read.size(), pair.image.display());
            return Err(Problem::new(&label.path, format!("{found_w}x{found_h} pixels"), expected).into());
        }
        let mut pixels = file.decode(&label.path, &partner)?;
        let ids = &label.ids;
        ids.apply(&mut pixels).map_err(|found| Problem::new(&label.path, found, &*ids.expected))?;
        Ok(Sample { image: read.image, label: Some(pixels) })
    }

    fn classes(&self) -> &Classes {
        &self.classes
    }

    fn has_labels(&self) -> bool {
        self.pairs.iter().all(|pair| pair.label.is_some())
    }

    fn orphans(&self) -> &[Problem] {
        &self.orphans
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn image_path(&self, i: usize) -> Option<&Path> {
        Some(&self.pairs[i].image)
    }
}
