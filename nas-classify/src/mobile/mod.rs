//! Mobile networks: published networks of inverted residuals, and the space of their kernels, expansions,
//! squeeze-and-excitation, activations and depths.

mod network;
mod presets;
mod published;
mod space;
mod supernet;

pub use network::{Head, Network};
pub use presets::MobilePreset;
pub use published::Published;
pub use space::{MobileSpace, Stage, block_name};
pub use supernet::MobileSupernet;

#[cfg(test)]
mod tests;
