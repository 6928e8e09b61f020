//! Batch-norm statistics of one candidate of a supernet: the running ones mix those of all candidates that were trained,
//! and rank candidates wrongly (Bender et al. 2018; Guo et al. 2020, "single path one-shot"; Yu et al. 2020, "BigNAS").
//! They are computed anew, for the candidate alone, before it is evaluated.

use tch::Tensor;

use crate::nn::{BatchNorm, Mode};

/// Ends averaging however the batches end.
struct Averaging<'a>(&'a [&'a BatchNorm]);

impl<'a> Averaging<'a> {
    fn start(norms: &'a [&'a BatchNorm]) -> Self {
        norms.iter().for_each(|norm| norm.start_average());
        Self(norms)
    }
}

impl Drop for Averaging<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|norm| norm.end_average());
    }
}

/// Replaces the running statistics of `norms` by the means, over `batches`, of the batches' statistics.
///
/// `forward` runs the network on one batch in the mode it is given, which is training: there each norm uses the batch's
/// own statistics, so that the result does not depend on the order of the batches, up to rounding. Random layers (dropout,
/// drop path) would be active too: the closure must leave them out. What was in the statistics before is forgotten; a norm
/// that no batch reaches is left at mean 0, variance 1. A norm that a batch passes twice counts both passes. Afterwards
/// the norms' momentum is theirs again, also when `forward` fails; its error is returned, and the statistics are then
/// those of the batches before.
///
/// The batches should be of one size: each counts the same.
pub fn recalibrate<E>(
    norms: &[&BatchNorm],
    batches: impl IntoIterator<Item = Tensor>,
    mut forward: impl FnMut(&Tensor, Mode) -> Result<(), E>,
) -> Result<(), E> {
    let _averaging = Averaging::start(norms);
    batches.into_iter().try_for_each(|batch| tch::no_grad(|| forward(&batch, Mode::train(0.0))))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::nn::{Activation, BnConfig, Conv2d, ConvConfig, ConvNorm, Module, VarBuilder, chain, conv_bn};
    use tch::nn::VarStore;
    use tch::{Device, Kind};

    const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

    /// 3x3 convolutions with these channels, each with a norm and a rectifier.
    fn network(channels: &[i64]) -> (VarStore, Vec<ConvNorm>) {
        tch::set_num_threads(1);
        let mut vs = VarStore::new(Device::Cpu);
        let vb = VarBuilder::new(&vs);
        let layer = |(i, pair): (usize, &[i64])| {
            let (conv, bn) = (ConvConfig::default(), BnConfig::default());
            conv_bn(&vb.sub(i), (pair[0], pair[1]), 3, conv, bn, Activation::Relu)
        };
        let layers = channels.windows(2).enumerate().map(layer).collect();
        vs.double();
        (vs, layers)
    }

    fn batches(n: usize) -> Vec<Tensor> {
        (0..n).map(|i| Tensor::randn([6, 3, 7, 7], DOUBLE) * (1.0 + i as f64) + i as f64).collect()
    }

    fn buffers(vs: &VarStore) -> Vec<(String, Tensor)> {
        let mut buffers: Vec<_> = vs.variables().into_iter().filter(|(name, _)| name.contains("running")).collect();
        buffers.sort_by(|a, b| a.0.cmp(&b.0));
        buffers.into_iter().map(|(name, tensor)| (name, tensor.copy())).collect()
    }

    fn assert_close(found: &[(String, Tensor)], expected: &[(String, Tensor)]) {
        assert!(!found.is_empty() && found.len() == expected.len());
        for ((name, a), (_, b)) in found.iter().zip(expected) {
            let error = (a - b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]);
            assert!(error < 1e-12, "{name} is off by {error}");
        }
    }

    fn run(network: &[ConvNorm], batches: impl IntoIterator<Item = Tensor>) {
        let norms: Vec<&BatchNorm> = network.iter().filter_map(ConvNorm::batch_norm).collect();
        recalibrate(&norms, batches, |xs, mode| {
            let _ = chain(network, xs, mode);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    }

    #[test]
    fn statistics_are_the_means_over_the_batches_in_any_order() {
        let (vs, network) = network(&[3, 4, 4, 6]);
        let xs = batches(5);
        run(&network, xs.iter().map(Tensor::shallow_clone));
        let forwards = buffers(&vs);
        run(&network, xs.iter().rev().map(Tensor::shallow_clone));
        assert_close(&buffers(&vs), &forwards);

        // one batch at a time replaces the statistics by its own; the mean is taken here
        let mut sums: Vec<(String, Tensor)> = forwards.iter().map(|(name, t)| (name.clone(), t.zeros_like())).collect();
        for batch in &xs {
            run(&network, [batch.shallow_clone()]);
            for ((_, sum), (_, one)) in sums.iter_mut().zip(buffers(&vs)) {
                let _ = sum.g_add_(&(one / xs.len() as f64));
            }
        }
        assert_close(&sums, &forwards);
    }

    #[test]
    fn the_first_norm_sees_the_moments_of_the_convolution() {
        let (vs, network) = network(&[3, 4]);
        let xs = batches(3);
        run(&network, xs.iter().map(Tensor::shallow_clone));
        let kernel = &vs.variables()["0.conv.weight"];
        let dims = [0i64, 2, 3];
        let features = || xs.iter().map(|xs| tch::no_grad(|| xs.conv2d::<Tensor>(kernel, None, 1, 1, 1, 1)));
        let mean = |tensors: Vec<Tensor>| Tensor::stack(&tensors, 0).mean_dim([0i64].as_slice(), false, None);
        let means = mean(features().map(|ys| ys.mean_dim(dims.as_slice(), false, None)).collect());
        let vars = mean(features().map(|ys| ys.var_dim(dims.as_slice(), true, false)).collect());
        let expected = [("0.bn.running_mean".to_string(), means), ("0.bn.running_var".to_string(), vars)];
        assert_close(&buffers(&vs), &expected);
    }

    #[test]
    fn nothing_is_left_of_the_candidate_before() {
        let (vs, network) = network(&[3, 4, 4]);
        let (xs, others) = (batches(3), batches(4));
        run(&network, xs.iter().map(Tensor::shallow_clone));
        let alone = buffers(&vs);
        run(&network, others);
        tch::no_grad(|| {
            vs.variables().into_iter().for_each(|(name, mut tensor)| {
                if name.contains("running") {
                    let _ = tensor.fill_(f64::NAN);
                }
            })
        });
        run(&network, xs);
        buffers(&vs).iter().zip(&alone).for_each(|((name, a), (_, b))| assert_eq!(a, b, "{name}"));
    }

    #[test]
    fn candidates_that_share_a_norm_do_not_see_each_other() {
        tch::set_num_threads(1);
        let mut vs = VarStore::new(Device::Cpu);
        let vb = VarBuilder::new(&vs);
        let convs = ["a", "b"].map(|name| Conv2d::new(&vb.sub(name), 3, 4, 3, ConvConfig::default()));
        let norm = BatchNorm::new(&vb.sub("shared"), 4, BnConfig::default());
        vs.double();
        let (xs, test) = (batches(3), &batches(1)[0]);
        let outcome = |candidate: usize| {
            let forward = |xs: &Tensor, mode| norm.forward(&convs[candidate].forward(xs, mode), mode);
            let batches = xs.iter().map(Tensor::shallow_clone);
            recalibrate(&[&norm], batches, |xs, mode| {
                let _ = forward(xs, mode);
                Ok::<_, Infallible>(())
            })
            .unwrap();
            tch::no_grad(|| forward(test, Mode::EVAL))
        };
        let alone = [outcome(0), outcome(1)];
        assert!((&alone[0] - &alone[1]).abs().max().double_value(&[]) > 0.1);
        for candidate in [1, 0, 0, 1] {
            assert_eq!(outcome(candidate), alone[candidate]);
        }
    }

    #[test]
    fn afterwards_and_after_an_error_the_momentum_is_the_configured_one() {
        tch::set_num_threads(1);
        let mut vs = VarStore::new(Device::Cpu);
        let norm = BatchNorm::new(&VarBuilder::new(&vs), 2, BnConfig { momentum: 0.25, ..Default::default() });
        vs.double();
        let xs = |mean: f64| Tensor::randn([4, 2, 3, 3], DOUBLE) * 1e-9 + mean;
        let running_mean = || vs.variables()["running_mean"].double_value(&[0]);
        let forward = |xs: &Tensor, mode| {
            let _ = norm.forward(xs, mode);
            if running_mean() > 10.0 { Err("too large") } else { Ok(()) }
        };
        recalibrate(&[&norm], [xs(1.0), xs(3.0)], forward).unwrap();
        assert!((running_mean() - 2.0).abs() < 1e-6);
        let _ = norm.forward(&xs(6.0), Mode::train(0.0));
        assert!((running_mean() - 3.0).abs() < 1e-6, "0.75 * 2 + 0.25 * 6");
        assert_eq!(recalibrate(&[&norm], [xs(1.0), xs(100.0), xs(1.0)], forward), Err("too large"));
        let before = running_mean();
        let _ = norm.forward(&xs(0.0), Mode::train(0.0));
        assert!((running_mean() - 0.75 * before).abs() < 1e-6);
    }

    #[test]
    fn a_batch_of_one_value_per_channel_is_not_counted() {
        tch::set_num_threads(1);
        let vs = VarStore::new(Device::Cpu);
        let norm = BatchNorm::new(&VarBuilder::new(&vs), 1, BnConfig::default());
        let single = Tensor::full([1, 1, 1, 1], 100.0, (Kind::Float, Device::Cpu));
        let many = Tensor::from_slice(&[1f32, 3.0]).view([2, 1, 1, 1]);
        let forward = |xs: &Tensor, mode| {
            let _ = norm.forward(xs, mode);
            Ok::<_, Infallible>(())
        };
        recalibrate(&[&norm], [single, many], forward).unwrap();
        assert_eq!(vs.variables()["running_mean"].double_value(&[0]), 2.0);
        assert_eq!(vs.variables()["running_var"].double_value(&[0]), 2.0);
    }
}
