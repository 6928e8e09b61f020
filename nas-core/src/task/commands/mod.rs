//! Commands that all tasks share.

pub mod compare;
pub mod cost;
pub mod report;
pub mod train;
pub mod trainings;
