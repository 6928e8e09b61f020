//! Image classification: cell and block search spaces, heads and metrics.

pub mod nasbench201;
