//! `nas-classify`: search strategies for image classification.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nas_classify::commands;
use nas_classify::task::Classification;
use nas_core::run::cli;
use nas_core::task::commands::common::Common;
use nas_core::task::commands::export::ExportArgs;
use nas_core::task::commands::gpu_check::GpuCheckArgs;
use nas_core::task::commands::models::ModelsArgs;

/// Search strategies for image classification
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Results go to stdout, progress to stderr. Exit code 0: done; 1: the input is at fault or a signal came; \
                  2: a bug."
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
    Cost(commands::cost::CostArgs),
    Export(ExportArgs),
    Models(ModelsArgs),
    Data(commands::data::DataArgs),
    BenchStep(commands::bench_step::BenchStepArgs),
    GpuCheck(GpuCheckArgs),
}

/// What ends the help of the commands that all tasks have.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "search",
        "Examples:
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --out runs/nb201
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --set strategy.kind=tpe --workers 2
  nas-classify search --config configs/classify/cifar10_darts.toml --set data.root=../shared/data/cifar10",
    ),
    (
        "train",
        "Examples:
  nas-classify train --config configs/classify/cifar10_small.toml --set data.root=../shared/data/cifar10
  nas-classify train --config my.toml --set model.arch=runs/search/result.json --out runs/derived --resume",
    ),
    (
        "compare",
        "Example:
  nas-classify compare --config configs/classify/cifar10_compare.toml --out runs/cifar10 --resume",
    ),
    (
        "analyse",
        "Examples:
  nas-classify analyse nasbench201.csv.gz --metric cifar10_test_200 --transfer cifar100_test_200 --html insight.html
  nas-classify analyse nasbench201.csv.gz --metric cifar10_test_200 --where connected --transform ln-error
  nas-classify analyse runs/nb201/trials.jsonl --metric cifar10_valid_200 --format json",
    ),
];

fn main() -> ExitCode {
    let command = cli::parse::<Cli>(EXAMPLES).command;
    cli::run(move || match &command {
        Command::Common(args) => args.run::<Classification>(|| cli::command::<Cli>(EXAMPLES)),
        Command::Eval(args) => commands::eval::run(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Cost(args) => cli::print(&commands::cost::run(args)?, args.format),
        Command::Export(args) => commands::export::run(args),
        Command::Models(args) => commands::models::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::BenchStep(args) => commands::bench_step::run(args),
        Command::GpuCheck(args) => commands::gpu_check::run(args),
    })
}
