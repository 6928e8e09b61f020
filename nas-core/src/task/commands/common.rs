//! The commands that are the same in the programs of all tasks.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use clap_complete::Shell;

use super::analyse::{self, AnalyseArgs};
use super::ask::{self, AskArgs, TellArgs};
use super::bench::{self, BenchArgs};
use super::compare::{self, CompareArgs};
use super::import::{self, ImportArgs};
use super::init::{self, InitArgs};
use super::latency::{self, LatencyArgs};
use super::latency_table::{self, LatencyTableArgs};
use super::report::{self, ReportArgs};
use super::search::{self, SearchArgs};
use super::strategies::{self, StrategiesArgs};
use super::train::{self, TrainArgs};
use super::trial::{self, TrialArgs};
use super::watch::{self, WatchArgs};
use crate::run::cli::print_text;
use crate::task::{Task, schema};

/// See the module.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the arguments of a command say what it does")]
pub enum Common {
    Search(SearchArgs),
    #[command(hide = true)]
    Trial(TrialArgs),
    #[command(
        after_help = "Example:\n  PROGRAM ask --config search.toml --run runs/search\n  PROGRAM tell --run runs/search 0 miou=0.41"
    )]
    Ask(AskArgs),
    #[command(after_help = "Example:\n  PROGRAM tell --run runs/search 0 miou=0.41")]
    Tell(TellArgs),
    Train(TrainArgs),
    Compare(CompareArgs),
    #[command(after_help = "Example:\n  PROGRAM report runs/derived")]
    Report(ReportArgs),
    #[command(after_help = "Example:\n  PROGRAM watch runs/search")]
    Watch(WatchArgs),
    #[command(after_help = "Example:\n  PROGRAM init --data photos --out experiments")]
    Init(InitArgs),
    Import(ImportArgs),
    Analyse(AnalyseArgs),
    Bench(BenchArgs),
    Latency(LatencyArgs),
    LatencyTable(LatencyTableArgs),
    Strategies(StrategiesArgs),
    /// Print the JSON schema of the experiment files, for editors and other programs
    #[command(
        after_help = "Example:\n  PROGRAM schema > schema.json     # then `#:schema ./schema.json` as a file's first line"
    )]
    Schema,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages, one per command
    #[command(hide = true)]
    Man {
        /// Folder to write to
        folder: PathBuf,
    },
}

impl Common {
    /// Runs the command. `program` is what completions and manual pages are for.
    pub fn run<T: Task>(&self, program: fn() -> clap::Command) -> Result<()> {
        match self {
            Self::Search(args) => search::run::<T>(args),
            Self::Trial(args) => trial::run::<T>(args),
            Self::Ask(args) => ask::ask::<T>(args),
            Self::Tell(args) => ask::tell::<T>(args),
            Self::Train(args) => train::run::<T>(args),
            Self::Compare(args) => compare::run::<T>(args),
            Self::Report(args) => report::run::<T>(args),
            Self::Watch(args) => watch::run::<T>(args),
            Self::Init(args) => init::run::<T>(args),
            Self::Import(args) => import::run(args),
            Self::Analyse(args) => analyse::run::<T>(args),
            Self::Bench(args) => bench::run::<T>(args),
            Self::Latency(args) => latency::run::<T>(args),
            Self::LatencyTable(args) => latency_table::run::<T>(args),
            Self::Strategies(args) => strategies::run(args),
            Self::Schema => print_text(&schema::text::<T>()),
            Self::Completions { shell } => print_text(&completions(*shell, program(), T::PROGRAM)?),
            Self::Man { folder } => {
                let write =
                    || std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(program(), folder));
                write().with_context(|| format!("{}: cannot write manual pages", folder.display()))
            }
        }
    }
}

/// The script by which `shell` completes the command line of a program.
fn completions(shell: Shell, mut program: clap::Command, name: &str) -> Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
    // clap issue 6421: for bash it writes the hyphen of the name in two ways, and nothing below the subcommands is completed.
    Ok(String::from_utf8(script)?.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")))
}
