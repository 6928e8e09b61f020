//! ENAS' macro space (arXiv 1802.03268, section 2.3): a chain of layers, each with one operator and with skip connections
//! from any of the layers before it.

mod network;
mod space;

pub use network::ChainSupernet;
pub use space::ChainSpace;
