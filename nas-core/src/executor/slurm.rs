//! Slurm's queue, by its commands `sbatch`, `squeue`, `scontrol` and `sacct`.

use std::collections::HashMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::jobs::{Alive, NewJob, Queue};
use crate::run::run_dir::write_atomic;

/// Slurm, with options of `sbatch`.
#[derive(Debug)]
pub struct Slurm {
    /// Such as `--gres=gpu:1`.
    pub options: Vec<String>,
}

/// States of jobs that neither wait nor run, and will not.
const ENDED: [&str; 8] =
    ["COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"];

impl Queue for Slurm {
    fn alive(&self, prefix: &str) -> Result<HashMap<String, Alive>> {
        let text = said(Command::new("squeue").args(["--noheader", "--me", "--states=all", "--format=%i|%j|%T"]))?;
        let job = |line: &str| {
            let mut fields = line.splitn(3, '|');
            let (id, name, state) = (fields.next()?, fields.next()?, fields.next()?);
            let alive = name.starts_with(prefix) && !ENDED.contains(&state);
            let waits = state == "PENDING";
            alive.then(|| (name.to_string(), Alive { id: id.to_string(), waits }))
        };
        Ok(text.lines().filter_map(job).collect())
    }

    /// Slurm tells the script alone of the end of its time (`--signal=B:USR1@60`): the trial saves, and goes on when the job has waited again.
    fn submit(&self, job: &NewJob) -> Result<String> {
        let NewJob { name, command, folder, done } = job;
        let script = format!(
            "#!/bin/sh\n{command} &\nchild=$!\ntrap 'kill -TERM $child' TERM\ntrap 'again=1; kill -TERM $child' USR1\n\
             while :; do wait $child; code=$?; kill -0 $child 2>/dev/null || break; done\n\
             [ -z \"$again\" ] || [ -e '{}/{done}' ] || exec scontrol requeue \"$SLURM_JOB_ID\"\nexit $code\n",
            folder.display()
        );
        let path = folder.join("job.sh");
        write_atomic(&path, script.as_bytes())?;
        let mut sbatch = Command::new("sbatch");
        sbatch.args(["--parsable", "--open-mode=append", "--job-name", name, "--output"]);
        sbatch.arg(folder.join("run.log")).args(&self.options).arg(&path);
        // `12` or `12;cluster`.
        Ok(said(&mut sbatch)?.trim().split(';').next().unwrap_or_default().to_string())
    }

    fn withdraw(&self, id: &str) {
        // It ends by itself where this fails.
        let _ = said(Command::new("scancel").args(["--state=PENDING", id]));
    }

    fn state(&self, id: &str) -> String {
        let ask = |program: &str, args: &[&str]| said(Command::new(program).args(args)).unwrap_or_default();
        let shown = ask("scontrol", &["show", "job", "--oneliner", id]);
        let field = |key: &str| shown.split_whitespace().find_map(|word| word.strip_prefix(key));
        if let Some(state) = field("JobState=") {
            return format!("{state}, exit code {}", field("ExitCode=").unwrap_or_default());
        }
        let columns = ["--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "--jobs", id];
        ask("sacct", &columns).lines().next().unwrap_or("Slurm knows it no more").replace('|', ", exit code ")
    }

    fn threads(&self) -> &'static str {
        "\"${SLURM_CPUS_PER_TASK:-1}\""
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
