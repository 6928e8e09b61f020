//! NAS-Bench-201 (Dong and Yang 2020, arXiv 2001.00326): cells of four nodes whose six edges each hold one of five
//! operators, 15,625 architectures with tabulated accuracies.

mod network;

pub use network::{Network, NetworkConfig, OPERATORS, Trunk};
