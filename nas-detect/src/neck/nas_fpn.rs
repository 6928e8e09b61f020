//! NAS-FPN (Ghiasi et al. 2019, arXiv 1904.07392): cells that merge two maps of a growing pool.

use anyhow::{Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::{
    Activation, BatchNorm, BnConfig, ConvConfig, ConvNorm, Mode, Module, Shape, VarBuilder, conv_bn, relu,
};
use nas_core::run::drawing::Diagram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Inputs, LAST_FEATURE, Levels, Neck, size_of, upsample};

/// How a cell merges its two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergeOp {
    /// `a + b`.
    Sum,
    /// `gate + sigmoid(pool(gate)) * other`.
    Attention,
}

/// One merging cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergingCell {
    /// The level of its output.
    pub level: u32,
    /// How it merges.
    pub op: MergeOp,
    /// What it merges: positions in the pool, which starts with the levels, finest first, and takes up every cell's output.
    pub inputs: [usize; 2],
}

/// Pooling of the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GatePool {
    /// The largest value of each channel: the authors' code.
    #[default]
    Max,
    /// The mean of each channel: mmcv's.
    Avg,
}

/// Which input of an attention cell is the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The one of the coarser level, of equal ones the first: the authors' code.
    #[default]
    Coarse,
    /// The second: mmcv's.
    Second,
}

/// What a [`NasFpn`] consists of. The defaults are the published "7 @ 256".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NasFpnConfig {
    /// Channels of every level.
    pub channels: i64,
    /// Levels.
    pub levels: Levels,
    /// How often the cells are repeated, each time with their own weights.
    pub stacks: usize,
    /// The cells. The last ones, as many as there are levels, give the output: one each.
    pub cells: Vec<MergingCell>,
    /// Pooling of attention.
    pub pool: GatePool,
    /// Gate of attention.
    pub gate: Gate,
    /// Norms.
    pub bn: BnConfig,
}

impl Default for NasFpnConfig {
    fn default() -> Self {
        let bn = BnConfig::default();
        let (levels, cells) = (Levels::default(), published());
        Self { channels: 256, levels, stacks: 7, cells, pool: Default::default(), gate: Default::default(), bn }
    }
}

/// The published cells, for levels 3 to 7.
fn published() -> Vec<MergingCell> {
    use MergeOp::{Attention, Sum};
    let cell = |(level, op, inputs)| MergingCell { level, op, inputs };
    let cells = [
        (4, Attention, [1, 3]),
        (4, Sum, [1, 5]),
        (3, Sum, [0, 6]),
        (4, Sum, [6, 7]),
        (5, Attention, [7, 8]),
        (7, Attention, [6, 9]),
        (6, Attention, [9, 10]),
    ];
    cells.map(cell).into()
}

impl NasFpnConfig {
    pub(super) fn check(&self) -> Result<()> {
        let Self { levels, stacks, cells, .. } = self;
        ensure!((1..=16).contains(stacks), "model.neck.stacks = {stacks}: expected 1 to 16");
        let key = "model.neck.cells";
        let count = levels.count();
        ensure!(cells.len() >= count, "{key}: {} cells, expected at least one for each of {count} levels", cells.len());
        for (i, cell) in cells.iter().enumerate() {
            let [a, b] = cell.inputs;
            let pool = count + i;
            ensure!(a < pool && b < pool && a != b, "{key}: inputs {a} and {b} of cell {i}, expected two below {pool}");
            ensure!(levels.iter().contains(&cell.level), "{key}: level {} of cell {i} is not in use", cell.level);
        }
        let given = |level| cells[cells.len() - count..].iter().any(|cell| cell.level == level);
        let missing = levels.iter().find(|level| !given(*level));
        ensure!(missing.is_none(), "{key}: none of the last {count} gives level {}", missing.unwrap_or_default());
        Ok(())
    }

    /// For every cell, the maps of the pool that it takes up besides its inputs: an output cell adds those of its level
    /// that nothing has used yet.
    pub(super) fn taken_up(&self) -> Vec<Vec<usize>> {
        let count = self.levels.count();
        let mut level_of: Vec<u32> = self.levels.iter().collect();
        let mut used = vec![false; count];
        let mut taken_up = Vec::new();
        for (i, cell) in self.cells.iter().enumerate() {
            cell.inputs.iter().for_each(|input| used[*input] = true);
            let is_output = i + count >= self.cells.len();
            let free = |node: &usize| is_output && !used[*node] && level_of[*node] == cell.level;
            let extra: Vec<usize> = (0..used.len()).filter(free).collect();
            extra.iter().for_each(|node| used[*node] = true);
            taken_up.push(extra);
            level_of.push(cell.level);
            used.push(false);
        }
        taken_up
    }

    /// The cells as a graph: the maps that come in, then the cells.
    pub fn diagram(&self) -> Diagram {
        let count = self.levels.count();
        let inputs = self.levels.iter().map(|level| format!("P{level}"));
        let nodes = inputs.chain(self.cells.iter().map(|cell| format!("P{}", cell.level))).collect();
        let arrows = self.cells.iter().zip(self.taken_up()).enumerate().flat_map(|(i, (cell, extra))| {
            let op = match cell.op {
                MergeOp::Sum => "sum",
                MergeOp::Attention => "attention",
            };
            let merged = cell.inputs.map(|from| (from, op)).into_iter();
            let all = merged.chain(extra.into_iter().map(|from| (from, "added")));
            all.map(move |(from, name)| (from, count + i, name.to_string())).collect::<Vec<_>>()
        });
        let title = format!("NAS-FPN, {} stacks of {} channels", self.stacks, self.channels);
        Diagram { title, nodes, arrows: arrows.collect() }
    }
}

/// Merging cells, each followed by ReLU, a 3x3 convolution and a norm. The sides of images must be multiples of the
/// coarsest stride.
#[derive(Debug)]
pub struct NasFpn {
    inputs: Inputs,
    config: NasFpnConfig,
    taken_up: Vec<Vec<usize>>,
    laterals: Vec<ConvNorm>,
    /// The convolution of each cell of each repetition.
    convs: Vec<Vec<ConvNorm>>,
}

impl NasFpn {
    pub(super) fn new(vb: &VarBuilder, config: &NasFpnConfig, inputs: Inputs) -> Self {
        let c = config.channels;
        let layer = |vb: &VarBuilder, c_in, ksize| {
            conv_bn(vb, (c_in, c), ksize, ConvConfig::default(), config.bn, Activation::Identity)
        };
        let lateral = |(i, c_in)| layer(&vb.sub("laterals").sub(i), c_in, 1);
        let stack = |i| {
            let vb = vb.sub("stacks").sub(i);
            (0..config.cells.len()).map(|cell| layer(&vb.sub(cell), c, 3)).collect()
        };
        Self {
            laterals: inputs.channels().enumerate().map(lateral).collect(),
            convs: (0..config.stacks).map(stack).collect(),
            taken_up: config.taken_up(),
            config: config.clone(),
            inputs,
        }
    }

    fn run_stack(&self, maps: Vec<Tensor>, convs: &[ConvNorm], mode: Mode) -> Vec<Tensor> {
        let levels = self.config.levels;
        let sizes: Vec<(i64, i64)> = maps.iter().map(size_of).collect();
        let mut pool: Vec<(u32, Tensor)> = levels.iter().zip(maps).collect();
        for ((cell, conv), extra) in self.config.cells.iter().zip(convs).zip(&self.taken_up) {
            let size = sizes[(cell.level - levels.min) as usize];
            let input = |k: usize| {
                let (level, xs) = &pool[cell.inputs[k]];
                resample(xs, *level, cell.level, size)
            };
            let gate_is_second = match self.config.gate {
                Gate::Second => true,
                Gate::Coarse => pool[cell.inputs[1]].0 > pool[cell.inputs[0]].0,
            };
            let (gate, other) = if gate_is_second { (input(1), input(0)) } else { (input(0), input(1)) };
            let merged = match cell.op {
                MergeOp::Sum => gate + other,
                MergeOp::Attention => {
                    let pooled = match self.config.pool {
                        GatePool::Max => gate.amax([2i64, 3], true),
                        GatePool::Avg => gate.mean_dim([2i64, 3].as_slice(), true, gate.kind()),
                    };
                    gate + other * pooled.sigmoid()
                }
            };
            let merged = extra.iter().fold(merged, |sum, node| sum + &pool[*node].1);
            pool.push((cell.level, conv.forward(&relu(&merged), mode)));
        }
        let outputs = pool.split_off(pool.len() - levels.count());
        let output = |level| {
            let (_, xs) = outputs.iter().find(|(of, _)| *of == level).expect("checked by the config");
            xs.shallow_clone()
        };
        levels.iter().map(output).collect()
    }
}

/// A map of level `from` at level `to`, whose size is given: max pooling down, nearest neighbour up.
fn resample(xs: &Tensor, from: u32, to: u32, size: (i64, i64)) -> Tensor {
    match from.cmp(&to) {
        std::cmp::Ordering::Less => {
            let step = [1i64 << (to - from); 2];
            xs.max_pool2d(step, step, [0, 0], [1, 1], true)
        }
        std::cmp::Ordering::Equal => xs.shallow_clone(),
        std::cmp::Ordering::Greater => upsample(xs, size),
    }
}

impl Neck for NasFpn {
    fn forward(&self, features: &[Tensor], mode: Mode) -> Vec<Tensor> {
        let features = self.inputs.pick(features);
        let laterals = self.laterals.iter().zip(features);
        let mut maps: Vec<Tensor> = laterals.map(|(lateral, xs)| lateral.forward(xs, mode)).collect();
        for level in LAST_FEATURE..self.config.levels.max {
            let last = &maps[maps.len() - 1];
            let (h, w) = size_of(last);
            maps.push(resample(last, level, level + 1, (h / 2, w / 2)));
        }
        self.convs.iter().fold(maps, |maps, convs| self.run_stack(maps, convs, mode))
    }

    fn cost(&self, features: &[Shape], cost: &mut Cost) -> Vec<Shape> {
        let features = self.inputs.pick(features);
        let laterals = self.laterals.iter().zip(features);
        let mut maps: Vec<Shape> = laterals.map(|(lateral, xs)| lateral.cost(*xs, cost)).collect();
        for _ in LAST_FEATURE..self.config.levels.max {
            maps.push(super::halved(maps[maps.len() - 1]));
        }
        for convs in &self.convs {
            for (cell, conv) in self.config.cells.iter().zip(convs) {
                conv.cost(maps[(cell.level - self.config.levels.min) as usize], cost);
            }
        }
        maps
    }

    fn norms(&self) -> Vec<&BatchNorm> {
        self.laterals.iter().chain(self.convs.iter().flatten()).filter_map(ConvNorm::batch_norm).collect()
    }
}
