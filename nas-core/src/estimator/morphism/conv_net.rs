//! The networks that morphisms act on: a chain of convolutions with residual connections.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::nn::Cost;
use crate::nn::{BatchNorm, BnConfig, Conv2d, ConvConfig, Init, Mode, Module, Shape, VarBuilder};

/// One convolution of a [`ConvNet`]: `relu(bn(conv(x)) + gate * skip)`, the gate one learned scalar per channel.
///
/// The sum is inside the ReLU, as in ResNet (He et al. 2016): every block's output is then non-negative, so that an
/// identity convolution with its own ReLU can follow any block without changing the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Side of the kernel, odd.
    pub ksize: i64,
    /// Output channels.
    pub width: i64,
    /// 2 in the first block of every stage but the first.
    pub stride: i64,
    /// Block whose output is added.
    pub skip: Option<usize>,
}

/// A classifier: blocks, global average pooling, a linear layer. Blocks are numbered from 1, the stem; 0 is the image.
///
/// The text form is `3|3x16-5x16+1|3x32|10`: input channels, the stages with their blocks (`kernel x width`, `+` the
/// block that is added), classes. A stage starts with a stride of 2, except the first.
///
/// ```
/// use nas_core::estimator::morphism::ConvNet;
/// let net: ConvNet = "3|3x16-5x16+1|3x32|10".parse().unwrap();
/// assert_eq!((net.len(), net.block(2).unwrap().skip), (3, Some(1)));
/// assert_eq!(net.to_string(), "3|3x16-5x16+1|3x32|10");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ConvNet {
    c_in: i64,
    classes: i64,
    blocks: Vec<Block>,
}

/// Blocks that no [`ConvNet`] can have, or a text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{net:?} is no network of convolutions: {reason}")]
pub struct InvalidConvNet {
    /// The network's text form.
    pub net: String,
    /// What was found and what was expected.
    pub reason: String,
}

/// A tensor of a network and what its axes run over.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spec {
    pub name: String,
    pub dims: Vec<i64>,
    /// Block whose output channels are axis 0.
    pub rows: Option<usize>,
    /// Block whose output channels are axis 1.
    pub cols: Option<usize>,
    pub trained: bool,
}

impl ConvNet {
    /// Largest width, kernel and number of blocks, a guard against slips in configs.
    const MAX: (i64, i64, usize) = (1 << 16, 31, 1000);

    /// A network from its input channels, blocks (the stem first) and classes.
    pub fn new(c_in: i64, blocks: Vec<Block>, classes: i64) -> Result<Self, InvalidConvNet> {
        let net = Self { c_in, classes, blocks };
        match net.fault() {
            Some(reason) => Err(InvalidConvNet { net: net.to_string(), reason }),
            None => Ok(net),
        }
    }

    fn fault(&self) -> Option<String> {
        let (max_width, max_ksize, max_blocks) = Self::MAX;
        let counts = [("input channels", self.c_in), ("classes", self.classes)];
        if let Some((name, n)) = counts.into_iter().find(|(_, n)| !(1..=max_width).contains(n)) {
            return Some(format!("{n} {name}; expected 1 to {max_width}"));
        }
        if !(1..=max_blocks).contains(&self.len()) {
            return Some(format!("{} blocks; expected 1 to {max_blocks}", self.len()));
        }
        (1..=self.len()).find_map(|i| {
            let Block { ksize, width, stride, skip } = self.blocks[i - 1];
            if !(1..=max_ksize).contains(&ksize) || ksize % 2 == 0 {
                return Some(format!("block {i} has a kernel of side {ksize}; expected an odd side up to {max_ksize}"));
            }
            if !(1..=max_width).contains(&width) {
                return Some(format!("block {i} has {width} channels; expected 1 to {max_width}"));
            }
            if !(1..=2).contains(&stride) || (i == 1 && stride != 1) {
                let expected = if i == 1 { "1 in the stem" } else { "1 or 2" };
                return Some(format!("block {i} has stride {stride}; expected {expected}"));
            }
            self.skip_fault(skip?, i)
        })
    }

    /// Why the output of block `from` cannot be added in block `to`, if so; `to` exists.
    pub(super) fn skip_fault(&self, from: usize, to: usize) -> Option<String> {
        if from == 0 || from >= to {
            return Some(format!("block {to} adds block {from}; expected one of the blocks before it, from 1 on"));
        }
        if let Some(strided) = (from + 1..=to).find(|i| self.blocks[i - 1].stride != 1) {
            return Some(format!(
                "block {to} adds block {from} across the stride of block {strided}; expected blocks of one stage"
            ));
        }
        let (a, b) = (self.width(from), self.width(to));
        let differ =
            || format!("block {from} has {a} channels, block {to} that adds it has {b}; expected equal widths");
        (a != b).then(differ)
    }

    /// Number of blocks, the stem included.
    #[expect(clippy::len_without_is_empty, reason = "a network has a stem")]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Block `i`, from 1.
    pub fn block(&self, i: usize) -> Option<&Block> {
        self.blocks.get(i.checked_sub(1)?)
    }

    /// All blocks, the stem first.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Channels of the image.
    pub fn c_in(&self) -> i64 {
        self.c_in
    }

    /// Outputs of the linear layer.
    pub fn classes(&self) -> i64 {
        self.classes
    }

    /// Output channels of block `i`; those of the image for 0.
    pub(super) fn width(&self, i: usize) -> i64 {
        if i == 0 { self.c_in } else { self.blocks[i - 1].width }
    }

    /// The blocks that additions bind to the width of block `i`, itself among them, in order.
    pub(super) fn tied(&self, i: usize) -> BTreeSet<usize> {
        let mut tied = BTreeSet::from([i]);
        loop {
            let edges = (1..=self.len()).filter_map(|to| Some((self.blocks[to - 1].skip?, to)));
            let grown: Vec<usize> = edges
                .filter(|(from, to)| tied.contains(from) != tied.contains(to))
                .flat_map(|(from, to)| [from, to])
                .collect();
            if grown.is_empty() {
                return tied;
            }
            tied.extend(grown);
        }
    }

    /// All tensors of the network, trained or not.
    pub(super) fn specs(&self) -> Vec<Spec> {
        let spec = |name: String, dims: Vec<i64>, rows, cols, trained| Spec { name, dims, rows, cols, trained };
        let mut specs = Vec::new();
        for (i, block) in (1..).zip(&self.blocks) {
            let (c, k) = (block.width, block.ksize);
            let vector = |name: &str, trained| spec(block_tensor(i, name), vec![c], Some(i), None, trained);
            let dims = vec![c, self.width(i - 1), k, k];
            specs.push(spec(block_tensor(i, "conv.weight"), dims, Some(i), (i > 1).then(|| i - 1), true));
            specs.extend(["bn.weight", "bn.bias"].map(|name| vector(name, true)));
            specs.extend(["bn.running_mean", "bn.running_var"].map(|name| vector(name, false)));
            specs.extend(block.skip.map(|_| vector("gate", true)));
        }
        let last = self.len();
        specs.push(spec("classifier.weight".into(), vec![self.classes, self.width(last)], None, Some(last), true));
        specs.push(spec("classifier.bias".into(), vec![self.classes], None, None, true));
        specs
    }

    /// The network with its weights under `vb`: convolutions at `blocks.1.conv`, norms at `blocks.1.bn`, gates at
    /// `blocks.1.gate`, the linear layer at `classifier`. Gates start at 1, a plain residual connection.
    pub fn build(&self, vb: &VarBuilder) -> ConvNetwork {
        let blocks = (1..).zip(&self.blocks).map(|(i, &Block { ksize, width, stride, skip })| {
            let vb = vb.sub("blocks").sub(i);
            Layer {
                conv: Conv2d::new(
                    &vb.sub("conv"),
                    self.width(i - 1),
                    width,
                    ksize,
                    ConvConfig { stride, init: Init::KaimingFanOut, ..Default::default() },
                ),
                bn: BatchNorm::new(&vb.sub("bn"), width, BnConfig::default()),
                skip: skip.map(|from| (from, vb.weight("gate", &[width], Init::Const(1.0)))),
            }
        });
        let (vb, c) = (vb.sub("classifier"), self.width(self.len()));
        ConvNetwork {
            blocks: blocks.collect(),
            weight: vb.weight("weight", &[self.classes, c], Init::FanIn),
            bias: vb.weight("bias", &[self.classes], Init::Const(0.0)),
            dims: (c, self.classes),
        }
    }

    /// Cost on images of `input`; an error if their channels are not the network's.
    pub fn cost(&self, input: Shape) -> Result<Cost, InvalidConvNet> {
        if input.c != self.c_in {
            let reason = format!("the images have {} channels; expected {}", input.c, self.c_in);
            return Err(InvalidConvNet { net: self.to_string(), reason });
        }
        let mut cost = Cost::default();
        self.build(&VarBuilder::dry()).cost(input, &mut cost);
        Ok(cost)
    }
}

/// Name of a tensor of block `i`.
pub(super) fn block_tensor(i: usize, name: &str) -> String {
    format!("blocks.{i}.{name}")
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}", self.ksize, self.width)?;
        self.skip.map_or(Ok(()), |from| write!(f, "+{from}"))
    }
}

impl fmt::Display for ConvNet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.c_in)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let mark = if i == 0 || block.stride != 1 { '|' } else { '-' };
            write!(f, "{mark}{block}")?;
        }
        write!(f, "|{}", self.classes)
    }
}

fn parse_block(text: &str, stride: i64) -> Option<Block> {
    let (conv, skip) = match text.split_once('+') {
        Some((conv, skip)) => (conv, Some(skip.parse().ok()?)),
        None => (text, None),
    };
    let (ksize, width) = conv.split_once('x')?;
    Some(Block { ksize: ksize.parse().ok()?, width: width.parse().ok()?, stride, skip })
}

impl FromStr for ConvNet {
    type Err = InvalidConvNet;

    fn from_str(text: &str) -> Result<Self, InvalidConvNet> {
        let fault = |reason| InvalidConvNet { net: text.to_string(), reason };
        let parts: Vec<&str> = text.split('|').collect();
        let [c_in, stages @ .., classes] = parts.as_slice() else {
            return Err(fault("no stages; expected channels|stage|...|classes, such as 3|3x16-3x16+1|3x32|10".into()));
        };
        let number = |part: &str| {
            part.parse().map_err(|_| fault(format!("{part:?} is no number; expected channels first, classes last")))
        };
        let mut blocks = Vec::new();
        for (s, stage) in stages.iter().enumerate() {
            for (b, part) in stage.split('-').enumerate() {
                let stride = if s > 0 && b == 0 { 2 } else { 1 };
                let unreadable = || format!("{part:?} is no block; expected kernel x width, such as 3x16 or 3x16+1");
                blocks.push(parse_block(part, stride).ok_or_else(|| fault(unreadable()))?);
            }
        }
        Self::new(number(c_in)?, blocks, number(classes)?)
    }
}

impl TryFrom<String> for ConvNet {
    type Error = InvalidConvNet;

    fn try_from(text: String) -> Result<Self, InvalidConvNet> {
        text.parse()
    }
}

impl From<ConvNet> for String {
    fn from(net: ConvNet) -> String {
        net.to_string()
    }
}

#[derive(Debug)]
struct Layer {
    conv: Conv2d,
    bn: BatchNorm,
    skip: Option<(usize, Tensor)>,
}

/// A built [`ConvNet`]: logits `[B, classes]` of images `[B, C, H, W]`.
#[derive(Debug)]
pub struct ConvNetwork {
    blocks: Vec<Layer>,
    weight: Tensor,
    bias: Tensor,
    dims: (i64, i64),
}

impl ConvNetwork {
    /// Outputs of the image (itself) and of the first `count` blocks.
    pub(super) fn outputs(&self, xs: &Tensor, mode: Mode, count: usize) -> Vec<Tensor> {
        let mut outputs = vec![xs.shallow_clone()];
        for Layer { conv, bn, skip } in &self.blocks[..count] {
            let ys = bn.forward(&conv.forward(&outputs[outputs.len() - 1], mode), mode);
            let ys = match skip {
                Some((from, gate)) => ys + &outputs[*from] * gate.view([1, -1, 1, 1]),
                None => ys,
            };
            outputs.push(ys.relu());
        }
        outputs
    }

    /// The batch norms, in order.
    pub fn norms(&self) -> Vec<&BatchNorm> {
        self.blocks.iter().map(|layer| &layer.bn).collect()
    }
}

impl Module for ConvNetwork {
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        let outputs = self.outputs(xs, mode, self.blocks.len());
        let features = outputs[self.blocks.len()].mean_dim([2i64, 3].as_slice(), false, None);
        features.linear(&self.weight, Some(&self.bias))
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        let (c, classes) = self.dims;
        self.blocks.iter().fold(xs, |xs, Layer { conv, bn, skip }| {
            let ys = conv.cost(xs, cost);
            cost.params += if skip.is_some() { ys.c as u64 } else { 0 };
            bn.cost(ys, cost)
        });
        cost.params += (c * classes + classes) as u64;
        cost.macs += (c * classes) as u64;
        Shape::new(classes, 1, 1)
    }
}
