//! Auto-DeepLab (Liu et al. 2019, arXiv 1901.02985): search of a segmentation network on two levels, the strides of the
//! network and the cell that is repeated in it.

mod decode;
mod drawing;
mod genotype;
mod mixed_cell;
mod network;
mod space;
mod stem;
mod supernet;

pub use drawing::svg;
pub use genotype::{Edge, Genotype, OPS};
pub use network::{AutoDeepLabConfig, Network, Wiring};
pub use space::AutoDeepLabSpace;
pub use supernet::{SearchNet, Trellis};
