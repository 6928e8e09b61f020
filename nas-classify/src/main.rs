//! `nas-classify`: search strategies for image classification.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use nas_classify::commands;
use nas_classify::task::Classification;
use nas_core::run::cli;
use nas_core::task::commands::analyse::{self, AnalyseArgs};
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
    #[command(after_help = "Examples:
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --out runs/nb201
  nas-classify search --config configs/classify/nasbench201_regularized_evolution.toml --set strategy.kind=tpe --workers 2
  nas-classify search --config configs/classify/cifar10_darts.toml --set data.root=../shared/data/cifar10")]
    Search(SearchArgs),
    Cost(commands::cost::CostArgs),
    #[command(after_help = "Examples:
  nas-classify train --config configs/classify/cifar10_small.toml --set data.root=../shared/data/cifar10
  nas-classify train --config my.toml --set model.arch=runs/search/result.json --out runs/derived --resume")]
    Train(TrainArgs),
    Eval(commands::eval::EvalArgs),
    #[command(after_help = "Example:
  nas-classify compare --config configs/classify/cifar10_compare.toml --out runs/cifar10 --resume")]
    Compare(CompareArgs),
    Predict(commands::predict::PredictArgs),
    #[command(after_help = "Example:
  nas-classify report runs/derived")]
    Report(ReportArgs),
    #[command(after_help = "Example:
  nas-classify init --data photos --out experiments")]
    Init(InitArgs),
    #[command(after_help = "Examples:
  nas-classify export --run runs/derived --out derived.onnx
  python -c 'import onnxruntime as ort; print(ort.InferenceSession(\"derived.onnx\").get_modelmeta().custom_metadata_map)'")]
    Export(ExportArgs),
    Import(ImportArgs),
    Models(ModelsArgs),
    #[command(after_help = "Examples:
  nas-classify analyse nasbench201.csv.gz --metric cifar10_test_200 --transfer cifar100_test_200 --html insight.html
  nas-classify analyse nasbench201.csv.gz --metric cifar10_test_200 --where connected --transform ln-error
  nas-classify analyse runs/nb201/trials.jsonl --metric cifar10_valid_200 --format json")]
    Analyse(AnalyseArgs),
    Data(commands::data::DataArgs),
    Bench(BenchArgs),
    BenchStep(commands::bench_step::BenchStepArgs),
    GpuCheck(GpuCheckArgs),
    Strategies(StrategiesArgs),
    #[command(hide = true)]
    Trial(TrialArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let command = cli::parse::<Cli>().command;
    cli::run(move || match &command {
        Command::Search(args) => search::run::<Classification>(args),
        Command::Train(args) => train::run::<Classification>(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Compare(args) => compare::run::<Classification>(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Report(args) => report::run::<Classification>(args),
        Command::Export(args) => commands::export::run(args),
        Command::Init(args) => init::run::<Classification>(args),
        Command::Import(args) => import::run(args),
        Command::Models(args) => commands::models::run(args),
        Command::Analyse(args) => analyse::run(args, &commands::analyse::ClassifySpaces),
        Command::Data(args) => commands::data::run(args),
        Command::Trial(args) => trial::run::<Classification>(args),
        Command::Cost(args) => cli::print(&commands::cost::run(args)?, args.format),
        Command::Bench(args) => bench::run::<Classification>(args),
        Command::BenchStep(args) => commands::bench_step::run(args),
        Command::GpuCheck(args) => commands::gpu_check::run(args),
        Command::Strategies(args) => strategies::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "nas-classify", &mut std::io::stdout());
            Ok(())
        }
    })
}
