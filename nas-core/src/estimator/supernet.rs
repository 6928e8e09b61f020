//! A candidate's score by the weights of a trained supernet, with batch-norm statistics of its own (Guo et al. 2019, arXiv
//! 1904.00420, section 3.4): the running ones mix those of all candidates.

use anyhow::Result;
use tch::Tensor;

use crate::nn::{AverageAll, Mode, ranks};
use crate::optim::Named;

/// Scores candidates one after the other; none sees what another one left behind.
#[derive(Debug)]
pub struct SupernetEvaluator {
    statistics: Vec<Tensor>,
    batches: Vec<Tensor>,
}

impl SupernetEvaluator {
    /// Over a supernet of these `variables`, statistics and all. `batches` of images, of one size, are those that statistics
    /// are computed from; without any the supernet's own are used.
    pub fn new(variables: &[Named], batches: Vec<Tensor>) -> Self {
        let buffers = variables.iter().filter(|(_, tensor)| !tensor.requires_grad());
        Self { statistics: buffers.map(|(_, tensor)| tensor.shallow_clone()).collect(), batches }
    }

    /// Runs `forward`, one candidate on a batch of images and its number, for its statistics, and then `score`. The supernet's
    /// statistics are as before afterwards, however it ends. Ranks share the batches, and each has the statistics of all.
    pub fn evaluate<T>(&self, forward: impl Fn(usize, &Tensor, Mode), score: impl FnOnce() -> Result<T>) -> Result<T> {
        let _restore = Restore::new(&self.statistics);
        if !self.batches.is_empty() {
            let own = ranks::part_of(self.batches.len(), 1);
            let share = own.len() as f64 / self.batches.len() as f64;
            ranks::together(|| {
                ranks::apart(|| {
                    let _average = AverageAll::start();
                    tch::no_grad(|| own.for_each(|i| forward(i, &self.batches[i], Mode::train(0.0))));
                });
                Ok(())
            })?;
            let mut statistics: Vec<Tensor> = self.statistics.iter().map(Tensor::shallow_clone).collect();
            statistics.retain(|tensor| tensor.is_floating_point());
            ranks::average_of_shares(&mut statistics, share);
        }
        score()
    }
}

/// Puts tensors back to what they held.
struct Restore<'a>(Vec<(&'a Tensor, Tensor)>);

impl<'a> Restore<'a> {
    fn new(tensors: &'a [Tensor]) -> Self {
        Self(tensors.iter().map(|tensor| (tensor, tensor.copy())).collect())
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        tch::no_grad(|| self.0.iter().for_each(|(tensor, before)| tensor.shallow_clone().copy_(before)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{BatchNorm, BnConfig, Module, VarBuilder};
    use crate::train::all_variables;
    use tch::{Device, Kind, nn::VarStore};

    /// Two candidates share a norm: the input as it is, or three times it plus one.
    fn candidate(norm: &BatchNorm, which: usize, xs: &Tensor, mode: Mode) -> Tensor {
        let xs = if which == 0 { xs.shallow_clone() } else { xs * 3.0 + 1.0 };
        norm.forward(&xs, mode)
    }

    fn batch(i: i64) -> Tensor {
        (Tensor::arange(24, (Kind::Float, Device::Cpu)) * 1.7 + i).sin().view([4, 2, 3, 1]) * (1 + i)
    }

    #[test]
    fn a_score_is_the_same_alone_and_after_others_and_the_supernet_is_left_as_it_was() {
        tch::set_num_threads(1);
        let vs = VarStore::new(Device::Cpu);
        let norm = BatchNorm::new(&VarBuilder::new(&vs), 2, BnConfig::default());
        let _ = norm.forward(&batch(9), Mode::train(0.0));
        let before = all_variables(&vs).iter().map(|(_, t)| t.copy()).collect::<Vec<_>>();
        let evaluator = SupernetEvaluator::new(&all_variables(&vs), vec![batch(0), batch(1), batch(2)]);
        let score = |which: usize| {
            let ys = evaluator.evaluate(
                |_, xs, mode| _ = candidate(&norm, which, xs, mode),
                || Ok(tch::no_grad(|| candidate(&norm, which, &batch(5), Mode::EVAL))),
            );
            ys.unwrap()
        };
        let alone = [score(0), score(1)];
        for which in [1, 1, 0, 1, 0] {
            assert_eq!(score(which), alone[which]);
        }
        // Statistics of their own make the candidates equal: the second is an affine function of the first.
        assert!((&alone[0] - &alone[1]).abs().max().double_value(&[]) < 1e-3);
        for ((name, after), before) in all_variables(&vs).iter().zip(&before) {
            assert_eq!(after, before, "{name}");
        }
        let failed = evaluator.evaluate(|_, _, _| (), || -> Result<()> { anyhow::bail!("no") });
        assert!(failed.is_err());
        let momentum = norm.forward(&batch(3), Mode::train(0.0));
        drop(momentum);
        let mean = |xs: &Tensor| xs.mean_dim([0i64, 2, 3].as_slice(), false, None::<Kind>);
        let expected = &before[1] * 0.9 + mean(&batch(3)) * 0.1;
        let found = &vs.variables()["running_mean"];
        assert!((found - expected).abs().max().double_value(&[]) < 1e-6, "the momentum is the configured one again");
    }

    #[test]
    fn statistics_are_the_means_over_the_batches() {
        tch::set_num_threads(1);
        let vs = VarStore::new(Device::Cpu);
        let norm = BatchNorm::new(&VarBuilder::new(&vs), 2, BnConfig::default());
        let batches: Vec<Tensor> = (0..3).map(batch).collect();
        let mean = |xs: &Tensor| xs.mean_dim([0i64, 2, 3].as_slice(), false, None::<Kind>);
        let expected = Tensor::stack(&batches.iter().map(mean).collect::<Vec<_>>(), 0);
        let expected = expected.mean_dim([0i64].as_slice(), false, None::<Kind>);
        let evaluator = SupernetEvaluator::new(&all_variables(&vs), batches);
        let forward = |_, xs: &Tensor, mode| _ = norm.forward(xs, mode);
        let found = evaluator.evaluate(forward, || Ok(vs.variables()["running_mean"].copy())).unwrap();
        assert!((found - expected).abs().max().double_value(&[]) < 1e-6);
    }
}
