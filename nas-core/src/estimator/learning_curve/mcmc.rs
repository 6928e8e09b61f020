//! The paper's extrapolation: the posterior of a weighted sum of all families with normal noise, drawn by the
//! affine-invariant ensemble sampler (Goodman and Weare 2010).
//!
//! Unlike the paper's, the prior of the weights is logistic-normal and wide. A flat one all but rules out that a single
//! family is right, and its intervals are too narrow: of 90 % intervals, 76 % held the truth, against 92 % here (66 noisy
//! curves of the families, 8 to 20 epochs of 50).

use rand_chacha::ChaCha8Rng;

use super::families::{Epoch, Family, MAX_PARAMS, Params};
use super::fit::{Data, fit};
use super::least_squares::{Laplace, PRIOR_COUNT, PRIOR_NOISE, level, rising};
use super::prediction::Prediction;
use super::{normal, uniform};

/// Draws that a prediction is made of.
const MAX_COMPONENTS: usize = 2000;
/// Bounds of the noise's standard deviation.
const NOISE: (f64, f64) = (1e-3, 0.5);
/// Standard deviation of the logarithm of a raw weight: one family, or a few, make up most of the sum.
const WEIGHTS: f64 = 4.0;
/// A sum that falls by less counts as level.
const LEVEL: f64 = 1e-6;
/// The stretch move's largest factor, Goodman and Weare's.
const STRETCH: f64 = 2.0;

/// Walkers, kept steps and dropped steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Length {
    pub walkers: usize,
    pub samples: usize,
    pub burn_in: usize,
}

pub(super) fn predict(
    curve: &[f64],
    at: usize,
    recency: f64,
    monotone: bool,
    length: Length,
    rng: &mut ChaCha8Rng,
) -> Prediction {
    let sum = WeightedSum { data: Data::new(curve, recency), at: Epoch::new(at as f64), monotone };
    let mut ensemble = Ensemble::new(sum.starts(at, length.walkers, rng), |xs| sum.log_posterior(xs));
    (0..length.burn_in).for_each(|_| ensemble.step(rng));
    let stride = length.samples.saturating_mul(length.walkers).div_ceil(MAX_COMPONENTS);
    let mut draws = Vec::new();
    for step in 1..=length.samples {
        ensemble.step(rng);
        if step % stride == 0 || step == length.samples {
            draws.extend(ensemble.walkers.iter().map(|xs| (1.0, sum_at(sum.at, &parts_of(xs)), noise_of(xs))));
        }
    }
    Prediction::new(draws)
}

/// The model. A point holds the parameters of every family, the logarithms of their raw weights and that of the noise.
struct WeightedSum<'a> {
    data: Data<'a>,
    at: Epoch,
    monotone: bool,
}

/// Families with their weights, which sum to 1.
type Parts = [(f64, Params); Family::ALL.len()];

/// Where the logarithms of the raw weights lie in a point.
fn weights_of(xs: &[f64]) -> &[f64] {
    &xs[xs.len() - 1 - Family::ALL.len()..xs.len() - 1]
}

fn parts_of(xs: &[f64]) -> Parts {
    let mut parts = Parts::default();
    let (mut start, mut total) = (0, 0.0);
    for ((family, weight), part) in Family::ALL.iter().zip(weights_of(xs)).zip(&mut parts) {
        let end = start + family.num_params();
        part.0 = weight.exp();
        part.1[..end - start].copy_from_slice(&xs[start..end]);
        (start, total) = (end, total + part.0);
    }
    parts.iter_mut().for_each(|part| part.0 /= total);
    parts
}

fn noise_of(xs: &[f64]) -> f64 {
    xs[xs.len() - 1].exp()
}

fn sum_at(epoch: Epoch, parts: &Parts) -> f64 {
    Family::ALL.iter().zip(parts).map(|(family, (weight, params))| weight * family.at(epoch, params)).sum()
}

impl WeightedSum<'_> {
    /// Up to a constant. The prior is flat over the bounds of the parameters and over the noise's logarithm, but for the
    /// pseudo-residuals that least squares knows as well.
    fn log_posterior(&self, xs: &[f64]) -> f64 {
        let bounds = Family::ALL.iter().flat_map(|family| family.params());
        let (weights, noise) = (weights_of(xs), noise_of(xs));
        let inside = bounds.zip(xs).all(|(&(_, low, high), x)| (low..=high).contains(x));
        if !inside || weights.iter().any(|weight| weight.abs() > 50.0) || !(NOISE.0..=NOISE.1).contains(&noise) {
            return f64::NEG_INFINITY;
        }
        let parts = parts_of(xs);
        let Data { epochs, ys, weights: heavy } = &self.data;
        let (first, last, end) = (epochs[0], epochs[epochs.len() - 1], sum_at(self.at, &parts));
        let falls = || sum_at(first, &parts) > sum_at(last, &parts) + LEVEL || sum_at(last, &parts) > end + LEVEL;
        if !(0.0..=1.0).contains(&end) || (self.monotone && falls()) {
            return f64::NEG_INFINITY;
        }
        let residuals = epochs.iter().zip(*ys).map(|(&epoch, y)| sum_at(epoch, &parts) - y);
        let squares: f64 = residuals.zip(heavy).map(|(r, w)| w * r * r).sum();
        let (count, squares) = (ys.len() as f64 + PRIOR_COUNT, squares + PRIOR_COUNT * PRIOR_NOISE.powi(2));
        let weights: f64 = weights.iter().map(|x| (x / WEIGHTS).powi(2)).sum();
        -weights / 2.0 - count * noise.ln() - squares / (2.0 * noise * noise)
    }

    /// Walkers around the least-squares fits, as wide as these leave the parameters open.
    fn starts(&self, at: usize, walkers: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
        let data = &self.data;
        let allowed = |family| {
            let fit = rising(fit(family, data), data, at, self.monotone);
            let inside = (0.0..=1.0).contains(&family.at(self.at, &fit.params));
            Laplace::new(if inside { fit } else { level(fit, data) }, data)
        };
        let fits: Vec<Laplace> = Family::ALL.into_iter().map(allowed).collect();
        let best = fits.iter().map(|fit| fit.log_evidence).fold(f64::NEG_INFINITY, f64::max);
        let mut start = |width: f64| {
            let mut xs = Vec::new();
            for fit in &fits {
                let params: Params = fit.draw([(); MAX_PARAMS].map(|()| width * normal(rng)));
                xs.extend_from_slice(&params[..fit.fit.family.num_params()]);
            }
            let weight = |fit: &Laplace| 0.02 + (fit.log_evidence - best).exp();
            xs.extend(fits.iter().map(|fit| weight(fit).ln() + normal(rng)));
            let noise: f64 =
                fits.iter().map(|fit| fit.noise * weight(fit)).sum::<f64>() / fits.iter().map(weight).sum::<f64>();
            xs.push((noise.clamp(NOISE.0, NOISE.1).ln() + 0.1 * normal(rng)).clamp(NOISE.0.ln(), NOISE.1.ln()));
            xs
        };
        // Draws that the prior forbids are made again, closer to the fits, which it allows.
        let mut walker = || {
            let draws = (0..100).map(|attempt| 0.97f64.powi(attempt)).map(&mut start);
            let found = draws.take(100).find(|xs| self.log_posterior(xs).is_finite());
            found.unwrap_or_else(|| start(0.0))
        };
        (0..walkers).map(|_| walker()).collect()
    }
}

/// Walkers and the logarithm of the density at each.
struct Ensemble<F> {
    walkers: Vec<Vec<f64>>,
    log_density: Vec<f64>,
    density: F,
}

impl<F: Fn(&[f64]) -> f64> Ensemble<F> {
    fn new(walkers: Vec<Vec<f64>>, density: F) -> Self {
        Self { log_density: walkers.iter().map(|xs| density(xs)).collect(), walkers, density }
    }

    /// Moves each walker of one half along the line through one of the other half, then the other half.
    fn step(&mut self, rng: &mut ChaCha8Rng) {
        let half = self.walkers.len() / 2;
        for i in 0..2 * half {
            let other = (uniform(rng) * half as f64) as usize + if i < half { half } else { 0 };
            // Density proportional to 1/sqrt(z) over 1/STRETCH..STRETCH.
            let z = ((STRETCH - 1.0) * uniform(rng) + 1.0).powi(2) / STRETCH;
            let stretched: Vec<f64> = self.walkers[other]
                .iter()
                .zip(&self.walkers[i])
                .map(|(fixed, own)| fixed + z * (own - fixed))
                .collect();
            let log_density = (self.density)(&stretched);
            let log_ratio = (stretched.len() - 1) as f64 * z.ln() + log_density - self.log_density[i];
            if uniform(rng).ln() < log_ratio {
                (self.walkers[i], self.log_density[i]) = (stretched, log_density);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nas_datasets::rng::stream;

    use super::*;

    #[test]
    fn the_ensemble_draws_from_a_correlated_normal_distribution() {
        // Precision [[2, -1], [-1, 1]]: covariance [[1, 1], [1, 2]]; means 3 and -1.
        let density = |xs: &[f64]| {
            let (x, y) = (xs[0] - 3.0, xs[1] + 1.0);
            -0.5 * (2.0 * x * x - 2.0 * x * y + y * y)
        };
        let mut rng = stream(3, "ensemble", 0);
        let walkers = (0..40).map(|_| vec![normal(&mut rng), normal(&mut rng)]).collect();
        let mut ensemble = Ensemble::new(walkers, density);
        (0..500).for_each(|_| ensemble.step(&mut rng));
        let mut draws = Vec::new();
        for _ in 0..5000 {
            ensemble.step(&mut rng);
            draws.extend(ensemble.walkers.iter().map(|xs| (xs[0] - 3.0, xs[1] + 1.0)));
        }
        let mean = |f: &dyn Fn(&(f64, f64)) -> f64| draws.iter().map(f).sum::<f64>() / draws.len() as f64;
        for (found, expected) in [
            (mean(&|d| d.0), 0.0),
            (mean(&|d| d.1), 0.0),
            (mean(&|d| d.0 * d.0), 1.0),
            (mean(&|d| d.0 * d.1), 1.0),
            (mean(&|d| d.1 * d.1), 2.0),
        ] {
            assert!((found - expected).abs() < 0.05, "{found} {expected}");
        }
    }
}
