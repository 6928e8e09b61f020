//! A strategy at work on a space: what it is asked and told.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use anyhow::{Result, ensure};
use nas_datasets::rng::stream;

use crate::search::goals::Goals;
use crate::search::start::Start;
use crate::space::trial::{Budget, Proposal, Record, Trial};
use crate::space::{Architecture, ChoiceSpace, Observation, Origin};
use crate::strategy::{Asking, SearchStrategy, StrategyConfig};

/// Trials that can be running at once, or lost at once when a process dies: an id further ahead of its log is damage.
const MOST_RUNNING: u64 = 1 << 16;

/// A strategy at work on a space. Everything it does is a function of the seed and of the records it was told, in order.
pub struct Searcher<'a> {
    space: &'a dyn ChoiceSpace,
    goals: Goals,
    budget: Budget,
    seed: u64,
    strategy: Box<dyn SearchStrategy>,
    /// Architectures of the first trials, which the strategy does not choose.
    given: Vec<Architecture>,
    next_id: u64,
    /// Ids below `next_id` that an earlier process lost before it had started their trials.
    lost: BTreeSet<u64>,
    running: Vec<Trial>,
    /// Trials that others may inherit weights from, with their main objective; none where they do not inherit.
    parents: Option<Vec<(Trial, f64)>>,
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
        Self {
            space,
            goals,
            budget,
            seed,
            strategy,
            given: Vec::new(),
            next_id: 0,
            lost: BTreeSet::new(),
            running: Vec::new(),
            parents: None,
        }
    }

    /// Trials have the one as their parent, of those that have ended, whose architecture differs in the fewest choices; of
    /// several the best, of several of these the first.
    pub fn inheriting(mut self) -> Self {
        self.parents = Some(Vec::new());
        self
    }

    fn nearest(&self, arch: &Architecture) -> Option<u64> {
        let differing = |trial: &Trial| trial.arch.differing(arch);
        let nearer = |(a, value_a): &&(Trial, f64), (b, value_b): &&(Trial, f64)| {
            differing(a).cmp(&differing(b)).then(value_b.total_cmp(value_a)).then(a.id.cmp(&b.id))
        };
        self.parents.iter().flatten().min_by(nearer).map(|(trial, _)| trial.id)
    }

    /// A search that begins from what is known: the strategy learns from earlier trials, and the first trials are the given
    /// ones. Of a search at its start, before any record of its log is told.
    pub fn starting_from(mut self, start: &Start) -> Self {
        for (i, observation) in (0..).zip(&start.earlier) {
            self.strategy.tell(self.space, observation, &mut stream(self.seed, "earlier", i));
        }
        if !start.earlier.is_empty() {
            self.strategy.begin(self.space, &mut stream(self.seed, "begin", 0));
        }
        self.given.clone_from(&start.given);
        self
    }

    /// Trials that were asked for and not told yet, by id.
    pub fn running(&self) -> &[Trial] {
        &self.running
    }

    /// The next trial. `None` while a running one must end first; with none running, the strategy has finished.
    pub fn ask(&mut self) -> Option<Trial> {
        let id = self.peek();
        let Proposal { arch, epochs, parent } = match self.given.get(id as usize) {
            Some(arch) => Proposal { arch: arch.clone(), epochs: self.strategy.first_epochs(), parent: None },
            None => {
                let number = id - self.given.len() as u64;
                let asking = Asking { space: self.space, id: number, running: &self.running };
                self.strategy.ask(&asking, &mut stream(self.seed, "ask", id))?
            }
        };
        let budget = Budget { epochs: epochs.or(self.budget.epochs), ..self.budget };
        let parent = parent.or_else(|| self.nearest(&arch));
        let trial = Trial { id, arch, budget, parent };
        self.started(trial.clone());
        Some(trial)
    }

    /// Takes over a trial that an earlier process had started.
    pub fn started(&mut self, trial: Trial) {
        self.passed(trial.id);
        self.running.push(trial);
    }

    /// Says why a trial that a file tells of is none of this search, of which `count` have ended.
    pub(super) fn check(&self, trial: &Trial, count: usize) -> Result<()> {
        let Trial { id, arch, budget, .. } = trial;
        self.space.validate(arch)?;
        budget.check()?;
        let bound = count as u64 + MOST_RUNNING;
        ensure!(*id < bound, "trial {id} is out of place among {count} trials");
        Ok(())
    }

    /// Says why a record of a log of `count` lines, `before` the ids of the lines above it, is none of this search.
    pub(super) fn check_record(&self, record: &Record, count: usize, before: &HashSet<u64>) -> Result<()> {
        let Trial { id, parent, .. } = record.trial;
        self.check(&record.trial, count)?;
        let goes_on = parent.is_none_or(|parent| before.contains(&parent));
        ensure!(goes_on, "trial {id} goes on from trial {}, which has not ended before", parent.unwrap_or_default());
        Ok(())
    }

    /// Id of the next trial.
    pub(super) fn peek(&self) -> u64 {
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
        let is_given = record.trial.id < self.given.len() as u64;
        let origin = if is_given { Origin::Given } else { Origin::Proposed };
        let observation = Observation { origin, ..self.goals.observe(record) };
        if let (Some(parents), Some(values)) = (&mut self.parents, &observation.values) {
            parents.push((record.trial.clone(), values[0]));
        }
        self.strategy.tell(self.space, &observation, &mut rng);
    }
}
