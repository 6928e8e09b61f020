//! Trials as jobs of a cluster's queue, found again by their names: the search may end and go on while they run. The run folder
//! is on a file system that all nodes share; `record.json` in a trial's folder is what ends it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Executor, begin, end_of, failed, left_record, poll, trial_folder};
use crate::run::cli::Compute;
use crate::run::interrupt;
use crate::space::trial::{Record, Trial};

/// Between looks at the files of trials.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// Between questions to the queue.
const ASK: Duration = Duration::from_secs(2);
/// For how long a file may be on its way from a node whose job has ended.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// A cluster's queue of jobs.
pub trait Queue: fmt::Debug {
    /// Jobs whose names begin with `prefix` and that wait or run, by name.
    fn alive(&self, prefix: &str) -> Result<HashMap<String, Alive>>;

    /// Submits a job; returns its number.
    fn submit(&self, job: &NewJob) -> Result<String>;

    /// Takes the job of a number out of the queue, if it still waits there.
    fn withdraw(&self, id: &str);

    /// How the job of a number ended, such as `CANCELLED`.
    fn state(&self, id: &str) -> String;

    /// What stands, in the job's shell, for the threads that it may use.
    fn threads(&self) -> &'static str;
}

/// A job that waits or runs.
#[derive(Clone, Debug)]
pub struct Alive {
    /// The queue's number.
    pub id: String,
    /// It does not run, or not again yet.
    pub waits: bool,
}

/// A job to submit.
#[derive(Debug)]
pub struct NewJob {
    /// Unique among the jobs of the user.
    pub name: String,
    /// What a POSIX shell runs.
    pub command: String,
    /// The job's folder, for its log.
    pub folder: PathBuf,
    /// The file in it that says that nothing is left to do.
    pub done: &'static str,
}

/// The jobs of one search in a queue, found by their names.
#[derive(Debug)]
pub(super) struct Named<Q> {
    queue: Q,
    /// Holds a folder of each job.
    pub(super) root: PathBuf,
    /// Options of the command `trial`.
    flags: Vec<String>,
    /// Begins the names of all jobs.
    prefix: String,
    /// By name, as the queue last gave them.
    alive: HashMap<String, Alive>,
    asked: Instant,
}

impl<Q: Queue> Named<Q> {
    /// Fails where the queue cannot be asked.
    pub(super) fn new(queue: Q, root: &Path, compute: Compute) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("{}: cannot create", root.display()))?;
        let root = fs::canonicalize(root).with_context(|| format!("{}: cannot resolve", root.display()))?;
        let text = root.to_str().with_context(|| format!("{}: no UTF-8", root.display()))?;
        ensure!(!text.contains('\''), "{text}: jobs take no path with an apostrophe");
        let prefix = format!("nas-{:08x}-", nas_datasets::rng::torch_seed(0, text, 0) as u32);
        let alive = queue.alive(&prefix)?;
        Ok(Self { queue, root, flags: compute.flags(), prefix, alive, asked: Instant::now() })
    }

    fn name(&self, job: u64) -> String {
        format!("{}{job:05}", self.prefix)
    }

    /// A job that waited or ran when the queue was last asked.
    pub(super) fn alive(&self, job: u64) -> Option<&Alive> {
        self.alive.get(&self.name(job))
    }

    /// Submits the command `trial` in the folder of a job, with more `options`; returns the queue's number.
    pub(super) fn submit(&mut self, job: u64, options: &str, done: &'static str) -> Result<String> {
        let (program, folder, name) = (std::env::current_exe()?, trial_folder(&self.root, job), self.name(job));
        let (flags, threads) = (self.flags.join(" "), self.queue.threads());
        let command =
            format!("'{}' trial '{}'{options} --threads {threads} {flags}", program.display(), folder.display());
        let id = self.queue.submit(&NewJob { name: name.clone(), command, folder, done })?;
        self.alive.insert(name, Alive { id: id.clone(), waits: true });
        Ok(id)
    }

    /// Takes a job out of the queue that waited there when it was last asked.
    pub(super) fn withdraw(&self, job: u64) {
        self.alive(job).filter(|job| job.waits).into_iter().for_each(|job| self.queue.withdraw(&job.id));
    }

    /// Whether the queue was asked some time ago.
    pub(super) fn is_due(&self) -> bool {
        self.asked.elapsed() > ASK
    }

    /// Asks which jobs wait or run; whether it was said.
    pub(super) fn look(&mut self) -> bool {
        // A queue that cannot be asked says nothing of its jobs.
        let alive = self.queue.alive(&self.prefix);
        self.asked = Instant::now();
        alive.map(|alive| self.alive = alive).is_ok()
    }

    /// How a job ended, and the last that it said.
    pub(super) fn end_of(&self, job: u64, id: &str) -> String {
        let log = end_of(&trial_folder(&self.root, job).join("run.log"));
        let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was printed");
        format!("job {id}: {}: {last}", self.queue.state(id))
    }
}

/// Runs trials as jobs of a queue.
#[derive(Debug)]
pub struct Jobs<Q: Queue> {
    jobs: Named<Q>,
    /// Jobs that wait or run at a time.
    workers: usize,
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
        let jobs = Named::new(queue, root, compute)?;
        Ok(Self { jobs, workers, running: Vec::new(), left: Vec::new() })
    }

    /// A trial that has left its record, or cannot any more.
    fn look(&mut self) -> Option<Record> {
        for i in 0..self.running.len() {
            let Job { trial, id, gone } = &self.running[i];
            if let Some(record) = left_record(&trial_folder(&self.jobs.root, trial.id), trial) {
                self.running.remove(i);
                return Some(record);
            }
            if gone.is_some_and(|since| since.elapsed() > GRACE) {
                let outcome = failed(&self.jobs.end_of(trial.id, id));
                return Some(Record { trial: self.running.remove(i).trial, outcome });
            }
        }
        if self.jobs.is_due() && self.jobs.look() {
            for job in &mut self.running {
                let alive = self.jobs.alive(job.trial.id).is_some();
                job.gone = if alive { None } else { job.gone.or(Some(Instant::now())) };
            }
        }
        None
    }
}

impl<Q: Queue> Executor for Jobs<Q> {
    fn capacity(&self) -> usize {
        self.workers
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let folder = trial_folder(&self.jobs.root, trial.id);
        if let Some(record) = begin(&folder, &trial)? {
            self.left.push(record);
            return Ok(());
        }
        let id = match self.jobs.alive(trial.id) {
            Some(job) => job.id.clone(),
            None => self.jobs.submit(trial.id, "", "record.json").with_context(|| format!("trial {}", trial.id))?,
        };
        self.running.push(Job { trial, id, gone: None });
        Ok(())
    }

    fn wait(&mut self) -> Result<Record> {
        match self.left.pop() {
            Some(record) => Ok(record),
            None => poll(POLL, || Ok(self.look())),
        }
    }
}

/// Of a search that gives up, what waits need not begin; jobs of one that is stopped go on.
impl<Q: Queue> Drop for Jobs<Q> {
    fn drop(&mut self) {
        if !interrupt::requested() {
            self.running.iter().for_each(|job| self.jobs.withdraw(job.trial.id));
        }
    }
}
