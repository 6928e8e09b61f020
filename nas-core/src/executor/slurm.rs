//! Trials as jobs of Slurm, one batch job each, found again by their names: the search may end and go on while they run. The
//! run folder is on a file system that all nodes share; `record.json` in a trial's folder is what ends it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Executor, end_of, failed, left_record, trial_folder};
use crate::run::cli::Compute;
use crate::run::interrupt::{self, Interrupted};
use crate::run::run_dir::{pretty, write_atomic};
use crate::space::trial::{Outcome, Record, Trial};

/// Between looks at the files of trials.
const POLL: Duration = Duration::from_millis(100);
/// Between questions to Slurm.
const ASK: Duration = Duration::from_secs(2);
/// For how long a file may be on its way from a node whose job has ended.
const GRACE: Duration = Duration::from_secs(10);

/// Runs trials as Slurm's jobs.
#[derive(Debug)]
pub struct Slurm {
    root: PathBuf,
    /// Jobs that wait or run at a time.
    workers: usize,
    /// Of `sbatch`.
    options: Vec<String>,
    /// Options of the command `trial`.
    flags: Vec<String>,
    /// Begins the names of all jobs of this search.
    prefix: String,
    /// This user's jobs by name, as Slurm last gave them.
    known: HashMap<String, String>,
    asked: Option<Instant>,
    running: Vec<Job>,
    left: Vec<Record>,
}

#[derive(Debug)]
struct Job {
    trial: Trial,
    /// Slurm's number.
    id: String,
    /// Since when Slurm does not know it any more.
    gone: Option<Instant>,
}

impl Slurm {
    /// At most `workers` jobs at a time, submitted with `options`; they compute as `compute` says, on the device that Slurm gives
    /// them. Fails where Slurm cannot be asked.
    pub fn new(root: PathBuf, workers: usize, options: Vec<String>, compute: Compute) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("{}: cannot create", root.display()))?;
        let root = fs::canonicalize(&root).with_context(|| format!("{}: cannot resolve", root.display()))?;
        let text = root.to_str().with_context(|| format!("{}: no UTF-8", root.display()))?;
        ensure!(!text.contains('\''), "{text}: Slurm's jobs take no path with an apostrophe");
        let prefix = format!("nas-{:08x}-", nas_datasets::rng::torch_seed(0, text, 0) as u32);
        let flags = compute.flags();
        let (known, left) = (HashMap::new(), Vec::new());
        let mut slurm = Self { root, workers, options, flags, prefix, known, asked: None, running: Vec::new(), left };
        slurm.known = slurm.jobs()?;
        Ok(slurm)
    }

    /// This search's jobs that wait or run: their numbers by name.
    fn jobs(&self) -> Result<HashMap<String, String>> {
        let text = said(Command::new("squeue").args(["--noheader", "--me", "--states=all", "--format=%i|%j|%T"]))?;
        let ended =
            ["COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"];
        let job = |line: &str| {
            let mut fields = line.splitn(3, '|');
            let (id, name, state) = (fields.next()?, fields.next()?, fields.next()?);
            let alive = name.starts_with(&self.prefix) && !ended.contains(&state);
            alive.then(|| (name.to_string(), id.to_string()))
        };
        Ok(text.lines().filter_map(job).collect())
    }

    fn name(&self, id: u64) -> String {
        format!("{}{id:05}", self.prefix)
    }

    /// Submits a trial's job; returns its number.
    fn submit_job(&self, trial: &Trial, folder: &Path) -> Result<String> {
        let (program, folder) = (std::env::current_exe()?, folder.display());
        let flags = self.flags.join(" ");
        // Slurm tells the script alone of the end of its time (`--signal=B:USR1@60`): the trial saves, and goes on in a new job.
        let script = format!(
            "#!/bin/sh\n# Trial {} of {}\n'{}' trial '{folder}' --threads \"${{SLURM_CPUS_PER_TASK:-1}}\" {flags} &\nchild=$!\n\
             trap 'kill -TERM $child' TERM\ntrap 'again=1; kill -TERM $child' USR1\n\
             while :; do wait $child; code=$?; kill -0 $child 2>/dev/null || break; done\n\
             [ -z \"$again\" ] || [ -e '{folder}/record.json' ] || exec scontrol requeue \"$SLURM_JOB_ID\"\nexit $code\n",
            trial.id,
            self.root.display(),
            program.display()
        );
        let path = trial_folder(&self.root, trial.id).join("job.sh");
        write_atomic(&path, script.as_bytes())?;
        let mut sbatch = Command::new("sbatch");
        sbatch.args(["--parsable", "--open-mode=append", "--job-name", &self.name(trial.id), "--output"]);
        sbatch.arg(path.with_file_name("run.log")).args(&self.options).arg(&path);
        // `12` or `12;cluster`.
        let text = said(&mut sbatch)?;
        Ok(text.trim().split(';').next().unwrap_or_default().to_string())
    }

    /// Why a job that Slurm has no more has left no record.
    fn reason(&self, job: &Job) -> String {
        let ask = |program: &str, args: &[&str]| said(Command::new(program).args(args)).unwrap_or_default();
        let shown = ask("scontrol", &["show", "job", "--oneliner", &job.id]);
        let field = |key: &str| shown.split_whitespace().find_map(|word| word.strip_prefix(key).map(String::from));
        let state =
            field("JobState=").map(|state| format!("{state}, exit code {}", field("ExitCode=").unwrap_or_default()));
        let state = state.unwrap_or_else(|| {
            let line = ask(
                "sacct",
                &["--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "--jobs", &job.id],
            );
            line.lines().next().unwrap_or("Slurm knows it no more").replace('|', ", exit code ")
        });
        let log = end_of(&trial_folder(&self.root, job.trial.id).join("run.log"));
        let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing was printed");
        format!("Slurm's job {}: {state}: {last}", job.id)
    }
}

/// What a program prints; an error where it fails.
fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}; is Slurm installed here?"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} ended with {}: {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Executor for Slurm {
    fn capacity(&self) -> usize {
        self.workers
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let folder = trial_folder(&self.root, trial.id);
        if let Some(record) = left_record(&folder, &trial) {
            self.left.push(record);
            return Ok(());
        }
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        write_atomic(&folder.join("trial.json"), pretty(&trial).as_bytes())?;
        let id = match self.known.get(&self.name(trial.id)) {
            Some(id) => id.clone(),
            None => self.submit_job(&trial, &folder).with_context(|| format!("trial {}", trial.id))?,
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
                let folder = trial_folder(&self.root, trial.id);
                if let Some(record) = left_record(&folder, trial) {
                    self.running.remove(i);
                    return Ok(record);
                }
                if gone.is_some_and(|since| since.elapsed() > GRACE) {
                    let Outcome::Failed(reason) = failed(&self.reason(&self.running[i])) else { unreachable!() };
                    let trial = self.running.remove(i).trial;
                    return Ok(Record { trial, outcome: Outcome::Failed(reason) });
                }
            }
            if self.asked.is_none_or(|asked| asked.elapsed() > ASK) {
                // A Slurm that cannot be asked says nothing of its jobs.
                if let Ok(known) = self.jobs() {
                    let (prefix, now) = (self.prefix.clone(), Instant::now());
                    for job in &mut self.running {
                        let alive = known.contains_key(&format!("{prefix}{:05}", job.trial.id));
                        job.gone = if alive { None } else { job.gone.or(Some(now)) };
                    }
                    self.known = known;
                }
                self.asked = Some(Instant::now());
            }
            std::thread::sleep(POLL);
        }
    }
}
