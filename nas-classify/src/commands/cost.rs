//! `nas-classify cost`: parameters and multiply-adds of a network, counted from its structure without allocating or running
//! it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::arch::Architecture;
use nas_core::cli::{Format, parse_size};
use nas_core::compare::table;
use nas_core::nn::{Shape, VarBuilder};
use nas_core::space::Cost;
use nas_core::{config, run_dir};
use serde::{Deserialize, Serialize};

use crate::model::ModelConfig;

/// Count a network's parameters and multiply-adds, part by part
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify cost darts_v2 --size 32x32 --num-classes 10
  nas-classify cost mobilenet_v3_large --format json
  nas-classify cost nasbench201_resnet --arch 3-3-3-1-3-2

A multiply-add is one multiplication and one addition of a convolution or linear layer; norms, activations, pooling and
additions are not counted. Parameters are the trained ones: weights, biases, scales and shifts of norms. What serves in
training only (auxiliary heads) is not counted.")]
pub struct CostArgs {
    /// A preset, or an experiment file with a section `model`
    pub name: String,
    /// Height and width of the image [default: 32x32, or 224x224 for a network for ImageNet]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<(i64, i64)>,
    /// Classes of the logits [default: 10, or 1000 for a network for ImageNet]
    #[arg(long, value_name = "K")]
    pub num_classes: Option<i64>,
    /// Another architecture of the network's space: its text, or a search's run folder or result.json
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// How to print the counts
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Counts of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostReport {
    /// The preset or the experiment file.
    pub name: String,
    /// Height and width of the image.
    pub size: (i64, i64),
    /// Classes of the logits.
    pub num_classes: i64,
    /// Parameters and multiply-adds of the network.
    #[serde(flatten)]
    pub total: Cost,
    /// Counts of the parts, from input to output.
    pub parts: Vec<Part>,
}

/// Counts of one part of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The part's name.
    pub name: String,
    /// Its parameters and multiply-adds.
    #[serde(flatten)]
    pub cost: Cost,
}

/// Runs the command.
pub fn run(args: &CostArgs) -> Result<CostReport> {
    let mut model = named(&args.name)?;
    if let Some(text) = &args.arch {
        model = model.with_arch(architecture(text)?).with_context(|| format!("--arch: {}", args.name))?;
    }
    let reference = model.reference();
    let (h, w) = args.size.unwrap_or(reference.size);
    let num_classes = args.num_classes.unwrap_or(reference.num_classes);
    let net = model.build(&VarBuilder::dry(), num_classes).with_context(|| args.name.clone())?;
    let input = Shape::new(3, h, w);
    let parts = net.cost_parts(input).into_iter();
    Ok(CostReport {
        name: args.name.clone(),
        size: (h, w),
        num_classes,
        total: net.cost(input),
        parts: parts.map(|(name, cost)| Part { name, cost }).collect(),
    })
}

/// The model of a preset or of an experiment file.
fn named(name: &str) -> Result<ModelConfig> {
    let path = Path::new(name);
    match ModelConfig::preset(name) {
        Err(_) if path.extension().is_some() || path.is_file() => {
            let mut table = config::read_table(path, &[])?;
            let model = table.remove("model").with_context(|| format!("{name}: there is no section [model]"))?;
            let table = model.as_table().cloned().with_context(|| format!("{name}: model is no section"))?;
            Ok(config::from_table(table, &format!("{name}, section [model]"))?)
        }
        preset => preset.with_context(|| format!("{name}: neither an experiment file nor a preset")),
    }
}

/// Reads an architecture from its text or from the result of a search.
fn architecture(text: &str) -> Result<Architecture> {
    #[derive(Deserialize)]
    struct SearchResult {
        architecture: Architecture,
    }
    let path = Path::new(text);
    if path.is_dir() {
        return Ok(run_dir::read_json::<SearchResult>(&path.join("result.json"))?.architecture);
    }
    match path.extension().is_some() {
        true => Ok(run_dir::read_json::<SearchResult>(path)?.architecture),
        false => text.parse().context("--arch"),
    }
}

impl fmt::Display for CostReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (h, w) = self.size;
        writeln!(f, "{} at {h}x{w}, {} classes", self.name, self.num_classes)?;
        let mut rows = vec![["part", "params", "", "multiply-adds", ""].map(String::from).to_vec()];
        rows.extend(self.parts.iter().map(|part| row(&part.name, part.cost)));
        rows.push(row("total", self.total));
        f.write_str(&table(&rows, false))
    }
}

fn row(name: &str, cost: Cost) -> Vec<String> {
    vec![
        name.to_string(),
        format!("{:.3} M", cost.params as f64 / 1e6),
        cost.params.to_string(),
        format!("{:.3} M", cost.macs as f64 / 1e6),
        cost.macs.to_string(),
    ]
}
