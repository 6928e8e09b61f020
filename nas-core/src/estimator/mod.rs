//! Cheap estimates of how good a candidate is or will be.

pub mod learning_curve;
