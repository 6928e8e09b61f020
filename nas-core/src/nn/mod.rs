//! Layers over libtorch: one struct per layer, which computes (`forward`) and counts itself (`cost`).
//!
//! A layer is made from a [`VarBuilder`]. A *dry* builder hands out undefined tensors, so that the cost of a network can
//! be counted without allocating its weights.

mod batch_norm;
mod cell_convs;
mod conv;
mod conv_norm;
mod cost;
mod distillation;
pub mod layers;
mod linear;
mod ops;
mod precision;
pub mod probe;
mod random;
pub mod ranks;
mod shared;
pub(crate) mod torch;
mod var_builder;

pub use batch_norm::{AverageAll, BatchNorm, BnConfig, MixedNorms, Moves, synchronise_batch_norm};
pub use cell_convs::{FactorizedReduce, ReluConvBn};
pub use conv::{Activation, Conv2d, ConvConfig, pointwise, relu};
pub use conv_norm::{ConvNorm, FrozenBatchNorm, Norm, NormConfig, chain, chain_cost, conv_bn};
pub use cost::{Cost, Shape};
pub use distillation::distillation;
pub use linear::Linear;
pub use ops::{Op, OpConfig};
pub use precision::{autocast, choose_bfloat16};
pub use random::{build_on, drop_path, dropout};
pub use shared::{Shared, Sum};
pub use var_builder::{Init, Notes, VarBuilder};

use std::fmt;

use tch::Tensor;

/// How a forward pass runs.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Batch statistics, dropout and drop path are active.
    pub train: bool,
    /// Share of the training that is done, `0..=1`; schedules inside layers (drop path) follow it.
    pub progress: f64,
}

impl Mode {
    /// Evaluation: running statistics, no randomness.
    pub const EVAL: Mode = Mode { train: false, progress: 1.0 };

    /// Training, `progress` of the way through it.
    pub fn train(progress: f64) -> Self {
        Self { train: true, progress }
    }
}

/// A layer with one input and one output.
pub trait Module: fmt::Debug {
    /// Output `[B, C', H', W']` of `xs` `[B, C, H, W]`.
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor;

    /// As [`Module::forward`] for a map that other layers read too, times `scale`, a tensor of one number.
    fn forward_shared(&self, xs: &Shared, scale: Option<&Tensor>, mode: Mode) -> Tensor {
        let ys = self.forward(xs.map(), mode);
        scale.map_or_else(|| ys.shallow_clone(), |scale| &ys * scale)
    }

    /// The convolutions and norms that an operator of cells consists of, in the order of computation; else none.
    fn parts(&self) -> (Vec<&Conv2d>, Vec<&BatchNorm>) {
        Default::default()
    }

    /// Adds the layer's parameters and multiply-adds on an input of shape `xs` to `cost`; returns the output's shape.
    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape;
}

/// Layers one after the other.
#[derive(Debug, Default)]
pub struct Sequential(pub Vec<Box<dyn Module>>);

impl Sequential {
    /// Appends a layer.
    #[expect(clippy::should_implement_trait, reason = "tch's nn::Sequential spells it so")]
    pub fn add(mut self, layer: impl Module + 'static) -> Self {
        self.0.push(Box::new(layer));
        self
    }
}

impl Module for Sequential {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.0.iter().fold(xs.shallow_clone(), |xs, layer| layer.forward(&xs, mode))
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        self.0.iter().fold(xs, |xs, layer| layer.cost(xs, cost))
    }
}

/// Bilinear interpolation to `size` (height, width) with aligned corners, DeepLab's choice. The same size is returned as is.
pub fn resize_bilinear(xs: &Tensor, size: (i64, i64)) -> Tensor {
    let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
    match (h, w) == size {
        true => xs.shallow_clone(),
        // The operator's gradient on a card is a sum in any order.
        false if xs.device().is_cuda() && torch::is_deterministic() => resize_by_products(xs, size),
        false => xs.upsample_bilinear2d([size.0, size.1], true, None, None),
    }
}

/// [`resize_bilinear`] as products with matrices from rows to rows and from columns to columns.
fn resize_by_products(xs: &Tensor, size: (i64, i64)) -> Tensor {
    let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
    let matrix = |from, to| interpolation(from, to).to_kind(xs.kind()).to_device(xs.device());
    matrix(h, size.0).matmul(xs).matmul(&matrix(w, size.1).transpose(0, 1))
}

/// `[to, from]`: what each of `to` points, spread with their ends on those of `from` points, takes of these.
fn interpolation(from: i64, to: i64) -> Tensor {
    let step = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
    let mut weights = vec![0f32; (from * to) as usize];
    for i in 0..to {
        let at = step * i as f32;
        let low = (at as i64).min(from - 1);
        let share = at - low as f32;
        weights[(i * from + low) as usize] += 1.0 - share;
        weights[(i * from + (low + 1).min(from - 1)) as usize] += share;
    }
    Tensor::from_slice(&weights).view([to, from])
}

/// Rearranges `[B, C, H, W]` into channels-last memory, the fast layout of libtorch's convolutions on CPU and GPU.
pub fn channels_last(xs: &Tensor) -> Tensor {
    map(&rows(xs).contiguous())
}

/// A map `[B, C, H, W]` as it lies in channels-last memory, `[B, H, W, C]`.
pub fn rows(map: &Tensor) -> Tensor {
    map.permute([0, 2, 3, 1])
}

/// The map `[B, C, H, W]` whose memory is `rows` `[B, H, W, C]`.
pub fn map(rows: &Tensor) -> Tensor {
    rows.permute([0, 3, 1, 2])
}

/// 3x3 max pooling of stride 2.
pub fn max_pool(xs: &Tensor) -> Tensor {
    xs.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
}

/// What [`max_pool`] gives.
pub fn max_pool_shape(xs: Shape) -> Shape {
    xs.with_size(((xs.h - 1) / 2 + 1, (xs.w - 1) / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn resizing_by_products_is_bilinear_interpolation() {
        tch::manual_seed(2);
        let xs = Tensor::randn([2, 3, 7, 10], (Kind::Float, Device::Cpu));
        for size in [(13, 19), (4, 3), (7, 1), (1, 10), (28, 21)] {
            let (found, expected) = (resize_by_products(&xs, size), resize_bilinear(&xs, size));
            assert!(found.allclose(&expected, 1e-5, 1e-5, false), "{size:?}");
        }
    }
}
