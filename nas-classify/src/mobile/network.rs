//! Networks of inverted residuals: a strided convolution, blocks, a last 1x1 convolution, and one or two linear layers.

use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BnConfig, ConvConfig, Init, Linear, Mode, Module, Shape, VarBuilder, dropout, probe, probe::Site,
};
use nas_core::space::{Backbone, FeatureInfo};
use tch::Tensor;

use super::block::{BlockConfig, ConvNorm, InvertedResidual, Naming};
use crate::model::{Classifier, Logits};

/// Everything before the classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Channels, stride and activation of the first convolution.
    pub stem: (i64, i64, Activation),
    /// The blocks.
    pub blocks: Vec<BlockConfig>,
    /// Channels and activation of the last convolution.
    pub last: (i64, Activation),
    /// Convolutions outside the blocks have a bias too.
    pub bias: bool,
    /// Constants of the norms.
    pub bn: BnConfig,
    /// Names of the variables.
    pub naming: Naming,
}

/// What follows the mean over the pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Channels of a linear layer with hard swish before the last one.
    pub hidden: Option<i64>,
    /// Share of the last layer's inputs that is dropped while training.
    pub dropout: f64,
}

/// Convolutions and blocks. Features: the output of the last block before each halving, and the last convolution's.
#[derive(Debug)]
pub struct Trunk {
    stem: ConvNorm,
    blocks: Vec<InvertedResidual>,
    last: ConvNorm,
    /// Blocks whose output is a feature.
    taps: Vec<usize>,
    info: Vec<FeatureInfo>,
}

impl Trunk {
    /// The trunk of a layout, its variables under `vb`.
    pub fn new(vb: &VarBuilder, layout: &Layout) -> Self {
        let Layout { stem: (channels, stride, activation), blocks, last, bias, bn, naming } = layout;
        let vb = vb.sub("features");
        let conv = ConvConfig { bias: *bias, init: Init::KaimingFanOut, ..Default::default() };
        let stem = ConvConfig { stride: *stride, ..conv };
        let stem = ConvNorm::new(&vb.sub(0), (3, *channels), 3, stem, *bn, *activation);
        let (mut c, mut reached) = (*channels, *stride);
        let (mut taps, mut info) = (Vec::new(), Vec::new());
        for (i, block) in blocks.iter().enumerate() {
            if i > 0 && block.stride > 1 {
                taps.push(i - 1);
                info.push(FeatureInfo { channels: c, stride: reached });
            }
            (c, reached) = (block.channels.1, reached * block.stride);
        }
        info.push(FeatureInfo { channels: last.0, stride: reached });
        let block = |(i, block)| InvertedResidual::new(&vb.sub(i + 1), block, *naming, *bn);
        Self {
            stem,
            last: ConvNorm::new(&vb.sub(blocks.len() + 1), (c, last.0), 1, conv, *bn, last.1),
            blocks: blocks.iter().enumerate().map(block).collect(),
            taps,
            info,
        }
    }
}

impl Backbone for Trunk {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let mut xs = self.stem.forward(xs, mode);
        let mut features = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            xs = block.forward(&xs, mode);
            probe::report(Site::Block, &xs);
            features.extend(self.taps.contains(&i).then(|| xs.shallow_clone()));
        }
        features.push(self.last.forward(&xs, mode));
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.clone()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut parts = vec![("stem".to_string(), Cost::default())];
        let mut shapes = Vec::new();
        let mut xs = self.stem.cost(input, &mut parts[0].1);
        for (i, block) in self.blocks.iter().enumerate() {
            let mut cost = Cost::default();
            xs = block.cost(xs, &mut cost);
            parts.push((format!("block_{}", i + 1), cost));
            shapes.extend(self.taps.contains(&i).then_some(xs));
        }
        let mut cost = Cost::default();
        shapes.push(self.last.cost(xs, &mut cost));
        parts.push(("last".to_string(), cost));
        (parts, shapes)
    }
}

/// A classifier made of inverted residuals.
#[derive(Debug)]
pub struct Network {
    trunk: Trunk,
    hidden: Option<Linear>,
    dropout: f64,
    classifier: Linear,
}

impl Network {
    /// The network for `num_classes`.
    pub fn new(vb: &VarBuilder, layout: &Layout, head: Head, num_classes: i64) -> Self {
        let trunk = Trunk::new(vb, layout);
        let vb = vb.sub("classifier");
        let channels = layout.last.0;
        let hidden = head.hidden.map(|hidden| Linear::new(&vb.sub(0), channels, hidden));
        let at = if hidden.is_some() { 3 } else { 1 };
        let classifier = Linear::new(&vb.sub(at), head.hidden.unwrap_or(channels), num_classes);
        Self { trunk, hidden, dropout: head.dropout, classifier }
    }
}

impl Classifier for Network {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Logits {
        let mean = self.features(xs, mode).mean_dim([2i64, 3].as_slice(), false, None);
        let hidden = match &self.hidden {
            Some(hidden) => Activation::Hswish.apply_(hidden.forward(&mean)),
            None => mean,
        };
        Logits { main: self.classifier.forward(&dropout(&hidden, self.dropout, mode.train)), aux: None }
    }

    fn features(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.trunk.features(xs, mode).pop().expect("a trunk has a last map")
    }

    fn cost_parts(&self, input: Shape) -> Vec<(String, Cost)> {
        let (mut parts, _) = self.trunk.cost_parts(input);
        let mut cost = self.classifier.cost();
        self.hidden.iter().for_each(|hidden| cost += hidden.cost());
        parts.push(("classifier".to_string(), cost));
        parts
    }
}
