//! Several objectives, all to be maximised: domination, fronts, crowding, hypervolume.

/// The objectives of one architecture, larger is better, and how much it violates the constraints.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Objectives.
    pub values: Vec<f64>,
    /// 0 where the constraints are met.
    pub violation: f64,
}

impl Point {
    /// A point that meets its constraints.
    pub fn feasible(values: Vec<f64>) -> Self {
        Self { values, violation: 0.0 }
    }

    /// Less violation dominates; with none, as good in every objective and better in one.
    pub fn dominates(&self, other: &Self) -> bool {
        if self.violation > 0.0 || other.violation > 0.0 {
            return self.violation < other.violation;
        }
        let pairs = || self.values.iter().zip(&other.values);
        pairs().all(|(a, b)| a >= b) && pairs().any(|(a, b)| a > b)
    }
}

/// Indices by front: the first is dominated by no point, the second only by points of the first, and so on.
pub fn fronts(points: &[&Point]) -> Vec<Vec<usize>> {
    let n = points.len();
    let mut dominators = vec![0usize; n];
    let mut dominated = vec![Vec::new(); n];
    for a in 0..n {
        for b in a + 1..n {
            for (winner, loser) in [(a, b), (b, a)] {
                if points[winner].dominates(points[loser]) {
                    dominated[winner].push(loser);
                    dominators[loser] += 1;
                }
            }
        }
    }
    let mut fronts = Vec::new();
    let mut front: Vec<usize> = (0..n).filter(|i| dominators[*i] == 0).collect();
    while !front.is_empty() {
        let mut next = Vec::new();
        for winner in &front {
            for loser in &dominated[*winner] {
                dominators[*loser] -= 1;
                if dominators[*loser] == 0 {
                    next.push(*loser);
                }
            }
        }
        next.sort_unstable();
        fronts.push(std::mem::replace(&mut front, next));
    }
    fronts
}

/// Crowding distance of each point of one front; infinite at the ends of every objective.
pub fn crowding_distances(front: &[&Point]) -> Vec<f64> {
    let mut distances = vec![0.0; front.len()];
    let objectives = front.first().map_or(0, |point| point.values.len());
    for objective in 0..objectives {
        let value = |i: usize| front[i].values[objective];
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|a, b| value(*a).total_cmp(&value(*b)));
        let (first, last) = (order[0], order[order.len() - 1]);
        let span = value(last) - value(first);
        distances[first] = f64::INFINITY;
        distances[last] = f64::INFINITY;
        if span > 0.0 {
            for three in order.windows(3) {
                distances[three[1]] += (value(three[2]) - value(three[0])) / span;
            }
        }
    }
    distances
}

/// A point among others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Place of the point in the list.
    pub index: usize,
    /// Number of its front, from 0.
    pub rank: usize,
    /// Crowding distance in its front.
    pub crowding: f64,
}

/// All points, best first: by front, within a front the least crowded first (Deb et al. 2002). Equal ones keep their order.
pub fn ranked(points: &[&Point]) -> Vec<Ranked> {
    let mut all = Vec::new();
    for (rank, front) in fronts(points).into_iter().enumerate() {
        let crowding = crowding_distances(&front.iter().map(|i| points[*i]).collect::<Vec<_>>());
        let mut members: Vec<Ranked> =
            front.into_iter().zip(crowding).map(|(index, crowding)| Ranked { index, rank, crowding }).collect();
        members.sort_by(|a, b| b.crowding.total_cmp(&a.crowding));
        all.append(&mut members);
    }
    all
}

/// Indices of points, best first: one objective by violation and value, several as in [`ranked`]. Equal ones keep their order.
pub fn best_first(points: &[&Point]) -> Vec<usize> {
    if points.iter().any(|point| point.values.len() > 1) {
        return ranked(points).into_iter().map(|ranked| ranked.index).collect();
    }
    let (violation, value) = (|i: usize| points[i].violation, |i: usize| points[i].values[0]);
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| violation(*a).total_cmp(&violation(*b)).then(value(*b).total_cmp(&value(*a))));
    order
}

/// Volume that the points dominate above `reference`, by slicing along the last objective. Points that violate a
/// constraint or do not reach the reference add nothing.
pub fn hypervolume(points: &[&Point], reference: &[f64]) -> f64 {
    let above = |point: &&&Point| point.violation <= 0.0 && point.values.iter().zip(reference).all(|(v, r)| v > r);
    let values: Vec<Vec<f64>> = points.iter().filter(above).map(|point| point.values.clone()).collect();
    volume(values, reference)
}

fn volume(mut points: Vec<Vec<f64>>, reference: &[f64]) -> f64 {
    let Some((last, rest)) = reference.split_last() else { return 0.0 };
    if rest.is_empty() {
        return points.iter().map(|point| point[0] - last).fold(0.0, f64::max);
    }
    let axis = rest.len();
    points.sort_by(|a, b| b[axis].total_cmp(&a[axis]));
    let mut total = 0.0;
    for i in 0..points.len() {
        let below = points.get(i + 1).map_or(*last, |next| next[axis]);
        let height = points[i][axis] - below;
        if height > 0.0 {
            let slice = points[..=i].iter().map(|point| point[..axis].to_vec()).collect();
            total += height * volume(slice, rest);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[&[f64]]) -> Vec<Point> {
        values.iter().map(|values| Point::feasible(values.to_vec())).collect()
    }

    #[test]
    fn hypervolume_of_boxes_counted_by_hand() {
        let all = points(&[&[3.0, 1.0], &[2.0, 2.0], &[1.0, 3.0], &[1.0, 1.0], &[-1.0, 9.0]]);
        // Steps of 3, 2 and 1 squares; the fourth point is dominated, the fifth does not reach the reference.
        assert_eq!(hypervolume(&all.iter().collect::<Vec<_>>(), &[0.0, 0.0]), 6.0);
        let cubes = points(&[&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]]);
        // 6 + 6 - the common 1 x 2 x 1
        assert_eq!(hypervolume(&cubes.iter().collect::<Vec<_>>(), &[0.0; 3]), 10.0);
    }

    #[test]
    fn fronts_and_crowding_of_a_small_set() {
        let all = points(&[&[0.0, 4.0], &[1.0, 1.0], &[4.0, 0.0], &[2.0, 3.0], &[0.0, 0.0]]);
        let refs: Vec<&Point> = all.iter().collect();
        assert_eq!(fronts(&refs), [vec![0, 2, 3], vec![1], vec![4]]);
        let distances = crowding_distances(&[&all[0], &all[2], &all[3]]);
        assert_eq!(distances, [f64::INFINITY, f64::INFINITY, 2.0]);
        let worse = Point { values: vec![9.0, 9.0], violation: 0.1 };
        assert!(all[4].dominates(&worse) && !worse.dominates(&all[4]));
    }
}
