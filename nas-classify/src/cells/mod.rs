//! Cell spaces in the frame of DARTS (arXiv 1806.09055): genotypes, their networks and the published ones.

mod aux_head;
mod frame;
mod genotype;
mod joint;
mod network;
mod notation;
mod plan;
pub mod published;
mod space;
mod supernet;

pub use frame::{FrameConfig, Place, StemKind};
pub use genotype::{Cell, Edge, Genotype, ParseGenotypeError};
pub use network::{Network, NetworkConfig, Trunk};
pub use space::{CellForm, CellSpace, Share};
pub use supernet::CellSupernet;

#[cfg(test)]
mod tests;
