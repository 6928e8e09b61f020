//! The cheap extrapolation: every family by least squares, each with Laplace's approximation of its posterior.

use std::f64::consts::TAU;

use super::families::{Epoch, Family};
use super::fit::{Cholesky, Data, Fit, fit};
use super::prediction::Prediction;

/// The prior of the noise: as if `PRIOR_COUNT` residuals of size `PRIOR_NOISE` had been seen.
pub(super) const PRIOR_NOISE: f64 = 0.01;
pub(super) const PRIOR_COUNT: f64 = 1.0;

/// No value of a fraction is further than this from its expectation.
const MAX_SPREAD: f64 = 0.5;

pub(super) fn predict(curve: &[f64], at: usize, recency: f64, monotone: bool) -> Prediction {
    let data = Data::new(curve, recency);
    let parts: Vec<Laplace> = Family::ALL
        .iter()
        .map(|&family| Laplace::new(rising(fit(family, &data), &data, at, monotone), &data))
        .collect();
    let best = parts.iter().map(|part| part.log_evidence).fold(f64::NEG_INFINITY, f64::max);
    let epoch = Epoch::new(at as f64);
    Prediction::new(parts.iter().map(|part| {
        let (mean, spread) = part.at(epoch);
        ((part.log_evidence - best).exp(), mean, spread.hypot(part.noise))
    }))
}

/// The fit, or the level curve where a falling one is not wanted.
pub(super) fn rising(fit: Fit, data: &Data, at: usize, monotone: bool) -> Fit {
    let n = data.ys.len();
    let value = |t: usize| fit.family.value(t as f64, &fit.params);
    if !monotone || (value(1) <= value(n) && value(n) <= value(at)) {
        return fit;
    }
    level(fit, data)
}

/// The level curve through the mean, in place of a fit.
pub(super) fn level(fit: Fit, data: &Data) -> Fit {
    let mean = data.ys.iter().zip(&data.weights).map(|(y, w)| y * w).sum::<f64>() / data.ys.len() as f64;
    let params = fit.family.flat(mean);
    Fit { params, error: data.error(fit.family, &params), ..fit }
}

/// A normal approximation of the posterior around a fit, under a flat prior within the bounds.
#[derive(Debug)]
pub(super) struct Laplace {
    pub fit: Fit,
    /// Standard deviation of the residuals.
    pub noise: f64,
    pub log_evidence: f64,
    factor: Cholesky,
}

impl Laplace {
    pub fn new(fit: Fit, data: &Data) -> Self {
        let (n, k) = (data.ys.len() as f64, fit.family.num_params() as f64);
        let squares = fit.error + PRIOR_COUNT * PRIOR_NOISE.powi(2);
        let variance = squares / ((n - k).max(0.0) + PRIOR_COUNT);
        let (mut precision, _) = data.normal_equations(fit.family, &fit.params);
        precision.iter_mut().flatten().for_each(|entry| *entry /= variance);
        // A normal prior with the density 1/range at its middle: a parameter of which the curve says nothing then
        // leaves the evidence as it is.
        let ranges = fit.family.params().iter().map(|&(_, low, high)| high - low);
        let mut log_ranges = 0.0;
        for (i, range) in ranges.enumerate() {
            precision[i][i] += TAU / (range * range);
            log_ranges += range.ln();
        }
        let factor = Cholesky::new(&precision, (0..fit.family.num_params()).collect());
        let factor = factor.expect("a positive definite matrix was added");
        let log_volume = k / 2.0 * TAU.ln() - factor.log_det() / 2.0 - log_ranges;
        let log_evidence = log_volume - (n + PRIOR_COUNT) / 2.0 * squares.ln();
        Self { fit, noise: variance.sqrt(), log_evidence, factor }
    }

    /// Expected value at an epoch, and the deviation of the expectation by what is unknown of the parameters.
    fn at(&self, epoch: Epoch) -> (f64, f64) {
        let (value, gradient) = self.fit.family.gradient_at(epoch, &self.fit.params);
        (value, self.factor.inverse_form(&gradient).sqrt().min(MAX_SPREAD))
    }

    /// Parameters drawn from the approximation, within the bounds; `normal` are independent standard normal values.
    pub fn draw(&self, normal: [f64; super::MAX_PARAMS]) -> super::Params {
        let mut params = self.fit.params;
        params.iter_mut().zip(self.factor.solve_transposed(normal)).for_each(|(p, by)| *p += by);
        self.fit.family.clamp(params)
    }
}
