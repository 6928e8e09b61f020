//! Mobile networks: the inverted residual, published networks made of it, and the space of its kernels, expansions,
//! squeeze-and-excitation, activations and depths; ResNets as plain references.

mod block;
mod network;
mod presets;
mod published;
mod resnet;
mod space;
mod supernet;

pub use block::{BlockConfig, Gate, InvertedResidual, Naming};
pub use network::{Head, Layout, Network, Trunk};
pub use presets::MobilePreset;
pub use published::Published;
pub use resnet::ResNet;
pub use space::{MobileSpace, Stage};
pub use supernet::MobileSupernet;

#[cfg(test)]
mod tests;
