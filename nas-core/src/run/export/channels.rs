//! Which channels of a network go together: a convolution's outputs are the entries of its norm, of all that is added to them, and
//! of what the layers behind read. Read off the graph, as DepGraph does (Fang et al. 2023, arXiv 2301.12900).

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, bail};
use tch::{Kind, Tensor};

use super::graph::{Arg, Graph, Id, Node, Size};
use crate::estimator::inheritance::Lineage;

/// Index of a channel.
type Channel = usize;

/// Index of a class: channels that one layer gives. What is added to one class and not to another is a class of its own.
type Class = usize;

/// The parts of maps in which a channel stands: the weight that reads another part of the same map, and whether it is the first part.
/// A channel cannot go where one of another part stood.
type Sides = Vec<(String, bool)>;

/// The channels of a network.
#[derive(Debug, Default)]
pub struct Channels {
    /// What the axes of its tensors are, by name and axis.
    axes: BTreeMap<(String, usize), Vec<Channel>>,
    /// The class of every channel.
    classes: Vec<Class>,
    /// In which parts it stands.
    sides: Vec<Sides>,
    /// How much every channel counts.
    importance: Vec<f64>,
}

/// What is known of a value: its channels, or the operator that made something else of them.
type Known = Result<Vec<Channel>, String>;

struct Reader<'a> {
    tensors: HashMap<Id, (&'a str, &'a Tensor)>,
    known: HashMap<Id, Known>,
    of_weights: HashSet<Id>,
    axes: BTreeMap<(String, usize), Vec<Channel>>,
    /// The channel that each is the same as.
    same: Vec<Channel>,
    /// Class of every channel that is no other.
    classes: Vec<Class>,
    num_classes: usize,
    /// The maps that were divided and in whose parts a channel that is no other stands, and whether that is the first part.
    sides: Vec<Vec<(Id, bool)>>,
    /// Of parts the map that was divided.
    divided: HashMap<Id, Id>,
    /// The weight that first reads a part of a map.
    readers: HashMap<Id, String>,
    /// Scales of norms, and their channels.
    scales: Vec<(Vec<Channel>, Tensor)>,
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
            of_weights: HashSet::new(),
            axes: BTreeMap::new(),
            same: Vec::new(),
            classes: Vec::new(),
            num_classes: 0,
            sides: Vec::new(),
            divided: HashMap::new(),
            readers: HashMap::new(),
            scales: Vec::new(),
        };
        let images = reader.channels(3);
        reader.known.insert(graph.input, Ok(images));
        for node in &graph.nodes {
            reader.read(node).with_context(|| format!("the channels of {}", node.op))?;
        }
        Ok(reader.finish())
    }

    /// The classes of an axis, in the order of their first channels there.
    fn classes_of(&self, axis: &[Channel]) -> Vec<Class> {
        let mut classes = Vec::new();
        for class in axis.iter().map(|channel| self.classes[*channel]) {
            if !classes.contains(&class) {
                classes.push(class);
            }
        }
        classes
    }

    /// The `count` most important of some channels, in their order; equal ones the first.
    fn best(&self, channels: &[Channel], count: usize) -> Vec<Channel> {
        let mut order = channels.to_vec();
        order.sort_by(|a, b| self.importance[*b].total_cmp(&self.importance[*a]));
        order.truncate(count);
        order.sort_unstable();
        order
    }

    /// The channels by class and by the sides that `named` gives a name, in their order.
    fn kinds(&self, named: &dyn Fn(&str) -> Option<String>) -> BTreeMap<(Class, Sides), Vec<Channel>> {
        let mut all: Vec<Channel> = self.axes.values().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        let mut kinds: BTreeMap<_, Vec<Channel>> = BTreeMap::new();
        for channel in all {
            let sides = self.sides[channel].iter().filter_map(|(name, first)| Some((named(name)?, *first)));
            let mut sides: Sides = sides.collect();
            sides.sort_unstable();
            kinds.entry((self.classes[channel], sides)).or_default().push(channel);
        }
        kinds
    }

    /// What the axes of a child's tensors hold, by name and axis: entry by entry, which of this network's it is, or a new one. An axis
    /// that is not of channels, or whose channels have no counterpart, is missing.
    ///
    /// Of a class that shrinks the most important channels stay, in their order; of one that grows all, before the new ones. Where
    /// maps are divided in both networks that holds of every part.
    pub fn handed_to(&self, child: &Self, lineage: &Lineage) -> HashMap<(String, usize), Vec<Option<i64>>> {
        let in_both = || {
            child.axes.iter().filter_map(|((name, axis), theirs)| {
                let own = self.axes.get(&(lineage.name_of(name)?, *axis))?;
                Some(((name.clone(), *axis), theirs, own))
            })
        };
        let mut counterparts: HashMap<Class, Class> = HashMap::new();
        for (_, theirs, own) in in_both().filter(|((_, axis), ..)| *axis == 0) {
            let (theirs, own) = (child.classes_of(theirs), self.classes_of(own));
            let same = theirs.len() == own.len();
            for (theirs, own) in theirs.into_iter().zip(own).filter(|_| same) {
                counterparts.entry(theirs).or_insert(own);
            }
        }
        let divided: HashSet<&str> = self.sides.iter().flatten().map(|(name, _)| name.as_str()).collect();
        let theirs = child.kinds(&|name| lineage.name_of(name).filter(|own| divided.contains(own.as_str())));
        let common: HashSet<&str> = theirs.keys().flat_map(|(_, sides)| sides).map(|(name, _)| name.as_str()).collect();
        let own = self.kinds(&|name| common.contains(name).then(|| name.to_string()));
        let mut source: HashMap<Channel, Option<Channel>> = HashMap::new();
        for ((class, sides), channels) in &theirs {
            let Some(counterpart) = counterparts.get(class) else { continue };
            let candidates = own.get(&(*counterpart, sides.clone())).map_or(&[][..], Vec::as_slice);
            let best = self.best(candidates, channels.len());
            source.extend(channels.iter().copied().zip(best.into_iter().map(Some).chain(std::iter::repeat(None))));
        }
        let handed = |theirs: &[Channel], own: &[Channel]| {
            // A channel that an axis has several times stays in its order there.
            let mut places: HashMap<Channel, std::vec::IntoIter<i64>> = HashMap::new();
            let place = |channel: Channel| own.iter().zip(0..).filter(move |(own, _)| **own == channel).map(|(_, i)| i);
            let entry = |channel: &Channel| {
                let source = (*source.get(channel)?)?;
                places.entry(*channel).or_insert_with(|| place(source).collect::<Vec<_>>().into_iter()).next()
            };
            let known = theirs.iter().all(|channel| source.contains_key(channel));
            known.then(|| theirs.iter().map(entry).collect())
        };
        in_both().filter_map(|(key, theirs, own)| Some((key, handed(theirs, own)?))).collect()
    }
}

impl Reader<'_> {
    /// New channels of a class of their own.
    fn channels(&mut self, count: i64) -> Vec<Channel> {
        let class = self.class();
        (0..count)
            .map(|_| {
                self.same.push(self.same.len());
                self.classes.push(class);
                self.sides.push(Vec::new());
                self.same.len() - 1
            })
            .collect()
    }

    fn class(&mut self) -> Class {
        self.num_classes += 1;
        self.num_classes - 1
    }

    fn root(&self, mut channel: Channel) -> Channel {
        while self.same[channel] != channel {
            channel = self.same[channel];
        }
        channel
    }

    /// Makes channels the same, pair by pair: where two classes meet there is a new one.
    fn join(&mut self, pairs: impl IntoIterator<Item = (Channel, Channel)>) {
        let mut met: HashMap<(Class, Class), Class> = HashMap::new();
        for (a, b) in pairs {
            let (a, b) = (self.root(a), self.root(b));
            if a == b {
                continue;
            }
            let classes = (self.classes[a], self.classes[b]);
            let class = match classes.0 == classes.1 {
                true => classes.0,
                false => *met.entry(classes).or_insert_with(|| self.class()),
            };
            self.same[a.max(b)] = a.min(b);
            self.classes[a.min(b)] = class;
            let sides = std::mem::take(&mut self.sides[a.max(b)]);
            self.sides[a.min(b)].extend(sides);
        }
    }

    /// Notes that some channels of the map `from` are the map `part`, the first of its parts or another.
    fn part(&mut self, channels: &[Channel], from: &Arg, part: Id, first: bool) {
        let Arg::Value(from) = from else { return };
        self.divided.insert(part, *from);
        for channel in channels {
            let root = self.root(*channel);
            self.sides[root].push((*from, first));
        }
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
    fn read_by_layer(&mut self, arg: &Arg, weight: &str) -> Result<Vec<Channel>> {
        if let Arg::Value(id) = arg
            && let Some(from) = self.divided.get(id)
        {
            self.readers.entry(*from).or_insert_with(|| weight.to_string());
        }
        self.of(arg).or_else(|operator| bail!("it reads what {operator} gives, whose channels are not followed"))
    }

    /// Notes the outputs of a layer.
    fn outputs(&mut self, channels: &[Channel], weight: String, bias: &Arg) {
        let bias = self.parameter(bias).map(|(name, _)| name);
        self.axes.extend(std::iter::once(weight).chain(bias).map(|name| ((name, 0), channels.to_vec())));
    }

    /// Whether something is a tensor of the network or computed from such alone, not of images.
    fn is_of_weights(&self, id: Id) -> bool {
        self.tensors.contains_key(&id) || self.of_weights.contains(&id)
    }

    fn read(&mut self, node: &Node) -> Result<()> {
        let inputs = node.inputs();
        if !inputs.is_empty() && inputs.iter().all(|id| self.is_of_weights(*id)) {
            self.of_weights.extend(&node.outputs);
            return Ok(());
        }
        let known = match node.op.as_str() {
            "_convolution" | "conv2d" | "convolution" => Ok(self.convolution(node)?),
            "batch_norm" | "group_norm" => {
                let scale = if node.op == "batch_norm" { 1 } else { 2 };
                let name = self.parameter(node.at(scale)).map(|(name, _)| name).unwrap_or_default();
                let xs = self.read_by_layer(node.at(0), &name)?;
                let last = if node.op == "batch_norm" { 4 } else { 3 };
                let tensors: Vec<_> = (scale..=last).filter_map(|i| self.parameter(node.at(i))).collect();
                self.axes.extend(tensors.into_iter().map(|(name, _)| ((name, 0), xs.clone())));
                self.scales.extend(self.parameter(node.at(scale)).map(|(_, scales)| (xs.clone(), scales)));
                Ok(xs)
            }
            "linear" => {
                let Some((name, weight)) = self.parameter(node.at(1)) else { bail!("its weights are computed") };
                let (xs, inputs) = (self.read_by_layer(node.at(0), &name)?, weight.size()[1] as usize);
                // Of maps that are flattened a channel has as many inputs as pixels.
                let pixels = inputs / xs.len();
                if xs.len() * pixels != inputs {
                    bail!("{name} reads {inputs} values of {} channels, which are not followed", xs.len());
                }
                let inputs = xs.into_iter().flat_map(|channel| std::iter::repeat_n(channel, pixels)).collect();
                self.axes.insert((name.clone(), 1), inputs);
                let outputs = self.channels(weight.size()[0]);
                self.outputs(&outputs, name, node.at(2));
                Ok(outputs)
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
            | "zeros_like"
            | "expand" => self.of(node.at(0)),
            // Over pixels.
            "mean" | "amax" | "sum" if !reduces_channels(node) => self.of(node.at(0)),
            "slice" | "narrow" if !matches!(node.at(1), Arg::Int(dim) if *dim == Size::Known(1)) => self.of(node.at(0)),
            "slice" | "narrow" => self.slice(node),
            "chunk" if node.at(2) == &Arg::Int(Size::Known(1)) => return self.chunk(node),
            "channel_shuffle" => {
                let (xs, groups) = (self.of(node.at(0)), number(node.at(1), 1));
                xs.map(|xs| {
                    let size = xs.len() / groups;
                    (0..xs.len()).map(|i| xs[i % groups * size + i / groups]).collect()
                })
            }
            "constant_pad_nd" => self.pad(node),
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

    fn convolution(&mut self, node: &Node) -> Result<Vec<Channel>> {
        let Some((name, weight)) = self.parameter(node.at(1)) else { bail!("its weights are computed") };
        let xs = self.read_by_layer(node.at(0), &name)?;
        let [outputs, inputs] = [0, 1].map(|axis| weight.size()[axis] as usize);
        if inputs == 1 && outputs == xs.len() && outputs > 1 {
            // Depthwise: a channel for each.
            self.outputs(&xs, name, node.at(2));
            return Ok(xs);
        }
        let groups = xs.len() / inputs;
        if inputs * groups != xs.len() || outputs % groups != 0 {
            bail!("{name} has groups of {inputs} of {} channels, which are not followed", xs.len());
        }
        let ys = self.channels(outputs as i64);
        // Groups keep their sizes, and their weights are one tensor: what goes is the same of each.
        for channels in [&xs, &ys] {
            let size = channels.len() / groups;
            self.join((size..channels.len()).map(|i| (channels[i % size], channels[i])));
        }
        self.axes.insert((name.clone(), 1), xs[..inputs].to_vec());
        self.outputs(&ys, name, node.at(2));
        Ok(ys)
    }

    /// Every `step`th channel from `start` to before `end`.
    fn slice(&mut self, node: &Node) -> Known {
        let xs = self.of(node.at(0))?;
        if node.args.iter().any(|arg| matches!(arg, Arg::Int(Size::Known(from_the_end)) if *from_the_end < 0)) {
            return Err(node.op.clone());
        }
        let start = number(node.at(2), 0).min(xs.len());
        let (end, step) = match node.op.as_str() {
            "narrow" => (start + number(node.at(3), 0), 1),
            _ => (number(node.at(3), xs.len()), number(node.at(4), 1).max(1)),
        };
        let part: Vec<Channel> = xs[start..end.clamp(start, xs.len())].iter().copied().step_by(step).collect();
        self.part(&part, node.at(0), node.outputs[0], start == 0);
        Ok(part)
    }

    fn chunk(&mut self, node: &Node) -> Result<()> {
        let xs = self.of(node.at(0));
        for (i, id) in node.outputs.iter().enumerate() {
            let part = xs.clone().map(|xs| {
                let size = xs.len().div_ceil(number(node.at(1), 1).max(1)).max(1);
                let part = xs.chunks(size).nth(i).map(<[Channel]>::to_vec).unwrap_or_default();
                self.part(&part, node.at(0), *id, i == 0);
                part
            });
            self.known.insert(*id, part);
        }
        Ok(())
    }

    /// Padding of pixels leaves the channels as they are, one of channels puts new ones beside them.
    fn pad(&mut self, node: &Node) -> Known {
        let (Arg::List(sides), xs) = (node.at(1), self.of(node.at(0))?) else { return Err(node.op.clone()) };
        let [before, after] = [4, 5].map(|i| sides.get(i).map_or(0, |side| number(side, 0) as i64));
        let (before, after) = (self.channels(before), self.channels(after));
        Ok([before, xs, after].concat())
    }

    /// Two maps entry by entry, or one and a number, which may be a weight.
    fn pair(&mut self, node: &Node) -> Known {
        let [a, b] = [0, 1].map(|i| node.at(i));
        match (a, b) {
            (Arg::Value(weight), _) if self.is_of_weights(*weight) => self.of(b),
            (_, Arg::Value(weight)) if self.is_of_weights(*weight) => self.of(a),
            (Arg::Value(_), Arg::Value(_)) => {
                let (a, b) = (self.of(a)?, self.of(b)?);
                if a.len() != b.len() {
                    return Err(format!("{} of {} and {} channels", node.op, a.len(), b.len()));
                }
                self.join(a.iter().copied().zip(b));
                Ok(a)
            }
            (Arg::Value(_), _) => self.of(a),
            _ => self.of(b),
        }
    }

    /// Importance by the sum of the scales' sizes; in a class without norms by that of the weights that give the channels.
    fn finish(self) -> Channels {
        let mut importance = vec![0.0; self.same.len()];
        let mut scaled = vec![false; self.num_classes];
        let numbers = |tensor: &Tensor| Vec::<f64>::try_from(tensor.abs().to_kind(Kind::Double)).expect("a vector");
        for (channels, scales) in &self.scales {
            for (channel, scale) in channels.iter().zip(numbers(scales)) {
                let root = self.root(*channel);
                importance[root] += scale;
                scaled[self.classes[root]] = true;
            }
        }
        let names: HashMap<&str, &Tensor> = self.tensors.values().copied().collect();
        let mut weighed = vec![false; self.num_classes];
        for ((name, _), channels) in self.axes.iter().filter(|((_, axis), _)| *axis == 0) {
            let weights = names[name.as_str()];
            if weights.dim() < 2 {
                continue;
            }
            let rows = weights.abs().to_kind(Kind::Double).flatten(1, -1);
            let rows = numbers(&rows.sum_dim_intlist([1i64].as_slice(), false, Kind::Double));
            let roots: Vec<Channel> = channels.iter().map(|channel| self.root(*channel)).collect();
            let classes: Vec<Class> = roots.iter().map(|root| self.classes[*root]).collect();
            for ((root, class), row) in roots.iter().zip(&classes).zip(rows) {
                if !scaled[*class] && !weighed[*class] {
                    importance[*root] += row;
                }
            }
            classes.into_iter().for_each(|class| weighed[class] = true);
        }
        let rooted = |channels: &Vec<Channel>| channels.iter().map(|channel| self.root(*channel)).collect();
        let axes = self.axes.iter().map(|(key, channels)| (key.clone(), rooted(channels))).collect();
        let named = |(from, first): &(Id, bool)| Some((self.readers.get(from)?.clone(), *first));
        let sides = self.sides.iter().map(|sides| sides.iter().filter_map(named).collect()).collect();
        Channels { axes, classes: self.classes, sides, importance }
    }
}

/// A number of an argument; another one where it is left out or varies.
fn number(arg: &Arg, other: usize) -> usize {
    match arg {
        Arg::Int(Size::Known(number)) => usize::try_from(*number).unwrap_or(other),
        _ => other,
    }
}

/// Whether a reduction is over the channels, or over all.
fn reduces_channels(node: &Node) -> bool {
    let Arg::List(dims) = node.at(1) else { return true };
    let pixels = |dim: &Arg| matches!(dim, Arg::Int(Size::Known(2 | 3 | -1 | -2)));
    dims.is_empty() || !dims.iter().all(pixels)
}
