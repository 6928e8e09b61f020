//! Trials as jobs of a cluster's queue, found again by their names: the search may end and go on while they run. The run folder
//! is on a file system that all nodes share; `record.json` in a trial's folder is what ends it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Executor, end_of, failed, left_record, trial_folder, write_trial};
use crate::run::cli::Compute;
use crate::run::interrupt::{self, Interrupted};
use crate::space::trial::{Record, Trial};

/// Between looks at the files of trials.
const POLL: Duration = Duration::from_millis(100);
/// Between questions to the queue.
const ASK: Duration = Duration::from_secs(2);
/// For how long a file may be on its way from a node whose job has ended.
const GRACE: Duration = Duration::from_secs(10);

/// A cluster's queue of jobs.
pub trait Queue: fmt::Debug {
    /// Jobs whose names begin with `prefix` and that wait or run: their numbers by name.
    fn alive(&self, prefix: &str) -> Result<HashMap<String, String>>;

    /// Submits a job; returns its number.
    fn submit(&self, job: &NewJob) -> Result<String>;

    /// How the job of a number ended, such as `CANCELLED`.
    fn state(&self, id: &str) -> String;

    /// What stands, in the job's shell, for the threads that it may use.
    fn threads(&self) -> &'static str;
}

/// A job to submit.
#[derive(Debug)]
pub struct NewJob {
    /// Unique among the jobs of the user.
    pub name: String,
    /// What a POSIX shell runs.
    pub command: String,
    /// The trial's folder.
    pub folder: PathBuf,
}

/// Runs trials as jobs of a queue.
#[derive(Debug)]
pub struct Jobs<Q> {
    queue: Q,
    root: PathBuf,
    /// Jobs that wait or run at a time.
    workers: usize,
    /// Options of the command `trial`.
    flags: Vec<String>,
    /// Begins the names of all jobs of this search.
    prefix: String,
    /// This search's jobs by name, as the queue last gave them.
    known: HashMap<String, String>,
    asked: Option<Instant>,
    running: Vec<Job>,
    left: Vec<Record>,
}

#[derive(Debug)]
struct Job {
    trial: Trial,
    /// The queue's number.
    id: String,
    /// Since when the queue does not know it any more.
    gone: Option<Instant>,
}

impl<Q: Queue> Jobs<Q> {
    /// At most `workers` jobs at a time, which compute as `compute` says, on the device that the cluster gives them. Fails where
    /// the queue cannot be asked.
    pub fn new(queue: Q, root: &Path, workers: usize, compute: Compute) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("{}: cannot create", root.display()))?;
        let root = fs::canonicalize(root).with_context(|| format!("{}: cannot resolve", root.display()))?;
        let text = root.to_str().with_context(|| format!("{}: no UTF-8", root.display()))?;
        ensure!(!text.contains('\''), "{text}: jobs take no path with an apostrophe");
        let prefix = format!("nas-{:08x}-", nas_datasets::rng::torch_seed(0, text, 0) as u32);
        let known = queue.alive(&prefix)?;
        let flags = compute.flags();
        Ok(Self { queue, root, workers, flags, prefix, known, asked: None, running: Vec::new(), left: Vec::new() })
    }

    fn name(&self, id: u64) -> String {
        format!("{}{id:05}", self.prefix)
    }

    fn submit_job(&self, trial: &Trial, folder: PathBuf) -> Result<String> {
        let (program, flags) = (std::env::current_exe()?, self.flags.join(" "));
        let command =
            format!("'{}' trial '{}' --threads {} {flags}", program.display(), folder.display(), self.queue.threads());
        self.queue.submit(&NewJob { name: self.name(trial.id), command, folder })
    }

    /// Why a job that is gone has left no record.
    fn reason(&self, job: &Job) -> String {
        let log = end_of(&trial_folder(&self.root, job.trial.id).join("run.log"));
        let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was printed");
        format!("job {}: {}: {last}", job.id, self.queue.state(&job.id))
    }

    /// Learns which jobs the queue still has. A queue that cannot be asked says nothing of its jobs.
    fn look(&mut self) {
        if self.asked.is_some_and(|asked| asked.elapsed() <= ASK) {
            return;
        }
        if let Ok(known) = self.queue.alive(&self.prefix) {
            for job in &mut self.running {
                let alive = known.contains_key(&format!("{}{:05}", self.prefix, job.trial.id));
                job.gone = if alive { None } else { job.gone.or(Some(Instant::now())) };
            }
            self.known = known;
        }
        self.asked = Some(Instant::now());
    }
}

impl<Q: Queue> Executor for Jobs<Q> {
    fn capacity(&self) -> usize {
        self.workers
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let folder = trial_folder(&self.root, trial.id);
        if let Some(record) = left_record(&folder, &trial) {
            self.left.push(record);
            return Ok(());
        }
        write_trial(&folder, &trial)?;
        let id = match self.known.get(&self.name(trial.id)) {
            Some(id) => id.clone(),
            None => self.submit_job(&trial, folder).with_context(|| format!("trial {}", trial.id))?,
        };
        self.running.push(Job { trial, id, gone: None });
        Ok(())
    }

    fn wait(&mut self) -> Result<Record> {
        if let Some(record) = self.left.pop() {
            return Ok(record);
        }
        loop {
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            for i in 0..self.running.len() {
                let Job { trial, gone, .. } = &self.running[i];
                if let Some(record) = left_record(&trial_folder(&self.root, trial.id), trial) {
                    self.running.remove(i);
                    return Ok(record);
                }
                if gone.is_some_and(|since| since.elapsed() > GRACE) {
                    let outcome = failed(&self.reason(&self.running[i]));
                    return Ok(Record { trial: self.running.remove(i).trial, outcome });
                }
            }
            self.look();
            std::thread::sleep(POLL);
        }
    }
}
