//! `nas-segment`: search, train and compare segmentation networks.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nas_core::run::cli;
use nas_core::task::commands::common::Common;
use nas_core::task::commands::data::DataArgs;
use nas_core::task::commands::export::ExportArgs;
use nas_core::task::commands::gpu_check::GpuCheckArgs;
use nas_core::task::commands::models::ModelsArgs;
use nas_segment::task::Segmentation;
use nas_segment::{commands, cost, miou};

/// Search, train and compare segmentation networks
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Three jobs:
  search    nas-segment search --config configs/segment/camvid_auto_deeplab.toml --set data.root=DIR --out runs/search
  train     nas-segment train --config configs/segment/camvid_derived.toml --set model.arch=runs/search/result.json
  compare   nas-segment compare --config configs/segment/camvid_compare.toml --out runs/compare

Results go to stdout, progress to stderr. Exit code 0: done; 1: the input is at fault or a signal came; 2: a bug."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Common(Common),
    Eval(commands::eval::EvalArgs),
    Predict(commands::predict::PredictArgs),
    Cost(cost::CostArgs),
    Sample(commands::sample::SampleArgs),
    Miou(miou::MiouArgs),
    Export(ExportArgs),
    Models(ModelsArgs),
    Data(DataArgs<commands::data::SynthArgs>),
    BenchStep(commands::bench_step::BenchStepArgs),
    GpuCheck(GpuCheckArgs),
}

/// What ends the help of the commands that all tasks have.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "search",
        "Examples:
  nas-segment search --config configs/segment/camvid_auto_deeplab.toml --set data.root=../shared/data/camvid
  nas-segment search --config configs/segment/cityscapes_auto_deeplab.toml --set data.root=/data/cityscapes --amp",
    ),
    (
        "train",
        "Examples:
  nas-segment train --config configs/segment/camvid_deeplabv3plus.toml --set data.root=../shared/data/camvid
  nas-segment train --config my.toml --set model.arch=runs/search/result.json --out runs/derived --resume",
    ),
    (
        "compare",
        "Example:
  nas-segment compare --config configs/segment/camvid_compare.toml --set data.root=../shared/data/camvid \\
      --out runs/camvid --resume",
    ),
    (
        "analyse",
        "Example:
  nas-segment analyse runs/search/trials.jsonl --metric miou --html insight.html",
    ),
];

fn main() -> ExitCode {
    let command = cli::parse::<Cli>(EXAMPLES).command;
    cli::run(move || match &command {
        Command::Common(args) => args.run::<Segmentation>(|| cli::command::<Cli>(EXAMPLES)),
        Command::Eval(args) => commands::eval::run(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Cost(args) => cli::print(&cost::run(args)?, args.format),
        Command::Sample(args) => commands::sample::run(args),
        Command::Miou(args) => cli::print(&miou::run(args)?, args.format),
        Command::Export(args) => commands::export::run(args),
        Command::Models(args) => commands::models::run(args),
        Command::Data(args) => args.run::<Segmentation>(commands::data::synth),
        Command::BenchStep(args) => commands::bench_step::run(args),
        Command::GpuCheck(args) => commands::gpu_check::run(args),
    })
}
