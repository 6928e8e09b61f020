//! The one search loop: asks the strategy, runs trials, tells it what came of them.

use std::fmt;

use nas_datasets::rng::stream;

use crate::goals::Goals;
use crate::space::ChoiceSpace;
use crate::strategy::{Asking, SearchStrategy, StrategyConfig};
use crate::trial::{Budget, Proposal, Record, Trial};

/// A strategy at work on a space. Everything it does is a function of the seed and of the records it was told, in order.
pub struct Searcher<'a> {
    space: &'a dyn ChoiceSpace,
    goals: Goals,
    budget: Budget,
    seed: u64,
    strategy: Box<dyn SearchStrategy>,
    next_id: u64,
    running: Vec<Trial>,
}

impl fmt::Debug for Searcher<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Searcher").field("next_id", &self.next_id).field("running", &self.running).finish()
    }
}

impl<'a> Searcher<'a> {
    /// A search at its start. Trials get `budget`, but for the epochs where the strategy chooses them.
    pub fn new(
        space: &'a dyn ChoiceSpace,
        strategy: &StrategyConfig,
        goals: Goals,
        budget: Budget,
        seed: u64,
    ) -> Self {
        let strategy = strategy.build(space, &mut stream(seed, "strategy", 0));
        Self { space, goals, budget, seed, strategy, next_id: 0, running: Vec::new() }
    }

    /// Trials that were asked for and not told yet, by id.
    pub fn running(&self) -> &[Trial] {
        &self.running
    }

    /// Trials that were asked for.
    pub fn num_asked(&self) -> u64 {
        self.next_id
    }

    /// The next trial. `None` while a running one must end first; with none running, the strategy has finished.
    pub fn ask(&mut self) -> Option<Trial> {
        let asking = Asking { space: self.space, id: self.next_id, running: &self.running };
        let proposal = self.strategy.ask(&asking, &mut stream(self.seed, "ask", self.next_id))?;
        let trial = self.trial(proposal);
        self.started(trial.clone());
        Some(trial)
    }

    fn trial(&self, proposal: Proposal) -> Trial {
        let Proposal { arch, epochs, parent } = proposal;
        let budget = Budget { epochs: epochs.or(self.budget.epochs), ..self.budget };
        Trial { id: self.next_id, arch, budget, parent }
    }

    /// Takes over a trial that an earlier process had asked for.
    pub fn started(&mut self, trial: Trial) {
        self.next_id = self.next_id.max(trial.id + 1);
        self.running.push(trial);
    }

    /// Takes a trial that has ended.
    pub fn tell(&mut self, record: &Record) {
        self.running.retain(|trial| trial.id != record.trial.id);
        self.next_id = self.next_id.max(record.trial.id + 1);
        let mut rng = stream(self.seed, "tell", record.trial.id);
        self.strategy.tell(self.space, &self.goals.observe(record), &mut rng);
    }
}
