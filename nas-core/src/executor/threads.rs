//! Trials that need no process of their own, side by side on threads: a look at a table, or somebody else's program. A process of
//! this program would cost half a second of a core to begin with, for libtorch.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Result;

use super::{Executor, outcome_of, trial_folder, write_trial};
use crate::run::interrupt::{self, Interrupted};
use crate::space::trial::{Outcome, Record, Trial, Values};

/// Runs a trial, whose folder is given.
pub type Evaluate = Arc<dyn Fn(&Trial, &Path) -> Result<Values> + Send + Sync>;

/// A pool of threads. A trial's folder holds `trial.json`, so that a search that is killed knows what it had begun.
pub struct Threads {
    root: PathBuf,
    workers: usize,
    evaluate: Evaluate,
    sender: Sender<Record>,
    receiver: Receiver<Record>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Threads").field("root", &self.root).field("workers", &self.workers).finish()
    }
}

impl Threads {
    /// At most `workers` trials at a time, their folders below `root`.
    pub fn new(root: PathBuf, workers: usize, evaluate: Evaluate) -> Self {
        let (sender, receiver) = channel();
        Self { root, workers, evaluate, sender, receiver }
    }
}

impl Executor for Threads {
    fn capacity(&self) -> usize {
        self.workers
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let folder = trial_folder(&self.root, trial.id);
        write_trial(&folder, &trial)?;
        let (evaluate, sender) = (self.evaluate.clone(), self.sender.clone());
        std::thread::spawn(move || {
            let outcome = outcome_of(|| evaluate(&trial, &folder));
            // Nobody waits where the search has ended.
            let _ = sender.send(Record { trial, outcome });
        });
        Ok(())
    }

    fn wait(&mut self) -> Result<Record> {
        const POLL: Duration = Duration::from_millis(20);
        loop {
            let record = match self.receiver.recv_timeout(POLL) {
                Ok(record) => Some(record),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is here"),
            };
            let failed = record.as_ref().is_some_and(|record| matches!(record.outcome, Outcome::Failed(_)));
            // A trial that a signal ended has not failed.
            match record {
                Some(record) if !(failed && interrupt::requested()) => return Ok(record),
                _ if interrupt::requested() => return Err(Interrupted.into()),
                _ => {}
            }
        }
    }
}
