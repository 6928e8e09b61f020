//! Inverted residuals for dense prediction: a space in which both the reference DeepLabv3+ and SqueezeNAS' networks
//! (arXiv 1908.01748) are points, with widths, depths, strides, operators, head and decoder as choices.

mod block;
mod config;
mod drawing;
mod head;
mod network;
mod operator;
mod presets;
mod relaxed;
mod space;
mod supernet;
mod traits;

pub use block::Names;
pub use config::{DecoderStep, HeadConfig, MobileSegConfig, StageConfig, Tap};
pub use drawing::svg;
pub use operator::{Bottleneck, Operator};
pub use presets::presets;
pub use space::{Context, HeadChoices, MobileSegSpace, SpacePreset, StageChoices};
pub use supernet::MobileSegSupernet;

#[cfg(test)]
mod tests;
