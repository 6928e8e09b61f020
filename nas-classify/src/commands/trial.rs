//! `nas-classify trial`: one trial of a search in a process of its own.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nas_core::executor::{outcome_of, read_trial, write_record};
use nas_core::trial::Record;

use crate::experiment::of_trial;

/// Run one trial of a search (started by `search --workers`)
#[derive(Clone, Debug, Args)]
pub struct TrialArgs {
    /// The trial's folder, which holds trial.json
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Threads of libtorch
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
}

/// Runs the command.
pub fn run(args: &TrialArgs) -> Result<()> {
    tch::set_num_threads(args.threads.max(1) as i32);
    let trial = read_trial(&args.folder)?;
    let outcome = outcome_of(|| of_trial(&args.folder)?.evaluate(&trial));
    write_record(&args.folder, &Record { trial, outcome })
}
