//! The `[data]` section of an experiment file.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SegDataset;
use super::{camvid, cityscapes, folder};
use crate::error::DataError;
use crate::seg::synth::SynthDataset;
use crate::size::Size;
use crate::split::Split;

/// Which data set, and where. Relative roots start at the current folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataConfig {
    /// Cityscapes in its official layout.
    Cityscapes {
        /// Folder that holds `leftImg8bit` and `gtFine`.
        root: PathBuf,
    },
    /// CamVid in SegNet's layout.
    Camvid {
        /// Folder that holds `train.txt`.
        root: PathBuf,
    },
    /// People's own images and masks.
    Folder {
        /// Folder that holds `images`, `masks` and `classes.txt`.
        root: PathBuf,
    },
    /// Synthetic street scenes, drawn when they are needed.
    Synth {
        /// Training images.
        num_images: usize,
        /// Validation images.
        num_val: usize,
        /// Height of the images in pixels.
        height: u32,
        /// Width of the images in pixels.
        width: u32,
        /// Seed of the scenes.
        seed: u64,
    },
}

impl DataConfig {
    /// What the classes are read from, for messages.
    pub fn place(&self) -> String {
        match self {
            Self::Cityscapes { .. } => "Cityscapes".into(),
            Self::Camvid { .. } => "CamVid".into(),
            Self::Folder { root } => root.join("classes.txt").display().to_string(),
            Self::Synth { .. } => "the synthetic scenes".into(),
        }
    }

    /// Opens one split. Files are listed, not yet read; a split without images is an error.
    pub fn open(&self, split: Split) -> Result<Arc<dyn SegDataset>, DataError> {
        Ok(match self {
            Self::Cityscapes { root } => Arc::new(cityscapes::open(root, split)?),
            Self::Camvid { root } => Arc::new(camvid::open(root, split)?),
            Self::Folder { root } => Arc::new(folder::open(root, split)?),
            &Self::Synth { num_images, num_val, height, width, seed } => {
                let size = Size::checked(height, width).map_err(|_| DataError::Setting {
                    key: "data.height, data.width",
                    found: format!("{height}, {width}"),
                    expected: "at least 1 pixel each, and at most 67108864 in all",
                })?;
                let len = match split {
                    Split::Train => num_images,
                    Split::Val => num_val,
                    Split::Test => 0,
                };
                Arc::new(SynthDataset::new(len, size, seed, split)?)
            }
        })
    }
}
