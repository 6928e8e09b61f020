//! ResNets of basic blocks (He et al. 2016, arXiv 1512.03385): ResNet-18 for ImageNet with torchvision's names, and ResNet-20
//! for CIFAR, whose shortcuts have no weights (the paper's option A).

use nas_core::nn::Cost;
use nas_core::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Linear, Mode, Module, Shape, VarBuilder, relu};
use tch::Tensor;

use crate::model::{Classifier, Logits};

const KAIMING: ConvConfig = ConvConfig { stride: 1, dilation: 1, groups: 1, bias: false, init: Init::KaimingFanOut };

/// A ResNet of basic blocks.
#[derive(Debug)]
pub struct ResNet {
    root: (Conv2d, BatchNorm),
    pools: bool,
    stages: Vec<Vec<BasicBlock>>,
    fc: Linear,
}

impl ResNet {
    /// ResNet-18.
    pub fn new_18(vb: &VarBuilder, num_classes: i64) -> Self {
        Self::new(vb, (7, 2), &[64, 128, 256, 512], 2, true, num_classes)
    }

    /// ResNet-20.
    pub fn new_20(vb: &VarBuilder, num_classes: i64) -> Self {
        Self::new(vb, (3, 1), &[16, 32, 64], 3, false, num_classes)
    }

    fn new(
        vb: &VarBuilder,
        (ksize, stride): (i64, i64),
        channels: &[i64],
        units: usize,
        large: bool,
        num_classes: i64,
    ) -> Self {
        let mut c_in = channels[0];
        let root = Conv2d::new(&vb.sub("conv1"), 3, c_in, ksize, ConvConfig { stride, ..KAIMING });
        let root = (root, BatchNorm::new(&vb.sub("bn1"), c_in, BnConfig::default()));
        let stage = |(i, &c): (usize, &i64)| {
            let vb = vb.sub(format!("layer{}", i + 1));
            let unit = |unit: usize| {
                let stride = if i > 0 && unit == 0 { 2 } else { 1 };
                BasicBlock::new(&vb.sub(unit), (std::mem::replace(&mut c_in, c), c), stride, large)
            };
            (0..units).map(unit).collect()
        };
        let stages = channels.iter().enumerate().map(stage).collect();
        let fc = Linear::new(&vb.sub("fc"), channels[channels.len() - 1], num_classes);
        Self { root, pools: large, stages, fc }
    }
}

impl Classifier for ResNet {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Logits {
        let mean = self.features(xs, mode).mean_dim([2i64, 3].as_slice(), false, None);
        Logits { main: self.fc.forward(&mean), aux: None }
    }

    fn features(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let (conv, bn) = &self.root;
        let xs = relu(&bn.forward(&conv.forward(xs, mode), mode));
        let xs = if self.pools { xs.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false) } else { xs };
        self.stages.iter().flatten().fold(xs, |xs, block| block.forward(&xs, mode))
    }

    fn cost_parts(&self, input: Shape) -> Vec<(String, Cost)> {
        let mut parts = vec![("root".to_string(), Cost::default())];
        let (conv, bn) = &self.root;
        let mut xs = conv.cost(input, &mut parts[0].1);
        bn.cost(xs, &mut parts[0].1);
        if self.pools {
            xs = xs.with_size(((xs.h - 1) / 2 + 1, (xs.w - 1) / 2 + 1));
        }
        for (i, blocks) in self.stages.iter().enumerate() {
            let mut cost = Cost::default();
            xs = blocks.iter().fold(xs, |xs, block| block.cost(xs, &mut cost));
            parts.push((format!("layer{}", i + 1), cost));
        }
        parts.push(("fc".to_string(), self.fc.cost()));
        parts
    }
}

/// Two 3x3 convolutions, added to a shortcut.
#[derive(Debug)]
struct BasicBlock {
    convs: [(Conv2d, BatchNorm); 2],
    shortcut: Shortcut,
}

#[derive(Debug)]
enum Shortcut {
    Identity,
    Projection(Conv2d, BatchNorm),
    /// Every second pixel; this many channels of zeros on either side.
    Padded(i64),
}

impl BasicBlock {
    fn new(vb: &VarBuilder, (c_in, c_out): (i64, i64), stride: i64, projects: bool) -> Self {
        let conv = |i: usize, c_in, stride| {
            let conv = Conv2d::new(&vb.sub(format!("conv{i}")), c_in, c_out, 3, ConvConfig { stride, ..KAIMING });
            (conv, BatchNorm::new(&vb.sub(format!("bn{i}")), c_out, BnConfig::default()))
        };
        let convs = [conv(1, c_in, stride), conv(2, c_out, 1)];
        let shortcut = match (stride == 1 && c_in == c_out, projects) {
            (true, _) => Shortcut::Identity,
            (false, true) => {
                let vb = vb.sub("downsample");
                let conv = Conv2d::new(&vb.sub(0), c_in, c_out, 1, ConvConfig { stride, ..KAIMING });
                Shortcut::Projection(conv, BatchNorm::new(&vb.sub(1), c_out, BnConfig::default()))
            }
            (false, false) => Shortcut::Padded((c_out - c_in) / 2),
        };
        Self { convs, shortcut }
    }
}

impl Module for BasicBlock {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let [(conv_1, bn_1), (conv_2, bn_2)] = &self.convs;
        let ys = relu(&bn_1.forward(&conv_1.forward(xs, mode), mode));
        let ys = bn_2.forward(&conv_2.forward(&ys, mode), mode);
        let shortcut = match &self.shortcut {
            Shortcut::Identity => xs.shallow_clone(),
            Shortcut::Projection(conv, bn) => bn.forward(&conv.forward(xs, mode), mode),
            Shortcut::Padded(zeros) => {
                xs.slice(2, None, None, 2).slice(3, None, None, 2).constant_pad_nd([0, 0, 0, 0, *zeros, *zeros])
            }
        };
        relu(&(ys + shortcut))
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        if let Shortcut::Projection(conv, bn) = &self.shortcut {
            let ys = conv.cost(xs, cost);
            bn.cost(ys, cost);
        }
        self.convs.iter().fold(xs, |xs, (conv, bn)| {
            let ys = conv.cost(xs, cost);
            bn.cost(ys, cost)
        })
    }
}
