//! The `[data]` section of a detection experiment.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shapes::ShapesDataset;
use super::{DetDataset, coco, voc};
use crate::error::DataError;
use crate::split::Split;

/// Which data set, and where. Relative paths start at the current folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DetDataConfig {
    /// COCO 2017 in its official layout: `annotations/instances_SPLIT2017.json`, `SPLIT2017/`.
    Coco {
        /// Folder that holds `annotations`.
        root: PathBuf,
    },
    /// People's own sets in COCO's format.
    CocoFiles {
        /// What is trained on.
        train: CocoSplit,
        /// What is scored.
        val: CocoSplit,
    },
    /// Pascal VOC's layout.
    Voc {
        /// Folder that holds `Annotations`, `JPEGImages` and `ImageSets/Main`.
        root: PathBuf,
        /// Class names in the order of class indices; all names of `Annotations` in alphabetical order if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        classes: Option<Vec<String>>,
    },
    /// Synthetic shapes, drawn when they are needed.
    Shapes {
        /// Training images.
        num_images: usize,
        /// Validation images.
        num_val: usize,
        /// Seed of the pictures.
        seed: u64,
    },
}

/// One split of a set in COCO's format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CocoSplit {
    /// Annotation file.
    pub annotations: PathBuf,
    /// Folder that its file names start from.
    pub images: PathBuf,
}

impl DetDataConfig {
    /// What a split's classes are read from, for messages.
    pub fn place(&self, split: Split) -> String {
        match self {
            Self::Coco { root } => root.join(format!("annotations/instances_{split}2017.json")).display().to_string(),
            Self::CocoFiles { train, val } => {
                let part = if split == Split::Train { train } else { val };
                part.annotations.display().to_string()
            }
            Self::Voc { root, .. } => root.join("Annotations").display().to_string(),
            Self::Shapes { .. } => format!("the {split} split of shapes"),
        }
    }

    /// Opens what is trained on and what is scored, whose classes must be the same.
    pub fn open_both(&self) -> Result<[Arc<dyn DetDataset>; 2], DataError> {
        let (train, val) = (self.open(Split::Train)?, self.open(Split::Val)?);
        let (place, other) = (self.place(Split::Train), self.place(Split::Val));
        train.classes().require_same(&place, val.classes(), &other)?;
        Ok([train, val])
    }

    /// Opens one split. Boxes are read, images are not yet; a split without images is an error.
    pub fn open(&self, split: Split) -> Result<Arc<dyn DetDataset>, DataError> {
        Ok(match self {
            Self::Coco { root } => {
                let annotations = root.join(format!("annotations/instances_{split}2017.json"));
                Arc::new(coco::open(&annotations, &root.join(format!("{split}2017")))?)
            }
            Self::CocoFiles { train, val } => {
                let CocoSplit { annotations, images } = match split {
                    Split::Train => train,
                    Split::Val => val,
                    Split::Test => {
                        let (key, found) = ("data.kind", "coco_files".into());
                        return Err(DataError::Setting { key, found, expected: "a set with a test split" });
                    }
                };
                Arc::new(coco::open(annotations, images)?)
            }
            Self::Voc { root, classes } => Arc::new(voc::open(root, split, classes.as_deref())?),
            &Self::Shapes { num_images, num_val, seed } => {
                let len = match split {
                    Split::Train => num_images,
                    Split::Val => num_val,
                    Split::Test => 0,
                };
                Arc::new(ShapesDataset::new(len, seed, split)?)
            }
        })
    }
}
