//! All inverted residuals of all layers at once.

use nas_core::models::{BlockConfig, InvertedResidual, Naming};
use nas_core::nn::{ConvConfig, ConvNorm, Init, Mode, Module, VarBuilder};
use nas_core::space::{FeatureInfo, Mixture, Supernet, WeightSharing};
use tch::Tensor;

use super::space::{BN, Layer, MobileSpace, Stage};

/// The convolutions that no choice changes.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stem: ConvNorm,
    pub(super) last: ConvNorm,
}

impl Ends {
    pub(super) fn new(vb: &VarBuilder, space: &MobileSpace) -> Self {
        let layout = space.layout(Vec::new());
        let (channels, stride, activation) = layout.stem;
        let (last, last_activation) = layout.last.expect("the space has a last convolution");
        let vb = vb.sub("features");
        let conv = ConvConfig { init: Init::KaimingFanOut, ..Default::default() };
        let c_in = space.resolved().stages.last().map_or(channels, Stage::widest);
        let stem = ConvConfig { stride, ..conv };
        Self {
            stem: ConvNorm::numbered(&vb.sub("stem"), (3, channels), 3, stem, BN, activation),
            last: ConvNorm::numbered(&vb.sub("last"), (c_in, last), 1, conv, BN, last_activation),
        }
    }
}

/// A candidate of a layer.
pub(super) fn shared_block(vb: &VarBuilder, block: &BlockConfig) -> InvertedResidual {
    InvertedResidual::new(vb, block, Naming::V3, BN, Init::KaimingFanOut)
}

/// All candidates of all layers at full width; a narrower stage is the first of its channels. Feature: the last
/// convolution's output.
#[derive(Debug)]
pub struct MobileSupernet {
    space: MobileSpace,
    ends: Ends,
    layers: Vec<(Layer, Vec<InvertedResidual>)>,
    info: FeatureInfo,
}

/// What counts in a row of choices, with weights; no weight stands for 1.
type Row = Vec<(usize, Option<Tensor>)>;

impl MobileSupernet {
    /// The supernet of `space`.
    pub fn new(vb: &VarBuilder, space: &MobileSpace) -> Self {
        let resolved = space.resolved();
        let stride = resolved.stages.iter().map(|stage| stage.stride).product::<i64>() * resolved.stem_stride;
        let layer = |(l, layer): (usize, Layer)| {
            let vb = vb.sub("layers").sub(l);
            let block = |(i, block)| shared_block(&vb.sub(i), block);
            let blocks = layer.blocks.iter().enumerate().map(block).collect();
            (layer, blocks)
        };
        Self {
            ends: Ends::new(vb, space),
            layers: space.layers(None).into_iter().enumerate().map(layer).collect(),
            info: FeatureInfo { channels: resolved.last, stride },
            space: resolved,
        }
    }

    /// The rows of layers and of widths that count.
    fn rows(&self, mixture: Mixture) -> [Vec<Row>; 2] {
        let (weights, active) = match mixture {
            Mixture::Path(arch) => {
                let row = |choice: &u16| vec![(usize::from(*choice), None)];
                let (layers, widths) = arch.choices().split_at(self.layers.len());
                return [layers, widths].map(|choices| choices.iter().map(row).collect());
            }
            Mixture::Weights(weights) => (weights, None),
            Mixture::Sampled { weights, active, .. } => (weights, Some(active)),
        };
        let parameters = self.space.arch_parameters();
        [0, 1].map(|tensor| {
            let scalars = weights[tensor].reshape([-1]).unbind(0);
            let width = parameters[tensor].dims[1] as usize;
            let counts = |i: &usize| parameters[tensor].exists[*i] && active.is_none_or(|active| active[tensor][*i]);
            let row = |row: usize| {
                let entries = (row * width..(row + 1) * width).filter(counts);
                entries.map(|i| (i - row * width, Some(scalars[i].shallow_clone()))).collect()
            };
            (0..parameters[tensor].dims[0] as usize).map(row).collect()
        })
    }

    /// For each stage the weight of its channels, `[1, C, 1, 1]`; none where the width is no choice.
    fn masks(&self, widths: &[Row], like: &Tensor) -> Vec<Option<Tensor>> {
        let mask = |(stage, row): (&Stage, &Row)| {
            let ones = |width: i64| {
                let ones = Tensor::ones([1, width, 1, 1], (like.kind(), like.device()));
                ones.constant_pad_nd([0, 0, 0, 0, 0, stage.widest() - width])
            };
            let terms = row.iter().map(|(i, weight)| {
                let ones = ones(stage.channels[*i]);
                weight.as_ref().map_or_else(|| ones.shallow_clone(), |weight| &ones * weight)
            });
            (stage.channels.len() > 1).then(|| terms.reduce(|a, b| a + b)).flatten()
        };
        self.space.stages.iter().zip(widths).map(mask).collect()
    }
}

impl Supernet for MobileSupernet {
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        let [rows, widths] = self.rows(mixture);
        let mut xs = self.ends.stem.forward(xs, mode);
        let masks = self.masks(&widths, &xs);
        for (l, (layer, blocks)) in self.layers.iter().enumerate() {
            let block = |i: usize| {
                let ys = blocks[i].forward(&xs, mode);
                match &masks[layer.stage] {
                    Some(mask) if blocks[i].adds_input() => &xs + (ys - &xs) * mask,
                    Some(mask) => ys * mask,
                    None => ys,
                }
            };
            let candidate = |i: usize| match layer.leader {
                _ if i == layer.present() => xs.shallow_clone(),
                Some(leader) => mixed(&rows[leader], block),
                None => block(i),
            };
            xs = mixed(&rows[l], candidate);
        }
        vec![self.ends.last.forward(&xs, mode)]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        vec![self.info]
    }
}

/// The weighted sum of the candidates of a row.
fn mixed(row: &Row, candidate: impl Fn(usize) -> Tensor) -> Tensor {
    let terms = row.iter().map(|(i, weight)| {
        let ys = candidate(*i);
        weight.as_ref().map_or_else(|| ys.shallow_clone(), |weight| &ys * weight)
    });
    terms.reduce(|a, b| a + b).expect("a layer has an active candidate")
}
