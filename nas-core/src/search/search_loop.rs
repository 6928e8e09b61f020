//! The one search loop: asks the strategy, runs trials, tells it what came of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use anyhow::Result;
use nas_datasets::rng::stream;

use crate::executor::{Executor, give_up, require_success};
use crate::run::plot::Series;
use crate::search::goals::{Goal, Goals};
use crate::search::log::TrialStore;
use crate::space::ChoiceSpace;
use crate::space::trial::{Budget, Proposal, Record, Trial};
use crate::strategy::{Asking, SearchStrategy, StrategyConfig};

/// A strategy at work on a space. Everything it does is a function of the seed and of the records it was told, in order.
pub struct Searcher<'a> {
    space: &'a dyn ChoiceSpace,
    goals: Goals,
    budget: Budget,
    seed: u64,
    strategy: Box<dyn SearchStrategy>,
    next_id: u64,
    /// Ids below `next_id` that an earlier process lost before it had started their trials.
    lost: BTreeSet<u64>,
    running: Vec<Trial>,
}

impl fmt::Debug for Searcher<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Searcher").field("next_id", &self.next_id).field("running", &self.running).finish()
    }
}

impl<'a> Searcher<'a> {
    /// A search at its start. Trials get `budget`, but for the epochs where the strategy chooses them.
    pub fn new(space: &'a dyn ChoiceSpace, strategy: &StrategyConfig, goals: Goals, budget: Budget, seed: u64) -> Self {
        let strategy = strategy.build(space, &mut stream(seed, "strategy", 0));
        Self { space, goals, budget, seed, strategy, next_id: 0, lost: BTreeSet::new(), running: Vec::new() }
    }

    /// Trials that were asked for and not told yet, by id.
    pub fn running(&self) -> &[Trial] {
        &self.running
    }

    /// The next trial. `None` while a running one must end first; with none running, the strategy has finished.
    pub fn ask(&mut self) -> Option<Trial> {
        let id = self.peek();
        let asking = Asking { space: self.space, id, running: &self.running };
        let Proposal { arch, epochs, parent } = self.strategy.ask(&asking, &mut stream(self.seed, "ask", id))?;
        let budget = Budget { epochs: epochs.or(self.budget.epochs), ..self.budget };
        let trial = Trial { id, arch, budget, parent };
        self.started(trial.clone());
        Some(trial)
    }

    /// Takes over a trial that an earlier process had started.
    pub fn started(&mut self, trial: Trial) {
        self.passed(trial.id);
        self.running.push(trial);
    }

    /// Id of the next trial.
    fn peek(&self) -> u64 {
        self.lost.first().copied().unwrap_or(self.next_id)
    }

    fn passed(&mut self, id: u64) {
        self.lost.remove(&id);
        self.lost.extend(self.next_id..id);
        self.next_id = self.next_id.max(id + 1);
    }

    /// Takes a trial that has ended.
    pub fn tell(&mut self, record: &Record) {
        self.running.retain(|trial| trial.id != record.trial.id);
        self.passed(record.trial.id);
        let mut rng = stream(self.seed, "tell", record.trial.id);
        self.strategy.tell(self.space, &self.goals.observe(record), &mut rng);
    }
}

/// A search that goes on from what its log holds.
#[derive(Debug)]
pub struct SearchLoop<'a> {
    searcher: Searcher<'a>,
    store: TrialStore,
    records: Vec<Record>,
    /// Trials in all.
    num_trials: u64,
}

impl<'a> SearchLoop<'a> {
    /// Replays the records of `store` into the strategy, which restores its state.
    pub fn new(mut searcher: Searcher<'a>, store: TrialStore, records: Vec<Record>, num_trials: u64) -> Self {
        records.iter().for_each(|record| searcher.tell(record));
        Self { searcher, store, records, num_trials }
    }

    /// Trials that have ended, in the order of their ends.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Runs trials until the search is complete. `started` are trials that earlier processes had started; those
    /// that have not ended run first, under their ids. `on_end` sees every new record after it is in the log.
    ///
    /// With `ordered`, records are taken in the order of their ids and a trial is asked for when all but the last
    /// `capacity - 1` before it have been told: the log is then the same whatever the trials' times, at the price of waiting
    /// for slow ones.
    pub fn run(
        &mut self,
        executor: &mut dyn Executor,
        ordered: bool,
        started: Vec<Trial>,
        mut on_end: impl FnMut(&Record),
    ) -> Result<()> {
        let ended: HashSet<u64> = self.records.iter().map(|record| record.trial.id).collect();
        let mut waiting: Vec<Trial> = started.into_iter().filter(|trial| !ended.contains(&trial.id)).rev().collect();
        // Registered before anything is asked, so that their ids are taken.
        waiting.iter().rev().for_each(|trial| self.searcher.started(trial.clone()));
        let mut untold: BTreeMap<u64, Record> = BTreeMap::new();
        let (before, mut running) = (self.records.len(), 0);
        loop {
            while running < executor.capacity() {
                let first_open = self.searcher.running().iter().map(|trial| trial.id).min();
                let next_id = self.searcher.peek();
                let in_turn = !ordered || first_open.is_none_or(|first| next_id < first + executor.capacity() as u64);
                let next = match waiting.pop() {
                    Some(trial) => Some(trial),
                    None if next_id < self.num_trials && in_turn => self.searcher.ask(),
                    None => None,
                };
                let Some(trial) = next else { break };
                executor.submit(trial)?;
                running += 1;
            }
            if running == 0 && untold.is_empty() {
                return require_success(&self.records);
            }
            let first_open = self.searcher.running().iter().map(|trial| trial.id).min();
            let in_turn = |id: &u64| !ordered || first_open.is_none_or(|first| *id == first);
            let record = match untold.keys().next().copied().filter(in_turn) {
                Some(id) => untold.remove(&id).expect("a key of the map"),
                None => {
                    let record = executor.wait()?;
                    running -= 1;
                    if !in_turn(&record.trial.id) {
                        untold.insert(record.trial.id, record);
                        continue;
                    }
                    record
                }
            };
            self.store.append(&record)?;
            self.searcher.tell(&record);
            on_end(&record);
            self.records.push(record);
            give_up(&self.records[before..])?;
        }
    }
}

/// The best main objective of the trials so far that meet the constraints, by the number of trials.
pub fn best_so_far(name: &str, goals: &Goals, records: &[Record]) -> Series {
    let sign = if goals.objectives[0].goal == Goal::Maximize { 1.0 } else { -1.0 };
    let mut best = f64::NEG_INFINITY;
    let mut points = Vec::new();
    for (i, record) in records.iter().enumerate() {
        let observation = goals.observe(record);
        let feasible = observation.values.filter(|_| observation.violation == 0.0);
        best = feasible.map_or(best, |values| best.max(values[0]));
        if best.is_finite() {
            points.push((i as f64 + 1.0, sign * best));
        }
    }
    Series { name: name.to_string(), points }
}
