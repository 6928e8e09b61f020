//! Where trials run: in this process, or each in a child process of its own. The one place that turns a panic, a limit or a
//! death into a failed trial.

mod jobs;
mod pilots;
mod ray;
mod slurm;
pub mod supervised;
mod threads;

pub use jobs::{Jobs, Queue};
pub use pilots::{Pilots, serve};
pub use ray::Ray;
pub use slurm::Slurm;
pub use threads::{Evaluate, Threads};

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::supervised::{KEPT_BYTES, Supervised};
use crate::nn::ranks;
use crate::run::cli::{Compute, text_of};
use crate::run::interrupt::{self, Interrupted};
use crate::run::run_dir::{open_to_append, pretty, read_json, write_atomic};
use crate::run::words;
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

/// Runs `evaluate`; a panic, an error and a value that is not finite become a failure with its reason. Where processes that share
/// the work are lost, that ends more than a trial and passes through.
pub fn outcome_of(evaluate: impl FnOnce() -> Result<Values>) -> Outcome {
    match catch_unwind(AssertUnwindSafe(evaluate)) {
        Ok(Ok(values)) => Outcome::of(values),
        Ok(Err(error)) => failed(&format!("{error:#}")),
        Err(panic) => {
            let text = text_of(&*panic).unwrap_or_default();
            if ranks::lost(text).is_some() {
                resume_unwind(panic);
            }
            // libtorch's messages carry a stack trace of many lines.
            failed(&format!("panicked: {}", text.lines().next().unwrap_or_default()))
        }
    }
}

/// [`outcome_of`] a trial in this process; one that a signal ended has not failed.
///
/// # Errors
/// [`Interrupted`].
pub(crate) fn outcome_unless_stopped(evaluate: impl FnOnce() -> Result<Values>) -> Result<Outcome> {
    let outcome = outcome_of(evaluate);
    if interrupt::requested() && matches!(outcome, Outcome::Failed(_)) {
        return Err(Interrupted.into());
    }
    Ok(outcome)
}

/// A failure whose reason, which may hold what a program printed, has a bounded length.
fn failed(reason: &str) -> Outcome {
    Outcome::Failed(words::ends(reason, KEPT_BYTES).into_owned())
}

/// Runs the program of a trial and takes the numbers `metrics` from the JSON object that is the last line it prints. Other
/// numbers there are kept too, whatever else there is does not matter. What it says on stderr goes to `log`, or this process's.
///
/// # Errors
/// If the program cannot be started, fails, or does not print these numbers.
pub fn run_program(program: Command, metrics: &[String], log: Option<fs::File>) -> Result<Values> {
    let name = program.get_program().to_string_lossy().into_owned();
    let output = supervised::output(program, log)?;
    if !output.status.success() {
        let said =
            output.stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was printed on stderr");
        bail!("{name} ended with {}: {said}", output.status);
    }
    asked_metrics(&output.last_line, metrics).with_context(|| format!("{name}: the last line of its output"))
}

/// The numbers `metrics` of a JSON object, in which Python's NaN and Infinity may stand.
fn asked_metrics(line: &str, metrics: &[String]) -> Result<Values> {
    let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text);
    let object = parse(line).or_else(|error| parse(&quote_constants(line)).map_err(|_| error));
    let object =
        object.with_context(|| format!("{:?} found, expected a JSON object of numbers", words::ends(line, 200)))?;
    let value = |metric: &String| {
        let found = object.get(metric).with_context(|| format!("it printed no {metric}"))?;
        let number = found.as_f64().or_else(|| match found.as_str()? {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        });
        Ok((metric.clone(), number.with_context(|| format!("{metric}: {found} found, expected a number"))?))
    };
    let mut values: Values = metrics.iter().map(value).collect::<Result<_>>()?;
    let others = object.iter().filter_map(|(name, found)| Some((name.clone(), found.as_f64()?)));
    for (name, number) in others.filter(|(name, number)| number.is_finite() && name.len() <= 100).take(MAX_OTHERS) {
        values.entry(name).or_insert(number);
    }
    Ok(values)
}

/// Most numbers that are kept of a trial though nobody asked for them.
const MAX_OTHERS: usize = 100;

/// Puts the constants that Python writes, and that JSON does not have, in quotes.
fn quote_constants(line: &str) -> String {
    let (mut quoted, mut rest, mut in_text) = (String::with_capacity(line.len() + 16), line, false);
    while let Some(first) = rest.chars().next() {
        let constant = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_text && rest.starts_with(word));
        let length = match constant {
            Some(word) => {
                quoted.extend(["\"", word, "\""]);
                word.len()
            }
            None => {
                in_text ^= first == '"';
                let escaped = usize::from(in_text && first == '\\');
                let length = rest.chars().take(1 + escaped).map(char::len_utf8).sum();
                quoted.push_str(&rest[..length]);
                length
            }
        };
        rest = &rest[length..];
    }
    quoted
}

/// Stops a search that cannot find anything: its program cannot be started, or its first trials have all failed. `new` are the
/// records of this process in the order of their ends.
pub fn give_up(new: &[Record]) -> Result<()> {
    const PATIENCE: usize = 5;
    let mut failures = new.iter().map_while(|record| match &record.outcome {
        Outcome::Failed(reason) => Some(reason),
        Outcome::Metrics(_) => None,
    });
    let Some(first) = failures.next() else { return Ok(()) };
    ensure!(!first.starts_with("cannot start "), "the first trial failed, and no other can succeed: {first}");
    let number = 1 + failures.count();
    ensure!(number < PATIENCE || number < new.len(), "the first {number} trials all failed, the first with: {first}");
    Ok(())
}

/// Refuses a search of which every trial failed.
pub fn require_success(records: &[Record]) -> Result<()> {
    let reason = |record: &Record| match &record.outcome {
        Outcome::Failed(reason) => Some(reason.clone()),
        Outcome::Metrics(_) => None,
    };
    let reasons: Option<Vec<String>> = records.iter().map(reason).collect();
    match reasons.as_deref() {
        Some([first, ..]) => bail!("all {} trials failed, the first with: {first}", records.len()),
        _ => Ok(()),
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
        let outcome = outcome_unless_stopped(|| (self.evaluate)(&trial))?;
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

/// `[limits]`: what a trial that runs in a process of its own may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Seconds that a trial may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_secs: Option<f64>,
    /// Resident memory in MiB that a trial and what it starts may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}

impl Limits {
    /// Says which value makes no sense, or that trials which run where `executor` says have no limits.
    pub fn check(&self, executor: &ExecutorConfig) -> Result<()> {
        let limited = *self != Self::default();
        let in_process = matches!(executor, ExecutorConfig::InProcess);
        let slurm = matches!(executor, ExecutorConfig::Slurm { .. });
        ensure!(!(limited && slurm), "limits: Slurm keeps them; expected --time and --mem in executor.options");
        ensure!(!(limited && matches!(executor, ExecutorConfig::Ray { .. })), "limits: jobs of Ray have none");
        ensure!(!(limited && in_process), "limits: trials run in this process; limits need --workers N");
        if let Some(secs) = self.time_secs {
            ensure!(secs > 0.0 && secs.is_finite(), "limits.time_secs = {secs}; expected more than 0");
        }
        if let Some(mib) = self.memory_mib {
            let most = u64::MAX >> 20;
            ensure!((1..=most).contains(&mib), "limits.memory_mib = {mib}; expected 1 to {most}");
        }
        Ok(())
    }
}

/// `[executor]`: where trials run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecutorConfig {
    /// One by one in this process.
    #[default]
    InProcess,
    /// Side by side, each in a process of its own.
    Processes {
        /// Trials at a time.
        workers: usize,
        /// Takes results in the order of the trials, so that the log does not depend on their times; off: as they come, which
        /// waits for no slow trial.
        #[serde(default = "ordered")]
        ordered: bool,
    },
    /// Side by side, each started by a program that waits for its end, such as `srun` or `ssh`. The run folder is on a file
    /// system that all of them share.
    Command {
        /// Trials at a time.
        workers: usize,
        /// As for processes.
        #[serde(default = "ordered")]
        ordered: bool,
        /// Program and arguments, in which are replaced: `{program}`, this program; `{out}`, the folder of the trial, which
        /// `{program} trial {out}` runs; `{trial}`, its number; `{device}`, the device of the worker; `{worker}`, its number.
        command: Vec<String>,
    },
    /// As batch jobs of Slurm, which go on while the search is not running. The run folder is on a file system that all nodes
    /// share.
    Slurm {
        /// Jobs that wait or run at a time: more than there are cards keeps the cards busy.
        workers: usize,
        /// As for processes.
        #[serde(default = "ordered")]
        ordered: bool,
        /// Options of `sbatch`, such as `--partition=gpu`, `--gres=gpu:1`, `--time=60`.
        #[serde(default)]
        options: Vec<String>,
        /// Jobs that take one trial after another until there is none for a minute (pilot jobs): no trial waits for the queue or
        /// for this program to start. `workers` is best the number of cards then.
        #[serde(default)]
        pilots: bool,
    },
    /// As jobs of a Ray cluster, which go on while the search is not running. The run folder is on a file system that all nodes
    /// share.
    Ray {
        /// Jobs that wait or run at a time.
        workers: usize,
        /// As for processes.
        #[serde(default = "ordered")]
        ordered: bool,
        /// The dashboard of the cluster's head.
        #[serde(default = "ray_address")]
        address: String,
        /// Processors of a job.
        #[serde(default = "one")]
        cpus: f64,
        /// Cards of a job.
        #[serde(default)]
        gpus: f64,
        /// As for Slurm.
        #[serde(default)]
        pilots: bool,
    },
}

/// Names in braces of [`ExecutorConfig::Command`].
const PLACEHOLDERS: [&str; 5] = ["program", "out", "trial", "device", "worker"];

fn ordered() -> bool {
    true
}

fn ray_address() -> String {
    "http://127.0.0.1:8265".into()
}

fn one() -> f64 {
    1.0
}

impl ExecutorConfig {
    /// With `workers` in the place of its own, where they are given.
    pub fn with_workers(mut self, given: Option<usize>) -> Self {
        let Some(given) = given else { return self };
        match &mut self {
            Self::InProcess => return Self::Processes { workers: given, ordered: true },
            Self::Processes { workers, .. }
            | Self::Command { workers, .. }
            | Self::Slurm { workers, .. }
            | Self::Ray { workers, .. } => *workers = given,
        }
        self
    }

    /// Whether results are taken in the order of the trials.
    pub fn is_ordered(&self) -> bool {
        match self {
            Self::InProcess => true,
            Self::Processes { ordered, .. }
            | Self::Command { ordered, .. }
            | Self::Slurm { ordered, .. }
            | Self::Ray { ordered, .. } => *ordered,
        }
    }

    /// Says which value makes no sense.
    pub fn check(&self) -> Result<()> {
        let (Self::Processes { workers, .. }
        | Self::Command { workers, .. }
        | Self::Slurm { workers, .. }
        | Self::Ray { workers, .. }) = self
        else {
            return Ok(());
        };
        ensure!(*workers > 0, "executor.workers = 0; expected at least 1");
        if let Self::Ray { cpus, gpus, .. } = self {
            let sound = [cpus, gpus].iter().all(|number| (0.0..=1024.0).contains(*number));
            ensure!(sound, "executor: cpus = {cpus}, gpus = {gpus}; expected 0 to 1024");
        }
        let Self::Command { command, .. } = self else { return Ok(()) };
        ensure!(!command.is_empty(), "executor.command is empty; expected a program and its arguments");
        words::check_placeholders("executor.command", command, &PLACEHOLDERS)?;
        ensure!(
            command.iter().any(|argument| argument.contains("{out}")),
            "executor.command = {command:?}: nothing says which trial to run; expected {{out}}, as in {{program}} trial {{out}}"
        );
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
    /// `None`: the child's own default.
    compute: Option<Compute>,
    /// What starts a trial in the place of this process ([`ExecutorConfig::Command`]).
    launcher: Option<Vec<String>>,
    running: Vec<Running>,
    /// Records that an earlier process had no time to take.
    left: Vec<Record>,
}

#[derive(Debug)]
struct Running {
    trial: Trial,
    process: Supervised,
    /// Which of the workers runs it.
    slot: usize,
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

/// Makes a trial's folder, with what is to be done there.
fn write_trial(folder: &Path, trial: &Trial) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    write_atomic(&folder.join("trial.json"), pretty(trial).as_bytes())
}

/// Leaves the outcome of a trial for the parent process.
pub fn write_record(folder: &Path, record: &Record) -> Result<()> {
    write_atomic(&folder.join("record.json"), pretty(record).as_bytes())
}

/// Makes a trial's folder; returns the record that an earlier process of this search had no time to take.
fn begin(folder: &Path, trial: &Trial) -> Result<Option<Record>> {
    let left = left_record(folder, trial);
    if left.is_none() {
        write_trial(folder, trial)?;
    }
    Ok(left)
}

/// Looks after every `pause` until a trial has ended, or a signal has come.
fn poll(pause: Duration, mut look: impl FnMut() -> Result<Option<Record>>) -> Result<Record> {
    loop {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        if let Some(record) = look()? {
            return Ok(record);
        }
        std::thread::sleep(pause);
    }
}

/// The record of a trial that a child has left in its folder.
fn left_record(folder: &Path, trial: &Trial) -> Option<Record> {
    read_json(&folder.join("record.json")).ok().filter(|record: &Record| record.trial == *trial)
}

/// All trials that were ever started, by id, in their folders in `root`. A trial in another's folder is an error.
pub fn started(root: &Path) -> Result<Vec<Trial>> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let cannot = || format!("{}: cannot read", root.display());
    let mut trials = Vec::new();
    for entry in fs::read_dir(root).with_context(cannot)? {
        let folder = entry.with_context(cannot)?.path();
        let file = folder.join("trial.json");
        if file.exists() {
            let trial = read_trial(&folder)?;
            let expected = trial_folder(root, trial.id);
            ensure!(folder == expected, "{}: trial {}; expected in {}", file.display(), trial.id, expected.display());
            trials.push(trial);
        }
    }
    trials.sort_by_key(|trial| trial.id);
    Ok(trials)
}

impl Processes {
    /// At most `workers` children at a time, each with its share of the cores. A child is this program with the arguments
    /// `trial FOLDER`.
    pub fn new(root: PathBuf, workers: usize, limits: Limits) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("{}: cannot create", root.display()))?;
        Ok(Self { root, workers, limits, compute: None, launcher: None, running: Vec::new(), left: Vec::new() })
    }

    /// Lets the children compute as `compute` says, with no more threads each: on a CUDA device, worker `i` of `n` cards on the `i mod n`-th, counted from this process' own.
    pub fn computing(mut self, compute: Compute) -> Self {
        self.compute = Some(compute);
        self
    }

    /// Lets trials be started by `command`, as [`ExecutorConfig::Command`] describes it.
    pub fn launched_by(mut self, command: Vec<String>) -> Self {
        self.launcher = Some(command);
        self
    }

    /// The program that runs a trial, without where its output goes.
    fn command(&self, folder: &Path, id: u64, slot: usize) -> Result<Command> {
        let program = std::env::current_exe()?;
        let Some(launcher) = &self.launcher else {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let own = self.compute.map_or(cores, |compute| compute.threads);
            let threads = own.min((cores / self.workers).max(1)).to_string();
            let mut command = Command::new(program);
            command.arg("trial").arg(folder).args(["--threads", &threads]);
            command.args(self.compute.iter().flat_map(|compute| compute.arguments(slot)));
            return Ok(command);
        };
        let device = self.compute.map_or_else(|| "auto".into(), |compute| compute.device_of(slot));
        let folder = std::path::absolute(folder)?;
        let path = |path: &Path| path.to_str().map(String::from).with_context(|| format!("{path:?}: no UTF-8"));
        let values = [path(&program)?, path(&folder)?, id.to_string(), device, slot.to_string()];
        let replaced = |argument: &String| words::replace_placeholders(argument, PLACEHOLDERS.into_iter().zip(&values));
        let mut command = Command::new(replaced(&launcher[0]));
        command.args(launcher[1..].iter().map(replaced));
        Ok(command)
    }

    fn spawn(&self, folder: &Path, id: u64, slot: usize) -> Result<Supervised> {
        let log = open_to_append(&folder.join("run.log"))?;
        let mut command = self.command(folder, id, slot)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Supervised::spawn(command).context("cannot start the trial's process")
    }

    /// Why a running trial must be killed.
    fn exceeded(&self, running: &Running) -> Option<String> {
        let time = self.limits.time_secs.filter(|limit| running.started.elapsed().as_secs_f64() > *limit);
        let memory = self.limits.memory_mib.filter(|limit| running.process.resident_bytes() >> 20 >= *limit);
        let time = time.map(|limit| format!("ran longer than {limit} s"));
        time.or_else(|| memory.map(|limit| format!("used more than {limit} MiB of memory")))
    }

    /// What has ended, or had to be.
    fn look(&mut self) -> Result<Option<Record>> {
        for i in 0..self.running.len() {
            let outcome = match self.running[i].process.try_wait()? {
                Some(status) => self.outcome(&self.running[i].trial, status),
                None => match self.exceeded(&self.running[i]) {
                    Some(reason) => Outcome::Failed(reason),
                    None => continue,
                },
            };
            let running = self.running.remove(i);
            drop(running.process);
            return Ok(Some(Record { trial: running.trial, outcome }));
        }
        Ok(None)
    }

    fn outcome(&self, trial: &Trial, status: ExitStatus) -> Outcome {
        let folder = trial_folder(&self.root, trial.id);
        match read_json::<Record>(&folder.join("record.json")) {
            Ok(record) if record.trial == *trial => record.outcome,
            Ok(record) => Outcome::Failed(format!("the record is of trial {} with other contents", record.trial.id)),
            Err(_) => {
                let log = end_of(&folder.join("run.log"));
                let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was printed");
                failed(&format!("{status}: {last}"))
            }
        }
    }
}

/// The first place that none of the running children has.
pub(crate) fn free_slot(taken: impl Iterator<Item = usize>) -> usize {
    let taken: Vec<usize> = taken.collect();
    (0..=taken.len()).find(|slot| !taken.contains(slot)).unwrap_or_default()
}

impl Executor for Processes {
    fn capacity(&self) -> usize {
        self.workers
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let folder = trial_folder(&self.root, trial.id);
        if let Some(record) = begin(&folder, &trial)? {
            self.left.push(record);
            return Ok(());
        }
        let slot = free_slot(self.running.iter().map(|running| running.slot));
        let process = self.spawn(&folder, trial.id, slot).with_context(|| format!("trial {}", trial.id))?;
        self.running.push(Running { trial, process, slot, started: Instant::now() });
        Ok(())
    }

    fn wait(&mut self) -> Result<Record> {
        match self.left.pop() {
            Some(record) => Ok(record),
            None => poll(Duration::from_millis(10), || self.look()),
        }
    }
}

/// The end of a text file; nothing if it cannot be read.
fn end_of(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = nas_datasets::open_regular(path)?;
        let from = file.metadata()?.len().saturating_sub(KEPT_BYTES as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(KEPT_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Lets the child die when this process does, however it ends (Linux): nobody would take its result.
pub fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;

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

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_is_asked_for_its_metrics_alone() {
        let asked = ["v".to_string()];
        let run =
            |line: &str| run_program(sh(&format!("echo '{line}'")), &asked, None).map_err(|error| format!("{error:#}"));
        for line in [
            "{\"v\": 0.5, \"x\": NaN}",
            "{\"v\": 0.5, \"x\": [1], \"y\": \"NaN, -Infinity\"}",
            "{\"v\": 0.5, \"x\": -Infinity}",
        ] {
            assert_eq!(run(line), Ok(Values::from([("v".to_string(), 0.5)])), "{line}");
        }
        assert_eq!(run("{\"v\": 0.5, \"x\": 2}").unwrap()["x"], 2.0);
        assert!(run("{\"v\": NaN}").unwrap()["v"].is_nan(), "a failure when it is recorded");
        assert!(run("{\"w\": 1}").unwrap_err().contains("it printed no v"));
        assert!(run("{\"v\": \"high\"}").unwrap_err().contains("v: \"high\" found, expected a number"));
        assert!(run("done").unwrap_err().contains("\"done\" found, expected a JSON object of numbers"));
        let error = format!("{:#}", run_program(sh("echo why >&2; exit 3"), &asked, None).unwrap_err());
        assert!(error.contains("exit status: 3: why"), "{error}");
    }

    fn record(id: u64, failed: Option<&str>) -> Record {
        let arch = crate::space::Architecture::new(vec![0]);
        let trial = Trial { id, arch, budget: Default::default(), parent: None };
        let metrics = Outcome::Metrics(Values::from([("v".to_string(), 0.5)]));
        Record { trial, outcome: failed.map_or(metrics, |reason| Outcome::Failed(reason.into())) }
    }

    #[test]
    fn a_search_that_finds_nothing_is_given_up_with_its_first_reason() {
        let failures: Vec<Record> = (0..5).map(|id| record(id, Some(&format!("reason {id}")))).collect();
        assert!(give_up(&failures[..4]).is_ok());
        assert!(
            give_up(&failures)
                .unwrap_err()
                .to_string()
                .contains("the first 5 trials all failed, the first with: reason 0")
        );
        let mixed: Vec<Record> = failures.iter().cloned().chain([record(5, None)]).collect();
        assert!(give_up(&mixed).is_ok() && require_success(&mixed).is_ok() && require_success(&[]).is_ok());
        assert!(give_up(&[record(0, Some("cannot start x: no such file"))]).is_err());
        assert!(
            require_success(&failures[..2])
                .unwrap_err()
                .to_string()
                .contains("all 2 trials failed, the first with: reason 0")
        );
    }
}
