//! How good is a candidate: estimates that cost less than training it from scratch.

pub mod batch_norm_recalibration;
pub mod morphism;
