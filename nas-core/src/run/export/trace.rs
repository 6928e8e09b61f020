//! From a network to its graph, at any size of images.
//!
//! libtorch's tracer notes the operators of a forward pass. All tensors of the network are *arguments* of the traced function,
//! so that each keeps its name and none is baked in. But a trace knows only numbers: sizes that Rust computed stand in it as
//! constants. The network is therefore traced at several sizes (`SIZES`), and a number that differs from trace to trace must
//! be a function of the size of some map; which one is found by trying (`explain`). Where that fails, or where the traces
//! differ in more than numbers, the size of the images is fixed and only the batch is free.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tch::{CModule, Device, Kind, Tensor};

use super::graph::{Arg, Graph, Id, Node, Rule, Size, lower};
use super::onnx::Suppression;
use super::onnx::{convert, interpreter};
use super::script::parse_method;
use crate::optim::Named;
use crate::run::import::read_trace;

/// What is exported.
pub struct Network<'a> {
    /// All its tensors, on the CPU.
    pub variables: Vec<Named>,
    /// Its forward pass in evaluation from images `[B, 3, H, W]` to its outputs.
    pub forward: &'a dyn Fn(&Tensor) -> Vec<Tensor>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Height and width of the images it was trained for.
    pub size: (i64, i64),
    /// Heights and widths must be multiples of this.
    pub divisor: i64,
    /// Why the network is another one at other sizes, where it is.
    pub fixed: Option<&'static str>,
    /// Of a detector whose outputs are scores and boxes: what an ONNX file makes detections of them by.
    pub suppressed: Option<Suppressed<'a>>,
}

/// Scores, boxes, height and width of the images, and the number of detections that every image has room for, to tensors named
/// [`super::onnx::DETECTIONS`].
pub type Detect<'a> = dyn Fn([&Tensor; 2], (i64, i64), i64) -> Result<Vec<Tensor>> + 'a;

/// Suppression of doubles in a file.
pub struct Suppressed<'a> {
    /// What is written.
    pub suppression: Suppression,
    /// The program's own, which the file must equal.
    pub detect: &'a Detect<'a>,
}

/// A graph, and how free its input is.
#[derive(Debug)]
pub struct Traced {
    /// The graph.
    pub graph: Graph,
    /// Height and width where they are fixed, and why.
    pub fixed: Option<((i64, i64), String)>,
}

/// Batches and sizes of the traces. Halved and rounded up again and again, the heights and the widths have odd and even sides at
/// every stride up to 16, in another order for heights than for widths; and no two strides have the same sides.
const SIZES: [[i64; 3]; 4] = [[2, 65, 43], [3, 43, 118], [1, 128, 75], [4, 86, 54]];

/// The graph of a network.
pub fn trace(network: &Network) -> Result<Traced> {
    let n = network.divisor;
    let free: Vec<[i64; 3]> = match n {
        1 => SIZES.to_vec(),
        _ => vec![[2, n, 2 * n], [3, 2 * n, n], [1, 2 * n, 3 * n]],
    };
    let free = network.fixed.map_or_else(|| trace_at(network, &free), |reason| bail!(reason));
    match free {
        Ok(graph) => Ok(Traced { graph, fixed: None }),
        Err(reason) => {
            let (h, w) = network.size;
            let graph = trace_at(network, &[[2, h, w], [3, h, w], [1, h, w]])?;
            Ok(Traced { graph, fixed: Some(((h, w), format!("{reason:#}"))) })
        }
    }
}

/// The graph of a network at its own size alone: for what does not hang on sizes.
pub fn trace_at_its_size(network: &Network) -> Result<Graph> {
    let (h, w) = network.size;
    trace_once(network, &Tensor::ones([2, 3, h, w], (Kind::Float, Device::Cpu)))
}

fn trace_at(network: &Network, sizes: &[[i64; 3]]) -> Result<Graph> {
    let mut graphs = Vec::new();
    let mut shapes = Vec::new();
    for [b, h, w] in sizes {
        let images = Tensor::ones([*b, 3, *h, *w], (Kind::Float, Device::Cpu));
        let graph = trace_once(network, &images).with_context(|| format!("a trace at {h}x{w}"))?;
        shapes.push(shapes_of(&graph, &images)?);
        graphs.push(graph);
    }
    explain(graphs, &shapes)
}

fn trace_once(network: &Network, images: &Tensor) -> Result<Graph> {
    let mut inputs = vec![images.shallow_clone()];
    inputs.extend(network.variables.iter().map(|(_, tensor)| tensor.shallow_clone()));
    let mut forward = |inputs: &[Tensor]| {
        let outputs = (network.forward)(&inputs[0]);
        let flat: Vec<Tensor> = outputs.iter().map(|output| output.reshape([-1])).collect();
        vec![Tensor::cat(&flat, 0)]
    };
    let module = tch::no_grad(|| CModule::create_by_tracing("__torch__.Network", "forward", &inputs, &mut forward))?;
    // libtorch names the archive by the file, and takes no name that begins with a point.
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = folder.path().join("trace.pt");
    module.save(&file)?;
    let (text, constants) = read_trace(&file)?;
    lower(&parse_method(&text, "forward")?, &constants, &network.variables, &network.outputs)
}

/// The shape of every value for these images.
fn shapes_of(graph: &Graph, images: &Tensor) -> Result<HashMap<Id, Vec<i64>>> {
    let converted = convert(graph)?;
    let values = interpreter::run(&converted.graph, images)?;
    let shape = |(id, name): (&Id, &String)| values.get(name).map(|value| (*id, value.size()));
    Ok(converted.names.iter().filter_map(shape).collect())
}

/// One graph for all sizes: numbers that differ between the traces as functions of the sizes of maps.
fn explain(traces: Vec<Graph>, shapes: &[HashMap<Id, Vec<i64>>]) -> Result<Graph> {
    let mut found: Vec<Vec<i64>> = Vec::new();
    let mut structure: Option<Vec<Node>> = None;
    let mut last = None;
    for mut graph in traces {
        let mut numbers = Vec::new();
        let full = graph.nodes.clone();
        graph.for_each_size(|_, size| {
            numbers.push(if let Size::Known(n) = size { *n } else { 0 });
            *size = Size::Known(0);
        });
        ensure!(
            structure.as_ref().is_none_or(|nodes| *nodes == graph.nodes),
            "the network takes another way at another size"
        );
        structure = Some(std::mem::replace(&mut graph.nodes, full));
        found.push(numbers);
        last = Some(graph);
    }
    let mut graph = last.context("at least one trace")?;
    let nodes = graph.nodes.clone();
    let search = Search { nodes: &nodes, input: graph.input, shapes };
    let (mut place, mut failed) = (0, Vec::new());
    graph.for_each_size(|node, size| {
        let numbers: Vec<i64> = found.iter().map(|numbers| numbers[place]).collect();
        place += 1;
        *size = search.explain(node, &numbers).unwrap_or_else(|| {
            failed.push((node, numbers));
            Size::Known(-1)
        });
    });
    for (node, numbers) in failed {
        let Node { op, args, .. } = &graph.nodes[node];
        // One side of a new shape follows from the others.
        let one_side = matches!(op.as_str(), "reshape" | "view")
            && matches!(&args[1], Arg::List(sides) if sides.iter().filter(|side| **side == Arg::Int(Size::Known(-1))).count() == 1);
        if !one_side {
            bail!("the numbers {numbers:?} of {op} follow from the size of no map");
        }
    }
    Ok(graph)
}

struct Search<'a> {
    nodes: &'a [Node],
    input: Id,
    shapes: &'a [HashMap<Id, Vec<i64>>],
}

impl Search<'_> {
    /// What numbers of an operator are: the same everywhere, or a function of a side of its own inputs, of the images, or of
    /// another earlier value, the latest first.
    fn explain(&self, node: usize, numbers: &[i64]) -> Option<Size> {
        if numbers.windows(2).all(|pair| pair[0] == pair[1]) {
            return numbers.first().map(|n| Size::Known(*n));
        }
        let own = self.nodes[node].inputs().into_iter();
        let earlier = self.nodes[..node].iter().rev().flat_map(|node| node.outputs.iter().copied());
        let candidates: Vec<Id> = own.chain([self.input]).chain(earlier).collect();
        Rule::ALL.iter().find_map(|rule| candidates.iter().find_map(|id| self.side(*id, *rule, numbers)))
    }

    fn side(&self, id: Id, rule: Rule, numbers: &[i64]) -> Option<Size> {
        let rank = self.shapes[0].get(&id)?.len();
        let side = |dim: usize| {
            let mut shapes = self.shapes.iter().zip(numbers);
            shapes.all(|(shape, n)| shape.get(&id).and_then(|s| s.get(dim)).is_some_and(|side| rule.apply(*side) == *n))
        };
        // Sides of maps before channels and batch: that numbers equal both would be chance.
        (0..rank).rev().find(|dim| side(*dim)).map(|dim| Size::Of(id, dim, rule))
    }
}
