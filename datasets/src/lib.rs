//! Data sets for semantic segmentation ([`seg`]), image classification ([`classify`]) and object detection ([`det`]): readers
//! of public formats, transforms, a seeded prefetching loader, and synthetic sets.
//!
//! A reader gives samples by index, labels already as indices of classes. [`TrainLoader`] turns any [`Source`] into the same
//! batches for the same seed, whatever the number of threads. Each task's `check` lists every broken sample before hours
//! are spent on it.
//!
//! This crate knows no model and no loss.

pub mod classify;
pub mod det;
pub mod error;
pub mod loader;
pub mod rng;
mod sample_set;
pub mod seg;

mod axis;
mod cache;
mod canvas;
mod classes;
mod files;
mod images;
mod names;
mod overlap;
mod pixels;
mod prefetch;
mod size;
mod split;
mod subset;
pub mod tally;

pub use classes::{ClassesDiffer, require_same_classes};
pub use error::{DataError, Problem};
pub use files::{image_files, is_of_the_system, open_regular, read_bytes, read_utf8};
pub use images::{LabelFile, MAX_PIXELS, read_image, read_label};
pub use loader::{LoaderConfig, Source, TrainLoader, disjoint_halves, hold_out};
pub use overlap::shared_images;
pub use sample_set::SampleSet;
pub use seg::cityscapes::cityscapes_label_ids;
pub use seg::config::DataConfig;
pub use seg::loader::{Batch, EvalSample, eval_samples};
pub use seg::transform::{EvalTransform, TrainTransform};
pub use seg::{Classes, IGNORE, Sample, SegDataset, check, synth, unlabelled};
pub use size::Size;
pub use split::Split;
pub use subset::Subset;
