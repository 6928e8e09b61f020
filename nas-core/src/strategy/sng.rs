//! Stochastic natural gradient on categorical distributions: SNG with a fixed step and ASNG, which adapts it (Akimoto et
//! al., arXiv 1905.08537).

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::distribution::Distribution;
use super::registry::{at_least, positive};
use super::{Asking, Fitness, SearchStrategy, StrategyDef, StrategyInfo, fitness};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation};

/// Parameters of (adaptive) stochastic natural gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SngConfig {
    /// Trials per update.
    pub samples: usize,
    /// Length of a step in the distribution's own metric, at the start where it adapts.
    pub step: f64,
    /// Adapts the step to the signal-to-noise ratio of the gradient.
    pub adaptive: bool,
    /// Threshold of the signal-to-noise ratio above which the step grows.
    pub alpha: f64,
}

impl Default for SngConfig {
    fn default() -> Self {
        Self { samples: 8, step: 1.0, adaptive: false, alpha: 1.5 }
    }
}

impl StrategyDef for SngConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("sng", "Akimoto et al. 2019, arXiv 1905.08537")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "samples", self.samples, 2)?;
        positive("step", self.step)?;
        positive("alpha", self.alpha)
    }

    fn build(&self, space: &dyn ChoiceSpace, _: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Sng::new(self.clone(), space))
    }
}

#[derive(Debug)]
pub(super) struct Sng {
    config: SngConfig,
    distribution: Distribution,
    /// Smallest probability of any choice.
    floor: f64,
    batch: Vec<(Architecture, Fitness)>,
    /// Divisor of the step; 1 unless it adapts.
    shrink: f64,
    /// Accumulated normalised gradient, and the weight it has gathered.
    path: Vec<f64>,
    gathered: f64,
}

impl Sng {
    pub fn new(config: SngConfig, space: &dyn ChoiceSpace) -> Self {
        let decisions = space.decisions();
        let open: Vec<f64> = decisions.iter().filter(|options| **options > 1).map(|o| f64::from(*o)).collect();
        let degrees: f64 = open.iter().map(|options| options - 1.0).sum();
        // 1 / (decisions * (choices - 1)), with the mean number of choices where they differ.
        let floor = 1.0 / degrees.max(1.0);
        let path = vec![0.0; degrees as usize];
        let distribution = Distribution::uniform(&decisions);
        Self { config, distribution, floor, batch: Vec::new(), shrink: 1.0, path, gathered: 0.0 }
    }

    fn update(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let Some(utilities) = utilities(&batch) else { return };
        let theta = &self.distribution.0;
        let count = batch.len() as f64;
        let gradient: Vec<Vec<f64>> = theta
            .iter()
            .enumerate()
            .map(|(i, theta)| {
                let ascent = |k: usize| {
                    let of = |((arch, _), utility): (&(Architecture, Fitness), &f64)| {
                        utility * (f64::from(usize::from(arch.choices()[i]) == k) - theta[k])
                    };
                    batch.iter().zip(&utilities).map(of).sum::<f64>() / count
                };
                (0..theta.len()).map(ascent).collect()
            })
            .collect();
        let direction = whiten(theta, &gradient);
        let norm = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm < 1e-12 {
            return;
        }
        let step = self.config.step / self.shrink;
        for (theta, gradient) in self.distribution.0.iter_mut().zip(&gradient) {
            for (theta, gradient) in theta.iter_mut().zip(gradient) {
                *theta += step * gradient / norm;
            }
            keep_above(theta, self.floor);
        }
        if self.config.adaptive {
            self.adapt(step, &direction, norm);
        }
    }

    fn adapt(&mut self, step: f64, direction: &[f64], norm: f64) {
        let beta = step / (self.path.len() as f64).sqrt();
        let fresh = beta * (2.0 - beta);
        for (path, direction) in self.path.iter_mut().zip(direction) {
            *path = (1.0 - beta) * *path + fresh.sqrt() * direction / norm;
        }
        self.gathered = (1.0 - beta).powi(2) * self.gathered + fresh;
        let square: f64 = self.path.iter().map(|x| x * x).sum();
        self.shrink *= (beta * (self.gathered - square / self.config.alpha)).exp();
        // The step never grows past the metric's radius: beta must stay below 1.
        self.shrink = self.shrink.max(self.config.step / (self.path.len() as f64).sqrt());
    }
}

/// The gradient in the coordinates in which the Fisher metric is the identity.
fn whiten(theta: &[Vec<f64>], gradient: &[Vec<f64>]) -> Vec<f64> {
    let mut white = Vec::new();
    for (theta, gradient) in theta.iter().zip(gradient) {
        let last = theta[theta.len() - 1];
        let free = theta.len() - 1;
        let total: f64 = gradient[..free].iter().sum();
        let coordinate = |k: usize| gradient[k] / theta[k].sqrt() + theta[k].sqrt() * total / (last.sqrt() + last);
        white.extend((0..free).map(coordinate));
    }
    white
}

/// By violation of bounds and value: +1 for the best quarter, -1 for the worst; 0 between. Nothing where all are
/// equal.
fn utilities(batch: &[(Architecture, Fitness)]) -> Option<Vec<f64>> {
    let mut order: Vec<usize> = (0..batch.len()).collect();
    order.sort_by(|a, b| batch[*b].1.cmp(&batch[*a].1));
    let (best, worst) = (batch[*order.first()?].1, batch[*order.last()?].1);
    if best == worst {
        return None;
    }
    let quarter = batch.len().div_ceil(4);
    let mut utilities = vec![0.0; batch.len()];
    order.iter().take(quarter).for_each(|i| utilities[*i] += 1.0);
    order.iter().rev().take(quarter).for_each(|i| utilities[*i] -= 1.0);
    Some(utilities)
}

/// Moves probabilities to at least `floor` so that they sum to 1, taking from each what it has above the floor.
fn keep_above(theta: &mut [f64], floor: f64) {
    if theta.len() < 2 {
        return;
    }
    let floor = floor.min(0.5 / theta.len() as f64);
    theta.iter_mut().for_each(|theta| *theta = theta.max(floor));
    let excess: f64 = theta.iter().sum::<f64>() - 1.0;
    let room: f64 = theta.iter().map(|theta| theta - floor).sum();
    theta.iter_mut().for_each(|theta| *theta -= excess * (*theta - floor) / room);
    let total: f64 = theta.iter().sum();
    theta.iter_mut().for_each(|theta| *theta /= total);
}

impl SearchStrategy for Sng {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        Some(self.distribution.sample(asking.space, rng).into())
    }

    fn most_probable(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        Some(self.distribution.mode(space))
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, observation: &Observation, _: &mut ChaCha8Rng) {
        let Some(fitness) = fitness(observation) else { return };
        self.batch.push((observation.arch.clone(), fitness));
        if self.batch.len() == self.config.samples {
            self.update();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_stay_above_the_floor_and_sum_to_one() {
        let mut theta = vec![1.2, -0.3, 0.1];
        keep_above(&mut theta, 0.05);
        assert!(theta.iter().all(|p| *p >= 0.05 - 1e-12), "{theta:?}");
        assert!((theta.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(theta[0] > theta[2] && theta[2] > theta[1]);
    }

    #[test]
    fn the_norm_is_the_fisher_norm() {
        // sum over all K choices of g_k^2 / theta_k, the Fisher norm of a tangent vector of the simplex.
        let (theta, gradient) = (vec![vec![0.2, 0.5, 0.3]], vec![vec![0.1, -0.25, 0.15]]);
        let white: f64 = whiten(&theta, &gradient).iter().map(|x| x * x).sum();
        let fisher: f64 = theta[0].iter().zip(&gradient[0]).map(|(t, g)| g * g / t).sum();
        assert!((white - fisher).abs() < 1e-12, "{white} {fisher}");
    }
}
