//! Second-order DARTS against the gradient through the unrolled step, and FBNet's cost term.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;
use nas_core::nn::{Init, Shape, VarBuilder};
use nas_core::one_shot::{
    CostOf, CostTermConfig, DartsConfig, FbnetConfig, Objective, OneShotConfig, Order, Part, Problem,
};
use nas_core::optim::{OptimizerConfig, SgdConfig, named_parameters};
use nas_core::space::{Mixture, WeightSharing};
use nas_core::train::At;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::toy::{EDGES, OPS, Toy, functions};
use super::{alone, constant};

const AT: At = At { epoch: 0, step: 0, global_step: 0, total_steps: 10 };
const DIMS: [i64; 2] = [EDGES as i64, OPS as i64];

/// One weight per edge and operator, in double precision: `loss` is a function of weights, candidates' weights and the half.
struct Tiny {
    scales: Tensor,
    seen: RefCell<Vec<(Part, Vec<Tensor>)>>,
}

fn tiny_loss(part: Part, scales: &Tensor, candidates: &Tensor) -> Tensor {
    let shift = part as i64 as f64;
    let xs =
        ((Tensor::arange(32 * DIMS[0], (Kind::Double, Device::Cpu)) * 0.7 + shift).sin() * 1.5).view([32, DIMS[0]]);
    let ys = (&xs * 1.3 + shift).cos().sum_dim_intlist(-1, false, None::<Kind>);
    let outputs = functions(&xs) * (scales.tanh() * candidates).unsqueeze(0);
    (outputs.sum_dim_intlist([-1i64, -2].as_slice(), false, None::<Kind>) - ys).square().mean(None::<Kind>)
}

impl Objective for Tiny {
    fn next(&mut self, _: Part) -> Result<usize> {
        Ok(32)
    }

    fn loss(&self, part: Part, mixture: Mixture, _: At) -> Tensor {
        let Mixture::Weights(weights) = mixture else { panic!("all candidates by weight") };
        self.seen.borrow_mut().push((part, weights.iter().map(|weights| weights.detach().copy()).collect()));
        tiny_loss(part, &self.scales, &weights[0])
    }

    fn score(&self, _: Part, _: Mixture, _: At) -> Result<f64> {
        unreachable!("no gradient needs a score")
    }
}

/// Raw architecture parameters before and after the first step of `config`, and what the objective saw.
fn first_step(config: &OneShotConfig) -> (VarStore, Tensor, Tensor, Tiny) {
    tch::set_num_threads(1);
    let mut vs = VarStore::new(Device::Cpu);
    let scales = VarBuilder::new(&vs).weight("scales", &DIMS, Init::Normal(0.5));
    vs.double();
    let space: Rc<dyn WeightSharing> = Rc::new(Toy { connections: false });
    let weights = named_parameters(&vs);
    let problem = Problem { space, weights, input: Shape::new(1, 1, 1), latency: None, amp: false, seed: 0 };
    let mut method = config.build(problem).unwrap();
    let mut tiny = Tiny { scales, seen: RefCell::new(Vec::new()) };
    let raw = || method.arch_parameters()[0].1.detach().copy();
    let before = raw();
    let _ = method.step(AT, &mut tiny).unwrap();
    let after = method.arch_parameters()[0].1.detach().copy();
    (vs, before, after, tiny)
}

fn plain(lr: f64) -> OptimizerConfig {
    OptimizerConfig::Sgd(SgdConfig { lr, momentum: 0.0, weight_decay: 0.0, nesterov: false })
}

#[test]
fn second_order_darts_is_the_gradient_through_the_unrolled_step() {
    let _alone = alone();
    tch::manual_seed(5);
    let (lr, momentum, weight_decay) = (0.05, 0.9, 0.01);
    for nesterov in [false, true] {
        let weights = OptimizerConfig::Sgd(SgdConfig { lr, momentum, weight_decay, nesterov });
        let config =
            DartsConfig { order: Order::Second, weights, schedule: constant(), arch: plain(1.0), ..Default::default() };
        // The weights before the step are needed: they follow from the generator's seed.
        tch::manual_seed(7);
        let mut vs = VarStore::new(Device::Cpu);
        let scales = VarBuilder::new(&vs).weight("scales", &DIMS, Init::Normal(0.5));
        vs.double();
        tch::manual_seed(7);
        let (_, before, after, _) = first_step(&OneShotConfig::Darts(config));
        let found = before.copy() - after;

        let raw = before.set_requires_grad(true);
        let softmax = raw.softmax(-1, None::<Kind>);
        let train = tiny_loss(Part::Weights, &scales, &softmax);
        let grad = Tensor::run_backward(&[train], &[&scales], true, true).remove(0) + &scales * weight_decay;
        // The first step of SGD: its velocity is the gradient.
        let ahead = &scales - grad * (lr * if nesterov { 1.0 + momentum } else { 1.0 });
        let expected =
            Tensor::run_backward(&[tiny_loss(Part::Arch, &ahead, &softmax)], &[&raw], false, false).remove(0);
        let first = Tensor::run_backward(
            &[tiny_loss(Part::Arch, &ahead.detach(), &raw.softmax(-1, None::<Kind>))],
            &[&raw],
            false,
            false,
        );
        let distance = |a: &Tensor, b: &Tensor| (a - b).norm().double_value(&[]) / b.norm().double_value(&[]);
        let error = distance(&found, &expected);
        // The second-order part is not negligible, and what is left is that of a difference quotient of radius 0.01.
        assert!(distance(&first[0], &expected) > 100.0 * error, "{}", distance(&first[0], &expected));
        assert!(error < 1e-5, "nesterov {nesterov}: {error}");
    }
}

#[test]
fn the_cost_term_of_fbnet_is_the_loss_times_a_power_of_the_logarithm() {
    let _alone = alone();
    tch::manual_seed(9);
    let (alpha, beta) = (0.2, 0.6);
    let cost = |cost| {
        let arch = plain(1.0);
        let config = FbnetConfig {
            cost,
            weights: plain(0.0),
            schedule: constant(),
            arch,
            arch_start_epoch: 0,
            ..Default::default()
        };
        tch::manual_seed(11);
        first_step(&OneShotConfig::Fbnet(config))
    };
    let (vs, before, after, tiny) = cost(CostTermConfig::LogPower { alpha, beta, reference: None, of: CostOf::Macs });
    let found = before - after;
    let (.., without, tiny_without) = cost(CostTermConfig::None);
    let seen = tiny.seen.borrow();
    // Equal noise in both runs.
    assert_eq!(seen[1].1[0], tiny_without.seen.borrow()[1].1[0]);
    let (part, candidates) = (seen[1].0, seen[1].1[0].copy().set_requires_grad(true));
    assert_eq!(part, Part::Arch);
    let macs: Vec<f64> = (0..EDGES * OPS).map(|i| 100.0 * (i % OPS) as f64).collect();
    let expected_macs = (&candidates * Tensor::from_slice(&macs).view(DIMS)).sum(Kind::Double) + 1000.0;
    let loss = tiny_loss(part, &vs.variables()["scales"], &candidates);
    let total = loss * (expected_macs.log().pow_tensor_scalar(beta) * alpha);
    let of_candidates = Tensor::run_backward(&[total], &[&candidates], false, false).remove(0);
    // Through the softmax of temperature 5: p (g - sum p g) / 5.
    let p = candidates.detach();
    let inner = (&p * &of_candidates).sum_dim_intlist(-1, true, None::<Kind>);
    let expected = &p * (of_candidates - inner) / 5.0;
    let error = (&found - &expected).abs().max().double_value(&[]);
    assert!(error < 1e-12 && expected.abs().max().double_value(&[]) > 1e-4, "{error}");
    drop(without);
}
