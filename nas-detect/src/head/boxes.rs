//! Boxes `[.., 4]` as `x0, y0, x1, y1`.

use tch::Tensor;

/// Keeps quotients finite, as in torchvision's loss.
const EPS: f64 = 1e-7;

fn corners(boxes: &Tensor) -> [Tensor; 4] {
    [0, 1, 2, 3].map(|i| boxes.select(-1, i))
}

/// Areas `[..]`.
pub fn area(boxes: &Tensor) -> Tensor {
    let [x0, y0, x1, y1] = corners(boxes);
    (x1 - x0) * (y1 - y0)
}

/// Intersections over unions `[M, N]` of every box of `a` `[M, 4]` with every one of `b` `[N, 4]`; 0 where there is none.
pub fn pairwise_iou(a: &Tensor, b: &Tensor) -> Tensor {
    let (rows, columns) = (a.unsqueeze(1), b.unsqueeze(0));
    let ([ax0, ay0, ax1, ay1], [bx0, by0, bx1, by1]) = (corners(&rows), corners(&columns));
    let w = (ax1.minimum(&bx1) - ax0.maximum(&bx0)).clamp_min(0.0);
    let h = (ay1.minimum(&by1) - ay0.maximum(&by0)).clamp_min(0.0);
    let intersection = w * h;
    let union = area(&rows) + area(&columns) - &intersection;
    // two boxes without size have the union 0
    (intersection / union).nan_to_num(0.0, 0.0, 0.0)
}

/// Generalised IoU loss (Rezatofighi et al. 2019, arXiv 1902.09630) of boxes `[.., 4]`, pair by pair: `[..]` in `0..=2`.
pub fn giou_loss(a: &Tensor, b: &Tensor) -> Tensor {
    let ([ax0, ay0, ax1, ay1], [bx0, by0, bx1, by1]) = (corners(a), corners(b));
    let w = (ax1.minimum(&bx1) - ax0.maximum(&bx0)).clamp_min(0.0);
    let h = (ay1.minimum(&by1) - ay0.maximum(&by0)).clamp_min(0.0);
    let intersection = w * h;
    let union = area(a) + area(b) - &intersection;
    let hull = (ax1.maximum(&bx1) - ax0.minimum(&bx0)) * (ay1.maximum(&by1) - ay0.minimum(&by0));
    let iou = intersection / (&union + EPS);
    1.0 - iou + (&hull - union) / (hull + EPS)
}

/// The boxes moved into an image of `size` (height, width).
pub fn clip(boxes: &Tensor, (h, w): (i64, i64)) -> Tensor {
    let [x0, y0, x1, y1] = corners(boxes);
    let (x, y) = (|x: Tensor| x.clamp(0.0, w as f64), |y: Tensor| y.clamp(0.0, h as f64));
    Tensor::stack(&[x(x0), y(y0), x(x1), y(y1)], -1)
}

/// Largest logarithm of a scale that is decoded: a box grows from its anchor at most to 1000/16 of its side.
const MAX_LOG_SCALE: f64 = 4.135_166_556_742_356;

/// Boxes `[.., 4]` coded against anchors of the same shape: shifts of the centre in sides, logarithms of scales
/// (Girshick et al. 2014, without weights).
pub fn encode(anchors: &Tensor, boxes: &Tensor) -> Tensor {
    let ([ax, ay, aw, ah], [bx, by, bw, bh]) = (centers(anchors), centers(boxes));
    Tensor::stack(&[(bx - ax) / &aw, (by - ay) / &ah, (bw / aw).log(), (bh / ah).log()], -1)
}

/// What [`encode`] coded; scales are clamped.
pub fn decode(anchors: &Tensor, code: &Tensor) -> Tensor {
    let ([ax, ay, aw, ah], [dx, dy, dw, dh]) = (centers(anchors), corners(code));
    let (x, y) = (dx * &aw + ax, dy * &ah + ay);
    let half = |log_scale: Tensor, side: Tensor| log_scale.clamp_max(MAX_LOG_SCALE).exp() * side * 0.5;
    let (w, h) = (half(dw, aw), half(dh, ah));
    Tensor::stack(&[&x - &w, &y - &h, x + w, y + h], -1)
}

/// Centre, width and height.
fn centers(boxes: &Tensor) -> [Tensor; 4] {
    let [x0, y0, x1, y1] = corners(boxes);
    let (w, h) = (x1 - &x0, y1 - &y0);
    [x0 + &w * 0.5, y0 + &h * 0.5, w, h]
}
