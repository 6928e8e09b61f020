//! Networks of given cells (DARTS, arXiv 1806.09055, section 3.2): drop path on every edge with an operator, and an auxiliary
//! classifier behind the second reduction while training.

use std::cell::RefCell;

use anyhow::Result;
use nas_core::models::StageSize;
use nas_core::nn::Cost;
use nas_core::nn::{
    BnConfig, FactorizedReduce, Linear, Mode, Module, Op, OpConfig, Shape, VarBuilder, drop_path, probe, probe::Site,
};
use nas_core::space::{Backbone, FeatureInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::aux_head::AuxHead;
use super::frame::{Frame, FrameConfig, Layer, Place, StemKind};
use super::genotype::{Cell, Edge, Genotype};
use super::published;
use super::space::{CellForm, Share};
use crate::classifier::{Classifier, Logits};

/// Behind which reduction the auxiliary head stands.
const AUX_STAGE: usize = 2;

/// Cells of a network, its sizes and what it does while training. The defaults are DARTS' for CIFAR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// The cells.
    pub genotype: Genotype,
    /// How another architecture of numbers is read in place of the genotype: whose cell,
    pub form: CellForm,
    /// and how many structures.
    pub share: Share,
    /// Channels of a node in the first cell.
    pub channels: i64,
    /// Cells.
    pub layers: usize,
    /// What comes before the cells.
    pub stem: StemKind,
    /// An auxiliary classifier while training.
    pub auxiliary: bool,
    /// Probability at the end of the training that an edge is dropped; it grows linearly from 0.
    pub drop_path: f64,
    /// A norm after pooling, as while searching.
    pub pool_norm: bool,
    /// Channels of a node and cells, the reduction among them, of each of the three stages; none for those that `channels` and
    /// `layers` give.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            genotype: published::genotype(published::DARTS_V2),
            form: CellForm::Darts,
            share: Share::All,
            channels: 36,
            layers: 20,
            stem: StemKind::Cifar,
            auxiliary: true,
            drop_path: 0.2,
            pool_norm: false,
            stages: Vec::new(),
        }
    }
}

impl NetworkConfig {
    pub(crate) fn frame(&self) -> FrameConfig {
        let Self { channels, layers, stem, stages, .. } = self.clone();
        FrameConfig { channels, layers, stem, stages }
    }

    /// Says which key has a value that no network can be made of.
    pub fn validate(&self) -> Result<()> {
        self.frame().validate("model")?;
        let drop_path = self.drop_path;
        anyhow::ensure!((0.0..1.0).contains(&drop_path), "model.drop_path = {drop_path}: expected 0 up to but not 1");
        Ok(())
    }
}

/// Stem and cells. Features: the last map of each stage.
#[derive(Debug)]
pub struct Trunk {
    frame: Frame<FixedCell>,
    drop_path: f64,
}

impl Trunk {
    /// The trunk of a genotype; the error says which cell is missing.
    pub fn new(vb: &VarBuilder, config: &NetworkConfig) -> Result<Self, String> {
        let frame = Frame::new(vb, config.frame(), BnConfig::default(), |vb, place| {
            let cell = config.genotype.cell(place)?;
            Ok::<_, String>((FixedCell::new(vb, cell, place, config.pool_norm), cell.concat.len()))
        })?;
        Ok(Self { frame, drop_path: config.drop_path })
    }

    fn forward(&self, xs: &Tensor, mode: Mode, mut seen: impl FnMut(Place, &Tensor)) -> Vec<Tensor> {
        let keep = if mode.train { 1.0 - self.drop_path * mode.progress } else { 1.0 };
        self.frame.features(xs, mode, |layer, inputs| {
            let ys = layer.cell.forward(inputs, keep, mode);
            probe::report(Site::Block, &ys);
            seen(layer.place, &ys);
            ys
        })
    }
}

impl Backbone for Trunk {
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        self.forward(xs, mode, |_, _| {})
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.frame.feature_info()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        self.frame.cost_parts(input, |layer: &Layer<FixedCell>, inputs, cost| layer.cell.cost(inputs, cost))
    }
}

/// A classifier made of cells.
#[derive(Debug)]
pub struct Network {
    trunk: Trunk,
    aux: Option<AuxHead>,
    classifier: Linear,
}

impl Network {
    /// The network for `num_classes`.
    pub fn new(vb: &VarBuilder, config: &NetworkConfig, num_classes: i64) -> Result<Self> {
        config.validate()?;
        let trunk = Trunk::new(vb, config).map_err(|reason| anyhow::anyhow!("model.genotype: {reason}"))?;
        let place = config.frame().places().into_iter().find(|place| place.reduction && place.stage == AUX_STAGE);
        let place = place.expect("three stages");
        let outputs = config.genotype.cell(place).expect("the trunk has it").concat.len() as i64;
        let aux = config
            .auxiliary
            .then(|| AuxHead::new(&vb.sub("auxiliary"), outputs * place.channels, config.stem, num_classes));
        let channels = trunk.feature_info().pop().expect("three stages").channels;
        Ok(Self { trunk, aux, classifier: Linear::new(&vb.sub("classifier"), channels, num_classes) })
    }
}

impl Classifier for Network {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Logits {
        let aux = RefCell::new(None);
        let features = self.trunk.forward(xs, mode, |place, ys| {
            if let (true, AUX_STAGE, Some(head)) = (mode.train && place.reduction, place.stage, &self.aux) {
                aux.replace(Some(head.forward(ys, mode)));
            }
        });
        let mean = features[features.len() - 1].mean_dim([2i64, 3].as_slice(), false, None);
        Logits { main: self.classifier.forward(&mean), aux: aux.into_inner() }
    }

    fn features(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.trunk.forward(xs, mode, |_, _| {}).pop().expect("a trunk has a last map")
    }

    fn cost_parts(&self, input: Shape) -> Vec<(String, Cost)> {
        let (mut parts, _) = self.trunk.cost_parts(input);
        parts.push(("classifier".to_string(), self.classifier.cost()));
        parts
    }
}

/// A cell with one operator on each edge.
#[derive(Debug)]
struct FixedCell {
    nodes: Vec<[FixedEdge; 2]>,
    concat: Vec<usize>,
}

#[derive(Debug)]
struct FixedEdge {
    state: usize,
    layer: Box<dyn Module>,
    /// Identities are not dropped.
    drops: bool,
}

impl FixedCell {
    fn new(vb: &VarBuilder, cell: &Cell, place: Place, pool_norm: bool) -> Self {
        let node = |(n, edges): (usize, &[Edge; 2])| {
            let vb = vb.sub("nodes").sub(n);
            std::array::from_fn(|i| {
                let Edge { state, op } = edges[i];
                let stride = place.stride(state);
                let config = OpConfig { channels: place.channels, stride, bn: BnConfig::default(), pool_bn: pool_norm };
                let layer = operator(&vb.sub(i), op, config);
                FixedEdge { state, layer, drops: op != Op::SkipConnect || stride == 2 }
            })
        };
        Self { nodes: cell.nodes.iter().enumerate().map(node).collect(), concat: cell.concat.clone() }
    }

    fn forward(&self, [before, last]: [Tensor; 2], keep: f64, mode: Mode) -> Tensor {
        let mut states = vec![before, last];
        for edges in &self.nodes {
            let [a, b] = edges.each_ref().map(|edge| {
                let ys = edge.layer.forward(&states[edge.state], mode);
                if edge.drops { drop_path(&ys, keep) } else { ys }
            });
            states.push(a + b);
        }
        let outputs: Vec<&Tensor> = self.concat.iter().map(|state| &states[*state]).collect();
        Tensor::cat(&outputs, 1)
    }

    fn cost(&self, inputs: [Shape; 2], cost: &mut Cost) -> Shape {
        let mut states = inputs.to_vec();
        for edges in &self.nodes {
            let [ys, _] = edges.each_ref().map(|edge| edge.layer.cost(states[edge.state], cost));
            states.push(ys);
        }
        let last = states[states.len() - 1];
        last.with_channels(self.concat.len() as i64 * last.c)
    }
}

/// An operator of a cell; an identity of stride 2 is a factorized reduction.
pub(super) fn operator(vb: &VarBuilder, op: Op, config: OpConfig) -> Box<dyn Module> {
    match op {
        Op::SkipConnect if config.stride == 2 => {
            Box::new(FactorizedReduce::new(vb, (config.channels, config.channels), config.bn))
        }
        op => op.build(vb, config),
    }
}
