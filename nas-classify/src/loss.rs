//! Cross entropy of classes, smoothed or mixed.

use tch::{Kind, Reduction, Tensor};

/// Mean cross entropy of logits `[B, K]` against classes `[B]` (i64), or against `mixed` shares `[B, K]` where they are given.
/// A share `smoothing` of every target is spread evenly over all classes (Szegedy et al. 2016).
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, mixed: Option<&Tensor>, smoothing: f64) -> Tensor {
    let logits = logits.to_kind(Kind::Float);
    logits.cross_entropy_loss(mixed.unwrap_or(labels), None::<&Tensor>, Reduction::Mean, -100, smoothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_and_mixing_are_weighted_sums_over_classes() {
        let logits = Tensor::from_slice(&[2.0f32, 0.0, -1.0, 0.5, 1.0, 0.0]).view([2, 3]);
        let labels = Tensor::from_slice(&[0i64, 2]);
        let log_p = logits.log_softmax(1, Kind::Float);
        let by_hand = |shares: [f32; 6]| (-(&log_p * Tensor::from_slice(&shares).view([2, 3]))).sum(Kind::Float) / 2.0;
        let distance = |a: Tensor, b: Tensor| (a - b).abs().double_value(&[]);
        let smooth = by_hand([0.8, 0.1, 0.1, 0.1, 0.1, 0.8]);
        assert!(distance(cross_entropy(&logits, &labels, None, 0.3), smooth) < 1e-6);
        let mixed = [0.7, 0.3, 0.0, 0.0, 0.4, 0.6];
        let shares = Tensor::from_slice(&mixed).view([2, 3]);
        assert!(distance(cross_entropy(&logits, &labels, Some(&shares), 0.0), by_hand(mixed)) < 1e-6);
    }
}
