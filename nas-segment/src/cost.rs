//! `nas-segment cost`: parameters and multiply-adds of a network, counted from its structure without allocating or running
//! it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::cli::{Format, parse_size};
use nas_core::compare::table;
use nas_core::nn::VarBuilder;
use nas_core::space::Cost;
use serde::{Deserialize, Serialize};

use crate::experiment;
use crate::model::ModelConfig;

/// Count a network's parameters and multiply-adds, part by part
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment cost auto_deeplab_s --size 1024x2048 --num-classes 19
  nas-segment cost deeplabv3plus_xception71 --size 1024x2048 --num-classes 19 --output-stride 8
  nas-segment cost auto_deeplab_s --arch runs/search/result.json
  nas-segment cost configs/segment/camvid_deeplabv3plus.toml --size 360x480 --num-classes 11 --format json

A multiply-add is one multiplication and one addition of a convolution; norms, activations, pooling and interpolation are
not counted. Parameters are the trained ones: weights, biases, scales and shifts of norms.")]
pub struct CostArgs {
    /// A preset, or an experiment file with a section `model`
    pub name: String,
    /// Height and width of the image
    #[arg(long, value_name = "HxW", default_value = "1024x2048", value_parser = parse_size)]
    pub size: (i64, i64),
    /// Classes of the logits
    #[arg(long, value_name = "K", default_value_t = 19)]
    pub num_classes: i64,
    /// Output stride of a DeepLabv3+
    #[arg(long, value_name = "8|16|32")]
    pub output_stride: Option<i64>,
    /// Architecture of an Auto-DeepLab: its text, or a search's run folder or result.json
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
    let (h, w) = args.size;
    let net = model(args)?.build(&VarBuilder::dry(), args.num_classes);
    let net = net.with_context(|| args.name.clone())?;
    let parts = net.cost_parts((h, w)).into_iter();
    Ok(CostReport {
        name: args.name.clone(),
        size: args.size,
        num_classes: args.num_classes,
        total: net.cost(args.size),
        parts: parts.map(|(name, cost)| Part { name, cost }).collect(),
    })
}

fn model(args: &CostArgs) -> Result<ModelConfig> {
    let mut model = named(&args.name)?;
    if let Some(stride) = args.output_stride {
        model = model.with_output_stride(stride).with_context(|| format!("--output-stride {stride}: {}", args.name))?;
    }
    if let Some(text) = &args.arch {
        let found = experiment::searched_arch(text)?;
        let arch = found.as_ref().unwrap_or(text).parse().context("--arch")?;
        model = model.with_arch(arch).with_context(|| format!("--arch: {}", args.name))?;
    }
    Ok(model)
}

/// The model of a preset or of an experiment file.
fn named(name: &str) -> Result<ModelConfig> {
    /// The one section of an experiment that is of interest here.
    #[derive(Deserialize)]
    struct Experiment {
        model: ModelConfig,
    }
    let path = Path::new(name);
    match ModelConfig::preset(name) {
        Err(_) if path.extension().is_some() || path.is_file() => Ok(experiment::load::<Experiment>(path, &[])?.model),
        preset => preset.with_context(|| format!("{name}: neither an experiment file nor a preset")),
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
        format!("{:.3} G", cost.macs as f64 / 1e9),
        cost.macs.to_string(),
    ]
}
