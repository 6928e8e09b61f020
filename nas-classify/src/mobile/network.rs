//! Classifiers of inverted residuals: convolutions and blocks, and one or two linear layers.

use nas_core::models::{Layout, MobileNet};
use nas_core::nn::{Activation, Cost, Linear, Mode, Shape, VarBuilder, dropout};
use nas_core::space::Backbone;
use tch::Tensor;

use crate::classifier::{Classifier, Logits, pixel_mean};

/// What follows the mean over the pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Channels of a linear layer with hard swish before the last one.
    pub hidden: Option<i64>,
    /// Share of the last layer's inputs that is dropped while training.
    pub dropout: f64,
}

/// A classifier made of inverted residuals.
#[derive(Debug)]
pub struct Network {
    trunk: MobileNet,
    hidden: Option<Linear>,
    dropout: f64,
    classifier: Linear,
}

impl Network {
    /// The network for `num_classes`.
    pub fn new(vb: &VarBuilder, layout: &Layout, head: Head, num_classes: i64) -> Self {
        let trunk = MobileNet::new(vb, layout);
        let vb = vb.sub("classifier");
        let channels = trunk.feature_info().last().expect("a trunk has a last map").channels;
        let hidden = head.hidden.map(|hidden| Linear::new(&vb.sub(0), channels, hidden));
        let at = if hidden.is_some() { 3 } else { 1 };
        let classifier = Linear::new(&vb.sub(at), head.hidden.unwrap_or(channels), num_classes);
        Self { trunk, hidden, dropout: head.dropout, classifier }
    }
}

impl Classifier for Network {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Logits {
        let mean = pixel_mean(&self.features(xs, mode));
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
