//! The auxiliary classifier of DARTS' networks, used while training only.

use nas_core::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Linear, Mode, Module, VarBuilder};
use tch::Tensor;

use super::frame::StemKind;

const HIDDEN: i64 = 128;
const FEATURES: i64 = 768;

/// Pooling to 2x2, 1x1 convolution, 2x2 convolution, linear.
#[derive(Debug)]
pub(super) struct AuxHead {
    /// Of the 5x5 pooling: makes 2x2 of the 8x8 or 7x7 maps of the published networks.
    stride: i64,
    reduce: (Conv2d, BatchNorm),
    weight: Tensor,
    bn: BatchNorm,
    classifier: Linear,
}

impl AuxHead {
    pub(super) fn new(vb: &VarBuilder, channels: i64, stem: StemKind, num_classes: i64) -> Self {
        let bn = |name: &str, channels| BatchNorm::new(&vb.sub(name), channels, BnConfig::default());
        Self {
            stride: if stem == StemKind::Cifar { 3 } else { 2 },
            reduce: (Conv2d::new(&vb.sub("conv_1"), channels, HIDDEN, 1, ConvConfig::default()), bn("bn_1", HIDDEN)),
            weight: vb.sub("conv_2").weight("weight", &[FEATURES, HIDDEN, 2, 2], Init::FanIn),
            bn: bn("bn_2", FEATURES),
            classifier: Linear::new(&vb.sub("classifier"), FEATURES, num_classes),
        }
    }

    /// Logits `[B, K]` of a map `[B, C, H, W]`. Maps whose pooling would not leave 2x2 are pooled by areas.
    pub(super) fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let (_, _, h, w) = xs.size4().expect("a feature map has four dimensions");
        let published = 5 + self.stride;
        let xs = xs.relu();
        let pooled = match (h, w) == (published, published) {
            true => xs.avg_pool2d([5, 5], [self.stride; 2], [0, 0], false, false, None),
            false => xs.adaptive_avg_pool2d([2, 2]),
        };
        let (conv, bn) = &self.reduce;
        let hidden = bn.forward(&conv.forward(&pooled, mode), mode).relu();
        let ys = hidden.conv2d(&self.weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1);
        self.classifier.forward(&self.bn.forward(&ys, mode).relu().flatten(1, 3))
    }
}
