//! Semantic segmentation: Auto-DeepLab's two-level search space, DeepLabv3+, and the evaluation that compares them.

pub mod auto_deeplab;
pub mod commands;
pub mod cost;
pub mod deeplabv3plus;
pub mod head;
pub mod loss;
pub mod metric;
pub mod miou;
pub mod mobile_seg;
pub mod model;
pub mod picture;
pub mod seg_net;
mod separable;
mod starters;
pub mod task;
