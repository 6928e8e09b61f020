//! Where trials run: in this process, or each in a child process of its own. The one place that turns a panic, a limit or a
//! death into a failed trial.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::run::interrupt::{self, Interrupted};
use crate::run::run_dir::{pretty, read_json, write_atomic};
use crate::space::trial::{Outcome, Record, Trial, Values};

/// Runs trials.
pub trait Executor {
    /// Trials that can run at the same time.
    fn capacity(&self) -> usize;

    /// Starts a trial.
    fn submit(&mut self, trial: Trial) -> Result<()>;

    /// Waits for a trial to end. At least one must be running.
    fn wait(&mut self) -> Result<Record>;
}

/// Runs `evaluate`; a panic, an error and a value that is not finite become a failure with its reason.
pub fn outcome_of(evaluate: impl FnOnce() -> Result<Values>) -> Outcome {
    match catch_unwind(AssertUnwindSafe(evaluate)) {
        Ok(Ok(values)) => Outcome::of(values),
        Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            // libtorch's messages carry a stack trace of many lines.
            Outcome::Failed(format!("panicked: {}", text.lines().next().unwrap_or_default()))
        }
    }
}

/// Runs one trial at a time in this process.
pub struct InProcess<E> {
    evaluate: E,
    ended: VecDeque<Record>,
}

impl<E> std::fmt::Debug for InProcess<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("InProcess").field("ended", &self.ended).finish()
    }
}

impl<E: FnMut(&Trial) -> Result<Values>> InProcess<E> {
    /// Runs trials by `evaluate`.
    pub fn new(evaluate: E) -> Self {
        Self { evaluate, ended: VecDeque::new() }
    }
}

impl<E: FnMut(&Trial) -> Result<Values>> Executor for InProcess<E> {
    fn capacity(&self) -> usize {
        1
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let outcome = outcome_of(|| (self.evaluate)(&trial));
        self.ended.push_back(Record { trial, outcome });
        Ok(())
    }

    fn wait(&mut self) -> Result<Record> {
        match interrupt::requested() {
            true => Err(Interrupted.into()),
            false => self.ended.pop_front().context("no trial is running"),
        }
    }
}

/// What a trial may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Seconds that a trial may run.
    pub time_secs: Option<f64>,
    /// Resident memory in MiB that a trial's process may use.
    pub memory_mib: Option<u64>,
}

/// `[executor]`: where trials run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecutorConfig {
    /// One by one in this process.
    #[default]
    InProcess,
    /// Side by side, each in a process of its own, within limits.
    Processes {
        /// Trials at a time.
        workers: usize,
        /// Seconds that a trial may run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time_secs: Option<f64>,
        /// Resident memory in MiB that a trial and what it starts may use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_mib: Option<u64>,
        /// Takes results in the order of the trials, so that the log does not depend on their times; off: as they come, which
        /// waits for no slow trial.
        #[serde(default = "ordered")]
        ordered: bool,
    },
}

fn ordered() -> bool {
    true
}

impl ExecutorConfig {
    /// With `workers` in the place of its own, where they are given.
    pub fn with_workers(self, workers: Option<usize>) -> Self {
        match (workers, self) {
            (None, config) => config,
            (Some(workers), Self::InProcess) => {
                Self::Processes { workers, time_secs: None, memory_mib: None, ordered: true }
            }
            (Some(workers), Self::Processes { time_secs, memory_mib, ordered, .. }) => {
                Self::Processes { workers, time_secs, memory_mib, ordered }
            }
        }
    }

    /// Says which value makes no sense.
    pub fn check(&self) -> Result<()> {
        let Self::Processes { workers, time_secs, memory_mib, .. } = *self else { return Ok(()) };
        ensure!(workers > 0, "executor.workers = 0; expected at least 1");
        if let Some(secs) = time_secs {
            ensure!(secs > 0.0 && secs.is_finite(), "executor.time_secs = {secs}; expected more than 0");
        }
        if let Some(mib) = memory_mib {
            ensure!(
                (1..=u64::MAX >> 20).contains(&mib),
                "executor.memory_mib = {mib}; expected 1 to {}",
                u64::MAX >> 20
            );
        }
        Ok(())
    }
}

/// A pool of child processes. A trial is one command and one folder: the child reads `trial.json` and writes `record.json`.
#[derive(Debug)]
pub struct Processes {
    /// The folder of all trials.
    root: PathBuf,
    workers: usize,
    limits: Limits,
    running: Vec<Running>,
    /// Records that an earlier process had no time to take.
    left: Vec<Record>,
}

#[derive(Debug)]
struct Running {
    trial: Trial,
    child: Child,
    started: Instant,
}

/// The folder of a trial below the folder of all trials.
pub fn trial_folder(root: &Path, id: u64) -> PathBuf {
    root.join(format!("{id:05}"))
}

/// What a child process was asked to do.
pub fn read_trial(folder: &Path) -> Result<Trial> {
    read_json(&folder.join("trial.json"))
}

/// Leaves the outcome of a trial for the parent process.
pub fn write_record(folder: &Path, record: &Record) -> Result<()> {
    write_atomic(&folder.join("record.json"), pretty(record).as_bytes())
}

impl Processes {
    /// At most `workers` children at a time, each with its share of the cores. A child is this program with the arguments
    /// `trial FOLDER`.
    pub fn new(root: PathBuf, workers: usize, limits: Limits) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("{}: cannot create", root.display()))?;
        Ok(Self { root, workers, limits, running: Vec::new(), left: Vec::new() })
    }

    /// All trials that were ever started, by id.
    pub fn started(&self) -> Result<Vec<Trial>> {
        let mut trials = Vec::new();
        for entry in fs::read_dir(&self.root).with_context(|| format!("{}: cannot read", self.root.display()))? {
            let folder = entry?.path();
            if folder.join("trial.json").exists() {
                trials.push(read_trial(&folder)?);
            }
        }
        trials.sort_by_key(|trial| trial.id);
        Ok(trials)
    }

    fn spawn(&self, folder: &Path) -> Result<Child> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / self.workers).max(1).to_string();
        let log = File::options().create(true).append(true).open(folder.join("run.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("trial").arg(folder).args(["--threads", &threads]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own, so that a limit ends what the trial has started too.
        command.process_group(0);
        die_with_parent(&mut command);
        command.spawn().context("cannot start the trial's process")
    }

    /// Why a running trial must be killed.
    fn exceeded(&self, running: &Running) -> Option<String> {
        let time = self.limits.time_secs.filter(|limit| running.started.elapsed().as_secs_f64() > *limit);
        let memory = self.limits.memory_mib.filter(|limit| resident_bytes(running.child.id()) > limit << 20);
        let time = time.map(|limit| format!("ran longer than {limit} s"));
        time.or_else(|| memory.map(|limit| format!("used more than {limit} MiB of memory")))
    }

    fn outcome(&self, trial: &Trial, status: ExitStatus) -> Outcome {
        let folder = trial_folder(&self.root, trial.id);
        match read_json::<Record>(&folder.join("record.json")) {
            Ok(record) if record.trial == *trial => record.outcome,
            Ok(record) => Outcome::Failed(format!("the record is of trial {} with other contents", record.trial.id)),
            Err(_) => {
                let log = fs::read_to_string(folder.join("run.log")).unwrap_or_default();
                let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was printed");
                Outcome::Failed(format!("{status}: {last}"))
            }
        }
    }
}

impl Executor for Processes {
    fn capacity(&self) -> usize {
        self.workers
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let folder = trial_folder(&self.root, trial.id);
        if let Some(record) =
            read_json(&folder.join("record.json")).ok().filter(|record: &Record| record.trial == trial)
        {
            self.left.push(record);
            return Ok(());
        }
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        write_atomic(&folder.join("trial.json"), pretty(&trial).as_bytes())?;
        let child = self.spawn(&folder).with_context(|| format!("trial {}", trial.id))?;
        self.running.push(Running { trial, child, started: Instant::now() });
        Ok(())
    }

    fn wait(&mut self) -> Result<Record> {
        const POLL: Duration = Duration::from_millis(10);
        if let Some(record) = self.left.pop() {
            return Ok(record);
        }
        loop {
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            for i in 0..self.running.len() {
                let outcome = match self.running[i].child.try_wait()? {
                    Some(status) => self.outcome(&self.running[i].trial, status),
                    None => match self.exceeded(&self.running[i]) {
                        Some(reason) => Outcome::Failed(reason),
                        None => continue,
                    },
                };
                let mut running = self.running.remove(i);
                end(&mut running.child);
                return Ok(Record { trial: running.trial, outcome });
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.running.iter_mut().for_each(|running| end(&mut running.child));
    }
}

/// Kills a child and what it has started, where they still run, and collects it.
fn end(child: &mut Child) {
    // SAFETY: kill(2) on the group that the child leads; it fails only when nothing of it is left.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
    // Fails only when the child has been collected already.
    let _ = child.wait();
}

/// Lets the child die when this process does, however it ends (Linux): nobody would take its result.
pub fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: prctl is safe to call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Resident memory of a process group; 0 where the system does not tell.
fn resident_bytes(group: u32) -> u64 {
    let pages = |folder: PathBuf| -> Option<u64> {
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        // After the name in parentheses: state, parent, group.
        let of_group = stat.rsplit_once(')')?.1.split_whitespace().nth(2)? == group.to_string();
        let statm = of_group.then(|| fs::read_to_string(folder.join("statm")).ok())??;
        statm.split_whitespace().nth(1)?.parse().ok()
    };
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    folders.filter_map(pages).sum::<u64>() * page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_becomes_a_failure_with_its_reason() {
        let values = |value: f64| Values::from([("valid".to_string(), value)]);
        assert_eq!(outcome_of(|| Ok(values(0.5))), Outcome::Metrics(values(0.5)));
        assert_eq!(outcome_of(|| Ok(values(f64::INFINITY))), Outcome::Failed("valid is inf".into()));
        assert_eq!(outcome_of(|| anyhow::bail!("no data")), Outcome::Failed("no data".into()));
        let panic = outcome_of(|| {
            let shape = tch::Tensor::ones([2, 3], (tch::Kind::Float, tch::Device::Cpu));
            let _ = shape.matmul(&shape);
            Ok(values(0.0))
        });
        assert!(matches!(&panic, Outcome::Failed(reason) if reason.starts_with("panicked: ")), "{panic:?}");
    }
}
