//! One file per command of `nas-classify`.

pub mod bench;
pub mod strategies;
