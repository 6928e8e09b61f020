//! Image sizes, and pixels as tensors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::images::MAX_PIXELS;

/// A height and a width in pixels, neither of them zero, of at most [`MAX_PIXELS`]; `[height, width]` in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "[u32; 2]", into = "[u32; 2]")]
pub struct Size {
    height: u32,
    width: u32,
}

impl Size {
    /// A size.
    ///
    /// # Panics
    /// If one of the two is zero, or both together are too large.
    pub fn new(height: u32, width: u32) -> Self {
        Self::checked(height, width).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn checked(height: u32, width: u32) -> Result<Self, String> {
        match (height, width) {
            (0, _) | (_, 0) => Err(format!("a size of [{height}, {width}], expected [height, width] of at least 1")),
            (h, w) if u64::from(h) * u64::from(w) > MAX_PIXELS => {
                Err(format!("a size of [{h}, {w}], expected at most {MAX_PIXELS} pixels"))
            }
            _ => Ok(Self { height, width }),
        }
    }

    /// Height in pixels.
    pub fn height(self) -> u32 {
        self.height
    }

    /// Width in pixels.
    pub fn width(self) -> u32 {
        self.width
    }
}

impl TryFrom<[u32; 2]> for Size {
    type Error = String;

    fn try_from([height, width]: [u32; 2]) -> Result<Self, String> {
        Self::checked(height, width)
    }
}

impl From<Size> for [u32; 2] {
    fn from(size: Size) -> Self {
        [size.height, size.width]
    }
}

/// A tensor `[B, 3, H, W]` of values in the order `[B, H, W, 3]`, which is torch's channels-last memory.
pub(crate) fn channels_last(values: &[f32], batch: usize, size: Size) -> Tensor {
    let dims = [batch as i64, size.height.into(), size.width.into(), 3];
    Tensor::from_slice(values).view(dims).permute([0, 3, 1, 2])
}
