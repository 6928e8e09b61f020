//! What a classification network is: images in, logits out.

use std::fmt;

use nas_core::nn::{Cost, Linear, Mode, Shape, VarBuilder};
use nas_core::space::Backbone;
use tch::Tensor;

/// What a classifier says of a batch.
#[derive(Debug)]
pub struct Logits {
    /// `[B, K]`.
    pub main: Tensor,
    /// Of the auxiliary head, `[B, K]`: in training, where the network has one.
    pub aux: Option<Tensor>,
}

/// A network from images to logits.
pub trait Classifier: fmt::Debug {
    /// Logits of images `[B, 3, H, W]`.
    fn forward(&self, xs: &Tensor, mode: Mode) -> Logits;

    /// The last feature map `[B, C, H', W']` of images `[B, 3, H, W]`, before pooling and classifier.
    fn features(&self, xs: &Tensor, mode: Mode) -> Tensor;

    /// Cost of every part on an image of `input`, from input to output, without what is used in training only.
    fn cost_parts(&self, input: Shape) -> Vec<(String, Cost)>;

    /// Cost on an image of `input`.
    fn cost(&self, input: Shape) -> Cost {
        let mut total = Cost::default();
        self.cost_parts(input).into_iter().for_each(|(_, part)| total += part);
        total
    }
}

/// A backbone with a linear classifier over the mean of its last map.
#[derive(Debug)]
pub struct BackboneClassifier {
    backbone: Box<dyn Backbone>,
    name: &'static str,
    classifier: Linear,
}

impl BackboneClassifier {
    /// The classifier for `num_classes`.
    pub fn new(vb: &VarBuilder, backbone: Box<dyn Backbone>, num_classes: i64) -> Self {
        Self::at("classifier", vb, backbone, num_classes)
    }

    /// The same with the linear layer at `name` below `vb`.
    pub fn at(name: &'static str, vb: &VarBuilder, backbone: Box<dyn Backbone>, num_classes: i64) -> Self {
        let channels = backbone.feature_info().pop().expect("a backbone has a last map").channels;
        Self { backbone, name, classifier: Linear::new(&vb.sub(name), channels, num_classes) }
    }
}

impl Classifier for BackboneClassifier {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Logits {
        Logits { main: self.classifier.forward(&pixel_mean(&self.features(xs, mode))), aux: None }
    }

    fn features(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.backbone.features(xs, mode).pop().expect("a backbone has a last map")
    }

    fn cost_parts(&self, input: Shape) -> Vec<(String, Cost)> {
        let (mut parts, _) = self.backbone.cost_parts(input);
        parts.push((self.name.to_string(), self.classifier.cost()));
        parts
    }
}

/// The mean over the pixels, `[B, C]` of `[B, C, H, W]`.
pub(crate) fn pixel_mean(xs: &Tensor) -> Tensor {
    xs.mean_dim([2i64, 3].as_slice(), false, None)
}
