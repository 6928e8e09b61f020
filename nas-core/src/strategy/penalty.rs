//! What bounds ask of strategies that learn a distribution from values and not from ranks: one number for trials that break one, and
//! networks that no trial has had.

use std::collections::HashSet;

use crate::space::{Architecture, Observation};

/// A trial that breaks a bound counts as no better than the middle one of those that keep all bounds, less its violation (1 at
/// most) times the distance of their quartiles. Until one keeps all bounds, the middle and the quartiles are those of all.
///
/// Milder than to count it below the worst (Deb 2000, doi 10.1016/S0045-7825(99)00389-8): one bad network among the feasible
/// ones would make the penalty so large that a strategy learns nothing but to keep the bound.
#[derive(Debug, Default)]
pub(super) struct Penalty {
    /// Sorted values of the trials that keep all bounds, and of all trials.
    feasible: Vec<f64>,
    all: Vec<f64>,
    /// What trials have had, and whether one has broken a bound.
    seen: HashSet<Architecture>,
    is_bounded: bool,
}

impl Penalty {
    /// What `draw` gives; once a trial has broken a bound, the first of at most 100 draws that no trial has had, if there is one: a
    /// distribution that has settled learns nothing from what it draws again, and what keeps a bound is often beside it.
    pub fn fresh(&self, mut draw: impl FnMut() -> Architecture) -> Architecture {
        const DRAWS: usize = 100;
        let first = draw();
        if !self.is_bounded || !self.seen.contains(&first) {
            return first;
        }
        (1..DRAWS).map(|_| draw()).find(|arch| !self.seen.contains(arch)).unwrap_or(first)
    }

    /// The main objective with its penalty; `None` where the trial failed.
    pub fn value(&mut self, observation: &Observation) -> Option<f64> {
        self.seen.insert(observation.arch.clone());
        self.is_bounded |= observation.violation > 0.0;
        let value = observation.value()?;
        insert(&mut self.all, value);
        if observation.violation <= 0.0 {
            insert(&mut self.feasible, value);
            return Some(value);
        }
        let known = if self.feasible.is_empty() { &self.all } else { &self.feasible };
        let quartile = |quarter: usize| known[(known.len() - 1) * quarter / 4];
        Some(value.min(quartile(2)) - observation.violation.min(1.0) * (quartile(3) - quartile(1)))
    }
}

fn insert(sorted: &mut Vec<f64>, value: f64) {
    sorted.insert(sorted.partition_point(|other| *other < value), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Origin;

    #[test]
    fn what_a_trial_has_had_is_drawn_again_where_nothing_is_bounded() {
        let mut penalty = Penalty::default();
        let arch = |choice| Architecture::new(vec![choice]);
        let tell = |penalty: &mut Penalty, choice, violation| {
            let (values, origin) = (Some(vec![1.0]), Origin::Proposed);
            let (arch, epochs, parent) = (arch(choice), None, None);
            penalty.value(&Observation { id: 0, arch, epochs, parent, values, violation, origin });
        };
        let drawn = |penalty: &Penalty| {
            let mut draws = [3, 3, 5, 4].into_iter().cycle();
            penalty.fresh(|| arch(draws.next().unwrap()))
        };
        tell(&mut penalty, 3, 0.0);
        assert_eq!(drawn(&penalty), arch(3));
        tell(&mut penalty, 5, 0.2);
        assert_eq!(drawn(&penalty), arch(4));
        tell(&mut penalty, 4, 0.0);
        assert_eq!(drawn(&penalty), arch(3));
    }

    #[test]
    fn what_breaks_a_bound_is_worse_than_the_middle_of_what_keeps_it() {
        let mut penalty = Penalty::default();
        let mut value = |value: f64, violation: f64| {
            let (arch, origin) = (Architecture::new(vec![0]), Origin::Proposed);
            let values = Some(vec![value]);
            penalty.value(&Observation { id: 0, arch, epochs: None, parent: None, values, violation, origin }).unwrap()
        };
        assert_eq!(value(9.0, 0.5), 9.0);
        for feasible in [1.0, 2.0, 3.0, 4.0, 5.0] {
            assert_eq!(value(feasible, 0.0), feasible);
        }
        // Quartiles 2, 3 and 4.
        assert_eq!([value(9.0, 0.1), value(9.0, 3.0), value(1.0, f64::INFINITY)], [2.8, 1.0, -1.0]);
    }
}
