//! What only `nas-detect` has: one file per command.

pub mod data;
pub mod eval;
pub mod export;
pub mod gpu_check;
pub mod models;
pub mod predict;
