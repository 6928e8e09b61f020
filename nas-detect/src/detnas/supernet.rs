//! The supernet: every operator of every block, with its own projection and its own norms. Chen et al. train it path-wise
//! (section 3.2); weighted sums of a block's operators are offered too.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use nas_core::arch::Architecture;
use nas_core::nn::{BatchNorm, Mode, Module, VarBuilder};
use nas_core::space::{FeatureInfo, InvalidArchitecture, Mixture, Supernet};
use tch::Tensor;
use tch::nn::VarStore;

use super::block::{Block, BlockOp};
use super::network::{run_stages, stage_info};
use super::space::{DetNasSpace, STAGES};
use crate::layers::ConvNorm;

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

/// Copies the weights and statistics of the path of `arch` out of a store with a supernet into one with the network of
/// `arch`. In both the backbone lies below `prefix` (`""`, or a path such as `backbone`); what lies beside it is copied by
/// name. An error names the first variable that has no counterpart of its shape.
pub fn inherit(supernet: &VarStore, arch: &Architecture, network: &VarStore, prefix: &str) -> Result<()> {
    let shared = supernet.variables();
    let blocks = if prefix.is_empty() { "blocks.".to_string() } else { format!("{prefix}.blocks.") };
    tch::no_grad(|| network.variables().into_iter().try_for_each(|(name, to)| copy(&shared, arch, &blocks, &name, to)))
}

fn copy(shared: &HashMap<String, Tensor>, arch: &Architecture, blocks: &str, name: &str, mut to: Tensor) -> Result<()> {
    let renamed = match name.strip_prefix(blocks).and_then(|rest| rest.split_once('.')) {
        Some((index, rest)) => {
            let op = index.parse::<usize>().ok().and_then(|index| arch.choices().get(index));
            let op = op.with_context(|| format!("{name}: architecture {arch} has no block {index}"))?;
            format!("{blocks}{index}.{op}.{rest}")
        }
        None => name.to_string(),
    };
    let from = shared.get(&renamed).with_context(|| format!("{name}: the supernet has no {renamed}"))?;
    let sizes = (to.size(), from.size());
    ensure!(sizes.0 == sizes.1, "{name}: shape {:?}, but {renamed} of the supernet has {:?}", sizes.0, sizes.1);
    to.copy_(from);
    Ok(())
}
