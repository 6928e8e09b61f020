//! What a network costs, counted from shapes alone.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Size of a network, counted from its structure without running it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Trainable scalars: weights, biases, batch-norm scales and shifts. Running statistics are not counted.
    pub params: u64,
    /// Multiply-adds of convolutions and linear layers for one image. Norms, activations, pooling, interpolation and
    /// additions are not counted.
    pub macs: u64,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.params += other.params;
        self.macs += other.macs;
    }
}

/// Shape of one image or feature map, without the batch dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub c: i64,
    /// Height in pixels.
    pub h: i64,
    /// Width in pixels.
    pub w: i64,
}

impl Shape {
    /// A shape from channels, height and width.
    pub fn new(c: i64, h: i64, w: i64) -> Self {
        Self { c, h, w }
    }

    /// The same map with other channels.
    pub fn with_channels(self, c: i64) -> Self {
        Self { c, ..self }
    }

    /// The same channels at another size.
    pub fn with_size(self, (h, w): (i64, i64)) -> Self {
        Self { h, w, ..self }
    }

    /// Height and width.
    pub fn size(self) -> (i64, i64) {
        (self.h, self.w)
    }
}
