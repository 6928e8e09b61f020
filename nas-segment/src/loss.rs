//! Pixel cross entropy.

use tch::{Kind, Reduction, Tensor};

/// Mean cross entropy of logits `[B, K, H, W]` against labels `[B, H, W]` (i64) over the pixels whose label is not 255.
/// A batch without such pixels has loss 0.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let ignore = i64::from(nas_datasets::IGNORE);
    let sum = logits.to_kind(Kind::Float).cross_entropy_loss(labels, None::<Tensor>, Reduction::Sum, ignore, 0.0);
    sum / labels.ne(ignore).sum(Kind::Float).clamp_min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_pixels_do_not_count() {
        let logits = Tensor::from_slice(&[2.0f32, 0.0, 0.0, 0.0]).view([1, 2, 1, 2]);
        let loss = cross_entropy(&logits, &Tensor::from_slice(&[0i64, 255]).view([1, 1, 2]));
        assert!((loss.double_value(&[]) - (1.0 + (-2.0f64).exp()).ln()).abs() < 1e-6);
        let none = cross_entropy(&logits, &Tensor::from_slice(&[255i64, 255]).view([1, 1, 2]));
        assert_eq!(none.double_value(&[]), 0.0);
    }
}
