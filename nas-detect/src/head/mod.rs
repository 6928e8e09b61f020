//! One-stage heads: class scores and boxes at every pixel of every level of a neck.

pub mod anchors;
pub mod boxes;
mod decode;
mod fcos;
pub mod focal;
mod retina;
mod tower;

pub use decode::{DetectConfig, Detections};
pub use fcos::{Fcos, FcosConfig, FcosTargets, Regression};
pub use retina::{Normalizer, Retina, RetinaConfig, RetinaTargets};
pub use tower::TowerNorm;

use anyhow::{Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, Mode, Shape, VarBuilder};
use nas_datasets::det::DetTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::layers::GroupNorm;
use crate::neck::Levels;

/// What a head says of a batch, before any interpretation. `N` counts predictions: level by level, row by row, column by
/// column, anchor by anchor.
#[derive(Debug)]
pub struct Predictions {
    /// Class logits `[B, N, K]`.
    pub logits: Tensor,
    /// Coded boxes `[B, N, 4]`.
    pub regression: Tensor,
    /// Logits of centre-ness `[B, N]` (FCOS).
    pub centerness: Option<Tensor>,
    /// Height and width of each level's map, finest first.
    pub grids: Vec<(i64, i64)>,
}

/// Losses of a batch.
#[derive(Debug)]
pub struct Losses {
    /// Focal loss of the classes.
    pub classification: Tensor,
    /// Loss of the boxes of positive predictions.
    pub regression: Tensor,
    /// Cross entropy of centre-ness (FCOS).
    pub centerness: Option<Tensor>,
    /// The least that the loss of centre-ness can be: the entropy of its targets, about 0.55 to 0.6. It looks stuck there.
    pub centerness_floor: Option<Tensor>,
    /// Predictions of the batch that answer for an object.
    pub positives: i64,
}

impl Losses {
    /// The sum that is minimised.
    pub fn total(&self) -> Tensor {
        let sum = &self.classification + &self.regression;
        match &self.centerness {
            Some(centerness) => sum + centerness,
            None => sum,
        }
    }
}

/// The section `[model.head]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadConfig {
    /// One prediction per pixel, without anchors.
    Fcos(FcosConfig),
    /// Anchors.
    Retina(RetinaConfig),
}

impl HeadConfig {
    /// The head for `num_classes` over maps of `channels` at `levels`, its weights under `vb`. A value that no head can be
    /// made of is an error that names the key.
    pub fn build(&self, vb: &VarBuilder, channels: i64, levels: Levels, num_classes: i64) -> Result<Head> {
        ensure!(num_classes > 0, "{num_classes} classes: expected at least one");
        self.detect().check()?;
        let convs = self.convs();
        ensure!(convs <= 16, "model.head.convs = {convs}: expected at most 16");
        let norm = match self {
            Self::Fcos(config) => config.norm,
            Self::Retina(config) => config.norm,
        };
        ensure!(
            norm != TowerNorm::Group || GroupNorm::groups(channels).is_some(),
            "model.neck.channels = {channels}: group norms of the head need a multiple of 8"
        );
        Ok(match self {
            Self::Fcos(config) => {
                config.check()?;
                Head::Fcos(Fcos::new(vb, config, channels, levels, num_classes))
            }
            Self::Retina(config) => {
                config.check()?;
                Head::Retina(Retina::new(vb, config, channels, levels, num_classes))
            }
        })
    }

    /// Convolutions of a tower.
    pub fn convs(&self) -> usize {
        let (Self::Fcos(FcosConfig { convs, .. }) | Self::Retina(RetinaConfig { convs, .. })) = self;
        *convs
    }

    /// As [`HeadConfig::convs`], to be changed.
    pub fn convs_mut(&mut self) -> &mut usize {
        let (Self::Fcos(FcosConfig { convs, .. }) | Self::Retina(RetinaConfig { convs, .. })) = self;
        convs
    }

    fn detect(&self) -> DetectConfig {
        match self {
            Self::Fcos(config) => config.detect,
            Self::Retina(config) => config.detect,
        }
    }
}

/// A head.
#[derive(Debug)]
pub enum Head {
    /// One prediction per pixel, without anchors.
    Fcos(Fcos),
    /// Anchors.
    Retina(Retina),
}

impl Head {
    /// Predictions from maps `[B, C, H/s, W/s]`, finest first.
    pub fn forward(&self, maps: &[Tensor], mode: Mode) -> Predictions {
        match self {
            Self::Fcos(head) => head.forward(maps, mode),
            Self::Retina(head) => head.forward(maps, mode),
        }
    }

    /// Losses of the predictions on images of `size` (height, width), one target per image.
    pub fn loss(&self, predictions: &Predictions, size: (i64, i64), targets: &[DetTarget]) -> Losses {
        match self {
            Self::Fcos(head) => head.loss(predictions, targets),
            Self::Retina(head) => head.loss(predictions, size, targets),
        }
    }

    /// The objects found in images of `size` (height, width), best first, at most as many as the config allows.
    pub fn detect(&self, predictions: &Predictions, size: (i64, i64)) -> Vec<Detections> {
        tch::no_grad(|| match self {
            Self::Fcos(head) => head.detect(predictions, size),
            Self::Retina(head) => head.detect(predictions, size),
        })
    }

    /// Scores `[B, N, K]` in `0..=1` and boxes `[B, N, 4]` inside images of `size` (height, width) of all predictions, before any
    /// of them is left out.
    pub fn scores_and_boxes(&self, predictions: &Predictions, size: (i64, i64)) -> [Tensor; 2] {
        match self {
            Self::Fcos(head) => head.scores_and_boxes(predictions, size),
            Self::Retina(head) => head.scores_and_boxes(predictions, size),
        }
    }

    /// The objects that scores `[B, N, K]` and boxes `[B, N, 4]` of [`Head::scores_and_boxes`] hold, as by [`Head::detect`]; `cells`
    /// are the pixels of every level's map.
    pub fn detections(&self, scores: &Tensor, boxes: &Tensor, cells: &[i64]) -> Result<Vec<Detections>> {
        let (config, per_cell) = self.predicting();
        let level_sizes: Vec<i64> = cells.iter().map(|cells| cells * per_cell).collect();
        let (found, expected) = (scores.size3()?, level_sizes.iter().sum::<i64>());
        ensure!(found.1 == expected, "{} predictions, expected {expected} of levels {level_sizes:?}", found.1);
        let image = |i| {
            let boxes = boxes.get(i);
            decode::detect(&scores.get(i), &level_sizes, config, |rows| boxes.index_select(0, rows))
        };
        Ok(tch::no_grad(|| (0..found.0).map(image).collect()))
    }

    /// What counts as a detection, and the predictions of a pixel.
    pub fn predicting(&self) -> (&DetectConfig, i64) {
        match self {
            Self::Fcos(head) => (head.detect_config(), 1),
            Self::Retina(head) => (head.detect_config(), head.anchors_per_cell()),
        }
    }

    /// Adds the head's cost on maps of these shapes to `cost`.
    pub fn cost(&self, maps: &[Shape], cost: &mut Cost) {
        match self {
            Self::Fcos(head) => head.cost(maps, cost),
            Self::Retina(head) => head.cost(maps, cost),
        }
    }

    /// Its batch norms.
    pub fn norms(&self) -> Vec<&BatchNorm> {
        match self {
            Self::Fcos(head) => head.norms(),
            Self::Retina(head) => head.norms(),
        }
    }
}

/// `[B, H·W·A, n]` of a predictor's map `[B, A·n, H, W]`.
fn flatten(map: &Tensor, n: i64) -> Tensor {
    let (b, c, h, w) = map.size4().expect("a feature map has four dimensions");
    map.reshape([b, c / n, n, h, w]).permute([0, 3, 4, 1, 2]).reshape([b, h * w * c / n, n])
}

/// Joins the levels and leaves half precision: losses and boxes need all digits.
fn join(levels: Vec<Tensor>) -> Tensor {
    Tensor::cat(&levels, 1).to_kind(Kind::Float)
}

/// The bias of class logits at which every score starts: `p = 0.01` (Lin et al. 2017).
fn prior_bias() -> f64 {
    -(99f64.ln())
}

#[cfg(test)]
mod tests;
