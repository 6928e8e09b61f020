//! A network as the source of a PyTorch module, to be read and changed: one line per operator, and the weights by their names
//! from the safetensors file beside it.

use std::collections::HashMap;
use std::fmt::Write;

use super::graph::{Arg, Graph, Id, Node, Size};

/// The source of `graph`; `weights` is the name of the file beside it, `about` what its heading says.
pub fn source(graph: &Graph, weights: &str, about: &[String]) -> String {
    let names: HashMap<Id, String> =
        graph.parameters.iter().map(|parameter| (parameter.id, format!("p[{:?}]", parameter.name))).collect();
    let printer = Printer { graph, names };
    let mut text = format!("\"\"\"{}\n\"\"\"\n\n", about.join("\n"));
    text += "from pathlib import Path\n\nimport torch\nimport torch.nn.functional as F\nfrom safetensors.torch import load_file\n\n\n";
    text += "# Trained tensors and fixed ones, with their shapes.\n";
    for (title, trained) in [("PARAMETERS", true), ("BUFFERS", false)] {
        writeln!(text, "{title} = {{").expect("a text takes all");
        for parameter in graph.parameters.iter().filter(|parameter| parameter.trained == trained) {
            let sides: Vec<String> = parameter.tensor.size().iter().map(i64::to_string).collect();
            writeln!(text, "    {:?}: [{}],", parameter.name, sides.join(", ")).expect("a text takes all");
        }
        text += "}\n\n";
    }
    text += &format!("\n{CLASS}");
    text += &printer.forward();
    text + &format!(
        "\n\ndef load(weights=Path(__file__).with_name({weights:?})):\n    \"\"\"The network with its weights, for \
         evaluation.\"\"\"\n    network = Network()\n    network.load_state_dict(load_file(weights))\n    return \
         network.eval()\n"
    )
}

const CLASS: &str = r#"class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in PARAMETERS.items():
            self._place(name).register_parameter(name.split(".")[-1], torch.nn.Parameter(torch.zeros(shape)))
        for name, shape in BUFFERS.items():
            self._place(name).register_buffer(name.split(".")[-1], torch.zeros(shape))

    def _place(self, name):
        """The module that holds the tensor `name`; made where there is none."""
        module = self
        for part in name.split(".")[:-1]:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        return module

"#;

struct Printer<'a> {
    graph: &'a Graph,
    names: HashMap<Id, String>,
}

impl Printer<'_> {
    fn forward(&self) -> String {
        let mut text = "    def forward(self, images):\n        p = dict(self.named_parameters())\n        \
                        p.update(self.named_buffers())\n"
            .to_string();
        let mut part = "";
        for node in &self.graph.nodes {
            // Which part of the network a line belongs to follows from its weights.
            if let Some(now) = self.part_of(node).filter(|now| *now != part) {
                part = now;
                writeln!(text, "        # {part}").expect("a text takes all");
            }
            let outputs: Vec<String> = node.outputs.iter().map(|id| self.name(*id)).collect();
            writeln!(text, "        {} = {}", outputs.join(", "), self.call(node)).expect("a text takes all");
        }
        let results: Vec<String> = self.graph.outputs.iter().map(|(_, id)| self.name(*id)).collect();
        text + &format!("        return {}\n", results.join(", "))
    }

    fn part_of(&self, node: &Node) -> Option<&str> {
        let parameter = self.graph.parameters.iter().find(|parameter| node.inputs().contains(&parameter.id))?;
        parameter.name.rsplit_once('.').map(|(part, _)| part)
    }

    fn name(&self, id: Id) -> String {
        match self.names.get(&id) {
            Some(name) => name.clone(),
            None if id == self.graph.input => "images".into(),
            None => format!("x{id}"),
        }
    }

    fn call(&self, node: &Node) -> String {
        let arg = |i: usize| node.args.get(i).map_or("None".to_string(), |arg| self.argument(arg));
        let pick = |function: &str, places: &[usize]| {
            // What the script leaves out at the end is a default here too.
            let given = places.iter().filter(|i| **i < node.args.len());
            let args: Vec<String> = given.map(|i| arg(*i)).collect();
            format!("{function}({})", args.join(", "))
        };
        match node.op.as_str() {
            "_convolution" => pick("F.conv2d", &[0, 1, 2, 3, 4, 5, 8]),
            "batch_norm" => pick("F.batch_norm", &[0, 3, 4, 1, 2, 5, 6, 7]),
            "group_norm" => pick("F.group_norm", &[0, 1, 2, 3, 4]),
            "upsample_bilinear2d" => {
                format!("F.interpolate({}, size={}, mode=\"bilinear\", align_corners={})", arg(0), arg(1), arg(2))
            }
            "upsample_nearest2d" => format!("F.interpolate({}, size={}, mode=\"nearest\")", arg(0), arg(1)),
            "constant_pad_nd" if node.args.len() > 2 => format!("F.pad({}, {}, value={})", arg(0), arg(1), arg(2)),
            "constant_pad_nd" => format!("F.pad({}, {})", arg(0), arg(1)),
            "hardtanh"
                if node.args[1..] == [Arg::Int(Size::Known(0)), Arg::Int(Size::Known(6))]
                    || node.args[1..] == [Arg::Float(0.0), Arg::Float(6.0)] =>
            {
                format!("F.relu6({})", arg(0))
            }
            "hardtanh"
            | "hardswish"
            | "hardsigmoid"
            | "silu"
            | "linear"
            | "max_pool2d"
            | "avg_pool2d"
            | "dropout"
            | "relu"
            | "relu6"
            | "adaptive_avg_pool2d" => self.generic("F", node),
            "slice" => self.slice(node),
            "view" | "reshape" => format!("{}.reshape({})", arg(0), arg(1)),
            "expand" => format!("{}.expand({})", arg(0), arg(1)),
            "split_with_sizes" => format!("torch.split({}, {}, dim={})", arg(0), arg(1), arg(2)),
            "zeros_like" => format!("torch.zeros_like({})", arg(0)),
            _ => self.generic("torch", node),
        }
    }

    fn generic(&self, module: &str, node: &Node) -> String {
        let mut args: Vec<String> = node.args.iter().map(|arg| self.argument(arg)).collect();
        while args.last().is_some_and(|last| last == "None") {
            args.pop();
        }
        for (key, arg) in &node.named {
            match (key.as_str(), arg) {
                ("device", _) => args.push("device=images.device".into()),
                ("dtype", Arg::Int(Size::Known(6))) => args.push("dtype=torch.float32".into()),
                ("layout" | "pin_memory" | "dtype", _) | (_, Arg::None) => {}
                ("alpha", Arg::Int(Size::Known(1))) => {}
                _ => args.push(format!("{key}={}", self.argument(arg))),
            }
        }
        format!("{module}.{}({})", node.op, args.join(", "))
    }

    /// `x[:, :, a:b:c]`.
    fn slice(&self, node: &Node) -> String {
        let bound = |i: usize, default: i64| match node.args.get(i) {
            None | Some(Arg::None) => String::new(),
            Some(Arg::Int(Size::Known(n))) if *n == default => String::new(),
            Some(arg) => self.argument(arg),
        };
        let dim = match node.args.get(1) {
            Some(Arg::Int(Size::Known(dim))) => *dim as usize,
            _ => 0,
        };
        let (start, end, step) = (bound(2, 0), bound(3, i64::MAX), bound(4, 1));
        let step = if step.is_empty() { step } else { format!(":{step}") };
        format!("{}[{}{start}:{end}{step}]", self.argument(&node.args[0]), ":, ".repeat(dim))
    }

    fn argument(&self, arg: &Arg) -> String {
        match arg {
            Arg::Value(id) => self.name(*id),
            Arg::Int(Size::Known(n)) => n.to_string(),
            Arg::Int(Size::Of(id, dim, rule)) => rule.text(&format!("{}.shape[{dim}]", self.name(*id))),
            Arg::Float(x) => format!("{x:?}"),
            Arg::Bool(truth) => if *truth { "True" } else { "False" }.into(),
            Arg::Training => "self.training".into(),
            Arg::Text(text) => format!("{text:?}"),
            Arg::None => "None".into(),
            Arg::List(items) => {
                let items: Vec<String> = items.iter().map(|item| self.argument(item)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }
}
