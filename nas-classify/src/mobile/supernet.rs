//! All inverted residuals of all layers at once.

use nas_core::nn::{ConvConfig, Init, Mode, Module, VarBuilder};
use nas_core::space::{FeatureInfo, Mixture, Supernet};
use tch::Tensor;

use super::block::{BlockConfig, ConvNorm, InvertedResidual, Naming};
use super::network::Layout;
use super::space::{BN, MobileSpace};

/// The convolutions that no choice changes.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stem: ConvNorm,
    pub(super) last: ConvNorm,
}

impl Ends {
    pub(super) fn new(vb: &VarBuilder, space: &MobileSpace) -> Self {
        let Layout { stem: (channels, stride, activation), last, .. } = space.layout(Vec::new());
        let vb = vb.sub("features");
        let conv = ConvConfig { init: Init::KaimingFanOut, ..Default::default() };
        let c_in = space.resolved().stages.last().map_or(channels, |stage| stage.channels);
        let stem = ConvConfig { stride, ..conv };
        Self {
            stem: ConvNorm::new(&vb.sub("stem"), (3, channels), 3, stem, BN, activation),
            last: ConvNorm::new(&vb.sub("last"), (c_in, last.0), 1, conv, BN, last.1),
        }
    }
}

/// All candidates of all layers. Feature: the last convolution's output.
#[derive(Debug)]
pub struct MobileSupernet {
    ends: Ends,
    /// Candidates; `None` leaves the layer out.
    layers: Vec<Vec<Option<InvertedResidual>>>,
    info: FeatureInfo,
}

impl MobileSupernet {
    /// The supernet of `space`.
    pub fn new(vb: &VarBuilder, space: &MobileSpace) -> Self {
        let layers = space.layers();
        let resolved = space.resolved();
        let stride = resolved.stages.iter().map(|stage| stage.stride).product::<i64>() * resolved.stem_stride;
        let layer = |(l, layer): (usize, &Vec<Option<BlockConfig>>)| {
            let vb = vb.sub("layers").sub(l);
            let block = |(i, block): (usize, &Option<BlockConfig>)| {
                block.as_ref().map(|block| InvertedResidual::new(&vb.sub(i), block, Naming::V3, BN))
            };
            layer.iter().enumerate().map(block).collect()
        };
        Self {
            ends: Ends::new(vb, space),
            layers: layers.iter().enumerate().map(layer).collect(),
            info: FeatureInfo { channels: resolved.last, stride },
        }
    }

    /// The candidates of each layer that count, with their weights; no weight stands for 1.
    fn plan(&self, mixture: Mixture) -> Vec<Vec<(usize, Option<Tensor>)>> {
        let (weights, active) = match mixture {
            Mixture::Path(arch) => {
                return arch.choices().iter().map(|choice| vec![(usize::from(*choice), None)]).collect();
            }
            Mixture::Weights(weights) => (&weights[0], None),
            Mixture::Sampled { weights, active } => (&weights[0], Some(&active[0])),
        };
        let width = weights.size()[1] as usize;
        let scalars = weights.reshape([-1]).unbind(0);
        let layer = |(l, layer): (usize, &Vec<_>)| {
            let counts = (0..layer.len()).filter(|i| active.is_none_or(|active| active[l * width + i]));
            counts.map(|i| (i, Some(scalars[l * width + i].shallow_clone()))).collect()
        };
        self.layers.iter().enumerate().map(layer).collect()
    }
}

impl Supernet for MobileSupernet {
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        let mut xs = self.ends.stem.forward(xs, mode);
        for (layer, planned) in self.layers.iter().zip(self.plan(mixture)) {
            let terms = planned.into_iter().map(|(i, weight)| {
                let ys = layer[i].as_ref().map_or_else(|| xs.shallow_clone(), |block| block.forward(&xs, mode));
                weight.map_or_else(|| ys.shallow_clone(), |weight| &ys * weight)
            });
            xs = terms.reduce(|a, b| a + b).expect("a layer has an active candidate");
        }
        vec![self.ends.last.forward(&xs, mode)]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        vec![self.info]
    }
}
