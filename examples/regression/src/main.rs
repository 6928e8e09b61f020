//! `nas-regress`: a task of one's own, to be copied. Networks read a number from an image; the data are `train.csv` and `val.csv` in a
//! folder, with lines `FILE,NUMBER`.
//!
//! ```text
//! cargo build --release -p nas-regress
//! target/release/nas-regress init --data FOLDER --out experiments
//! target/release/nas-regress search --config experiments/search.toml --out runs/search --workers 2
//! ```

mod data;
mod space;
mod task;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nas_core::run::cli;
use nas_core::task::commands::common::Common;

/// Search for networks that read a number from an image
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Common(Common),
}

fn main() -> ExitCode {
    let Command::Common(command) = cli::parse::<Cli>(&[]).command;
    cli::run(move || command.run::<task::Regression>(|| cli::command::<Cli>(&[])))
}
