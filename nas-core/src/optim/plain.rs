//! The update rules in their plain form, one tensor at a time: what the fused ones must compute.

use tch::{Device, Kind, Tensor};

use super::{AdamConfig, AdamWConfig, Named, Optimizer, OptimizerConfig, Sgd, SgdConfig, decays};

struct PlainSgd {
    config: SgdConfig,
    velocity: Vec<Option<Tensor>>,
}

impl PlainSgd {
    fn step(&mut self, parameters: &[Named], grads: &[Tensor], lr: f64) {
        let SgdConfig { momentum, weight_decay, nesterov, .. } = self.config;
        for (i, (_, parameter)) in parameters.iter().enumerate().filter(|(i, _)| grads[*i].defined()) {
            let grad = match decays(parameter) {
                true => &grads[i] + parameter * weight_decay,
                false => grads[i].copy(),
            };
            let velocity = self.velocity[i].take().map_or(grad.copy(), |velocity| velocity * momentum + &grad);
            let step = if nesterov { grad + &velocity * momentum } else { velocity.copy() };
            let _ = parameter.shallow_clone().g_sub_(&(step * lr));
            self.velocity[i] = Some(velocity);
        }
    }
}

struct PlainAdam {
    config: AdamConfig,
    decoupled: bool,
    moments: Vec<Option<(Tensor, Tensor, i32)>>,
}

impl PlainAdam {
    fn step(&mut self, parameters: &[Named], grads: &[Tensor], lr: f64) {
        let AdamConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        for (i, (_, parameter)) in parameters.iter().enumerate().filter(|(i, _)| grads[*i].defined()) {
            let decays = decays(parameter);
            let grad = match decays && !self.decoupled {
                true => &grads[i] + parameter * weight_decay,
                false => grads[i].copy(),
            };
            if decays && self.decoupled {
                let _ = parameter.shallow_clone().g_mul_scalar_(1.0 - lr * weight_decay);
            }
            let at_rest = || (parameter.zeros_like(), parameter.zeros_like(), 0);
            let (first, second, steps) = self.moments[i].take().unwrap_or_else(at_rest);
            let first = first * beta1 + &grad * (1.0 - beta1);
            let second = second * beta2 + grad.square() * (1.0 - beta2);
            let steps = steps + 1;
            let step = (&first / (1.0 - beta1.powi(steps))) / ((&second / (1.0 - beta2.powi(steps))).sqrt() + eps);
            let _ = parameter.shallow_clone().g_sub_(&(step * lr));
            self.moments[i] = Some((first, second, steps));
        }
    }
}

/// A kernel, the same in channels-last memory, a matrix, a vector, a number of one entry.
fn parameters(kind: Kind) -> Vec<Named> {
    tch::manual_seed(5);
    let shapes: [&[i64]; 5] = [&[8, 4, 3, 3], &[6, 5, 3, 3], &[7, 1, 1, 1], &[19], &[1]];
    let draw = |(i, dims): (usize, &&[i64])| {
        let tensor = Tensor::randn(*dims, (kind, Device::Cpu));
        let tensor = if i == 1 { tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { tensor };
        (format!("p{i}"), tensor.set_requires_grad(true))
    };
    shapes.iter().enumerate().map(draw).collect()
}

fn copies(named: &[Named]) -> Vec<Named> {
    named.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect()
}

/// Gradients in the other memory order; one or none is missing.
fn grads(parameters: &[Named], step: usize) -> Vec<Tensor> {
    let draw = |(i, (_, parameter)): (usize, &Named)| {
        let grad = Tensor::randn(parameter.size(), (parameter.kind(), Device::Cpu));
        let turned = step.is_multiple_of(2) && grad.dim() == 4;
        if i == step % 7 {
            return Tensor::new();
        }
        if turned { grad.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]) } else { grad }
    };
    parameters.iter().enumerate().map(draw).collect()
}

/// The largest difference after some steps of both, with a resume of the fused one on the way.
fn difference(
    kind: Kind,
    mut fused: Box<dyn Optimizer>,
    fresh: impl Fn() -> Box<dyn Optimizer>,
    mut plain: impl FnMut(&[Named], &[Tensor], f64),
) -> f64 {
    let own = copies(fused.parameters());
    for step in 0..9 {
        let grads = grads(&own, step);
        if step == 4 {
            let saved = fused.state().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
            let weights = copies(fused.parameters());
            fused = fresh();
            fused.load_state(&saved);
            let loaded = |((_, to), (_, from)): (&Named, &Named)| to.shallow_clone().copy_(from);
            tch::no_grad(|| fused.parameters().iter().zip(&weights).for_each(loaded));
        }
        let lr = 0.1 / (step + 1) as f64;
        fused.step(&grads, lr);
        // An overflow leaves all as it is.
        let overflow = Tensor::from_slice(&[1f32]);
        fused.step_unless(Some(&overflow), &grads, 1e3);
        plain(&own, &grads, lr);
    }
    let apart = |((_, a), (_, b)): (&Named, &Named)| (a - b).abs().max().double_value(&[]);
    assert_eq!(fused.parameters()[0].1.kind(), kind);
    fused.parameters().iter().zip(&own).map(apart).fold(0.0, f64::max)
}

const KINDS: [(Kind, f64); 2] = [(Kind::Float, 2e-6), (Kind::Double, 1e-13)];

#[test]
fn fused_sgd_is_the_plain_one() {
    for (nesterov, momentum, weight_decay) in [(false, 0.9, 0.0), (false, 0.0, 0.1), (true, 0.8, 0.2)] {
        let config = SgdConfig { momentum, weight_decay, nesterov, ..Default::default() };
        for (kind, tolerance) in KINDS {
            let mut plain = PlainSgd { config: config.clone(), velocity: (0..5).map(|_| None).collect() };
            let fresh = || Box::new(Sgd::new(parameters(kind), config.clone())) as Box<dyn Optimizer>;
            let far = difference(kind, fresh(), fresh, |p, g, lr| plain.step(p, g, lr));
            assert!(far < tolerance, "{config:?} {kind:?}: {far}");
        }
    }
}

#[test]
fn fused_adam_is_the_plain_one() {
    for (beta1, weight_decay, decoupled) in [(0.9, 0.0, false), (0.5, 0.1, false), (0.0, 0.0, false), (0.9, 0.2, true)]
    {
        let config = AdamConfig { beta1, weight_decay, ..Default::default() };
        let built = match decoupled {
            true => OptimizerConfig::Adamw(AdamWConfig { beta1, weight_decay, ..Default::default() }),
            false => OptimizerConfig::Adam(config.clone()),
        };
        for (kind, tolerance) in KINDS {
            let moments = (0..5).map(|_| None).collect();
            let mut plain = PlainAdam { config: config.clone(), decoupled, moments };
            let fresh = || built.build(parameters(kind));
            let far = difference(kind, fresh(), fresh, |p, g, lr| plain.step(p, g, lr));
            assert!(far < tolerance, "{built:?} {kind:?}: {far}");
        }
    }
}
