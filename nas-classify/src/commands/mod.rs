//! One file per command of `nas-classify`.

pub mod bench;
pub mod search;
pub mod strategies;
pub mod trial;
