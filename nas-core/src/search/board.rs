//! A search by trials as TensorBoard shows it: every trial is a row of the HParams tab, and the search itself has the best so far.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::analysis::vocabulary::Decision;
use super::best_so_far;
use super::goals::{Goal, Goals};
use crate::executor::trial_folder;
use crate::run::cli::warn;
use crate::run::tensorboard::Events;
use crate::space::trial::{Outcome, Record};
use crate::train::{numbers, read_metrics};

/// Event files of a search that goes on.
#[derive(Debug)]
pub struct TrialBoard {
    folder: PathBuf,
    trials: PathBuf,
    events: Events,
    decisions: Vec<Decision>,
    goals: Goals,
    ended: i64,
    best: Option<f64>,
}

impl TrialBoard {
    /// Files in `folder` of the search in the folder `log`, of which `records` have ended before.
    pub fn open(
        folder: &Path,
        log: &Path,
        decisions: Vec<Decision>,
        goals: &Goals,
        records: &[Record],
    ) -> Result<Self> {
        let ended = records.len() as i64;
        let events = Events::create(folder, (ended > 0).then_some(ended + 1))?;
        let best = best_so_far("", goals, records).points.last().map(|point| point.1);
        let (folder, trials) = (folder.to_path_buf(), log.join("trials"));
        Ok(Self { folder, trials, events, decisions, goals: goals.clone(), ended, best })
    }

    /// A trial has ended. What cannot be written is said once more by the search's own files.
    pub fn trial(&mut self, record: &Record) {
        self.ended += 1;
        self.write(record).unwrap_or_else(|error| warn(format!("{error:#}")));
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let trial = &record.trial;
        let chosen = self.decisions.iter().zip(trial.arch.choices());
        let parameters: Vec<(String, String)> = chosen
            .map(|(decision, choice)| {
                let text = decision.choices.get(usize::from(*choice)).cloned();
                (decision.name.clone(), text.unwrap_or_else(|| choice.to_string()))
            })
            .collect();
        let mut row = Events::create(&self.folder.join(format!("trial_{:05}", trial.id)), None)?;
        row.start(&parameters)?;
        let mut last = 0;
        for line in read_metrics(&trial_folder(&self.trials, trial.id).join("train"))? {
            last = line.get("epoch").and_then(serde_json::Value::as_i64).unwrap_or(last + 1);
            row.scalars(last, numbers(&line))?;
        }
        let Outcome::Metrics(metrics) = &record.outcome else { return row.end(false) };
        row.scalars(last, metrics.iter().map(|(name, value)| (name.as_str(), *value)))?;
        row.end(true)?;
        self.events.scalars(self.ended, metrics.iter().map(|(name, value)| (name.as_str(), *value)))?;
        let objective = &self.goals.objectives[0];
        let observed = self.goals.observe(record);
        if let Some(value) = record.metric(&objective.metric).filter(|_| observed.violation == 0.0) {
            let better = |best: f64| if objective.goal == Goal::Maximize { best.max(value) } else { best.min(value) };
            self.best = Some(self.best.map_or(value, better));
        }
        let name = format!("best {}", objective.metric);
        self.events.scalars(self.ended, self.best.map(|best| (name.as_str(), best)))
    }
}
