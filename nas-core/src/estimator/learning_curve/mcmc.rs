//! The paper's extrapolation: the posterior of a weighted sum of all families with normal noise, drawn by the
//! affine-invariant ensemble sampler (Goodman and Weare 2010).

use rand_chacha::ChaCha8Rng;

use super::families::{Epoch, Family, MAX_PARAMS, Params};
use super::fit::{Data, fit};
use super::least_squares::{Laplace, PRIOR_COUNT, PRIOR_NOISE, rising};
use super::prediction::Prediction;
use super::{normal, uniform};

/// Draws that a prediction is made of.
const MAX_COMPONENTS: usize = 2000;
/// Bounds of the noise's standard deviation.
const NOISE: (f64, f64) = (1e-3, 0.5);
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
    let stride = (length.samples * length.walkers).div_ceil(MAX_COMPONENTS);
    let mut draws = Vec::new();
    for step in 1..=length.samples {
        ensemble.step(rng);
        if step % stride == 0 || step == length.samples {
            draws.extend(ensemble.walkers.iter().map(|xs| (1.0, sum.value(sum.at, xs), sum.noise(xs))));
        }
    }
    Prediction::new(draws)
}

/// The model. A point holds the parameters of every family, a raw weight for each, and the logarithm of the noise.
struct WeightedSum<'a> {
    data: Data<'a>,
    at: Epoch,
    monotone: bool,
}

impl WeightedSum<'_> {
    fn value(&self, epoch: Epoch, xs: &[f64]) -> f64 {
        let (mut params, weights) = xs.split_at(xs.len() - Family::ALL.len() - 1);
        let (mut sum, mut total) = (0.0, 0.0);
        for (family, weight) in Family::ALL.into_iter().zip(weights) {
            let (own, rest) = params.split_at(family.num_params());
            let mut padded = [0.0; MAX_PARAMS];
            padded[..own.len()].copy_from_slice(own);
            sum += weight * family.at(epoch, &padded);
            total += weight;
            params = rest;
        }
        sum / total
    }

    fn noise(&self, xs: &[f64]) -> f64 {
        xs[xs.len() - 1].exp()
    }

    /// Up to a constant: flat over the bounds of the parameters, over the simplex of the weights (raw weights are
    /// exponential) and over the noise's logarithm, but for the pseudo-residuals that least squares knows as well.
    fn log_posterior(&self, xs: &[f64]) -> f64 {
        let bounds = Family::ALL.iter().flat_map(|family| family.params());
        let weights = &xs[xs.len() - Family::ALL.len() - 1..xs.len() - 1];
        let inside = bounds.zip(xs).all(|(&(_, low, high), x)| (low..=high).contains(x));
        let noise = self.noise(xs);
        if !inside || weights.iter().any(|&weight| weight <= 0.0) || !(NOISE.0..=NOISE.1).contains(&noise) {
            return f64::NEG_INFINITY;
        }
        let end = self.value(self.at, xs);
        if !(0.0..=1.0).contains(&end) {
            return f64::NEG_INFINITY;
        }
        let Data { epochs, ys, weights: heavy } = &self.data;
        let values: Vec<f64> = epochs.iter().map(|&epoch| self.value(epoch, xs)).collect();
        let (first, last) = (values[0], values[values.len() - 1]);
        if self.monotone && (first > last + LEVEL || last > end + LEVEL) {
            return f64::NEG_INFINITY;
        }
        let squares: f64 = values.iter().zip(*ys).zip(heavy).map(|((v, y), w)| w * (v - y).powi(2)).sum();
        let count = ys.len() as f64 + PRIOR_COUNT;
        let squares = squares + PRIOR_COUNT * PRIOR_NOISE.powi(2);
        -weights.iter().sum::<f64>() - count * noise.ln() - squares / (2.0 * noise * noise)
    }

    /// Walkers around the least-squares fits, as wide as these leave the parameters open.
    fn starts(&self, at: usize, walkers: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
        let data = &self.data;
        let fits: Vec<Laplace> = Family::ALL
            .iter()
            .map(|&family| Laplace::new(rising(fit(family, data), data, at, self.monotone), data))
            .collect();
        let best = fits.iter().map(|fit| fit.log_evidence).fold(f64::NEG_INFINITY, f64::max);
        let mut start = |width: f64| {
            let mut xs = Vec::new();
            for fit in &fits {
                let params: Params = fit.draw([(); MAX_PARAMS].map(|()| width * normal(rng)));
                xs.extend_from_slice(&params[..fit.fit.family.num_params()]);
            }
            let weight = |fit: &Laplace| 0.02 + (fit.log_evidence - best).exp();
            xs.extend(fits.iter().map(|fit| weight(fit) * (1e-6 - (1.0 - uniform(rng)).ln())));
            let noise: f64 =
                fits.iter().map(|fit| fit.noise * weight(fit)).sum::<f64>() / fits.iter().map(weight).sum::<f64>();
            xs.push((noise.clamp(NOISE.0, NOISE.1).ln() + 0.1 * normal(rng)).clamp(NOISE.0.ln(), NOISE.1.ln()));
            xs
        };
        // Draws that the prior forbids are made again, closer to the fits; the fits themselves end the search.
        let mut allowed = || {
            let draws = (0..100).map(|attempt| 0.97f64.powi(attempt)).map(&mut start);
            let found = draws.take(100).find(|xs| self.log_posterior(xs).is_finite());
            found.unwrap_or_else(|| start(0.0))
        };
        (0..walkers).map(|_| allowed()).collect()
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
            // A walker that starts where the density is 0 takes any move to where it is not.
            if uniform(rng).ln() < log_ratio && log_density > f64::NEG_INFINITY {
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
