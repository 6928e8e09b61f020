//! Non-maximum suppression on the CPU.

/// The boxes (`[x0, y0, x1, y1]`) that no better box of the same class covers by more than `max_iou`, in the order of
/// falling scores; equal scores keep the order of the input, and so do boxes whose overlap is exactly `max_iou`.
///
/// # Panics
/// If the three lists differ in length.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], classes: &[usize], max_iou: f32) -> Vec<usize> {
    assert!(boxes.len() == scores.len() && boxes.len() == classes.len(), "one score and one class per box");
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut kept: Vec<usize> = Vec::new();
    for next in order {
        let covers = |better: &usize| classes[*better] == classes[next] && iou(&boxes[*better], &boxes[next]) > max_iou;
        if !kept.iter().any(covers) {
            kept.push(next);
        }
    }
    kept
}

/// Intersection over union; 0 for boxes without size.
fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let (w, h) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let area = |[x0, y0, x1, y1]: &[f32; 4]| (x1 - x0) * (y1 - y0);
    w * h / (area(a) + area(b) - w * h)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden lists of torchvision 0.28 (tests/golden/det).
    #[test]
    fn kept_boxes_equal_torchvisions() {
        let boxes = [
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 5.0],
            [1.0, 1.0, 11.0, 11.0],
            [20.0, 20.0, 30.0, 30.0],
            [20.0, 20.0, 30.0, 30.0],
            [0.0, 0.0, 10.0, 10.0],
        ];
        let scores = [0.9, 0.8, 0.7, 0.6, 0.6, 0.5];
        assert_eq!(nms(&boxes, &scores, &[0; 6], 0.5), [0, 1, 3], "an overlap of exactly 0.5 is kept");
        assert_eq!(nms(&boxes, &scores, &[0; 6], 0.4), [0, 3]);
        assert_eq!(nms(&boxes, &scores, &[0, 0, 0, 0, 1, 1], 0.5), [0, 1, 3, 4, 5]);
    }

    #[test]
    fn boxes_without_size_and_no_boxes_at_all_are_no_trouble() {
        assert!(nms(&[], &[], &[], 0.5).is_empty());
        assert_eq!(nms(&[[3.0, 3.0, 3.0, 3.0]; 2], &[0.1, 0.2], &[0, 0], 0.5), [1, 0]);
    }
}
