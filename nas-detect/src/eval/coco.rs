//! COCO's average precision and recall of boxes (Lin et al. 2014, <https://arxiv.org/abs/1405.0312>), equal to
//! pycocotools 2.0.11 to the last digits.

use std::iter::zip;

use rayon::prelude::*;

use super::{Detection, Scene, Truth, by_score, intersection, scenes};

/// Size ranges of objects in square pixels, both ends included: all, small, medium, large.
pub const AREAS: [(&str, f64, f64); 4] =
    [("all", 0.0, 1e10), ("small", 0.0, 1024.0), ("medium", 1024.0, 9216.0), ("large", 9216.0, 1e10)];

/// Detections per image and class that count, as COCO has them.
pub const MAX_DETS: [usize; 3] = [1, 10, 100];

/// Number of overlaps at which a detection is judged: 0.50, 0.55, ..., 0.95.
const NUM_IOUS: usize = 10;
/// Number of recalls at which precision is read: 0.00, 0.01, ..., 1.00.
const NUM_RECALLS: usize = 101;

/// numpy's `linspace(.5, .95, 10)`, whose ninth value is one bit below 0.9.
fn iou_thresholds() -> [f64; NUM_IOUS] {
    let mut thresholds = [0; NUM_IOUS].map(|_| 0.95);
    let step = (0.95 - 0.5) / 9.0;
    thresholds.iter_mut().take(9).enumerate().for_each(|(k, threshold)| *threshold = 0.5 + k as f64 * step);
    thresholds
}

/// numpy's `linspace(0, 1, 101)`: multiples of 0.01, not hundredths.
fn recall_thresholds() -> impl Iterator<Item = f64> {
    (0..NUM_RECALLS).map(|k| if k == NUM_RECALLS - 1 { 1.0 } else { k as f64 * 0.01 })
}

/// What became of a detection under one size range; bit `t` stands for the overlap threshold `t`.
#[derive(Clone, Copy, Default)]
struct Verdict {
    matched: u16,
    ignored: u16,
}

/// A detection after matching.
struct Outcome {
    score: f64,
    /// Detections of the same image and class with a higher score.
    rank: usize,
    /// By size range.
    verdicts: [Verdict; AREAS.len()],
}

/// Scores of one class by size range; `None` where the range holds no truth that counts.
#[derive(Clone, Debug)]
struct ClassScores([Option<RangeScores>; AREAS.len()]);

#[derive(Clone, Debug)]
struct RangeScores {
    /// Average precision by overlap threshold, with the most detections per image.
    precisions: [f64; NUM_IOUS],
    /// Precision at 101 recalls at the first overlap threshold, 0.5.
    curve: Vec<f64>,
    /// Recall by number of detections per image and overlap threshold.
    recalls: Vec<[f64; NUM_IOUS]>,
}

/// Scores of a set of detections.
#[derive(Clone, Debug)]
pub struct CocoScores {
    max_dets: Vec<usize>,
    classes: Vec<ClassScores>,
}

/// Judges detections. Images are told apart by [`Truth::image`], whose order breaks ties between equal scores as
/// pycocotools' order of image ids does. `max_dets` are numbers of detections per image and class; precision uses the
/// largest.
///
/// # Panics
/// If `max_dets` is empty, or a class index is not below `num_classes`.
pub fn evaluate(truths: &[Truth], detections: &[Detection], num_classes: usize, max_dets: &[usize]) -> CocoScores {
    let mut max_dets = max_dets.to_vec();
    max_dets.sort_unstable();
    let limit = *max_dets.last().expect("at least one number of detections");
    let thresholds = iou_thresholds();
    let classes = scenes(truths, detections, num_classes).into_par_iter().map(|scenes| {
        let outcomes: Vec<Vec<Outcome>> = scenes.par_iter().map(|scene| judge(scene, limit, &thresholds)).collect();
        let mut outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        outcomes.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal));
        ClassScores(std::array::from_fn(|range| score(&scenes, &outcomes, range, &max_dets)))
    });
    CocoScores { classes: classes.collect(), max_dets }
}

/// Whether a truth is neither found nor missed in a size range.
fn is_ignored(truth: &Truth, range: usize) -> bool {
    let (_, low, high) = AREAS[range];
    truth.crowd || truth.area < low || truth.area > high
}

/// Matches the detections of one scene under every size range and overlap threshold.
fn judge(scene: &Scene, limit: usize, thresholds: &[f64; NUM_IOUS]) -> Vec<Outcome> {
    let mut detections = scene.detections.clone();
    detections.sort_by(|a, b| by_score(a, b));
    detections.truncate(limit);
    let ious: Vec<Vec<f64>> =
        detections.iter().map(|found| scene.truths.iter().map(|truth| iou(found, truth)).collect()).collect();
    let mut outcomes: Vec<Outcome> = detections
        .iter()
        .enumerate()
        .map(|(rank, found)| Outcome { score: found.score, rank, verdicts: Default::default() })
        .collect();
    for (range, (_, low, high)) in AREAS.iter().enumerate() {
        let ignored: Vec<bool> = scene.truths.iter().map(|truth| is_ignored(truth, range)).collect();
        let mut order: Vec<usize> = (0..ignored.len()).collect();
        order.sort_by_key(|truth| ignored[*truth]);
        for (bit, threshold) in thresholds.iter().enumerate() {
            let mut taken = vec![false; ignored.len()];
            for (i, outcome) in outcomes.iter_mut().enumerate() {
                let free = |truth: usize| !taken[truth] || scene.truths[truth].crowd;
                let partner = best_partner(&ious[i], *threshold, &order, &ignored, free);
                let area = detections[i].bbox[2] * detections[i].bbox[3];
                let is_ignored = partner.map_or(area < *low || area > *high, |truth| ignored[truth]);
                outcome.verdicts[range].matched |= u16::from(partner.is_some()) << bit;
                outcome.verdicts[range].ignored |= u16::from(is_ignored) << bit;
                if let Some(truth) = partner {
                    taken[truth] = true;
                }
            }
        }
    }
    outcomes
}

/// Intersection over union; over the detection's own area where the truth is a crowd.
fn iou(found: &Detection, truth: &Truth) -> f64 {
    let overlap = intersection(&found.bbox, &truth.bbox);
    if overlap == 0.0 {
        return 0.0;
    }
    let area = |bbox: &[f64; 4]| bbox[2] * bbox[3];
    let own = area(&found.bbox);
    overlap / if truth.crowd { own } else { own + area(&truth.bbox) - overlap }
}

/// The truth that a detection is matched with: the free one of largest overlap, the last of equal ones; one that is
/// ignored only if no other reaches the threshold. `order` lists ignored truths last.
fn best_partner(
    ious: &[f64],
    threshold: f64,
    order: &[usize],
    ignored: &[bool],
    free: impl Fn(usize) -> bool,
) -> Option<usize> {
    let (mut best, mut partner) = (threshold.min(1.0 - 1e-10), None);
    for &truth in order {
        if !free(truth) {
            continue;
        }
        if partner.is_some_and(|partner: usize| !ignored[partner]) && ignored[truth] {
            break;
        }
        if ious[truth] >= best {
            (best, partner) = (ious[truth], Some(truth));
        }
    }
    partner
}

/// Scores of one class in a size range from its outcomes in the order of falling scores.
fn score(scenes: &[Scene], outcomes: &[Outcome], range: usize, max_dets: &[usize]) -> Option<RangeScores> {
    let truths = scenes.iter().flat_map(|scene| &scene.truths);
    let positives = truths.filter(|truth| !is_ignored(truth, range)).count() as f64;
    if positives == 0.0 {
        return None;
    }
    let hits = |bit: usize, limit: usize| {
        let counted =
            outcomes.iter().filter(move |outcome| outcome.rank < limit).map(|outcome| outcome.verdicts[range]);
        counted
            .filter(move |verdict| verdict.ignored >> bit & 1 == 0)
            .map(move |verdict| verdict.matched >> bit & 1 == 1)
    };
    let recall = |bit, limit| hits(bit, limit).filter(|hit| *hit).count() as f64 / positives;
    let curves: [Vec<f64>; NUM_IOUS] = std::array::from_fn(|bit| precisions(hits(bit, usize::MAX), positives));
    Some(RangeScores {
        precisions: std::array::from_fn(|bit| curves[bit].iter().sum::<f64>() / NUM_RECALLS as f64),
        curve: curves.into_iter().next().unwrap_or_default(),
        recalls: max_dets.iter().map(|limit| std::array::from_fn(|bit| recall(bit, *limit))).collect(),
    })
}

/// At 101 recalls, the best precision at that recall or a higher one.
fn precisions(hits: impl Iterator<Item = bool>, positives: f64) -> Vec<f64> {
    let (mut recalls, mut precisions) = (Vec::new(), Vec::new());
    let (mut tp, mut fp) = (0.0, 0.0);
    for hit in hits {
        *(if hit { &mut tp } else { &mut fp }) += 1.0;
        recalls.push(tp / positives);
        precisions.push(tp / (fp + tp + f64::EPSILON));
    }
    for i in (1..precisions.len()).rev() {
        precisions[i - 1] = precisions[i - 1].max(precisions[i]);
    }
    let mut reached = 0;
    let read = recall_thresholds().map(|threshold| {
        reached += recalls[reached..].partition_point(|recall| *recall < threshold);
        precisions.get(reached).copied().unwrap_or(0.0)
    });
    read.collect()
}

impl CocoScores {
    /// Names of [`Self::stats`], as in pycocotools' papers and tables.
    pub fn names(&self) -> Vec<String> {
        let fixed = |names: [&str; 6]| names.map(str::to_owned);
        let recalls = self.max_dets.iter().map(|limit| format!("AR{limit}"));
        let sizes = ["ARs", "ARm", "ARl"].map(str::to_owned);
        fixed(["AP", "AP50", "AP75", "APs", "APm", "APl"]).into_iter().chain(recalls).chain(sizes).collect()
    }

    /// pycocotools' list of 12 (with three numbers of detections): AP, AP50, AP75, AP of small, medium and large
    /// objects, AR by number of detections, AR of small, medium and large objects. -1: no truth to find.
    pub fn stats(&self) -> Vec<f64> {
        self.summarize(&self.classes)
    }

    /// The same of one class.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn class_stats(&self, class: usize) -> Vec<f64> {
        self.summarize(&self.classes[class..=class])
    }

    /// Recalls at which precision is read, and the precisions of a class there at overlap 0.5; none where there is nothing to find.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn curve(&self, class: usize) -> Option<(Vec<f64>, Vec<f64>)> {
        let scores = self.classes[class].0[0].as_ref()?;
        Some((recall_thresholds().collect(), scores.curve.clone()))
    }

    fn summarize(&self, classes: &[ClassScores]) -> Vec<f64> {
        let ranges = |range: usize| classes.iter().filter_map(move |class| class.0[range].as_ref());
        let ap = |range| mean(ranges(range).flat_map(|scores| &scores.precisions));
        let ap_at = |bit: usize| mean(ranges(0).map(|scores| &scores.precisions[bit]));
        let ar = |range, limit: usize| mean(ranges(range).flat_map(|scores| &scores.recalls[limit]));
        let last = self.max_dets.len() - 1;
        let mut stats = vec![ap(0), ap_at(0), ap_at(5), ap(1), ap(2), ap(3)];
        stats.extend((0..=last).map(|limit| ar(0, limit)));
        stats.extend((1..AREAS.len()).map(|range| ar(range, last)));
        stats
    }

    /// Why numbers of [`Self::stats`] are -1, one sentence each.
    pub fn explain(&self) -> Vec<String> {
        let missing = |range: usize| self.classes.iter().all(|class| class.0[range].is_none());
        if missing(0) {
            return vec!["every number is -1: the ground truth has no box to find (crowds do not count)".into()];
        }
        let names = [["APs", "ARs"], ["APm", "ARm"], ["APl", "ARl"]];
        let sizes = zip(&AREAS[1..], names).enumerate().filter(|(i, _)| missing(i + 1));
        let sentence = |((name, low, high), [ap, ar]): (&(&str, f64, f64), [&str; 2])| {
            format!("{ap} and {ar} are -1: the ground truth has no {name} object (area {low}..={high} square pixels)")
        };
        sizes.map(|(_, range)| sentence(range)).collect()
    }
}

/// -1 where there is nothing.
fn mean<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { -1.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_numpys_to_the_last_bit() {
        // numpy.linspace(.5, .95, 10)
        let numpy = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95];
        assert_eq!(iou_thresholds(), numpy);
        let recalls: Vec<f64> = recall_thresholds().collect();
        assert_eq!((recalls[35], recalls[95], recalls[100]), (0.35000000000000003, 0.9500000000000001, 1.0));
    }

    #[test]
    fn scores_are_told_apart_beyond_the_digits_of_f32() {
        let bbox = [0.0, 0.0, 10.0, 10.0];
        let truth = Truth { image: 0, class: 0, bbox, area: 100.0, crowd: false, difficult: false };
        let miss = Detection { image: 0, class: 0, bbox: [50.0, 50.0, 9.0, 9.0], score: 0.5 };
        let hit = Detection { bbox, score: 0.5 + 1e-12, ..miss.clone() };
        let stats = evaluate(&[truth], &[miss, hit], 1, &MAX_DETS).stats();
        assert!(stats[0] > 0.999, "the hit comes first: {}", stats[0]);
    }
}
