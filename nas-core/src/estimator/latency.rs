//! Measured latency of a network. Unlike parameters and multiply-adds it belongs to a machine and a moment.

use std::time::Instant;

/// Milliseconds of one call of `forward`: the median of `runs` calls after three that warm up. On a GPU `forward` must wait
/// for its result.
pub fn latency_millis(runs: usize, mut forward: impl FnMut()) -> f64 {
    (0..3).for_each(|_| forward());
    let mut millis: Vec<f64> = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            forward();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    millis.sort_by(f64::total_cmp);
    millis[millis.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_median_after_the_warm_up() {
        let mut calls = 0;
        let millis = latency_millis(5, || {
            calls += 1;
            // The warm-up and one of five runs are slow.
            std::thread::sleep(std::time::Duration::from_millis(if calls <= 4 { 200 } else { 1 }));
        });
        assert_eq!(calls, 8);
        assert!((1.0..200.0).contains(&millis), "{millis}");
    }
}
