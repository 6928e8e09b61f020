//! Networks in a line: each layer is one of four operators, and the map is halved before the first of every stage.

use anyhow::{Result, ensure};
use nas_core::nn::{
    Activation, BnConfig, ConvConfig, ConvNorm, Cost, Linear, Mode, Module, Op, OpConfig, Shape, VarBuilder, conv_bn,
};
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::{
    ArchParameter, Architecture, Backbone, Choice, ChoiceSpace, FeatureInfo, InvalidArchitecture, Mixture, SearchSpace,
    Supernet, WeightSharing,
};
use nas_core::task::{TaskModel, TaskSpace};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::task::{Net, Regression};

const OPS: [Op; 4] = [Op::Conv3x3, Op::Conv5x5, Op::SepConv3x3, Op::SepConv5x5];

/// `[space]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Line {
    /// Stages; the map is halved and the channels are doubled before each.
    pub stages: usize,
    /// Layers of a stage.
    pub layers: usize,
    /// Channels of the first stage.
    pub channels: i64,
}

impl Default for Line {
    fn default() -> Self {
        Self { stages: 3, layers: 2, channels: 8 }
    }
}

impl ChoiceSpace for Line {
    fn name(&self) -> &str {
        "line"
    }

    fn decisions(&self) -> Vec<u16> {
        vec![OPS.len() as u16; self.stages * self.layers]
    }
}

/// A network, or a supernet where a layer has all operators.
#[derive(Debug)]
struct Layers<L> {
    space: Line,
    stages: Vec<(ConvNorm, Vec<L>)>,
}

impl<L> Layers<L> {
    fn new(vb: &VarBuilder, space: Line, layer: impl Fn(&VarBuilder, usize, i64) -> L) -> Self {
        let stage = |i: usize| {
            let (vb, c) = (vb.sub("stages").sub(i), space.channels << i);
            let config = ConvConfig { stride: 2, ..ConvConfig::default() };
            let c_in = if i == 0 { 3 } else { c / 2 };
            let halve = conv_bn(&vb.sub("halve"), (c_in, c), 3, config, BnConfig::default(), Activation::Relu);
            let layers = (0..space.layers).map(|j| layer(&vb.sub("layers").sub(j), i * space.layers + j, c));
            (halve, layers.collect())
        };
        Self { space, stages: (0..space.stages).map(stage).collect() }
    }

    fn run(&self, xs: &Tensor, mode: Mode, layer: impl Fn(usize, &L, &Tensor) -> Tensor) -> Vec<Tensor> {
        let mut xs = xs.shallow_clone();
        let stage = |(i, (halve, layers)): (usize, &(ConvNorm, Vec<L>))| {
            xs = halve.forward(&xs, mode);
            for (j, each) in layers.iter().enumerate() {
                xs = &xs + layer(i * self.space.layers + j, each, &xs);
            }
            xs.shallow_clone()
        };
        self.stages.iter().enumerate().map(stage).collect()
    }

    fn info(&self) -> Vec<FeatureInfo> {
        (0..self.space.stages).map(|i| FeatureInfo { channels: self.space.channels << i, stride: 2 << i }).collect()
    }
}

type Operator = Box<dyn Module>;

impl Backbone for Layers<Operator> {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        self.run(xs, mode, |_, op, xs| op.forward(xs, mode))
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info()
    }

    fn cost_parts(&self, mut xs: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let stage = |(i, (halve, layers)): (usize, &(ConvNorm, Vec<Operator>))| {
            let mut cost = Cost::default();
            xs = halve.cost(xs, &mut cost);
            layers.iter().for_each(|op| xs = op.cost(xs, &mut cost));
            ((format!("stage {i}"), cost), xs)
        };
        self.stages.iter().enumerate().map(stage).unzip()
    }
}

impl Supernet for Layers<Vec<Operator>> {
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        let all = |i: usize, ops: &Vec<Operator>, xs: &Tensor, weights: &Tensor, active: Option<&[Vec<bool>]>| {
            let weights = weights.get(i as i64).unbind(0);
            let counts = (0..ops.len()).filter(|op| active.is_none_or(|active| active[0][i * ops.len() + op]));
            let terms = counts.map(|op| ops[op].forward(xs, mode) * &weights[op]);
            terms.reduce(|a, b| a + b).expect("one operator counts")
        };
        self.run(xs, mode, |i, ops, xs| match mixture {
            Mixture::Path(arch) => ops[usize::from(arch.choices()[i])].forward(xs, mode),
            Mixture::Weights(weights) => all(i, ops, xs, &weights[0], None),
            Mixture::Sampled { weights, active, .. } => all(i, ops, xs, &weights[0], Some(active)),
        })
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info()
    }
}

fn operator(vb: &VarBuilder, op: Op, channels: i64) -> Operator {
    op.build(vb, OpConfig { channels, stride: 1, bn: BnConfig::default(), pool_bn: false })
}

impl SearchSpace for Line {
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        self.validate(arch)?;
        let layer = |vb: &VarBuilder, i: usize, c| operator(&vb.sub("op"), OPS[usize::from(arch.choices()[i])], c);
        Ok(Box::new(Layers::new(vb, *self, layer)))
    }
}

impl WeightSharing for Line {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        let layer = |vb: &VarBuilder, _, c| OPS.iter().map(|op| operator(&vb.sub("ops").sub(op), *op, c)).collect();
        Box::new(Layers::<Vec<Operator>>::new(vb, *self, layer))
    }

    fn arch_parameters(&self) -> Vec<ArchParameter> {
        vec![ArchParameter::new("op", &[(self.stages * self.layers) as i64, OPS.len() as i64], Choice::Operator)]
    }

    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let ops = Vec::<i64>::try_from(weights[0].argmax(1, false)).expect("an operator for each layer");
        Architecture::new(ops.into_iter().map(|op| op as u16).collect())
    }
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The operators.
    pub arch: Architecture,
    /// The space that they are of.
    #[serde(default)]
    pub space: Line,
}

impl TaskModel for ModelConfig {
    fn presets() -> Vec<(&'static str, Self)> {
        let space = Line::default();
        vec![("plain", Self { arch: Architecture::new(vec![0; space.decisions().len()]), space })]
    }
}

impl TaskSpace<Regression> for Line {
    fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        self.shared().map(|space| space as Box<dyn ChoiceSpace>)
    }

    fn shared(&self) -> Result<Box<dyn WeightSharing>> {
        let Self { stages, layers, channels } = self;
        ensure!((1..=6).contains(stages), "space.stages = {stages}; expected 1 to 6");
        ensure!((1..=50).contains(layers), "space.layers = {layers}; expected 1 to 50");
        ensure!((1..=1024).contains(channels), "space.channels = {channels}; expected 1 to 1024");
        Ok(Box::new(*self))
    }

    fn derive(&self, model: Option<&ModelConfig>, arch: &Architecture) -> Result<ModelConfig> {
        ensure!(model.is_none(), "model: networks of this space come in the space's own size; leave the section out");
        self.choices()?.validate(arch)?;
        Ok(ModelConfig { arch: arch.clone(), space: *self })
    }

    fn supernet(
        &self,
        space: &dyn WeightSharing,
        _model: Option<&ModelConfig>,
        vb: &VarBuilder,
        _num_classes: usize,
    ) -> Result<Net> {
        let body = space.supernet(vb);
        let channels = body.feature_info().pop().expect("a supernet has a last map").channels;
        Ok(Net::Shared { body, head: Linear::new(&vb.sub("head"), channels, 1) })
    }

    fn names(&self) -> Result<Vec<Decision>> {
        Ok((0..self.stages * self.layers).map(|i| Decision::new(format!("layer {i}"), OPS)).collect())
    }
}
