//! Rank correlations, tests of two-by-two tables, and the few pieces of the normal distribution that searches need.

use statrs::distribution::{Continuous, ContinuousCDF, Normal, StudentsT};

/// Mean and sample deviation; the deviation of one value is 0.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// The middle value, or the mean of the two in the middle; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, middle) if n % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The quantile of a `probability` of 0 to 1: between two values by their distance (type 7 of Hyndman and Fan, "Sample Quantiles in
/// Statistical Packages", 1996; numpy's default). NaN of none.
pub fn quantile(values: &[f64], probability: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = probability.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below])
}

/// Student's paired test of numbers that belong together, at least two pairs: the mean difference, its t, and the probability of a
/// larger |t| where the true difference is 0. Equal differences give an infinite t.
pub fn paired_t_test(a: &[f64], b: &[f64]) -> (f64, f64, f64) {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let (mean, deviation) = mean_and_deviation(&differences);
    let n = differences.len() as f64;
    let t = mean / (deviation / n.sqrt());
    let student = StudentsT::new(0.0, 1.0, (n - 1.0).max(1.0)).expect("a positive number of degrees of freedom");
    (mean, t, 2.0 * student.cdf(-t.abs()))
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

/// Places of the `k` largest values, the largest first; of equal ones the earlier comes first.
pub fn best(k: usize, values: &[f64]) -> Vec<usize> {
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

/// Two-sided p-value of Fisher's exact test: the probability, rows and columns given, of the tables that are no more probable
/// than `[[a, b], [c, d]]`.
pub fn fisher_exact(a: u64, b: u64, c: u64, d: u64) -> f64 {
    /// Tables are equally probable within this, relative to their probability: sums are rounded.
    const TIE: f64 = 1e-7;
    let (row, column, all) = (a + b, a + c, a + b + c + d);
    let (low, high) = ((row + column).saturating_sub(all), row.min(column));
    // From the mode outwards by the ratio of neighbours: no factorial overflows or loses digits.
    let mode = (((row + 1) as f64 * (column + 1) as f64 / (all + 2) as f64) as u64).clamp(low, high);
    let ratio =
        |k: u64| ((row - k) as f64 * (column - k) as f64) / ((k + 1) as f64 * ((all + k + 1 - row) - column) as f64);
    let mut weights = vec![0.0; (high - low + 1) as usize];
    let place = |k: u64| (k - low) as usize;
    weights[place(mode)] = 1.0;
    (mode..high).for_each(|k| weights[place(k + 1)] = weights[place(k)] * ratio(k));
    (low..mode).rev().for_each(|k| weights[place(k)] = weights[place(k + 1)] / ratio(k));
    let observed = weights[place(a)] * (1.0 + TIE);
    // Small ones first.
    weights.sort_by(f64::total_cmp);
    let total: f64 = weights.iter().sum();
    weights.iter().filter(|weight| **weight <= observed).sum::<f64>() / total
}

/// Benjamini and Hochberg's adjusted p-values, in the order of `p`: rejecting all of at most `q` keeps the expected share of false
/// discoveries at most `q`.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let n = p.len() as f64;
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 1.0f64;
    for (before, i) in order.into_iter().enumerate() {
        least = least.min(p[i] * n / (n - before as f64));
        adjusted[i] = least;
    }
    adjusted
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

/// Probability that a standard normal variable is at most `value`.
pub fn normal_cdf(value: f64) -> f64 {
    Normal::standard().cdf(value)
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
    fn the_paired_test_has_the_closed_form_of_two_degrees_of_freedom() {
        let (mean, t, p) = paired_t_test(&[0.58, 0.60, 0.57], &[0.53, 0.56, 0.55]);
        // Differences 0.05, 0.04, 0.02: their deviation is sqrt(0.0007 / 3).
        let expected = (0.11 / 3.0) / ((0.0007_f64 / 3.0).sqrt() / 3f64.sqrt());
        assert!((mean - 0.11 / 3.0).abs() < 1e-12 && (t - expected).abs() < 1e-9, "{t}");
        assert!((p - (1.0 - t / (2.0 + t * t).sqrt())).abs() < 1e-9, "{p}");
    }

    const FISHER: [([u64; 4], f64); 7] = [
        ([3, 1, 1, 3], 0.48571428571428565),
        ([8, 2, 1, 5], 0.034965034965034975),
        ([0, 5, 10, 3], 0.006535947712418302),
        ([140, 16, 5000, 10469], 3.7869368151430337e-50),
        ([40, 116, 3085, 12384], 0.08663562908119556),
        ([1, 0, 0, 0], 1.0),
        ([7, 3, 3, 7], 0.1788954079975752),
    ];
    const ADJUSTED: [f64; 7] = [0.035, 0.5833333333333334, 0.0525, 0.0525, 0.27999999999999997, 0.9, 0.007];

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
    fn fishers_test_and_false_discovery_rates_equal_scipys() {
        // tests/golden/stats/make.py: scipy.stats.fisher_exact and false_discovery_control
        for ([a, b, c, d], expected) in FISHER {
            let found = fisher_exact(a, b, c, d);
            assert!((found / expected - 1.0).abs() < 1e-9, "{a} {b} {c} {d}: {found}, scipy says {expected}");
        }
        let p = [0.01, 0.5, 0.03, 0.03, 0.2, 0.9, 0.001];
        for (found, expected) in benjamini_hochberg(&p).into_iter().zip(ADJUSTED) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert!(benjamini_hochberg(&[]).is_empty());
    }

    /// `numpy.quantile([4, 1, 3, 7], [0, .25, .5, .75, .9, 1])`.
    #[test]
    fn quantiles_are_numpys() {
        let found = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0].map(|p| quantile(&[4.0, 1.0, 3.0, 7.0], p));
        let expected = [1.0, 2.5, 3.5, 4.75, 6.1, 7.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert!(quantile(&[], 0.5).is_nan() && quantile(&[2.0], 0.9) == 2.0);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 3.0, 2.0])), (2.0, 2.5));
        assert!(median(&[]).is_nan());
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
