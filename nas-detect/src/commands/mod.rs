//! One file per command of `nas-detect`.

pub mod eval;
