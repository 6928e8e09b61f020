//! Cell spaces in the frame of DARTS (arXiv 1806.09055): genotypes, their networks and the published ones.

mod aux_head;
mod frame;
mod genotype;
mod network;
mod notation;
pub mod published;

pub use frame::{FrameConfig, Place, StemKind};
pub use genotype::{Cell, Edge, Genotype, ParseGenotypeError};
pub use network::{Network, NetworkConfig, Trunk};

#[cfg(test)]
mod tests;
