//! `trial`: one trial of a search in a process of its own.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::executor::{outcome_unless_stopped, read_trial, write_record};
use crate::run::cli::ComputeArgs;
use crate::space::trial::Record;
use crate::task::Task;
use crate::task::evaluator::Evaluator;

/// Run one trial of a search (started by searches whose trials run in processes)
#[derive(Clone, Debug, Args)]
pub struct TrialArgs {
    /// The trial's folder, which holds trial.json
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where and how to compute
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run<T: Task>(args: &TrialArgs) -> Result<()> {
    let compute = args.compute.resolve()?;
    let trial = read_trial(&args.folder)?;
    // Whoever started it starts one again that a signal has ended.
    let evaluate = || Evaluator::<T>::of_trial(&args.folder)?.evaluate(&trial, &args.folder, compute);
    let outcome = outcome_unless_stopped(evaluate)?;
    write_record(&args.folder, &Record { trial, outcome })
}
