//! Network morphisms: a larger network that computes the same function as its trained parent, so that a candidate of a
//! search starts from its parent's weights (Net2Net, Chen et al. 2015; Wei et al. 2016; EAS, Cai et al. 2017; NASH,
//! Elsken et al. 2017).
//!
//! A [`Morphism`] changes a [`ConvNet`]; [`morph`] carries the tensors of a [`Trained`] network along, those of the
//! optimizer too. [`children`] is one step of NASH's hill climbing, without the training.
//!
//! What is the same afterwards, up to rounding: the function in evaluation, always. In training, where batch norms use
//! the batch's statistics: always, but for [`Morphism::Deepen`], whose new norm undoes its normalisation exactly only on
//! the batch it was fitted to (see [`Morphing::batch`]), and lets less of the gradient through.

mod carry;
mod conv_net;
mod space;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use carry::{Morphing, Trained, morph};
pub use conv_net::{Block, ConvNet, ConvNetwork, InvalidConvNet};
pub use space::{Child, MorphismSpace, children};

/// One change of a [`ConvNet`] that its function survives. Blocks are numbered from 1; 0 is the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Morphism {
    /// Net2Wider: random units are replicated, and the weights that read a unit are divided among its replicas. Blocks
    /// that additions bind together widen together, by the same replicas.
    Widen {
        /// The block.
        block: usize,
        /// Its channels afterwards.
        width: i64,
    },
    /// Net2Deeper: an identity convolution with a batch norm that undoes its own normalisation.
    Deepen {
        /// The block that the new one follows.
        after: usize,
        /// Side of the new kernel.
        ksize: i64,
    },
    /// A residual connection whose gate starts at 0. The usual zero scale of the branch's last norm would not do here: the
    /// branch ends with a ReLU, whose derivative at 0 is 0, and would never learn; a gate's gradient is that of the sum
    /// times the skipped features. (NASH trains one weight for a convex combination.)
    AddSkip {
        /// The block whose output is added.
        from: usize,
        /// The block that adds it.
        to: usize,
    },
    /// A kernel of side `k` becomes one of side `k + 2` with a border of zeros.
    GrowKernel {
        /// The block.
        block: usize,
    },
}

/// A morphism that cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MorphismError {
    /// The network does not admit it.
    #[error("cannot {morphism} in {net}: {reason}")]
    Illegal {
        /// What was asked for.
        morphism: Morphism,
        /// The parent's text form.
        net: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// The parent's tensors are not those of its description.
    #[error("tensor {name} of {net}: found {found}, expected {expected}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// The parent's text form.
        net: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// [`Morphing`] holds a value outside its range.
    #[error("{0}")]
    Setting(String),
}

impl Morphism {
    /// The network after the change; an error says which block does not admit it and why.
    pub fn apply(&self, net: &ConvNet) -> Result<ConvNet, MorphismError> {
        let illegal = |reason| MorphismError::Illegal { morphism: *self, net: net.to_string(), reason };
        self.blocks(net)
            .and_then(|blocks| ConvNet::new(net.c_in(), blocks, net.classes()).map_err(|invalid| invalid.reason))
            .map_err(illegal)
    }

    fn blocks(&self, net: &ConvNet) -> Result<Vec<Block>, String> {
        let check = |i: usize| match i {
            0 => Err(format!("block 0 is the image, whose {} channels the data fix; {}", net.c_in(), range(net))),
            i if i > net.len() => Err(format!("there is no block {i}; {}", range(net))),
            _ => Ok(()),
        };
        let mut blocks = net.blocks().to_vec();
        match *self {
            Morphism::Widen { block, width } => {
                check(block)?;
                let old = net.width(block);
                if width <= old {
                    return Err(format!("block {block} has {old} channels; expected a width above that"));
                }
                net.tied(block).into_iter().for_each(|i| blocks[i - 1].width = width);
            }
            Morphism::Deepen { after, ksize } => {
                check(after)?;
                for block in &mut blocks {
                    block.skip = block.skip.map(|from| after_insertion(after, from));
                }
                blocks.insert(after, Block { ksize, width: net.width(after), stride: 1, skip: None });
            }
            Morphism::AddSkip { from, to } => {
                check(from)?;
                check(to)?;
                if let Some(old) = blocks[to - 1].skip {
                    return Err(format!("block {to} adds block {old} already; expected a block without an addition"));
                }
                net.skip_fault(from, to).map_or(Ok(()), Err)?;
                blocks[to - 1].skip = Some(from);
            }
            Morphism::GrowKernel { block } => {
                check(block)?;
                blocks[block - 1].ksize += 2;
            }
        }
        Ok(blocks)
    }
}

fn range(net: &ConvNet) -> String {
    format!("expected 1 to {}", net.len())
}

/// Number of block `i` once a block is inserted after block `after`.
fn after_insertion(after: usize, i: usize) -> usize {
    if i > after { i + 1 } else { i }
}

impl fmt::Display for Morphism {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Morphism::Widen { block, width } => write!(f, "widen block {block} to {width} channels"),
            Morphism::Deepen { after, ksize } => write!(f, "insert a {ksize}x{ksize} block after block {after}"),
            Morphism::AddSkip { from, to } => write!(f, "add block {from} to block {to}"),
            Morphism::GrowKernel { block } => write!(f, "grow the kernel of block {block}"),
        }
    }
}
