//! Sizes of a network's stages, and networks of other sizes.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resnet::{Naming, ShortcutKind, UnitKind};
use super::{BlockConfig, Layout, ResNetConfig};
use crate::estimator::inheritance::BlockParts;

/// How wide and how deep a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageSize {
    /// Channels of its blocks' outputs; of a ResNet the base channels.
    pub channels: i64,
    /// Blocks, at least one.
    pub blocks: usize,
}

impl fmt::Display for StageSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}", self.channels, self.blocks)
    }
}

impl FromStr for StageSize {
    type Err = anyhow::Error;

    /// Channels and blocks, such as `24x2`.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let (channels, blocks) = text.split_once('x')?;
            Some(Self { channels: channels.parse().ok()?, blocks: blocks.parse().ok()? })
        };
        parsed().with_context(|| format!("{text:?}: expected channels and blocks, such as 24x2"))
    }
}

/// How channels must rise from each stage to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rise {
    /// By at least one: a part of a stage's channels are those that come in.
    Strictly,
    /// By an even number or not at all: shortcuts put zeros on both sides.
    Evenly,
}

impl Rise {
    /// The first stage whose channels do not rise so.
    pub fn broken(self, stages: &[StageSize]) -> Option<usize> {
        let rises = |pair: &[StageSize]| {
            let by = pair[1].channels - pair[0].channels;
            match self {
                Self::Strictly => by > 0,
                Self::Evenly => by >= 0 && by % 2 == 0,
            }
        };
        stages.windows(2).position(|pair| !rises(pair)).map(|before| before + 1)
    }
}

/// Says which of `stages`, the key `key` of a model, no network can have; it has as many as `own`.
pub fn check(key: &str, own: &[StageSize], stages: &[StageSize]) -> Result<()> {
    ensure!(own.len() == stages.len(), "{key}: {} stages; expected {}", stages.len(), own.len());
    for (i, StageSize { channels, blocks }) in stages.iter().enumerate() {
        ensure!((1..=4096).contains(channels), "{key}[{i}].channels = {channels}; expected 1 to 4096");
        ensure!((1..=64).contains(blocks), "{key}[{i}].blocks = {blocks}; expected 1 to 64");
    }
    Ok(())
}

/// `items` cut or grown to `len`: what is new is like the last.
pub fn resized<I: Clone>(items: &[I], len: usize) -> Vec<I> {
    items.iter().chain(items.last().into_iter().cycle()).take(len).cloned().collect()
}

/// What weight inheritance knows of blocks that stand in stages of `sizes` and are numbered through, `prefix` before their numbers.
pub fn numbered_through(sizes: &[StageSize], prefix: &str) -> Vec<BlockParts> {
    let places = sizes.iter().enumerate().flat_map(|(stage, size)| (0..size.blocks).map(move |i| (stage, i)));
    let part = |(i, place)| BlockParts { place, layers: vec![("block", format!("{prefix}{i}."))], silencer: None };
    places.enumerate().map(part).collect()
}

/// A block like `block` between other channels. Those within keep their ratio to what comes in.
fn between(block: &BlockConfig, channels: (i64, i64)) -> BlockConfig {
    let (own, wanted) = (block.channels.0, channels.0);
    let scaled = |value: i64| ((value * wanted) as f64 / own as f64).round().max(1.0) as i64;
    let squeeze = block.squeeze.map(|(squeezed, gate)| (scaled(squeezed), gate));
    BlockConfig { channels, hidden: scaled(block.hidden), squeeze, ..*block }
}

impl Layout {
    /// The first convolution, whose blocks are always one, and the stages: blocks of equal channels up to the next stride.
    pub fn sizes(&self) -> Vec<StageSize> {
        let stem = StageSize { channels: self.stem.0, blocks: 1 };
        let stage = |blocks: &[BlockConfig]| StageSize { channels: blocks[0].channels.1, blocks: blocks.len() };
        std::iter::once(stem).chain(self.stages().map(stage)).collect()
    }

    fn stages(&self) -> impl Iterator<Item = &[BlockConfig]> {
        self.blocks.chunk_by(|a, b| a.channels.1 == b.channels.1 && b.stride == 1)
    }

    /// The network with other [`Layout::sizes`]. Channels within a block keep their ratio to those that come in; the last
    /// convolution stays as it is.
    ///
    /// # Errors
    /// If there are more or fewer stages, or channels that the groups of a convolution do not divide.
    pub fn with_sizes(&self, key: &str, sizes: &[StageSize]) -> Result<Self> {
        check(key, &self.sizes(), sizes)?;
        ensure!(sizes[0].blocks == 1, "{key}[0].blocks = {}; expected 1, the first convolution", sizes[0].blocks);
        let mut before = sizes[0].channels;
        let mut blocks = Vec::new();
        for (stage, size) in self.stages().zip(&sizes[1..]) {
            // A block that is new stands behind one of its stage, whatever came in before that.
            let inner =
                stage.last().map(|last| BlockConfig { stride: 1, ..between(last, (last.channels.1, last.channels.1)) });
            let whole = stage.iter().copied().chain(inner.into_iter().cycle());
            for block in whole.take(size.blocks) {
                // Another width makes no shortcut where there was none.
                let residual = block.adds_input();
                let block = BlockConfig { residual, ..between(&block, (before, size.channels)) };
                let divides = [block.hidden, size.channels].iter().all(|channels| channels % block.groups == 0);
                ensure!(divides, "{key}: {size}; expected multiples of the {} groups of a convolution", block.groups);
                blocks.push(block);
                before = size.channels;
            }
        }
        Ok(Self { stem: (sizes[0].channels, self.stem.1, self.stem.2), blocks, ..self.clone() })
    }

    /// What weight inheritance knows of the blocks, whose names begin with `prefix`, in stages of `sizes`.
    pub fn parts(&self, prefix: &str, sizes: &[StageSize]) -> Vec<BlockParts> {
        let stages = sizes.iter().skip(1).enumerate();
        let places = stages.flat_map(|(stage, size)| (0..size.blocks).map(move |i| (stage, i)));
        let part = |(i, (block, place)): (usize, (&BlockConfig, (usize, usize)))| {
            block.parts(self.naming, &format!("{prefix}features.{}.", i + 1), place)
        };
        let mut parts: Vec<BlockParts> = self.blocks.iter().zip(places).enumerate().map(part).collect();
        let last = format!("{prefix}features.{}.", self.blocks.len() + 1);
        let last = BlockParts { place: (usize::MAX, 0), layers: vec![("last", last)], silencer: None };
        parts.extend(self.last.map(|_| last));
        parts
    }
}

impl ResNetConfig {
    /// The stages.
    pub fn sizes(&self) -> Vec<StageSize> {
        self.stages.iter().map(|stage| StageSize { channels: stage.base, blocks: stage.units }).collect()
    }

    /// The network with other [`ResNetConfig::sizes`].
    ///
    /// # Errors
    /// If there are more or fewer stages, or shortcuts of zeros between channels that do not grow by an even number.
    pub fn with_sizes(&self, key: &str, sizes: &[StageSize]) -> Result<Self> {
        check(key, &self.sizes(), sizes)?;
        if let Some(stage) = self.rise().and_then(|rise| rise.broken(sizes)) {
            let (before, size) = (sizes[stage - 1], sizes[stage]);
            bail!(
                "{key}: {before} before {size}; expected channels that rise by an even number: shortcuts have no weights"
            );
        }
        let mut resized = self.clone();
        for (stage, StageSize { channels, blocks }) in resized.stages.iter_mut().zip(sizes) {
            (stage.base, stage.units) = (*channels, *blocks);
        }
        Ok(resized)
    }

    /// How channels must rise.
    pub fn rise(&self) -> Option<Rise> {
        (self.shortcut == ShortcutKind::Pad).then_some(Rise::Evenly)
    }

    /// What weight inheritance knows of the units, whose names begin with `prefix`.
    pub fn parts(&self, prefix: &str) -> Vec<BlockParts> {
        let units = self.stages.iter().enumerate().flat_map(|(i, stage)| (0..stage.units).map(move |unit| (i, unit)));
        let part = |place: (usize, usize)| {
            let (stage, norm) = match (self.naming, self.unit) {
                (Naming::Torchvision, UnitKind::Basic) => (format!("layer{}", place.0 + 1), "bn2"),
                (Naming::Torchvision, UnitKind::Bottleneck) => (format!("layer{}", place.0 + 1), "bn3"),
                (Naming::Deeplab, _) => (format!("stage_{}", place.0), "expand.bn"),
            };
            let unit = format!("{prefix}{stage}.{}.", place.1);
            BlockParts { place, silencer: Some(format!("{unit}{norm}.weight")), layers: vec![("unit", unit)] }
        };
        units.map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{MobileNet, ResNet, ResNetDepth, mobilenet_v2};
    use crate::nn::{Shape, VarBuilder};
    use crate::space::Backbone;

    fn sizes(text: &str) -> Vec<StageSize> {
        text.split(' ').map(|size| size.parse().unwrap()).collect()
    }

    fn text(sizes: &[StageSize]) -> String {
        sizes.iter().map(StageSize::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_network_of_its_own_sizes_is_the_same_and_of_half_widths_the_one_of_half_width() {
        let whole = mobilenet_v2::trunk(1.0, 17);
        assert_eq!(text(&whole.sizes()), "32x1 16x1 24x2 32x3 64x4 96x3 160x3 320x1");
        assert_eq!(whole.with_sizes("stages", &whole.sizes()).unwrap().blocks.len(), 17);
        let half = mobilenet_v2::trunk(0.5, 17);
        let cost = |layout: &Layout| MobileNet::new(&VarBuilder::dry(), layout).cost_parts(Shape::new(3, 64, 64)).0;
        assert_eq!(cost(&whole.with_sizes("stages", &whole.sizes()).unwrap()), cost(&whole));
        let halved = whole.with_sizes("stages", &half.sizes()).unwrap();
        assert_eq!(cost(&halved), cost(&half));
        // Where two stages become equally wide no shortcut appears that was none.
        let wide = whole.with_sizes("stages", &sizes("32x1 16x1 24x2 32x3 64x4 64x3 160x3 320x1")).unwrap();
        let shortcuts = |layout: &Layout| layout.blocks.iter().map(BlockConfig::adds_input).collect::<Vec<_>>();
        assert_eq!(shortcuts(&wide), shortcuts(&whole));
    }

    #[test]
    fn blocks_are_cut_from_the_end_of_a_stage_and_new_ones_are_like_its_last() {
        let layout = mobilenet_v2::trunk(1.0, 6);
        let other = layout.with_sizes("stages", &sizes("32x1 16x2 24x1 32x4")).unwrap();
        let rows: Vec<_> = other.blocks.iter().map(|block| (block.channels, block.hidden, block.stride)).collect();
        let expected = [
            ((32, 16), 32, 1),
            ((16, 16), 16, 1),
            ((16, 24), 96, 2),
            ((24, 32), 144, 2),
            ((32, 32), 192, 1),
            ((32, 32), 192, 1),
            ((32, 32), 192, 1),
        ];
        assert_eq!(rows, expected);
        assert!(other.blocks[1].adds_input());
        let error = layout.with_sizes("model.stages", &sizes("32x1 16x2")).unwrap_err().to_string();
        assert_eq!(error, "model.stages: 2 stages; expected 4");
        assert!(layout.with_sizes("s", &sizes("32x1 16x0 24x1 32x4")).unwrap_err().to_string().contains("s[1].blocks"));
    }

    #[test]
    fn a_resnet_takes_other_stages() {
        let config = ResNetConfig::torchvision(ResNetDepth::R18);
        assert_eq!(text(&config.sizes()), "64x2 128x2 256x2 512x2");
        let other = config.with_sizes("stages", &sizes("32x1 64x1 128x2 256x1")).unwrap();
        let info = ResNet::new(&VarBuilder::dry(), &other).feature_info();
        assert_eq!(info.iter().map(|map| map.channels).collect::<Vec<_>>(), [32, 64, 128, 256]);
        let parts = other.parts("backbone.");
        assert_eq!((parts.len(), parts[3].place), (5, (2, 1)));
        assert_eq!(parts[3].silencer.as_deref(), Some("backbone.layer3.1.bn2.weight"));
        let error = ResNetConfig::cifar(3).with_sizes("stages", &sizes("16x3 8x3 64x3")).unwrap_err().to_string();
        assert!(error.starts_with("stages: 16x3 before 8x3; expected channels that rise"), "{error}");
    }

    /// FBNet's last convolutions of some blocks are in two groups.
    #[test]
    fn groups_divide_channels_of_other_sizes() {
        let mut layout = mobilenet_v2::trunk(1.0, 4);
        layout.blocks.iter_mut().for_each(|block| block.groups = 2);
        assert!(layout.with_sizes("stages", &sizes("16x1 16x1 24x2 16x1")).is_ok());
        let error = layout.with_sizes("stages", &sizes("16x1 16x1 15x2 32x1")).unwrap_err().to_string();
        assert_eq!(error, "stages: 15x2; expected multiples of the 2 groups of a convolution");
    }
}
