//! Several batch norms as one operator. The statistics that it takes go to a tensor of their own, from which few operators move
//! the running ones of all norms.

use std::sync::atomic::Ordering;

use tch::{Device, Kind, Tensor};

use super::{BatchNorm, SYNCHRONISED, normalised};
use crate::nn::{Activation, Mode, probe, ranks, torch};

/// Running statistics that are to move, until [`Moves::apply`].
#[derive(Debug, Default)]
pub struct Moves {
    /// Statistics of batches `[2, channels]`, of which the first `taken` channels are in use.
    batches: Option<Tensor>,
    taken: i64,
    /// By the number of the source.
    rounds: Vec<Vec<Move>>,
}

/// Channels that are made room for at once.
const ROOM: i64 = 1 << 16;

#[derive(Debug)]
struct Move {
    running: [Tensor; 2],
    batch: [Tensor; 2],
    momentum: f64,
}

impl Moves {
    /// Mean and variance of `channels`, zero.
    fn take(&mut self, channels: i64, (kind, device): (Kind, Device)) -> [Tensor; 2] {
        let fits = |batches: &Tensor| batches.kind() == kind && self.taken + channels <= batches.size()[1];
        if !self.batches.as_ref().is_some_and(fits) {
            (self.batches, self.taken) = (Some(Tensor::zeros([2, ROOM.max(channels)], (kind, device))), 0);
        }
        let batches = self.batches.as_ref().expect("room was made");
        let part = batches.narrow(1, self.taken, channels);
        self.taken += channels;
        [0, 1].map(|i| part.get(i))
    }

    /// `norms` move by what `batch` will be, the statistics of all of them for one source after the other.
    fn push(&mut self, norms: &[&BatchNorm], sources: i64, batch: &[Tensor; 2]) {
        let mut start = 0;
        for source in 0..sources as usize {
            self.rounds.resize_with(self.rounds.len().max(source + 1), Vec::new);
            for norm in norms {
                let batch = batch.each_ref().map(|batch| batch.narrow(0, start, norm.channels));
                start += norm.channels;
                self.rounds[source].push(norm.moved_by(batch));
            }
        }
    }

    /// `norm` moves as `other` does, which has seen the same map.
    pub fn alike(&mut self, norm: &BatchNorm, other: &BatchNorm) {
        for round in &mut self.rounds {
            let found = round.iter().rfind(|step| step.running[0].data_ptr() == other.running_mean.data_ptr());
            if let Some(batch) = found.map(|step| step.batch.each_ref().map(Tensor::shallow_clone)) {
                round.push(norm.moved_by(batch));
            }
        }
    }

    /// Moves them, those of one norm in the order of its sources.
    pub fn apply(self) {
        for mut round in self.rounds {
            while let Some(first) = round.first() {
                let momentum = first.momentum;
                let (now, later) = round.into_iter().partition(|step| step.momentum == momentum);
                round = later;
                let now: Vec<Move> = now;
                let running: Vec<&Tensor> = now.iter().flat_map(|step| &step.running).collect();
                let batch: Vec<&Tensor> = now.iter().flat_map(|step| &step.batch).collect();
                torch::average(&running, &batch, 1.0 - momentum);
            }
        }
    }
}

/// What [`BatchNorm::mixed`] sums up, for the edges that leave one state of a relaxed cell: maps `[B, C, H, W * sources]`, the pixels of
/// all sources in turns, of which the first have the channels of one edge and count for all, the others those of all edges.
#[derive(Clone, Copy, Debug)]
pub struct MixedNorms<'a> {
    /// How many maps are of all edges.
    pub shared: usize,
    /// One more of all edges, without a norm.
    pub identity: Option<&'a Tensor>,
    /// Shares of the maps of all edges, the identity last: `[edges, maps]`.
    pub weights: &'a Tensor,
    /// Of all norms, for one source after the other.
    pub scale: &'a Tensor,
    /// What the edges have already, `[edges, B, H, W * sources, C]`: the form of the result.
    pub before: Option<&'a Tensor>,
    /// How many take turns.
    pub sources: i64,
}

impl BatchNorm {
    fn moved_by(&self, batch: [Tensor; 2]) -> Move {
        let running = [&self.running_mean, &self.running_var].map(Tensor::shallow_clone);
        Move { running, batch, momentum: self.next_momentum() }
    }

    /// Whether [`BatchNorm::joint`] is one operator: neither other ranks nor probes ask for the norms apart.
    pub fn is_joint(mode: Mode) -> bool {
        let together = mode.train && ranks::are_several() && SYNCHRONISED.load(Ordering::Relaxed);
        !together && probe::is_off()
    }

    /// The norms of maps that lie side by side in the channels of `xs` `[B, C, H, W]`, first those of one source, then those of the
    /// next: what each norm gives for one source after the other, times `scale` `[C]`. Its running statistics move by `moves`.
    pub fn joint(
        norms: &[&BatchNorm],
        xs: &Tensor,
        scale: Option<&Tensor>,
        activation: Activation,
        mode: Mode,
        moves: &mut Moves,
    ) -> Tensor {
        let all = xs.size()[1];
        let sources = all / norms.iter().map(|norm| norm.channels).sum::<i64>();
        if let ([norm], 1) = (norms, sources) {
            return norm.forward_activated(xs, scale, activation, mode);
        }
        let eps = norms[0].config.eps;
        let alike = norms.iter().all(|norm| !norm.config.affine && norm.config.eps == eps);
        if !alike || !Self::is_joint(mode) {
            return Self::one_by_one(norms, xs, scale, activation, mode);
        }
        let train = mode.train && xs.numel() as i64 > all;
        let [mean, var] = match train {
            true => {
                let running = &norms[0].running_mean;
                let batch = moves.take(all, (running.kind(), running.device()));
                moves.push(norms, sources, &batch);
                batch
            }
            false => {
                let each = || norms.iter().cycle().take(norms.len() * sources as usize);
                let of = |running: fn(&BatchNorm) -> &Tensor| {
                    Tensor::cat(&each().map(|norm| running(norm)).collect::<Vec<_>>(), 0)
                };
                [of(|norm| &norm.running_mean), of(|norm| &norm.running_var)]
            }
        };
        let running = Some((&mean, &var));
        let step = torch::NormStep { weight: scale, bias: None, running, train, momentum: 1.0, eps };
        normalised(xs, step, activation)
    }

    /// The norms of `maps` and their weighted sum in one operator, which reads the maps where they are: to be tried before
    /// [`BatchNorm::joint`] of what lies side by side and sums of its parts. `norms` are those of the maps in their order, alike. None
    /// where it does not serve: elsewhere than in training on the CPU, for other numbers than floats.
    pub fn mixed(
        norms: &[&BatchNorm],
        maps: &[&Tensor],
        of: &MixedNorms,
        mode: Mode,
        moves: &mut Moves,
    ) -> Option<Tensor> {
        let running = &norms[0].running_mean;
        let eps = norms[0].config.eps;
        debug_assert!(norms.iter().all(|norm| !norm.config.affine && norm.config.eps == eps));
        let options = (running.kind(), running.device());
        if !mode.train || options != (Kind::Float, Device::Cpu) || !Self::is_joint(mode) {
            return None;
        }
        let batch = moves.take(of.scale.size()[0], options);
        let ys = torch::mixed_norms(maps, of, batch.each_ref(), eps)?;
        moves.push(norms, of.sources, &batch);
        Some(ys)
    }

    /// [`BatchNorm::joint`] in its plain form.
    fn one_by_one(
        norms: &[&BatchNorm],
        xs: &Tensor,
        scale: Option<&Tensor>,
        activation: Activation,
        mode: Mode,
    ) -> Tensor {
        if probe::is_linear() {
            return activation.apply_(scale.map_or_else(|| xs.shallow_clone(), |scale| xs * scale.view([-1, 1, 1])));
        }
        let channels: i64 = norms.iter().map(|norm| norm.channels).sum();
        let each = || norms.iter().cycle().take(norms.len() * (xs.size()[1] / channels) as usize);
        let sizes: Vec<i64> = each().map(|norm| norm.channels).collect();
        let scales = scale.map(|scale| scale.split_with_sizes(&sizes, 0));
        let parts = xs.split_with_sizes(&sizes, 1).into_iter().zip(each()).enumerate();
        let normed = parts.map(|(i, (xs, norm))| {
            norm.forward_activated(&xs, scales.as_ref().map(|scales| &scales[i]), activation, mode)
        });
        Tensor::cat(&normed.collect::<Vec<_>>(), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{AverageAll, BnConfig, VarBuilder, channels_last};
    use tch::nn::VarStore;

    /// Outputs, gradients and running statistics of two passes of two norms over `sources`, jointly or in the plain form.
    fn passed(sources: i64, kind: Kind, mode: Mode, average: bool, jointly: bool) -> Vec<Tensor> {
        tch::manual_seed(8);
        let mut vs = VarStore::new(Device::Cpu);
        let config = BnConfig { affine: false, ..Default::default() };
        let vb = VarBuilder::new(&vs);
        let norms = [3, 5].map(|channels| BatchNorm::new(&vb.sub(channels), channels, config));
        vs.set_kind(kind);
        let _average = average.then(AverageAll::start);
        let norms = norms.each_ref();
        let mut found = Vec::new();
        for pass in 0..2 {
            let random = |dims: &[i64]| Tensor::randn(dims, (Kind::Double, Device::Cpu)).to_kind(kind);
            let shift = random(&[8 * sources, 1, 1]) * 3.0 + pass as f64;
            let xs = channels_last(&(random(&[2, 8 * sources, 5, 3]) + shift)).set_requires_grad(true);
            let (scale, up) = (random(&[8 * sources]).set_requires_grad(true), random(&xs.size()));
            let ys = match jointly {
                true => {
                    let mut moves = Moves::default();
                    let ys = BatchNorm::joint(&norms, &xs, Some(&scale), Activation::Relu, mode, &mut moves);
                    moves.apply();
                    ys
                }
                false => BatchNorm::one_by_one(&norms, &xs, Some(&scale), Activation::Relu, mode),
            };
            found.extend(Tensor::run_backward(&[(&ys * up).sum(None::<Kind>)], &[&xs, &scale], false, false));
            found.push(ys.detach());
        }
        let running = norms.iter().flat_map(|norm| [&norm.running_mean, &norm.running_var]);
        found.extend(running.map(Tensor::shallow_clone));
        found
    }

    #[test]
    fn norms_jointly_are_one_after_the_other() {
        for (sources, kind, tolerance) in [(1, Kind::Double, 1e-10), (3, Kind::Double, 1e-10), (3, Kind::Float, 1e-4)] {
            for (mode, average) in [(Mode::train(0.0), false), (Mode::train(0.0), true), (Mode::EVAL, false)] {
                let [found, expected] = [true, false].map(|jointly| passed(sources, kind, mode, average, jointly));
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let close = found.allclose(expected, tolerance, tolerance, false);
                    assert!(close, "{sources} sources, {kind:?}, train {}, average {average}: {i}", mode.train);
                }
                let moved = found[6].abs().max().double_value(&[]) > 0.1;
                assert_eq!(moved, mode.train, "the running mean moves in training only");
            }
        }
    }

    /// Maps of two sources of `[2, height, 3]` pixels: `shared` ones and then `own` ones, the last of whose norms come in two parts.
    fn mixed(
        kind: Kind,
        (height, edges, width, shared, own, identity): (i64, i64, i64, usize, usize, bool),
        twice: bool,
    ) -> Vec<Tensor> {
        tch::manual_seed(9);
        let mut vs = VarStore::new(Device::Cpu);
        let config = BnConfig { affine: false, ..Default::default() };
        let vb = VarBuilder::new(&vs);
        let of_map = |k: usize| match k {
            _ if k < shared => vec![width],
            _ if k + 1 < shared + own => vec![edges * width],
            _ => vec![edges * width - 1, 1],
        };
        let norms = (0..shared + own).map(|k| {
            let norm = |(i, channels)| BatchNorm::new(&vb.sub(k).sub(i), channels, config);
            of_map(k).into_iter().enumerate().map(norm).collect::<Vec<_>>()
        });
        let norms: Vec<Vec<BatchNorm>> = norms.collect();
        vs.set_kind(kind);
        let random = |dims: &[i64]| Tensor::randn(dims, (Kind::Double, Device::Cpu)).to_kind(kind);
        let leaf = |xs: Tensor| xs.set_requires_grad(true);
        let input = |channels: i64| leaf(channels_last(&(random(&[2, channels, height, 6]) * 2.0 + 1.0)));
        let maps: Vec<Tensor> = (0..shared + own).map(|k| input(of_map(k).iter().sum())).collect();
        let xs = input(width);
        let all: i64 = (0..shared + own).flat_map(of_map).sum();
        let (weights, scale) =
            (leaf(random(&[edges, (shared + usize::from(identity)) as i64])), leaf(random(&[2 * all])));
        let before = leaf(random(&[edges, 2, height, 6, width]));
        let mut moves = Moves::default();
        let ys = match kind {
            Kind::Float => {
                let identity = identity.then_some(&xs);
                let of = MixedNorms {
                    shared,
                    identity,
                    weights: &weights,
                    scale: &scale,
                    before: Some(&before),
                    sources: 2,
                };
                let norms: Vec<&BatchNorm> = norms.iter().flatten().collect();
                let maps: Vec<&Tensor> = maps.iter().collect();
                let ys = BatchNorm::mixed(&norms, &maps, &of, Mode::train(0.0), &mut moves).expect("it serves");
                moves.apply();
                ys
            }
            // One source, one map, one norm after the other.
            _ => {
                let source = |source: i64| {
                    let of_source = |map: &Tensor| map.slice(3, source, None, 2);
                    let scales = scale.narrow(0, source * all, all);
                    let mut start = 0;
                    let mut total = Tensor::zeros([edges, 2, height, 3, width], (kind, Device::Cpu));
                    for (k, norms) in norms.iter().enumerate() {
                        let channels: Vec<i64> = norms.iter().map(|norm| norm.channels).collect();
                        let parts = of_source(&maps[k]).split_with_sizes(&channels, 1).into_iter().zip(norms);
                        let parts = parts.map(|(part, norm)| {
                            let scale = scales.narrow(0, start, norm.channels);
                            start += norm.channels;
                            norm.forward_scaled(&part, Some(&scale), Mode::train(0.0))
                        });
                        let normed = Tensor::cat(&parts.collect::<Vec<_>>(), 1).permute([0, 2, 3, 1]);
                        let by_edge = normed.reshape([2, height, 3, -1, width]).permute([3, 0, 1, 2, 4]);
                        total += match k < shared {
                            true => by_edge * weights.select(1, k as i64).view([-1, 1, 1, 1, 1]),
                            false => by_edge,
                        };
                    }
                    if identity {
                        let share = weights.select(1, shared as i64).view([-1, 1, 1, 1, 1]);
                        total += of_source(&xs).permute([0, 2, 3, 1]).unsqueeze(0) * share;
                    }
                    total
                };
                &before + Tensor::stack(&[source(0), source(1)], 4).view([edges, 2, height, 6, width])
            }
        };
        let up = random(&ys.size());
        let inputs: Vec<&Tensor> = maps.iter().chain([&xs, &weights, &scale, &before]).collect();
        let inputs: Vec<&Tensor> =
            inputs.into_iter().filter(|input| input.numel() > 0 && (identity || !std::ptr::eq(*input, &xs))).collect();
        let mut found = Tensor::run_backward(&[(&ys * up).sum(None::<Kind>)], &inputs, twice, twice);
        if twice {
            // The gradients of what is linear do not depend on what was before.
            let norm: Tensor = found.iter().map(|grad| grad.square().sum(None::<Kind>)).sum();
            found = Tensor::run_backward(&[norm], &inputs[..inputs.len() - 1], false, false);
        }
        found.push(ys.detach());
        let running = norms.iter().flatten().flat_map(|norm| [&norm.running_mean, &norm.running_var]);
        found.extend(running.map(Tensor::shallow_clone));
        found
    }

    #[test]
    fn a_mixture_is_the_sum_of_its_norms_one_after_the_other() {
        let threads = tch::get_num_threads();
        for sizes in [
            (5, 3, 8, 2, 4, true),
            (200, 3, 8, 2, 4, true),
            (5, 2, 11, 2, 1, true),
            (5, 1, 5, 0, 3, true),
            (5, 2, 16, 1, 2, false),
            (5, 1, 9, 0, 2, false),
        ] {
            for twice in [false, true] {
                let [found, alone, expected] =
                    [(Kind::Float, 2), (Kind::Float, 1), (Kind::Double, 2)].map(|(kind, threads)| {
                        tch::set_num_threads(threads);
                        mixed(kind, sizes, twice)
                    });
                tch::set_num_threads(threads);
                assert_eq!(found.len(), expected.len());
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let error = (found.to_kind(Kind::Double) - expected).norm().double_value(&[]);
                    let error = error / expected.norm().double_value(&[]).max(1e-3);
                    assert!(error < 2e-5, "{sizes:?}, derived twice: {twice}, {i}: off by {error:.1e}");
                    // What is derived twice is libtorch's, whose sums hang on the number of threads.
                    assert!(twice || found == &alone[i], "{sizes:?}, {i}: threads");
                }
            }
        }
    }
}
