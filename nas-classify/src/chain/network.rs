//! Derived chains and the supernet of all. A layer is its operator on the layer before plus what its connections add, then a
//! norm. Where the map is halved, every output that is still needed is.

use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BatchNorm, BnConfig, ConvConfig, ConvNorm, FactorizedReduce, Mode, Module, OpConfig, Shape, VarBuilder,
    conv_bn, probe, probe::Site,
};
use nas_core::space::Architecture;
use nas_core::space::{Backbone, FeatureInfo, Mixture, Supernet};
use tch::Tensor;

use super::space::{ChainSpace, OPS};

/// Norms inside the operators of a supernet learn no scale: it would undo the architecture weights.
const SEARCH_BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: false };

/// What derived networks and supernets have in common; `L` is what a layer computes with.
#[derive(Debug)]
struct Chain<L> {
    space: ChainSpace,
    stem: ConvNorm,
    layers: Vec<(L, BatchNorm)>,
    /// Before the second and the third stage, of each output that exists there; 0 is the stem's.
    reductions: Vec<Vec<Option<FactorizedReduce>>>,
}

impl<L> Chain<L> {
    /// `needed(output, layer)`: whether an output (0 is the stem's) is used from `layer` on.
    fn new(
        vb: &VarBuilder,
        space: &ChainSpace,
        layer: impl Fn(&VarBuilder, usize, i64) -> L,
        needed: impl Fn(usize, usize) -> bool,
    ) -> Self {
        let bn = BnConfig::default();
        let channels = |layer: usize| space.channels << space.stage(layer);
        let reduction = |(i, start): (usize, usize)| {
            let vb = vb.sub("reductions").sub(i);
            let c = space.channels << i;
            let reduce =
                |output: usize| needed(output, start).then(|| FactorizedReduce::new(&vb.sub(output), (c, 2 * c), bn));
            (0..=start).map(reduce).collect()
        };
        let at = |i: usize| vb.sub("layers").sub(i);
        Self {
            space: *space,
            stem: conv_bn(&vb.sub("stem"), (3, space.channels), 3, ConvConfig::default(), bn, Activation::Identity),
            layers: (0..space.layers)
                .map(|i| (layer(&at(i), i, channels(i)), BatchNorm::new(&at(i).sub("bn"), channels(i), bn)))
                .collect(),
            reductions: space.starts().into_iter().enumerate().map(reduction).collect(),
        }
    }

    /// The last map of each stage. `compute` gives a layer's operator on the map before; `connect(from, to)` says whether an
    /// output is added, and by which weight.
    fn features(
        &self,
        xs: &Tensor,
        mode: Mode,
        compute: impl Fn(usize, &L, &Tensor) -> Option<Tensor>,
        connect: impl Fn(usize, usize) -> Option<Option<Tensor>>,
    ) -> Vec<Tensor> {
        let mut outputs = vec![Some(self.stem.forward(xs, mode))];
        let mut features: Vec<Tensor> = Vec::new();
        for (to, (layer, bn)) in self.layers.iter().enumerate() {
            for reductions in self.space.starts().iter().zip(&self.reductions).filter(|(start, _)| **start == to) {
                let halve = |(xs, reduce): (&Option<Tensor>, &Option<FactorizedReduce>)| {
                    Some(reduce.as_ref()?.forward(xs.as_ref()?, mode))
                };
                outputs = outputs.iter().zip(reductions.1).map(halve).collect();
            }
            let before = outputs[to].as_ref().expect("the output before a layer is needed");
            let added = (0..to).filter_map(|from| {
                let weight = connect(from, to)?;
                let ys = outputs[from + 1].as_ref().expect("an output that is added is needed");
                Some(weight.map_or_else(|| ys.shallow_clone(), |weight| ys * weight))
            });
            let terms = compute(to, layer, before).into_iter().chain(added);
            let sum = terms.reduce(|a, b| a + b).unwrap_or_else(|| before.zeros_like());
            let ys = bn.forward(&sum, mode);
            features.truncate(self.space.stage(to));
            probe::report(Site::Block, &ys);
            features.push(ys.shallow_clone());
            outputs.push(Some(ys));
        }
        features
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        (0..=self.reductions.len())
            .map(|i| FeatureInfo { channels: self.space.channels << i, stride: 1 << i })
            .collect()
    }
}

/// The network of one architecture. Features: the last map of each stage.
#[derive(Debug)]
pub(super) struct ChainNetwork {
    chain: Chain<Box<dyn Module>>,
    arch: Architecture,
}

impl ChainNetwork {
    pub(super) fn new(vb: &VarBuilder, space: &ChainSpace, arch: &Architecture) -> Self {
        let layer = |vb: &VarBuilder, i: usize, channels| {
            let config = OpConfig { channels, stride: 1, bn: BnConfig::default(), pool_bn: false };
            OPS[ChainSpace::op(arch, i)].build(&vb.sub("op"), config)
        };
        let needed = |output: usize, layer: usize| {
            output == layer
                || (output > 0 && (layer..space.layers).any(|to| ChainSpace::connects(arch, output - 1, to)))
        };
        Self { chain: Chain::new(vb, space, layer, needed), arch: arch.clone() }
    }
}

impl Backbone for ChainNetwork {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let connect = |from, to| ChainSpace::connects(&self.arch, from, to).then_some(None);
        self.chain.features(xs, mode, |_, layer, xs| Some(layer.forward(xs, mode)), connect)
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.chain.feature_info()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut parts = vec![("stem".to_string(), Cost::default())];
        let mut xs = self.chain.stem.cost(input, &mut parts[0].1);
        let mut shapes: Vec<Shape> = Vec::new();
        for (i, (layer, bn)) in self.chain.layers.iter().enumerate() {
            for (at, reductions) in self.chain.space.starts().iter().zip(&self.chain.reductions) {
                if *at == i {
                    let mut cost = Cost::default();
                    let halved = reductions.iter().flatten().map(|reduce| reduce.cost(xs, &mut cost)).last();
                    xs = halved.expect("the output before a layer is needed");
                    parts.push((format!("reductions_{}", self.chain.space.stage(i)), cost));
                }
            }
            let mut cost = Cost::default();
            xs = bn.cost(layer.cost(xs, &mut cost), &mut cost);
            parts.push((format!("layer_{i}"), cost));
            shapes.truncate(self.chain.space.stage(i));
            shapes.push(xs);
        }
        (parts, shapes)
    }
}

/// All operators in all layers, with all connections. Features as those of the derived networks.
#[derive(Debug)]
pub struct ChainSupernet {
    chain: Chain<Vec<Box<dyn Module>>>,
}

impl ChainSupernet {
    /// The supernet of `space`.
    pub fn new(vb: &VarBuilder, space: &ChainSpace) -> Self {
        let layer = |vb: &VarBuilder, _, channels| {
            let config = OpConfig { channels, stride: 1, bn: SEARCH_BN, pool_bn: false };
            OPS.iter().map(|op| op.build(&vb.sub("ops").sub(op), config)).collect()
        };
        // The stem's output is used by the first layer alone.
        let needed = |output: usize, layer: usize| output > 0 || layer == 0;
        Self { chain: Chain::new(vb, space, layer, needed) }
    }

    fn mixed(&self, xs: &Tensor, weights: &[Tensor], active: Option<&[Vec<bool>]>, mode: Mode) -> Vec<Tensor> {
        let [ops, skips] = [0, 1].map(|i| weights[i].reshape([-1]).unbind(0));
        let is_active = |tensor: usize, i: usize| active.is_none_or(|active| active[tensor][i]);
        let compute = |to: usize, layer: &Vec<Box<dyn Module>>, xs: &Tensor| {
            let counts = layer.iter().enumerate().filter(|(op, _)| is_active(0, to * OPS.len() + op));
            counts.map(|(op, layer)| layer.forward(xs, mode) * &ops[to * OPS.len() + op]).reduce(|a, b| a + b)
        };
        let connect = |from, to| {
            let present = 2 * ChainSpace::connection(from, to) + 1;
            is_active(1, present).then(|| Some(skips[present].shallow_clone()))
        };
        self.chain.features(xs, mode, compute, connect)
    }
}

impl Supernet for ChainSupernet {
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        match mixture {
            Mixture::Weights(weights) => self.mixed(xs, weights, None, mode),
            Mixture::Sampled { weights, active, .. } => self.mixed(xs, weights, Some(active), mode),
            Mixture::Path(arch) => {
                let connect = |from, to| ChainSpace::connects(arch, from, to).then_some(None);
                let compute = |i: usize, layer: &Vec<Box<dyn Module>>, xs: &Tensor| {
                    Some(layer[ChainSpace::op(arch, i)].forward(xs, mode))
                };
                self.chain.features(xs, mode, compute, connect)
            }
        }
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.chain.feature_info()
    }
}
