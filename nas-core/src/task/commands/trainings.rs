//! Trainings side by side: each a child process with a run folder of its own, so that they can be killed and go on, and give
//! the same result whatever runs beside them.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::executor::{die_with_parent, free_slot};
use crate::run::cli::Compute;
use crate::run::interrupt::{self, Interrupted};
use crate::run::progress::Progress;
use crate::run::run_dir::{RunDir, open_to_append, read_result, write_atomic};

/// One training of a comparison.
#[derive(Clone, Debug)]
pub struct Training {
    /// Name of its folder and files.
    pub name: String,
    /// Its experiment file.
    pub config: String,
}

/// The child processes of a comparison, which run the `train` command of this program.
#[derive(Clone, Debug)]
pub struct Children {
    /// Device and precision of the children; on cards they are spread over all of them.
    pub compute: Compute,
    /// Threads of each child.
    pub threads: usize,
    /// Children at a time.
    pub workers: usize,
    /// Whether they write event files.
    pub tensorboard: bool,
}

struct Running {
    name: String,
    child: Child,
    /// Which of the workers runs it.
    slot: usize,
}

/// Run folder of a training below that of the comparison.
pub fn run_folder(dir: &RunDir, name: &str) -> PathBuf {
    dir.path(&format!("runs/{name}"))
}

impl Children {
    /// Runs all trainings to their ends, going on with those that were begun; `describe` says what came of one.
    pub fn train_all(&self, dir: &RunDir, trainings: Vec<Training>, describe: impl Fn(&Value) -> String) -> Result<()> {
        fs::create_dir_all(dir.path("configs"))?;
        fs::create_dir_all(dir.path("logs"))?;
        let mut progress = Progress::new("compare", trainings.len(), 0, Some(&dir.path("run.log")))?;
        let mut running = Vec::new();
        let outcome = self.drive(dir, trainings.into(), &mut running, &mut progress, &describe);
        if outcome.is_err() {
            stop(&mut running);
        }
        outcome
    }

    fn drive(
        &self,
        dir: &RunDir,
        mut waiting: VecDeque<Training>,
        running: &mut Vec<Running>,
        progress: &mut Progress,
        describe: &dyn Fn(&Value) -> String,
    ) -> Result<()> {
        while !(waiting.is_empty() && running.is_empty()) {
            while running.len() < self.workers
                && let Some(training) = waiting.pop_front()
            {
                let slot = free_slot(running.iter().map(|running| running.slot));
                running.push(self.spawn(dir, training, slot)?);
            }
            sleep(Duration::from_millis(200));
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            let mut i = 0;
            while i < running.len() {
                let Some(status) = running[i].child.try_wait()? else {
                    i += 1;
                    continue;
                };
                let Running { name, .. } = running.swap_remove(i);
                if !status.success() {
                    bail!("the training {name} failed ({status}); its output is in {}", log_path(dir, &name).display());
                }
                let folder = run_folder(dir, &name);
                let result = read_result(&folder)?.with_context(|| format!("{}: no result", folder.display()))?;
                progress.line(format!("{name}: {}", describe(&result)));
                progress.step(|| "trainings".into());
            }
        }
        Ok(())
    }

    fn spawn(&self, dir: &RunDir, Training { name, config }: Training, slot: usize) -> Result<Running> {
        let path = dir.path(&format!("configs/{name}.toml"));
        write_atomic(&path, config.as_bytes())?;
        let log = open_to_append(&log_path(dir, &name))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["train", "--resume", "--format", "json", "--config"]).arg(path);
        command.arg("--out").arg(run_folder(dir, &name));
        command.args(["--threads", &self.threads.to_string()]).args(self.compute.arguments(slot));
        command.args(self.tensorboard.then_some("--tensorboard"));
        command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start the training {name}"))?;
        Ok(Running { name, child, slot })
    }
}

fn log_path(dir: &RunDir, name: &str) -> PathBuf {
    dir.path(&format!("logs/{name}.log"))
}

/// Asks children to save and stop, and waits until they have.
fn stop(running: &mut [Running]) {
    for Running { child, .. } in running.iter() {
        // SAFETY: kill(2) with the id of a child that has not been waited for; at worst it has ended.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    }
    // A child that cannot be waited for is gone; there is nothing left to do about it.
    running.iter_mut().for_each(|Running { child, .. }| _ = child.wait());
}

/// Rows of cells, the first of them headers, in columns of equal width: for people, or as Markdown.
pub fn table(rows: &[Vec<String>], markdown: bool) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let line = |row: &Vec<String>| {
        let pad = |(i, cell): (usize, &String)| match i {
            0 => format!("{cell:<0$}", width(i)),
            _ => format!("{cell:>0$}", width(i)),
        };
        let cells: Vec<String> = row.iter().enumerate().map(pad).collect();
        if markdown { format!("| {} |", cells.join(" | ")) } else { cells.join("  ") }
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if markdown {
        lines.insert(1, format!("|---{}|", "|---:".repeat(columns.saturating_sub(1))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::mean_and_deviation;

    #[test]
    fn tables_align_their_columns() {
        let rows = [["model", "top-1"], ["x", "60.00 ± 10.00"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows, false), "model          top-1\nx      60.00 ± 10.00");
        assert_eq!(table(&rows, true).lines().nth(1), Some("|---|---:|"));
        let (mean, deviation) = mean_and_deviation(&[0.5, 0.6, 0.7]);
        assert!((mean - 0.6).abs() < 1e-12 && (deviation - 0.1).abs() < 1e-12);
        assert_eq!(mean_and_deviation(&[0.5]), (0.5, 0.0));
    }
}
