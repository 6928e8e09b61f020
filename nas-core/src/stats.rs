//! Rank correlations and the few pieces of the normal distribution that searches need.

use statrs::distribution::{Continuous, ContinuousCDF, Normal};

/// Mean and sample deviation; the deviation of one value is 0.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// Kendall's tau-b of two equally long lists; NaN where one of them is constant.
pub fn kendall_tau(a: &[f64], b: &[f64]) -> f64 {
    let (mut concordance, mut untied_a, mut untied_b) = (0i64, 0i64, 0i64);
    for i in 0..a.len() {
        for j in 0..i {
            let sign = |x: &[f64]| i64::from(x[i] > x[j]) - i64::from(x[i] < x[j]);
            let (a, b) = (sign(a), sign(b));
            concordance += a * b;
            untied_a += a.abs();
            untied_b += b.abs();
        }
    }
    concordance as f64 / ((untied_a as f64) * (untied_b as f64)).sqrt()
}

/// Spearman's rank correlation of two equally long lists, ties with their mean rank; NaN where one of them is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

/// Part of the `k` best by `truth` that are among the `k` best by `estimate`; larger is better in both.
pub fn precision_at(k: usize, estimate: &[f64], truth: &[f64]) -> f64 {
    let k = k.min(truth.len());
    let (estimated, true_best) = (best(k, estimate), best(k, truth));
    estimated.iter().filter(|i| true_best.contains(i)).count() as f64 / k as f64
}

/// How much worse, by `truth`, the best by `estimate` is than the best.
pub fn regret(estimate: &[f64], truth: &[f64]) -> f64 {
    let top = truth.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    best(1, estimate).first().map_or(f64::NAN, |pick| top - truth[*pick])
}

fn best(k: usize, values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    order
}

/// Ranks from 1, ties with their mean rank.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = start as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|i| ranks[*i] = rank);
        start += tied.len();
    }
    ranks
}

/// Each value replaced by the normal quantile of its rank, which tames long tails and keeps the order.
pub fn normal_scores(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    ranks(values).into_iter().map(|rank| normal_quantile((rank - 0.5) / n)).collect()
}

/// Quantile of the standard normal distribution for a probability in (0, 1).
pub fn normal_quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}

/// Expected improvement over `best` of a normal variable, to be maximised.
pub fn expected_improvement(mean: f64, deviation: f64, best: f64) -> f64 {
    let normal = Normal::standard();
    let z = (mean - best) / deviation;
    (mean - best) * normal.cdf(z) + deviation * normal.pdf(z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_correlations_equal_scipys() {
        // tests/golden/stats/make.py: scipy.stats.kendalltau and spearmanr
        let a = [0.3, 0.1, 0.9, 0.9, 0.5, 0.2, 0.7, 0.4];
        let b = [1.0, 2.0, 8.0, 7.0, 7.0, 3.0, 2.0, 4.0];
        assert!((kendall_tau(&a, &b) - 0.566_138_517_072_297_9).abs() < 1e-12);
        assert!((spearman(&a, &b) - 0.672_739_628_022_143_7).abs() < 1e-12);
        assert!(kendall_tau(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
    }

    #[test]
    fn picks_are_counted() {
        let (estimate, truth) = ([5.0, 4.0, 3.0, 2.0, 1.0], [0.7, 0.9, 0.8, 0.1, 0.2]);
        assert_eq!(precision_at(2, &estimate, &truth), 0.5);
        assert!((regret(&estimate, &truth) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn improvement_grows_with_mean_and_deviation() {
        // Closed form at mean = best: deviation / sqrt(2 pi).
        assert!((expected_improvement(1.0, 2.0, 1.0) - 2.0 / (2.0 * std::f64::consts::PI).sqrt()).abs() < 1e-12);
        assert!(expected_improvement(1.5, 1.0, 1.0) > expected_improvement(1.0, 1.0, 1.0));
        assert!((normal_quantile(0.975) - 1.959_963_985).abs() < 1e-8);
        assert_eq!(normal_scores(&[3.0, 1.0, 2.0])[2], 0.0);
    }
}
