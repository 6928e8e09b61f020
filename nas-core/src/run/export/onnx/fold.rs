//! Batch norms as part of the convolutions before them: `γ (W x + b - μ) / σ + β = (γ/σ W) x + (γ/σ (b - μ) + β)`, with the statistics
//! `μ`, `σ` of evaluation (Jacob et al., arXiv 1712.05877, section 3.2).

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::interpreter::from_proto;
use super::proto::{GraphProto, NodeProto, TensorProto};
use super::tensor_proto;

/// The graph with every batch norm that alone reads the result of a convolution in this convolution. Other norms stay.
pub fn fold_batch_norms(graph: &GraphProto) -> Result<GraphProto> {
    let readers = Readers::of(graph);
    let tensors: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
    let producers: HashMap<&str, usize> = graph
        .node
        .iter()
        .enumerate()
        .flat_map(|(i, node)| node.output.iter().map(move |name| (name.as_str(), i)))
        .collect();
    let mut folded = graph.clone();
    let mut norms = HashSet::new();
    for (i, norm) in graph.node.iter().enumerate().filter(|(_, node)| node.op_type() == "BatchNormalization") {
        let Some(conv) = producers
            .get(norm.input[0].as_str())
            .copied()
            .filter(|conv| graph.node[*conv].op_type() == "Conv" && readers.only_one(&norm.input[0]).is_some())
        else {
            continue;
        };
        let statics = graph.node[conv].input[1..].iter().chain(&norm.input[1..]).map(|name| tensors.get(name.as_str()));
        let Some(statics) = statics.collect::<Option<Vec<_>>>() else { continue };
        let statics = statics.into_iter().map(|tensor| from_proto(tensor)).collect::<Result<Vec<Tensor>>>()?;
        let (weight, bias) = joined(norm, &statics).with_context(|| format!("ONNX node {}", norm.name()))?;
        let named = ["weight", "bias"].map(|what| format!("{}/{what}", norm.output[0]));
        folded.initializer.extend([tensor_proto(&named[0], &weight)?, tensor_proto(&named[1], &bias)?]);
        let node = &mut folded.node[conv];
        node.input = [vec![node.input[0].clone()], named.into()].concat();
        node.output = norm.output.clone();
        norms.insert(i);
    }
    folded.node =
        folded.node.into_iter().enumerate().filter(|(i, _)| !norms.contains(i)).map(|(_, node)| node).collect();
    drop_unused(&mut folded);
    Ok(folded)
}

/// Weight and bias of a convolution with its norm; `tensors` are weight, perhaps bias, then scale, shift, mean and variance.
fn joined(norm: &NodeProto, tensors: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let (own, norms) = tensors.split_at(tensors.len() - 4);
    let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
    let [scale, shift, mean, var] = [0, 1, 2, 3].map(|i| double(&norms[i]));
    let epsilon = norm.attribute.iter().find(|attribute| attribute.name() == "epsilon").map_or(1e-5, |eps| eps.f());
    let factor = scale / (var + f64::from(epsilon)).f_sqrt()?;
    let bias = own.get(1).map_or_else(|| mean.zeros_like(), double);
    let weight = double(&own[0]).f_mul(&factor.f_reshape([-1, 1, 1, 1])?)?;
    Ok((weight.to_kind(Kind::Float), (factor * (bias - mean) + shift).to_kind(Kind::Float)))
}

/// Leaves out the tensors that no node reads.
pub(super) fn drop_unused(graph: &mut GraphProto) {
    let used: HashSet<&str> = graph.node.iter().flat_map(|node| &node.input).map(String::as_str).collect();
    graph.initializer.retain(|tensor| used.contains(tensor.name()));
}

/// Who reads the values of a graph.
pub(super) struct Readers<'a> {
    nodes: HashMap<&'a str, Vec<&'a NodeProto>>,
    results: HashSet<&'a str>,
}

impl<'a> Readers<'a> {
    pub(super) fn of(graph: &'a GraphProto) -> Self {
        let mut nodes: HashMap<&str, Vec<&NodeProto>> = HashMap::new();
        for node in &graph.node {
            node.input.iter().for_each(|name| nodes.entry(name).or_default().push(node));
        }
        Self { nodes, results: graph.output.iter().map(|output| output.name()).collect() }
    }

    /// The only reader of a value; none where there are several, or where it is a result of the graph.
    pub(super) fn only_one(&self, value: &str) -> Option<&'a NodeProto> {
        match self.nodes.get(value)?.as_slice() {
            [one] if !self.results.contains(value) => Some(one),
            _ => None,
        }
    }
}
