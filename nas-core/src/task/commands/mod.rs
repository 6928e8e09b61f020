//! Commands that all tasks share.

pub mod compare;
pub mod cost;
pub mod import;
pub mod report;
pub mod strategies;
pub mod train;
pub mod trainings;
