//! NAS-Bench-201 (Dong and Yang, arXiv 2001.00326): a cell of four nodes and six edges with one of five operators each.

mod network;
mod space;
mod supernet;
mod vocabulary;

pub use network::{Network, NetworkConfig, Trunk, parts};
pub use space::{EDGES, NasBench201, OPS, ParseCellError};
pub use supernet::{NasBench201Nets, NasBench201Supernet};
