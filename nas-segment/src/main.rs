//! `nas-segment`: search, train and compare segmentation networks.

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
    #[command(after_help = "Examples:
  nas-segment search --config configs/segment/camvid_auto_deeplab.toml --set data.root=../shared/data/camvid
  nas-segment search --config configs/segment/cityscapes_auto_deeplab.toml --set data.root=/data/cityscapes --amp")]
    Search(SearchArgs),
    #[command(hide = true)]
    Trial(TrialArgs),
    #[command(after_help = "Examples:
  nas-segment train --config configs/segment/camvid_deeplabv3plus.toml --set data.root=../shared/data/camvid
  nas-segment train --config my.toml --set model.arch=runs/search/result.json --out runs/derived --resume")]
    Train(TrainArgs),
    Eval(commands::eval::EvalArgs),
    #[command(after_help = "Example:
  nas-segment compare --config configs/segment/camvid_compare.toml --set data.root=../shared/data/camvid \\
      --out runs/camvid --resume")]
    Compare(CompareArgs),
    Predict(commands::predict::PredictArgs),
    Cost(cost::CostArgs),
    Sample(commands::sample::SampleArgs),
    Miou(miou::MiouArgs),
    #[command(after_help = "Example:
  nas-segment report runs/search")]
    Report(ReportArgs),
    #[command(after_help = "Example:
  nas-segment init --data photos --out experiments")]
    Init(InitArgs),
    #[command(after_help = "Examples:
  nas-segment export --run runs/derived --out derived.onnx
  python -c 'import onnxruntime as ort; print(ort.InferenceSession(\"derived.onnx\").get_modelmeta().custom_metadata_map)'")]
    Export(ExportArgs),
    Import(ImportArgs),
    Models(ModelsArgs),
    #[command(after_help = "Example:
  nas-segment analyse runs/search/trials.jsonl --metric miou --html insight.html")]
    Analyse(AnalyseArgs),
    Data(commands::data::DataArgs),
    Bench(BenchArgs),
    BenchStep(commands::bench_step::BenchStepArgs),
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
        Command::Search(args) => search::run::<Segmentation>(args),
        Command::Trial(args) => trial::run::<Segmentation>(args),
        Command::Train(args) => train::run::<Segmentation>(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Compare(args) => compare::run::<Segmentation>(args),
        Command::Predict(args) => commands::predict::run(args),
        Command::Cost(args) => cli::print(&cost::run(args)?, args.format),
        Command::Sample(args) => commands::sample::run(args),
        Command::Miou(args) => cli::print(&miou::run(args)?, args.format),
        Command::Report(args) => report::run::<Segmentation>(args),
        Command::Init(args) => init::run::<Segmentation>(args),
        Command::Export(args) => commands::export::run(args),
        Command::Import(args) => import::run(args),
        Command::Models(args) => commands::models::run(args),
        Command::Analyse(args) => analyse::run(args, &NoNames),
        Command::Data(args) => commands::data::run(args),
        Command::Bench(args) => bench::run::<Segmentation>(args),
        Command::BenchStep(args) => commands::bench_step::run(args),
        Command::GpuCheck(args) => commands::gpu_check::run(args),
        Command::Strategies(args) => strategies::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "nas-segment", &mut std::io::stdout());
            Ok(())
        }
    })
}
