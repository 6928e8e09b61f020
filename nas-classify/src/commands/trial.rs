//! `nas-classify trial`: one trial of a search in a process of its own.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use nas_core::executor::{outcome_of, read_trial, write_record};
use nas_core::run::cli::Compute;
use nas_core::space::trial::Record;

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
    let threads = args.threads.max(1);
    tch::set_num_threads(threads as i32);
    // Children that share the machine compute on the CPU.
    let compute = Compute { device: tch::Device::Cpu, threads, amp: false };
    let trial = read_trial(&args.folder)?;
    let outcome = outcome_of(|| of_trial(&args.folder)?.evaluate(&trial, &args.folder, compute));
    write_record(&args.folder, &Record { trial, outcome })
}
