//! Dynamic distribution pruning (Zheng et al., DDPNAS, arXiv 1905.13543): every choice is tried equally often, the worst
//! choice of every decision is pruned, and so on until one architecture is left. Then the search starts again.

use anyhow::Result;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::distribution::{Distribution, largest, mode_of};
use super::penalty::Penalty;
use super::registry::{at_least, part};
use super::{Asking, Generation, SearchStrategy, StrategyDef, StrategyInfo, draw_valid};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation};

/// Parameters of dynamic distribution pruning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DdpnasConfig {
    /// Times that every choice is tried before the worst is pruned.
    pub rounds: usize,
    /// Decay of the velocity that sums up the choices' scores.
    pub momentum: f64,
    /// Factor of a value (a fraction) before the softmax.
    pub scale: f64,
}

impl Default for DdpnasConfig {
    fn default() -> Self {
        Self { rounds: 3, momentum: 0.9, scale: 100.0 }
    }
}

impl StrategyDef for DdpnasConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("ddpnas", "Zheng et al. 2019, arXiv 1905.13543")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "rounds", self.rounds, 1)?;
        part("momentum", self.momentum)
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Ddpnas::new(self.clone(), space, rng))
    }
}

/// What is known of one choice of one decision.
#[derive(Clone, Debug, Default)]
struct Choice {
    choice: u16,
    sum: f64,
    trials: u32,
    velocity: f64,
    theta: f64,
}

#[derive(Debug)]
pub(super) struct Ddpnas {
    config: DdpnasConfig,
    /// Choices that are left, per decision.
    left: Vec<Vec<Choice>>,
    generation: Generation,
    penalty: Penalty,
    /// What was left when the last search ended.
    survivor: Option<Architecture>,
}

impl Ddpnas {
    pub fn new(config: DdpnasConfig, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let (generation, penalty) = (Generation::default(), Penalty::default());
        let mut ddpnas = Self { config, left: all_choices(space), generation, penalty, survivor: None };
        ddpnas.propose(space, rng);
        ddpnas
    }

    /// Every choice that is left appears once per round, without replacement; decisions with fewer choices start over.
    fn propose(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        let width = self.left.iter().map(Vec::len).max().unwrap_or(1);
        // The one architecture that is left at the end is tried once.
        let rounds = if width > 1 { self.config.rounds } else { 1 };
        let mut proposals = Vec::new();
        for _ in 0..rounds {
            let columns = self.left.iter().map(|choices| {
                let mut column: Vec<u16> = choices.iter().map(|choice| choice.choice).cycle().take(width).collect();
                column.shuffle(rng);
                column
            });
            let columns: Vec<Vec<u16>> = columns.collect();
            for row in 0..width {
                let arch = Architecture::new(columns.iter().map(|column| column[row]).collect());
                let arch = match space.validate(&arch) {
                    Ok(()) => arch,
                    Err(_) => self.draw_left(space, rng),
                };
                proposals.push(arch.into());
            }
        }
        self.generation.next(proposals);
    }

    /// Of the choices that are left, those with the largest sum of scores.
    fn likeliest(&self, space: &dyn ChoiceSpace) -> Architecture {
        let best = |choices: &Vec<Choice>| {
            choices[largest(&choices.iter().map(|choice| choice.theta).collect::<Vec<_>>())].choice
        };
        let arch = Architecture::new(self.left.iter().map(best).collect());
        mode_of(space, arch, |rng| self.draw_left(space, rng))
    }

    fn draw_left(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Architecture {
        let pick = |choices: &Vec<Choice>, rng: &mut ChaCha8Rng| {
            let uniform = vec![1.0; choices.len()];
            choices[super::distribution::draw(&uniform, rng)].choice
        };
        draw_valid(space, rng, |rng| Architecture::new(self.left.iter().map(|choices| pick(choices, rng)).collect()))
    }

    fn prune(&mut self) {
        for choices in &mut self.left {
            let mean = |choice: &Choice| (choice.trials > 0).then(|| choice.sum / f64::from(choice.trials));
            let Some(least) = choices.iter().filter_map(mean).min_by(f64::total_cmp) else { continue };
            // A choice of which every trial failed counts as the least of the others.
            let means = choices.iter().map(|choice| self.config.scale * mean(choice).unwrap_or(least)).collect();
            let scores = Distribution::softmax(&[means]).0.remove(0);
            for (choice, score) in choices.iter_mut().zip(scores) {
                choice.velocity = self.config.momentum * choice.velocity + score;
                choice.theta += choice.velocity;
                (choice.sum, choice.trials) = (0.0, 0);
            }
            if choices.len() > 1 {
                let worst = (0..choices.len()).min_by(|a, b| choices[*a].theta.total_cmp(&choices[*b].theta));
                choices.remove(worst.expect("there are choices"));
            }
        }
    }
}

fn all_choices(space: &dyn ChoiceSpace) -> Vec<Vec<Choice>> {
    let fresh = |choice| Choice { choice, ..Choice::default() };
    space.decisions().iter().map(|options| (0..*options).map(fresh).collect()).collect()
}

impl SearchStrategy for Ddpnas {
    fn ask(&self, asking: &Asking, _: &mut ChaCha8Rng) -> Option<Proposal> {
        self.generation.get(asking.id)
    }

    /// The survivor of the last search that ended; before the first end, or outside bounds, the likeliest of what is left.
    fn most_probable(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        let survivor = self.survivor.clone().filter(|arch| space.validate(arch).is_ok());
        Some(survivor.unwrap_or_else(|| self.likeliest(space)))
    }

    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng) {
        if let Some(value) = self.penalty.value(observation) {
            for (choices, chosen) in self.left.iter_mut().zip(observation.arch.choices()) {
                for choice in choices.iter_mut().filter(|choice| choice.choice == *chosen) {
                    choice.sum += value;
                    choice.trials += 1;
                }
            }
        }
        if self.generation.end(observation) {
            match self.left.iter().any(|choices| choices.len() > 1) {
                true => self.prune(),
                false => {
                    self.survivor = Some(self.likeliest(space));
                    self.left = all_choices(space);
                }
            }
            self.propose(space, rng);
        }
    }
}
