//! Which channels of a network go together: a convolution's outputs are the entries of its norm, of all that is added to them, and
//! of what the layers behind read. Read off the graph, as DepGraph does (Fang et al. 2023, arXiv 2301.12900).

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use tch::{Kind, Tensor};

use super::graph::{Arg, Graph, Id, Node, Size};

/// Index of a group of channels that go together.
pub type Group = usize;

/// The channels of one axis: groups one after the other, as a concatenation has them.
type Segments = Vec<Group>;

/// The channels of a network.
#[derive(Debug, Default)]
pub struct Channels {
    /// What the axes of its tensors are, by name and axis.
    axes: BTreeMap<(String, usize), Segments>,
    /// Channels of every group.
    sizes: Vec<i64>,
    /// How much every channel of a group counts.
    importance: Vec<Tensor>,
}

/// What is known of a value: its channels, or the operator that made something else of them.
type Known = Result<Segments, String>;

struct Reader<'a> {
    tensors: HashMap<Id, (&'a str, &'a Tensor)>,
    known: HashMap<Id, Known>,
    axes: BTreeMap<(String, usize), Segments>,
    sizes: Vec<i64>,
    /// The group that each is the same as.
    same: Vec<Group>,
    /// Scales of norms, by group.
    scales: Vec<(Group, Tensor)>,
}

impl Channels {
    /// Reads a graph whose input are images.
    ///
    /// # Errors
    /// If a layer with weights reads what an operator that is not known here has made of channels.
    pub fn of(graph: &Graph) -> Result<Self> {
        let tensors = graph.parameters.iter().map(|p| (p.id, (p.name.as_str(), &p.tensor))).collect();
        let mut reader = Reader {
            tensors,
            known: HashMap::new(),
            axes: BTreeMap::new(),
            sizes: Vec::new(),
            same: Vec::new(),
            scales: Vec::new(),
        };
        let images = reader.group(3);
        reader.known.insert(graph.input, Ok(vec![images]));
        for node in &graph.nodes {
            reader.read(node).with_context(|| format!("the channels of {}", node.op))?;
        }
        Ok(reader.finish())
    }

    /// What the axis of a tensor holds: entry by entry of a smaller or larger one whose groups have `wanted` channels, which of this
    /// tensor's it is, or a new one. `None` where the axis is not of channels.
    ///
    /// Of a group that shrinks the most important channels stay, in their order; of one that grows all, before the new ones.
    pub fn taken(&self, name: &str, axis: usize, wanted: &dyn Fn(Group) -> i64) -> Option<Vec<Option<i64>>> {
        let segments = self.axes.get(&(name.to_string(), axis))?;
        let (mut taken, mut offset) = (Vec::new(), 0);
        for group in segments {
            let (own, wanted) = (self.sizes[*group], wanted(*group));
            taken.extend(self.best(*group, wanted).into_iter().map(|i| Some(offset + i)));
            taken.extend((own..wanted).map(|_| None));
            offset += own;
        }
        Some(taken)
    }

    /// The most important `count` channels of a group, rising; equal ones the first.
    fn best(&self, group: Group, count: i64) -> Vec<i64> {
        let importance = Vec::<f64>::try_from(&self.importance[group]).expect("a vector of numbers");
        let mut order: Vec<usize> = (0..importance.len()).collect();
        order.sort_by(|a, b| importance[*b].total_cmp(&importance[*a]));
        let mut best: Vec<i64> = order.into_iter().take(count.max(0) as usize).map(|i| i as i64).collect();
        best.sort_unstable();
        best
    }

    /// The channels of every group in another network, whose tensors have these sizes: those of the first tensor whose outputs they
    /// are; of a group without one there its own number.
    pub fn sizes_in(&self, other: &HashMap<String, Vec<i64>>) -> Vec<i64> {
        let mut sizes = self.sizes.clone();
        let mut seen = vec![false; sizes.len()];
        for ((name, axis), segments) in &self.axes {
            let ([group], 0, Some(size)) = (segments.as_slice(), *axis, other.get(name)) else { continue };
            if !std::mem::replace(&mut seen[*group], true) {
                sizes[*group] = size[0];
            }
        }
        sizes
    }
}

impl Reader<'_> {
    fn group(&mut self, size: i64) -> Group {
        self.sizes.push(size);
        self.same.push(self.same.len());
        self.same.len() - 1
    }

    fn root(&self, mut group: Group) -> Group {
        while self.same[group] != group {
            group = self.same[group];
        }
        group
    }

    fn join(&mut self, a: Group, b: Group) {
        let (a, b) = (self.root(a), self.root(b));
        self.same[a.max(b)] = a.min(b);
    }

    fn parameter(&self, arg: &Arg) -> Option<(String, Tensor)> {
        let Arg::Value(id) = arg else { return None };
        self.tensors.get(id).map(|(name, tensor)| (name.to_string(), tensor.shallow_clone()))
    }

    /// The channels that an operator reads.
    fn of(&self, arg: &Arg) -> Known {
        match arg {
            Arg::Value(id) => self.known.get(id).cloned().unwrap_or_else(|| Err("a tensor of the network".into())),
            other => Err(format!("{other:?}")),
        }
    }

    /// The channels that a layer with weights reads.
    fn read_by_layer(&self, arg: &Arg) -> Result<Segments> {
        self.of(arg).or_else(|operator| bail!("it reads what {operator} gives, whose channels are not followed"))
    }

    /// Notes the outputs of a layer: one new group.
    fn outputs(&mut self, size: i64, weight: &str, bias: &Arg) -> Segments {
        let group = self.group(size);
        self.axes.insert((weight.to_string(), 0), vec![group]);
        if let Some((name, _)) = self.parameter(bias) {
            self.axes.insert((name, 0), vec![group]);
        }
        vec![group]
    }

    fn read(&mut self, node: &Node) -> Result<()> {
        let known = match node.op.as_str() {
            "_convolution" | "conv2d" | "convolution" => Ok(self.convolution(node)?),
            "batch_norm" | "group_norm" => {
                let scale = if node.op == "batch_norm" { 1 } else { 2 };
                let xs = self.read_by_layer(node.at(0))?;
                let last = if node.op == "batch_norm" { 4 } else { 3 };
                let tensors: Vec<_> = (scale..=last).filter_map(|i| self.parameter(node.at(i))).collect();
                self.axes.extend(tensors.into_iter().map(|(name, _)| ((name, 0), xs.clone())));
                if let Some((_, scales)) = self.parameter(node.at(scale)) {
                    let mut offset = 0;
                    for group in &xs {
                        self.scales.push((*group, scales.narrow(0, offset, self.sizes[*group])));
                        offset += self.sizes[*group];
                    }
                }
                Ok(xs)
            }
            "linear" => {
                let Some((name, weight)) = self.parameter(node.at(1)) else { bail!("its weights are computed") };
                let xs = self.read_by_layer(node.at(0))?;
                self.axes.insert((name.clone(), 1), xs);
                Ok(self.outputs(weight.size()[0], &name, node.at(2)))
            }
            "relu"
            | "sigmoid"
            | "exp"
            | "sqrt"
            | "neg"
            | "abs"
            | "log"
            | "tanh"
            | "hardswish"
            | "hardsigmoid"
            | "silu"
            | "relu6"
            | "hardtanh"
            | "clamp"
            | "clamp_max"
            | "clamp_min"
            | "max_pool2d"
            | "avg_pool2d"
            | "adaptive_avg_pool2d"
            | "upsample_bilinear2d"
            | "upsample_nearest2d"
            | "dropout"
            | "flatten"
            | "expand" => self.of(node.at(0)),
            // Over pixels.
            "mean" | "amax" | "sum" if !reduces_channels(node) => self.of(node.at(0)),
            "slice" | "narrow" if !matches!(node.at(1), Arg::Int(dim) if *dim == Size::Known(1)) => self.of(node.at(0)),
            // Rows and columns alone.
            "constant_pad_nd" if matches!(node.at(1), Arg::List(sides) if sides.len() <= 4) => self.of(node.at(0)),
            "add" | "sub" | "mul" | "div" | "maximum" | "minimum" => self.pair(node),
            "cat" if node.args.get(1) == Some(&Arg::Int(Size::Known(1))) => {
                let Arg::List(parts) = node.at(0) else { bail!("of no list") };
                parts.iter().map(|part| self.of(part)).collect::<Result<Vec<_>, _>>().map(|parts| parts.concat())
            }
            other => Err(other.to_string()),
        };
        node.outputs.iter().for_each(|id| drop(self.known.insert(*id, known.clone())));
        Ok(())
    }

    fn convolution(&mut self, node: &Node) -> Result<Segments> {
        let Some((name, weight)) = self.parameter(node.at(1)) else { bail!("its weights are computed") };
        let xs = self.read_by_layer(node.at(0))?;
        let (outputs, inputs) = (weight.size()[0], weight.size()[1]);
        let read: i64 = xs.iter().map(|group| self.sizes[*group]).sum();
        if inputs == 1 && outputs == read && read > 1 {
            // Depthwise: a channel for each.
            self.axes.insert((name, 0), xs.clone());
            if let Some((bias, _)) = self.parameter(node.at(2)) {
                self.axes.insert((bias, 0), xs.clone());
            }
            return Ok(xs);
        }
        if inputs != read {
            bail!("{name} has groups of {inputs} of {read} channels, which are not followed");
        }
        self.axes.insert((name.clone(), 1), xs);
        Ok(self.outputs(outputs, &name, node.at(2)))
    }

    /// Two maps entry by entry, or one and a number.
    fn pair(&mut self, node: &Node) -> Known {
        let [a, b] = [0, 1].map(|i| node.at(i));
        match (a, b) {
            (Arg::Value(_), Arg::Value(_)) => {
                let (a, b) = (self.of(a)?, self.of(b)?);
                let sizes = |segments: &Segments| segments.iter().map(|group| self.sizes[*group]).collect::<Vec<_>>();
                if sizes(&a) != sizes(&b) {
                    return Err(format!("{} of {:?} and {:?} channels", node.op, sizes(&a), sizes(&b)));
                }
                a.iter().zip(&b).for_each(|(a, b)| self.join(*a, *b));
                Ok(a)
            }
            (Arg::Value(_), _) => self.of(a),
            _ => self.of(b),
        }
    }

    /// Importance by the sum of the scales' sizes; of a group without norms by that of the weights that give it.
    fn finish(self) -> Channels {
        let size = |group: Group| self.sizes[group];
        let zeros = |group: Group| Tensor::zeros([size(group)], (Kind::Double, tch::Device::Cpu));
        let mut importance: Vec<Option<Tensor>> = self.sizes.iter().map(|_| None).collect();
        for (group, scales) in &self.scales {
            let group = self.root(*group);
            let sum = importance[group].take().unwrap_or_else(|| zeros(group));
            importance[group] = Some(sum + scales.abs().to_kind(Kind::Double));
        }
        let names: HashMap<&str, &Tensor> = self.tensors.values().copied().collect();
        for ((name, axis), segments) in &self.axes {
            let ([group], 0) = (segments.as_slice(), *axis) else { continue };
            let group = self.root(*group);
            let weights = names[name.as_str()];
            if importance[group].is_none() && weights.dim() > 1 {
                let rows = weights.abs().to_kind(Kind::Double).flatten(1, -1);
                importance[group] = Some(rows.sum_dim_intlist([1i64].as_slice(), false, Kind::Double));
            }
        }
        let importance = importance.into_iter().enumerate().map(|(group, sum)| sum.unwrap_or_else(|| zeros(group)));
        let rooted = |segments: &Segments| segments.iter().map(|group| self.root(*group)).collect();
        let axes = self.axes.iter().map(|(key, segments)| (key.clone(), rooted(segments))).collect();
        Channels { axes, importance: importance.collect(), sizes: self.sizes }
    }
}

/// Whether a reduction is over the channels, or over all.
fn reduces_channels(node: &Node) -> bool {
    let Arg::List(dims) = node.at(1) else { return true };
    let pixels = |dim: &Arg| matches!(dim, Arg::Int(Size::Known(2 | 3 | -1 | -2)));
    dims.is_empty() || !dims.iter().all(pixels)
}
