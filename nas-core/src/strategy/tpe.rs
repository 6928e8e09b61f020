//! Tree-structured Parzen estimator (Bergstra et al. 2011; parameters and kernels as in optuna 5): a density of the good
//! architectures, one of the others, and the candidate with the largest ratio.

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::distribution::draw;
use super::registry::{at_least, part, positive};
use super::{Asking, Fitness, SearchStrategy, StrategyDef, StrategyInfo, fitness};
use crate::space::Architecture;
use crate::space::trial::{Proposal, Trial};
use crate::space::{ChoiceSpace, Observation, Origin};

/// Parameters of TPE; the defaults are optuna's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TpeConfig {
    /// Random trials at the start.
    pub startup: usize,
    /// Candidates drawn from the density of the good ones.
    pub candidates: usize,
    /// Part of the trials that counts as good.
    pub good_part: f64,
    /// Most trials that count as good.
    pub good_max: usize,
    /// Weight of the uniform prior, in trials.
    pub prior_weight: f64,
    /// One density over all decisions; otherwise each decision is drawn on its own.
    pub multivariate: bool,
}

impl Default for TpeConfig {
    fn default() -> Self {
        Self { startup: 10, candidates: 24, good_part: 0.1, good_max: 25, prior_weight: 1.0, multivariate: true }
    }
}

impl StrategyDef for TpeConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("tpe", "Bergstra et al. 2011")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "candidates", self.candidates, 1)?;
        at_least(self, "good_max", self.good_max, 1)?;
        part("good_part", self.good_part)?;
        positive("prior_weight", self.prior_weight)
    }

    fn build(&self, space: &dyn ChoiceSpace, _: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Tpe::new(self.clone(), space))
    }
}

#[derive(Debug)]
pub(super) struct Tpe {
    config: TpeConfig,
    decisions: Vec<u16>,
    /// In the order of the trials' ends.
    history: Vec<(Architecture, Fitness)>,
    /// Trials of others, which take the place of random ones at the start.
    foreign: u64,
}

impl Tpe {
    pub fn new(config: TpeConfig, space: &dyn ChoiceSpace) -> Self {
        Self { config, decisions: space.decisions(), history: Vec::new(), foreign: 0 }
    }

    /// Number of observations.
    pub fn len(&self) -> usize {
        self.history.len()
    }

    pub fn observe(&mut self, observation: &Observation) {
        self.history.extend(fitness(observation).map(|fitness| (observation.arch.clone(), fitness)));
    }

    /// Splits the history in good ones and others, each in order of time. Running trials count as others, so that parallel
    /// workers spread.
    fn split(&self, running: &[Trial]) -> (Vec<Architecture>, Vec<Architecture>) {
        let count = ((self.config.good_part * self.history.len() as f64).ceil() as usize).min(self.config.good_max);
        let mut order: Vec<usize> = (0..self.history.len()).collect();
        order.sort_by(|a, b| self.history[*b].1.cmp(&self.history[*a].1));
        let mut is_good = vec![false; order.len()];
        order[..count].iter().for_each(|i| is_good[*i] = true);
        let (mut good, mut others) = (Vec::new(), Vec::new());
        for ((arch, _), is_good) in self.history.iter().zip(is_good) {
            if is_good { &mut good } else { &mut others }.push(arch.clone());
        }
        others.extend(running.iter().map(|trial| trial.arch.clone()));
        (good, others)
    }

    /// The candidate with the largest ratio of densities.
    pub fn propose(&self, space: &dyn ChoiceSpace, running: &[Trial], rng: &mut ChaCha8Rng) -> Architecture {
        let (good, others) = self.split(running);
        let all: Vec<usize> = (0..self.decisions.len()).collect();
        let groups: Vec<&[usize]> = if self.config.multivariate { vec![&all] } else { all.chunks(1).collect() };
        super::draw_valid(space, rng, |rng| {
            let mut choices = vec![0; self.decisions.len()];
            for over in &groups {
                let of = |archs| Parzen::new(archs, over, &self.decisions, self.config.prior_weight);
                let (good, others) = (of(&good[..]), of(&others[..]));
                let candidates: Vec<Vec<u16>> = (0..self.config.candidates)
                    .map(|_| {
                        let mut candidate = choices.clone();
                        good.sample_into(&mut candidate, rng);
                        candidate
                    })
                    .collect();
                let ratios = good.densities(&candidates).into_iter().zip(others.densities(&candidates));
                let ratios: Vec<f64> = ratios.map(|(good, others)| good / others).collect();
                // The first of the largest, as numpy's argmax.
                let best = (0..ratios.len()).rev().max_by(|a, b| ratios[*a].total_cmp(&ratios[*b]));
                choices = candidates[best.expect("there are candidates")].clone();
            }
            Architecture::new(choices)
        })
    }
}

/// A mixture of one kernel per architecture and a uniform prior, over the decisions `0..options.len()`.
struct Parzen<'a> {
    archs: &'a [Architecture],
    /// Decisions that the density is over.
    over: &'a [usize],
    options: &'a [u16],
    /// Weights of the kernels; the prior's is last.
    weights: Vec<f64>,
    /// What each choice gets from the prior inside a kernel, before it is normalised.
    prior: f64,
}

impl<'a> Parzen<'a> {
    fn new(archs: &'a [Architecture], over: &'a [usize], options: &'a [u16], prior_weight: f64) -> Self {
        let mut weights = recency(archs.len());
        weights.push(if archs.is_empty() { 1.0 } else { prior_weight });
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total);
        Self { archs, over, options, weights, prior: prior_weight / (archs.len() + 1) as f64 }
    }

    /// Probabilities in a kernel of the choice at its centre and of every other one.
    fn kernel(&self, decision: usize) -> (f64, f64) {
        let total = 1.0 + self.prior * f64::from(self.options[decision]);
        ((1.0 + self.prior) / total, self.prior / total)
    }

    fn sample_into(&self, choices: &mut [u16], rng: &mut ChaCha8Rng) {
        let kernel = self.archs.get(draw(&self.weights, rng));
        for decision in self.over {
            let options = self.options[*decision];
            let stays = kernel.is_some() && {
                let (center, other) = self.kernel(*decision);
                rng.random::<f64>() < center - other
            };
            choices[*decision] = match kernel {
                Some(kernel) if stays => kernel.choices()[*decision],
                _ => rng.random_range(0..options),
            };
        }
    }

    /// Probabilities of many candidates.
    fn densities(&self, candidates: &[Vec<u16>]) -> Vec<f64> {
        let kernels: Vec<(f64, f64)> = self.over.iter().map(|decision| self.kernel(*decision)).collect();
        let uniform: f64 = self.over.iter().map(|decision| 1.0 / f64::from(self.options[*decision])).product();
        let density = |candidate: &Vec<u16>| {
            let product = |arch: &Architecture| -> f64 {
                let factor = |(decision, (center, other)): (&usize, &(f64, f64))| {
                    if arch.choices()[*decision] == candidate[*decision] { *center } else { *other }
                };
                self.over.iter().zip(&kernels).map(factor).product()
            };
            let sum: f64 = self.archs.iter().zip(&self.weights).map(|(arch, weight)| weight * product(arch)).sum();
            sum + uniform * self.weights[self.archs.len()]
        };
        candidates.iter().map(density).collect()
    }
}

/// 1 for the last 25, falling to 1/n for the first.
fn recency(n: usize) -> Vec<f64> {
    const FLAT: usize = 25;
    let ramp = n.saturating_sub(FLAT);
    let low = 1.0 / n.max(1) as f64;
    let on_ramp = |i: usize| low + (1.0 - low) * i as f64 / (ramp.max(2) - 1) as f64;
    (0..n).map(|i| if i < ramp { on_ramp(i) } else { 1.0 }).collect()
}

impl SearchStrategy for Tpe {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        if asking.id + self.foreign < self.config.startup as u64 || self.history.is_empty() {
            return Some(asking.space.sample(rng).into());
        }
        Some(self.propose(asking.space, asking.running, rng).into())
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, observation: &Observation, _: &mut ChaCha8Rng) {
        self.foreign += u64::from(observation.origin != Origin::Proposed);
        self.observe(observation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_optunas() {
        // optuna.samplers._tpe.sampler.default_weights(n) of optuna 5.0.0
        assert_eq!(recency(3), [1.0; 3]);
        let weights = recency(28);
        assert!((weights[0] - 1.0 / 28.0).abs() < 1e-12 && (weights[1] - 0.517_857_142_857).abs() < 1e-9);
        assert_eq!(weights[2..], [1.0; 26]);
        assert!((recency(26)[0] - 1.0 / 26.0).abs() < 1e-12);
    }

    #[test]
    fn densities_sum_to_one_and_samples_follow_them() {
        let archs: Vec<Architecture> = ["0-1", "2-1", "2-0"].map(|text| text.parse().unwrap()).into();
        let parzen = Parzen::new(&archs, &[0, 1], &[3, 2], 1.0);
        let all: Vec<Vec<u16>> = (0..3).flat_map(|a| (0..2).map(move |b| vec![a, b])).collect();
        let densities = parzen.densities(&all);
        assert!((densities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let mut rng = nas_datasets::rng::stream(0, "tpe", 0);
        let mut counts = vec![0.0; all.len()];
        const DRAWS: usize = 60_000;
        for _ in 0..DRAWS {
            let mut choices = vec![0; 2];
            parzen.sample_into(&mut choices, &mut rng);
            counts[all.iter().position(|arch| *arch == choices).unwrap()] += 1.0;
        }
        for (count, density) in counts.iter().zip(&densities) {
            let expected = density * DRAWS as f64;
            assert!((count - expected).abs() < 5.0 * expected.sqrt(), "{count} {expected}");
        }
    }
}
