//! Object detection: backbones to search, necks, one-stage heads and average precision.

pub mod backbone;
pub mod commands;
pub mod cost;
pub mod detnas;
pub mod eval;
pub mod head;
pub mod layers;
pub mod model;
pub mod neck;
pub mod nms;
pub mod picture;
mod starters;
pub mod task;

#[cfg(test)]
mod testing;
