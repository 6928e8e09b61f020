//! Multinomial distribution learning (Zheng et al., MdeNAS, arXiv 1905.07529): a choice that was tried less often but does
//! better takes probability from one that was tried more often and does worse.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::distribution::{Distribution, largest, mode_of};
use super::penalty::Penalty;
use super::registry::positive;
use super::{Asking, SearchStrategy, StrategyDef, StrategyInfo};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation};

/// Parameters of multinomial distribution learning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MdenasConfig {
    /// Probability that moves between two choices in one update.
    pub lr: f64,
    /// Decay of the moving average of a choice's values; 0 keeps the last value alone, as the authors do.
    pub memory: f64,
}

impl Default for MdenasConfig {
    fn default() -> Self {
        Self { lr: 0.01, memory: 0.5 }
    }
}

impl StrategyDef for MdenasConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("mdenas", "Zheng et al. 2019, arXiv 1905.07529")
    }

    fn check(&self) -> Result<()> {
        positive("lr", self.lr)
    }

    fn build(&self, space: &dyn ChoiceSpace, _: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Mdenas::new(self.clone(), space))
    }
}

/// Trials of a choice and a moving average of their values.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    trials: u32,
    value: f64,
}

#[derive(Debug)]
pub(super) struct Mdenas {
    config: MdenasConfig,
    distribution: Distribution,
    history: Vec<Vec<History>>,
    penalty: Penalty,
}

impl Mdenas {
    pub fn new(config: MdenasConfig, space: &dyn ChoiceSpace) -> Self {
        let decisions = space.decisions();
        let history = decisions.iter().map(|options| vec![History::default(); usize::from(*options)]).collect();
        Self { config, distribution: Distribution::uniform(&decisions), history, penalty: Penalty::default() }
    }
}

impl SearchStrategy for Mdenas {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        Some(self.penalty.fresh(|| self.distribution.sample(asking.space, rng)).into())
    }

    /// The choices that were drawn most often. The probabilities of the moment swing: a choice that leads in trials cannot
    /// gain, so that the best ones hold theirs on average only.
    fn most_probable(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        let share = |history: &Vec<History>| history.iter().map(|choice| f64::from(choice.trials)).collect::<Vec<_>>();
        let arch = self.history.iter().map(|history| largest(&share(history)) as u16).collect();
        Some(mode_of(space, Architecture::new(arch), |rng| self.distribution.sample(space, rng)))
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, observation: &Observation, _: &mut ChaCha8Rng) {
        let Some(value) = self.penalty.value(observation) else { return };
        for (i, choice) in observation.arch.choices().iter().enumerate() {
            let (history, theta) = (&mut self.history[i], &mut self.distribution.0[i]);
            let chosen = &mut history[usize::from(*choice)];
            let average = match chosen.trials {
                0 => value,
                _ => self.config.memory * chosen.value + (1.0 - self.config.memory) * value,
            };
            *chosen = History { trials: chosen.trials + 1, value: average };
            for a in 0..theta.len() {
                for b in a + 1..theta.len() {
                    let gains = |winner: usize, loser: usize| {
                        history[winner].trials <= history[loser].trials && history[winner].value > history[loser].value
                    };
                    let moved = |from: f64| from.min(self.config.lr);
                    if gains(a, b) {
                        let moved = moved(theta[b]);
                        (theta[a], theta[b]) = (theta[a] + moved, theta[b] - moved);
                    } else if gains(b, a) {
                        let moved = moved(theta[a]);
                        (theta[a], theta[b]) = (theta[a] - moved, theta[b] + moved);
                    }
                }
            }
        }
    }
}
