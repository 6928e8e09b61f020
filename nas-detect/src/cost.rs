//! `nas-detect cost`: parameters and multiply-adds of a network, counted from its structure without allocating or running
//! it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use nas_core::nn::Cost;
use nas_core::nn::{Shape, VarBuilder};
use nas_core::run::cli::{Format, parse_size};
use nas_core::space::Architecture;
use nas_core::space::FeatureInfo;
use nas_core::task::TaskModel;
use nas_core::task::commands::cost::CostReport;
use nas_core::task::experiment::named_model;
use serde::{Deserialize, Serialize};

use crate::backbone::{BackboneConfig, Classifier, ShuffleNetWidth, total};
use crate::detnas::{DetNasConfig, DetNasSize, released};
use crate::head::HeadConfig;
use crate::model::{self, ModelConfig, Top};
use crate::neck::{BiFpnConfig, NeckConfig};

/// Count a network's parameters and multiply-adds, part by part
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-detect cost detnas_300m --size 224x224 --arch 2-1-2-0-2-1-1-2-3-3-1-3-0-0-3-1-3-1-3-2
  nas-detect cost detnas_coco_fpn_300m --format json
  nas-detect cost shufflenet_v2_x1_0
  nas-detect cost fcos_resnet50_fpn --size 800x800
  nas-detect cost configs/detect/bccd_detnas.toml --size 256x256 --num-classes 3

efficientdet_d0 is its neck and heads alone. detnas_SIZE without --arch is the architecture released for COCO with FPN (detnas_tiny: 3x3 blocks only).
Classifiers are counted with their last 1x1 convolution and linear map; `backbone_macs` is stem and blocks alone, which
DetNAS' limit of 300 M means. A multiply-add is one multiplication and one addition of a convolution or linear map; norms,
activations, pooling and interpolation are not counted. Parameters are the trained ones: weights, biases, scales and shifts
of norms that are not frozen.")]
pub struct CostArgs {
    /// A preset (an unknown name lists them), or an experiment file with a section `model`
    pub name: String,
    /// Height and width of the image [default: the published one]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<(i64, i64)>,
    /// Architecture of a space: its choices joined by dashes
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Classes [default: the published ones]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(i64).range(1..=65_536))]
    pub num_classes: Option<i64>,
    /// How to print the counts
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Counts of a network, and of its backbone alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectorCost {
    /// Counts of all parts.
    #[serde(flatten)]
    pub report: CostReport,
    /// Multiply-adds of stem and blocks.
    pub backbone_macs: u64,
}

impl fmt::Display for DetectorCost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}\nbackbone alone: {} multiply-adds", self.report, self.backbone_macs)
    }
}

/// What a preset counts, and its published image size and classes.
struct Subject {
    net: Net,
    size: (i64, i64),
    num_classes: i64,
}

enum Net {
    /// With the head of its classifier.
    Classifier(BackboneConfig),
    /// A detector.
    Detector(Box<ModelConfig>),
    /// Neck and head over the maps of a backbone that is not here.
    Top { features: Vec<FeatureInfo>, neck: NeckConfig, head: HeadConfig },
}

/// Runs the command.
pub fn run(args: &CostArgs) -> Result<DetectorCost> {
    let mut subject = named(&args.name)?;
    if let Some(text) = &args.arch {
        let arch = text.parse().context("--arch")?;
        subject.net = subject.net.with_arch(arch).with_context(|| format!("--arch: {}", args.name))?;
    }
    let (h, w) = args.size.unwrap_or(subject.size);
    let num_classes = args.num_classes.unwrap_or(subject.num_classes);
    let [backbone, rest] =
        subject.net.cost_parts(Shape::new(3, h, w), num_classes).with_context(|| args.name.clone())?;
    let backbone_macs = total(&backbone).macs;
    let report = CostReport::new(&args.name, (h, w), num_classes, [backbone, rest].concat());
    Ok(DetectorCost { report, backbone_macs })
}

impl Net {
    fn with_arch(self, arch: Architecture) -> Result<Self> {
        Ok(match self {
            Self::Classifier(backbone) => Self::Classifier(backbone.with_arch(arch)?),
            Self::Detector(model) => Self::Detector(Box::new(model.with_arch(arch)?)),
            Self::Top { .. } => bail!("this network has no architecture to choose"),
        })
    }

    /// Parts of the backbone, and of what follows it.
    fn cost_parts(&self, input: Shape, num_classes: i64) -> Result<[Vec<(String, Cost)>; 2]> {
        let vb = VarBuilder::dry();
        Ok(match self {
            Self::Classifier(backbone) => Classifier::new(&vb, backbone, num_classes)?.cost_parts(input),
            Self::Detector(model) => {
                let net = model.build(&vb, num_classes)?;
                net.top.check_size(input.size())?;
                net.cost_parts(input.size())
            }
            Self::Top { features, neck, head } => {
                let map = |info: &FeatureInfo| {
                    let side = |n: i64| (n - 1) / info.stride + 1;
                    Shape::new(info.channels, side(input.h), side(input.w))
                };
                let maps: Vec<Shape> = features.iter().map(map).collect();
                [vec![], Top::new(&vb, neck, head, features, num_classes)?.cost_parts(&maps)]
            }
        })
    }
}

/// The subject of a preset or of an experiment file. The error of an unknown name lists the known ones.
fn named(name: &str) -> Result<Subject> {
    let path = Path::new(name);
    if path.is_file() || path.extension().is_some_and(|extension| extension == "toml") {
        let model = named_model(name, ModelConfig::preset)?;
        return Ok(Subject { net: Net::Detector(Box::new(model)), size: (800, 800), num_classes: 80 });
    }
    let mut presets = presets();
    // a dot is awkward in some shells' completion, so an underscore serves too
    match presets.iter().position(|(known, _)| known == name || known.replace('.', "_") == name) {
        Some(i) => Ok(presets.swap_remove(i).1),
        None => {
            let known: Vec<String> = presets.into_iter().map(|(known, _)| known).collect();
            bail!("{name:?} is no preset; expected one of {}", known.join(", "))
        }
    }
}

fn presets() -> Vec<(String, Subject)> {
    let classifier = |backbone| Subject { net: Net::Classifier(backbone), size: (224, 224), num_classes: 1000 };
    let detnas = |size, arch| classifier(BackboneConfig::Detnas(DetNasConfig { arch, ..DetNasConfig::new(size) }));
    let sizes = [
        ("300m", DetNasSize::Mega300),
        ("1.3g", DetNasSize::Giga1_3),
        ("3.8g", DetNasSize::Giga3_8),
        ("tiny", DetNasSize::Tiny),
    ];
    let widths = [
        ("x0_5", ShuffleNetWidth::X0_5),
        ("x1_0", ShuffleNetWidth::X1_0),
        ("x1_5", ShuffleNetWidth::X1_5),
        ("x2_0", ShuffleNetWidth::X2_0),
    ];
    let mut presets: Vec<(String, Subject)> = Vec::new();
    presets.extend(sizes.map(|(name, size)| (format!("detnas_{name}"), detnas(size, None))));
    presets.extend(
        released().into_iter().map(|point| (format!("detnas_{}", point.name), detnas(point.size, Some(point.arch)))),
    );
    presets.extend(widths.map(|(name, width)| {
        (format!("shufflenet_v2_{name}"), classifier(BackboneConfig::ShufflenetV2 { width, stages: Vec::new() }))
    }));
    presets.extend(model::presets().into_iter().map(|(name, model)| {
        let (size, num_classes) = reference(name);
        (name.to_string(), Subject { net: Net::Detector(Box::new(model)), size, num_classes })
    }));
    presets.push(("efficientdet_d0".to_string(), efficientdet_d0()));
    presets
}

/// Image size and number of classes that a detector's published counts are for.
pub fn reference(name: &str) -> ((i64, i64), i64) {
    match name {
        "nasfpn_r50_7at256" => ((640, 640), 90),
        _ if name.contains("resnet50") => ((800, 800), 91),
        _ => ((800, 800), 80),
    }
}

/// EfficientDet-D0 without its EfficientNet-B0, whose maps have 40, 112 and 320 channels.
fn efficientdet_d0() -> Subject {
    let map = |(channels, stride)| FeatureInfo { channels, stride };
    let net = Net::Top {
        features: [(40, 8), (112, 16), (320, 32)].map(map).into(),
        neck: NeckConfig::Bifpn(BiFpnConfig::default()),
        head: HeadConfig::Retina(model::efficientdet_head()),
    };
    Subject { net, size: (512, 512), num_classes: 90 }
}

#[cfg(test)]
mod tests;
