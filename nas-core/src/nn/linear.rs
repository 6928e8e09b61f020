//! The linear layer.

use tch::Tensor;

use super::layers::{self, Layer};
use super::{Init, VarBuilder, probe};
use crate::nn::Cost;

/// `xs * weightᵀ + bias`.
#[derive(Debug)]
pub struct Linear {
    dims: [i64; 2],
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// A layer with torchvision's variable names.
    pub fn new(vb: &VarBuilder, c_in: i64, c_out: i64) -> Self {
        Self::with_init(vb, (c_in, c_out), Init::FanIn)
    }

    /// A layer whose weights start by `init`.
    pub fn with_init(vb: &VarBuilder, (c_in, c_out): (i64, i64), init: Init) -> Self {
        let dims = [c_out, c_in];
        Self { dims, weight: vb.weight("weight", &dims, init), bias: vb.weight("bias", &[c_out], Init::Const(0.0)) }
    }

    /// `[B, c_out]` of `[B, c_in]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let ys = xs.linear(&self.weight, Some(&self.bias));
        probe::report(probe::Site::Weighted, &ys);
        ys
    }

    /// Parameters and multiply-adds for one image.
    pub fn cost(&self) -> Cost {
        layers::note(|| Layer::Linear { channels: (self.dims[1], self.dims[0]) });
        let [c_out, c_in] = self.dims.map(|n| n as u64);
        Cost { params: c_out * c_in + c_out, macs: c_out * c_in }
    }
}
