//! ProxylessNAS (Cai et al. 2018, arXiv 1812.00332): weights are trained on one path drawn from the probabilities; for a step
//! of the architecture parameters two paths are drawn per block and a binary gate is drawn between them. With
//! `dL/dg` of the gates, `dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i)` over the two (equation 4).

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::config::{OneShotDef, OneShotInfo, chooses_operators};
use super::cost_term::{CostOf, CostTerm, CostTermConfig};
use super::gumbel::{Sample, gumbel_softmax, one_hot_of_largest, straight_through};
use super::relaxed::{Relaxed, relaxed_config, relaxed_methods};
use super::{Objective, OneShot, Part, Problem};
use crate::nn::Shape;
use crate::optim::{AdamConfig, Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::{ArchParameter, Choice, WeightSharing};
use crate::train::{At, Step, scalar};

relaxed_config! {
    /// Parameters of ProxylessNAS; the defaults are its authors' (`imagenet_arch_search.py`), but for the cost, which needs a
    /// reference of the user's.
    ProxylessNasConfig {
        /// Steps of the weights for one of the architecture parameters.
        arch_every: usize,
        /// How the cost counts.
        cost: CostTermConfig,
    }
}

impl Default for ProxylessNasConfig {
    fn default() -> Self {
        Self {
            arch_every: 5,
            cost: CostTermConfig::None,
            weights: OptimizerConfig::Sgd(SgdConfig { lr: 0.025, weight_decay: 4e-5, nesterov: true, momentum: 0.9 }),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } },
            grad_clip: 0.0,
            // No mean over steps: paths that were not drawn must not move.
            arch: OptimizerConfig::Adam(AdamConfig { lr: 1e-3, beta1: 0.0, ..Default::default() }),
            arch_start_epoch: 40,
        }
    }
}

impl OneShotDef for ProxylessNasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "proxyless_nas", paper: "Cai et al. 2018, arXiv 1812.00332" }
    }

    fn check(&self, space: &dyn WeightSharing, input: Shape) -> Result<()> {
        ensure!(self.arch_every > 0, "method.arch_every = 0; expected at least 1");
        self.cost.check(space, input)?;
        chooses_operators(self, space)
    }

    fn cost_of(&self) -> Option<CostOf> {
        self.cost.of()
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(ProxylessNas::new(self.clone(), problem)?))
    }
}

pub(super) struct ProxylessNas {
    arch_every: usize,
    cost: CostTerm,
    relaxed: Relaxed,
}

impl ProxylessNas {
    pub fn new(config: ProxylessNasConfig, problem: Problem) -> Result<Self> {
        let cost = config.cost.open(&problem)?;
        Ok(Self { arch_every: config.arch_every, cost, relaxed: Relaxed::new(config.bilevel(), problem) })
    }

    fn step_arch(&mut self, at: At, objective: &dyn Objective) {
        let mut pairs = Vec::new();
        let parameters = &self.relaxed.parameters;
        let sample = Sample::new(parameters, |p, raw| {
            let Pair { gates, drawn } = Pair::draw(p, raw);
            pairs.push(drawn.shallow_clone());
            (gates, drawn)
        });
        let loss = objective.loss(Part::Arch, sample.as_mixture(), at);
        let loss = self.cost.apply(loss, &parameters.softmax());
        let operators = parameters.list.iter().zip(&parameters.raw).filter(|(p, _)| p.choice == Choice::Operator);
        let raw: Vec<Tensor> = operators.map(|(_, raw)| raw.shallow_clone()).collect();
        let mass = |raw: &Tensor, drawn: &Tensor| (raw + (drawn - 1.0) * 1e30).logsumexp([-1i64].as_slice(), true);
        let before: Vec<Tensor> = tch::no_grad(|| raw.iter().zip(&pairs).map(|(raw, pair)| mass(raw, pair)).collect());
        self.relaxed.descend_arch(&loss);
        // The two paths share what they had together: the other paths keep their probabilities.
        tch::no_grad(|| {
            for ((raw, pair), before) in raw.into_iter().zip(&pairs).zip(before) {
                let shift = (mass(&raw, pair) - before) * pair;
                let _ = { raw }.g_sub_(&shift);
            }
        });
    }
}

/// Two paths of every row.
struct Pair {
    /// 1 for the one that the gate lets through, with the gradient of the probabilities between the two.
    gates: Tensor,
    /// 1 for both.
    drawn: Tensor,
}

impl Pair {
    fn draw(p: &ArchParameter, raw: &Tensor) -> Self {
        // The two largest of logits with Gumbel noise are a sample without replacement.
        let drawn = tch::no_grad(|| {
            let (_, indices) =
                gumbel_softmax(p, raw, 1.0).topk(raw.size().last().map_or(1, |n| 2.min(*n)), -1, true, false);
            let drawn = raw.zeros_like().scatter_value(-1, &indices, 1.0);
            p.mask(raw).map_or(drawn.shallow_clone(), |mask| drawn * mask)
        });
        let between = (raw + (&drawn - 1.0) * 1e30).softmax(-1, None::<Kind>) * &drawn;
        let noisy = tch::no_grad(|| between.log() - raw.empty_like().exponential_(1.0).log());
        let hard = one_hot_of_largest(p, &noisy);
        Self { gates: straight_through(&hard, &between), drawn }
    }
}

impl OneShot for ProxylessNas {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let images = objective.next(Part::Weights)?;
        let path = tch::no_grad(|| {
            Sample::new(&self.relaxed.parameters, |p, raw| {
                let hard = one_hot_of_largest(p, &gumbel_softmax(p, raw, 1.0));
                (hard.shallow_clone(), hard)
            })
        });
        let loss = objective.loss(Part::Weights, path.as_mixture(), at);
        self.relaxed.training.descend(&loss, at);
        if at.epoch >= self.relaxed.arch_start_epoch {
            objective.next(Part::Arch)?;
            if at.global_step.is_multiple_of(self.arch_every) {
                self.step_arch(at, objective);
            }
        }
        Ok(Step { loss: scalar(&loss), images, lr: self.relaxed.training.lr(at) })
    }

    relaxed_methods!(chosen_path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_through_the_gates_is_equation_4() {
        let p = ArchParameter::new("a", &[3, 4], Choice::Operator);
        let values: Vec<f64> = (0..12).map(|i| f64::from(i * i % 7) / 3.0).collect();
        let raw = Tensor::from_slice(&values).view([3, 4]).set_requires_grad(true);
        let of_gates = Tensor::from_slice(&(0..12).map(|i| f64::from(i) - 5.5).collect::<Vec<_>>()).view([3, 4]);
        for _ in 0..20 {
            let Pair { gates, drawn } = Pair::draw(&p, &raw);
            let grad = Tensor::run_backward(&[(&gates * &of_gates).sum(Kind::Double)], &[&raw], false, false).remove(0);
            for row in 0..3 {
                let of = |tensor: &Tensor, i: i64| tensor.double_value(&[row, i]);
                let pair: Vec<i64> = (0..4).filter(|i| of(&drawn, *i) == 1.0).collect();
                assert_eq!(pair.len(), 2);
                let open: Vec<f64> = (0..4).map(|i| of(&gates, i)).collect();
                assert!(open.iter().sum::<f64>() == 1.0 && pair.iter().any(|i| open[*i as usize] == 1.0), "{open:?}");
                let total: f64 = pair.iter().map(|i| of(&raw, *i).exp()).sum();
                let prob = |i: i64| of(&raw, i).exp() / total;
                for i in 0..4 {
                    let term = |j: &i64| of(&of_gates, *j) * prob(*j) * (f64::from(*j == i) - prob(i));
                    let expected = if pair.contains(&i) { pair.iter().map(term).sum() } else { 0.0 };
                    assert!((of(&grad, i) - expected).abs() < 1e-12, "{} {expected}", of(&grad, i));
                }
            }
        }
    }
}
