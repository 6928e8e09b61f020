//! `trial`: one trial of a search in a process of its own.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::executor::{outcome_of, read_trial, write_record};
use crate::run::cli::ComputeArgs;
use crate::run::interrupt::{self, Interrupted};
use crate::space::trial::{Outcome, Record};
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
    let outcome = outcome_of(|| Evaluator::<T>::of_trial(&args.folder)?.evaluate(&trial, &args.folder, compute));
    // A trial that a signal ended has not failed: whoever started it starts it again.
    if interrupt::requested() && matches!(outcome, Outcome::Failed(_)) {
        return Err(Interrupted.into());
    }
    write_record(&args.folder, &Record { trial, outcome })
}
