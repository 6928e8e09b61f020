//! The network that an architecture stands for: stem, cells along the path, features for a DeepLab head.

use anyhow::{Result, anyhow, ensure};
use nas_core::estimator::inheritance::BlockParts;
use nas_core::models::{StageSize, sizes};
use nas_core::nn::Cost;
use nas_core::nn::{BnConfig, Mode, Module, OpConfig, Shape, VarBuilder, drop_path, probe, resize_bilinear};
use nas_core::space::Architecture;
use nas_core::space::{Backbone, FeatureInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::genotype::{Edge, Genotype};
use super::stem::{Preprocess, Stem};
use crate::head::{Head, HeadConfig};
use crate::seg_net::SegNet;

/// Index of the cell whose output the decoder sees, where the path is still at stride 4 there.
const LOW_LEVEL_CELL: usize = 2;

/// How a cell reaches its level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wiring {
    /// As TensorFlow's published network: strides lie inside the operators on states 0 and 1; the layer before the last is
    /// resized, whatever its stride.
    #[default]
    Published,
    /// As in the supernet, so that its weights can be taken over: strides lie in the 3x3 convolution before the cell, and
    /// the layer before the last counts only where it had the same stride.
    Search,
}

/// An Auto-DeepLab network. The defaults are those of the published ones, at F = 20.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutoDeepLabConfig {
    /// Levels of the layers, then state and operator of both inputs of each block.
    pub arch: Architecture,
    /// Layers of the network.
    pub layers: usize,
    /// Filter multiplier F.
    pub filters: i64,
    /// Channels of the three convolutions of the stem.
    pub stem: [i64; 3],
    /// Share of paths that scheduled drop path keeps in the last cell at the end of training; 1 for none. The paper's value
    /// is not published.
    pub drop_path_keep: f64,
    /// How a cell reaches its level.
    pub wiring: Wiring,
    /// Norms of stem and cells.
    pub bn: BnConfig,
    /// What turns features into logits.
    pub head: HeadConfig,
    /// Channels and blocks of the three convolutions of the stem, one block each, and channels per block and number of the cells
    /// of every run of layers at one level; none for those that `stem`, `filters` and `arch` give.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSize>,
}

impl Default for AutoDeepLabConfig {
    fn default() -> Self {
        Self {
            arch: Genotype::published().to_architecture(),
            layers: 12,
            filters: 20,
            stem: [64, 64, 128],
            drop_path_keep: 1.0,
            wiring: Wiring::Published,
            bn: BnConfig { momentum: 3e-4, eps: 1e-3, affine: true },
            head: HeadConfig::default(),
            stages: Vec::new(),
        }
    }
}

impl AutoDeepLabConfig {
    /// The published architecture with filter multiplier `filters` (S: 20, M: 32, L: 48).
    pub fn published(filters: i64) -> Self {
        Self { filters, ..Self::default() }
    }

    /// The architecture in the paper's terms.
    pub fn genotype(&self) -> Result<Genotype> {
        let found = Genotype::from_architecture(&self.arch, self.layers);
        found.map_err(|reason| anyhow!("model.arch = {}: {reason}", self.arch))
    }

    /// The stem's convolutions, and the runs of layers at one level.
    pub fn sizes(&self) -> Result<Vec<StageSize>> {
        if !self.stages.is_empty() {
            return Ok(self.stages.clone());
        }
        let stem = self.stem.iter().map(|channels| StageSize { channels: *channels, blocks: 1 });
        let path = self.genotype()?.path;
        let run = |run: &[usize]| StageSize { channels: self.filters << run[0], blocks: run.len() };
        Ok(stem.chain(path.chunk_by(|a, b| a == b).map(run)).collect())
    }

    /// The architecture with as many layers as the stages have, and the channels.
    fn sized(&self) -> Result<(Genotype, Widths)> {
        let (mut genotype, key) = (self.genotype()?, "model.stages");
        let own = Self { stages: Vec::new(), ..self.clone() }.sizes()?;
        let sizes = self.sizes()?;
        sizes::check(key, &own, &sizes)?;
        let (stem, runs) = sizes.split_at(3);
        let more = stem.iter().position(|size| size.blocks != 1);
        ensure!(more.is_none(), "{key}[{}]: expected one block, a convolution of the stem", more.unwrap_or_default());
        let levels = genotype.path.chunk_by(|a, b| a == b).map(|run| run[0]);
        let layers = runs.iter().zip(levels).flat_map(|(size, level)| vec![(level, size.channels); size.blocks]);
        let (path, cells) = layers.unzip();
        genotype.path = path;
        Ok((genotype, Widths { stem: std::array::from_fn(|i| stem[i].channels), cells }))
    }

    /// What weight inheritance knows of the cells, whose names begin with `prefix`.
    pub fn parts(&self, prefix: &str) -> Result<Vec<BlockParts>> {
        let sizes = self.sizes()?;
        Ok(sizes::numbered_through(sizes.get(3..).unwrap_or_default(), &format!("{prefix}cells.")))
    }

    /// The network, its weights under `vb`.
    pub fn build(&self, vb: &VarBuilder, num_classes: i64) -> Result<SegNet> {
        let Self { filters, stem, drop_path_keep, .. } = self;
        ensure!((1..=4096).contains(filters), "model.filters = {filters}: expected 1 to 4096");
        ensure!(stem.iter().all(|c| (1..=4096).contains(c)), "model.stem = {stem:?}: expected 1 to 4096 channels");
        let keep_range = *drop_path_keep > 0.0 && *drop_path_keep <= 1.0;
        ensure!(keep_range, "model.drop_path_keep = {drop_path_keep}: expected more than 0, at most 1");
        self.head.validate()?;
        let (genotype, widths) = self.sized()?;
        let backbone = Network::of_widths(&vb.sub("backbone"), &genotype, &widths, self);
        let head = Head::new(&vb.sub("head"), &backbone.feature_info(), num_classes, &self.head);
        Ok(SegNet { backbone: Box::new(backbone), head: Box::new(head) })
    }
}

/// Channels of the stem's convolutions, and of a block of every layer's cell.
#[derive(Debug)]
struct Widths {
    stem: [i64; 3],
    cells: Vec<i64>,
}

/// Stem and cells.
#[derive(Debug)]
pub struct Network {
    stem: Stem,
    cells: Vec<Cell>,
    wiring: Wiring,
    low_level: LowLevel,
    info: [FeatureInfo; 2],
}

/// Where the decoder's features come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LowLevel {
    Stem,
    Cell(usize),
}

impl Network {
    /// The network of `genotype`, of the channels that stem and filters of `config` give.
    pub fn new(vb: &VarBuilder, genotype: &Genotype, config: &AutoDeepLabConfig) -> Self {
        let cells = genotype.path.iter().map(|level| config.filters << level).collect();
        Self::of_widths(vb, genotype, &Widths { stem: config.stem, cells }, config)
    }

    fn of_widths(vb: &VarBuilder, genotype: &Genotype, widths: &Widths, config: &AutoDeepLabConfig) -> Self {
        let blocks = genotype.cell.len() as i64;
        let [_, half, quarter] = widths.stem;
        // Channels and levels of H[l-2] and H[l-1]; the stem's maps are at levels -1 and 0.
        let (mut before, mut last) = ((half, -1), (quarter, 0));
        let mut cells = Vec::with_capacity(genotype.path.len());
        for (layer, (level, channels)) in genotype.path.iter().zip(&widths.cells).enumerate() {
            let level = *level as i64;
            let place = Place { layer, level, layers: genotype.path.len(), channels: *channels, before, last };
            cells.push(Cell::new(&vb.sub("cells").sub(layer), &genotype.cell, place, config));
            (before, last) = (last, (blocks * channels, level));
        }
        let leading = genotype.path.iter().take_while(|level| **level == 0).count();
        let (low_level, low_channels) = match leading {
            0 => (LowLevel::Stem, quarter),
            leading => {
                let cell = LOW_LEVEL_CELL.min(leading - 1);
                (LowLevel::Cell(cell), blocks * widths.cells[cell])
            }
        };
        let info =
            [FeatureInfo { channels: low_channels, stride: 4 }, FeatureInfo { channels: last.0, stride: 4 << last.1 }];
        let stem = Stem::new(&vb.sub("stem"), widths.stem, config.bn);
        Self { stem, cells, wiring: config.wiring, low_level, info }
    }

    fn levels(quarter: (i64, i64)) -> [(i64, i64); 4] {
        let halve = |n: i64| (n + 1) / 2;
        let mut sizes = [quarter; 4];
        for level in 1..4 {
            sizes[level] = (halve(sizes[level - 1].0), halve(sizes[level - 1].1));
        }
        sizes
    }
}

impl Backbone for Network {
    /// The decoder's map before its ReLU (as in TensorFlow; a re-implementation adds one), and the last map after it.
    fn features(&self, xs: &Tensor, mode: Mode) -> Vec<Tensor> {
        let [mut before, mut last] = self.stem.forward(xs, mode);
        let (_, _, h, w) = last.size4().expect("a feature map has four dimensions");
        let sizes = Self::levels((h, w));
        let mut low_level = (self.low_level == LowLevel::Stem).then(|| last.shallow_clone());
        for (layer, cell) in self.cells.iter().enumerate() {
            let ys = cell.forward(&before, &last, &sizes, self.wiring, mode);
            (before, last) = (last, probe::block(ys));
            if self.low_level == LowLevel::Cell(layer) {
                low_level = Some(last.shallow_clone());
            }
        }
        vec![low_level.expect("the low-level cell is one of the cells"), last.relu()]
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        self.info.to_vec()
    }

    fn cost_parts(&self, input: Shape) -> (Vec<(String, Cost)>, Vec<Shape>) {
        let mut cost = Cost::default();
        let [mut before, mut last] = self.stem.cost(input, &mut cost);
        let sizes = Self::levels(last.size());
        let mut parts = vec![("stem".to_string(), cost)];
        let mut low_level = last;
        for (layer, cell) in self.cells.iter().enumerate() {
            let mut cost = Cost::default();
            let ys = cell.cost(before, last, &sizes, self.wiring, &mut cost);
            parts.push((format!("cell {layer}"), cost));
            (before, last) = (last, ys);
            if self.low_level == LowLevel::Cell(layer) {
                low_level = last;
            }
        }
        (parts, vec![low_level, last])
    }
}

/// Where a cell stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    layer: usize,
    layers: usize,
    level: i64,
    /// Of every block.
    channels: i64,
    /// Channels and level of H[l-2].
    before: (i64, i64),
    /// Channels and level of H[l-1].
    last: (i64, i64),
}

/// The searched cell at one layer.
#[derive(Debug)]
struct Cell {
    place: Place,
    preprocess_last: Preprocess,
    /// Absent where the layer before the last counts as zero.
    preprocess_before: Option<Preprocess>,
    blocks: Vec<[(usize, Box<dyn Module>); 2]>,
    drop_path_keep: f64,
}

impl Cell {
    fn new(vb: &VarBuilder, genotype: &[[Edge; 2]], place: Place, config: &AutoDeepLabConfig) -> Self {
        let channels = place.channels;
        let search = config.wiring == Wiring::Search;
        let down = place.level > place.last.1;
        let preprocess = |state: usize, (c_in, level): (i64, i64)| {
            let stride = if search { 1 << (place.level - level).max(0) } else { 1 };
            Preprocess::new(&vb.sub("preprocess").sub(state), c_in, channels, stride, config.bn)
        };
        let preprocess_last = preprocess(0, place.last);
        let preprocess_before = (!search || place.sees_before()).then(|| preprocess(1, place.before));
        let op = |block: usize, input: usize, edge: &Edge| {
            let stride = if down && !search && edge.state < 2 { 2 } else { 1 };
            let op_config = OpConfig { channels, stride, bn: config.bn, pool_bn: search };
            (edge.state, edge.op.build(&vb.sub("blocks").sub(block).sub(input), op_config))
        };
        let blocks = genotype.iter().enumerate().map(|(block, [a, b])| [op(block, 0, a), op(block, 1, b)]).collect();
        Self { place, preprocess_last, preprocess_before, blocks, drop_path_keep: config.drop_path_keep }
    }

    fn forward(&self, before: &Tensor, last: &Tensor, sizes: &[(i64, i64); 4], wiring: Wiring, mode: Mode) -> Tensor {
        let size = sizes[self.place.level as usize];
        let mut states = self.inputs(before, last, size, wiring, mode);
        let keep = self.keep(mode);
        for inputs in &self.blocks {
            let [a, b] = inputs.each_ref().map(|(state, op)| {
                let ys = op.forward(&states[*state], mode);
                if mode.train { drop_path(&ys, keep) } else { ys }
            });
            states.push(a + b);
        }
        Tensor::cat(&states[2..], 1)
    }

    /// States 0 and 1.
    fn inputs(&self, before: &Tensor, last: &Tensor, size: (i64, i64), wiring: Wiring, mode: Mode) -> Vec<Tensor> {
        let up = self.place.level < self.place.last.1;
        let last = if up { resize_bilinear(last, size) } else { last.shallow_clone() };
        let first = self.preprocess_last.forward(&last, mode);
        let second = match (&self.preprocess_before, wiring) {
            (None, _) => first.zeros_like(),
            (Some(preprocess), Wiring::Search) => preprocess.forward(before, mode),
            (Some(preprocess), Wiring::Published) => {
                let (_, _, h, w) = last.size4().expect("a feature map has four dimensions");
                preprocess.forward(&resize_bilinear(before, (h, w)), mode)
            }
        };
        vec![first, second]
    }

    /// Probability of keeping a path: falls with depth and with the progress of training (spec C).
    fn keep(&self, mode: Mode) -> f64 {
        let depth = (self.place.layer + 1) as f64 / self.place.layers as f64;
        let at_end = 1.0 - depth * (1.0 - self.drop_path_keep);
        1.0 - mode.progress.min(1.0) * (1.0 - at_end)
    }

    fn cost(&self, before: Shape, last: Shape, sizes: &[(i64, i64); 4], wiring: Wiring, cost: &mut Cost) -> Shape {
        let size = sizes[self.place.level as usize];
        let up = self.place.level < self.place.last.1;
        let last = if up { last.with_size(size) } else { last };
        let first = self.preprocess_last.cost(last, cost);
        let before = if wiring == Wiring::Published { before.with_size(last.size()) } else { before };
        let second = self.preprocess_before.as_ref().map_or(first, |preprocess| preprocess.cost(before, cost));
        let mut states = vec![first, second];
        for inputs in &self.blocks {
            let [ys, _] = inputs.each_ref().map(|(state, op)| op.cost(states[*state], cost));
            states.push(ys);
        }
        states[2].with_channels(self.place.channels * self.blocks.len() as i64)
    }
}

impl Place {
    /// In the supernet a node sees the map of its own level two layers before or, where the trellis has none there, the
    /// coarsest one it has.
    fn sees_before(&self) -> bool {
        self.before.1 == self.level.min(self.layer as i64 - 1)
    }
}

#[cfg(test)]
mod tests;
