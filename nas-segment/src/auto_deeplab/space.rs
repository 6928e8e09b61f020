//! Auto-DeepLab's two-level search space: the trellis of strides and the cell (arXiv 1901.02985, section 3).

use nas_core::nn::VarBuilder;
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::Architecture;
use nas_core::space::{
    ArchParameter, Backbone, Choice, ChoiceSpace, InvalidArchitecture, SearchSpace, Supernet, WeightSharing,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::decode::{Betas, DecodedPath, LEVELS, decode_cell, first_edge, target, viterbi};
use super::genotype::{Edge, Genotype, OPS};
use super::network::{AutoDeepLabConfig, Network};
use super::supernet::Trellis;

/// Sizes of the space. The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AutoDeepLabSpace {
    /// Layers of the trellis.
    pub layers: usize,
    /// Blocks of a cell.
    pub blocks: usize,
    /// Filter multiplier F: a tensor inside a cell at stride `s` has `F * s / 4` channels.
    pub filters: i64,
    /// Channels of the three convolutions of the stem. The paper does not state them for the search.
    pub stem: [i64; 3],
    /// The up to three cells that end in a node (one for each stride they come from) share their operators' weights. The
    /// paper does not say which.
    pub share_cell_weights: bool,
}

impl Default for AutoDeepLabSpace {
    fn default() -> Self {
        Self { layers: 12, blocks: 5, filters: 8, stem: [64, 64, 128], share_cell_weights: true }
    }
}

impl AutoDeepLabSpace {
    /// Says which size is none.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { layers, blocks, filters, stem, .. } = self;
        anyhow::ensure!((1..=64).contains(layers), "space.layers = {layers}; expected 1 to 64");
        anyhow::ensure!((1..=16).contains(blocks), "space.blocks = {blocks}; expected 1 to 16");
        anyhow::ensure!((1..=4096).contains(filters), "space.filters = {filters}; expected 1 to 4096");
        anyhow::ensure!(
            stem.iter().all(|c| (1..=4096).contains(c)),
            "space.stem = {stem:?}; expected 1 to 4096 channels"
        );
        Ok(())
    }

    /// Edges of a cell.
    pub fn num_edges(&self) -> usize {
        first_edge(self.blocks)
    }

    /// Names of the decisions and of their choices.
    pub fn names(&self) -> Vec<Decision> {
        let strides = |layer| Decision::new(format!("layer {layer} stride"), (0..LEVELS).map(|level| 4 << level));
        let state = |state| match state {
            0 => "H[l-1]".to_string(),
            1 => "H[l-2]".to_string(),
            _ => format!("block {}", state - 2),
        };
        let of_block = |block| {
            let input = move |which| {
                let states = Decision::new(format!("block {block} {which} state"), (0..2 + block).map(state));
                [states, Decision::new(format!("block {block} {which} operator"), OPS)]
            };
            ["first", "second"].into_iter().flat_map(input)
        };
        (0..self.layers).map(strides).chain((0..self.blocks).flat_map(of_block)).collect()
    }

    /// The architecture in the paper's terms.
    pub fn genotype(&self, arch: &Architecture) -> Result<Genotype, InvalidArchitecture> {
        let invalid = |reason| self.invalid(arch, reason);
        let genotype = Genotype::from_architecture(arch, self.layers).map_err(invalid)?;
        match genotype.cell.len() == self.blocks {
            true => Ok(genotype),
            false => Err(invalid(format!("{} blocks, expected {}", genotype.cell.len(), self.blocks))),
        }
    }

    /// The path that weights of alpha and beta speak for, and how clearly.
    pub fn decode_path(&self, weights: &[Tensor]) -> DecodedPath {
        let [_, beta] = weights else { panic!("alpha and beta") };
        let probability = |layer, level, step| beta.double_value(&[layer, level as i64, step as i64]);
        let betas: Betas = (0..self.layers as i64)
            .map(|layer| std::array::from_fn(|level| std::array::from_fn(|step| probability(layer, level, step))))
            .collect();
        viterbi(&betas)
    }

    /// A path drawn uniformly: each step is taken with the share of the remaining paths that it leads to.
    fn sample_path(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut counts = vec![[1.0f64; LEVELS]];
        for _ in 1..self.layers {
            let next = counts.last().expect("never empty");
            let through = |level| (0..3).filter_map(|step| target(level, step)).map(|to| next[to]).sum();
            counts.push(std::array::from_fn(through));
        }
        let mut level = 0;
        let step = |next: [f64; LEVELS]| {
            let choices: Vec<usize> = (0..3).filter_map(|step| target(level, step)).collect();
            let total: f64 = choices.iter().map(|to| next[*to]).sum();
            let mut point = rng.random::<f64>() * total;
            let taken = choices.iter().find(|to| {
                point -= next[**to];
                point < 0.0
            });
            level = *taken.unwrap_or(&choices[choices.len() - 1]);
            level
        };
        counts.into_iter().rev().map(step).collect()
    }

    fn sample_block(&self, block: usize, rng: &mut ChaCha8Rng) -> [Edge; 2] {
        let states = rand::seq::index::sample(rng, 2 + block, 2).into_vec();
        let mut edges = [states[0], states[1]].map(|state| Edge { state, op: OPS[rng.random_range(1..OPS.len())] });
        edges.sort_by_key(|edge| edge.state);
        edges
    }

    fn valid_levels(path: &[usize], layer: usize) -> Vec<usize> {
        let before = if layer == 0 { 0 } else { path[layer - 1] };
        let after = path.get(layer + 1);
        let fits = |level: &usize| level.abs_diff(before) <= 1 && after.is_none_or(|after| level.abs_diff(*after) <= 1);
        (0..LEVELS).filter(fits).filter(|level| *level != path[layer]).collect()
    }
}

impl ChoiceSpace for AutoDeepLabSpace {
    fn name(&self) -> &str {
        "auto_deeplab"
    }

    fn decisions(&self) -> Vec<u16> {
        let cell = (0..self.blocks).flat_map(|block| [2 + block as u16, OPS.len() as u16].repeat(2));
        std::iter::repeat_n(LEVELS as u16, self.layers).chain(cell).collect()
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture {
        let path = self.sample_path(rng);
        let cell = (0..self.blocks).map(|block| self.sample_block(block, rng)).collect();
        Genotype { path, cell }.to_architecture()
    }

    /// One layer moves to another level, or one input of a block changes its operator or its state.
    fn mutate(&self, parent: &Architecture, rng: &mut ChaCha8Rng) -> Architecture {
        let mut genotype = self.genotype(parent).expect("the parent is of this space");
        loop {
            let gene = rng.random_range(0..self.layers + 4 * self.blocks);
            if gene < self.layers {
                let levels = Self::valid_levels(&genotype.path, gene);
                if levels.is_empty() {
                    continue;
                }
                genotype.path[gene] = levels[rng.random_range(0..levels.len())];
            } else {
                let (block, input, is_op) = ((gene - self.layers) / 4, gene % 2, (gene - self.layers) % 4 < 2);
                let inputs = &mut genotype.cell[block];
                if is_op {
                    inputs[input].op = OPS[rng.random_range(1..OPS.len())];
                } else {
                    inputs[input].state = rng.random_range(0..2 + block);
                }
                if inputs[0].state == inputs[1].state {
                    genotype = self.genotype(parent).expect("the parent is of this space");
                    continue;
                }
                inputs.sort_by_key(|edge| edge.state);
            }
            let child = genotype.to_architecture();
            if child != *parent {
                return child;
            }
        }
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        self.genotype(arch).map(|_| ())
    }
}

impl SearchSpace for AutoDeepLabSpace {
    fn build(&self, vb: &VarBuilder, arch: &Architecture) -> Result<Box<dyn Backbone>, InvalidArchitecture> {
        let genotype = self.genotype(arch)?;
        let config = AutoDeepLabConfig { filters: self.filters, stem: self.stem, ..AutoDeepLabConfig::default() };
        Ok(Box::new(Network::new(vb, &genotype, &config)))
    }
}

impl WeightSharing for AutoDeepLabSpace {
    fn supernet(&self, vb: &VarBuilder) -> Box<dyn Supernet> {
        Box::new(Trellis::new(vb, self))
    }

    /// `alpha [edges, 8]` and `beta [layers, 4, 3]` (layer, source level, step to finer, same, coarser): two edges leave the
    /// finest and the coarsest level, where both sum to 1 (not to 2/3, as in a re-implementation), three the others.
    fn arch_parameters(&self) -> Vec<ArchParameter> {
        let steps = (0..LEVELS).flat_map(|level| (0..3).map(move |step| target(level, step).is_some()));
        let beta = ArchParameter::new("beta", &[self.layers as i64, LEVELS as i64, 3], Choice::Connection);
        vec![
            ArchParameter::new("alpha", &[self.num_edges() as i64, OPS.len() as i64], Choice::Operator),
            ArchParameter { exists: steps.collect::<Vec<_>>().repeat(self.layers), ..beta },
        ]
    }

    /// By how much the path is more probable than at untrained parameters, and than the second one, as natural logarithms.
    fn evidence(&self, weights: &[Tensor]) -> Vec<(&'static str, f64)> {
        let path = self.decode_path(weights);
        vec![("path_over_uniform", path.over_uniform), ("path_over_second", path.over_second)]
    }

    fn discretize(&self, weights: &[Tensor]) -> Architecture {
        let [alpha, _] = weights else { panic!("alpha and beta") };
        let alphas: Vec<[f64; 8]> = (0..self.num_edges() as i64)
            .map(|edge| std::array::from_fn(|op| alpha.double_value(&[edge, op as i64])))
            .collect();
        Genotype { path: self.decode_path(weights).levels, cell: decode_cell(&alphas, self.blocks) }.to_architecture()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn samples_are_valid_and_paths_uniform() {
        let space = AutoDeepLabSpace { layers: 3, blocks: 2, ..Default::default() };
        let mut rng = nas_datasets::rng::stream(0, "sample", 0);
        let mut counts: HashMap<Vec<usize>, usize> = HashMap::new();
        for _ in 0..13_000 {
            let arch = space.sample(&mut rng);
            space.validate(&arch).unwrap();
            *counts.entry(space.genotype(&arch).unwrap().path).or_default() += 1;
        }
        // 13 paths over 3 layers; 1000 each, five standard deviations are 152.
        assert_eq!(counts.len(), 13);
        assert!(counts.values().all(|count| count.abs_diff(1000) < 152), "{counts:?}");
    }

    #[test]
    fn mutants_are_valid_and_differ_in_one_gene() {
        let space = AutoDeepLabSpace::default();
        let mut rng = nas_datasets::rng::stream(0, "mutate", 0);
        let mut parent = Genotype::published().to_architecture();
        for _ in 0..500 {
            let child = space.mutate(&parent, &mut rng);
            space.validate(&child).unwrap();
            let (a, b) = (space.genotype(&parent).unwrap(), space.genotype(&child).unwrap());
            let levels = a.path.iter().zip(&b.path).filter(|(a, b)| a != b).count();
            let inputs = |a: &[Edge; 2], b: &[Edge; 2]| b.iter().filter(|edge| !a.contains(edge)).count();
            let changed: usize = a.cell.iter().zip(&b.cell).map(|(a, b)| inputs(a, b)).sum();
            assert_eq!(levels + changed, 1, "{parent} -> {child}");
            parent = child;
        }
    }
}
