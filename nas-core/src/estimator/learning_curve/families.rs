//! The eleven curve families of Domhan, Springenberg and Hutter 2015 (table 1), with bounds, gradients and starts.
//!
//! A scale that the paper writes as a factor is stored as its logarithm (`log_kappa` for κ), which makes bounds over
//! several decades and a flat prior sensible. `t` is the epoch, counted from 1.

use serde::{Deserialize, Serialize};

/// Most parameters that a family has; unused ones are 0.
pub const MAX_PARAMS: usize = 4;

/// The parameters of one curve.
pub type Params = [f64; MAX_PARAMS];

/// A parametric form of a learning curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `exp(a + b/t + c ln t)`.
    VaporPressure,
    /// `c - a t^-α`.
    Pow3,
    /// `ln(a ln t + b)`.
    LoglogLinear,
    /// `ymax t^η / (κ^η + t^η)`.
    Hill3,
    /// `a / (1 + (t / e^b)^c)`.
    LogPower,
    /// `c - (a t + b)^-α`.
    Pow4,
    /// `α - (α - β) / (1 + (κ t)^δ)`, Morgan, Mercer and Flodin's.
    Mmf,
    /// `c - exp(-a t^α + b)`.
    Exp4,
    /// `α - (α - β) exp(-κ t^δ)`.
    Janoschek,
    /// `α - (α - β) exp(-(κ t)^δ)`.
    Weibull,
    /// `c - a / ln(t + 1)`; the paper's `ln t` has no value at epoch 1.
    Ilog2,
}

use Family::*;

/// Epochs with the logarithms that the families share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch {
    t: f64,
    ln: f64,
    ln_next: f64,
}

impl Epoch {
    pub(super) fn new(t: f64) -> Self {
        Self { t, ln: t.ln(), ln_next: t.ln_1p() }
    }
}

impl Family {
    /// All families, in the paper's order.
    pub const ALL: [Family; 11] =
        [VaporPressure, Pow3, LoglogLinear, Hill3, LogPower, Pow4, Mmf, Exp4, Janoschek, Weibull, Ilog2];

    /// Name and closed bounds of each parameter, in order.
    pub fn params(self) -> &'static [(&'static str, f64, f64)] {
        match self {
            VaporPressure => &[("a", -10.0, 2.0), ("b", -10.0, 5.0), ("c", -1.0, 1.0)],
            Pow3 => &[("c", 0.0, 1.0), ("a", -1.0, 1.0), ("alpha", 0.01, 4.0)],
            LoglogLinear => &[("a", 0.0, 2.0), ("b", 1.0, 2.7)],
            Hill3 => &[("ymax", 0.0, 1.0), ("eta", 0.05, 8.0), ("log_kappa", -10.0, 10.0)],
            LogPower => &[("a", 0.0, 1.0), ("b", -10.0, 10.0), ("c", -8.0, -0.05)],
            Pow4 => &[("c", 0.0, 1.0), ("log_a", -7.0, 7.0), ("b", 0.0, 100.0), ("alpha", 0.01, 5.0)],
            Mmf => &[("alpha", 0.0, 1.0), ("beta", 0.0, 1.0), ("log_kappa", -10.0, 5.0), ("delta", 0.05, 8.0)],
            Exp4 => &[("c", 0.0, 1.0), ("log_a", -10.0, 3.0), ("b", -10.0, 3.0), ("alpha", 0.05, 3.0)],
            Janoschek => &[("alpha", 0.0, 1.0), ("beta", 0.0, 1.0), ("log_kappa", -10.0, 3.0), ("delta", 0.05, 3.0)],
            Weibull => &[("alpha", 0.0, 1.0), ("beta", 0.0, 1.0), ("log_kappa", -10.0, 3.0), ("delta", 0.05, 3.0)],
            Ilog2 => &[("c", 0.0, 1.0), ("a", -1.0, 1.0)],
        }
    }

    /// Number of parameters, 2 to 4.
    pub fn num_params(self) -> usize {
        self.params().len()
    }

    /// The parameters moved to the nearest ones within the bounds.
    pub fn clamp(self, mut params: Params) -> Params {
        params.iter_mut().zip(self.params()).for_each(|(p, &(_, low, high))| *p = p.clamp(low, high));
        params
    }

    /// The curve's value at epoch `t >= 1`; finite for parameters within the bounds.
    pub fn value(self, t: f64, params: &Params) -> f64 {
        self.at(Epoch::new(t), params)
    }

    /// The curve's value at epoch `t` and its derivative by each parameter.
    pub fn gradient(self, t: f64, params: &Params) -> (f64, Params) {
        self.gradient_at(Epoch::new(t), params)
    }

    #[inline]
    pub(super) fn at(self, x: Epoch, &[p0, p1, p2, p3]: &Params) -> f64 {
        match self {
            VaporPressure => (p0 + p1 / x.t + p2 * x.ln).exp(),
            Pow3 => p0 - p1 * (-p2 * x.ln).exp(),
            LoglogLinear => (p0 * x.ln + p1).ln(),
            Hill3 => p0 * sigmoid(p1 * (x.ln - p2)),
            LogPower => p0 * sigmoid(p2 * (p1 - x.ln)),
            Pow4 => p0 - (-p3 * (p1.exp() * x.t + p2).ln()).exp(),
            Mmf => p0 - (p0 - p1) * sigmoid(-p3 * (x.ln + p2)),
            Exp4 => p0 - (p2 - (p1 + p3 * x.ln).exp()).exp(),
            Janoschek => p0 - (p0 - p1) * (-(p2 + p3 * x.ln).exp()).exp(),
            Weibull => p0 - (p0 - p1) * (-(p3 * (p2 + x.ln)).exp()).exp(),
            Ilog2 => p0 - p1 / x.ln_next,
        }
    }

    pub(super) fn gradient_at(self, x: Epoch, params: &Params) -> (f64, Params) {
        let &[p0, p1, p2, p3] = params;
        let y = self.at(x, params);
        let gradient = match self {
            VaporPressure => [y, y / x.t, y * x.ln, 0.0],
            Pow3 => {
                let power = (-p2 * x.ln).exp();
                [1.0, -power, p1 * x.ln * power, 0.0]
            }
            LoglogLinear => {
                let inner = p0 * x.ln + p1;
                [x.ln / inner, 1.0 / inner, 0.0, 0.0]
            }
            Hill3 => {
                let (s, slope) = sigmoid_slope(p1 * (x.ln - p2));
                [s, p0 * slope * (x.ln - p2), -p0 * slope * p1, 0.0]
            }
            LogPower => {
                let (s, slope) = sigmoid_slope(p2 * (p1 - x.ln));
                [s, p0 * slope * p2, p0 * slope * (p1 - x.ln), 0.0]
            }
            Pow4 => {
                let scaled = p1.exp() * x.t;
                let (inner, power) = (scaled + p2, p0 - y);
                [1.0, p3 * power * scaled / inner, p3 * power / inner, power * inner.ln()]
            }
            Mmf => {
                let (s, slope) = sigmoid_slope(-p3 * (x.ln + p2));
                [1.0 - s, s, (p0 - p1) * slope * p3, (p0 - p1) * slope * (x.ln + p2)]
            }
            Exp4 => {
                let (decay, drop) = ((p1 + p3 * x.ln).exp(), p0 - y);
                [1.0, damped(drop, decay), -drop, damped(drop, decay) * x.ln]
            }
            Janoschek => {
                let decay = (p2 + p3 * x.ln).exp();
                let rest = (-decay).exp();
                let slope = (p0 - p1) * damped(rest, decay);
                [1.0 - rest, rest, slope, slope * x.ln]
            }
            Weibull => {
                let decay = (p3 * (p2 + x.ln)).exp();
                let rest = (-decay).exp();
                let slope = (p0 - p1) * damped(rest, decay);
                [1.0 - rest, rest, slope * p3, slope * (p2 + x.ln)]
            }
            Ilog2 => [1.0, -1.0 / x.ln_next, 0.0, 0.0],
        };
        (y, gradient)
    }

    /// The member of the family that is (all but) `level` at every epoch.
    pub fn flat(self, level: f64) -> Params {
        self.clamp(match self {
            VaporPressure => [level.max(1e-4).ln(), 0.0, 0.0, 0.0],
            Pow3 => [level, 0.0, 1.0, 0.0],
            LoglogLinear => [0.0, level.exp(), 0.0, 0.0],
            Hill3 => [level, 4.0, -10.0, 0.0],
            LogPower => [level, -10.0, -4.0, 0.0],
            Pow4 => [level, 6.0, 1.0, 4.0],
            Mmf => [level, level, 0.0, 1.0],
            Exp4 => [level, 1.0, -10.0, 1.0],
            Janoschek | Weibull => [level, level, 0.0, 1.0],
            Ilog2 => [level, 0.0, 0.0, 0.0],
        })
    }

    /// Starts of a fit to `ys`, within the bounds: over a grid of the parameters that shape the curve, the others by
    /// linear least squares.
    pub(super) fn starts(self, epochs: &[Epoch], ys: &[f64]) -> Vec<Params> {
        let line = |target: &dyn Fn(f64) -> f64, basis: &dyn Fn(Epoch) -> f64| {
            linear_fit(epochs.iter().map(|&x| basis(x)), ys.iter().map(|&y| target(y)))
        };
        let same = |y: f64| y;
        let amplitude = |basis: &dyn Fn(Epoch) -> f64| {
            let sums = epochs.iter().zip(ys).map(|(&x, y)| (basis(x) * y, basis(x) * basis(x)));
            let (top, bottom) = sums.fold((0.0, 1e-12), |(top, bottom), (a, b)| (top + a, bottom + b));
            top / bottom
        };
        // Time scales from the first epoch to four times the curve's length.
        let scales: Vec<f64> =
            (0..).map(f64::from).map(|i| i - 1.0).take_while(|s| s.exp() < 4.0 * ys.len() as f64).collect();
        let grid = |powers: &[f64], make: &dyn Fn(f64, f64) -> Params| -> Vec<Params> {
            powers.iter().flat_map(|&power| scales.iter().map(move |&scale| make(power, scale))).collect()
        };
        let log = |x: f64| x.max(1e-4).ln();
        let mut starts = match self {
            VaporPressure => [-0.1, 0.0, 0.1, 0.3]
                .map(|c| {
                    let targets = ys.iter().zip(epochs).map(|(&y, x)| log(y) - c * x.ln);
                    let (a, b) = linear_fit(epochs.iter().map(|x| 1.0 / x.t), targets);
                    [a, b, c, 0.0]
                })
                .to_vec(),
            Pow3 => [0.1, 0.3, 0.6, 1.0, 1.6, 2.5]
                .map(|alpha| {
                    let (c, slope) = line(&same, &|x| (-alpha * x.ln).exp());
                    [c, -slope, alpha, 0.0]
                })
                .to_vec(),
            LoglogLinear => {
                let (b, a) = line(&f64::exp, &|x| x.ln);
                vec![[a, b, 0.0, 0.0]]
            }
            Hill3 => grid(&[0.3, 0.7, 1.2, 2.0, 4.0], &|eta, scale| {
                [amplitude(&|x| sigmoid(eta * (x.ln - scale))), eta, scale, 0.0]
            }),
            LogPower => grid(&[0.3, 0.7, 1.2, 2.0, 4.0], &|c, scale| {
                [amplitude(&|x| sigmoid(c * (x.ln - scale))), scale, -c, 0.0]
            }),
            Pow4 => grid(&[0.2, 0.5, 1.0, 2.0], &|alpha, scale| {
                let shift = scale.exp();
                let (c, slope) = line(&same, &|x| (x.t + shift).powf(-alpha));
                let log_a = -log(-slope) / alpha;
                [c, log_a, log_a.exp() * shift, alpha]
            }),
            Mmf => grid(&[0.4, 0.8, 1.5, 3.0], &|delta, scale| {
                let (alpha, slope) = line(&same, &|x| sigmoid(-delta * (x.ln - scale)));
                [alpha, alpha + slope, -scale, delta]
            }),
            Exp4 => grid(&[0.3, 0.6, 1.0, 1.5], &|alpha, scale| {
                let (c, slope) = line(&same, &|x| (-(alpha * (x.ln - scale)).exp()).exp());
                [c, -alpha * scale, log(-slope), alpha]
            }),
            Janoschek | Weibull => grid(&[0.3, 0.6, 1.0, 1.5], &|delta, scale| {
                let (alpha, slope) = line(&same, &|x| (-(delta * (x.ln - scale)).exp()).exp());
                [alpha, alpha + slope, if self == Weibull { -scale } else { -delta * scale }, delta]
            }),
            Ilog2 => {
                let (c, slope) = line(&same, &|x| 1.0 / x.ln_next);
                vec![[c, -slope, 0.0, 0.0]]
            }
        };
        starts.push(self.flat(ys.iter().sum::<f64>() / ys.len() as f64));
        starts.into_iter().map(|start| self.clamp(start)).collect()
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// The sigmoid and its derivative.
fn sigmoid_slope(z: f64) -> (f64, f64) {
    let s = sigmoid(z);
    (s, s * (1.0 - s))
}

/// `rest * decay` where `rest` falls as `exp(-decay)`: 0 rather than 0 times infinity.
fn damped(rest: f64, decay: f64) -> f64 {
    if rest == 0.0 { 0.0 } else { rest * decay }
}

/// Offset and slope of the line through the points; the mean where all `xs` are equal.
fn linear_fit(xs: impl Iterator<Item = f64>, ys: impl Iterator<Item = f64>) -> (f64, f64) {
    let points: Vec<(f64, f64)> = xs.zip(ys).collect();
    let n = points.len() as f64;
    let (x_mean, y_mean) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (xy, xx) = points
        .iter()
        .fold((0.0, 0.0), |(xy, xx), p| (xy + (p.0 - x_mean) * (p.1 - y_mean), xx + (p.0 - x_mean).powi(2)));
    let slope = if xx > 1e-18 { xy / xx } else { 0.0 };
    (y_mean - slope * x_mean, slope)
}

#[cfg(test)]
impl Family {
    /// A typical rising curve of each family.
    pub(super) fn example(self) -> Params {
        match self {
            VaporPressure => [-0.4, -1.2, 0.05, 0.0],
            Pow3 => [0.85, 0.6, 0.7, 0.0],
            LoglogLinear => [0.25, 1.3, 0.0, 0.0],
            Hill3 => [0.8, 1.1, 0.9, 0.0],
            LogPower => [0.75, 1.0, -1.3, 0.0],
            Pow4 => [0.9, -0.3, 1.2, 0.9],
            Mmf => [0.82, 0.15, -1.1, 1.2],
            Exp4 => [0.78, -0.7, -0.2, 0.7],
            Janoschek => [0.8, 0.2, -1.2, 0.8],
            Weibull => [0.7, 0.1, -1.6, 0.9],
            Ilog2 => [0.9, 0.4, 0.0, 0.0],
        }
    }
}

#[cfg(test)]
mod tests {
    use nas_datasets::rng::stream;

    use super::super::uniform;
    use super::*;

    #[test]
    fn formulas_are_the_papers() {
        // Written from table 1 of the paper, scales as factors.
        let (t, a, b, c, d) = (7.0f64, 0.3f64, 0.8f64, 0.6f64, 1.4f64);
        let k = b.ln();
        let expected: [(Family, Params, f64); 11] = [
            (VaporPressure, [-a, -b, 0.1, 0.0], (-a - b / t + 0.1 * t.ln()).exp()),
            (Pow3, [c, a, b, 0.0], c - a * t.powf(-b)),
            (LoglogLinear, [a, d, 0.0, 0.0], (a * t.ln() + d).ln()),
            (Hill3, [c, d, k, 0.0], c * t.powf(d) / (b.powf(d) + t.powf(d))),
            (LogPower, [c, b, -d, 0.0], c / (1.0 + (t / b.exp()).powf(-d))),
            (Pow4, [c, k, a, d], c - (b * t + a).powf(-d)),
            (Mmf, [c, a, k, d], c - (c - a) / (1.0 + (b * t).powf(d))),
            (Exp4, [c, k, -a, a], c - (-b * t.powf(a) - a).exp()),
            (Janoschek, [c, a, k, a], c - (c - a) * (-b * t.powf(a)).exp()),
            (Weibull, [c, a, k, d], c - (c - a) * (-(b * t).powf(d)).exp()),
            (Ilog2, [c, a, 0.0, 0.0], c - a / (t + 1.0).ln()),
        ];
        for (family, params, expected) in expected {
            assert!((family.value(t, &params) - expected).abs() < 1e-14, "{family:?}");
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let mut rng = stream(0, "gradient", 0);
        for family in Family::ALL {
            for _ in 0..200 {
                let mut params = [0.0; MAX_PARAMS];
                for (p, &(_, low, high)) in params.iter_mut().zip(family.params()) {
                    *p = low + (high - low) * (0.05 + 0.9 * uniform(&mut rng));
                }
                let t = (1.0 + 99.0 * uniform(&mut rng)).floor();
                let (_, gradient) = family.gradient(t, &params);
                for i in 0..family.num_params() {
                    let moved = |by: f64| {
                        let mut moved = params;
                        moved[i] += by;
                        family.value(t, &moved)
                    };
                    let step = 1e-6;
                    let difference = (moved(step) - moved(-step)) / (2.0 * step);
                    let tolerance = 1e-4 * (1.0 + difference.abs());
                    assert!((gradient[i] - difference).abs() < tolerance, "{family:?} {i} {params:?} {t}");
                }
            }
        }
    }

    #[test]
    fn values_and_gradients_are_finite_at_every_corner_of_the_bounds() {
        for family in Family::ALL {
            for corner in 0..1 << family.num_params() {
                let mut params = [0.0; MAX_PARAMS];
                for (i, &(_, low, high)) in family.params().iter().enumerate() {
                    params[i] = if corner >> i & 1 == 1 { high } else { low };
                }
                for t in [1.0, 2.0, 50.0, 1e5] {
                    let (y, gradient) = family.gradient(t, &params);
                    assert!(y.is_finite() && gradient.iter().all(|g| g.is_finite()), "{family:?} {params:?} {t}");
                }
            }
        }
    }

    #[test]
    fn the_flat_member_is_flat() {
        for family in Family::ALL {
            for level in [0.0, 0.1, 0.5, 0.9] {
                let params = family.flat(level);
                for t in [1.0, 10.0, 1000.0] {
                    assert!((family.value(t, &params) - level).abs() < 2e-4, "{family:?} {level} {t}");
                }
            }
        }
    }
}
