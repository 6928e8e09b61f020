//! A recurrent controller writes an architecture decision by decision: trained by REINFORCE (Zoph and Le, arXiv 1611.01578;
//! ENAS, arXiv 1802.03268) or by PPO (NASNet, arXiv 1707.07012).

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::distribution::{draw, largest, mode_of};
use super::penalty::Penalty;
use super::registry::{at_least, part, positive};
use super::reinforce::MovingAverage;
use super::{Asking, SearchStrategy, StrategyDef, StrategyInfo, draw_valid};
use crate::optim::{Adam, AdamConfig, Named, Optimizer, clip_grad_norm, gradients};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation};

/// How a controller learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControllerUpdate {
    /// One gradient step per batch.
    Reinforce,
    /// Several steps per batch on the clipped surrogate objective (Schulman et al., arXiv 1707.06347).
    Ppo,
}

/// Parameters of the recurrent controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ControllerConfig {
    /// How it learns.
    pub update: ControllerUpdate,
    /// Units of the LSTM.
    pub hidden: i64,
    /// Trials per update.
    pub batch: usize,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Weight of the entropy bonus.
    pub entropy: f64,
    /// Decay of the moving average of rewards.
    pub baseline_decay: f64,
    /// Logits are `tanh_scale * tanh(logits / temperature)`.
    pub temperature: f64,
    /// Largest logit.
    pub tanh_scale: f64,
    /// PPO: gradient steps per batch.
    pub ppo_steps: usize,
    /// PPO: largest change of a probability ratio that is rewarded.
    pub ppo_clip: f64,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            update: ControllerUpdate::Ppo,
            hidden: 100,
            batch: 10,
            lr: 3e-3,
            entropy: 1e-2,
            baseline_decay: 0.9,
            temperature: 1.0,
            tanh_scale: 2.5,
            ppo_steps: 4,
            ppo_clip: 0.2,
        }
    }
}

impl StrategyDef for ControllerConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("controller", "Zoph et al. 2017, arXiv 1707.07012 (PPO); Pham et al. 2018, arXiv 1802.03268")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "hidden", self.hidden.max(0) as usize, 1)?;
        at_least(self, "batch", self.batch, 1)?;
        at_least(self, "ppo_steps", self.ppo_steps, 1)?;
        positive("lr", self.lr)?;
        positive("temperature", self.temperature)?;
        part("baseline_decay", self.baseline_decay)
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(Controller::new(self.clone(), space, rng))
    }
}

#[derive(Debug)]
pub(super) struct Controller {
    config: ControllerConfig,
    decisions: Vec<u16>,
    /// Row of the first choice of each decision in the embedding; row 0 starts the sequence.
    offsets: Vec<i64>,
    embedding: Tensor,
    input_weights: Tensor,
    hidden_weights: Tensor,
    bias: Tensor,
    /// One output matrix per decision.
    outputs: Vec<Tensor>,
    adam: Adam,
    baseline: MovingAverage,
    penalty: Penalty,
    batch: Vec<(Architecture, f64)>,
}

impl Controller {
    pub fn new(config: ControllerConfig, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let (decisions, hidden) = (space.decisions(), config.hidden);
        let mut offsets = vec![1];
        decisions.iter().for_each(|options| offsets.push(offsets[offsets.len() - 1] + i64::from(*options)));
        let mut named: Vec<Named> = Vec::new();
        let mut weights = |name: String, dims: [i64; 2]| {
            // As ENAS: uniform in [-0.1, 0.1].
            let values: Vec<f32> = (0..dims[0] * dims[1]).map(|_| rng.random_range(-0.1..0.1)).collect();
            let tensor = Tensor::from_slice(&values).reshape(dims).set_requires_grad(true);
            named.push((name, tensor.shallow_clone()));
            tensor
        };
        let embedding = weights("embedding".into(), [offsets[decisions.len()], hidden]);
        let input_weights = weights("input".into(), [hidden, 4 * hidden]);
        let hidden_weights = weights("hidden".into(), [hidden, 4 * hidden]);
        let bias = weights("bias".into(), [1, 4 * hidden]);
        let output = |(i, options): (usize, &u16)| weights(format!("output.{i}"), [hidden, i64::from(*options)]);
        let outputs = decisions.iter().enumerate().map(output).collect();
        let adam = Adam::new(named, AdamConfig { lr: config.lr, ..AdamConfig::default() });
        let baseline = MovingAverage::new(config.baseline_decay);
        Self {
            config,
            decisions,
            offsets,
            embedding,
            input_weights,
            hidden_weights,
            bias,
            outputs,
            adam,
            baseline,
            penalty: Penalty::default(),
            batch: Vec::new(),
        }
    }

    /// Log-probabilities `[B, choices]` of each decision. `choose` is given a decision's log-probabilities and returns the
    /// choices `[B]`.
    fn unroll(&self, batch: i64, mut choose: impl FnMut(usize, &Tensor) -> Tensor) -> Vec<Tensor> {
        let hidden = self.config.hidden;
        let zeros = || Tensor::zeros([batch, hidden], (Kind::Float, tch::Device::Cpu));
        let (mut h, mut c) = (zeros(), zeros());
        let mut token = Tensor::zeros([batch], (Kind::Int64, tch::Device::Cpu));
        let mut all = Vec::new();
        for (i, output) in self.outputs.iter().enumerate() {
            let x = self.embedding.index_select(0, &token);
            let gates = x.matmul(&self.input_weights) + h.matmul(&self.hidden_weights) + &self.bias;
            let gates = gates.chunk(4, 1);
            c = gates[0].sigmoid() * gates[1].tanh() + (&gates[2] + 1.0).sigmoid() * c;
            h = gates[3].sigmoid() * c.tanh();
            let logits = (h.matmul(output) / self.config.temperature).tanh() * self.config.tanh_scale;
            let log_probabilities = logits.log_softmax(1, Kind::Float);
            token = choose(i, &log_probabilities) + self.offsets[i];
            all.push(log_probabilities);
        }
        all
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture {
        self.write(|probabilities| draw(probabilities, rng))
    }

    /// An architecture whose choices `choose` makes, given their probabilities after the choices before.
    fn write(&self, mut choose: impl FnMut(&[f64]) -> usize) -> Architecture {
        let mut choices = Vec::new();
        tch::no_grad(|| {
            self.unroll(1, |_, log_probabilities| {
                let probabilities = Vec::<f64>::try_from(log_probabilities.exp().view([-1]).to_kind(Kind::Double));
                let choice = choose(&probabilities.expect("a list of numbers"));
                choices.push(choice as u16);
                Tensor::from_slice(&[choice as i64])
            })
        });
        Architecture::new(choices)
    }

    /// Log-probability `[B]` of each architecture and the mean entropy of the decisions.
    fn evaluate(&self, choices: &[Tensor]) -> (Tensor, Tensor) {
        let all = self.unroll(choices[0].size()[0], |i, _| choices[i].shallow_clone());
        let chosen =
            all.iter().zip(choices).map(|(log, choice)| log.gather(1, &choice.unsqueeze(1), false).squeeze_dim(1));
        let log_probability = chosen.reduce(|a, b| a + b).expect("there are decisions");
        let entropies = all.iter().map(|log| -(log.exp() * log).sum(Kind::Float));
        let entropy = entropies.reduce(|a, b| a + b).expect("there are decisions") / choices[0].size()[0] as f64;
        (log_probability, entropy)
    }

    fn update(&mut self) {
        const MAX_NORM: f64 = 5.0;
        let batch = std::mem::take(&mut self.batch);
        let rewards: Vec<f64> = batch.iter().map(|(_, reward)| *reward).collect();
        let advantages: Vec<f64> = rewards.iter().map(|reward| reward - self.baseline.update(*reward)).collect();
        // Scaled to unit length, so that rewards in any unit give steps of one size against the entropy bonus.
        let length = (advantages.iter().map(|a| a * a).sum::<f64>() / advantages.len() as f64).sqrt().max(1e-12);
        let advantages: Vec<f32> = advantages.iter().map(|a| (a / length) as f32).collect();
        let advantages = Tensor::from_slice(&advantages);
        let column = |i: usize| -> Vec<i64> { batch.iter().map(|(arch, _)| i64::from(arch.choices()[i])).collect() };
        let choices: Vec<Tensor> = (0..self.decisions.len()).map(|i| Tensor::from_slice(&column(i))).collect();
        let steps = match self.config.update {
            ControllerUpdate::Reinforce => 1,
            ControllerUpdate::Ppo => self.config.ppo_steps,
        };
        let before = tch::no_grad(|| self.evaluate(&choices).0);
        for _ in 0..steps {
            let (log_probability, entropy) = self.evaluate(&choices);
            let gain = match self.config.update {
                ControllerUpdate::Reinforce => &log_probability * &advantages,
                ControllerUpdate::Ppo => {
                    let ratio = (&log_probability - &before).exp();
                    let clipped = ratio.clamp(1.0 - self.config.ppo_clip, 1.0 + self.config.ppo_clip);
                    (ratio * &advantages).minimum(&(clipped * &advantages))
                }
            };
            let loss = -gain.mean(Kind::Float) - entropy * self.config.entropy;
            let mut grads = gradients(&loss, self.adam.parameters());
            clip_grad_norm(&mut grads, MAX_NORM);
            self.adam.step(&grads, self.config.lr);
        }
    }
}

impl SearchStrategy for Controller {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        Some(draw_valid(asking.space, rng, |rng| self.sample(rng)).into())
    }

    /// The likeliest choice after the likeliest choices before.
    fn most_probable(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        Some(mode_of(space, self.write(largest), |rng| self.sample(rng)))
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, observation: &Observation, _: &mut ChaCha8Rng) {
        self.batch.extend(self.penalty.value(observation).map(|value| (observation.arch.clone(), value)));
        if self.batch.len() == self.config.batch {
            self.update();
        }
    }
}
