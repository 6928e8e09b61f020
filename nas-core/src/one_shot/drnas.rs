//! DrNAS (Chen et al. 2020, arXiv 2006.10355): the weights of candidates are drawn from a Dirichlet distribution, through
//! which gradients reach its concentrations `elu(alpha) + 1`.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::config::{OneShotDef, OneShotInfo, chooses_operators};
use super::relaxed::{Parameters, Relaxed, relaxed_config, relaxed_methods};
use super::{Objective, OneShot, Part, Problem};
use crate::nn::Shape;
use crate::optim::{AdamConfig, Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::{ArchParameter, Mixture, WeightSharing};
use crate::train::{At, Step};

relaxed_config! {
    /// Parameters of DrNAS; the defaults are its authors' on NAS-Bench-201.
    DrnasConfig {
        /// Weight of the divergence from the uniform Dirichlet distribution in the loss of the architecture parameters.
        anchor: f64,
    }
}

impl Default for DrnasConfig {
    fn default() -> Self {
        let arch = AdamConfig { lr: 3e-4, beta1: 0.5, weight_decay: 0.0, ..Default::default() };
        Self {
            anchor: 1e-3,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.001 } },
            grad_clip: 5.0,
            arch: OptimizerConfig::Adam(arch),
            arch_start_epoch: 0,
        }
    }
}

impl OneShotDef for DrnasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "drnas", paper: "Chen et al. 2020, arXiv 2006.10355" }
    }

    fn check(&self, space: &dyn WeightSharing, _: Shape) -> Result<()> {
        ensure!(self.anchor >= 0.0, "method.anchor = {}; expected 0 or more", self.anchor);
        chooses_operators(self, space)
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(Drnas::new(self.clone(), problem)))
    }
}

pub(super) struct Drnas {
    anchor: f64,
    relaxed: Relaxed,
}

impl Drnas {
    pub fn new(config: DrnasConfig, problem: Problem) -> Self {
        Self { anchor: config.anchor, relaxed: Relaxed::new(config.bilevel(), problem) }
    }
}

/// Kept away from 0, where gamma variables and their gradients leave single precision.
fn concentration(raw: &Tensor) -> Tensor {
    const LEAST: f64 = 0.01;
    (raw.elu() + 1.0).clamp_min(LEAST)
}

/// Normalised gamma variables; 0 for entries that stand for nothing.
fn dirichlet(p: &ArchParameter, raw: &Tensor) -> Tensor {
    // Far below 1 a gamma variable can be 0 in single precision, and a row of zeros has no direction.
    const LEAST: f64 = 1e-20;
    let gammas = concentration(raw).internal_standard_gamma().clamp_min(LEAST);
    let gammas = p.mask(raw).map_or(gammas.shallow_clone(), |mask| gammas * mask);
    &gammas / gammas.sum_dim_intlist(-1, true, None::<Kind>).clamp_min(LEAST)
}

/// Sum over rows of the divergence of `Dir(concentration)` from `Dir(1)`.
fn divergence(p: &ArchParameter, raw: &Tensor) -> Tensor {
    let mask = p.mask(raw).unwrap_or_else(|| raw.ones_like());
    let sum = |xs: Tensor| (xs * &mask).sum_dim_intlist(-1, true, None::<Kind>);
    let concentration = concentration(raw);
    let total = sum(concentration.shallow_clone());
    let exists = total.gt(0.0);
    let total = total.clamp_min(1e-6);
    let options = sum(mask.shallow_clone()).clamp_min(1.0);
    let rows = total.lgamma() - sum(concentration.lgamma()) - options.lgamma()
        + sum((&concentration - 1.0) * (concentration.digamma() - total.digamma()));
    (rows * exists).sum(None::<Kind>)
}

fn anchor_loss(parameters: &Parameters) -> Tensor {
    let rows = parameters.list.iter().zip(&parameters.raw).map(|(p, raw)| divergence(p, raw));
    rows.reduce(|a, b| a + b).expect("the space has architecture parameters")
}

impl OneShot for Drnas {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let anchor = self.anchor;
        self.relaxed.alternate(at, objective, |parameters, objective, part| {
            let weights: Vec<Tensor> =
                parameters.list.iter().zip(&parameters.raw).map(|(p, raw)| dirichlet(p, raw)).collect();
            let loss = objective.loss(part, Mixture::Weights(&parameters.placed(&weights)), at);
            if part == Part::Weights || anchor == 0.0 {
                return loss;
            }
            let term = anchor_loss(parameters) * anchor;
            &loss + term.to_device(loss.device())
        })
    }

    relaxed_methods!(chosen_weights);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Choice;

    /// `KL(Dir(2, 1) || Dir(1, 1))`: the density of x is 2x, so the divergence is the integral of 2x ln 2x = ln 2 - 1/2.
    #[test]
    fn the_divergence_is_that_of_the_triangle_and_counts_real_options_only() {
        let p = ArchParameter::new("a", &[1, 2], Choice::Operator);
        let expected = 2f64.ln() - 0.5;
        let found = divergence(&p, &Tensor::from_slice(&[1.0, 0.0]).view([1, 2])).double_value(&[]);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        let p = ArchParameter { dims: vec![2, 3], exists: vec![true, true, false, false, false, false], ..p };
        let raw = Tensor::from_slice(&[1.0, 0.0, 3.0, 1.0, 2.0, 3.0]).view([2, 3]).set_requires_grad(true);
        let masked = divergence(&p, &raw);
        assert!((masked.double_value(&[]) - expected).abs() < 1e-12, "{masked:?}");
        let grad = Tensor::run_backward(&[&masked], &[&raw], false, false).remove(0);
        assert!(grad.isfinite().all().int64_value(&[]) == 1);
        assert_eq!(Vec::<f64>::try_from(grad.view([-1])).unwrap()[2..], [0.0; 4]);
    }

    #[test]
    fn a_sample_sums_to_one_over_real_options_and_has_gradients() {
        let p = ArchParameter::new("a", &[2, 3], Choice::Operator);
        let p = ArchParameter { exists: vec![true, true, false, true, true, true], ..p };
        let raw = Tensor::from_slice(&[0.5f32, -0.5, 9.0, 0.0, -30.0, 2.0]).view([2, 3]).set_requires_grad(true);
        let sample = dirichlet(&p, &raw);
        let sums = Vec::<f32>::try_from(sample.sum_dim_intlist(-1, false, None::<Kind>)).unwrap();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{sums:?}");
        assert_eq!(sample.double_value(&[0, 2]), 0.0);
        let grad = Tensor::run_backward(&[sample.get(0).get(0)], &[&raw], false, false).remove(0);
        let grad = Vec::<f32>::try_from(grad.view([-1])).unwrap();
        assert!(grad.iter().all(|grad| grad.is_finite()) && grad[0] > 0.0 && grad[1] < 0.0, "{grad:?}");
    }
}
