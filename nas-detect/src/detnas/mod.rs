//! DetNAS (Chen et al. 2019, arXiv 1903.10979): backbones of ShuffleNetV2 blocks, one of four operators per block.

mod block;
mod network;
mod released;
mod space;
mod supernet;

pub use block::{BlockOp, ChannelShuffle, WeightInit};
pub use network::DetNasNet;
pub use released::{Released, released};
pub use space::{DetNasConfig, DetNasSize, DetNasSpace, MacsTable};
pub use supernet::{DetNasSupernet, path_weights};

#[cfg(test)]
mod tests;
