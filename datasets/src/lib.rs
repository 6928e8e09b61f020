//! Data sets for semantic segmentation and ([`classify`]) image classification: readers of public formats, transforms, a
//! seeded prefetching loader, and synthetic sets.
//!
//! A reader gives [`SegDataset`]: samples by index, labels already as *train ids* (`0..K`, [`IGNORE`] for pixels that
//! do not count). [`TrainLoader`] turns one into the same batches for the same seed, whatever the number of threads;
//! [`eval_samples`] walks through one in order. [`check`] lists every broken sample before hours are spent on it.
//!
//! This crate knows no model and no loss.

pub mod camvid;
pub mod cityscapes;
pub mod classify;
pub mod config;
pub mod dataset;
pub mod det;
pub mod error;
pub mod folder;
pub mod loader;
pub mod rng;
pub mod synth;
pub mod transform;

mod assembly;
mod axis;
mod cache;
mod file_set;
mod files;
mod palette;
mod pixels;
mod prefetch;
mod subset;

pub use config::DataConfig;
pub use dataset::{Classes, IGNORE, Sample, SegDataset, Split, check};
pub use error::{DataError, Problem};
pub use files::{image_files, read_image, read_label};
pub use loader::{Batch, EvalSample, LoaderConfig, Source, TrainLoader, disjoint_halves, eval_samples, hold_out};
pub use subset::Subset;
pub use transform::{EvalTransform, Size, TrainTransform};
