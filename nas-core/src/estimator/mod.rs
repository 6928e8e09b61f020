//! How good is a candidate: estimates that cost less than training it.

pub mod zero_cost;
