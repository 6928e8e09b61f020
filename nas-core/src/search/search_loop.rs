//! The one search loop: asks the strategy, runs trials, tells it what came of them.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};

use crate::executor::{Executor, give_up, require_success};
use crate::run::plot::Series;
use crate::search::Searcher;
use crate::search::goals::{Goal, Goals};
use crate::search::log::TrialStore;
use crate::space::trial::{Outcome, Record, Trial};

/// A search that goes on from what its log holds.
#[derive(Debug)]
pub struct SearchLoop<'a> {
    searcher: Searcher<'a>,
    store: TrialStore,
    records: Vec<Record>,
    /// Trials in all.
    num_trials: u64,
    /// Whether equal trials end equally.
    repeatable: bool,
}

impl<'a> SearchLoop<'a> {
    /// Replays the records of `store` into the strategy, which restores its state. Fails at a record that is none of this
    /// search, and names its line.
    pub fn new(mut searcher: Searcher<'a>, store: TrialStore, records: Vec<Record>, num_trials: u64) -> Result<Self> {
        let mut ended = HashSet::new();
        for (i, record) in records.iter().enumerate() {
            searcher.check_record(record, records.len(), &ended).with_context(|| store.place(i))?;
            searcher.tell(record);
            ended.insert(record.trial.id);
        }
        Ok(Self { searcher, store, records, num_trials, repeatable: false })
    }

    /// Lets a trial that equals one that has ended take its metrics over instead of being run: for evaluators that would find the same
    /// again.
    pub fn repeating(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// What a trial that equals one that has ended ends in.
    fn known(&self, trial: &Trial) -> Option<Record> {
        if !self.repeatable || trial.parent.is_some() {
            return None;
        }
        let equal = |ended: &Trial| ended.arch == trial.arch && ended.budget == trial.budget && ended.parent.is_none();
        let succeeded = |record: &&Record| matches!(record.outcome, Outcome::Metrics(_));
        let known = self.records.iter().filter(succeeded).find(|record| equal(&record.trial))?;
        Some(Record { trial: trial.clone(), ..known.clone() })
    }

    /// Trials that have ended, in the order of their ends.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Trials that were asked for or taken over and have not ended.
    pub fn running(&self) -> &[Trial] {
        self.searcher.running()
    }

    /// Takes over those of `started`, trials that earlier processes had started, that have not ended; one that is none of this
    /// search is an error. Before anything is asked: their ids are taken.
    pub fn take_over(&mut self, started: Vec<Trial>) -> Result<()> {
        let ended: HashSet<u64> = self.records.iter().map(|record| record.trial.id).collect();
        let open: Vec<Trial> = started.into_iter().filter(|trial| !ended.contains(&trial.id)).collect();
        for trial in &open {
            let place = || format!("trial {}, which was started and has not ended", trial.id);
            self.searcher.check(trial, ended.len()).with_context(place)?;
        }
        open.into_iter().for_each(|trial| self.searcher.started(trial));
        Ok(())
    }

    /// The next trial; `None` where there is none any more, or a running one must end first.
    pub fn ask(&mut self) -> Option<Trial> {
        if self.searcher.peek() < self.num_trials { self.searcher.ask() } else { None }
    }

    /// Takes a trial that has ended: into the log, then to the strategy.
    pub fn tell(&mut self, record: Record) -> Result<&Record> {
        self.store.append(&record)?;
        self.searcher.tell(&record);
        self.records.push(record);
        Ok(self.records.last().expect("just appended"))
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
        self.take_over(started)?;
        let mut waiting: Vec<Trial> = self.running().iter().rev().cloned().collect();
        let mut untold: BTreeMap<u64, Record> = BTreeMap::new();
        let (before, mut running) = (self.records.len(), 0);
        loop {
            while running < executor.capacity() {
                let first_open = self.searcher.running().iter().map(|trial| trial.id).min();
                let last = first_open.map_or(u64::MAX, |first| first + executor.capacity() as u64);
                let in_turn = !ordered || self.searcher.peek() < last;
                let next = match waiting.pop() {
                    Some(trial) => Some(trial),
                    None if in_turn => self.ask(),
                    None => None,
                };
                let Some(trial) = next else { break };
                if let Some(record) = self.known(&trial) {
                    untold.insert(trial.id, record);
                    break;
                }
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
            on_end(self.tell(record)?);
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
    Series::new(name, points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::InProcess;
    use crate::search::Searcher;
    use crate::space::ChoiceSpace;
    use crate::space::trial::Budget;
    use crate::space::trial::Values;
    use crate::strategy::StrategyConfig;

    #[derive(Debug)]
    struct Two;

    impl ChoiceSpace for Two {
        fn name(&self) -> &str {
            "two"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![3, 3]
        }
    }

    #[test]
    fn an_architecture_is_evaluated_once_and_the_log_is_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let search = |name: &str, repeating: bool| {
            let (store, records) = TrialStore::open(temp.path().join(name)).unwrap();
            let strategy = StrategyConfig::all().remove(0);
            let searcher = Searcher::new(&Two, &strategy, Goals::maximize("valid"), Budget::default(), 0);
            let search = SearchLoop::new(searcher, store, records, 40).unwrap();
            let mut search = if repeating { search.repeating() } else { search };
            let mut evaluated = 0;
            let evaluate = |trial: &Trial| {
                evaluated += 1;
                let value = f64::from(trial.arch.choices()[0]);
                Ok(Values::from([("valid".to_string(), value)]))
            };
            search.run(&mut InProcess::new(evaluate), true, Vec::new(), |_| {}).unwrap();
            (evaluated, std::fs::read_to_string(temp.path().join(name)).unwrap())
        };
        let (every, log) = search("every", false);
        let (once, log_once) = search("once", true);
        assert!(every == 40 && once <= 9, "{once} of 9 architectures");
        assert_eq!(log, log_once);
    }

    #[test]
    fn a_damaged_log_is_refused_by_its_line_before_any_strategy_hears_of_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("trials.jsonl");
        let good = r#"{"id":0,"arch":"1-2","outcome":{"metrics":{"valid":0.5}}}"#;
        let open = |line: &str, strategy: &StrategyConfig| {
            std::fs::write(&path, format!("{good}\n\n{line}\n")).unwrap();
            let (store, records) = TrialStore::open(path.clone()).unwrap();
            let searcher = Searcher::new(&Two, strategy, Goals::maximize("valid"), Budget::default(), 0);
            SearchLoop::new(searcher, store, records, 10).map(|search| search.records().len())
        };
        let damaged = [
            (r#"{"id":1,"arch":"1-2-0","outcome":{"metrics":{"valid":0.5}}}"#, "1-2-0 is not of the space two"),
            (r#"{"id":1,"arch":"9-9","outcome":{"metrics":{"valid":0.5}}}"#, "9-9 is not of the space two"),
            (r#"{"id":1000000000,"arch":"1-1","outcome":{"failed":"x"}}"#, "trial 1000000000 is out of place among 2"),
            (r#"{"id":18446744073709551615,"arch":"1-1","outcome":{"failed":"x"}}"#, "is out of place among 2"),
            (r#"{"id":1,"arch":"1-1","parent":7,"outcome":{"failed":"x"}}"#, "goes on from trial 7"),
            (r#"{"id":1,"arch":"1-1","budget":{"data":-1.0},"outcome":{"failed":"x"}}"#, "budget.data = -1"),
        ];
        for strategy in StrategyConfig::all() {
            for (line, expected) in damaged {
                let error = format!("{:#}", open(line, &strategy).unwrap_err());
                assert!(error.contains("trials.jsonl: line 3: ") && error.contains(expected), "{error}");
            }
            let gap = r#"{"id":3,"arch":"1-1","outcome":{"failed":"a killed process"}}"#;
            assert_eq!(open(gap, &strategy).unwrap(), 2);
        }
    }
}
