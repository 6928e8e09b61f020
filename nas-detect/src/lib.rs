//! Object detection: backbones, necks, heads and average precision.

pub mod commands;
pub mod eval;
pub mod nms;
