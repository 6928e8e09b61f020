//! A detector, and the config it is built from: any backbone, any neck, any head.

use anyhow::{Result, bail, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::StageSize;
use nas_core::models::sizes::Rise;
use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, Mode, Shape, VarBuilder, channels_last};
use nas_core::run::export::onnx::{PredictingLevel, Suppression};
use nas_core::space::Architecture;
use nas_core::space::{Backbone, FeatureInfo, Mixture, Supernet};
use nas_core::task::TaskModel;
use nas_datasets::det::DetTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::backbone::{BackboneConfig, ResNetConfig, ResNetDepth, ShuffleNetWidth};
use crate::detnas::{DetNasConfig, DetNasSize, DetNasSupernet};
use crate::head::{
    DetectConfig, Detections, FcosConfig, Head, HeadConfig, Losses, Normalizer, Predictions, RetinaConfig, TowerNorm,
};
use crate::neck::{BiFpnConfig, ExtraInput, FpnConfig, Levels, NasFpnConfig, Neck, NeckConfig};

/// The section `[model]` of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Images to maps.
    pub backbone: BackboneConfig,
    /// Maps of a backbone to maps of equal channels.
    pub neck: NeckConfig,
    /// Maps to boxes.
    pub head: HeadConfig,
}

impl ModelConfig {
    /// The detector of `num_classes`, its weights under `vb`. A value that no detector can be made of is an error that
    /// names the key.
    pub fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<Detector> {
        let backbone = self.backbone.build(&vb.sub("backbone"))?;
        let top = self.build_top(vb, &backbone.feature_info(), num_classes)?;
        Ok(Detector { backbone, top })
    }

    /// The detector with the supernet of its backbone's space in the place of the backbone.
    pub fn build_supernet(&self, vb: &VarBuilder, num_classes: i64) -> Result<SuperDetector> {
        let BackboneConfig::Detnas(config) = &self.backbone else {
            bail!("model.backbone: only kind = \"detnas\" has a supernet");
        };
        let supernet = config.space()?.shared(&vb.sub("backbone"));
        let top = self.build_top(vb, &supernet.feature_info(), num_classes)?;
        Ok(SuperDetector { supernet, top })
    }

    /// The stride of the coarsest level.
    pub fn largest_stride(&self) -> i64 {
        let levels = self.neck.levels();
        levels.stride(levels.max)
    }

    fn build_top(&self, vb: &VarBuilder, features: &[FeatureInfo], num_classes: i64) -> Result<Top> {
        Top::new(vb, &self.neck, &self.head, features, num_classes)
    }

    /// The same detector with another architecture of its backbone's space.
    pub fn with_arch(self, arch: Architecture) -> Result<Self> {
        Ok(Self { backbone: self.backbone.with_arch(arch)?, ..self })
    }
}

/// Neck and head: what backbone and supernet share.
#[derive(Debug)]
pub struct Top {
    neck: Box<dyn Neck>,
    head: Head,
    levels: Levels,
    divisor: i64,
}

impl Top {
    /// Neck and head over a backbone's `features`, their weights under `vb`.
    pub fn new(
        vb: &VarBuilder,
        neck: &NeckConfig,
        head: &HeadConfig,
        features: &[FeatureInfo],
        num_classes: i64,
    ) -> Result<Self> {
        let levels = neck.levels();
        let head = head.build(&vb.sub("head"), neck.channels(), levels, num_classes)?;
        Ok(Self { neck: neck.build(&vb.sub("neck"), features)?, head, levels, divisor: neck.divisor() })
    }

    /// Predictions from a backbone's maps, finest first.
    pub fn forward(&self, features: &[Tensor], mode: Mode) -> Predictions {
        self.head.forward(&self.neck.forward(features, mode), mode)
    }

    /// Losses of predictions on images of `size` (height, width), one target per image.
    pub fn loss(&self, predictions: &Predictions, size: (i64, i64), targets: &[DetTarget]) -> Losses {
        self.head.loss(predictions, size, targets)
    }

    /// What predictions find in images of `size` (height, width).
    pub fn detect(&self, predictions: &Predictions, size: (i64, i64)) -> Vec<Detections> {
        self.head.detect(predictions, size)
    }

    /// Scores `[B, N, K]` and boxes `[B, N, 4]` of all predictions on images of `size` (height, width).
    pub fn scores_and_boxes(&self, predictions: &Predictions, size: (i64, i64)) -> [Tensor; 2] {
        self.head.scores_and_boxes(predictions, size)
    }

    /// What is found in images of `size` (height, width) of which [`Top::scores_and_boxes`] are known.
    pub fn detections(&self, scores: &Tensor, boxes: &Tensor, (h, w): (i64, i64)) -> Result<Vec<Detections>> {
        let side = |n: i64, stride: i64| (n + stride - 1) / stride;
        let cells = self.levels.strides().into_iter().map(|stride| side(h, stride) * side(w, stride));
        let cells: Vec<i64> = cells.collect();
        self.head.detections(scores, boxes, &cells)
    }

    /// What makes detections of scores and boxes, as [`Top::detections`] does, in a file of a detector for `num_classes`.
    pub fn suppression(&self, num_classes: usize) -> Suppression {
        let (DetectConfig { score, per_level, iou, max }, per_cell) = self.head.predicting();
        let level = |stride| PredictingLevel { stride, per_cell };
        Suppression {
            levels: self.levels.strides().into_iter().map(level).collect(),
            num_classes: num_classes as i64,
            score: *score,
            per_level: *per_level,
            iou: *iou,
            max: *max as i64,
        }
    }

    /// Says when images of `size` (height, width) are not taken.
    pub fn check_size(&self, (h, w): (i64, i64)) -> Result<()> {
        let n = self.divisor;
        ensure!(h % n == 0 && w % n == 0, "images of {h}x{w}: this neck needs sides that are multiples of {n}");
        Ok(())
    }

    /// Costs of neck and head on a backbone's maps.
    pub fn cost_parts(&self, features: &[Shape]) -> Vec<(String, Cost)> {
        let [mut neck, mut head] = [Cost::default(); 2];
        self.head.cost(&self.neck.cost(features, &mut neck), &mut head);
        vec![("neck".to_string(), neck), ("head".to_string(), head)]
    }

    /// Its batch norms.
    pub fn norms(&self) -> Vec<&BatchNorm> {
        [self.neck.norms(), self.head.norms()].concat()
    }
}

/// Backbone, neck and head.
#[derive(Debug)]
pub struct Detector {
    /// Images to maps.
    pub backbone: Box<dyn Backbone>,
    /// Maps to boxes.
    pub top: Top,
}

impl Detector {
    /// Predictions for images `[B, 3, H, W]`.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Predictions {
        self.top.forward(&self.backbone.features(&channels_last(images), mode), mode)
    }

    /// Losses of a training pass over images `[B, 3, H, W]`, one target per image.
    pub fn loss(&self, images: &Tensor, targets: &[DetTarget], mode: Mode) -> Losses {
        self.top.loss(&self.forward(images, mode), size_of(images), targets)
    }

    /// The objects in each of the images `[B, 3, H, W]`, in pixels of these images.
    pub fn detect(&self, images: &Tensor) -> Vec<Detections> {
        tch::no_grad(|| self.top.detect(&self.forward(images, Mode::EVAL), size_of(images)))
    }

    /// Scores `[B, N, K]` and boxes `[B, N, 4]` of all predictions for images `[B, 3, H, W]`, before suppression.
    pub fn scores_and_boxes(&self, images: &Tensor) -> [Tensor; 2] {
        self.top.scores_and_boxes(&self.forward(images, Mode::EVAL), size_of(images))
    }

    /// Costs of the backbone's parts, and of neck and head, on an image of `size` (height, width).
    pub fn cost_parts(&self, (h, w): (i64, i64)) -> [Vec<(String, Cost)>; 2] {
        let (backbone, features) = self.backbone.cost_parts(Shape::new(3, h, w));
        [backbone, self.top.cost_parts(&features)]
    }
}

/// A detector on a supernet: one forward pass is that of one path, or of a mixture.
#[derive(Debug)]
pub struct SuperDetector {
    /// Images to maps.
    pub supernet: DetNasSupernet,
    /// Maps to boxes; all paths share it.
    pub top: Top,
}

impl SuperDetector {
    /// Predictions for images `[B, 3, H, W]`.
    pub fn forward(&self, images: &Tensor, mixture: Mixture, mode: Mode) -> Predictions {
        self.top.forward(&self.supernet.features(&channels_last(images), mixture, mode), mode)
    }

    /// Losses of a training pass over images `[B, 3, H, W]`, one target per image.
    pub fn loss(&self, images: &Tensor, targets: &[DetTarget], mixture: Mixture, mode: Mode) -> Losses {
        self.top.loss(&self.forward(images, mixture, mode), size_of(images), targets)
    }

    /// What the path of `arch` finds in each of the images `[B, 3, H, W]`.
    pub fn detect(&self, images: &Tensor, arch: &Architecture) -> Vec<Detections> {
        tch::no_grad(|| {
            let predictions = self.forward(images, Mixture::Path(arch), Mode::EVAL);
            self.top.detect(&predictions, size_of(images))
        })
    }

    /// The batch norms that images pass on the path of `arch`, those of neck and head included.
    pub fn norms(&self, arch: &Architecture) -> Result<Vec<&BatchNorm>> {
        Ok([self.supernet.norms(arch)?, self.top.norms()].concat())
    }
}

fn size_of(images: &Tensor) -> (i64, i64) {
    let (_, _, h, w) = images.size4().expect("images have four dimensions");
    (h, w)
}

/// Stages are the backbone's.
impl TaskModel for ModelConfig {
    fn presets() -> Vec<(&'static str, Self)> {
        presets()
    }

    fn stages(&self) -> Result<Vec<StageSize>> {
        self.backbone.stages()
    }

    fn top(&self) -> Option<StageSize> {
        Some(StageSize { channels: self.neck.channels(), blocks: self.head.convs() })
    }

    fn with_stages(mut self, mut stages: Vec<StageSize>) -> Result<Self> {
        if stages.len() > self.stages()?.len()
            && let Some(StageSize { channels, blocks }) = stages.pop()
        {
            *self.neck.channels_mut() = channels;
            *self.head.convs_mut() = blocks;
        }
        Ok(Self { backbone: self.backbone.with_stages(stages)?, ..self })
    }

    fn rise(&self) -> Option<Rise> {
        matches!(self.backbone, BackboneConfig::Detnas(_)).then_some(Rise::Strictly)
    }

    fn parts(&self) -> Option<Vec<BlockParts>> {
        self.backbone.parts("backbone.")
    }
}

/// Every detector by name.
pub fn presets() -> Vec<(&'static str, ModelConfig)> {
    let detnas = |size| BackboneConfig::Detnas(DetNasConfig::new(size));
    let resnet = |depth, frozen_norms| BackboneConfig::Resnet(ResNetConfig { depth, frozen_norms, stages: Vec::new() });
    let fpn = |channels, extra| NeckConfig::Fpn(FpnConfig { channels, extra, ..Default::default() });
    let small_fpn =
        || NeckConfig::Fpn(FpnConfig { channels: 64, levels: Levels { min: 3, max: 5 }, ..Default::default() });
    let small_fcos = || HeadConfig::Fcos(FcosConfig { convs: 2, range: 4.0, ..Default::default() });
    let torchvision_retina = |norm| {
        let detect = DetectConfig { max: 300, ..RetinaConfig::default().detect };
        HeadConfig::Retina(RetinaConfig { norm, detect, normalizer: Normalizer::Image, ..Default::default() })
    };
    let fcos = |offset| HeadConfig::Fcos(FcosConfig { offset, ..Default::default() });
    let model = |backbone, neck, head| ModelConfig { backbone, neck, head };
    vec![
        ("fcos_detnas_tiny", model(detnas(DetNasSize::Tiny), small_fpn(), small_fcos())),
        (
            "fcos_shufflenet_v2_x0_5",
            model(
                BackboneConfig::ShufflenetV2 { width: ShuffleNetWidth::X0_5, stages: Vec::new() },
                small_fpn(),
                small_fcos(),
            ),
        ),
        ("fcos_resnet18_fpn", model(resnet(ResNetDepth::R18, false), fpn(256, ExtraInput::P5), fcos(0.5))),
        (
            "fcos_mobilenet_v2_fpn",
            model(BackboneConfig::MobilenetV2 { stages: Vec::new() }, fpn(256, ExtraInput::P5), fcos(0.5)),
        ),
        ("fcos_detnas_300m_fpn", model(detnas(DetNasSize::Mega300), fpn(256, ExtraInput::P5), fcos(0.5))),
        (
            "retinanet_detnas_300m_fpn",
            model(
                BackboneConfig::Detnas(DetNasConfig::released("coco_retinanet_300m").expect("a released name")),
                fpn(256, ExtraInput::P5),
                HeadConfig::Retina(RetinaConfig { norm: TowerNorm::Group, ..Default::default() }),
            ),
        ),
        (
            "retinanet_resnet50_fpn",
            model(resnet(ResNetDepth::R50, true), fpn(256, ExtraInput::P5), torchvision_retina(TowerNorm::None)),
        ),
        (
            "retinanet_resnet50_fpn_v2",
            model(resnet(ResNetDepth::R50, false), fpn(256, ExtraInput::C5), torchvision_retina(TowerNorm::Group)),
        ),
        ("fcos_resnet50_fpn", model(resnet(ResNetDepth::R50, true), fpn(256, ExtraInput::P5), fcos(0.0))),
        (
            "nasfpn_r50_7at256",
            model(
                resnet(ResNetDepth::R50, false),
                NeckConfig::NasFpn(NasFpnConfig::default()),
                HeadConfig::Retina(RetinaConfig { norm: TowerNorm::BatchPerLevel, ..Default::default() }),
            ),
        ),
        (
            "retinanet_resnet18_bifpn",
            model(
                resnet(ResNetDepth::R18, false),
                NeckConfig::Bifpn(BiFpnConfig::default()),
                HeadConfig::Retina(efficientdet_head()),
            ),
        ),
    ]
}

/// EfficientDet-D0's head.
pub fn efficientdet_head() -> RetinaConfig {
    RetinaConfig { convs: 3, norm: TowerNorm::BatchPerLevel, separable: true, ..Default::default() }
}

#[cfg(test)]
mod tests;
