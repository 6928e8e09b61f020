//! Spaces, operators, strategies and the machinery to run them: everything of the project that knows no data format, no
//! task loss and no head. See `ARCHITECTURE.md` for the code map.

pub mod estimator;
pub mod executor;
pub mod models;
pub mod nn;
pub mod one_shot;
pub mod optim;
pub mod run;
pub mod search;
pub mod space;
pub mod stats;
pub mod strategy;
pub mod task;
pub mod train;
