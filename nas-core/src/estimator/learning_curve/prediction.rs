//! What an extrapolation says about a later value: a mixture of normal distributions over `0..=1`.

use rand_chacha::ChaCha8Rng;

use super::{normal, uniform};

/// The distribution of a metric at a later epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    components: Vec<Component>,
}

/// One normal distribution of the mixture; the weights sum to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Component {
    weight: f64,
    mean: f64,
    std: f64,
}

impl Prediction {
    /// The mixture of (weight, mean, standard deviation); weights need not sum to 1.
    pub(super) fn new(components: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        let mut components: Vec<Component> = components
            .into_iter()
            .map(|(weight, mean, std)| Component { weight, mean: mean.clamp(0.0, 1.0), std: std.max(1e-9) })
            .collect();
        let total: f64 = components.iter().map(|part| part.weight).sum();
        components.iter_mut().for_each(|part| part.weight /= total);
        Self { components }
    }

    /// Expected value.
    pub fn mean(&self) -> f64 {
        self.components.iter().map(|part| part.weight * part.mean).sum::<f64>().clamp(0.0, 1.0)
    }

    /// Standard deviation.
    pub fn std(&self) -> f64 {
        let mean = self.mean();
        let square = |part: &Component| part.weight * (part.std.powi(2) + (part.mean - mean).powi(2));
        self.components.iter().map(square).sum::<f64>().sqrt()
    }

    /// Probability that the value is above `value`.
    pub fn probability_above(&self, value: f64) -> f64 {
        match value {
            value if value >= 1.0 => 0.0,
            value if value < 0.0 => 1.0,
            value => self.tail(value).clamp(0.0, 1.0),
        }
    }

    /// The value that is not passed with probability `p`, `0..=1`.
    pub fn quantile(&self, p: f64) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            *(if self.tail(middle) > 1.0 - p { &mut low } else { &mut high }) = middle;
        }
        (low + high) / 2.0
    }

    /// A value drawn from the distribution.
    pub fn sample(&self, rng: &mut ChaCha8Rng) -> f64 {
        let mut left = uniform(rng);
        let drawn = self.components.iter().find(|part| {
            left -= part.weight;
            left < 0.0
        });
        let Component { mean, std, .. } = *drawn.unwrap_or(&self.components[self.components.len() - 1]);
        (mean + std * normal(rng)).clamp(0.0, 1.0)
    }

    fn tail(&self, value: f64) -> f64 {
        self.components.iter().map(|part| part.weight * normal_tail((value - part.mean) / part.std)).sum()
    }
}

/// Probability that a standard normal variable is above `z`, to 1e-14.
fn normal_tail(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let upper = if x < 3.0 {
        // erf(x) = 2/sqrt(pi) exp(-x²) sum of 2^n x^(2n+1) / (2n+1)!!.
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term > 1e-17 * sum {
            odd += 2.0;
            term *= 2.0 * x * x / odd;
            sum += term;
        }
        0.5 - (-x * x).exp() * sum / std::f64::consts::PI.sqrt()
    } else {
        // Laplace's continued fraction of erfc.
        let fraction = (1..=60).rev().fold(x, |below, k| x + f64::from(k) / 2.0 / below);
        (-x * x).exp() / fraction / std::f64::consts::PI.sqrt() / 2.0
    };
    if z < 0.0 { 1.0 - upper } else { upper }
}

#[cfg(test)]
mod tests {
    use nas_datasets::rng::stream;

    use super::*;

    #[test]
    fn tails_are_those_of_the_normal_distribution() {
        // scipy.stats.norm.sf.
        for (z, expected) in [
            (-2.0, 0.977_249_868_051_820_8),
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457_07),
            (3.0, 0.001_349_898_031_630_094_6),
            (4.3, 8.539_905_471_006_5e-6),
            (6.0, 9.865_876_450_376_946e-10),
        ] {
            assert!((normal_tail(z) / expected - 1.0).abs() < 1e-9, "{z}: {} {expected}", normal_tail(z));
        }
    }

    #[test]
    fn quantiles_invert_probabilities_and_samples_follow_both() {
        let prediction = Prediction::new([(2.0, 0.4, 0.05), (1.0, 0.7, 0.02), (1.0, 0.5, 0.1)]);
        for p in [0.05, 0.3, 0.5, 0.95] {
            assert!((prediction.probability_above(prediction.quantile(p)) - (1.0 - p)).abs() < 1e-9);
        }
        let mut rng = stream(1, "sample", 0);
        let samples: Vec<f64> = (0..20_000).map(|_| prediction.sample(&mut rng)).collect();
        let mean = samples.iter().sum::<f64>() / 2e4;
        let std = (samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 2e4).sqrt();
        // Standard errors are 0.001 and below.
        assert!((mean - prediction.mean()).abs() < 0.005 && (prediction.mean() - 0.5).abs() < 1e-12);
        assert!((std - prediction.std()).abs() < 0.005, "{std} {}", prediction.std());
        let above = samples.iter().filter(|&&s| s > 0.6).count() as f64 / 2e4;
        assert!((above - prediction.probability_above(0.6)).abs() < 0.012);
    }

    #[test]
    fn nothing_lies_outside_the_range_of_a_fraction() {
        let wide = Prediction::new([(1.0, 1.4, 0.5)]);
        assert_eq!((wide.probability_above(1.0), wide.probability_above(-0.1)), (0.0, 1.0));
        assert!(wide.mean() == 1.0 && wide.quantile(0.99) <= 1.0 && wide.quantile(0.0) >= 0.0);
    }
}
