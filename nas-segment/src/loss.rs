//! Pixel cross entropy.

use nas_core::nn::ranks;
use tch::{Kind, Reduction, Tensor};

/// Mean cross entropy of logits `[B, K, H, W]` against labels `[B, H, W]` (i64) over the pixels whose label is not 255,
/// weighted by `class_weights` `[K]` where they are given. A batch without such pixels has loss 0.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, class_weights: Option<&Tensor>) -> Tensor {
    let ignore = i64::from(nas_datasets::IGNORE);
    let sum = logits.to_kind(Kind::Float).cross_entropy_loss(labels, class_weights, Reduction::Sum, ignore, 0.0);
    let counted = labels.ne(ignore);
    let total = match class_weights {
        Some(weights) => (weights.take(&labels.where_self(&counted, &labels.zeros_like())) * counted).sum(Kind::Float),
        None => counted.sum(Kind::Float),
    };
    sum / ranks::mean_of(&total).clamp_min(f64::from(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_pixels_do_not_count() {
        let logits = Tensor::from_slice(&[2.0f32, 0.0, 0.0, 0.0]).view([1, 2, 1, 2]);
        let loss = cross_entropy(&logits, &Tensor::from_slice(&[0i64, 255]).view([1, 1, 2]), None);
        assert!((loss.double_value(&[]) - (1.0 + (-2.0f64).exp()).ln()).abs() < 1e-6);
        let none = cross_entropy(&logits, &Tensor::from_slice(&[255i64, 255]).view([1, 1, 2]), None);
        assert_eq!(none.double_value(&[]), 0.0);
    }

    #[test]
    fn weights_count_pixels_of_a_class_more() {
        let logits = Tensor::from_slice(&[2.0f32, 0.0, 0.0, 0.0]).view([1, 2, 1, 2]);
        let labels = Tensor::from_slice(&[0i64, 1]).view([1, 1, 2]);
        let loss = cross_entropy(&logits, &labels, Some(&Tensor::from_slice(&[1.0f32, 3.0])));
        let expected = ((1.0 + (-2.0f64).exp()).ln() + 3.0 * 2.0f64.ln()) / 4.0;
        assert!((loss.double_value(&[]) - expected).abs() < 1e-6);
    }
}
