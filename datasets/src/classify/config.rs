//! The `[data]` section of a classification experiment.

use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::synth::Shapes;
use super::{ClassifyDataset, Part, cifar, folder, mnist};
use crate::error::DataError;
use crate::split::Split;

/// Which data set, and where. Relative roots start at the current folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClassifyDataConfig {
    /// CIFAR-10 in the binary layout.
    Cifar10 {
        /// Folder that holds `cifar-10-batches-bin`.
        root: PathBuf,
        /// Which part of it.
        #[serde(default)]
        part: Part,
    },
    /// CIFAR-100 in the binary layout.
    Cifar100 {
        /// Folder that holds `cifar-100-binary`.
        root: PathBuf,
        /// Which part of it.
        #[serde(default)]
        part: Part,
    },
    /// MNIST's idx files.
    Mnist {
        /// Folder that holds `train-images-idx3-ubyte` or its gzipped form.
        root: PathBuf,
        /// Which part of it.
        #[serde(default)]
        part: Part,
    },
    /// One folder of images per class, as ImageNet's.
    Folder {
        /// Folder that holds `train` and `val`.
        root: PathBuf,
        /// Which part of it.
        #[serde(default)]
        part: Part,
    },
    /// Synthetic shapes in ten classes, drawn when they are needed.
    Synth {
        /// Training images.
        num_images: usize,
        /// Validation images.
        num_val: usize,
        /// Height and width of the images in pixels.
        #[serde(default = "default_side")]
        side: u32,
        /// Seed of the shapes.
        #[serde(default)]
        seed: u64,
        /// Which part of it.
        #[serde(default)]
        part: Part,
    },
}

fn default_side() -> u32 {
    32
}

impl ClassifyDataConfig {
    /// What the classes are read from, for messages.
    pub fn place(&self) -> String {
        match self {
            Self::Cifar10 { root, .. } | Self::Cifar100 { root, .. } => root.display().to_string(),
            Self::Folder { root, .. } => root.join("train").display().to_string(),
            Self::Mnist { .. } => "MNIST".into(),
            Self::Synth { .. } => "the synthetic shapes".into(),
        }
    }

    /// Opens one split. CIFAR's and MNIST's test files are both val and test split. A split without images is an error.
    pub fn open(&self, split: Split) -> Result<Arc<dyn ClassifyDataset>, DataError> {
        let part = self.part();
        part.validate()?;
        let source = part.source(split);
        let whole: Arc<dyn ClassifyDataset> = match self {
            Self::Cifar10 { root, .. } => Arc::new(cifar::open10(root, source)?),
            Self::Cifar100 { root, .. } => Arc::new(cifar::open100(root, source)?),
            Self::Mnist { root, .. } => Arc::new(mnist::open(root, source)?),
            Self::Folder { root, .. } => Arc::new(folder::open(root, source)?),
            &Self::Synth { num_images, num_val, side, seed, .. } => {
                let len = if source == Split::Train { num_images } else { num_val };
                Arc::new(Shapes::new(len, side, seed, source)?)
            }
        };
        part.apply(whole, split)
    }

    /// Which part of the set is used.
    pub fn part(&self) -> &Part {
        match self {
            Self::Cifar10 { part, .. }
            | Self::Cifar100 { part, .. }
            | Self::Mnist { part, .. }
            | Self::Folder { part, .. }
            | Self::Synth { part, .. } => part,
        }
    }

    /// The same set with another part.
    pub fn with_part(mut self, new: Part) -> Self {
        match &mut self {
            Self::Cifar10 { part, .. }
            | Self::Cifar100 { part, .. }
            | Self::Mnist { part, .. }
            | Self::Folder { part, .. }
            | Self::Synth { part, .. } => *part = new,
        }
        self
    }
}
