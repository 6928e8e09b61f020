//! `nas-segment cost`: parameters and multiply-adds of a network, counted from its structure without allocating or running
//! it.

use anyhow::{Context, Result};
use clap::Args;
use nas_core::nn::VarBuilder;
use nas_core::run::cli::{Format, parse_size};
use nas_core::task::TaskModel;
use nas_core::task::commands::cost::CostReport;
use nas_core::task::experiment::{named_model, searched_arch};

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
    #[arg(long, value_name = "K", default_value_t = 19, value_parser = clap::value_parser!(i64).range(1..=65_536))]
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

/// Runs the command.
pub fn run(args: &CostArgs) -> Result<CostReport> {
    let net = model(args)?.build(&VarBuilder::dry(), args.num_classes);
    let net = net.with_context(|| args.name.clone())?;
    Ok(CostReport::new(&args.name, args.size, args.num_classes, net.cost_parts(args.size)))
}

fn model(args: &CostArgs) -> Result<ModelConfig> {
    let mut model = named_model(&args.name, ModelConfig::preset)?;
    if let Some(stride) = args.output_stride {
        model = model.with_output_stride(stride).with_context(|| format!("--output-stride {stride}: {}", args.name))?;
    }
    if let Some(text) = &args.arch {
        let found = searched_arch(text)?;
        let arch = found.as_ref().unwrap_or(text).parse().context("--arch")?;
        model = model.with_arch(arch).with_context(|| format!("--arch: {}", args.name))?;
    }
    Ok(model)
}
