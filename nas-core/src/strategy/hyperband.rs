//! Successive halving (Jamieson and Talwalkar 2016), Hyperband (Li et al., arXiv 1603.06560) and BOHB (Falkner et al.,
//! arXiv 1807.01774). A rung is evaluated as a whole; the best of it go on from their own checkpoints with more epochs.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::registry::{at_least, part};
use super::tpe::{Tpe, TpeConfig};
use super::{Asking, Generation, SearchStrategy, StrategyDef, StrategyInfo, point};
use crate::search::pareto::{Point, best_first};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation, Origin};

/// Parameters of successive halving and Hyperband.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HyperbandConfig {
    /// Epochs of the cheapest trial.
    pub min_epochs: u32,
    /// Epochs of the full trial.
    pub max_epochs: u32,
    /// One in `eta` goes on, with `eta` times the epochs.
    pub eta: f64,
}

impl Default for HyperbandConfig {
    fn default() -> Self {
        Self { min_epochs: 1, max_epochs: 27, eta: 3.0 }
    }
}

impl HyperbandConfig {
    /// Number of rungs of the longest bracket less one.
    pub(super) fn s_max(&self) -> u32 {
        let ratio = f64::from(self.max_epochs) / f64::from(self.min_epochs);
        (ratio.ln() / self.eta.ln() + 1e-6).floor() as u32
    }

    /// Epochs of each rung of the longest bracket.
    pub(super) fn rungs(&self) -> Vec<u32> {
        let rung = |k: u32| (f64::from(self.max_epochs) * self.eta.powi(-(k as i32))).round().max(1.0) as u32;
        (0..=self.s_max()).rev().map(rung).collect()
    }

    pub(super) fn check_rungs(&self) -> Result<()> {
        let Self { min_epochs, max_epochs, eta } = self;
        ensure!(
            *min_epochs >= 1 && max_epochs >= min_epochs,
            "strategy: min_epochs = {min_epochs}, max_epochs = {max_epochs}; expected at least 1, and max_epochs >= min_epochs"
        );
        ensure!(*eta > 1.0 && eta.is_finite(), "strategy: eta = {eta}; expected more than 1");
        Ok(())
    }
}

/// Parameters of successive halving: those of Hyperband's longest bracket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "HyperbandConfig")]
pub struct SuccessiveHalvingConfig(pub HyperbandConfig);

/// Parameters of BOHB; the defaults are HpBandSter's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BohbConfig {
    /// Epochs of the cheapest trial.
    pub min_epochs: u32,
    /// Epochs of the full trial.
    pub max_epochs: u32,
    /// One in `eta` goes on, with `eta` times the epochs.
    pub eta: f64,
    /// Part of the trials of a rung that counts as good.
    pub good_part: f64,
    /// Candidates drawn from the density of the good ones.
    pub candidates: usize,
    /// Part of the new architectures that is drawn at random.
    pub random_part: f64,
}

impl Default for BohbConfig {
    fn default() -> Self {
        let HyperbandConfig { min_epochs, max_epochs, eta } = HyperbandConfig::default();
        Self { min_epochs, max_epochs, eta, good_part: 0.15, candidates: 64, random_part: 1.0 / 3.0 }
    }
}

impl StrategyDef for SuccessiveHalvingConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo {
            multi_fidelity: true,
            multi_objective: true,
            ..StrategyInfo::new("successive_halving", "Jamieson and Talwalkar 2016, arXiv 1502.07943")
        }
    }

    fn check(&self) -> Result<()> {
        self.0.check_rungs()
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Hyperband::new(self.0.clone(), Brackets::Longest, space, rng))
    }
}

impl StrategyDef for HyperbandConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo {
            multi_fidelity: true,
            multi_objective: true,
            ..StrategyInfo::new("hyperband", "Li et al. 2016, arXiv 1603.06560")
        }
    }

    fn check(&self) -> Result<()> {
        self.check_rungs()
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Hyperband::new(self.clone(), Brackets::All, space, rng))
    }
}

impl StrategyDef for BohbConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo { multi_fidelity: true, ..StrategyInfo::new("bohb", "Falkner et al. 2018, arXiv 1807.01774") }
    }

    fn check(&self) -> Result<()> {
        let Self { min_epochs, max_epochs, eta, .. } = *self;
        HyperbandConfig { min_epochs, max_epochs, eta }.check_rungs()?;
        at_least(self, "candidates", self.candidates, 1)?;
        part("good_part", self.good_part)?;
        part("random_part", self.random_part)
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Hyperband::bohb(self.clone(), space, rng))
    }
}

/// Which brackets follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brackets {
    /// Only the one with the most rungs.
    Longest,
    /// From the most rungs to one.
    All,
}

/// Where the architectures of a bracket's first rung come from.
#[derive(Debug)]
enum Source {
    Random,
    /// One density model per number of epochs; the largest with enough observations is used.
    Model {
        config: TpeConfig,
        random_part: f64,
        models: BTreeMap<u32, Tpe>,
    },
}

#[derive(Debug)]
pub(super) struct Hyperband {
    config: HyperbandConfig,
    brackets: Brackets,
    source: Source,
    generation: Generation,
    /// Number of the bracket and of the rung that is being evaluated.
    bracket: u32,
    rung: usize,
    results: Vec<(u64, Architecture, Point)>,
}

impl Hyperband {
    pub fn new(config: HyperbandConfig, brackets: Brackets, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        Self::with_source(config, brackets, Source::Random, space, rng)
    }

    pub fn bohb(config: BohbConfig, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let BohbConfig { min_epochs, max_epochs, eta, good_part, candidates, random_part } = config;
        let tpe = TpeConfig { startup: 0, candidates, good_part, good_max: usize::MAX, ..TpeConfig::default() };
        let source = Source::Model { config: tpe, random_part, models: BTreeMap::new() };
        Self::with_source(HyperbandConfig { min_epochs, max_epochs, eta }, Brackets::All, source, space, rng)
    }

    fn with_source(
        config: HyperbandConfig,
        brackets: Brackets,
        source: Source,
        space: &dyn ChoiceSpace,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let generation = Generation::default();
        let mut hyperband = Self { config, brackets, source, generation, bracket: 0, rung: 0, results: Vec::new() };
        let first = hyperband.first_rung(space, rng);
        hyperband.generation.next(first);
        hyperband
    }

    /// Rungs of the current bracket less one.
    fn s(&self) -> u32 {
        let s_max = self.config.s_max();
        match self.brackets {
            Brackets::Longest => s_max,
            Brackets::All => s_max - self.bracket % (s_max + 1),
        }
    }

    /// Trials of a rung: `n0 / eta^rung`, `n0 = ceil(floor((s_max + 1) / (s + 1)) eta^s)`.
    fn size(&self, rung: usize) -> usize {
        let share = f64::from((self.config.s_max() + 1) / (self.s() + 1));
        let first = (share * self.config.eta.powi(self.s() as i32) - 1e-6).ceil();
        ((first * self.config.eta.powi(-(rung as i32)) + 1e-6).floor() as usize).max(1)
    }

    fn epochs(&self, rung: usize) -> u32 {
        let rungs = self.config.rungs();
        rungs[rungs.len() - 1 - self.s() as usize + rung]
    }

    fn first_rung(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Vec<Proposal> {
        let epochs = Some(self.epochs(0));
        let draw = |_| Proposal { arch: self.draw(space, rng), epochs, parent: None };
        (0..self.size(0)).map(draw).collect()
    }

    fn draw(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Architecture {
        let Source::Model { random_part, models, .. } = &self.source else { return space.sample(rng) };
        let enough = space.decisions().len() + 1;
        let model = models.values().rev().find(|model| model.len() > enough);
        match model {
            Some(model) if !rng.random_bool(*random_part) => model.propose(space, &[], rng),
            _ => space.sample(rng),
        }
    }

    /// Whether a trial stands in the comparison that is going on. One that the search was given does when it has the epochs of
    /// the rung; it can be continued like the others.
    fn is_of_the_rung(&self, observation: &Observation) -> bool {
        match observation.origin {
            Origin::Proposed => true,
            Origin::Given => observation.epochs == Some(self.epochs(self.rung)),
            Origin::Earlier => false,
        }
    }

    /// The best of the rung with more epochs; the next bracket where there is none to go on.
    fn advance(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Vec<Proposal> {
        let results = std::mem::take(&mut self.results);
        self.rung += 1;
        if self.rung as u32 <= self.s() && !results.is_empty() {
            let epochs = Some(self.epochs(self.rung));
            let best = best_first(&results.iter().map(|(_, _, point)| point).collect::<Vec<_>>());
            let promoted = best.into_iter().take(self.size(self.rung)).map(|i| &results[i]);
            return promoted.map(|(id, arch, _)| Proposal { arch: arch.clone(), epochs, parent: Some(*id) }).collect();
        }
        self.bracket += 1;
        self.rung = 0;
        self.first_rung(space, rng)
    }
}

impl SearchStrategy for Hyperband {
    fn ask(&self, asking: &Asking, _: &mut ChaCha8Rng) -> Option<Proposal> {
        self.generation.get(asking.id)
    }

    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng) {
        if let Some(point) = point(observation) {
            if self.is_of_the_rung(observation) {
                self.results.push((observation.id, observation.arch.clone(), point));
            }
            if let Source::Model { config, models, .. } = &mut self.source {
                let epochs = observation.epochs.unwrap_or(self.config.max_epochs);
                models.entry(epochs).or_insert_with(|| Tpe::new(config.clone(), space)).observe(observation);
            }
        }
        if self.generation.end(observation) {
            let proposals = self.advance(space, rng);
            self.generation.next(proposals);
        }
    }

    fn first_epochs(&self) -> Option<u32> {
        // Every order of brackets begins with the longest.
        self.config.rungs().first().copied()
    }

    fn begin(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        let proposals = self.first_rung(space, rng);
        self.generation.next(proposals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_those_of_the_paper() {
        // Table 1 of arXiv 1603.06560: R = 81, eta = 3.
        let config = HyperbandConfig { min_epochs: 1, max_epochs: 81, eta: 3.0 };
        assert_eq!(config.rungs(), [1, 3, 9, 27, 81]);
        let generation = Generation::default();
        let (brackets, source) = (Brackets::All, Source::Random);
        let mut hyperband = Hyperband { config, brackets, source, generation, bracket: 0, rung: 0, results: vec![] };
        let mut table = Vec::new();
        for bracket in 0..5 {
            hyperband.bracket = bracket;
            let rungs = 0..=hyperband.s() as usize;
            table.push(rungs.map(|rung| (hyperband.size(rung), hyperband.epochs(rung))).collect::<Vec<_>>());
        }
        assert_eq!(table[0], [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]);
        // HpBandSter rounds (s_max + 1) / (s + 1) down, so that its brackets are a little smaller than the paper's.
        assert_eq!(table[1], [(27, 3), (9, 9), (3, 27), (1, 81)]);
        assert_eq!(table[2], [(9, 9), (3, 27), (1, 81)]);
        assert_eq!(table[3], [(6, 27), (2, 81)]);
        assert_eq!(table[4], [(5, 81)]);
    }
}
