//! `kind = "around"`: the space of a network's own widths and depths. A trained network is where the search begins; what is found
//! is the same network with other stages, which starts from its weights.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::sizes::Rise;
use crate::models::{StageSize, sizes};
use crate::run::drawing::Boxes;
use crate::search::analysis::vocabulary::Decision;
use crate::space::{Architecture, ChoiceSpace, InvalidArchitecture};

/// The `kind` of the space.
pub const AROUND: &str = "around";

/// A network's own widths and depths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AroundSpace {
    /// The folder of a training: its network is searched around, and its weights are what trials that train start from, its most
    /// important channels where theirs are fewer (L1 norm of the scales of batch norms, Liu et al. 2017, arXiv 1708.06519). Absent:
    /// the network of `[model]`, from random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<PathBuf>,
    /// Factors on the channels of every stage, which become multiples of 8, 4 or 2 where the stage's own are.
    #[serde(default = "default_widths")]
    pub widths: Vec<f64>,
    /// Blocks that a stage may lose; one always stays.
    #[serde(default = "one")]
    pub shallower: usize,
    /// Blocks that a stage of more than one may gain.
    #[serde(default)]
    pub deeper: usize,
    /// The network's own stages; read off it where not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
    /// How channels must rise from each stage to the next, where they must; read off the network where `stages` are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<Rise>,
    /// The last stage is what stands on the others, a detector's neck and head: `rise` does not hold for it. Read off the network
    /// where `stages` are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub top: bool,
}

fn default_widths() -> Vec<f64> {
    vec![0.5, 0.75, 1.0]
}

fn one() -> usize {
    1
}

impl AroundSpace {
    /// Says which key has an impossible value.
    pub fn check(&self) -> Result<()> {
        let Self { widths, shallower, deeper, stages, .. } = self;
        let sound = !widths.is_empty() && widths.iter().all(|width| *width > 0.0 && *width <= 16.0);
        ensure!(sound, "space.widths = {widths:?}; expected at least one factor, each above 0 and up to 16");
        ensure!(*shallower <= 64, "space.shallower = {shallower}; expected 0 to 64");
        ensure!(*deeper <= 64, "space.deeper = {deeper}; expected 0 to 64");
        ensure!(!stages.is_empty(), "space.stages: expected the stages of a network");
        sizes::check("space.stages", stages, stages)
    }

    /// The channels of every stage that can be chosen, and its numbers of blocks, rising.
    fn options(&self) -> Vec<(Vec<i64>, Vec<usize>)> {
        let options = |stage: &StageSize| {
            let step = [8, 4, 2].into_iter().find(|step| stage.channels % step == 0).unwrap_or(1) as f64;
            let scaled = |width: &f64| ((stage.channels as f64 * width / step).round().max(1.0) * step) as i64;
            let mut channels: Vec<i64> = self.widths.iter().map(scaled).collect();
            channels.sort_unstable();
            channels.dedup();
            // It may be a single convolution.
            let deeper = if stage.blocks == 1 { 0 } else { self.deeper };
            (channels, (stage.blocks.saturating_sub(self.shallower).max(1)..=stage.blocks + deeper).collect())
        };
        self.stages.iter().map(options).collect()
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        let of_stage = |(i, (channels, blocks)): (usize, (Vec<i64>, Vec<usize>))| {
            [Decision::new(format!("stage {i} channels"), channels), Decision::new(format!("stage {i} blocks"), blocks)]
        };
        self.options().into_iter().enumerate().flat_map(of_stage).collect()
    }

    /// The sizes that an architecture stands for.
    pub fn sizes(&self, arch: &Architecture) -> Result<Vec<StageSize>> {
        self.validate(arch)?;
        Ok(self.sizes_of(arch))
    }

    fn sizes_of(&self, arch: &Architecture) -> Vec<StageSize> {
        let pairs = arch.choices().chunks(2).zip(self.options());
        let size = |(choices, (channels, blocks)): (&[u16], (Vec<i64>, Vec<usize>))| StageSize {
            channels: channels[usize::from(choices[0])],
            blocks: blocks[usize::from(choices[1])],
        };
        pairs.map(size).collect()
    }

    /// Channels and blocks of every stage: `32x1 16x1 24x2`.
    pub fn notation(&self, arch: &Architecture) -> Result<String> {
        Ok(self.sizes(arch)?.iter().map(StageSize::to_string).collect::<Vec<_>>().join(" "))
    }

    /// Every block as a box, as wide as its channels; a stage has one colour.
    pub fn drawing(&self, arch: &Architecture) -> Result<String> {
        let mut boxes = Boxes::default();
        for (i, stage) in self.sizes(arch)?.iter().enumerate() {
            let color = ["#1976d2", "#2e7d32", "#ef6c00", "#6a1b9a"][i % 4];
            for block in 1..=stage.blocks {
                let title = format!("stage {i}, {} channels, block {block} of {}", stage.channels, stage.blocks);
                boxes.add(stage.channels, 1, color, &title);
            }
        }
        Ok(boxes.picture().document())
    }

    /// The architecture of a notation.
    pub fn parse(&self, text: &str) -> Result<Architecture> {
        if let Ok(arch) = text.parse::<Architecture>() {
            return Ok(arch);
        }
        let sizes: Vec<StageSize> = text.split_whitespace().map(str::parse).collect::<Result<_>>()?;
        ensure!(sizes.len() == self.stages.len(), "{} stages; expected {}", sizes.len(), self.stages.len());
        let mut choices = Vec::new();
        for (size, (channels, blocks)) in sizes.iter().zip(self.options()) {
            let chosen =
                channels.iter().position(|c| *c == size.channels).zip(blocks.iter().position(|n| *n == size.blocks));
            let (width, depth) =
                chosen.with_context(|| format!("{size}; expected one of {channels:?} x one of {blocks:?}"))?;
            choices.extend([width as u16, depth as u16]);
        }
        Ok(Architecture::new(choices))
    }
}

impl ChoiceSpace for AroundSpace {
    fn name(&self) -> &str {
        AROUND
    }

    /// Of every stage channels and blocks.
    fn decisions(&self) -> Vec<u16> {
        self.options().iter().flat_map(|(channels, blocks)| [channels.len() as u16, blocks.len() as u16]).collect()
    }

    /// Widths and depths in unary: two are as far apart as their ranks.
    fn traits(&self, arch: &Architecture) -> Vec<u16> {
        let decisions = arch.choices().iter().zip(self.decisions());
        decisions.flat_map(|(choice, options)| (1..options).map(move |rank| u16::from(*choice >= rank))).collect()
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        self.check_choices(arch)?;
        let sizes = self.sizes_of(arch);
        let rising = &sizes[..sizes.len() - usize::from(self.top)];
        self.rise.and_then(|rise| rise.broken(rising)).map_or(Ok(()), |stage| {
            Err(self
                .invalid(arch, format!("{} before {}, expected channels that rise", sizes[stage - 1], sizes[stage])))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(keys: &str, stages: &str) -> AroundSpace {
        let mut space: AroundSpace = toml::from_str(keys).unwrap();
        space.stages = stages.split(' ').map(|size| size.parse().unwrap()).collect();
        space.check().unwrap();
        space
    }

    #[test]
    fn every_block_is_drawn() {
        let space = space("deeper = 1", "32x1 16x1 24x2");
        let drawn = space.drawing(&space.parse("16x1 16x1 24x3").unwrap()).unwrap();
        assert_eq!(drawn.matches("<title>").count(), 5);
        assert!(drawn.contains("<title>stage 2, 24 channels, block 3 of 3</title>"), "{drawn}");
    }

    #[test]
    fn widths_are_multiples_as_the_stages_own_and_each_once_and_one_block_stays() {
        let space = space("shallower = 2\ndeeper = 1", "32x1 16x1 24x2 30x3 15x1");
        let expected = [
            (vec![16, 24, 32], vec![1]),
            (vec![8, 16], vec![1]),
            (vec![16, 24], vec![1, 2, 3]),
            (vec![16, 22, 30], vec![1, 2, 3, 4]),
            (vec![8, 11, 15], vec![1]),
        ];
        assert_eq!(space.options(), expected);
        assert_eq!(space.decisions(), [3, 1, 2, 1, 2, 3, 3, 4, 3, 1]);
        assert_eq!(space.names()[2].name, "stage 1 channels");
    }

    #[test]
    fn a_notation_stands_for_its_architecture() {
        let space = space("", "32x1 16x1 24x2");
        let arch = space.parse("24x1 8x1 16x1").unwrap();
        assert_eq!(arch.choices(), [1, 0, 0, 0, 0, 0]);
        assert_eq!(space.notation(&arch).unwrap(), "24x1 8x1 16x1");
        assert_eq!(space.parse(&arch.to_string()).unwrap(), arch);
        for (text, expected) in [("24x1 8x1", "3"), ("24x1 8x1 20x2", "[16, 24]"), ("24 8 16", "24x2")] {
            let error = format!("{:#}", space.parse(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(space.validate(&Architecture::new(vec![3, 0, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn sizes_are_as_far_apart_as_their_ranks() {
        let space = space("", "32x1 24x2");
        let of = |text: &str| space.traits(&space.parse(text).unwrap());
        assert_eq!(of("16x1 24x2"), [0, 0, 1, 1]);
        assert_eq!(of("24x1 16x2"), [1, 0, 0, 1]);
        assert_eq!(of("32x1 16x1"), [1, 1, 0, 0]);
    }

    #[test]
    fn channels_rise_where_they_must() {
        let wide = |rise: &str| space(&format!("widths = [0.5, 1.0]\nrise = '{rise}'"), "8x1 16x2 32x1");
        for (rise, text, sound) in [
            ("strictly", "8x1 16x2 32x1", true),
            ("strictly", "8x1 8x2 32x1", false),
            ("evenly", "8x1 8x2 32x1", true),
            ("evenly", "8x1 16x2 16x1", true),
        ] {
            let (space, expected) = (wide(rise), if sound { "" } else { "8x1 before 8x2" });
            let arch = space.parse(text).unwrap();
            let error = space.validate(&arch).map_or_else(|error| error.to_string(), |()| String::new());
            assert!(error.contains(expected) && error.is_empty() == sound, "{rise} {text}: {error}");
            let mut rng = nas_datasets::rng::stream(0, "rise", 0);
            assert!(
                (0..50).all(|_| space.rise.unwrap().broken(&space.sizes(&space.sample(&mut rng)).unwrap()).is_none())
            );
        }
    }

    #[test]
    fn what_stands_on_the_stages_is_as_wide_as_it_likes() {
        let space = space("widths = [0.5, 1.0]\nrise = 'strictly'\ntop = true", "8x1 16x2 8x2");
        assert!(space.validate(&space.parse("8x1 16x2 8x1").unwrap()).is_ok());
        assert!(space.validate(&space.parse("8x1 8x2 8x1").unwrap()).is_err());
    }

    #[test]
    fn impossible_values_are_named() {
        for (keys, key) in
            [("widths = []", "widths"), ("widths = [0.0]", "widths"), ("shallower = 99", "shallower"), ("", "stages")]
        {
            let error = toml::from_str::<AroundSpace>(keys).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(key), "{keys}: {error}");
        }
    }
}
