//! What a long job tells while it runs: a bar on a terminal, plain lines elsewhere, and the same lines in `run.log`.

use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::nn::ranks;
use crate::run::run_dir::open_to_append;
use crate::run::words;
use crate::space::trial::{Outcome, Record};

const PLAIN_LINE_EVERY: Duration = Duration::from_secs(30);

/// Progress of one job.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    log: Option<File>,
    label: String,
    total: u64,
    done_before: u64,
    done: u64,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    /// A job of `total` steps, `done` of which an earlier process did. Lines also go to `log` where one is given.
    pub fn new(label: &str, total: usize, done: usize, log: Option<&Path>) -> Result<Self> {
        let bar = (std::io::stderr().is_terminal() && ranks::is_first()).then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}, {eta} left");
            let bar = ProgressBar::new(total as u64).with_style(style.expect("a valid template"));
            bar.with_prefix(label.to_string()).with_position(done as u64)
        });
        bar.iter().for_each(ProgressBar::reset_eta);
        let now = Instant::now();
        Ok(Self {
            bar,
            log: log.map(open_to_append).transpose()?,
            label: label.to_string(),
            total: total as u64,
            done_before: done as u64,
            done: done as u64,
            started: now,
            last_line: now,
        })
    }

    /// One step is done; `status` (loss, images/s) is made only when it is shown.
    pub fn step(&mut self, status: impl FnOnce() -> String) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_message(status());
            bar.inc(1);
        } else if self.last_line.elapsed() >= PLAIN_LINE_EVERY {
            self.last_line = Instant::now();
            let done_here = (self.done - self.done_before).max(1) as f64;
            let left = self.started.elapsed().mul_f64((self.total.saturating_sub(self.done)) as f64 / done_here);
            self.line(format!("{}/{} {}, {} left", self.done, self.total, status(), HumanDuration(left)));
        }
    }

    /// A trial of a search has ended.
    pub fn trial(&mut self, record: &Record) {
        if let Outcome::Failed(reason) = &record.outcome {
            self.line(format!("trial {} failed: {reason}", record.trial.id));
        }
        self.step(|| format!("trial {}", record.trial.id));
    }

    /// A line that stays: an epoch's metrics, a note.
    pub fn line(&mut self, text: impl Display) {
        let text = format!("{}: {}", self.label, words::text(&text.to_string()));
        match &self.bar {
            Some(bar) => bar.println(&text),
            None if ranks::is_first() => words::tell(&text),
            None => {}
        }
        // The log repeats what stderr has; a disk too full for it stops the job at its next checkpoint, with a message.
        let _ = self.log.as_mut().map(|log| writeln!(log, "{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
