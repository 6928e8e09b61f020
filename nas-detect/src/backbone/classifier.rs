//! A backbone as an image classifier, for its pre-training and for comparison with published counts.

use anyhow::{Result, bail, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BnConfig, ConvConfig, ConvNorm, Init, Linear, Mode, Module, Shape, VarBuilder, channels_last, conv_bn,
    dropout,
};
use nas_core::space::{Backbone, Mixture, Supernet};
use tch::{Kind, Tensor};

use super::BackboneConfig;
use crate::detnas::{DetNasConfig, DetNasSupernet};

/// 1x1 convolution, norm, ReLU, dropout of channels, mean over the image, linear map. The head of DetNAS' pre-training and,
/// without bias and dropout, of ShuffleNetV2.
#[derive(Debug)]
struct ClassifierHead {
    last: ConvNorm,
    dropout: f64,
    fc: Linear,
}

impl ClassifierHead {
    fn detnas(vb: &VarBuilder, c_in: i64, config: &DetNasConfig, num_classes: i64) -> Self {
        let (last, bn) = (config.last_channels(), config.bn);
        let conv = ConvConfig { bias: true, init: Init::Normal(1.0 / c_in as f64), ..Default::default() };
        let vb = vb.sub("classifier");
        let last_layer = conv_bn(&vb, (c_in, last), 1, conv, bn, Activation::Relu);
        Self { last: last_layer, dropout: 0.2, fc: classifier(&vb, last, num_classes) }
    }

    fn shufflenet(vb: &VarBuilder, c_in: i64, last: i64, num_classes: i64) -> Self {
        let (conv, bn) = (ConvConfig::default(), BnConfig::default());
        let last_layer = ConvNorm::numbered(&vb.sub("conv5"), (c_in, last), 1, conv, bn, Activation::Relu);
        Self { last: last_layer, dropout: 0.0, fc: classifier(vb, last, num_classes) }
    }

    /// Logits `[B, K]` of a backbone's maps, of which the last `[B, C, H, W]` counts.
    fn forward(&self, features: &[Tensor], mode: Mode) -> Tensor {
        let ys = self.last.forward(features.last().expect("a backbone has features"), mode);
        let ys = ys.mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        // a channel that is dropped as a whole has the mean 0, so dropping after the mean is the same
        self.fc.forward(&dropout(&ys, self.dropout, mode.train))
    }

    fn cost_parts(&self, xs: Shape) -> Vec<(String, Cost)> {
        let mut last = Cost::default();
        self.last.cost(xs, &mut last);
        vec![("last_conv".to_string(), last), ("fc".to_string(), self.fc.cost())]
    }
}

/// The last layer, its weights of `N(0, 0.01²)`.
fn classifier(vb: &VarBuilder, c_in: i64, num_classes: i64) -> Linear {
    Linear::with_init(&vb.sub("fc"), (c_in, num_classes), Init::Normal(0.01))
}

/// A backbone as a classifier.
#[derive(Debug)]
pub struct Classifier {
    backbone: Box<dyn Backbone>,
    head: ClassifierHead,
}

impl Classifier {
    /// A classifier into `num_classes`, its weights under `vb`: DetNAS', its backbone below `backbone` as in a detector, or
    /// ShuffleNetV2 by torchvision's names.
    pub fn new(vb: &VarBuilder, config: &BackboneConfig, num_classes: i64) -> Result<Self> {
        ensure!(num_classes > 0, "{num_classes} classes: expected at least one");
        let backbone = match config {
            BackboneConfig::Detnas(_) => config.build(&vb.sub("backbone"))?,
            _ => config.build(vb)?,
        };
        let c_in = backbone.feature_info().last().expect("a backbone has features").channels;
        let head = match config {
            BackboneConfig::Detnas(config) => ClassifierHead::detnas(vb, c_in, config, num_classes),
            BackboneConfig::ShufflenetV2 { width, .. } => {
                ClassifierHead::shufflenet(vb, c_in, width.last_channels(), num_classes)
            }
            BackboneConfig::Resnet(_) | BackboneConfig::MobilenetV2 { .. } => {
                bail!("this backbone has no classifier here")
            }
        };
        Ok(Self { backbone, head })
    }

    /// Logits `[B, K]` of images `[B, 3, H, W]`.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Tensor {
        self.head.forward(&self.backbone.features(&channels_last(images), mode), mode)
    }

    /// Costs of the backbone's parts and of the classifier's on images of `input`.
    pub fn cost_parts(&self, input: Shape) -> [Vec<(String, Cost)>; 2] {
        let (backbone, features) = self.backbone.cost_parts(input);
        [backbone, self.head.cost_parts(*features.last().expect("a backbone has features"))]
    }
}

/// A DetNAS supernet as a classifier, for its pre-training.
#[derive(Debug)]
pub struct SuperClassifier {
    supernet: DetNasSupernet,
    head: ClassifierHead,
}

impl SuperClassifier {
    /// A classifier into `num_classes`, its weights under `vb`, the supernet's below `backbone`.
    pub fn new(vb: &VarBuilder, config: &DetNasConfig, num_classes: i64) -> Result<Self> {
        ensure!(num_classes > 0, "{num_classes} classes: expected at least one");
        let supernet = config.space()?.shared(&vb.sub("backbone"));
        let c_in = supernet.feature_info().last().expect("a supernet has features").channels;
        Ok(Self { supernet, head: ClassifierHead::detnas(vb, c_in, config, num_classes) })
    }

    /// Logits `[B, K]` of images `[B, 3, H, W]` under `mixture`.
    pub fn forward(&self, images: &Tensor, mixture: Mixture, mode: Mode) -> Tensor {
        self.head.forward(&self.supernet.features(&channels_last(images), mixture, mode), mode)
    }
}
