//! One file per command of `nas-classify`.

pub mod bench;
pub mod cost;
mod one_shot;
pub mod search;
pub mod strategies;
pub mod trial;
