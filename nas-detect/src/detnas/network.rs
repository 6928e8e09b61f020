//! One backbone of the space.

use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BatchNorm, BnConfig, ConvConfig, ConvNorm, Mode, Module, Shape, VarBuilder, conv_bn, probe,
};
use nas_core::space::Architecture;
use nas_core::space::{Backbone, FeatureInfo, InvalidArchitecture};
use tch::Tensor;

use super::block::{Block, WeightInit};
use super::space::{DetNasSpace, STAGES};

/// A backbone. Features: the outputs of its four stages, strides 4, 8, 16 and 32.
#[derive(Debug)]
pub struct DetNasNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    stage_ends: Vec<usize>,
    channels: [i64; STAGES],
}

impl DetNasNet {
    /// The network of `arch`, its weights under `vb`.
    pub fn new(vb: &VarBuilder, space: &DetNasSpace, arch: &Architecture) -> Result<Self, InvalidArchitecture> {
        let ops = space.ops(arch)?.into_iter().enumerate();
        Ok(Self {
            stem: space.stem_layer(&vb.sub("stem")),
            blocks: ops.map(|(i, op)| space.block(&vb.sub("blocks").sub(i), i, op)).collect(),
            stage_ends: space.stage_ends(),
            channels: space.channels(),
        })
    }

    /// Its batch norms.
    pub fn norms(&self) -> Vec<&BatchNorm> {
        self.stem.batch_norm().into_iter().chain(self.blocks.iter().flat_map(Block::norms)).collect()
    }
}

/// 3x3 of stride 2 with a bias, norm, ReLU.
pub(super) fn stem(vb: &VarBuilder, channels: i64, init: WeightInit, bn: BnConfig) -> ConvNorm {
    let conv = ConvConfig { stride: 2, bias: true, init: init.stem(), ..Default::default() };
    conv_bn(vb, (3, channels), 3, conv, bn, Activation::Relu)
}

/// What the stages give: channels at strides 4, 8, 16 and 32.
pub(super) fn stage_info(channels: [i64; STAGES]) -> Vec<FeatureInfo> {
    channels.into_iter().zip([4, 8, 16, 32]).map(|(channels, stride)| FeatureInfo { channels, stride }).collect()
}

/// Output of every stage; `block(i, xs)` is the output of block `i`.
pub(super) fn run_stages(
    xs: Tensor,
    stage_ends: &[usize],
    mut block: impl FnMut(usize, &Tensor) -> Tensor,
) -> Vec<Tensor> {
    let mut xs = xs;
    let mut features = Vec::new();
    for i in 0..=stage_ends[stage_ends.len() - 1] {
        xs = probe::block(block(i, &xs));
        if stage_ends.contains(&i) {
            features.push(xs.shallow_clone());
        }
    }
    features
}

impl Backbone for DetNasNet {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let xs = self.stem.forward(xs, mode);
        run_stages(xs, &self.stage_ends, |i, xs| self.blocks[i].forward(xs, mode))
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        stage_info(self.channels)
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut cost = Cost::default();
        let mut xs = self.stem.cost(input, &mut cost);
        let mut parts = vec![("stem".to_string(), cost)];
        let mut features = Vec::new();
        let mut cost = Cost::default();
        for (i, block) in self.blocks.iter().enumerate() {
            xs = block.cost(xs, &mut cost);
            if self.stage_ends.contains(&i) {
                features.push(xs);
                parts.push((format!("stage_{}", features.len()), std::mem::take(&mut cost)));
            }
        }
        (parts, features)
    }
}
