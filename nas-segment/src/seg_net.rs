//! What a segmentation network is: a backbone with a head.

use nas_core::nn::{Cost, Mode, Shape, channels_last};
use nas_core::space::Backbone;
use tch::Tensor;

use crate::head::DenseHead;

/// A backbone with a head.
#[derive(Debug)]
pub struct SegNet {
    /// Turns images into feature maps, low-level first and final last.
    pub backbone: Box<dyn Backbone>,
    /// Turns feature maps into logits.
    pub head: Box<dyn DenseHead>,
}

impl SegNet {
    /// Logits `[B, K, H, W]` of images `[B, 3, H, W]`.
    pub fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let (_, _, h, w) = xs.size4().expect("images have four dimensions");
        self.head.forward(&self.backbone.features(&channels_last(xs), mode), (h, w), mode)
    }

    /// Cost of every part on an image of `size` (height, width), from input to output.
    pub fn cost_parts(&self, (h, w): (i64, i64)) -> Vec<(String, Cost)> {
        let (mut parts, features) = self.backbone.cost_parts(Shape::new(3, h, w));
        parts.extend(self.head.cost_parts(&features));
        parts
    }

    /// Cost on an image of `size` (height, width).
    pub fn cost(&self, size: (i64, i64)) -> Cost {
        let mut total = Cost::default();
        for (_, part) in self.cost_parts(size) {
            total += part;
        }
        total
    }
}
