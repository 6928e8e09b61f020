//! Batch normalisation (Ioffe and Szegedy 2015) whose momentum and statistics are open to the caller: `tch`'s own fixes
//! them at construction and draws its scale at random.

mod joint;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::layers::{self, Layer};
use super::{Activation, Init, Mode, Module, Shape, VarBuilder, probe, probe::Site, ranks, torch};
use crate::nn::Cost;

pub use joint::{MixedNorms, Moves};

/// Constants of a [`BatchNorm`], by name: a public re-implementation passes its momentum in the place of eps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BnConfig {
    /// Share of the new batch in the running statistics; TF's decay `d` is `1 - d` here.
    pub momentum: f64,
    /// Added to the variance.
    pub eps: f64,
    /// Learns a scale and a shift.
    pub affine: bool,
}

impl Default for BnConfig {
    fn default() -> Self {
        Self { momentum: 0.1, eps: 1e-5, affine: true }
    }
}

/// Batch normalisation over `[B, C, H, W]`, per channel.
#[derive(Debug)]
pub struct BatchNorm {
    channels: i64,
    config: BnConfig,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    running_mean: Tensor,
    running_var: Tensor,
    /// While averaging: the batches seen so far.
    averaged: Cell<Option<u64>>,
}

thread_local! {
    /// Within an [`AverageAll`]: the batches that each norm has seen, by the place of its running mean. So norms that are made
    /// anew for every pass over shared statistics count on.
    static AVERAGE: RefCell<Option<HashMap<usize, u64>>> = const { RefCell::new(None) };
}

/// While it lives, every norm that a batch of this thread reaches in training mode holds the plain mean of the batches'
/// statistics, and nothing of what it held before.
#[derive(Debug)]
pub struct AverageAll(());

impl AverageAll {
    /// Starts averaging.
    pub fn start() -> Self {
        AVERAGE.set(Some(HashMap::new()));
        Self(())
    }
}

impl Drop for AverageAll {
    fn drop(&mut self) {
        AVERAGE.set(None);
    }
}

impl BatchNorm {
    /// A norm over `channels` with torchvision's variable names.
    pub fn new(vb: &VarBuilder, channels: i64, config: BnConfig) -> Self {
        let affine = |name, value| config.affine.then(|| vb.weight(name, &[channels], Init::Const(value)));
        Self {
            channels,
            config,
            weight: affine("weight", 1.0),
            bias: affine("bias", 0.0),
            running_mean: vb.buffer("running_mean", &[channels], 0.0),
            running_var: vb.buffer("running_var", &[channels], 1.0),
            averaged: Cell::new(None),
        }
    }

    /// The norm of `len` channels from `start` on, with the same weights and statistics.
    pub fn part(&self, start: i64, len: i64) -> Self {
        let part = |tensor: &Tensor| tensor.narrow(0, start, len);
        Self {
            channels: len,
            config: self.config,
            weight: self.weight.as_ref().map(part),
            bias: self.bias.as_ref().map(part),
            running_mean: part(&self.running_mean),
            running_var: part(&self.running_var),
            averaged: Cell::new(None),
        }
    }

    /// Forgets the running statistics and takes, until [`BatchNorm::end_average`], the plain mean of the batches'.
    pub fn start_average(&self) {
        tch::no_grad(|| {
            let _ = self.running_mean.shallow_clone().fill_(0.0);
            let _ = self.running_var.shallow_clone().fill_(1.0);
        });
        self.averaged.set(Some(0));
    }

    /// Goes back to the configured momentum; the statistics stay.
    pub fn end_average(&self) {
        self.averaged.set(None);
    }

    /// The weight of the coming batch in the running statistics.
    fn next_momentum(&self) -> f64 {
        let seen = AVERAGE.with_borrow_mut(|average| {
            let seen = average.as_mut()?.entry(self.running_mean.data_ptr() as usize).or_insert(0);
            *seen += 1;
            Some(*seen)
        });
        if let Some(seen) = seen {
            return 1.0 / seen as f64;
        }
        let Some(seen) = self.averaged.get() else { return self.config.momentum };
        self.averaged.set(Some(seen + 1));
        1.0 / (seen + 1) as f64
    }
}

static SYNCHRONISED: AtomicBool = AtomicBool::new(false);

/// Whether the statistics of a training batch are those of its parts on all ranks together, in every norm of this process.
pub fn synchronise_batch_norm(on: bool) {
    SYNCHRONISED.store(on, Ordering::Relaxed);
}

impl Module for BatchNorm {
    /// A batch with one value per channel has no variance: it is normalised by the running statistics and does not
    /// update them (image pooling at batch 1 would otherwise write NaN into them).
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        self.forward_scaled(xs, None, mode)
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        assert_eq!(xs.c, self.channels, "channels of the input of a batch norm");
        cost.params += if self.config.affine { 2 * self.channels as u64 } else { 0 };
        layers::note(|| Layer::Norm { channels: xs.c, size: xs.size() });
        xs
    }
}

impl BatchNorm {
    /// The norm of `xs` `[B, C, H, W]` times `scale`, a tensor of one number, which costs no pass over the map of its own.
    pub fn forward_scaled(&self, xs: &Tensor, scale: Option<&Tensor>, mode: Mode) -> Tensor {
        self.forward_activated(xs, scale, Activation::Identity, mode)
    }

    /// [`BatchNorm::forward_scaled`] and the activation after it.
    pub fn forward_activated(&self, xs: &Tensor, scale: Option<&Tensor>, activation: Activation, mode: Mode) -> Tensor {
        if probe::is_linear() {
            return activation.apply_(scale.map_or_else(|| xs.shallow_clone(), |scale| xs * scale));
        }
        probe::report(Site::PreNorm, xs);
        let together = mode.train && ranks::are_several() && SYNCHRONISED.load(Ordering::Relaxed);
        let values_per_channel = xs.numel() as i64 / self.channels * if together { ranks::world() as i64 } else { 1 };
        let train = mode.train && values_per_channel > 1;
        let updates = !(train && probe::is_recording());
        let momentum = if train && updates { self.next_momentum() } else { self.config.momentum };
        let own = |own: &Option<Tensor>| own.as_ref().map(Tensor::shallow_clone);
        let (weight, bias) = match scale {
            None => (own(&self.weight), own(&self.bias)),
            Some(scale) => {
                let weight = match &self.weight {
                    Some(weight) => weight * scale,
                    None => scale.expand([self.channels], false).contiguous(),
                };
                (Some(weight), self.bias.as_ref().map(|bias| bias * scale))
            }
        };
        if together && train {
            let running = updates.then_some((&self.running_mean, &self.running_var));
            return activation.apply_(normalise_together(xs, [&weight, &bias], running, momentum, self.config.eps));
        }
        let running = updates.then_some((&self.running_mean, &self.running_var));
        let (weight, bias, eps) = (weight.as_ref(), bias.as_ref(), self.config.eps);
        normalised(xs, torch::NormStep { weight, bias, running, train, momentum, eps }, activation)
    }
}

/// Batch norm and activation by the operators that serve best.
fn normalised(xs: &Tensor, step: torch::NormStep, activation: Activation) -> Tensor {
    if probe::is_off()
        && let Some(ys) = torch::norm_act(xs, step, activation)
    {
        return ys;
    }
    let torch::NormStep { weight, bias, running, train, momentum, eps } = step;
    let (mean, var) = running.unzip();
    activation.apply_(xs.batch_norm(weight, bias, mean, var, train, momentum, eps, true))
}

/// Batch norm of `xs` `[B, C, H, W]` by the mean and variance of the parts that all ranks have, of equal size; `running` mean and
/// variance move towards them by `momentum`.
fn normalise_together(
    xs: &Tensor,
    [weight, bias]: [&Option<Tensor>; 2],
    running: Option<(&Tensor, &Tensor)>,
    momentum: f64,
    eps: f64,
) -> Tensor {
    let kind = xs.kind();
    let wide = if kind == Kind::Double { Kind::Double } else { Kind::Float };
    let values = xs.to_kind(wide);
    let (_, channels, _, _) = xs.size4().expect("a batch of maps");
    let count = (values.numel() as i64 / channels) as f64 * ranks::world() as f64;
    let over = [0i64, 2, 3];
    let per_channel = |xs: &Tensor| xs.view([1, channels, 1, 1]);
    // Two sums, one after the other: the square of a mean is not taken from a mean of squares.
    let mean = ranks::summed(&values.sum_dim_intlist(&over[..], false, None::<Kind>)) / count;
    let centred = values - per_channel(&mean);
    let var = ranks::summed(&centred.square().sum_dim_intlist(&over[..], false, None::<Kind>)) / count;
    if let Some((running_mean, running_var)) = running {
        tch::no_grad(|| {
            // As libtorch: normalised by the variance of the batch, recorded by that of what it is drawn from.
            let unbiased = &var * (count / (count - 1.0));
            for (running, new) in [(running_mean, &mean), (running_var, &unbiased)] {
                let _ = running.shallow_clone().lerp_(&new.to_kind(running.kind()), momentum);
            }
        });
    }
    let scale = (var + eps).rsqrt();
    let scale = weight.as_ref().map_or_else(|| scale.shallow_clone(), |weight| &scale * weight.to_kind(wide));
    let ys = centred * per_channel(&scale);
    let ys = bias.as_ref().map_or_else(|| ys.shallow_clone(), |bias| &ys + per_channel(&bias.to_kind(wide)));
    ys.to_kind(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::channels_last;
    use tch::{Device, Tensor};

    const ACTIVATIONS: [Activation; 4] =
        [Activation::Identity, Activation::Relu, Activation::Relu6, Activation::Hswish];

    struct Passed {
        out: Tensor,
        grads: Vec<Tensor>,
        running: [Tensor; 2],
    }

    /// The norm of `xs` in the numbers of `kind`; by libtorch's operators unless the maps are channels-last floats.
    fn passed(xs: &Tensor, up: &Tensor, activation: Activation, kind: Kind, twice: bool) -> Passed {
        let vs = tch::nn::VarStore::new(Device::Cpu);
        let mut norm = BatchNorm::new(&VarBuilder::new(&vs), xs.size()[1], BnConfig::default());
        let channels = Tensor::arange(norm.channels, (Kind::Double, Device::Cpu));
        let of = |values: Tensor| values.to_kind(kind).set_requires_grad(true);
        (norm.weight, norm.bias) = (Some(of((&channels * 0.7).sin() + 1.2)), Some(of(channels.cos() * 0.5)));
        (norm.running_mean, norm.running_var) = (norm.running_mean.to_kind(kind), norm.running_var.to_kind(kind));
        let xs = xs.to_kind(kind).detach().copy().set_requires_grad(true);
        let out = norm.forward_activated(&xs, None, activation, Mode::train(0.0));
        let inputs = [&xs, norm.weight.as_ref().unwrap(), norm.bias.as_ref().unwrap()];
        let mut grads = Tensor::run_backward(&[(&out * up.to_kind(kind)).sum(None::<Kind>)], &inputs, twice, twice);
        if twice {
            let norm: Tensor = grads.iter().map(|grad| grad.square().sum(None::<Kind>)).sum();
            // The gradients of what is linear do not depend on the bias.
            grads = Tensor::run_backward(&[norm], &inputs[..2], false, false);
        }
        let running = [&norm.running_mean, &norm.running_var].map(Tensor::shallow_clone);
        Passed { out, grads, running }
    }

    /// Outputs, gradients, their gradients and running statistics of a batch, against the same in double precision. Sizes with
    /// one and several parts, channels with and without whole vectors, means far from zero.
    #[test]
    fn norm_and_activation_in_one_are_those_of_libtorch() {
        tch::manual_seed(5);
        let close = |found: &Tensor, expected: &Tensor, what: &str| {
            let difference = (found.to_kind(Kind::Double) - expected).norm().double_value(&[]);
            let error = difference / expected.norm().double_value(&[]).max(1e-3);
            assert!(error < 2e-5, "{what}: off by {error:.1e}");
        };
        for (shape, offset) in
            [([4, 16, 9, 7], 0.0), ([2, 3, 5, 4], 4.0), ([8, 24, 60, 40], -1.0), ([3, 20, 1, 2], 0.5)]
        {
            for (activation, twice) in ACTIVATIONS.into_iter().flat_map(|a| [(a, false), (a, true)]) {
                let [xs, up] = [offset, 0.0]
                    .map(|offset| channels_last(&(Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 2.0 + offset)));
                let what = format!("{shape:?}, {activation:?}, derived twice: {twice}");
                let [found, expected] =
                    [Kind::Float, Kind::Double].map(|kind| passed(&xs, &up, activation, kind, twice));
                close(&found.out, &expected.out, &what);
                found.grads.iter().zip(&expected.grads).for_each(|(a, b)| close(a, b, &what));
                found.running.iter().zip(&expected.running).for_each(|(a, b)| close(a, b, &what));
            }
        }
    }

    #[test]
    fn norm_and_activation_in_one_are_used_and_do_not_hang_on_threads() {
        tch::manual_seed(6);
        let xs = channels_last(&Tensor::randn([8, 24, 60, 40], (Kind::Float, Device::Cpu)));
        let up = xs.rand_like();
        let step = |train| torch::NormStep { weight: None, bias: None, running: None, train, momentum: 0.1, eps: 1e-5 };
        assert!(torch::norm_act(&xs, step(true), Activation::Relu).is_some());
        assert!(torch::norm_act(&xs.to_kind(Kind::Double), step(true), Activation::Relu).is_none());
        assert!(torch::norm_act(&xs.contiguous(), step(true), Activation::Relu).is_none());
        let threads = tch::get_num_threads();
        let [one, two] = [1, 2].map(|threads| {
            tch::set_num_threads(threads);
            passed(&xs, &up, Activation::Relu6, Kind::Float, false)
        });
        tch::set_num_threads(threads);
        assert_eq!(one.out, two.out);
        assert!(one.grads.iter().zip(&two.grads).all(|(a, b)| a == b));
    }

    #[test]
    fn norms_of_all_ranks_alone_are_libtorchs() {
        tch::manual_seed(3);
        let double = (Kind::Double, Device::Cpu);
        let xs = (Tensor::randn([4, 3, 5, 2], double) * 2.0 + 7.0).set_requires_grad(true);
        let [weight, bias] = [0, 1].map(|_| Some(Tensor::rand([3], double).set_requires_grad(true)));
        let running = || (Tensor::zeros([3], double), Tensor::ones([3], double));
        let (ours, theirs) = (running(), running());
        let out = normalise_together(&xs, [&weight, &bias], Some((&ours.0, &ours.1)), 0.1, 1e-5);
        let (mean, var) = (Some(&theirs.0), Some(&theirs.1));
        let expected = xs.batch_norm(weight.as_ref(), bias.as_ref(), mean, var, true, 0.1, 1e-5, false);
        let close = |a: &Tensor, b: &Tensor| assert!(a.allclose(b, 1e-10, 1e-12, false), "{a:?} {b:?}");
        close(&out, &expected);
        close(&ours.0, &theirs.0);
        close(&ours.1, &theirs.1);
        let inputs = [&xs, weight.as_ref().unwrap(), bias.as_ref().unwrap()];
        let up = Tensor::randn(out.size(), double);
        let grads = |ys: &Tensor| Tensor::run_backward(&[(ys * &up).sum(None::<Kind>)], &inputs, false, false);
        grads(&out).iter().zip(grads(&expected)).for_each(|(a, b)| close(a, &b));
    }
}
