//! `nas-classify cost`: parameters and multiply-adds of a network, counted from its structure without allocating or running
//! it.

use anyhow::{Context, Result};
use clap::Args;
use nas_core::nn::{Shape, VarBuilder};
use nas_core::run::cli::{Format, parse_size};
use nas_core::task::TaskModel;
use nas_core::task::commands::cost::CostReport;
use nas_core::task::experiment::{named_model, searched_arch};

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
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(i64).range(1..=65_536))]
    pub num_classes: Option<i64>,
    /// Another architecture of the network's space: its text, or a search's run folder or result.json
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// How to print the counts
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Runs the command.
pub fn run(args: &CostArgs) -> Result<CostReport> {
    let mut model = named_model(&args.name, ModelConfig::preset)?;
    if let Some(text) = &args.arch {
        let found = searched_arch(text)?;
        let arch = found.as_ref().unwrap_or(text).parse().context("--arch")?;
        model = model.with_arch(arch).with_context(|| format!("--arch: {}", args.name))?;
    }
    let reference = model.reference();
    let (h, w) = args.size.unwrap_or(reference.size);
    let num_classes = args.num_classes.unwrap_or(reference.num_classes);
    let net = model.build(&VarBuilder::dry(), num_classes).with_context(|| args.name.clone())?;
    Ok(CostReport::new(&args.name, (h, w), num_classes, net.cost_parts(Shape::new(3, h, w))))
}
