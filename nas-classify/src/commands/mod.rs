//! What only `nas-classify` has: one file per command.

pub mod bench_step;
pub mod cost;
pub mod data;
pub mod eval;
pub mod export;
pub mod gpu_check;
pub mod models;
pub mod predict;
