//! The graph that all formats are written from: libtorch's operators in order, over values that are each assigned once.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use super::script::{Expr, Function};
use crate::optim::Named;

/// Index of a value.
pub type Id = usize;

/// An integer: known, or following from the size of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// A number.
    Known(i64),
    /// A function of the side `dim` of a value.
    Of(Id, usize, Rule),
}

/// How a number follows from a side `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `n`.
    Same,
    /// `n mod 2`: the padding of an odd side.
    Odd,
    /// `ceil(n / 2)`: a halved side.
    Halved,
    /// `2 n`: a doubled side.
    Doubled,
    /// `n - 1`: the index of the last pixel.
    Last,
}

impl Rule {
    /// From the simplest to the rarest.
    pub const ALL: [Self; 5] = [Self::Same, Self::Odd, Self::Halved, Self::Doubled, Self::Last];

    /// The number for a side.
    pub fn apply(self, n: i64) -> i64 {
        match self {
            Self::Same => n,
            Self::Odd => n % 2,
            Self::Halved => (n + 1) / 2,
            Self::Doubled => 2 * n,
            Self::Last => n - 1,
        }
    }
}

/// An argument of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A value.
    Value(Id),
    /// An integer.
    Int(Size),
    /// A number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Whether the network is training: what the trace has as `False`.
    Training,
    /// A text.
    Text(String),
    /// Nothing.
    None,
    /// Several.
    List(Vec<Arg>),
}

/// An operator with its arguments; in-place forms stand as their ordinary ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// libtorch's name without `aten::`.
    pub op: String,
    /// Arguments by place.
    pub args: Vec<Arg>,
    /// Arguments by name.
    pub named: Vec<(String, Arg)>,
    /// What it gives.
    pub outputs: Vec<Id>,
}

/// A tensor that belongs to the network.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the variable store, or `constant.0` and so on for numbers of the trace.
    pub name: String,
    /// Its value in the graph.
    pub id: Id,
    /// Its numbers, on the CPU.
    pub tensor: Tensor,
    /// Whether it is trained.
    pub trained: bool,
}

/// A network as a graph.
#[derive(Debug)]
pub struct Graph {
    /// The images.
    pub input: Id,
    /// Tensors of the network, in the order of their names; only those that are used.
    pub parameters: Vec<Parameter>,
    /// Operators in order.
    pub nodes: Vec<Node>,
    /// Names and values of the results.
    pub outputs: Vec<(String, Id)>,
    /// Number of values.
    pub values: usize,
}

impl Node {
    /// The values that the operator reads.
    pub fn inputs(&self) -> Vec<Id> {
        fn collect(arg: &Arg, ids: &mut Vec<Id>) {
            match arg {
                Arg::Value(id) | Arg::Int(Size::Of(id, ..)) => ids.push(*id),
                Arg::List(items) => items.iter().for_each(|item| collect(item, ids)),
                _ => {}
            }
        }
        let mut ids = Vec::new();
        self.args.iter().chain(self.named.iter().map(|(_, arg)| arg)).for_each(|arg| collect(arg, &mut ids));
        ids
    }

    /// The argument at a place; [`Arg::None`] where it is left out, as scripts do with defaults at the end.
    pub fn at(&self, place: usize) -> &Arg {
        self.args.get(place).unwrap_or(&Arg::None)
    }

    /// The argument at a place or of a name, [`Arg::None`] where there is none.
    pub fn arg(&self, place: usize, name: &str) -> &Arg {
        let named = || self.named.iter().find(|(key, _)| key == name).map(|(_, arg)| arg);
        self.args.get(place).or_else(named).unwrap_or(&Arg::None)
    }
}

/// Places a function's values in one list.
struct Lowering<'a> {
    names: HashMap<String, Arg>,
    constants: &'a [Tensor],
    constant_ids: HashMap<usize, Id>,
    nodes: Vec<Node>,
    parameters: Vec<Parameter>,
    values: usize,
}

/// The graph of a traced function whose arguments are the images and then the tensors `variables`, and whose result is the
/// concatenation of the flattened `outputs`.
pub fn lower(function: &Function, constants: &[Tensor], variables: &[Named], outputs: &[String]) -> Result<Graph> {
    ensure!(function.arguments.len() == variables.len() + 1, "a trace of {} arguments", function.arguments.len());
    let mut lowering = Lowering {
        names: HashMap::new(),
        constants,
        constant_ids: HashMap::new(),
        nodes: Vec::new(),
        parameters: Vec::new(),
        values: 0,
    };
    for (i, argument) in function.arguments.iter().enumerate() {
        let id = lowering.fresh();
        lowering.names.insert(argument.clone(), Arg::Value(id));
        if let Some((name, tensor)) = i.checked_sub(1).map(|i| &variables[i]) {
            let trained = tensor.requires_grad();
            let tensor = tensor.detach().to_device(tch::Device::Cpu).contiguous();
            lowering.parameters.push(Parameter { name: name.clone(), id, tensor, trained });
        }
    }
    for assignment in &function.body {
        lowering.assign(&assignment.names, &assignment.value)?;
    }
    let Arg::Value(joined) = lowering.argument(&function.result)? else { bail!("a trace without a tensor as result") };
    let outputs = lowering.outputs(joined, outputs)?;
    let Lowering { nodes, parameters, values, .. } = lowering;
    let mut graph = Graph { input: 0, parameters, nodes, outputs, values };
    graph.simplify();
    Ok(graph)
}

impl Lowering<'_> {
    fn fresh(&mut self) -> Id {
        self.values += 1;
        self.values - 1
    }

    fn assign(&mut self, names: &[String], value: &Expr) -> Result<()> {
        let value = match (names, value) {
            ([_], _) => self.argument(value)?,
            (_, Expr::Call(op, args, named)) => self.call(op, args, named, names.len())?,
            _ => self.argument(value)?,
        };
        match (names, value) {
            ([name], value) => drop(self.names.insert(name.clone(), value)),
            (names, Arg::List(values)) if values.len() == names.len() => {
                names.iter().zip(values).for_each(|(name, value)| drop(self.names.insert(name.clone(), value)));
            }
            // A list that an operator gave: only here its length is known.
            (names, Arg::Value(id)) => {
                let outputs: Vec<Id> = names.iter().map(|_| self.fresh()).collect();
                let node = self.nodes.iter_mut().find(|node| node.outputs == [id]).context("a list from nowhere")?;
                node.outputs.clone_from(&outputs);
                names.iter().zip(outputs).for_each(|(name, id)| drop(self.names.insert(name.clone(), Arg::Value(id))));
            }
            (names, value) => bail!("{value:?} assigned to {} names", names.len()),
        }
        Ok(())
    }

    fn argument(&mut self, expr: &Expr) -> Result<Arg> {
        Ok(match expr {
            Expr::Int(n) => Arg::Int(Size::Known(*n)),
            Expr::Float(x) => Arg::Float(*x),
            Expr::Bool(truth) => Arg::Bool(*truth),
            Expr::Text(text) => Arg::Text(text.clone()),
            Expr::None => Arg::None,
            Expr::List(items) => Arg::List(items.iter().map(|item| self.argument(item)).collect::<Result<_>>()?),
            Expr::Name(name) => match name.strip_prefix("CONSTANTS.c") {
                Some(index) => self.constant(index.parse()?)?,
                None => self.names.get(name).with_context(|| format!("{name:?} has no value"))?.clone(),
            },
            Expr::Call(op, args, named) => self.call(op, args, named, 1)?,
        })
    }

    /// A number of the trace: as itself where it is one, else as a parameter that is not trained.
    fn constant(&mut self, index: usize) -> Result<Arg> {
        let tensor = self.constants.get(index).with_context(|| format!("no constant {index}"))?;
        if tensor.dim() == 0 {
            return Ok(match tensor.kind() {
                tch::Kind::Int64 | tch::Kind::Int => Arg::Int(Size::Known(tensor.int64_value(&[]))),
                _ => Arg::Float(tensor.double_value(&[])),
            });
        }
        if let Some(id) = self.constant_ids.get(&index) {
            return Ok(Arg::Value(*id));
        }
        let id = self.fresh();
        self.constant_ids.insert(index, id);
        let name = format!("constant_{}", self.constant_ids.len() - 1);
        let kind = if tensor.kind() == tch::Kind::Int64 { tch::Kind::Int64 } else { tch::Kind::Float };
        let tensor = tensor.to_device(tch::Device::Cpu).to_kind(kind).contiguous();
        self.parameters.push(Parameter { name, id, tensor, trained: false });
        Ok(Arg::Value(id))
    }

    fn call(&mut self, op: &str, args: &[Expr], named: &[(String, Expr)], outputs: usize) -> Result<Arg> {
        if op == "torch.device" {
            return Ok(Arg::Text("cpu".into()));
        }
        if matches!(op, "int" | "float" | "torch.Int" | "ops.prim.NumToTensor") {
            return self.argument(args.first().context("a conversion of nothing")?);
        }
        let op = op.strip_prefix("torch.").with_context(|| format!("{op:?} is no operator of libtorch"))?;
        let mut args = args.iter().map(|arg| self.argument(arg)).collect::<Result<Vec<Arg>>>()?;
        let named = named.iter().map(|(name, arg)| Ok((name.clone(), self.argument(arg)?)));
        let named = named.collect::<Result<Vec<(String, Arg)>>>()?;
        let op = op.strip_suffix('_').unwrap_or(op).to_string();
        // Sizes of what never changes its rank are asked for as numbers.
        match op.as_str() {
            "size" => bail!("a size that was traced"),
            // Does nothing to the numbers that go in.
            "contiguous" | "detach" | "alias" | "clone" | "to" => return Ok(args.swap_remove(0)),
            "batch_norm" => args[5] = Arg::Training,
            "dropout" => args[2] = Arg::Training,
            // Whole bounds may be sizes: boxes are clipped to the image.
            "clamp" | "clamp_max" | "clamp_min" => args[1..].iter_mut().for_each(|bound| match bound {
                Arg::Float(x) if x.fract() == 0.0 && x.abs() < 1e9 => *bound = Arg::Int(Size::Known(*x as i64)),
                _ => {}
            }),
            _ => {}
        }
        let op = if op == "transpose" { self.permutation(&mut args)? } else { op };
        let outputs: Vec<Id> = (0..outputs).map(|_| self.fresh()).collect();
        let result = match outputs.as_slice() {
            [id] => Arg::Value(*id),
            ids => Arg::List(ids.iter().map(|id| Arg::Value(*id)).collect()),
        };
        self.nodes.push(Node { op, args, named, outputs });
        Ok(result)
    }

    /// Makes a permutation of all dimensions of the exchange of two, of a value that was just brought into a shape.
    fn permutation(&self, args: &mut Vec<Arg>) -> Result<String> {
        let [Arg::Value(id), Arg::Int(Size::Known(a)), Arg::Int(Size::Known(b))] = args.as_slice() else {
            bail!("transpose of {args:?}")
        };
        let shape = self
            .nodes
            .iter()
            .find(|node| node.outputs == [*id])
            .filter(|node| node.op == "reshape" || node.op == "view");
        let Some(Arg::List(sides)) = shape.map(|node| node.at(1)) else {
            bail!("two dimensions of an unknown number are exchanged")
        };
        let rank = sides.len() as i64;
        let (a, b) = (a.rem_euclid(rank), b.rem_euclid(rank));
        let order = (0..rank).map(|dim| {
            if dim == a {
                b
            } else if dim == b {
                a
            } else {
                dim
            }
        });
        args.truncate(1);
        args.push(Arg::List(order.map(|dim| Arg::Int(Size::Known(dim))).collect()));
        Ok("permute".into())
    }

    /// Takes the concatenation and the flattening off the end.
    fn outputs(&mut self, joined: Id, names: &[String]) -> Result<Vec<(String, Id)>> {
        let producer = |nodes: &[Node], id: Id| nodes.iter().find(|node| node.outputs == [id]).cloned();
        let cat = producer(&self.nodes, joined).context("a result that is no operator's")?;
        let Some(Arg::List(parts)) = cat.args.first() else { bail!("a result that is not joined") };
        let flat = |part: &Arg| match part {
            Arg::Value(id) => producer(&self.nodes, *id).filter(|node| node.op == "reshape" || node.op == "view"),
            _ => None,
        };
        let output = |(name, part): (&String, &Arg)| match flat(part).as_ref().map(|node| &node.args[0]) {
            Some(Arg::Value(id)) => Ok((name.clone(), *id)),
            _ => bail!("the output {name:?} is not a tensor of the trace"),
        };
        names.iter().zip(parts).map(output).collect()
    }
}

impl Graph {
    /// Joins permutations that undo each other, and drops what no output needs.
    fn simplify(&mut self) {
        let mut same: HashMap<Id, Id> = HashMap::new();
        let mut permuted: HashMap<Id, (Id, Vec<i64>)> = HashMap::new();
        for node in &mut self.nodes {
            node.rename(&same);
            let (Some(Arg::Value(source)), Some(order)) = (node.args.first(), node.order()) else { continue };
            let (origin, order) = match permuted.get(source) {
                Some((origin, first)) => (*origin, order.iter().map(|dim| first[*dim as usize]).collect()),
                None => (*source, order),
            };
            if order.iter().enumerate().all(|(i, dim)| i as i64 == *dim) {
                same.insert(node.outputs[0], origin);
            } else {
                node.args =
                    vec![Arg::Value(origin), Arg::List(order.iter().map(|dim| Arg::Int(Size::Known(*dim))).collect())];
                permuted.insert(node.outputs[0], (origin, order));
            }
        }
        for (_, id) in &mut self.outputs {
            *id = same.get(id).copied().unwrap_or(*id);
        }
        self.prune();
    }

    /// Drops operators and parameters that no output needs.
    pub fn prune(&mut self) {
        let mut needed = vec![false; self.values];
        self.outputs.iter().for_each(|(_, id)| needed[*id] = true);
        let nodes = std::mem::take(&mut self.nodes);
        for node in nodes.into_iter().rev() {
            if node.outputs.iter().any(|id| needed[*id]) {
                node.inputs().iter().for_each(|id| needed[*id] = true);
                self.nodes.push(node);
            }
        }
        self.nodes.reverse();
        self.parameters.retain(|parameter| needed[parameter.id]);
    }

    /// Calls `visit` on every integer of the graph, in the same order for graphs of the same structure.
    pub fn for_each_size(&mut self, mut visit: impl FnMut(usize, &mut Size)) {
        fn walk(arg: &mut Arg, node: usize, visit: &mut impl FnMut(usize, &mut Size)) {
            match arg {
                Arg::Int(size) => visit(node, size),
                Arg::List(items) => items.iter_mut().for_each(|item| walk(item, node, visit)),
                _ => {}
            }
        }
        for (i, node) in self.nodes.iter_mut().enumerate() {
            node.args.iter_mut().for_each(|arg| walk(arg, i, &mut visit));
            node.named.iter_mut().for_each(|(_, arg)| walk(arg, i, &mut visit));
        }
    }
}

impl Node {
    fn rename(&mut self, same: &HashMap<Id, Id>) {
        fn walk(arg: &mut Arg, same: &HashMap<Id, Id>) {
            match arg {
                Arg::Value(id) => *id = same.get(id).copied().unwrap_or(*id),
                Arg::List(items) => items.iter_mut().for_each(|item| walk(item, same)),
                _ => {}
            }
        }
        self.args.iter_mut().for_each(|arg| walk(arg, same));
        self.named.iter_mut().for_each(|(_, arg)| walk(arg, same));
    }

    /// Where each dimension of the result of a `permute` comes from.
    fn order(&self) -> Option<Vec<i64>> {
        let (true, Some(Arg::List(order))) = (self.op == "permute", self.args.get(1)) else { return None };
        let dim = |arg: &Arg| match arg {
            Arg::Int(Size::Known(dim)) => Some(dim.rem_euclid(order.len() as i64)),
            _ => None,
        };
        order.iter().map(dim).collect()
    }
}
