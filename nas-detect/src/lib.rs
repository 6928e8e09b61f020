//! Object detection: backbones to search, necks, one-stage heads and mAP.

pub mod backbone;
pub mod cost;
pub mod detnas;
pub mod layers;
