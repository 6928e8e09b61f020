//! Networks in integers of 8 bits after training (Jacob et al., arXiv 1712.05877; Krishnamoorthi, arXiv 1806.08342): weights of convolutions and
//! linear layers symmetric by output channel, what goes into them and what comes out of them with one scale and zero point each.
//!
//! The file says it by pairs of QuantizeLinear and DequantizeLinear around these values ("QDQ"), between which operators stand as
//! they were. A runtime that computes in integers joins `Dequantize, Conv, Quantize` into one operator, as onnxruntime does; every
//! other one rounds the values and computes in floats.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::fold::{Readers, drop_unused};
use super::interpreter::from_proto;
use super::proto::{GraphProto, NodeProto};
use super::{INPUT, convert::int, tensor_proto};

/// The least scale. Products of two of them are no denormal numbers, and weights that round to zero by it (channels that died in
/// training) are next to nothing.
const LEAST_SCALE: f32 = 1.0 / (1u64 << 60) as f32;

/// The largest bias in steps: half of what its 32 bits hold, so that sums of products have the other half.
const MOST_BIAS_STEPS: f64 = (1 << 30) as f64;

/// How values of one range are written as bytes: `value = scale * (byte - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// A step.
    pub scale: f32,
    /// The byte of 0.
    pub zero_point: u8,
}

impl Affine {
    /// For values of `low` to `high`. Zero, which pads images and which ReLU gives, is always among them and exact.
    pub fn of((low, high): (f32, f32)) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = match (high - low) / 255.0 {
            0.0 => 1.0,
            scale => scale.max(LEAST_SCALE),
        };
        Self { scale, zero_point: (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8 }
    }
}

/// Bits that weights use of their byte. Processors of x86 without VNNI add two products of a byte without and one with a sign in 16
/// bits: sums of weights of 8 bits may not fit there, those of 7 always do (2 * 255 * 63 < 2^15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightBits {
    /// -63 to 63.
    Seven,
    /// -127 to 127.
    Eight,
}

impl WeightBits {
    /// The largest number.
    fn largest(self) -> f32 {
        match self {
            Self::Seven => 63.0,
            Self::Eight => 127.0,
        }
    }
}

/// Weights as signed bytes, zero at 0.
#[derive(Debug)]
pub struct Channels {
    /// In the shape of the weights.
    pub bytes: Tensor,
    /// A step of every output channel, the first dimension.
    pub scales: Vec<f32>,
}

impl Channels {
    /// Weights `[C, ...]` whose scales are `least` or more, one by channel.
    pub fn of(weights: &Tensor, least: &[f32], bits: WeightBits) -> Result<Self> {
        let most = bits.largest();
        let channels = weights.size()[0];
        let largest = Vec::<f32>::try_from(weights.f_reshape([channels, -1])?.f_abs()?.f_amax([1i64], false)?)?;
        let scale = |(largest, least): (&f32, &f32)| match (largest / most).max(*least) {
            0.0 => 1.0,
            scale => scale.max(LEAST_SCALE),
        };
        let scales: Vec<f32> = largest.iter().zip(least).map(scale).collect();
        let mut shape = vec![1; weights.dim()];
        shape[0] = -1;
        let steps = weights.f_div(&Tensor::from_slice(&scales).f_reshape(shape)?)?.f_round()?;
        Ok(Self { bytes: steps.f_clamp(f64::from(-most), f64::from(most))?.to_kind(Kind::Int8), scales })
    }
}

/// Least scales of the weights of channels with these biases, so that the biases have at most [`MOST_BIAS_STEPS`] steps.
fn least_scales(bias: &[f32], input: Affine) -> Vec<f32> {
    let least = |bias: &f32| (f64::from(bias.abs()) / (f64::from(input.scale) * MOST_BIAS_STEPS)) as f32;
    bias.iter().map(least).collect()
}

/// Biases in steps of the accumulator, which are the input's times the weights'.
pub fn bias_steps(bias: &[f32], scales: &[f32]) -> Vec<i32> {
    let step = |(bias, scale): (&f32, &f32)| (f64::from(*bias) / f64::from(*scale)).round_ties_even() as i32;
    bias.iter().zip(scales).map(step).collect()
}

/// Least and largest value by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranges(BTreeMap<String, (f32, f32)>);

impl Ranges {
    /// Ranges, to be widened, of the values of `graph` that [`quantize`] asks for.
    pub fn asked_for(graph: &GraphProto) -> Self {
        let values = rounded_values(graph).into_iter();
        Self(values.map(|name| (name, (f32::INFINITY, f32::NEG_INFINITY))).collect())
    }

    /// Widens the range of a value, if it is asked for, by what it is for some images.
    pub fn see(&mut self, name: &str, value: &Tensor) {
        if let Some((low, high)) = self.0.get_mut(name) {
            *low = low.min(value.min().double_value(&[]) as f32);
            *high = high.max(value.max().double_value(&[]) as f32);
        }
    }

    fn of(&self, name: &str) -> Result<(f32, f32)> {
        let (low, high) = *self.0.get(name).with_context(|| format!("value {name} has no range"))?;
        ensure!(low.is_finite() && high.is_finite(), "value {name} is {low} to {high} for images of the calibration");
        Ok((low, high))
    }
}

/// Whether a node computes in integers: weights, and a bias where there is one, are the network's own.
fn is_rounded(node: &NodeProto, tensors: &HashSet<&str>) -> bool {
    matches!(node.op_type(), "Conv" | "Gemm") && node.input[1..].iter().all(|name| tensors.contains(name.as_str()))
}

/// What goes into and comes out of convolutions and linear layers; of a ReLU or a clip that follows at once, what comes out of it,
/// since a byte holds its bounds.
fn rounded_values(graph: &GraphProto) -> HashSet<String> {
    let readers = Readers::of(graph);
    let tensors: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let layers = graph.node.iter().filter(|node| is_rounded(node, &tensors));
    let values = layers.flat_map(|layer| {
        let output = &layer.output[0];
        let bounded = readers.only_one(output).filter(|reader| matches!(reader.op_type(), "Relu" | "Clip"));
        [&layer.input[0], bounded.map_or(output, |reader| &reader.output[0])]
    });
    values.cloned().collect()
}

/// The graph in integers of 8 bits by the ranges of its values ([`Ranges::asked_for`]). Batch norms should be
/// [folded](super::fold_batch_norms) before.
pub fn quantize(graph: &GraphProto, ranges: &Ranges, bits: WeightBits) -> Result<GraphProto> {
    let scales = rounded_values(graph).into_iter().map(|name| {
        let affine = Affine::of(ranges.of(&name)?);
        Ok((name, affine))
    });
    let tensors = graph.initializer.iter().map(|tensor| Ok((tensor.name(), from_proto(tensor)?)));
    let mut rewriter = Rewriter {
        scales: scales.collect::<Result<_>>()?,
        tensors: tensors.collect::<Result<_>>()?,
        weights: HashMap::new(),
        bits,
        graph: GraphProto { node: Vec::new(), ..graph.clone() },
    };
    let statics: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    if rewriter.scales.contains_key(INPUT) {
        rewriter.round(INPUT, INPUT, &dequantized(INPUT))?;
    }
    for node in &graph.node {
        let mut node = node.clone();
        if is_rounded(&node, &statics) {
            rewriter.layer(&mut node).with_context(|| format!("ONNX node {}", node.name()))?;
        }
        rewriter.push(node)?;
    }
    drop_unused(&mut rewriter.graph);
    Ok(rewriter.graph)
}

fn dequantized(name: &str) -> String {
    format!("{name}/dequantized")
}

/// The name of the bytes of a value.
pub fn bytes_of(name: &str) -> String {
    format!("{name}/int8")
}

struct Rewriter<'a> {
    /// How values become bytes, by their names.
    scales: HashMap<String, Affine>,
    tensors: HashMap<&'a str, Tensor>,
    /// Weights that are written already, by name and bits of their scales: some layers share them.
    weights: HashMap<(String, Vec<u32>), String>,
    bits: WeightBits,
    graph: GraphProto,
}

impl Rewriter<'_> {
    fn tensor(&mut self, name: String, tensor: &Tensor) -> Result<String> {
        self.graph.initializer.push(tensor_proto(&name, tensor)?);
        Ok(name)
    }

    fn emit(&mut self, op: &str, input: Vec<String>, axis: Option<i64>, output: &str) {
        let attribute = axis.into_iter().map(|axis| int("axis", axis)).collect();
        let name = Some(format!("{op}/{output}"));
        let output = vec![output.to_string()];
        self.graph.node.push(NodeProto { input, output, name, op_type: Some(op.into()), attribute });
    }

    /// Adds a node. Its rounded results come out under other names, and as they were called when they are rounded: so readers
    /// need not change.
    fn push(&mut self, mut node: NodeProto) -> Result<()> {
        let is_rounded = |name: &String| self.scales.contains_key(name);
        node.input
            .iter_mut()
            .filter(|name| *name == INPUT && is_rounded(name))
            .for_each(|name| *name = dequantized(name));
        let rounded: Vec<String> = node.output.iter().filter(|name| is_rounded(name)).cloned().collect();
        node.output.iter_mut().filter(|name| is_rounded(name)).for_each(|name| *name = format!("{name}/float"));
        self.graph.node.push(node);
        rounded.iter().try_for_each(|name| self.round(name, &format!("{name}/float"), name))
    }

    /// Rounds `from` as the value `name` is rounded, to `to`.
    fn round(&mut self, name: &str, from: &str, to: &str) -> Result<()> {
        let Affine { scale, zero_point } = self.scales[name];
        let scale = self.tensor(format!("{name}/scale"), &Tensor::from(scale))?;
        let zero = Tensor::from_slice(&[zero_point]).f_reshape([1i64; 0])?;
        let zero = self.tensor(format!("{name}/zero_point"), &zero)?;
        let bytes = bytes_of(name);
        self.emit("QuantizeLinear", vec![from.to_string(), scale.clone(), zero.clone()], None, &bytes);
        self.emit("DequantizeLinear", vec![bytes, scale, zero], None, to);
        Ok(())
    }

    /// Gives a layer its weights, and its bias where it has one, out of integers.
    fn layer(&mut self, node: &mut NodeProto) -> Result<()> {
        let input = self.scales[&node.input[0]];
        let weight = self.tensors[node.input[1].as_str()].shallow_clone();
        let bias = match node.input.get(2) {
            Some(name) => Vec::<f32>::try_from(&self.tensors[name.as_str()])?,
            None => vec![0.0; weight.size()[0] as usize],
        };
        let channels = Channels::of(&weight, &least_scales(&bias, input), self.bits)?;
        let accumulator: Vec<f32> = channels.scales.iter().map(|scale| scale * input.scale).collect();
        node.input[1] = self.weights(&node.input[1], &channels)?;
        if node.input.len() > 2 {
            let steps = Tensor::from_slice(&bias_steps(&bias, &accumulator));
            node.input[2] = self.integers(&format!("{}/bias", node.output[0]), &steps, &accumulator)?;
        }
        Ok(())
    }

    fn weights(&mut self, name: &str, channels: &Channels) -> Result<String> {
        let key = (name.to_string(), channels.scales.iter().map(|scale| scale.to_bits()).collect());
        if let Some(written) = self.weights.get(&key) {
            return Ok(written.clone());
        }
        let others = self.weights.keys().filter(|(other, _)| other == name).count();
        let unique = if others == 0 { name.to_string() } else { format!("{name}/{others}") };
        let written = self.integers(&unique, &channels.bytes, &channels.scales)?;
        self.weights.insert(key, written.clone());
        Ok(written)
    }

    /// Numbers out of `steps` of a scale by index of the first dimension, around 0.
    fn integers(&mut self, name: &str, steps: &Tensor, scales: &[f32]) -> Result<String> {
        let zeros = Tensor::zeros([scales.len() as i64], (steps.kind(), tch::Device::Cpu));
        let inputs = vec![
            self.tensor(format!("{name}/steps"), steps)?,
            self.tensor(format!("{name}/scale"), &Tensor::from_slice(scales))?,
            self.tensor(format!("{name}/zero_point"), &zeros)?,
        ];
        let output = dequantized(name);
        self.emit("DequantizeLinear", inputs, Some(0), &output);
        Ok(output)
    }
}

#[cfg(test)]
mod tests;
