//! Focal loss (Lin et al. 2017, arXiv 1708.02002).

use tch::Tensor;

const ALPHA: f64 = 0.25;

/// `-α_t (1 - p_t)² ln p_t` with `α = 0.25` for every logit and its target in `0..=1`, of any equal shapes.
pub fn focal_loss(logits: &Tensor, targets: &Tensor) -> Tensor {
    let p = logits.sigmoid();
    let cross_entropy = logits.clamp_min(0.0) - logits * targets + (-logits.abs()).exp().log1p();
    let miss: Tensor = &p + targets - &p * targets * 2.0;
    let alpha: Tensor = targets * (2.0 * ALPHA - 1.0) + (1.0 - ALPHA);
    alpha * miss.square() * cross_entropy
}
