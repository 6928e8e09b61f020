//! `trial`: one trial of a search in a process of its own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::executor::{outcome_unless_stopped, read_trial, serve, write_record};
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
    /// DIR is a worker's folder: run one trial after another, as long as the search has any
    #[arg(long)]
    worker: bool,
    /// Where and how to compute
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run<T: Task>(args: &TrialArgs) -> Result<()> {
    let compute = args.compute.resolve()?;
    let run = |folder: &Path| {
        let trial = read_trial(folder)?;
        // Whoever started it starts one again that a signal has ended.
        let evaluate = || Evaluator::<T>::of_trial(folder)?.evaluate(&trial, folder, compute);
        let outcome = outcome_unless_stopped(evaluate)?;
        write_record(folder, &Record { trial, outcome })
    };
    if args.worker { serve(&args.folder, run) } else { run(&args.folder) }
}
