//! Estimators: how good an architecture is, and how soon that can be known.

pub mod batch_norm_recalibration;
pub mod graf;
pub mod honesty;
pub mod inheritance;
pub mod latency;
pub mod learning_curve;
pub mod predictor;
pub mod supernet;
pub mod training_speed;
pub mod zero_cost;
