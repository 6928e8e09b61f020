//! Training speed (Ru et al. 2021, "Speedy performance estimation for neural architecture search", arXiv 2006.04492): what learns
//! faster from the same batches generalises better, so that sums of training losses rank networks after a few epochs, when their
//! held-out scores are still noise.

/// Names of what [`training_speed`] gives, as metrics of trials that train; lower is better.
pub const NAMES: [&str; 3] = ["tse", "tse_e", "tse_ema"];

/// Share of an epoch's loss in the next one's average.
const DECAY: f64 = 0.9;

/// Of the mean training losses of all epochs, in their order: their sum, the last one (the paper's TSE-E with E = 1), and the sum in
/// which each epoch weighs 0.9 of the next (TSE-EMA).
pub fn training_speed(losses: &[f64]) -> [f64; 3] {
    let last = losses.last().copied().unwrap_or(f64::NAN);
    [losses.iter().sum(), last, losses.iter().fold(0.0, |sum, loss| DECAY * sum + loss)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_losses_weigh_as_the_paper_says() {
        let [sum, last, average] = training_speed(&[2.0, 1.0, 0.5]);
        assert_eq!([sum, last], [3.5, 0.5]);
        assert!((average - (0.81 * 2.0 + 0.9 * 1.0 + 0.5)).abs() < 1e-12);
    }
}
