//! One file per command of `nas-detect`.

pub mod data;
pub mod eval;
