//! REINFORCE with independent logits (Williams 1992; as in NAS-Bench-201, arXiv 2001.00326): one update per trial against
//! a moving average of the rewards.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::distribution::Distribution;
use super::penalty::Penalty;
use super::registry::{part, positive};
use super::{Asking, SearchStrategy, StrategyDef, StrategyInfo};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation};

/// Parameters of REINFORCE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReinforceConfig {
    /// Learning rate of Adam.
    pub lr: f64,
    /// Decay of the moving average of rewards.
    pub baseline_decay: f64,
    /// Weight of the entropy bonus.
    pub entropy: f64,
}

impl Default for ReinforceConfig {
    fn default() -> Self {
        Self { lr: 0.1, baseline_decay: 0.9, entropy: 0.0 }
    }
}

impl StrategyDef for ReinforceConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("reinforce", "Williams 1992; Dong and Yang 2020, arXiv 2001.00326")
    }

    fn check(&self) -> Result<()> {
        positive("lr", self.lr)?;
        part("baseline_decay", self.baseline_decay)
    }

    fn build(&self, space: &dyn ChoiceSpace, _: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Reinforce::new(self.clone(), space))
    }
}

#[derive(Debug)]
pub(super) struct Reinforce {
    config: ReinforceConfig,
    logits: Vec<Vec<f64>>,
    adam: Adam,
    baseline: MovingAverage,
    penalty: Penalty,
}

impl Reinforce {
    pub fn new(config: ReinforceConfig, space: &dyn ChoiceSpace) -> Self {
        let logits: Vec<Vec<f64>> = space.decisions().iter().map(|options| vec![0.0; usize::from(*options)]).collect();
        let adam = Adam::new(&logits);
        let baseline = MovingAverage::new(config.baseline_decay);
        Self { config, logits, adam, baseline, penalty: Penalty::default() }
    }
}

impl SearchStrategy for Reinforce {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        let distribution = Distribution::softmax(&self.logits);
        Some(self.penalty.fresh(|| distribution.sample(asking.space, rng)).into())
    }

    fn most_probable(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        Some(Distribution::softmax(&self.logits).mode(space))
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, observation: &Observation, _: &mut ChaCha8Rng) {
        let Some(reward) = self.penalty.value(observation) else { return };
        let advantage = reward - self.baseline.update(reward);
        let probabilities = Distribution::softmax(&self.logits).0;
        let gradient = probabilities.iter().zip(observation.arch.choices()).map(|(probabilities, choice)| {
            let entropy: f64 = -probabilities.iter().map(|p| p * p.ln()).sum::<f64>();
            let ascent = probabilities.iter().enumerate().map(|(i, p)| {
                let chosen = f64::from(i == usize::from(*choice));
                // d log p(choice) / d logit = [chosen] - p;  d H / d logit = -p (ln p + H)
                advantage * (chosen - p) - self.config.entropy * p * (p.ln() + entropy)
            });
            ascent.collect()
        });
        let gradient: Vec<Vec<f64>> = gradient.collect();
        self.adam.ascend(&mut self.logits, &gradient, self.config.lr);
    }
}

/// A moving average with the bias of its start removed.
#[derive(Debug)]
pub(super) struct MovingAverage {
    decay: f64,
    sum: f64,
    weight: f64,
}

impl MovingAverage {
    pub fn new(decay: f64) -> Self {
        Self { decay, sum: 0.0, weight: 0.0 }
    }

    /// Takes a value and returns the average with it.
    pub fn update(&mut self, value: f64) -> f64 {
        self.sum = self.decay * self.sum + (1.0 - self.decay) * value;
        self.weight = self.decay * self.weight + (1.0 - self.decay);
        self.sum / self.weight
    }
}

/// Adam (Kingma and Ba, arXiv 1412.6980) on small tables of numbers.
#[derive(Debug)]
struct Adam {
    step: i32,
    mean: Vec<Vec<f64>>,
    square: Vec<Vec<f64>>,
}

impl Adam {
    fn new(like: &[Vec<f64>]) -> Self {
        let zeros: Vec<Vec<f64>> = like.iter().map(|row| vec![0.0; row.len()]).collect();
        Self { step: 0, mean: zeros.clone(), square: zeros }
    }

    fn ascend(&mut self, values: &mut [Vec<f64>], gradient: &[Vec<f64>], lr: f64) {
        const BETAS: [f64; 2] = [0.9, 0.999];
        const EPS: f64 = 1e-8;
        self.step += 1;
        let [mean_bias, square_bias] = BETAS.map(|beta| 1.0 - beta.powi(self.step));
        for (i, row) in values.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                let (g, mean, square) = (gradient[i][j], &mut self.mean[i][j], &mut self.square[i][j]);
                *mean = BETAS[0] * *mean + (1.0 - BETAS[0]) * g;
                *square = BETAS[1] * *square + (1.0 - BETAS[1]) * g * g;
                *value += lr * (*mean / mean_bias) / ((*square / square_bias).sqrt() + EPS);
            }
        }
    }
}
