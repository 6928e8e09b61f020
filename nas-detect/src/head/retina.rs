//! RetinaNet (Lin et al. 2017, arXiv 1708.02002), as in torchvision.

use anyhow::{Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, Mode, Module, Shape, VarBuilder, ranks};
use nas_datasets::det::DetTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::anchors::{anchors, cell_anchors, cell_tensor};
use super::boxes::{clip, decode, encode, pairwise_iou};
use super::decode::{DetectConfig, Detections, detect};
use super::focal::focal_loss;
use super::tower::{Tower, TowerConfig, TowerNorm, shared_cost};
use super::{Losses, Predictions, flatten, join, prior_bias};
use crate::layers::BiasedConv;
use crate::neck::Levels;

/// What losses are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// The positive anchors of the batch.
    #[default]
    Batch,
    /// Those of each image, then the mean of the images (torchvision): an image without objects dominates the loss.
    Image,
}

/// What a [`Retina`] consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetinaConfig {
    /// Convolutions before the predictors.
    pub convs: usize,
    /// Norms between them.
    pub norm: TowerNorm,
    /// Depthwise-separable convolutions and swish: EfficientDet's head.
    pub separable: bool,
    /// Side of the smallest anchor of a level, in strides.
    pub anchor_base: f64,
    /// Anchor sizes per doubling of the side.
    pub octaves: usize,
    /// Heights over widths of the anchors.
    pub ratios: Vec<f64>,
    /// An anchor answers for an object from this IoU on.
    pub positive_iou: f64,
    /// An anchor is background below this IoU; between the two it is ignored.
    pub negative_iou: f64,
    /// What losses are divided by.
    pub normalizer: Normalizer,
    /// What counts as a detection.
    pub detect: DetectConfig,
}

impl Default for RetinaConfig {
    fn default() -> Self {
        Self {
            convs: 4,
            norm: TowerNorm::None,
            separable: false,
            anchor_base: 4.0,
            octaves: 3,
            ratios: vec![0.5, 1.0, 2.0],
            positive_iou: 0.5,
            negative_iou: 0.4,
            normalizer: Normalizer::Batch,
            detect: DetectConfig { score: 0.05, per_level: 1000, iou: 0.5, max: 100 },
        }
    }
}

impl RetinaConfig {
    pub(super) fn check(&self) -> Result<()> {
        let Self { anchor_base, octaves, ratios, positive_iou, negative_iou, .. } = self;
        ensure!(
            (0.5..=64.0).contains(anchor_base),
            "model.head.anchor_base = {anchor_base}: expected 0.5 to 64 strides"
        );
        ensure!((1..=8).contains(octaves), "model.head.octaves = {octaves}: expected 1 to 8");
        ensure!(
            !ratios.is_empty() && ratios.len() <= 16 && ratios.iter().all(|ratio| (0.01..=100.0).contains(ratio)),
            "model.head.ratios = {ratios:?}: expected 1 to 16 numbers from 0.01 to 100"
        );
        ensure!(
            0.0 < *negative_iou && negative_iou <= positive_iou && *positive_iou <= 1.0,
            "model.head.negative_iou = {negative_iou}, positive_iou = {positive_iou}: expected 0 < negative <= positive <= 1"
        );
        Ok(())
    }
}

/// Two towers; class scores of every anchor on one, its box on the other.
#[derive(Debug)]
pub struct Retina {
    config: RetinaConfig,
    /// Anchors of a cell of each level.
    cells: Vec<Tensor>,
    num_classes: i64,
    classification_tower: Tower,
    logits: BiasedConv,
    regression_tower: Tower,
    boxes: BiasedConv,
}

/// What the anchors of one image answer for.
#[derive(Debug)]
pub struct RetinaTargets {
    /// Index of the object `[N]`; -1: background, -2: ignored.
    pub matched: Tensor,
    /// Its box `[N, 4]`; meaningless without object.
    pub boxes: Tensor,
    /// Its class `[N]`; meaningless without object.
    pub labels: Tensor,
}

const BACKGROUND: i64 = -1;
const IGNORED: i64 = -2;

impl Retina {
    /// The head over maps of `channels`.
    pub(super) fn new(vb: &VarBuilder, config: &RetinaConfig, channels: i64, levels: Levels, num_classes: i64) -> Self {
        let RetinaConfig { convs, norm, separable, anchor_base, octaves, ref ratios, .. } = *config;
        let tower = |name| {
            let num_levels = levels.count();
            let tower = TowerConfig { channels, convs, norm, bias_before_group: false, separable, num_levels };
            Tower::new(&vb.sub(name), tower)
        };
        let predictor = |name, c_out, bias| match separable {
            true => BiasedConv::separable(&vb.sub(name), (channels, c_out), bias),
            false => BiasedConv::plain(&vb.sub(name), (channels, c_out), bias),
        };
        let cell = |stride| cell_tensor(&cell_anchors(stride, anchor_base, octaves, ratios));
        let per_cell = (octaves * ratios.len()) as i64;
        Self {
            cells: levels.strides().into_iter().map(cell).collect(),
            num_classes,
            classification_tower: tower("classification_tower"),
            logits: predictor("logits", per_cell * num_classes, prior_bias()),
            regression_tower: tower("regression_tower"),
            boxes: predictor("boxes", per_cell * 4, 0.0),
            config: config.clone(),
        }
    }

    pub(super) fn forward(&self, maps: &[Tensor], mode: Mode) -> Predictions {
        let (mut logits, mut boxes, mut grids) = (vec![], vec![], vec![]);
        for (level, xs) in maps.iter().enumerate() {
            let ys = self.classification_tower.forward(xs, level, mode);
            logits.push(flatten(&self.logits.forward(&ys, mode), self.num_classes));
            let ys = self.regression_tower.forward(xs, level, mode);
            boxes.push(flatten(&self.boxes.forward(&ys, mode), 4));
            grids.push((xs.size()[2], xs.size()[3]));
        }
        Predictions { logits: join(logits), regression: join(boxes), centerness: None, grids }
    }

    /// Anchors `[N, 4]` of maps of `grids` on images of `size` (height, width).
    pub fn anchors(&self, grids: &[(i64, i64)], size: (i64, i64), device: Device) -> Tensor {
        anchors(&self.cells, grids, size, device)
    }

    /// Which object each anchor `[N, 4]` answers for: the one it overlaps most, if by enough; and besides, whatever it
    /// overlaps, for every object the anchors that overlap it most (of them each answers for the object that *it* overlaps
    /// most). An object that no anchor touches has none.
    pub fn targets(&self, anchors: &Tensor, target: &DetTarget) -> RetinaTargets {
        let (n, device) = (anchors.size()[0], anchors.device());
        let DetTarget { boxes, labels } = target.to_device(device);
        if target.is_empty() {
            let matched = Tensor::full([n], BACKGROUND, (Kind::Int64, device));
            return RetinaTargets { labels: matched.zeros_like(), matched, boxes: anchors.shallow_clone() };
        }
        let iou = pairwise_iou(&boxes, anchors);
        let (best, object) = iou.max_dim(0, false);
        let RetinaConfig { positive_iou, negative_iou, .. } = self.config;
        let matched = object.where_scalarother(&best.ge(negative_iou), BACKGROUND);
        let between = best.ge(negative_iou).logical_and(&best.lt(positive_iou));
        let matched = matched.where_scalarother(&between.logical_not(), IGNORED);
        let most = iou.amax([1i64], true);
        let is_most = iou.eq_tensor(&most).logical_and(&most.gt(0.0)).any_dim(0, false);
        let matched = object.where_self(&is_most, &matched);
        RetinaTargets { boxes: boxes.index_select(0, &object), labels: labels.index_select(0, &object), matched }
    }

    pub(super) fn loss(&self, predictions: &Predictions, size: (i64, i64), targets: &[DetTarget]) -> Losses {
        let Predictions { logits, regression, grids, .. } = predictions;
        let anchors = self.anchors(grids, size, logits.device());
        let (mut classification, mut boxes, mut counts) = (vec![], vec![], vec![]);
        for (i, target) in targets.iter().enumerate() {
            let RetinaTargets { matched, boxes: expected, labels } = self.targets(&anchors, target);
            let positive = matched.ge(0);
            let counted = matched.not_equal(IGNORED).unsqueeze(-1);
            let classes = labels.one_hot(self.num_classes).to_kind(Kind::Float) * positive.unsqueeze(-1);
            classification.push((focal_loss(&logits.get(i as i64), &classes) * counted).sum(Kind::Float));
            let index = positive.nonzero().reshape([-1]);
            let pick = |xs: &Tensor| xs.index_select(0, &index);
            let code = encode(&pick(&anchors), &pick(&expected));
            boxes.push((pick(&regression.get(i as i64)) - code).abs().sum(Kind::Float));
            counts.push(index.size()[0]);
        }
        let positives: i64 = counts.iter().sum();
        let of_batch = ranks::mean(positives as f64).max(1.0 / ranks::world() as f64);
        let divisor = |i: usize| match self.config.normalizer {
            Normalizer::Batch => of_batch,
            Normalizer::Image => (counts[i].max(1) * targets.len() as i64) as f64,
        };
        let sum = |parts: Vec<Tensor>| {
            let parts: Vec<Tensor> = parts.into_iter().enumerate().map(|(i, part)| part / divisor(i)).collect();
            Tensor::stack(&parts, 0).sum(Kind::Float)
        };
        Losses {
            classification: sum(classification),
            regression: sum(boxes),
            centerness: None,
            centerness_floor: None,
            positives,
        }
    }

    pub(super) fn detect(&self, predictions: &Predictions, size: (i64, i64)) -> Vec<Detections> {
        let Predictions { logits, regression, grids, .. } = predictions;
        let anchors = self.anchors(grids, size, logits.device());
        let per_cell = self.anchors_per_cell();
        let level_sizes: Vec<i64> = grids.iter().map(|(h, w)| h * w * per_cell).collect();
        let image = |i: i64| {
            detect(&logits.get(i).sigmoid(), &level_sizes, &self.config.detect, |rows| {
                let [anchors, code] = [&anchors, &regression.get(i)].map(|xs| xs.index_select(0, rows));
                clip(&decode(&anchors, &code), size)
            })
        };
        (0..logits.size()[0]).map(image).collect()
    }

    pub(super) fn detect_config(&self) -> &DetectConfig {
        &self.config.detect
    }

    pub(super) fn anchors_per_cell(&self) -> i64 {
        self.cells[0].size()[1]
    }

    pub(super) fn scores_and_boxes(&self, predictions: &Predictions, size: (i64, i64)) -> [Tensor; 2] {
        let Predictions { logits, regression, grids, .. } = predictions;
        let anchors = self.anchors(grids, size, logits.device());
        [logits.sigmoid(), clip(&decode(&anchors, regression), size)]
    }

    pub(super) fn cost(&self, maps: &[Shape], cost: &mut Cost) {
        self.classification_tower.cost(maps, cost);
        self.regression_tower.cost(maps, cost);
        [&self.logits, &self.boxes].into_iter().for_each(|conv| shared_cost(conv, maps, cost));
    }

    pub(super) fn norms(&self) -> Vec<&BatchNorm> {
        self.classification_tower.norms().chain(self.regression_tower.norms()).collect()
    }
}
