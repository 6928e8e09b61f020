//! TorchScript files whose tensors are parameters: `torch.jit.load` gives a module that can be trained on, on any device.
//!
//! libtorch's own tracer makes constants of all weights, without names and on the device of the trace. So the archive is written
//! here: a class per level of the variables' names, the forward pass as text, and a pickle of the module.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};
use zip::write::FileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::graph::{Arg, Graph, Id, Node, Parameter, Rule, Size};
use crate::run::run_dir::write_atomic_with;

/// Version of the archive's format.
const VERSION: &str = "3\n";

/// Writes the graph as a module.
pub fn write(path: &Path, graph: &Graph) -> Result<()> {
    let mut tree = Module::default();
    graph.parameters.iter().enumerate().for_each(|(i, parameter)| tree.insert(&parameter.name, i));
    let mut classes = Classes { text: String::new(), count: 0, parameters: &graph.parameters };
    let forward = forward(graph);
    let mut pickle = Pickle { bytes: vec![0x80, 2], parameters: &graph.parameters };
    let class = classes.write(&tree, Some(&forward));
    pickle.module(&tree, &class, &mut 0);
    pickle.bytes.push(b'.');
    write_atomic_with(path, |temporary| {
        archive(temporary, &classes.text, &pickle.bytes, &graph.parameters).map_err(std::io::Error::other)
    })
}

fn archive(path: &Path, code: &str, pickle: &[u8], parameters: &[Parameter]) -> Result<()> {
    let mut zip = ZipWriter::new(File::create(path)?);
    let options = FileOptions::default().compression_method(CompressionMethod::Stored);
    let mut entry = |name: &str, bytes: &[u8]| -> Result<()> {
        zip.start_file_aligned(format!("network/{name}"), options, 64)?;
        Ok(zip.write_all(bytes)?)
    };
    entry("data.pkl", pickle)?;
    entry("code/__torch__.py", code.as_bytes())?;
    for (i, parameter) in parameters.iter().enumerate() {
        entry(&format!("data/{i}"), &bytes(&parameter.tensor)?)?;
    }
    // No constants: an empty tuple.
    entry("constants.pkl", b"\x80\x02).")?;
    entry("version", VERSION.as_bytes())?;
    entry("byteorder", b"little")?;
    zip.finish()?;
    Ok(())
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel()).context("cannot read the numbers of a tensor")?;
    Ok(bytes)
}

/// A level of the variables' names.
#[derive(Default)]
struct Module {
    /// Indices of tensors.
    tensors: BTreeMap<String, usize>,
    children: BTreeMap<String, Module>,
}

impl Module {
    fn insert(&mut self, name: &str, index: usize) {
        match name.split_once('.') {
            Some((first, rest)) => self.children.entry(first.to_string()).or_default().insert(rest, index),
            None => drop(self.tensors.insert(name.to_string(), index)),
        }
    }
}

/// The text of all classes.
struct Classes<'a> {
    text: String,
    count: usize,
    parameters: &'a [Parameter],
}

impl Classes<'_> {
    /// Writes the class of a module and of those below it; returns its name. Numbers are given from the root down.
    fn write(&mut self, module: &Module, forward: Option<&str>) -> String {
        let class = class_name(self.count);
        self.count += 1;
        let list = |trained: bool| {
            let names = module.tensors.iter().filter(|(_, i)| self.parameters[**i].trained == trained);
            names.map(|(name, _)| format!("{name:?}, ")).collect::<String>()
        };
        let (parameters, buffers) = (list(true), list(false));
        let mut text =
            format!("class {class}(Module):\n  __parameters__ = [{parameters}]\n  __buffers__ = [{buffers}]\n");
        module.tensors.keys().for_each(|name| annotate(&mut text, name, "Tensor"));
        annotate(&mut text, "training", "bool");
        for (name, child) in &module.children {
            let below = self.write(child, None);
            annotate(&mut text, name, &format!("__torch__.{below}"));
        }
        text += forward.unwrap_or_default();
        self.text += &text;
        class
    }
}

fn class_name(index: usize) -> String {
    if index == 0 { "Network".into() } else { format!("Module{index}") }
}

fn annotate(text: &mut String, name: &str, kind: &str) {
    let line = match is_identifier(name) {
        true => format!("  {name} : {kind}\n"),
        false => format!("  __annotations__[{name:?}] = {kind}\n"),
    };
    text.push_str(&line);
}

fn is_identifier(name: &str) -> bool {
    const RESERVED: [&str; 12] = ["and", "as", "def", "for", "from", "if", "in", "is", "not", "or", "pass", "return"];
    !name.starts_with(|c: char| c.is_ascii_digit()) && !RESERVED.contains(&name)
}

/// An instance of every class, as torch pickles modules.
struct Pickle<'a> {
    bytes: Vec<u8>,
    parameters: &'a [Parameter],
}

impl Pickle<'_> {
    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn int(&mut self, n: i64) {
        match i32::try_from(n) {
            Ok(n) => {
                self.bytes.push(b'J');
                self.bytes.extend(n.to_le_bytes());
            }
            Err(_) => {
                self.bytes.extend([0x8a, 8]);
                self.bytes.extend(n.to_le_bytes());
            }
        }
    }

    fn tuple(&mut self, numbers: &[i64]) {
        self.bytes.push(b'(');
        numbers.iter().for_each(|n| self.int(*n));
        self.bytes.push(b't');
    }

    /// A module whose class has the number `count`, and those below it in the order in which their classes were numbered.
    fn module(&mut self, module: &Module, class: &str, count: &mut usize) {
        *count += 1;
        self.bytes.extend(format!("c__torch__\n{class}\n)").bytes());
        self.bytes.extend(b"\x81}(");
        for (name, index) in &module.tensors {
            self.text(name);
            self.tensor(*index);
        }
        self.text("training");
        self.bytes.push(0x89);
        for (name, child) in &module.children {
            self.text(name);
            let class = class_name(*count);
            self.module(child, &class, count);
        }
        self.bytes.extend(b"ub");
    }

    fn tensor(&mut self, index: usize) {
        let Parameter { tensor, trained, .. } = &self.parameters[index];
        let (size, numel) = (tensor.size(), tensor.numel() as i64);
        let storage = if tensor.kind() == Kind::Int64 { "LongStorage" } else { "FloatStorage" };
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.bytes.extend(format!("ctorch\n{storage}\n").bytes());
        self.text(&index.to_string());
        self.text("cpu");
        self.int(numel);
        self.bytes.extend(b"tQ");
        self.int(0);
        self.tuple(&size);
        self.tuple(&contiguous_strides(&size));
        self.bytes.push(if *trained { 0x88 } else { 0x89 });
        self.bytes.extend(b"ccollections\nOrderedDict\n)RtR");
    }
}

fn contiguous_strides(size: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; size.len()];
    for i in (1..size.len()).rev() {
        strides[i - 1] = strides[i] * size[i].max(1);
    }
    strides
}

/// The text of the method `forward`.
fn forward(graph: &Graph) -> String {
    let names = Names::new(graph);
    let tensors = graph.outputs.len();
    let result = if tensors == 1 { "Tensor".into() } else { format!("Tuple[{}]", vec!["Tensor"; tensors].join(", ")) };
    let mut text = format!("  def forward(self: __torch__.Network,\n    images: Tensor) -> {result}:\n");
    for node in &graph.nodes {
        let outputs: Vec<String> = node.outputs.iter().map(|id| names.of(*id)).collect();
        let targets = if outputs.len() == 1 { outputs[0].clone() } else { outputs.join(", ") + "," };
        writeln!(text, "    {targets} = {}", names.call(node)).expect("a text takes all");
    }
    let results: Vec<String> = graph.outputs.iter().map(|(_, id)| names.of(*id)).collect();
    let result = if tensors == 1 { results[0].clone() } else { format!("({})", results.join(", ")) };
    text + &format!("    return {result}\n")
}

/// What values are called in a text.
struct Names<'a> {
    graph: &'a Graph,
    parameters: BTreeMap<Id, String>,
}

impl<'a> Names<'a> {
    fn new(graph: &'a Graph) -> Self {
        let place = |parameter: &Parameter| (parameter.id, attribute(&parameter.name));
        Self { graph, parameters: graph.parameters.iter().map(place).collect() }
    }

    fn of(&self, id: Id) -> String {
        match self.parameters.get(&id) {
            Some(place) => place.clone(),
            None if id == self.graph.input => "images".into(),
            None => format!("v{id}"),
        }
    }

    fn call(&self, node: &Node) -> String {
        let positional = node.args.iter().map(|arg| self.argument(arg));
        let named = node.named.iter().map(|(key, arg)| match (key.as_str(), arg) {
            ("device", Arg::Text(_)) => "device=images.device".to_string(),
            _ => format!("{key}={}", self.argument(arg)),
        });
        format!("torch.{}({})", node.op, positional.chain(named).collect::<Vec<String>>().join(", "))
    }

    fn argument(&self, arg: &Arg) -> String {
        match arg {
            Arg::Value(id) => self.of(*id),
            Arg::Int(size) => self.size(*size),
            Arg::Float(x) => format!("{x:?}"),
            Arg::Bool(truth) => if *truth { "True" } else { "False" }.into(),
            Arg::Training => "self.training".into(),
            Arg::Text(text) => format!("{text:?}"),
            Arg::None => "None".into(),
            Arg::List(items) if items.is_empty() => "annotate(List[int], [])".into(),
            Arg::List(items) => {
                let items: Vec<String> = items.iter().map(|item| self.argument(item)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }

    fn size(&self, size: Size) -> String {
        match size {
            Size::Known(n) => n.to_string(),
            Size::Of(id, dim, rule) => rule.text(&format!("torch.size({}, {dim})", self.of(id))),
        }
    }
}

impl Rule {
    /// The rule applied to a side, as Python and TorchScript write it.
    pub(super) fn text(self, side: &str) -> String {
        match self {
            Self::Same => side.to_string(),
            Self::Odd => format!("({side} % 2)"),
            Self::Halved => format!("(({side} + 1) // 2)"),
            Self::Doubled => format!("({side} * 2)"),
            Self::Last => format!("({side} - 1)"),
        }
    }
}

/// `self.a.b`, with components that are no identifiers by `getattr`.
fn attribute(name: &str) -> String {
    name.split('.').fold("self".to_string(), |object, part| match is_identifier(part) {
        true => format!("{object}.{part}"),
        false => format!("getattr({object}, {part:?})"),
    })
}
