//! The supernet: every operator of every block, with its own projection and its own norms. Chen et al. train it path-wise
//! (section 3.2); weighted sums of a block's operators are offered too.

use std::collections::HashMap;

use nas_core::nn::{BatchNorm, ConvNorm, Mode, Module, VarBuilder};
use nas_core::space::Architecture;
use nas_core::space::{FeatureInfo, InvalidArchitecture, Mixture, Supernet};
use tch::Tensor;

use super::block::{Block, BlockOp};
use super::network::{run_stages, stage_info};
use super::space::{DetNasSpace, STAGES};

/// The supernet of a space. Features: the outputs of its four stages, strides 4, 8, 16 and 32.
#[derive(Debug)]
pub struct DetNasSupernet {
    space: DetNasSpace,
    stem: ConvNorm,
    blocks: Vec<[Block; BlockOp::ALL.len()]>,
    stage_ends: Vec<usize>,
    channels: [i64; STAGES],
}

impl DetNasSupernet {
    pub(super) fn new(vb: &VarBuilder, space: &DetNasSpace) -> Self {
        let candidates = |i: usize| {
            let vb = vb.sub("blocks").sub(i);
            std::array::from_fn(|op| space.block(&vb.sub(op), i, BlockOp::ALL[op]))
        };
        Self {
            stem: space.stem_layer(&vb.sub("stem")),
            blocks: (0..space.num_blocks()).map(candidates).collect(),
            stage_ends: space.stage_ends(),
            channels: space.channels(),
            space: space.clone(),
        }
    }

    /// The sums, by the rows of `weights`, of the outputs of the operators that count.
    fn mixed(&self, xs: Tensor, weights: &Tensor, counts: impl Fn(usize, usize) -> bool, mode: Mode) -> Vec<Tensor> {
        run_stages(xs, &self.stage_ends, |i, xs| {
            let weights = weights.get(i as i64);
            let candidates = self.blocks[i].iter().enumerate().filter(|(op, _)| counts(i, *op));
            let outputs = candidates.map(|(op, block)| block.forward(xs, mode) * weights.get(op as i64));
            outputs.reduce(|sum, ys| sum + ys).expect("an operator that counts")
        })
    }

    /// The batch norms that images pass on the path of `arch`: those to recalibrate before it is evaluated.
    pub fn norms(&self, arch: &Architecture) -> Result<Vec<&BatchNorm>, InvalidArchitecture> {
        let ops = self.space.ops(arch)?;
        let blocks = self.blocks.iter().zip(ops).flat_map(|(block, op)| block[op as usize].norms());
        Ok(self.stem.batch_norm().into_iter().chain(blocks).collect())
    }
}

impl Supernet for DetNasSupernet {
    /// An architecture of a [`Mixture::Path`] must be of the space.
    fn features(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Vec<Tensor> {
        let xs = self.stem.forward(xs, mode);
        match mixture {
            Mixture::Path(arch) => {
                let ops = self.space.ops(arch).expect("an architecture of the space");
                run_stages(xs, &self.stage_ends, |i, xs| self.blocks[i][ops[i] as usize].forward(xs, mode))
            }
            Mixture::Weights(weights) => self.mixed(xs, &weights[0], |_, _| true, mode),
            Mixture::Sampled { weights, active, .. } => {
                self.mixed(xs, &weights[0], |block, op| active[0][block * BlockOp::ALL.len() + op], mode)
            }
        }
    }

    fn feature_info(&self) -> Vec<FeatureInfo> {
        stage_info(self.channels)
    }
}

/// The weights and statistics of the path of `arch` out of those of a supernet, by the names of the network of `arch`. In
/// both the backbone lies below `prefix` (`""`, or a path such as `backbone`); what lies beside it keeps its name. An
/// architecture of another space gives a map in which variables of the network are missing.
pub fn path_weights(supernet: &HashMap<String, Tensor>, arch: &Architecture, prefix: &str) -> HashMap<String, Tensor> {
    let blocks = if prefix.is_empty() { "blocks.".to_string() } else { format!("{prefix}.blocks.") };
    let of_path = |(name, tensor): (&String, &Tensor)| {
        let Some(rest) = name.strip_prefix(&blocks) else { return Some((name.clone(), tensor.shallow_clone())) };
        let (index, rest) = rest.split_once('.')?;
        let (op, rest) = rest.split_once('.')?;
        let chosen = arch.choices().get(index.parse::<usize>().ok()?)?;
        (op.parse() == Ok(*chosen)).then(|| (format!("{blocks}{index}.{rest}"), tensor.shallow_clone()))
    };
    supernet.iter().filter_map(of_path).collect()
}
