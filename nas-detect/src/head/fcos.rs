//! FCOS (Tian et al. 2019, arXiv 1904.01355) with centre sampling, centre-ness beside the boxes and GIoU loss, as in
//! torchvision.

use anyhow::{Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, Init, Mode, Module, Shape, VarBuilder, ranks, relu};
use nas_datasets::det::DetTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Reduction, Tensor};

use super::boxes::{area, clip, giou_loss};
use super::decode::{DetectConfig, Detections, detect};
use super::focal::focal_loss;
use super::tower::{Tower, TowerConfig, TowerNorm, shared_cost};
use super::{Losses, Predictions, flatten, join, prior_bias};
use crate::layers::BiasedConv;
use crate::neck::Levels;

/// How the four distances to a box's sides, in strides, come out of the last convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Regression {
    /// `relu(x)` with a bias that starts at 1: at 0 a prediction can be dead from the start.
    #[default]
    Relu,
    /// `exp(s x)`, `s` learned per level: the paper's first version.
    Exp,
}

/// What an [`Fcos`] consists of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FcosConfig {
    /// Convolutions before the predictors.
    pub convs: usize,
    /// Norms between them.
    pub norm: TowerNorm,
    /// Form of the distances.
    pub regression: Regression,
    /// Where in its stride a location lies: at `(i + offset) * stride`. 0.5 is the paper's; torchvision has 0.
    pub offset: f64,
    /// A location answers for an object when its centre is nearer than this many strides, along both axes.
    pub radius: f64,
    /// A level is for objects whose farthest side is nearer than this many strides; the coarsest has no such limit. 4 suits
    /// images of up to 128 pixels with levels 3 to 5.
    pub range: f64,
    /// What counts as a detection.
    pub detect: DetectConfig,
}

impl Default for FcosConfig {
    fn default() -> Self {
        Self {
            convs: 4,
            norm: TowerNorm::Group,
            regression: Regression::Relu,
            offset: 0.5,
            radius: 1.5,
            range: 8.0,
            detect: DetectConfig { score: 0.05, per_level: 1000, iou: 0.6, max: 100 },
        }
    }
}

impl FcosConfig {
    pub(super) fn check(&self) -> Result<()> {
        let Self { offset, radius, range, .. } = self;
        ensure!((0.0..1.0).contains(offset), "model.head.offset = {offset}: expected 0 or more, below 1");
        ensure!(*radius > 0.0, "model.head.radius = {radius}: expected a positive number");
        ensure!(*range > 0.0, "model.head.range = {range}: expected a positive number");
        Ok(())
    }
}

/// Largest logarithm of a distance.
const MAX_LOG: f64 = 4.828_313_737_302_301;

/// Two towers; class scores on one, distances and centre-ness on the other.
#[derive(Debug)]
pub struct Fcos {
    config: FcosConfig,
    strides: Vec<i64>,
    num_classes: i64,
    classification_tower: Tower,
    logits: BiasedConv,
    regression_tower: Tower,
    distances: BiasedConv,
    centerness: BiasedConv,
    scales: Option<Tensor>,
}

/// What the locations of one image answer for.
#[derive(Debug)]
pub struct FcosTargets {
    /// Index of the object `[N]`, -1 for background.
    pub matched: Tensor,
    /// Its box `[N, 4]`; meaningless for background.
    pub boxes: Tensor,
    /// Its class `[N]`; meaningless for background.
    pub labels: Tensor,
}

impl Fcos {
    /// The head over maps of `channels`.
    pub(super) fn new(vb: &VarBuilder, config: &FcosConfig, channels: i64, levels: Levels, num_classes: i64) -> Self {
        let tower = |name| {
            let FcosConfig { convs, norm, .. } = *config;
            let num_levels = levels.count();
            let tower = TowerConfig { channels, convs, norm, bias_before_group: true, separable: false, num_levels };
            Tower::new(&vb.sub(name), tower)
        };
        let predictor = |name, c_out, bias| BiasedConv::plain(&vb.sub(name), (channels, c_out), bias);
        let (distance_bias, learns_scales) = match config.regression {
            Regression::Relu => (1.0, false),
            Regression::Exp => (0.0, true),
        };
        Self {
            config: *config,
            strides: levels.strides(),
            num_classes,
            classification_tower: tower("classification_tower"),
            logits: predictor("logits", num_classes, prior_bias()),
            regression_tower: tower("regression_tower"),
            distances: predictor("distances", 4, distance_bias),
            centerness: predictor("centerness", 1, 0.0),
            scales: learns_scales.then(|| vb.weight("scales", &[levels.count() as i64], Init::Const(1.0))),
        }
    }

    pub(super) fn forward(&self, maps: &[Tensor], mode: Mode) -> Predictions {
        let (mut logits, mut distances, mut centerness, mut grids) = (vec![], vec![], vec![], vec![]);
        for (level, xs) in maps.iter().enumerate() {
            let ys = self.classification_tower.forward(xs, level, mode);
            logits.push(flatten(&self.logits.forward(&ys, mode), self.num_classes));
            let ys = self.regression_tower.forward(xs, level, mode);
            let raw = flatten(&self.distances.forward(&ys, mode), 4).to_kind(Kind::Float);
            distances.push(match &self.scales {
                Some(scales) => (raw * scales.get(level as i64)).clamp_max(MAX_LOG).exp(),
                None => relu(&raw),
            });
            centerness.push(flatten(&self.centerness.forward(&ys, mode), 1).squeeze_dim(-1));
            grids.push((xs.size()[2], xs.size()[3]));
        }
        Predictions { logits: join(logits), regression: join(distances), centerness: Some(join(centerness)), grids }
    }

    /// Locations `[N, 2]` (x, y) in pixels and strides `[N]`.
    fn locations(&self, grids: &[(i64, i64)], device: Device) -> (Tensor, Tensor) {
        let float = (Kind::Float, device);
        let levels = grids.iter().zip(&self.strides).map(|((h, w), stride)| {
            let axis = |n: i64| (Tensor::arange(n, float) + self.config.offset) * *stride;
            let grid = Tensor::meshgrid_indexing(&[axis(*h), axis(*w)], "ij");
            let points = Tensor::stack(&[grid[1].reshape([-1]), grid[0].reshape([-1])], 1);
            (points, Tensor::full([h * w], *stride, float))
        });
        let (points, strides): (Vec<Tensor>, Vec<Tensor>) = levels.unzip();
        (Tensor::cat(&points, 0), Tensor::cat(&strides, 0))
    }

    /// Which object each location of maps of `grids` answers for.
    pub fn targets(&self, grids: &[(i64, i64)], target: &DetTarget, device: Device) -> FcosTargets {
        let (points, strides) = self.locations(grids, device);
        let n = points.size()[0];
        let DetTarget { boxes, labels } = target.to_device(device);
        if target.is_empty() {
            let matched = Tensor::full([n], -1, (Kind::Int64, device));
            return FcosTargets {
                labels: matched.zeros_like(),
                matched,
                boxes: Tensor::zeros([n, 4], (Kind::Float, device)),
            };
        }
        let strides = strides.unsqueeze(1);
        // [N, M, 4]: distances to the left, upper, right, lower side
        let sides = (points.unsqueeze(1) - boxes.slice(1, 0, 2, 1).unsqueeze(0), boxes.slice(1, 2, 4, 1).unsqueeze(0));
        let sides = Tensor::cat(&[sides.0, sides.1 - points.unsqueeze(1)], 2);
        let centers = (boxes.slice(1, 0, 2, 1) + boxes.slice(1, 2, 4, 1)) * 0.5;
        let to_center = (points.unsqueeze(1) - centers.unsqueeze(0)).abs().amax([2i64], false);
        let farthest = sides.amax([2i64], false);
        let (lower, upper) = self.ranges(grids, device);
        let inside =
            to_center.lt_tensor(&(&strides * self.config.radius)).logical_and(&sides.amin([2i64], false).gt(0.0));
        let in_range = farthest.gt_tensor(&lower.unsqueeze(1)).logical_and(&farthest.lt_tensor(&upper.unsqueeze(1)));
        let fits = inside.logical_and(&in_range);
        // of several objects the smallest; of equally small ones the first
        let areas = area(&boxes).unsqueeze(0).where_scalarother(&fits, f64::INFINITY);
        let smallest = areas.argmin(1, false);
        let matched = smallest.where_scalarother(&fits.any_dim(1, false), -1);
        FcosTargets { boxes: boxes.index_select(0, &smallest), labels: labels.index_select(0, &smallest), matched }
    }

    /// The least and the largest distance to the farthest side, `[N]` each, that a location is for.
    fn ranges(&self, grids: &[(i64, i64)], device: Device) -> (Tensor, Tensor) {
        let last = grids.len() - 1;
        let limit = |level: usize| self.config.range * self.strides[level] as f64;
        let levels = grids.iter().enumerate().map(|(level, (h, w))| {
            let lower = if level == 0 { 0.0 } else { limit(level - 1) };
            let upper = if level == last { f64::INFINITY } else { limit(level) };
            [lower, upper].map(|value| Tensor::full([h * w], value, (Kind::Float, device)))
        });
        let (lower, upper): (Vec<Tensor>, Vec<Tensor>) = levels.map(|[lower, upper]| (lower, upper)).unzip();
        (Tensor::cat(&lower, 0), Tensor::cat(&upper, 0))
    }

    pub(super) fn loss(&self, predictions: &Predictions, targets: &[DetTarget]) -> Losses {
        let Predictions { logits, regression, centerness, grids } = predictions;
        let device = logits.device();
        let targets: Vec<FcosTargets> = targets.iter().map(|target| self.targets(grids, target, device)).collect();
        let stack = |part: fn(&FcosTargets) -> &Tensor| Tensor::stack(&targets.iter().map(part).collect::<Vec<_>>(), 0);
        let (boxes, labels) = (stack(|target| &target.boxes), stack(|target| &target.labels));
        let positive = stack(|target| &target.matched).ge(0);
        let index = positive.reshape([-1]).nonzero().reshape([-1]);
        let positives = index.size()[0];
        let count = ranks::mean(positives as f64).max(1.0 / ranks::world() as f64);

        let classes = labels.one_hot(self.num_classes).to_kind(Kind::Float) * positive.unsqueeze(-1);
        let classification = focal_loss(logits, &classes).sum(Kind::Float) / count;

        let (points, strides) = self.locations(grids, device);
        let pick = |xs: &Tensor, n: i64| xs.reshape([-1, n]).index_select(0, &index);
        let location = index.remainder(points.size()[0]);
        let (points, strides) = (points.index_select(0, &location), strides.index_select(0, &location));
        let expected = pick(&boxes, 4);
        let found = decode(&points, &strides, &pick(regression, 4));
        let regression = giou_loss(&found, &expected).sum(Kind::Float) / count;

        let soft = centerness_of(&points, &expected);
        let logits = pick(centerness.as_ref().expect("FCOS predicts centre-ness"), 1).squeeze_dim(-1);
        let none: Option<&Tensor> = None;
        let centerness = logits.binary_cross_entropy_with_logits(&soft, none, none, Reduction::Sum) / count;
        let centerness_floor = tch::no_grad(|| {
            let miss: Tensor = 1.0 - &soft;
            -(soft.xlogy(&soft) + miss.xlogy(&miss)).sum(Kind::Float) / count
        });
        Losses {
            classification,
            regression,
            centerness: Some(centerness),
            centerness_floor: Some(centerness_floor),
            positives,
        }
    }

    pub(super) fn detect(&self, predictions: &Predictions, size: (i64, i64)) -> Vec<Detections> {
        let Predictions { logits, regression, centerness, grids } = predictions;
        let (points, strides) = self.locations(grids, logits.device());
        let level_sizes: Vec<i64> = grids.iter().map(|(h, w)| h * w).collect();
        let centerness = centerness.as_ref().expect("FCOS predicts centre-ness");
        let image = |i: i64| {
            let scores = (logits.get(i).sigmoid() * centerness.get(i).sigmoid().unsqueeze(-1)).sqrt();
            detect(&scores, &level_sizes, &self.config.detect, |rows| {
                let [points, strides, code] =
                    [&points, &strides, &regression.get(i)].map(|xs| xs.index_select(0, rows));
                clip(&decode(&points, &strides, &code), size)
            })
        };
        (0..logits.size()[0]).map(image).collect()
    }

    pub(super) fn detect_config(&self) -> &DetectConfig {
        &self.config.detect
    }

    pub(super) fn scores_and_boxes(&self, predictions: &Predictions, size: (i64, i64)) -> [Tensor; 2] {
        let Predictions { logits, regression, centerness, grids } = predictions;
        let (points, strides) = self.locations(grids, logits.device());
        let centerness = centerness.as_ref().expect("FCOS predicts centre-ness");
        let scores = (logits.sigmoid() * centerness.sigmoid().unsqueeze(-1)).sqrt();
        [scores, clip(&decode(&points, &strides, regression), size)]
    }

    pub(super) fn cost(&self, maps: &[Shape], cost: &mut Cost) {
        self.classification_tower.cost(maps, cost);
        self.regression_tower.cost(maps, cost);
        [&self.logits, &self.distances, &self.centerness].into_iter().for_each(|conv| shared_cost(conv, maps, cost));
        cost.params += self.scales.as_ref().map_or(0, |_| self.strides.len() as u64);
    }

    pub(super) fn norms(&self) -> Vec<&BatchNorm> {
        self.classification_tower.norms().chain(self.regression_tower.norms()).collect()
    }
}

/// Boxes `[.., n, 4]` of distances `[.., n, 4]` in strides from points `[n, 2]`.
fn decode(points: &Tensor, strides: &Tensor, distances: &Tensor) -> Tensor {
    let distances = distances * strides.unsqueeze(1);
    let parts = distances.chunk(2, -1);
    Tensor::cat(&[points - &parts[0], points + &parts[1]], -1)
}

/// Centre-ness `[n]` of points `[n, 2]` inside boxes `[n, 4]`: 1 in the middle, 0 on a side.
fn centerness_of(points: &Tensor, boxes: &Tensor) -> Tensor {
    let corners = boxes.chunk(2, 1);
    let (before, after) = (points - &corners[0], &corners[1] - points);
    let ratio = before.minimum(&after) / before.maximum(&after);
    ratio.prod_dim_int(1, false, Kind::Float).sqrt()
}
