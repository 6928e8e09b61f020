//! Pixel cross entropy, and the part of it that the metric is.

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

/// One minus the soft Jaccard index of logits `[B, K, H, W]` and labels `[B, H, W]` (i64), mean over the classes that the batch's
/// labels have: probabilities in the place of decisions in what mIOU is the mean of (Rahman and Wang 2016, "Optimizing
/// intersection-over-union in deep neural networks for image segmentation"). Pixels whose label is 255 do not count; a batch without
/// others has loss 0.
pub fn soft_jaccard(logits: &Tensor, labels: &Tensor) -> Tensor {
    let (_, classes, _, _) = logits.size4().expect("logits have four dimensions");
    let labels = labels.unsqueeze(1);
    let counted = labels.ne(i64::from(nas_datasets::IGNORE));
    let truth = labels.eq_tensor(&Tensor::arange(classes, (Kind::Int64, labels.device())).view([1, -1, 1, 1]));
    let probabilities = logits.softmax(1, Kind::Float);
    // Per class: probability on its own pixels, probability on all, pixels.
    let per_class = |map: &Tensor| map.sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Float);
    let sums =
        [&probabilities * &truth, &probabilities * counted, truth.to_kind(Kind::Float)].map(|map| per_class(&map));
    let sums = Tensor::cat(&sums, 0);
    let sums = ranks::summed(&sums).view([3, classes]);
    let [own, all, pixels] = [0, 1, 2].map(|row| sums.get(row));
    let present = pixels.gt(0.0);
    let apart: Tensor = 1f64 - &own / (all + pixels - &own).clamp_min(f64::from(f32::MIN_POSITIVE));
    (apart * &present).sum(Kind::Float) / present.sum(Kind::Float).clamp_min(1.0)
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

    #[test]
    fn the_soft_jaccard_index_of_certain_predictions_is_that_of_the_decisions() {
        // Four pixels of two classes, the last not counted; one of class 0 is taken for class 1, class 2 is nowhere.
        let labels = Tensor::from_slice(&[0i64, 0, 1, 255]).view([1, 1, 4]);
        let decided = Tensor::from_slice(&[0i64, 1, 1, 2]).view([1, 1, 4]);
        let logits = decided.one_hot(3).permute([0, 3, 1, 2]).to_kind(Kind::Float) * 1e3;
        let loss = soft_jaccard(&logits, &labels).double_value(&[]);
        assert!((loss - (1.0 - (0.5 + 0.5) / 2.0)).abs() < 1e-6, "{loss}");
        // By hand, uncertain: p of class 0 is 3/4 on both pixels, one of each class.
        let logits = (Tensor::from_slice(&[3.0f32, 3.0, 1.0, 1.0]).view([1, 2, 1, 2])).log();
        let loss = soft_jaccard(&logits, &Tensor::from_slice(&[0i64, 1]).view([1, 1, 2])).double_value(&[]);
        let (zero, one) = (0.75 / (1.5 + 1.0 - 0.75), 0.25 / (0.5 + 1.0 - 0.25));
        assert!((loss - (1.0 - (zero + one) / 2.0)).abs() < 1e-6, "{loss}");
        let none = soft_jaccard(&logits, &Tensor::from_slice(&[255i64, 255]).view([1, 1, 2]));
        assert_eq!(none.double_value(&[]), 0.0);
    }
}
