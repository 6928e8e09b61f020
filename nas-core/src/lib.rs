//! Spaces, operators, strategies and the machinery to run them: everything of the project that knows no data format, no
//! task loss and no head. See `ARCHITECTURE.md` for the code map.

pub mod arch;
pub mod cli;
pub mod compare;
pub mod comparison;
pub mod config;
pub mod cost;
pub mod device;
pub mod estimator;
pub mod executor;
pub mod experiment;
pub mod goals;
pub mod interrupt;
pub mod nn;
pub mod one_shot;
pub mod optim;
pub mod pareto;
pub mod picture;
pub mod plot;
pub mod progress;
pub mod report;
pub mod run_dir;
pub mod search;
pub mod space;
pub mod stats;
pub mod strategy;
pub mod train;
pub mod training;
pub mod trial;
pub mod trial_store;
