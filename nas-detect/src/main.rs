//! `nas-detect`: search, train and compare object detectors.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use nas_core::run::cli;
use nas_core::task::commands::analyse::{self, AnalyseArgs, NoNames};
use nas_core::task::commands::bench::{self, BenchArgs};
use nas_core::task::commands::compare::{self, CompareArgs};
use nas_core::task::commands::export::ExportArgs;
use nas_core::task::commands::gpu_check::GpuCheckArgs;
use nas_core::task::commands::import::{self, ImportArgs};
use nas_core::task::commands::init::{self, InitArgs};
use nas_core::task::commands::models::ModelsArgs;
use nas_core::task::commands::report::{self, ReportArgs};
use nas_core::task::commands::search::{self, SearchArgs};
use nas_core::task::commands::strategies::{self, StrategiesArgs};
use nas_core::task::commands::train::{self, TrainArgs};
use nas_core::task::commands::trial::{self, TrialArgs};
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
    #[command(
        after_help = "A search on shared weights leaves one folder: pretrain/ (where the experiment has a section `pretrain`), the
supernet's training, supernet_search/trials.jsonl with every candidate, and the experiments of two trainings of the best one,
from random weights and from the supernet's. --resume goes on wherever the run was cut off.

Examples:
  nas-detect search --config configs/detect/shapes_search.toml --out runs/search
  nas-detect search --config configs/detect/shapes_neck_search.toml --workers 2 --out runs/necks"
    )]
    Search(SearchArgs),
    #[command(hide = true)]
    Trial(TrialArgs),
    #[command(after_help = "Examples:
  nas-detect train --config configs/detect/shapes.toml --out runs/shapes
  nas-detect train --config my.toml --set model.backbone.arch=runs/search/result.json --set train.init=runs/search --resume")]
    Train(TrainArgs),
    Eval(commands::eval::EvalArgs),
    Predict(commands::predict::PredictArgs),
    #[command(after_help = "Example:
  nas-detect compare --config configs/detect/bccd_compare.toml --out runs/bccd --resume")]
    Compare(CompareArgs),
    Cost(cost::CostArgs),
    #[command(after_help = "Example:
  nas-detect report runs/shapes")]
    Report(ReportArgs),
    #[command(after_help = "Example:
  nas-detect init --data photos --out experiments")]
    Init(InitArgs),
    #[command(after_help = "Examples:
  nas-detect export --run runs/derived --out derived.onnx
  python -c 'import onnxruntime as ort; print(ort.InferenceSession(\"derived.onnx\").get_modelmeta().custom_metadata_map)'")]
    Export(ExportArgs),
    Import(ImportArgs),
    Models(ModelsArgs),
    #[command(after_help = "Example:
  nas-detect analyse runs/search/trials.jsonl --metric ap --html insight.html")]
    Analyse(AnalyseArgs),
    Data(commands::data::DataArgs),
    Bench(BenchArgs),
    GpuCheck(GpuCheckArgs),
    Strategies(StrategiesArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let command = cli::parse::<Cli>().command;
    cli::run(move || match &command {
        Command::Search(args) => search::run::<Detection>(args),
        Command::Trial(args) => trial::run::<Detection>(args),
        Command::Train(args) => train::run::<Detection>(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Compare(args) => compare::run::<Detection>(args),
        Command::Cost(args) => cli::print(&cost::run(args)?, args.format),
        Command::Init(args) => init::run::<Detection>(args),
        Command::Export(args) => commands::export::run(args),
        Command::Import(args) => import::run(args),
        Command::Models(args) => commands::models::run(args),
        Command::Analyse(args) => analyse::run(args, &NoNames),
        Command::Report(args) => report::run::<Detection>(args),
        Command::Data(args) => commands::data::run(args),
        Command::Bench(args) => bench::run::<Detection>(args),
        Command::GpuCheck(args) => commands::gpu_check::run(args),
        Command::Strategies(args) => strategies::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "nas-detect", &mut std::io::stdout());
            Ok(())
        }
    })
}
