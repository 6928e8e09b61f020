//! Tree-structured Parzen estimator (Bergstra et al. 2011; parameters and kernels as in optuna 5): a density of the good
//! architectures, one of the others, and the candidate with the largest ratio.

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::distribution::draw;
use super::registry::{at_least, part, positive};
use super::{Asking, Fitness, SearchStrategy, StrategyDef, StrategyInfo, fitness};
use crate::space::Architecture;
use crate::space::trial::{Proposal, Trial};
use crate::space::{ChoiceSpace, Observation, Origin};

/// Parameters of TPE; the defaults are optuna's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Places in `history`, best first; of equal ones the older first.
    best_first: Vec<usize>,
    /// Trials of others, which take the place of random ones at the start.
    foreign: u64,
}

impl Tpe {
    pub fn new(config: TpeConfig, space: &dyn ChoiceSpace) -> Self {
        Self { config, decisions: space.decisions(), history: Vec::new(), best_first: Vec::new(), foreign: 0 }
    }

    /// Number of observations.
    pub fn len(&self) -> usize {
        self.history.len()
    }

    pub fn observe(&mut self, observation: &Observation) {
        let Some(fitness) = fitness(observation) else { return };
        let place = self.best_first.partition_point(|i| self.history[*i].1 >= fitness);
        self.best_first.insert(place, self.history.len());
        self.history.push((observation.arch.clone(), fitness));
    }

    /// Splits the history in good ones and others, each in order of time and no more than the latest [`MOST`] others. Running
    /// trials count as others, so that parallel workers spread.
    fn split<'a>(&'a self, running: &'a [Trial]) -> (Vec<&'a Architecture>, Vec<&'a Architecture>) {
        let count = (self.config.good_part * self.history.len() as f64).ceil() as usize;
        let mut good = self.best_first[..count.min(self.config.good_max).min(MOST)].to_vec();
        good.sort_unstable();
        let is_other = |i: &usize| good.binary_search(i).is_err();
        let mut others: Vec<usize> = (0..self.history.len()).rev().filter(is_other).take(MOST).collect();
        others.reverse();
        let arch = |i: usize| &self.history[i].0;
        let others = others.into_iter().map(arch).chain(running.iter().map(|trial| &trial.arch)).collect();
        (good.into_iter().map(arch).collect(), others)
    }

    /// The candidate with the largest ratio of densities.
    pub fn propose(&self, space: &dyn ChoiceSpace, running: &[Trial], rng: &mut ChaCha8Rng) -> Architecture {
        let (good, others) = self.split(running);
        let all: Vec<usize> = (0..self.decisions.len()).collect();
        let groups: Vec<&[usize]> = if self.config.multivariate { vec![&all] } else { all.chunks(1).collect() };
        let densities = |over| {
            let of = |archs| Parzen::new(archs, over, &self.decisions, self.config.prior_weight);
            (of(&good[..]), of(&others[..]))
        };
        let groups: Vec<(Parzen, Parzen)> = groups.into_iter().map(densities).collect();
        super::draw_valid(space, rng, |rng| {
            let mut choices = vec![0; self.decisions.len()];
            for (good, others) in &groups {
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

/// Most trials that either density is made of: the weights of those that are left out would be the smallest. A proposal's cost
/// thus stops to grow with the number of trials.
const MOST: usize = 1000;

/// A mixture of one kernel per architecture and a uniform prior, over the decisions `0..options.len()`.
struct Parzen<'a> {
    archs: &'a [&'a Architecture],
    /// Decisions that the density is over.
    over: &'a [usize],
    options: &'a [u16],
    /// Weights of the kernels; the prior's is last.
    weights: Vec<f64>,
    /// What each choice gets from the prior inside a kernel, before it is normalised.
    prior: f64,
}

impl<'a> Parzen<'a> {
    fn new(archs: &'a [&'a Architecture], over: &'a [usize], options: &'a [u16], prior_weight: f64) -> Self {
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
        // By decision, so that the innermost loop runs over candidates.
        let columns: Vec<Vec<u16>> = self.over.iter().map(|i| candidates.iter().map(|c| c[*i]).collect()).collect();
        let mut sums = vec![0.0; candidates.len()];
        let mut products = vec![0.0; candidates.len()];
        for (arch, weight) in self.archs.iter().zip(&self.weights) {
            products.fill(1.0);
            for ((decision, column), (center, other)) in self.over.iter().zip(&columns).zip(&kernels) {
                let choice = arch.choices()[*decision];
                for (product, candidate) in products.iter_mut().zip(column) {
                    *product *= if *candidate == choice { *center } else { *other };
                }
            }
            sums.iter_mut().zip(&products).for_each(|(sum, product)| *sum += weight * product);
        }
        sums.into_iter().map(|sum| sum + uniform * self.weights[self.archs.len()]).collect()
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
        let archs: Vec<&Architecture> = archs.iter().collect();
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

    /// What the estimator is, without anything kept between trials.
    fn plain(
        config: &TpeConfig,
        space: &Twelve,
        history: &[(Architecture, Fitness)],
        rng: &mut ChaCha8Rng,
    ) -> Architecture {
        let count = ((config.good_part * history.len() as f64).ceil() as usize).min(config.good_max);
        let mut order: Vec<usize> = (0..history.len()).collect();
        order.sort_by(|a, b| history[*b].1.cmp(&history[*a].1));
        let is_good = |i: &usize| order[..count].contains(i);
        let part = |good: bool| (0..history.len()).filter(|i| is_good(i) == good).map(|i| &history[i].0).collect();
        let (good, others): (Vec<&Architecture>, Vec<&Architecture>) = (part(true), part(false));
        let (options, over) = (space.decisions(), (0..12).collect::<Vec<usize>>());
        let [good, others] = [&good, &others].map(|archs| Parzen::new(archs, &over, &options, config.prior_weight));
        let density = |parzen: &Parzen, candidate: &[u16]| -> f64 {
            let product = |arch: &Architecture| -> f64 {
                let factor = |i: usize| {
                    let (center, other) = parzen.kernel(i);
                    if arch.choices()[i] == candidate[i] { center } else { other }
                };
                (0..12).map(factor).product()
            };
            let sum: f64 = parzen.archs.iter().zip(&parzen.weights).map(|(arch, weight)| weight * product(arch)).sum();
            let uniform: f64 = options.iter().map(|options| 1.0 / f64::from(*options)).product();
            sum + uniform * parzen.weights[parzen.archs.len()]
        };
        let draw = |_| {
            let mut candidate = vec![0; 12];
            good.sample_into(&mut candidate, rng);
            candidate
        };
        let candidates: Vec<Vec<u16>> = (0..config.candidates).map(draw).collect();
        let ratio = |candidate: &Vec<u16>| density(&good, candidate) / density(&others, candidate);
        let ratios: Vec<f64> = candidates.iter().map(ratio).collect();
        let best = (0..ratios.len()).rev().max_by(|a, b| ratios[*a].total_cmp(&ratios[*b])).unwrap();
        Architecture::new(candidates[best].clone())
    }

    #[derive(Debug)]
    struct Twelve;

    impl ChoiceSpace for Twelve {
        fn name(&self) -> &str {
            "twelve"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5]
        }

        fn validate(&self, _: &Architecture) -> Result<(), crate::space::InvalidArchitecture> {
            Ok(())
        }
    }

    #[test]
    fn a_thousand_proposals_are_those_of_the_plain_estimator_and_later_ones_cost_no_more() {
        let config = TpeConfig::default();
        let mut tpe = Tpe::new(config.clone(), &Twelve);
        let mut drawn = nas_datasets::rng::stream(0, "values", 0);
        for id in 0..3000 {
            let mut rng = nas_datasets::rng::stream(0, "ask", id);
            let asking = Asking { space: &Twelve, id, running: &[] };
            let arch = tpe.ask(&asking, &mut rng).unwrap().arch;
            if (10..1000).contains(&id) {
                let mut rng = nas_datasets::rng::stream(0, "ask", id);
                assert_eq!(arch, plain(&config, &Twelve, &tpe.history, &mut rng), "{id}");
            }
            // Few values, so that there are equal ones.
            let value = f64::from(arch.choices().iter().sum::<u16>() + drawn.random_range(0..3u16));
            let violation = f64::from(drawn.random_range(0..4u16)).max(2.0) - 2.0;
            let (values, origin) = (Some(vec![value]), Origin::Proposed);
            tpe.observe(&Observation { id, arch, epochs: None, parent: None, values, violation, origin });
            let (good, others) = tpe.split(&[]);
            assert!(good.len() <= config.good_max && others.len() <= MOST);
        }
    }
}
