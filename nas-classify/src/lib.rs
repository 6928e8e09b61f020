//! Image classification: cell and block search spaces, networks, training, and the proof of the search strategies on a table
//! of trained networks.

pub mod cells;
pub mod chain;
pub mod classifier;
pub mod commands;
pub mod drawing;
pub mod loss;
pub mod metric;
pub mod mobile;
pub mod model;
pub mod nasbench201;
pub mod search_net;
mod starters;
pub mod task;
