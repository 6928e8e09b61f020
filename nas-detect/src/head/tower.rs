//! The convolutions between a neck and the predictors of a head, shared by all levels.

use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder, relu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::layers::{BiasedConv, GroupNorm};

/// Norms between the convolutions of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TowerNorm {
    /// None.
    None,
    /// Group norms: no statistics of batches, nothing to recalibrate.
    #[default]
    Group,
    /// Batch norms, for every level its own (NAS-FPN, EfficientDet).
    BatchPerLevel,
}

/// What a [`Tower`] consists of.
#[derive(Clone, Copy, Debug)]
pub(super) struct TowerConfig {
    pub channels: i64,
    pub convs: usize,
    pub norm: TowerNorm,
    /// Convolutions before a group norm have a bias (torchvision's FCOS), or not (its RetinaNet).
    pub bias_before_group: bool,
    /// Depthwise-separable convolutions and swish, EfficientDet's head.
    pub separable: bool,
    pub num_levels: usize,
}

/// 3x3 convolutions, each with norm and activation.
#[derive(Debug)]
pub(super) struct Tower {
    layers: Vec<Layer>,
    separable: bool,
}

#[derive(Debug)]
struct Layer {
    conv: TowerConv,
    norm: LayerNorm,
}

#[derive(Debug)]
enum TowerConv {
    Plain(Conv2d),
    Separable(BiasedConv),
}

#[derive(Debug)]
enum LayerNorm {
    None,
    Group(GroupNorm),
    BatchPerLevel(Vec<BatchNorm>),
}

impl Tower {
    pub fn new(vb: &VarBuilder, config: TowerConfig) -> Self {
        let TowerConfig { channels: c, convs, norm, bias_before_group, separable, num_levels } = config;
        let bias = norm != TowerNorm::Group || bias_before_group;
        let plain = ConvConfig { bias, init: Init::Normal(0.01), ..Default::default() };
        let layer = |i: usize| {
            let vb = vb.sub(i);
            let (conv, norm_vb) = (vb.sub("conv"), vb.sub("norm"));
            let bn = BnConfig { momentum: 0.01, eps: 1e-3, affine: true };
            Layer {
                conv: match separable {
                    true => TowerConv::Separable(BiasedConv::separable(&conv, (c, c), 0.0)),
                    false => TowerConv::Plain(Conv2d::new(&conv, c, c, 3, plain)),
                },
                norm: match norm {
                    TowerNorm::None => LayerNorm::None,
                    TowerNorm::Group => LayerNorm::Group(GroupNorm::new(&norm_vb, c)),
                    TowerNorm::BatchPerLevel => {
                        let norm = |level| BatchNorm::new(&norm_vb.sub(level), c, bn);
                        LayerNorm::BatchPerLevel((0..num_levels).map(norm).collect())
                    }
                },
            }
        };
        Self { layers: (0..convs).map(layer).collect(), separable }
    }

    /// Output `[B, C, H, W]` of a map of `level`, which counts from the finest.
    pub fn forward(&self, xs: &Tensor, level: usize, mode: Mode) -> Tensor {
        self.layers.iter().fold(xs.shallow_clone(), |xs, Layer { conv, norm }| {
            let ys = match conv {
                TowerConv::Plain(conv) => conv.forward(&xs, mode),
                TowerConv::Separable(conv) => conv.forward(&xs, mode),
            };
            let ys = match norm {
                LayerNorm::None => ys,
                LayerNorm::Group(norm) => norm.forward(&ys, mode),
                LayerNorm::BatchPerLevel(norms) => norms[level].forward(&ys, mode),
            };
            if self.separable { ys.silu() } else { relu(&ys) }
        })
    }

    /// Adds the cost on all levels: multiply-adds of each, parameters once.
    pub fn cost(&self, maps: &[Shape], cost: &mut Cost) {
        for Layer { conv, norm } in &self.layers {
            match conv {
                TowerConv::Plain(conv) => shared_cost(conv, maps, cost),
                TowerConv::Separable(conv) => shared_cost(conv, maps, cost),
            }
            match norm {
                LayerNorm::None => {}
                LayerNorm::Group(norm) => shared_cost(norm, maps, cost),
                LayerNorm::BatchPerLevel(norms) => norms.iter().zip(maps).for_each(|(norm, xs)| {
                    norm.cost(*xs, cost);
                }),
            }
        }
    }

    pub fn norms(&self) -> impl Iterator<Item = &BatchNorm> {
        self.layers.iter().flat_map(|layer| match &layer.norm {
            LayerNorm::BatchPerLevel(norms) => norms.as_slice(),
            LayerNorm::None | LayerNorm::Group(_) => &[],
        })
    }
}

/// Cost of a layer that every level runs through: its parameters count once.
pub(super) fn shared_cost(layer: &impl Module, maps: &[Shape], cost: &mut Cost) {
    for (i, xs) in maps.iter().enumerate() {
        let mut one = Cost::default();
        layer.cost(*xs, &mut one);
        cost.macs += one.macs;
        cost.params += if i == 0 { one.params } else { 0 };
    }
}
