//! `nas-detect`: search, train and compare object detectors.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nas_core::run::cli;
use nas_core::task::commands::common::Common;
use nas_core::task::commands::data::DataArgs;
use nas_core::task::commands::gpu_check::GpuCheckArgs;
use nas_core::task::commands::models::ModelsArgs;
use nas_detect::task::Detection;
use nas_detect::{commands, cost};

/// Search, train and compare object detectors
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Jobs:
  search    nas-detect search --config configs/detect/shapes_search.toml --out runs/search
  train     nas-detect train --config configs/detect/shapes.toml --out runs/shapes
  compare   nas-detect compare --config configs/detect/bccd_compare.toml --out runs/bccd
  predict   nas-detect predict --run runs/shapes --out predictions

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
    Export(commands::export::DetectorExportArgs),
    Models(ModelsArgs),
    Data(DataArgs<commands::data::SynthArgs>),
    GpuCheck(GpuCheckArgs),
}

/// What ends the help of the commands that all tasks have.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "search",
        "A search on shared weights leaves one folder: pretrain/ (where the experiment has a section `pretrain`), the
supernet's training, supernet_search/trials.jsonl with every candidate, and the experiments of two trainings of the best one,
from random weights and from the supernet's. --resume goes on wherever the run was cut off.

Examples:
  nas-detect search --config configs/detect/shapes_search.toml --out runs/search
  nas-detect search --config configs/detect/shapes_neck_search.toml --workers 2 --out runs/necks",
    ),
    (
        "train",
        "Examples:
  nas-detect train --config configs/detect/shapes.toml --out runs/shapes
  nas-detect train --config my.toml --set model.backbone.arch=runs/search/result.json --set train.init=runs/search --resume",
    ),
    (
        "compare",
        "Example:
  nas-detect compare --config configs/detect/bccd_compare.toml --out runs/bccd --resume",
    ),
    (
        "analyse",
        "Example:
  nas-detect analyse runs/search/trials.jsonl --metric ap --html insight.html",
    ),
];

fn main() -> ExitCode {
    let command = cli::parse::<Cli>(EXAMPLES).command;
    cli::run(move || match &command {
        Command::Common(args) => args.run::<Detection>(|| cli::command::<Cli>(EXAMPLES)),
        Command::Eval(args) => commands::eval::run(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Cost(args) => cli::print(&cost::run(args)?, args.format),
        Command::Export(args) => commands::export::run(args),
        Command::Models(args) => commands::models::run(args),
        Command::Data(args) => args.run::<Detection>(commands::data::synth),
        Command::GpuCheck(args) => commands::gpu_check::run(args),
    })
}
