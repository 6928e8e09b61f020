//! Which decisions matter: the variance of a metric shared out among decisions and their pairs, by functional analysis of variance
//! over architectures that are all known. On a full table (every combination of choices once) this is the exact decomposition
//! of Hutter et al. 2014 and Hooker 2007 under the uniform distribution.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A metric over architectures, as numbers.
#[derive(Clone, Debug)]
pub struct Design<'a> {
    /// Choices of each decision.
    pub levels: Vec<usize>,
    /// Choices of each architecture.
    pub rows: Vec<&'a [u16]>,
    /// Its metric.
    pub values: Vec<f64>,
}

/// How the shares were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// From all architectures that take part.
    Exact,
    /// From a random forest on some of them.
    Forest,
}

/// Shares of the variance, between 0 and 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variance {
    /// How.
    pub method: Method,
    /// Variance of the metric over the architectures that take part.
    pub total: f64,
    /// Share that a decision explains by itself.
    pub main: BTreeMap<String, f64>,
    /// What two decisions, names in alphabetic order, explain together beyond the sum of what each does.
    pub pairs: BTreeMap<String, f64>,
}

/// Shares by the numbers of decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Of each decision.
    pub main: Vec<f64>,
    /// Of each pair `(i, j)`, `i < j`.
    pub pairs: Vec<(usize, usize, f64)>,
}

impl Shares {
    /// The shares with names.
    pub fn named(&self, method: Method, total: f64, names: &[String]) -> Variance {
        let pair = |(i, j, share): &(usize, usize, f64)| {
            let mut both = [names[*i].as_str(), names[*j].as_str()];
            both.sort_unstable();
            (both.join(","), *share)
        };
        Variance {
            method,
            total,
            main: names.iter().cloned().zip(self.main.iter().copied()).collect(),
            pairs: self.pairs.iter().map(pair).collect(),
        }
    }
}

/// All pairs `(i, j)`, `i < j`, of decisions that have a choice.
pub(super) fn pairs(levels: &[usize]) -> Vec<(usize, usize)> {
    let open: Vec<usize> = (0..levels.len()).filter(|i| levels[*i] > 1).collect();
    open.iter().enumerate().flat_map(|(k, j)| open[..k].iter().map(move |i| (*i, *j))).collect()
}

/// Sum and number by group.
#[derive(Clone, Copy, Default)]
struct Group {
    sum: f64,
    count: f64,
}

impl Group {
    fn mean(self) -> f64 {
        if self.count > 0.0 { self.sum / self.count } else { 0.0 }
    }
}

/// The shares of `design`, whose values are not all equal. A decision's share is the variance of the means by its choices; a
/// pair's is what the means by both choices explain beyond the best sum of a function of one and a function of the other. Where
/// architectures are missing, decisions depend on each other: then shares overlap, and their sum can exceed 1.
pub fn exact(design: &Design) -> Shares {
    let Design { levels, rows, values } = design;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let total: f64 = centred.iter().map(|value| value * value).sum();
    let grouped = |groups: usize, group: &dyn Fn(&[u16]) -> usize| {
        let mut found = vec![Group::default(); groups];
        for (row, value) in rows.iter().zip(&centred) {
            let Group { sum, count } = &mut found[group(row)];
            *sum += value;
            *count += 1.0;
        }
        found
    };
    let share = |explained: f64| (explained / total).clamp(0.0, 1.0);
    let main = |i: usize| {
        let groups = grouped(levels[i], &|row| usize::from(row[i]));
        share(groups.iter().map(|group| group.sum * group.mean()).sum())
    };
    let pair = |(i, j): (usize, usize)| {
        let cells = grouped(levels[i] * levels[j], &|row| usize::from(row[i]) * levels[j] + usize::from(row[j]));
        (i, j, share(interaction(&cells, levels[i], levels[j])))
    };
    Shares { main: (0..levels.len()).map(main).collect(), pairs: pairs(levels).into_iter().map(pair).collect() }
}

/// Sum of squares between the cells' means and their best approximation by a sum of a row's and a column's value, found by turns.
fn interaction(cells: &[Group], rows: usize, columns: usize) -> f64 {
    /// The first turn is exact where all cells have as many architectures; others converge within tens.
    const TURNS: usize = 10_000;
    const SMALL: f64 = 1e-13;
    let (mut of_row, mut of_column) = (vec![0.0; rows], vec![0.0; columns]);
    let scale = cells.iter().map(|cell| cell.mean().abs()).fold(0.0, f64::max);
    for _ in 0..TURNS {
        let mut moved = 0.0f64;
        for row in 0..rows {
            let fit = fitted((0..columns).map(|column| (cells[row * columns + column], of_column[column])));
            moved = moved.max((fit - of_row[row]).abs());
            of_row[row] = fit;
        }
        for column in 0..columns {
            let fit = fitted((0..rows).map(|row| (cells[row * columns + column], of_row[row])));
            moved = moved.max((fit - of_column[column]).abs());
            of_column[column] = fit;
        }
        if moved <= SMALL * scale {
            break;
        }
    }
    let square =
        |(k, cell): (usize, &Group)| cell.count * (cell.mean() - of_row[k / columns] - of_column[k % columns]).powi(2);
    cells.iter().enumerate().map(square).sum()
}

/// Mean of what the other factor leaves.
fn fitted(cells: impl Iterator<Item = (Group, f64)>) -> f64 {
    let left = cells.fold(Group::default(), |left, (cell, other)| Group {
        sum: left.sum + cell.sum - cell.count * other,
        count: left.count + cell.count,
    });
    left.mean()
}
