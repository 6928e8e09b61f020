//! Necks: a backbone's maps in, maps of equal channels at every level out. Level `l` has stride `2^l`.

mod bifpn;
mod bifpn_space;
mod fpn;
mod nas_fpn;
mod nas_fpn_space;

pub use bifpn::{BiFpn, BiFpnConfig, BiFpnNode, Fusion, NodeInputs};
pub use bifpn_space::BiFpnSpace;
pub use fpn::{ExtraInput, Fpn, FpnConfig};
pub use nas_fpn::{Gate, GatePool, MergeOp, MergingCell, NasFpn, NasFpnConfig};
pub use nas_fpn_space::NasFpnSpace;

use std::fmt;

use anyhow::{Context, Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, Mode, Shape, VarBuilder};
use nas_core::space::FeatureInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A neck.
pub trait Neck: fmt::Debug {
    /// Maps `[B, C, H/2^l, W/2^l]` of each level, finest first, of a backbone's maps, finest first.
    fn forward(&self, features: &[Tensor], mode: Mode) -> Vec<Tensor>;

    /// Adds the neck's cost on a backbone's maps to `cost`; returns the shapes of its levels.
    fn cost(&self, features: &[Shape], cost: &mut Cost) -> Vec<Shape>;

    /// Its batch norms.
    fn norms(&self) -> Vec<&BatchNorm>;
}

/// The section `[model.neck]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NeckConfig {
    /// Feature pyramid network.
    Fpn(FpnConfig),
    /// Weighted bidirectional feature pyramid network.
    Bifpn(BiFpnConfig),
    /// Merging cells.
    NasFpn(NasFpnConfig),
}

impl NeckConfig {
    /// The neck over a backbone's `features`, its weights under `vb`. A value that no neck can be made of is an error that
    /// names the key.
    pub fn build(&self, vb: &VarBuilder, features: &[FeatureInfo]) -> Result<Box<dyn Neck>> {
        let channels = self.channels();
        ensure!((1..=4096).contains(&channels), "model.neck.channels = {channels}: expected 1 to 4096");
        self.levels().check()?;
        Ok(match self {
            Self::Fpn(config) => Box::new(Fpn::new(vb, config, Inputs::new(config.levels, features)?)),
            Self::Bifpn(config) => {
                config.check()?;
                Box::new(BiFpn::new(vb, config, Inputs::new(config.levels, features)?))
            }
            Self::NasFpn(config) => {
                config.check()?;
                Box::new(NasFpn::new(vb, config, Inputs::new(config.levels, features)?))
            }
        })
    }

    /// Channels of every level.
    pub fn channels(&self) -> i64 {
        match self {
            Self::Fpn(config) => config.channels,
            Self::Bifpn(config) => config.channels,
            Self::NasFpn(config) => config.channels,
        }
    }

    /// As [`NeckConfig::channels`], to be changed.
    pub fn channels_mut(&mut self) -> &mut i64 {
        match self {
            Self::Fpn(config) => &mut config.channels,
            Self::Bifpn(config) => &mut config.channels,
            Self::NasFpn(config) => &mut config.channels,
        }
    }

    /// The levels it gives.
    pub fn levels(&self) -> Levels {
        match self {
            Self::Fpn(config) => config.levels,
            Self::Bifpn(config) => config.levels,
            Self::NasFpn(config) => config.levels,
        }
    }

    /// What the sides of images must be multiples of.
    pub fn divisor(&self) -> i64 {
        match self {
            Self::Fpn(_) | Self::Bifpn(_) => 1,
            Self::NasFpn(config) => config.levels.stride(config.levels.max),
        }
    }
}

/// Which levels a neck gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// The finest, 2 to 4.
    pub min: u32,
    /// The coarsest, 5 to 7; those above 5 are made by the neck. Images of up to 128 pixels need no more than 5.
    pub max: u32,
}

impl Default for Levels {
    fn default() -> Self {
        Self { min: 3, max: 7 }
    }
}

/// The coarsest level of a backbone.
const LAST_FEATURE: u32 = 5;

impl Levels {
    fn check(self) -> Result<()> {
        let Self { min, max } = self;
        ensure!((2..=4).contains(&min), "model.neck.levels.min = {min}: expected 2 to 4");
        ensure!((LAST_FEATURE..=7).contains(&max), "model.neck.levels.max = {max}: expected 5 to 7");
        Ok(())
    }

    /// The levels, finest first.
    pub fn iter(self) -> std::ops::RangeInclusive<u32> {
        self.min..=self.max
    }

    /// How many they are.
    pub fn count(self) -> usize {
        (self.max - self.min + 1) as usize
    }

    /// Input pixels per pixel of `level`.
    pub fn stride(self, level: u32) -> i64 {
        1 << level
    }

    /// The strides, finest first.
    pub fn strides(self) -> Vec<i64> {
        self.iter().map(|level| self.stride(level)).collect()
    }
}

/// The maps of a backbone that a neck takes: those of the levels up to 5.
#[derive(Debug)]
struct Inputs {
    levels: Levels,
    /// Position among the backbone's maps, and channels, of each level from `levels.min` to 5.
    maps: Vec<(usize, i64)>,
}

impl Inputs {
    fn new(levels: Levels, features: &[FeatureInfo]) -> Result<Self> {
        let map = |level| {
            let stride = levels.stride(level);
            let found = features.iter().position(|info| info.stride == stride);
            let i = found.with_context(|| format!("model.neck.levels: the backbone has no map of stride {stride}"))?;
            Ok((i, features[i].channels))
        };
        let maps = (levels.min..=LAST_FEATURE).map(map).collect::<Result<_>>()?;
        Ok(Self { levels, maps })
    }

    /// Channels of each map that is taken, finest first.
    fn channels(&self) -> impl Iterator<Item = i64> {
        self.maps.iter().map(|(_, channels)| *channels)
    }

    fn last_channels(&self) -> i64 {
        self.maps[self.maps.len() - 1].1
    }

    /// The maps, or shapes, that are taken, finest first.
    fn pick<'a, T>(&self, features: &'a [T]) -> Vec<&'a T> {
        self.maps.iter().map(|(i, _)| &features[*i]).collect()
    }

    /// Levels above 5.
    fn num_extra(&self) -> usize {
        (self.levels.max - LAST_FEATURE) as usize
    }
}

/// Enlarges `xs` to `size` (height, width), nearest neighbour.
fn upsample(xs: &Tensor, (h, w): (i64, i64)) -> Tensor {
    xs.upsample_nearest2d([h, w], None, None)
}

/// Height and width of a map.
fn size_of(xs: &Tensor) -> (i64, i64) {
    let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
    (h, w)
}

/// Half the sides, rounded up.
fn halved(xs: Shape) -> Shape {
    xs.with_size(((xs.h - 1) / 2 + 1, (xs.w - 1) / 2 + 1))
}

#[cfg(test)]
mod tests;
