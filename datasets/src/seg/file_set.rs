//! The data set behind every format on disk: pairs of an image file and a label file.

use std::path::PathBuf;
use std::sync::Arc;

use image::GrayImage;

use super::{Classes, IGNORE, Sample, SegDataset};
use crate::error::{DataError, Problem};
use crate::files;

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
    pub classes: Classes,
    pub pairs: Vec<Pair>,
    pub orphans: Vec<Problem>,
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
        let image = files::read_image(&pair.image)?;
        let Some(label) = &pair.label else {
            return Ok(Sample { image, label: None });
        };
        let partner = format!("a one-channel PNG of class ids, the label of {}", pair.image.display());
        let mut pixels = files::read_label(&label.path, &partner)?;
        let ((w, h), (found_w, found_h)) = (image.dimensions(), pixels.dimensions());
        if (w, h) != (found_w, found_h) {
            let expected = format!("{w}x{h} pixels as in {}", pair.image.display());
            return Err(Problem::new(&label.path, format!("{found_w}x{found_h} pixels"), expected).into());
        }
        let ids = &label.ids;
        ids.apply(&mut pixels).map_err(|found| Problem::new(&label.path, found, &*ids.expected))?;
        Ok(Sample { image, label: Some(pixels) })
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
}
