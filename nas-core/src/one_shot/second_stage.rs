//! The search over a trained supernet: any strategy of searches by trials, its log, and a last round of the best on all
//! held-out images.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::executor::{InProcess, outcome_unless_stopped};
use crate::run::interrupt::{self, Interrupted};
use crate::run::progress::Progress;
use crate::run::run_dir::RunDir;
use crate::run::times::Stopwatch;
use crate::search::analysis::vocabulary::numbered;
use crate::search::board::TrialBoard;
use crate::search::goals::{Goals, Restricted};
use crate::search::log;
use crate::search::log::TrialStore;
use crate::search::{SearchLoop, Searcher};
use crate::space::Architecture;
use crate::space::ChoiceSpace;
use crate::space::trial::{Budget, Record, Values};
use crate::strategy::StrategyConfig;

/// Settings of the search over a trained supernet.
#[derive(Clone, Debug, PartialEq)]
pub struct SecondStage {
    /// What proposes candidates.
    pub strategy: StrategyConfig,
    /// Candidates in all.
    pub num_trials: u64,
    /// Batches that a candidate's batch-norm statistics are computed from; 0 for the supernet's.
    pub recalibration_batches: usize,
    /// Candidates of a last round, each of which is scored on all held-out images; 0 for none, and all images from the start.
    pub finalists: usize,
}

/// How much a candidate is scored on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Images {
    /// One batch.
    Batch,
    /// All held-out images.
    All,
}

/// Refuses to recompute statistics from more batches, as `section` of an experiment asks, than the `most` of an epoch.
pub fn check_recalibration(section: &str, batches: usize, most: usize) -> Result<()> {
    ensure!(
        batches <= most,
        "{section}.recalibration_batches = {batches}; expected at most {most}, the batches of an epoch"
    );
    Ok(())
}

impl SecondStage {
    /// Searches `space` for what `goals` want, of what `evaluate` gives. Trials are logged in `dir`, and what an earlier
    /// process has logged there is not run again. Returns the records of all trials and the best: architecture and metrics.
    pub fn run(
        &self,
        space: &dyn ChoiceSpace,
        goals: &Goals,
        seed: u64,
        dir: &Path,
        evaluate: impl Fn(&Architecture, Images) -> Result<Values>,
        on_end: impl FnMut(&Record),
    ) -> Result<(Vec<Record>, Record)> {
        let images = if self.finalists > 0 { Images::Batch } else { Images::All };
        let (store, records) = TrialStore::open(dir.join("trials.jsonl"))?;
        let searcher = Searcher::new(space, &self.strategy, goals.clone(), Budget::default(), seed);
        let mut search = SearchLoop::new(searcher, store, records, self.num_trials)?;
        let mut executor = InProcess::new(|trial| evaluate(&trial.arch, images));
        search.run(&mut executor, true, Vec::new(), on_end)?;
        let records = search.records().to_vec();
        let mut ranked: Vec<(f64, &Record)> = records.iter().filter_map(|r| Some((value(goals, r)?, r))).collect();
        // Stable: of equal ones the first.
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.dedup_by(|a, b| a.1.trial.arch == b.1.trial.arch);
        let best = match self.finalists {
            0 => ranked.first().map(|(_, record)| (*record).clone()),
            count => self.last_round(&ranked[..count.min(ranked.len())], goals, dir, evaluate)?,
        };
        let best = best.with_context(|| format!("{}: no trial succeeded", dir.join("trials.jsonl").display()))?;
        Ok((records, best))
    }

    /// As [`SecondStage::run`] in the folder `supernet_search` of a run, with progress. A candidate's metrics are its costs, as
    /// `space` knows them, and its scores.
    pub fn run_in_folder(
        &self,
        dir: &RunDir,
        space: &Restricted,
        goals: &Goals,
        seed: u64,
        scores: impl Fn(&Architecture, Images) -> Result<Values>,
    ) -> Result<(Vec<Record>, Record)> {
        let folder = dir.path("supernet_search");
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        let mut progress = Progress::new("supernet search", self.num_trials as usize, 0, Some(&dir.path("run.log")))?;
        let evaluate = |arch: &Architecture, images| {
            let mut metrics = space.costs(arch);
            metrics.extend(scores(arch, images)?);
            Ok(metrics)
        };
        let mut times = Stopwatch::open(&folder)?;
        let ended = match folder.join("trials.jsonl") {
            log if log.exists() => log::read(&log)?,
            _ => Vec::new(),
        };
        let board = dir.tensorboard().map(|board| board.join("supernet_search"));
        let names = numbered(&space.decisions());
        let mut board = board.map(|board| TrialBoard::open(&board, &folder, names, goals, &ended)).transpose()?;
        self.run(space, goals, seed, &folder, evaluate, |record| {
            progress.trial(record);
            times.mark(record.trial.id);
            board.iter_mut().for_each(|board| board.trial(record));
        })
    }

    fn last_round(
        &self,
        ranked: &[(f64, &Record)],
        goals: &Goals,
        dir: &Path,
        evaluate: impl Fn(&Architecture, Images) -> Result<Values>,
    ) -> Result<Option<Record>> {
        let (mut store, mut finals) = TrialStore::open(dir.join("finalists.jsonl"))?;
        for (i, record) in finals.iter().enumerate() {
            let is_finalist = ranked.iter().any(|(_, candidate)| candidate.trial == record.trial);
            ensure!(is_finalist, "{}: trial {} is no finalist of this search", store.place(i), record.trial.id);
        }
        for (_, record) in ranked {
            if finals.iter().any(|done| done.trial.id == record.trial.id) {
                continue;
            }
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            let trial = record.trial.clone();
            let outcome = outcome_unless_stopped(|| evaluate(&trial.arch, Images::All))?;
            let record = Record { trial, outcome };
            store.append(&record)?;
            finals.push(record);
        }
        let ranked = finals.into_iter().filter_map(|record| Some((value(goals, &record)?, record)));
        // Not `max_by`: of equal ones the first.
        Ok(ranked.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, record)| record))
    }
}

fn value(goals: &Goals, record: &Record) -> Option<f64> {
    goals.observe(record).value()
}
