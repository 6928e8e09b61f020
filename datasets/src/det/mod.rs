//! Data sets for object detection.

pub mod coco_json;
