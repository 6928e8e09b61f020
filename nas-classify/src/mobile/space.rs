//! The space of inverted residuals: kernel, expansion, squeeze-and-excitation and activation of every layer, and whether the
//! layer is there at all (ProxylessNAS, arXiv 1812.00332; FBNet, 1812.03443; MnasNet, 1807.11626; MobileNetV3, 1905.02244).

use anyhow::{Result, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{BlockConfig, Gate, Layout, MobileNet, Naming, StageSize, Taps};
use nas_core::nn::{Activation, BnConfig, Cost, Init, Module, Shape, VarBuilder};
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::Architecture;
use nas_core::space::{
    ArchParameter, Backbone, Choice, ChoiceSpace, InvalidArchitecture, SearchSpace, Supernet, WeightSharing,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::presets::MobilePreset;
use super::supernet::{Ends, MobileSupernet, shared_block};

pub(super) const BN: BnConfig = BnConfig { momentum: 0.1, eps: 1e-5, affine: true };

/// Layers of equal width; the width is one choice, each layer another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Channels of its layers.
    pub channels: Vec<i64>,
    /// Layers.
    pub layers: usize,
    /// Stride of the first.
    pub stride: i64,
    /// Sides of depthwise kernels.
    pub kernels: Vec<i64>,
    /// Hidden channels per channel of a layer's input, where that is widest.
    pub expansions: Vec<i64>,
    /// Whether layers have a squeeze-and-excitation.
    #[serde(default = "without")]
    pub squeeze: Vec<bool>,
    /// What follows the norms.
    #[serde(default = "relu")]
    pub activations: Vec<Activation>,
    /// Layers after the first may be left out.
    #[serde(default)]
    pub skip: bool,
    /// All layers have the first one's block; those after it choose only whether they are there.
    #[serde(default)]
    pub shared: bool,
}

/// The options of one layer: blocks, or, after the first of a shared stage, to be there; then to be left out.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) stage: usize,
    pub(super) blocks: Vec<BlockConfig>,
    /// The layer whose block this one has.
    pub(super) leader: Option<usize>,
    pub(super) skip: bool,
}

impl Layer {
    /// Options to be there.
    pub(super) fn present(&self) -> usize {
        if self.leader.is_some() { 1 } else { self.blocks.len() }
    }

    fn options(&self) -> usize {
        self.present() + usize::from(self.skip)
    }

    /// Whether it is there, its activation, gate, hidden channels and kernel; where it has another's block, whether it is there.
    fn traits(&self, choice: u16) -> Vec<u16> {
        match self.blocks.get(usize::from(choice)) {
            _ if self.leader.is_some() => vec![choice],
            Some(block) => {
                let gate = u16::from(block.squeeze.is_some());
                vec![0, block.activation as u16, gate, block.hidden as u16, block.ksize as u16]
            }
            None => vec![u16::MAX; 5],
        }
    }
}

pub(super) fn without() -> Vec<bool> {
    vec![false]
}

fn relu() -> Vec<Activation> {
    vec![Activation::Relu]
}

/// A space of inverted residuals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MobileSpace {
    /// The form that `stages` come from where there are none of them.
    pub preset: MobilePreset,
    /// Channels of the first convolution; 0 for the preset's.
    pub stem: i64,
    /// Stride of the first convolution; 0 for the preset's.
    pub stem_stride: i64,
    /// Channels of the last convolution; 0 for the preset's.
    pub last: i64,
    /// The stages; none for the preset's.
    pub stages: Vec<Stage>,
}

impl Default for MobileSpace {
    fn default() -> Self {
        Self { preset: MobilePreset::Proxyless, stem: 0, stem_stride: 0, last: 0, stages: Vec::new() }
    }
}

impl MobileSpace {
    /// The same space with every size written out.
    pub fn resolved(&self) -> Self {
        let (stem, stem_stride, last, _) = self.preset.frame();
        let or = |value: i64, default| if value == 0 { default } else { value };
        Self {
            preset: self.preset,
            stem: or(self.stem, stem),
            stem_stride: or(self.stem_stride, stem_stride),
            last: or(self.last, last),
            stages: if self.stages.is_empty() { self.preset.stages() } else { self.stages.clone() },
        }
    }

    /// Says which key has an impossible value.
    pub fn check(&self) -> Result<()> {
        let Self { stem, stem_stride, last, stages, .. } = self.resolved();
        ensure!((1..=4096).contains(&stem), "space.stem = {stem}: expected 1 to 4096");
        ensure!((1..=2).contains(&stem_stride), "space.stem_stride = {stem_stride}: expected 1 or 2");
        ensure!((1..=8192).contains(&last), "space.last = {last}: expected 1 to 8192");
        for (i, stage) in stages.iter().enumerate() {
            let at = format!("space.stages[{i}]");
            let widths = &stage.channels;
            let sound = !widths.is_empty() && widths.iter().all(|c| (1..=4096).contains(c));
            ensure!(sound, "{at}.channels = {widths:?}: expected 1 to 4096");
            let choosable = widths.len() > 1 || i > 0 && stages[i - 1].channels.len() > 1;
            ensure!(
                !choosable || stage.expansions.iter().all(|e| *e > 1),
                "{at}.expansions = {:?}: expected 2 or more where the width of the input is a choice",
                stage.expansions
            );
            ensure!((1..=32).contains(&stage.layers), "{at}.layers = {}: expected 1 to 32", stage.layers);
            ensure!((1..=2).contains(&stage.stride), "{at}.stride = {}: expected 1 or 2", stage.stride);
            let odd = |ksize: &i64| (1..=15).contains(ksize) && ksize % 2 == 1;
            ensure!(stage.kernels.iter().all(odd), "{at}.kernels = {:?}: expected odd sides of 1 to 15", stage.kernels);
            let positive = stage.expansions.iter().all(|e| (1..=16).contains(e));
            ensure!(positive, "{at}.expansions = {:?}: expected 1 to 16", stage.expansions);
            ensure!(
                !stage.candidates((1, 1), 1, 1).is_empty(),
                "{at}: expected one of kernels, expansions, squeeze, activations"
            );
        }
        Ok(())
    }

    /// The layers at full width, or at the widths of an architecture.
    pub(super) fn layers(&self, arch: Option<&Architecture>) -> Vec<Layer> {
        let Self { stem, stages, .. } = self.resolved();
        let (mut before, mut widest_before) = (stem, stem);
        let first_width = stages.iter().map(|stage| stage.layers).sum::<usize>();
        let mut layers: Vec<Layer> = Vec::new();
        for (s, stage) in stages.iter().enumerate() {
            let widest = stage.widest();
            let width = arch.map_or(widest, |arch| stage.channels[usize::from(arch.choices()[first_width + s])]);
            let leader = layers.len();
            for i in 0..stage.layers {
                let stride = if i == 0 { stage.stride } else { 1 };
                let blocks = stage.candidates((before, width), widest_before, stride);
                (before, widest_before) = (width, widest);
                let leader = (stage.shared && i > 0).then_some(leader);
                layers.push(Layer { stage: s, blocks, leader, skip: stage.skip && i > 0 });
            }
        }
        layers
    }

    pub(super) fn layout(&self, blocks: Vec<BlockConfig>) -> Layout {
        let Self { stem, stem_stride, last, stages, .. } = self.resolved();
        let activation = |stage: Option<&Stage>| stage.map_or(Activation::Relu, |stage| stage.activations[0]);
        let last_stage = stages.last().and_then(|stage| stage.activations.last());
        Layout {
            stem: (stem, stem_stride, activation(stages.first())),
            blocks,
            last: Some((last, last_stage.copied().unwrap_or(Activation::Relu))),
            bias: false,
            bn: BN,
            naming: Naming::V3,
            init: Init::KaimingFanOut,
            output_stride: None,
            taps: Taps::Strides { from: 1 },
            part_per_block: true,
        }
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        let stages = self.resolved().stages;
        let layers = self.layers(None);
        let of_layer = |(i, layer): (usize, &Layer)| {
            let first = layers.iter().position(|other| other.stage == layer.stage).expect("a layer of its stage");
            let there = match layer.leader {
                Some(_) => vec!["there".to_string()],
                None => layer.blocks.iter().map(block_name).collect(),
            };
            let left_out = layer.skip.then(|| "left out".to_string());
            Decision::new(format!("stage {} layer {}", layer.stage, i - first), there.into_iter().chain(left_out))
        };
        let width = |(i, stage): (usize, &Stage)| Decision::new(format!("stage {i} channels"), &stage.channels);
        layers.iter().enumerate().map(of_layer).chain(stages.iter().enumerate().map(width)).collect()
    }

    /// The blocks of an architecture of the space.
    pub fn blocks(&self, arch: &Architecture) -> Vec<BlockConfig> {
        self.placed(arch).into_iter().map(|(_, block)| block).collect()
    }

    /// The blocks, each with the number of its layer.
    fn placed(&self, arch: &Architecture) -> Vec<(usize, BlockConfig)> {
        let choice = |layer: usize| usize::from(arch.choices()[layer]);
        let layers = self.layers(Some(arch));
        let there = layers.iter().enumerate().filter(|(i, layer)| choice(*i) < layer.present());
        there.map(|(i, layer)| (i, layer.blocks[choice(layer.leader.unwrap_or(i))])).collect()
    }

    /// The network of an architecture.
    pub fn layout_of(&self, arch: &Architecture) -> Result<Layout, InvalidArchitecture> {
        self.validate(arch)?;
        Ok(self.layout(self.blocks(arch)))
    }

    /// What weight inheritance knows of an architecture's network of these sizes, its own ([`Layout::sizes`]) or others: blocks are
    /// each other's where they have the same layer of the space; one that a stage has beyond its own is nobody's.
    pub fn parts(&self, arch: &Architecture, sizes: &[StageSize]) -> Result<Vec<BlockParts>> {
        let plain = self.layout_of(arch)?;
        let mut layers = self.placed(arch).into_iter().map(|(layer, _)| layer);
        let own: Vec<Vec<usize>> =
            plain.sizes().iter().skip(1).map(|size| layers.by_ref().take(size.blocks).collect()).collect();
        let mut parts = plain.with_sizes("model.stages", sizes)?.parts("", sizes);
        for part in &mut parts {
            let (stage, block) = part.place;
            if let Some(own) = own.get(stage) {
                part.place = own.get(block).map_or((stage + 1, block), |layer| (0, *layer));
            }
        }
        Ok(parts)
    }
}

/// A block by what is chosen of it, such as `k5 e6 se Hardswish`.
pub fn block_name(block: &BlockConfig) -> String {
    let expansion = format!("{:.1}", block.hidden as f64 / block.channels.0 as f64);
    let squeeze = if block.squeeze.is_some() { " se" } else { "" };
    format!("k{} e{}{squeeze} {:?}", block.ksize, expansion.trim_end_matches(".0"), block.activation)
}

impl Stage {
    pub(super) fn widest(&self) -> i64 {
        self.channels.iter().copied().max().unwrap_or(1)
    }

    /// All combinations, kernels slowest, activations fastest.
    fn candidates(&self, channels: (i64, i64), widest_input: i64, stride: i64) -> Vec<BlockConfig> {
        let mut candidates = Vec::new();
        for (&ksize, &expansion) in self.kernels.iter().flat_map(|k| self.expansions.iter().map(move |e| (k, e))) {
            for (&squeezes, &activation) in
                self.squeeze.iter().flat_map(|s| self.activations.iter().map(move |a| (s, a)))
            {
                let hidden = widest_input * expansion;
                let squeeze = squeezes.then_some(((hidden / 4).max(1), Gate::HardSigmoid));
                let block = BlockConfig::new(channels, hidden, ksize, stride);
                candidates.push(BlockConfig { squeeze, activation, ..block });
            }
        }
        candidates
    }
}

impl ChoiceSpace for MobileSpace {
    fn name(&self) -> &str {
        "mobile"
    }

    fn decisions(&self) -> Vec<u16> {
        let layers = self.layers(None).into_iter().map(|layer| layer.options() as u16);
        layers.chain(self.resolved().stages.iter().map(|stage| stage.channels.len() as u16)).collect()
    }

    fn traits(&self, arch: &Architecture) -> Vec<u16> {
        let layers = self.layers(None);
        let (blocks, widths) = arch.choices().split_at(layers.len());
        let of = |(layer, choice): (&Layer, &u16)| layer.traits(*choice);
        layers.iter().zip(blocks).flat_map(of).chain(widths.iter().copied()).collect()
    }
}

impl SearchSpace for MobileSpace {
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        Ok(Box::new(MobileNet::new(vb, &self.layout_of(arch)?)))
    }
}

impl WeightSharing for MobileSpace {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(MobileSupernet::new(vb, self))
    }

    /// `blocks [layers, options]`: blocks in the order of the choices and, where a layer can be left out, that;
    /// `width [stages, widths]`.
    fn arch_parameters(&self) -> Vec<ArchParameter> {
        let decisions = self.decisions();
        let (blocks, widths) = decisions.split_at(self.layers(None).len());
        let parameter = |name: &str, rows: &[u16]| {
            let width = rows.iter().copied().max().unwrap_or(1);
            let exists = rows.iter().flat_map(|n| (0..width).map(move |i| i < *n)).collect();
            let dims = [rows.len() as i64, i64::from(width)];
            ArchParameter { exists, ..ArchParameter::new(name, &dims, Choice::Operator) }
        };
        vec![parameter("blocks", blocks), parameter("width", widths)]
    }

    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let rows = weights.iter().flat_map(|w| Vec::<Vec<f64>>::try_from(w).expect("a matrix of numbers"));
        let best = |(row, options): (Vec<f64>, u16)| {
            let ranked = (0..options).rev().max_by(|a, b| row[usize::from(*a)].total_cmp(&row[usize::from(*b)]));
            ranked.expect("a candidate")
        };
        Architecture::new(rows.zip(self.decisions()).map(best).collect())
    }

    fn macs_table(&self, input: Shape) -> Option<(u64, Vec<Vec<f64>>)> {
        let (layers, stages) = (self.layers(None), self.resolved().stages);
        let additive =
            layers.iter().all(|layer| layer.leader.is_none()) && stages.iter().all(|s| s.channels.len() == 1);
        if !additive {
            return None;
        }
        let width = layers.iter().map(Layer::options).max().unwrap_or(1);
        let ends = Ends::new(&VarBuilder::dry(), self);
        let mut fixed = Cost::default();
        let mut xs = ends.stem.cost(input, &mut fixed);
        let mut table = vec![0.0; layers.len() * width];
        for (row, layer) in layers.iter().enumerate() {
            let mut ys = xs;
            for (i, block) in layer.blocks.iter().enumerate() {
                let mut cost = Cost::default();
                ys = shared_block(&VarBuilder::dry(), block).cost(xs, &mut cost);
                table[row * width + i] = cost.macs as f64;
            }
            xs = ys;
        }
        ends.last.cost(xs, &mut fixed);
        Some((fixed.macs, vec![table, vec![0.0; stages.len()]]))
    }
}
