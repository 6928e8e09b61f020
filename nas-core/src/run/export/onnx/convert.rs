//! libtorch's operators as ONNX's (opset 17).

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};

use super::proto::{AttributeProto, FLOAT, GraphProto, INT8, INT32, INT64, NodeProto, TensorProto, UINT8};
use crate::run::export::graph::{Arg, Graph, Id, Node, Rule, Size};

/// The name of the images.
pub const INPUT: &str = "images";

/// What a graph became.
pub struct Converted {
    /// Operators and tensors; inputs and outputs are not described yet.
    pub graph: GraphProto,
    /// The name of every value.
    pub names: HashMap<Id, String>,
}

/// Operators and tensors of `graph`. An operator without a counterpart is an error that names it.
pub fn convert(graph: &Graph) -> Result<Converted> {
    let mut converter = Converter {
        graph: GraphProto { name: Some("network".into()), ..Default::default() },
        names: HashMap::from([(graph.input, INPUT.to_string())]),
        sizes: HashMap::new(),
        constants: HashMap::new(),
        outputs: graph.outputs.iter().map(|(name, id)| (*id, name.clone())).collect(),
        count: 0,
    };
    for parameter in &graph.parameters {
        converter.graph.initializer.push(tensor_proto(&parameter.name, &parameter.tensor)?);
        converter.names.insert(parameter.id, parameter.name.clone());
    }
    for node in &graph.nodes {
        converter.convert(node).with_context(|| format!("operator {}", node.op))?;
    }
    // An output that is the input, or that has two names.
    for (name, id) in &graph.outputs {
        if converter.names.get(id) != Some(name) {
            let source = converter.names[id].clone();
            converter.emit_as("Identity", vec![source], vec![], vec![name.clone()]);
        }
    }
    Ok(Converted { graph: converter.graph, names: converter.names })
}

/// A tensor with its numbers.
pub fn tensor_proto(name: &str, tensor: &Tensor) -> Result<TensorProto> {
    let flat = tensor.contiguous().reshape([-1]);
    let (data_type, bytes) = match tensor.kind() {
        Kind::Int64 => (INT64, Vec::<i64>::try_from(flat)?.iter().flat_map(|n| n.to_le_bytes()).collect()),
        Kind::Int => (INT32, Vec::<i32>::try_from(flat)?.iter().flat_map(|n| n.to_le_bytes()).collect()),
        Kind::Int8 => (INT8, Vec::<i8>::try_from(flat)?.iter().flat_map(|n| n.to_le_bytes()).collect()),
        Kind::Uint8 => (UINT8, Vec::<u8>::try_from(flat)?),
        _ => {
            let numbers = Vec::<f32>::try_from(flat.to_kind(Kind::Float))?;
            (FLOAT, numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
    };
    let dims = tensor.size();
    Ok(TensorProto { dims, data_type: Some(data_type), name: Some(name.to_string()), raw_data: Some(bytes) })
}

struct Converter {
    graph: GraphProto,
    names: HashMap<Id, String>,
    /// Sides that were already computed.
    sizes: HashMap<Size, String>,
    /// Constants that were already written, by their text.
    constants: HashMap<String, String>,
    outputs: HashMap<Id, String>,
    count: usize,
}

type Attributes = Vec<AttributeProto>;

/// A setting that is an integer.
pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), i: Some(i), r#type: Some(2), ..Default::default() }
}

fn float(name: &str, f: f64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), f: Some(f as f32), r#type: Some(1), ..Default::default() }
}

fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { name: Some(name.into()), s: Some(s.into()), r#type: Some(3), ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), ints: ints.to_vec(), r#type: Some(7), ..Default::default() }
}

impl Converter {
    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("t{}", self.count)
    }

    fn emit_as(&mut self, op: &str, input: Vec<String>, attribute: Attributes, output: Vec<String>) {
        let name = format!("{op}_{}", self.graph.node.len());
        self.graph.node.push(NodeProto { input, output, name: Some(name), op_type: Some(op.into()), attribute });
    }

    /// An operator whose result has a name of its own.
    fn emit(&mut self, op: &str, input: Vec<String>, attribute: Attributes) -> String {
        let output = self.fresh();
        self.emit_as(op, input, attribute, vec![output.clone()]);
        output
    }

    fn name_of(&mut self, id: Id) -> String {
        self.outputs.get(&id).cloned().unwrap_or_else(|| format!("v{id}"))
    }

    /// An operator that gives the node's only result.
    fn finish(&mut self, node: &Node, op: &str, input: Vec<String>, attribute: Attributes) {
        let id = node.outputs[0];
        let output = self.name_of(id);
        self.names.insert(id, output.clone());
        self.emit_as(op, input, attribute, vec![output]);
    }

    fn initializer(&mut self, key: String, tensor: &Tensor) -> Result<String> {
        if let Some(name) = self.constants.get(&key) {
            return Ok(name.clone());
        }
        let name = format!("const_{}", self.constants.len());
        self.graph.initializer.push(tensor_proto(&name, tensor)?);
        self.constants.insert(key, name.clone());
        Ok(name)
    }

    fn int_list(&mut self, values: &[i64]) -> Result<String> {
        self.initializer(format!("{values:?}"), &Tensor::from_slice(values))
    }

    fn int_scalar(&mut self, value: i64) -> Result<String> {
        self.initializer(format!("int {value}"), &Tensor::from(value))
    }

    fn scalar(&mut self, value: f64) -> Result<String> {
        self.initializer(format!("float {value:?}"), &Tensor::from(value as f32))
    }

    fn value(&self, arg: &Arg) -> Result<String> {
        match arg {
            Arg::Value(id) => Ok(self.names.get(id).with_context(|| format!("value {id} was not computed"))?.clone()),
            other => bail!("{other:?}, expected a tensor"),
        }
    }

    fn values(&self, arg: &Arg) -> Result<Vec<String>> {
        match arg {
            Arg::List(items) => items.iter().map(|item| self.value(item)).collect(),
            other => bail!("{other:?}, expected tensors"),
        }
    }

    /// A tensor, or a number as one.
    fn operand(&mut self, arg: &Arg) -> Result<String> {
        match arg {
            Arg::Float(x) => self.scalar(*x),
            Arg::Int(Size::Known(n)) => self.scalar(*n as f64),
            other => self.value(other),
        }
    }

    /// A tensor, or no input at all.
    fn optional(&self, arg: &Arg) -> Result<String> {
        if *arg == Arg::None { Ok(String::new()) } else { self.value(arg) }
    }

    /// One side as a tensor of one integer.
    fn side(&mut self, size: Size) -> Result<String> {
        if let Some(name) = self.sizes.get(&size) {
            return Ok(name.clone());
        }
        let name = match size {
            Size::Known(n) => self.int_list(&[n])?,
            Size::Of(id, dim, Rule::Same) => {
                let of = self.value(&Arg::Value(id))?;
                self.emit("Shape", vec![of], vec![int("start", dim as i64), int("end", dim as i64 + 1)])
            }
            Size::Of(id, dim, rule) => {
                let side = self.side(Size::Of(id, dim, Rule::Same))?;
                let [one, two] = [self.int_list(&[1])?, self.int_list(&[2])?];
                match rule {
                    Rule::Same => side,
                    Rule::Odd => self.emit("Mod", vec![side, two], vec![]),
                    Rule::Halved => {
                        let more = self.emit("Add", vec![side, one], vec![]);
                        self.emit("Div", vec![more, two], vec![])
                    }
                    Rule::Doubled => self.emit("Mul", vec![side, two], vec![]),
                    Rule::Last => self.emit("Sub", vec![side, one], vec![]),
                }
            }
        };
        self.sizes.insert(size, name.clone());
        Ok(name)
    }

    /// Sides as a tensor of integers.
    fn shape(&mut self, sizes: &[Size]) -> Result<String> {
        if let Some(known) = known(sizes) {
            return self.int_list(&known);
        }
        let parts = sizes.iter().map(|size| self.side(*size)).collect::<Result<Vec<String>>>()?;
        Ok(if parts.len() == 1 { parts[0].clone() } else { self.emit("Concat", parts, vec![int("axis", 0)]) })
    }

    /// One side as an integer without dimensions.
    fn side_scalar(&mut self, size: Size) -> Result<String> {
        if let Size::Known(n) = size {
            return self.int_scalar(n);
        }
        let (side, axes) = (self.side(size)?, self.int_list(&[0])?);
        Ok(self.emit("Squeeze", vec![side, axes], vec![]))
    }

    fn convert(&mut self, node: &Node) -> Result<()> {
        match node.op.as_str() {
            "_convolution" | "conv2d" | "convolution" => self.convolution(node),
            "batch_norm" => {
                let [x, mean, var] = [0, 3, 4].map(|i| self.value(node.at(i)));
                let (mean, var) = (mean?, var?);
                // Without scale and shift: ones and zeros in the shape of the variance.
                let scale = match node.at(1) {
                    Arg::None => self.filled_like(&var, 1.0)?,
                    weight => self.value(weight)?,
                };
                let shift = match node.at(2) {
                    Arg::None => self.filled_like(&var, 0.0)?,
                    bias => self.value(bias)?,
                };
                let eps = float("epsilon", number(node.at(7))?);
                self.finish(node, "BatchNormalization", vec![x?, scale, shift, mean, var], vec![eps]);
                Ok(())
            }
            "group_norm" => self.group_norm(node),
            "linear" => self.linear(node),
            "relu" | "sigmoid" | "exp" | "sqrt" | "neg" | "abs" | "log" | "tanh" | "hardswish" => self.unary(node),
            "hardsigmoid" => {
                let x = self.value(node.at(0))?;
                self.finish(node, "HardSigmoid", vec![x], vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)]);
                Ok(())
            }
            "silu" => {
                let x = self.value(node.at(0))?;
                let gate = self.emit("Sigmoid", vec![x.clone()], vec![]);
                self.finish(node, "Mul", vec![x, gate], vec![]);
                Ok(())
            }
            "relu6" => self.clip(node, &Arg::Float(0.0), &Arg::Float(6.0)),
            "hardtanh" | "clamp" => {
                let none = Arg::None;
                self.clip(node, node.at(1), node.args.get(2).unwrap_or(&none))
            }
            "clamp_max" => self.clip(node, &Arg::None, node.at(1)),
            "clamp_min" => self.clip(node, node.at(1), &Arg::None),
            "add" | "sub" | "mul" | "div" | "rsub" | "maximum" | "minimum" => self.binary(node),
            "cat" => {
                let parts = self.values(node.at(0))?;
                let axis = node.args.get(1).map_or(Ok(0), integer)?;
                self.finish(node, "Concat", parts, vec![int("axis", axis)]);
                Ok(())
            }
            "stack" => {
                let axis = node.args.get(1).map_or(Ok(0), integer)?;
                let axes = self.int_list(&[axis])?;
                let parts = self.values(node.at(0))?;
                let parts = parts.into_iter().map(|part| self.emit("Unsqueeze", vec![part, axes.clone()], vec![]));
                let parts = parts.collect();
                self.finish(node, "Concat", parts, vec![int("axis", axis)]);
                Ok(())
            }
            "max_pool2d" | "avg_pool2d" | "adaptive_avg_pool2d" => self.pooling(node),
            "mean" | "amax" | "amin" | "sum" => self.reduction(node),
            "softmax" => {
                let x = self.value(node.at(0))?;
                self.finish(node, "Softmax", vec![x], vec![int("axis", integer(node.at(1))?)]);
                Ok(())
            }
            "upsample_bilinear2d" | "upsample_nearest2d" => self.resize(node),
            "slice" | "narrow" | "select" | "chunk" | "split" | "split_with_sizes" => self.part(node),
            "permute" => self.transpose(node),
            "reshape" | "view" | "flatten" | "expand" | "unsqueeze" | "squeeze" | "channel_shuffle" => {
                self.reshape(node)
            }
            "constant_pad_nd" => self.pad(node),
            "zeros_like" | "zeros" | "full" | "ones" | "arange" | "meshgrid" => self.generated(node),
            "dropout" => {
                self.names.insert(node.outputs[0], self.value(node.at(0))?);
                Ok(())
            }
            other => bail!("{other:?} has no counterpart in ONNX yet"),
        }
    }

    fn filled_like(&mut self, like: &str, value: f32) -> Result<String> {
        let initializer = self.graph.initializer.iter().find(|tensor| tensor.name.as_deref() == Some(like));
        let dims = initializer.context("statistics that are no parameters")?.dims.clone();
        let filled = Tensor::full(dims.as_slice(), f64::from(value), (Kind::Float, tch::Device::Cpu));
        self.initializer(format!("{value} of {dims:?}"), &filled)
    }

    fn unary(&mut self, node: &Node) -> Result<()> {
        let op = match node.op.as_str() {
            "relu" => "Relu",
            "sigmoid" => "Sigmoid",
            "exp" => "Exp",
            "sqrt" => "Sqrt",
            "neg" => "Neg",
            "abs" => "Abs",
            "log" => "Log",
            "tanh" => "Tanh",
            _ => "HardSwish",
        };
        let x = self.value(node.at(0))?;
        self.finish(node, op, vec![x], vec![]);
        Ok(())
    }

    fn binary(&mut self, node: &Node) -> Result<()> {
        let [mut a, mut b] = [node.at(0), node.at(1)];
        let op = match node.op.as_str() {
            "add" => "Add",
            "mul" => "Mul",
            "div" => "Div",
            "maximum" => "Max",
            "minimum" => "Min",
            _ => "Sub",
        };
        if node.op == "rsub" {
            (a, b) = (b, a);
        }
        if matches!(node.op.as_str(), "add" | "sub" | "rsub") {
            let alpha = optional_number(Some(node.arg(2, "alpha")))?.unwrap_or(1.0);
            ensure!(alpha == 1.0, "a factor of {alpha}");
        }
        ensure!(node.op != "div" || *node.arg(2, "rounding_mode") == Arg::None, "a rounded quotient");
        let inputs = vec![self.operand(a)?, self.operand(b)?];
        self.finish(node, op, inputs, vec![]);
        Ok(())
    }

    fn clip(&mut self, node: &Node, low: &Arg, high: &Arg) -> Result<()> {
        let x = self.value(node.at(0))?;
        let mut bound = |arg: &Arg| match arg {
            Arg::None => Ok(String::new()),
            Arg::Int(size @ Size::Of(..)) => {
                let side = self.side_scalar(*size)?;
                Ok(self.emit("Cast", vec![side], vec![int("to", FLOAT.into())]))
            }
            other => self.operand(other),
        };
        let (low, high) = (bound(low)?, bound(high)?);
        self.finish(node, "Clip", vec![x, low, high], vec![]);
        Ok(())
    }

    fn convolution(&mut self, node: &Node) -> Result<()> {
        let transposed = node.op != "conv2d" && *node.at(6) == Arg::Bool(true);
        ensure!(!transposed, "a transposed convolution");
        let groups = if node.op == "conv2d" { 6 } else { 8 };
        let mut input = vec![self.value(node.at(0))?, self.value(node.at(1))?];
        if *node.at(2) != Arg::None {
            input.push(self.value(node.at(2))?);
        }
        let [stride, padding, dilation] = [3, 4, 5].map(|i| pair(node.at(i)));
        let attributes = vec![
            ints("strides", &stride?),
            ints("pads", &twice(padding?)),
            ints("dilations", &dilation?),
            int("group", integer(node.at(groups))?),
        ];
        self.finish(node, "Conv", input, attributes);
        Ok(())
    }

    fn pooling(&mut self, node: &Node) -> Result<()> {
        let x = self.value(node.at(0))?;
        if node.op == "adaptive_avg_pool2d" {
            ensure!(pair(node.at(1))? == [1, 1], "to more than one pixel");
            self.finish(node, "GlobalAveragePool", vec![x], vec![]);
            return Ok(());
        }
        let kernel = pair(node.at(1))?;
        let stride = match node.args.get(2) {
            None | Some(Arg::None) => kernel,
            Some(Arg::List(items)) if items.is_empty() => kernel,
            Some(stride) => pair(stride)?,
        };
        let padding = node.args.get(3).map_or(Ok([0; 2]), pair)?;
        let mut attributes =
            vec![ints("kernel_shape", &kernel), ints("strides", &stride), ints("pads", &twice(padding))];
        if node.op == "max_pool2d" {
            attributes.push(ints("dilations", &node.args.get(4).map_or(Ok([1; 2]), pair)?));
            attributes.push(int("ceil_mode", i64::from(node.args.get(5) == Some(&Arg::Bool(true)))));
            self.finish(node, "MaxPool", vec![x], attributes);
        } else {
            ensure!(node.arg(6, "divisor_override") == &Arg::None, "a divisor of its own");
            attributes.push(int("ceil_mode", i64::from(node.args.get(4) == Some(&Arg::Bool(true)))));
            attributes.push(int("count_include_pad", i64::from(node.args.get(5) != Some(&Arg::Bool(false)))));
            self.finish(node, "AveragePool", vec![x], attributes);
        }
        Ok(())
    }

    fn reduction(&mut self, node: &Node) -> Result<()> {
        let mut inputs = vec![self.value(node.at(0))?];
        let dims = match node.args.get(1) {
            Some(Arg::List(_)) => known(&sizes(node.at(1))?).context("dimensions that vary")?,
            _ => Vec::new(),
        };
        let keep = !dims.is_empty() && node.arg(2, "keepdim") == &Arg::Bool(true);
        let mut attributes = vec![int("keepdims", i64::from(keep))];
        let op = match node.op.as_str() {
            "mean" => "ReduceMean",
            "amax" => "ReduceMax",
            "amin" => "ReduceMin",
            _ => "ReduceSum",
        };
        match (dims.is_empty(), op) {
            (true, _) => {}
            // The only one whose axes are an input in opset 17.
            (false, "ReduceSum") => inputs.push(self.int_list(&dims)?),
            (false, _) => attributes.push(ints("axes", &dims)),
        }
        self.finish(node, op, inputs, attributes);
        Ok(())
    }

    fn resize(&mut self, node: &Node) -> Result<()> {
        let x = self.value(node.at(0))?;
        let linear = node.op == "upsample_bilinear2d";
        let Arg::Value(id) = node.args[0] else { bail!("a map that is no tensor") };
        let kept = [Size::Of(id, 0, Rule::Same), Size::Of(id, 1, Rule::Same)];
        let shape = self.shape(&[kept.as_slice(), &sizes(node.at(1))?].concat())?;
        let aligned = linear && *node.at(2) == Arg::Bool(true);
        let attributes = match (linear, aligned) {
            (true, true) => vec![text("mode", "linear"), text("coordinate_transformation_mode", "align_corners")],
            (true, false) => vec![text("mode", "linear"), text("coordinate_transformation_mode", "half_pixel")],
            (false, _) => vec![
                text("mode", "nearest"),
                text("coordinate_transformation_mode", "asymmetric"),
                text("nearest_mode", "floor"),
            ],
        };
        self.finish(node, "Resize", vec![x, String::new(), String::new(), shape], attributes);
        Ok(())
    }

    fn part(&mut self, node: &Node) -> Result<()> {
        let x = self.value(node.at(0))?;
        let one = |arg: Option<&Arg>, default: i64| match arg {
            None | Some(Arg::None) => Ok(Size::Known(default)),
            Some(arg) => size(arg),
        };
        match node.op.as_str() {
            "select" => {
                let index = self.side_scalar(size(node.at(2))?)?;
                self.finish(node, "Gather", vec![x, index], vec![int("axis", integer(node.at(1))?)]);
            }
            "slice" | "narrow" => {
                let axis = node.args.get(1).map_or(Ok(0), integer)?;
                let start = one(node.args.get(2), 0)?;
                let end = match node.op.as_str() {
                    "slice" => one(node.args.get(3), i64::MAX)?,
                    _ => match (start, size(node.at(3))?) {
                        (Size::Known(start), Size::Known(length)) => Size::Known(start + length),
                        (Size::Known(0), length) => length,
                        _ => bail!("a start that varies"),
                    },
                };
                let step = one(node.args.get(4), 1)?;
                let bounds = [start, end, Size::Known(axis), step].map(|size| self.shape(&[size]));
                let [start, end, axis, step] = bounds;
                self.finish(node, "Slice", vec![x, start?, end?, axis?, step?], vec![]);
            }
            _ => {
                let axis = node.args.get(2).map_or(Ok(0), integer)?;
                let outputs: Vec<String> = node.outputs.iter().map(|id| self.name_of(*id)).collect();
                node.outputs.iter().zip(&outputs).for_each(|(id, name)| drop(self.names.insert(*id, name.clone())));
                let mut inputs = vec![x];
                if let (Arg::List(_), true) = (node.at(1), node.op != "chunk") {
                    inputs.push(self.shape(&sizes(node.at(1))?)?);
                }
                self.emit_as("Split", inputs, vec![int("axis", axis)], outputs);
            }
        }
        Ok(())
    }

    fn transpose(&mut self, node: &Node) -> Result<()> {
        let x = self.value(node.at(0))?;
        let order = known(&sizes(node.at(1))?).context("an order that varies")?;
        self.finish(node, "Transpose", vec![x], vec![ints("perm", &order)]);
        Ok(())
    }

    fn reshape(&mut self, node: &Node) -> Result<()> {
        let x = self.value(node.at(0))?;
        match node.op.as_str() {
            "reshape" | "view" => {
                let shape = self.shape(&sizes(node.at(1))?)?;
                self.finish(node, "Reshape", vec![x, shape], vec![]);
            }
            "flatten" => {
                let bounds = (node.args.get(1).map_or(Ok(0), integer)?, node.args.get(2).map_or(Ok(-1), integer)?);
                ensure!(bounds == (1, -1), "dimensions {bounds:?}, expected 1 to the last");
                self.finish(node, "Flatten", vec![x], vec![int("axis", 1)]);
            }
            "expand" => {
                // A side of -1 stays as it is, which a side of 1 says in ONNX.
                let keep = |size: Size| if size == Size::Known(-1) { Size::Known(1) } else { size };
                let shape: Vec<Size> = sizes(node.at(1))?.into_iter().map(keep).collect();
                let shape = self.shape(&shape)?;
                self.finish(node, "Expand", vec![x, shape], vec![]);
            }
            "unsqueeze" | "squeeze" => {
                let axes = match node.at(1) {
                    list @ Arg::List(_) => known(&sizes(list)?).context("dimensions that vary")?,
                    one => vec![integer(one)?],
                };
                let axes = self.int_list(&axes)?;
                let op = if node.op == "squeeze" { "Squeeze" } else { "Unsqueeze" };
                self.finish(node, op, vec![x, axes], vec![]);
            }
            _ => {
                let groups = integer(node.at(1))?;
                let shape = self.emit("Shape", vec![x.clone()], vec![]);
                let of_groups = self.channels_of_groups(&x, groups)?;
                let grouped = self.emit("Reshape", vec![x, of_groups], vec![]);
                let turned = self.emit("Transpose", vec![grouped], vec![ints("perm", &[0, 2, 1, 3])]);
                self.finish(node, "Reshape", vec![turned, shape], vec![]);
            }
        }
        Ok(())
    }

    /// The shape `[B, groups, C / groups, H W]` of a map.
    fn channels_of_groups(&mut self, x: &str, groups: i64) -> Result<String> {
        let channels = self.emit("Shape", vec![x.to_string()], vec![int("start", 1), int("end", 2)]);
        let (divisor, zero, rest) = (self.int_list(&[groups])?, self.int_list(&[0])?, self.int_list(&[-1])?);
        let each = self.emit("Div", vec![channels, divisor.clone()], vec![]);
        Ok(self.emit("Concat", vec![zero, divisor, each, rest], vec![int("axis", 0)]))
    }

    fn pad(&mut self, node: &Node) -> Result<()> {
        let x = self.value(node.at(0))?;
        let pads = sizes(node.at(1))?;
        // From the last dimension to the first, before and after; the first of four may be left out.
        let rank = 4;
        ensure!(pads.len() % 2 == 0 && pads.len() <= 2 * rank, "{} paddings of a map", pads.len());
        let of = |dim: usize, after: usize| pads.get(2 * (rank - 1 - dim) + after).copied().unwrap_or(Size::Known(0));
        let ordered: Vec<Size> = [0, 1].iter().flat_map(|after| (0..rank).map(|dim| of(dim, *after))).collect();
        let value = optional_number(node.args.get(2))?.unwrap_or(0.0);
        let inputs = vec![x, self.shape(&ordered)?, self.scalar(value)?];
        self.finish(node, "Pad", inputs, vec![text("mode", "constant")]);
        Ok(())
    }

    fn group_norm(&mut self, node: &Node) -> Result<()> {
        let (x, groups) = (self.value(node.at(0))?, integer(node.at(1))?);
        let shape = self.emit("Shape", vec![x.clone()], vec![]);
        let grouped = self.int_list(&[0, groups, -1])?;
        let grouped = self.emit("Reshape", vec![x, grouped], vec![]);
        let filled = |value| Tensor::full([groups], value, (Kind::Float, tch::Device::Cpu));
        let one = self.initializer(format!("1 of [{groups}]"), &filled(1.0))?;
        let zero = self.initializer(format!("0 of [{groups}]"), &filled(0.0))?;
        let eps = float("epsilon", optional_number(Some(node.arg(4, "eps")))?.unwrap_or(1e-5));
        let normed = self.emit("InstanceNormalization", vec![grouped, one, zero], vec![eps]);
        let normed = self.emit("Reshape", vec![normed, shape], vec![]);
        let axes = self.int_list(&[1, 2])?;
        let [weight, bias] = [2, 3].map(|i| self.value(node.at(i)));
        let weight = self.emit("Unsqueeze", vec![weight?, axes.clone()], vec![]);
        let bias = self.emit("Unsqueeze", vec![bias?, axes], vec![]);
        let scaled = self.emit("Mul", vec![normed, weight], vec![]);
        self.finish(node, "Add", vec![scaled, bias], vec![]);
        Ok(())
    }

    fn linear(&mut self, node: &Node) -> Result<()> {
        let mut inputs = vec![self.value(node.at(0))?, self.value(node.at(1))?];
        let bias = self.optional(node.args.get(2).unwrap_or(&Arg::None))?;
        if !bias.is_empty() {
            inputs.push(bias);
        }
        self.finish(node, "Gemm", inputs, vec![int("transB", 1)]);
        Ok(())
    }

    /// What is made of nothing but sizes.
    fn generated(&mut self, node: &Node) -> Result<()> {
        let filled = |value: f32| AttributeProto {
            name: Some("value".into()),
            t: tensor_proto("value", &Tensor::from_slice(&[value])).ok(),
            r#type: Some(4),
            ..Default::default()
        };
        match node.op.as_str() {
            "zeros_like" => {
                let x = self.value(node.at(0))?;
                let shape = self.emit("Shape", vec![x], vec![]);
                self.finish(node, "ConstantOfShape", vec![shape], vec![filled(0.0)]);
            }
            "zeros" | "ones" | "full" => {
                let value = match node.op.as_str() {
                    "zeros" => 0.0,
                    "ones" => 1.0,
                    _ => number(node.at(1))?,
                };
                let shape = self.shape(&sizes(node.at(0))?)?;
                self.finish(node, "ConstantOfShape", vec![shape], vec![filled(value as f32)]);
            }
            "arange" => {
                let (start, end) = match node.args.as_slice() {
                    [start, end, ..]
                        if matches!(end, Arg::Int(_)) && node.named.iter().any(|(key, _)| key == "dtype") =>
                    {
                        (size(start)?, size(end)?)
                    }
                    [end, ..] => (Size::Known(0), size(end)?),
                    [] => bail!("no end"),
                };
                let bounds = [start, end, Size::Known(1)].map(|size| self.side_scalar(size));
                let [start, end, step] = bounds;
                let range = self.emit("Range", vec![start?, end?, step?], vec![]);
                self.finish(node, "Cast", vec![range], vec![int("to", FLOAT.into())]);
            }
            _ => {
                ensure!(node.arg(1, "indexing") == &Arg::Text("ij".into()), "another order than \"ij\"");
                let axes = self.values(node.at(0))?;
                ensure!(axes.len() == 2 && node.outputs.len() == 2, "a grid of {} axes", axes.len());
                let lengths: Vec<String> =
                    axes.iter().map(|axis| self.emit("Shape", vec![axis.clone()], vec![])).collect();
                let shape = self.emit("Concat", lengths, vec![int("axis", 0)]);
                for (i, (axis, id)) in axes.into_iter().zip(&node.outputs).enumerate() {
                    let other = self.int_list(&[1 - i as i64])?;
                    let turned = self.emit("Unsqueeze", vec![axis, other], vec![]);
                    let output = self.name_of(*id);
                    self.names.insert(*id, output.clone());
                    self.emit_as("Expand", vec![turned, shape.clone()], vec![], vec![output]);
                }
            }
        }
        Ok(())
    }
}

fn size(arg: &Arg) -> Result<Size> {
    match arg {
        Arg::Int(size) => Ok(*size),
        other => bail!("{other:?}, expected an integer"),
    }
}

fn sizes(arg: &Arg) -> Result<Vec<Size>> {
    match arg {
        Arg::List(items) => items.iter().map(size).collect(),
        other => bail!("{other:?}, expected integers"),
    }
}

fn integer(arg: &Arg) -> Result<i64> {
    match size(arg)? {
        Size::Known(n) => Ok(n),
        Size::Of(..) => bail!("a number that varies with the size of the images"),
    }
}

fn known(sizes: &[Size]) -> Option<Vec<i64>> {
    let known = |size: &Size| if let Size::Known(n) = size { Some(*n) } else { None };
    sizes.iter().map(known).collect()
}

/// Two integers; one stands for two equal ones.
fn pair(arg: &Arg) -> Result<[i64; 2]> {
    match known(&sizes(arg)?).context("numbers that vary")?.as_slice() {
        [n] => Ok([*n; 2]),
        [down, right] => Ok([*down, *right]),
        other => bail!("{other:?}, expected two numbers"),
    }
}

/// Paddings before and after.
fn twice([down, right]: [i64; 2]) -> [i64; 4] {
    [down, right, down, right]
}

fn number(arg: &Arg) -> Result<f64> {
    optional_number(Some(arg))?.context("no number")
}

fn optional_number(arg: Option<&Arg>) -> Result<Option<f64>> {
    Ok(match arg {
        None | Some(Arg::None) => None,
        Some(Arg::Float(x)) => Some(*x),
        Some(Arg::Int(Size::Known(n))) => Some(*n as f64),
        Some(other) => bail!("{other:?}, expected a number"),
    })
}
