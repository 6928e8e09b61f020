//! A classification network, and the configs it is built from.

use anyhow::{Context, Result, bail, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::sizes::Rise;
use nas_core::models::{Layout, MobileNet, ResNet, ResNetConfig, ResNetDepth, StageSize};
use nas_core::nn::VarBuilder;
use nas_core::space::{Architecture, Backbone};
use nas_core::task::TaskModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cells::{self, CellSpace, StemKind, published};
use crate::classifier::BackboneClassifier;
use crate::mobile::{self, Published};
use crate::nasbench201::{self, Network, NetworkConfig};
use crate::search_net::SpaceConfig;

pub use crate::classifier::{Classifier, Logits};

/// The section `[model]` of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelConfig {
    /// A network of NAS-Bench-201.
    Nasbench201(NasBench201Model),
    /// Cells in the frame of DARTS.
    Cells(cells::NetworkConfig),
    /// A published network of inverted residuals.
    Mobile(MobileModel),
    /// ResNet-18 for ImageNet, ResNet-20 for CIFAR.
    Resnet(ResNetModel),
    /// An architecture of a search space, with a linear classifier.
    Searched(SearchedModel),
}

/// A published network of inverted residuals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MobileModel {
    /// Which.
    pub network: Published,
    /// Share of the last layer's inputs that is dropped while training, in place of the published one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// The first convolution has stride 1, for images of 32 or 64 pixels.
    #[serde(default)]
    pub small_images: bool,
    /// Channels and blocks of the first convolution, which is one block, and of every stage; none for the published ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

/// A ResNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNetModel {
    /// 18 or 20.
    pub depth: u32,
    /// Channels and blocks of every stage; none for the published ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

/// An architecture of a search space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchedModel {
    /// The choices.
    pub arch: Architecture,
    /// The space.
    pub space: SpaceConfig,
    /// Of a network of mobile blocks, channels and blocks of the first convolution, which is one block, and of every stage; none for
    /// those that `arch` gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

impl SearchedModel {
    /// Channels and blocks of the stages of mobile blocks.
    fn sizes(&self) -> Result<Vec<StageSize>> {
        match &self.space {
            SpaceConfig::Mobile(_) if !self.stages.is_empty() => Ok(self.stages.clone()),
            SpaceConfig::Mobile(space) => Ok(space.layout_of(&self.arch)?.sizes()),
            _ => bail!("model.space.kind: a chain has no stages that a search may go around; expected mobile"),
        }
    }

    fn build(&self, vb: &VarBuilder) -> Result<Box<dyn Backbone>> {
        match (&self.space, self.stages.as_slice()) {
            (space, []) => Ok(space.build()?.build(vb, &self.arch).context("model.arch")?),
            (SpaceConfig::Mobile(space), stages) => {
                space.check()?;
                let layout = space.layout_of(&self.arch).context("model.arch")?.with_sizes("model.stages", stages)?;
                Ok(Box::new(MobileNet::new(vb, &layout)))
            }
            _ => bail!("model.stages: expected none beside this space"),
        }
    }

    fn parts(&self) -> Option<Vec<BlockParts>> {
        let SpaceConfig::Mobile(space) = &self.space else { return None };
        space.parts(&self.arch, &self.sizes().ok()?).ok()
    }
}

impl MobileModel {
    fn layout(&self) -> Result<(Layout, mobile::Head)> {
        let (layout, head) = self.network.layout();
        match self.stages.as_slice() {
            [] => Ok((layout, head)),
            stages => Ok((layout.with_sizes("model.stages", stages)?, head)),
        }
    }

    fn stages(&self) -> Vec<StageSize> {
        if self.stages.is_empty() { self.network.layout().0.sizes() } else { self.stages.clone() }
    }

    fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<mobile::Network> {
        let (mut layout, mut head) = self.layout()?;
        if self.small_images {
            layout.stem.1 = 1;
        }
        head.dropout = self.dropout.unwrap_or(head.dropout);
        let dropout = head.dropout;
        ensure!((0.0..1.0).contains(&dropout), "model.dropout = {dropout}: expected 0 up to but not 1");
        Ok(mobile::Network::new(vb, &layout, head, num_classes))
    }
}

impl ResNetModel {
    /// ResNet-18 with torchvision's names, or the paper's ResNet-20, whose shortcuts have no weights (option A).
    fn config(&self) -> Result<ResNetConfig> {
        let config = match self.depth {
            18 => ResNetConfig::torchvision(ResNetDepth::R18),
            20 => ResNetConfig::cifar(3),
            depth => bail!("model.depth = {depth}: expected 18 or 20"),
        };
        if self.stages.is_empty() { Ok(config) } else { config.with_sizes("model.stages", &self.stages) }
    }

    fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<BackboneClassifier> {
        let backbone = Box::new(ResNet::new(vb, &self.config()?));
        Ok(BackboneClassifier::at("fc", vb, backbone, num_classes))
    }
}

/// What a network is usually counted and trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Height and width of the images.
    pub size: (i64, i64),
    /// Classes.
    pub num_classes: i64,
}

const CIFAR: Reference = Reference { size: (32, 32), num_classes: 10 };
const IMAGENET: Reference = Reference { size: (224, 224), num_classes: 1000 };

/// A network of NAS-Bench-201.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NasBench201Model {
    /// Operators of the edges 0->1, 0->2, 1->2, 0->3, 1->3, 2->3, such as `3-1-0-4-2-3`.
    pub arch: Architecture,
    /// Channels of the first stage.
    #[serde(default = "channels")]
    pub channels: i64,
    /// Cells of each of the three stages.
    #[serde(default = "cells_per_stage")]
    pub cells: usize,
    /// Channels and cells of each of the three stages; none for those that `channels` and `cells` give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

impl NasBench201Model {
    fn config(&self, num_classes: i64) -> NetworkConfig {
        NetworkConfig { channels: self.channels, cells: self.cells, num_classes }
    }

    fn sizes(&self) -> Vec<StageSize> {
        if self.stages.is_empty() { self.config(1).sizes() } else { self.stages.clone() }
    }
}

fn channels() -> i64 {
    NetworkConfig::default().channels
}

fn cells_per_stage() -> usize {
    NetworkConfig::default().cells
}

impl ModelConfig {
    /// The network for `num_classes`, its weights under `vb`. A value that no network can be made of is an error that
    /// names the key.
    pub fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<Box<dyn Classifier>> {
        ensure!(num_classes > 0, "{num_classes} classes: expected at least one");
        match self {
            Self::Nasbench201(model) => {
                let arch = &model.arch;
                let arch = arch.choices().try_into().ok().with_context(|| {
                    format!("model.arch = {arch}: {} choices, expected 6, one per edge", arch.choices().len())
                })?;
                Ok(Box::new(Network::of_sizes(vb, &model.config(num_classes), &model.sizes(), arch)?))
            }
            Self::Cells(config) => Ok(Box::new(cells::Network::new(vb, config, num_classes)?)),
            Self::Mobile(config) => Ok(Box::new(config.build(vb, num_classes)?)),
            Self::Resnet(config) => Ok(Box::new(config.build(vb, num_classes)?)),
            Self::Searched(config) => Ok(Box::new(BackboneClassifier::new(vb, config.build(vb)?, num_classes))),
        }
    }

    /// The network of another architecture of the same space.
    pub fn with_arch(self, arch: Architecture) -> Result<Self> {
        match self {
            Self::Nasbench201(config) => Ok(Self::Nasbench201(NasBench201Model { arch, ..config })),
            Self::Cells(config) => {
                let space =
                    CellSpace { form: config.form, share: config.share, layers: config.layers, ..Default::default() };
                Ok(Self::Cells(cells::NetworkConfig { genotype: space.genotype(&arch)?, ..config }))
            }
            Self::Searched(config) => Ok(Self::Searched(SearchedModel { arch, stages: Vec::new(), ..config })),
            Self::Mobile(_) | Self::Resnet(_) => bail!("a published network has no architecture to choose"),
        }
    }

    /// What the network is usually counted and trained on: CIFAR-10 or ImageNet.
    pub fn reference(&self) -> Reference {
        match self {
            Self::Cells(config) if config.stem == StemKind::Imagenet => IMAGENET,
            Self::Mobile(config) if !config.small_images => IMAGENET,
            Self::Resnet(ResNetModel { depth: 18, .. }) => IMAGENET,
            Self::Searched(SearchedModel { space: SpaceConfig::Mobile(space), .. })
                if space.resolved().stem_stride > 1 =>
            {
                IMAGENET
            }
            _ => CIFAR,
        }
    }
}

impl TaskModel for ModelConfig {
    fn presets() -> Vec<(&'static str, Self)> {
        presets()
    }

    fn stages(&self) -> Result<Vec<StageSize>> {
        match self {
            Self::Mobile(config) => Ok(config.stages()),
            Self::Resnet(config) => Ok(config.config()?.sizes()),
            Self::Nasbench201(config) => Ok(config.sizes()),
            Self::Cells(config) => Ok(config.frame().sizes()),
            Self::Searched(config) => config.sizes(),
        }
    }

    fn with_stages(self, stages: Vec<StageSize>) -> Result<Self> {
        Ok(match self {
            Self::Mobile(config) => Self::Mobile(MobileModel { stages, ..config }),
            Self::Resnet(config) => Self::Resnet(ResNetModel { stages, ..config }),
            Self::Nasbench201(config) => Self::Nasbench201(NasBench201Model { stages, ..config }),
            Self::Cells(config) => Self::Cells(cells::NetworkConfig { stages, ..config }),
            Self::Searched(config) => Self::Searched(SearchedModel { stages, ..config }),
        })
    }

    fn rise(&self) -> Option<Rise> {
        let Self::Resnet(config) = self else { return None };
        config.config().ok()?.rise()
    }

    fn parts(&self) -> Option<Vec<BlockParts>> {
        match self {
            Self::Mobile(config) => Some(config.layout().ok()?.0.parts("", &config.stages())),
            Self::Resnet(config) => Some(config.config().ok()?.parts("")),
            Self::Nasbench201(config) => Some(nasbench201::parts(&config.sizes())),
            Self::Cells(config) => Some(config.frame().parts()),
            Self::Searched(config) => config.parts(),
        }
    }
}

/// Every named network.
pub fn presets() -> Vec<(&'static str, ModelConfig)> {
    let nasbench201 = |arch: &str| {
        let arch = arch.parse().expect("an architecture");
        let (channels, cells) = (channels(), cells_per_stage());
        ModelConfig::Nasbench201(NasBench201Model { arch, channels, cells, stages: Vec::new() })
    };
    let mobile =
        |network| ModelConfig::Mobile(MobileModel { network, dropout: None, small_images: false, stages: Vec::new() });
    let resnet = |depth| ModelConfig::Resnet(ResNetModel { depth, stages: Vec::new() });
    let darts = |notation| cells::NetworkConfig { genotype: published::genotype(notation), ..Default::default() };
    let cifar = |notation| ModelConfig::Cells(darts(notation));
    // The published ImageNet networks drop no paths.
    let large = cells::NetworkConfig {
        channels: 48,
        layers: 14,
        stem: StemKind::Imagenet,
        drop_path: 0.0,
        ..darts(published::DARTS_V2)
    };
    let imagenet = |notation| {
        ModelConfig::Cells(cells::NetworkConfig { genotype: published::genotype(notation), ..large.clone() })
    };
    vec![
        // The benchmark's most accurate cell on CIFAR-10 (index 6111), and its cell of ResNet's form (index 11472).
        ("nasbench201_best_cifar10", nasbench201("3-3-3-1-3-2")),
        ("nasbench201_resnet", nasbench201("3-0-3-1-0-1")),
        ("darts_v1", cifar(published::DARTS_V1)),
        ("darts_v2", cifar(published::DARTS_V2)),
        ("pc_darts", cifar(published::PC_DARTS_CIFAR)),
        ("nasnet_a", cifar(published::NASNET_A)),
        ("amoebanet_a", cifar(published::AMOEBANET_A)),
        ("darts_v1_imagenet", imagenet(published::DARTS_V1)),
        ("darts_v2_imagenet", imagenet(published::DARTS_V2)),
        // Found on CIFAR-10, and found on ImageNet itself.
        ("pc_darts_cifar_imagenet", imagenet(published::PC_DARTS_CIFAR)),
        ("pc_darts_imagenet", imagenet(published::PC_DARTS_IMAGENET)),
        ("nasnet_a_imagenet", imagenet(published::NASNET_A)),
        ("amoebanet_a_imagenet", imagenet(published::AMOEBANET_A)),
        ("mobilenet_v2", mobile(Published::MobilenetV2)),
        ("mobilenet_v3_large", mobile(Published::MobilenetV3Large)),
        ("mobilenet_v3_small", mobile(Published::MobilenetV3Small)),
        ("mnasnet_a1", mobile(Published::MnasnetA1)),
        ("fbnet_a", mobile(Published::FbnetA)),
        ("fbnet_b", mobile(Published::FbnetB)),
        ("fbnet_c", mobile(Published::FbnetC)),
        ("proxyless_gpu", mobile(Published::ProxylessGpu)),
        ("resnet18", resnet(18)),
        ("resnet20", resnet(20)),
    ]
}
