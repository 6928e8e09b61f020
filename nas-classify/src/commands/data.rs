//! `nas-classify data`: check a data set.

use anyhow::Result;
use clap::{Args, Subcommand};
use nas_core::task::commands::data::{CheckArgs, check};

use crate::task::Classification;

/// Check a data set
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum DataCommand {
    Check(CheckArgs),
}

/// Runs the command.
pub fn run(args: &DataArgs) -> Result<()> {
    let DataCommand::Check(args) = &args.command;
    check::<Classification>(args)
}
