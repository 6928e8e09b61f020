//! Which decisions matter, from a log: functional analysis of variance of a random forest (Hutter, Hoos and Leyton-Brown, ICML
//! 2014). A tree is a function on all combinations of choices, so its decomposition under the uniform distribution follows from
//! the boxes of its leaves; the shares are the means over the trees. Combinations that a space does not allow count too.

use anyhow::{Result, ensure};
use nas_datasets::rng::stream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::variance::{Design, Shares, pairs};

/// Trees of a forest, as in optuna.
const TREES: u64 = 64;

/// Choices of a decision that a set of them can hold.
const MOST_CHOICES: usize = 128;

/// A box of choices and the value in it.
struct Leaf {
    /// One set of choices for each decision.
    choices: Vec<u128>,
    value: f64,
}

/// The shares by a forest of bootstrapped trees with leaves of one value. Decisions of more than 128 choices are refused.
pub fn forest(design: &Design, seed: u64) -> Result<Shares> {
    let most = design.levels.iter().copied().max().unwrap_or(0);
    ensure!(most <= MOST_CHOICES, "a decision has {most} choices; a forest takes at most {MOST_CHOICES}");
    let mut sum = Shares { main: vec![0.0; design.levels.len()], pairs: Vec::new() };
    sum.pairs = pairs(&design.levels).into_iter().map(|(i, j)| (i, j, 0.0)).collect();
    let mut trees = 0.0;
    for tree in 0..TREES {
        let leaves = grow(design, &mut stream(seed, "forest", tree));
        if let Some(shares) = decompose(&leaves, &design.levels) {
            trees += 1.0;
            sum.main.iter_mut().zip(shares.main).for_each(|(sum, share)| *sum += share);
            sum.pairs.iter_mut().zip(shares.pairs).for_each(|(sum, share)| sum.2 += share.2);
        }
    }
    ensure!(trees > 0.0, "no tree of the forest has found a split: {} values are too few", design.values.len());
    let mean = |share: f64| (share / trees).clamp(0.0, 1.0);
    sum.main.iter_mut().for_each(|share| *share = mean(*share));
    sum.pairs.iter_mut().for_each(|share| share.2 = mean(share.2));
    Ok(sum)
}

fn grow(design: &Design, rng: &mut ChaCha8Rng) -> Vec<Leaf> {
    let n = design.values.len();
    let all = |levels: &usize| if *levels == MOST_CHOICES { u128::MAX } else { (1 << levels) - 1 };
    let root: Vec<u128> = design.levels.iter().map(all).collect();
    let mut open = vec![(root, (0..n).map(|_| rng.random_range(0..n)).collect::<Vec<usize>>())];
    let mut leaves = Vec::new();
    while let Some((choices, rows)) = open.pop() {
        let Some((decision, left)) = best_split(design, &choices, &rows) else {
            let value = rows.iter().map(|row| design.values[*row]).sum::<f64>() / rows.len() as f64;
            leaves.push(Leaf { choices, value });
            continue;
        };
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            rows.into_iter().partition(|row| left >> design.rows[*row][decision] & 1 == 1);
        let mut rest = choices.clone();
        rest[decision] &= !left;
        let mut taken = choices;
        taken[decision] &= left;
        open.extend([(taken, inside), (rest, outside)]);
    }
    leaves
}

/// The decision and the set of its choices that leave the least squared error: sets of neighbours in the order of the choices'
/// means, which are the best of all sets. Choices that no row has go with the larger part.
fn best_split(design: &Design, choices: &[u128], rows: &[usize]) -> Option<(usize, u128)> {
    /// Relative to the squares of the values: less is rounding.
    const LEAST_GAIN: f64 = 1e-12;
    let total: f64 = rows.iter().map(|row| design.values[*row]).sum();
    let squares: f64 = rows.iter().map(|row| design.values[*row].powi(2)).sum();
    let n = rows.len() as f64;
    let mut best: Option<(f64, usize, u128)> = None;
    for decision in 0..choices.len() {
        let mut groups = vec![(0.0, 0.0); design.levels[decision]];
        for row in rows {
            let (sum, count) = &mut groups[usize::from(design.rows[*row][decision])];
            *sum += design.values[*row];
            *count += 1.0;
        }
        let mut order: Vec<usize> = (0..groups.len()).filter(|choice| groups[*choice].1 > 0.0).collect();
        order.sort_by(|a, b| (groups[*a].0 / groups[*a].1).total_cmp(&(groups[*b].0 / groups[*b].1)));
        let unseen =
            (0..groups.len()).filter(|choice| groups[*choice].1 == 0.0).fold(0, |set, choice| set | 1 << choice);
        let (mut sum, mut count, mut set) = (0.0, 0.0, 0u128);
        for choice in &order[..order.len().saturating_sub(1)] {
            sum += groups[*choice].0;
            count += groups[*choice].1;
            set |= 1 << choice;
            let gain = sum * sum / count + (total - sum).powi(2) / (n - count) - total * total / n;
            if gain > LEAST_GAIN * squares && best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, decision, if count > n - count { set | unseen } else { set }));
            }
        }
    }
    best.map(|(_, decision, set)| (decision, set))
}

/// The shares of a tree; none where it is constant.
fn decompose(leaves: &[Leaf], levels: &[usize]) -> Option<Shares> {
    // Parts of the choices that a leaf has, by decision.
    let part = |leaf: &Leaf, i: usize| f64::from(leaf.choices[i].count_ones()) / levels[i] as f64;
    let volumes: Vec<f64> = leaves.iter().map(|leaf| (0..levels.len()).map(|i| part(leaf, i)).product()).collect();
    let mean: f64 = leaves.iter().zip(&volumes).map(|(leaf, volume)| leaf.value * volume).sum();
    let total: f64 = leaves.iter().zip(&volumes).map(|(leaf, volume)| (leaf.value - mean).powi(2) * volume).sum();
    if total <= 0.0 {
        return None;
    }
    // Leaf by leaf, what it adds to the marginal of the choices of `decisions`.
    let density = |leaf: usize, decisions: &[usize]| {
        let parts: f64 = decisions.iter().map(|i| part(&leaves[leaf], *i)).product();
        (leaves[leaf].value - mean) * volumes[leaf] / parts
    };
    let members = |leaf: usize, i: usize| {
        let set = leaves[leaf].choices[i];
        (0..levels[i]).filter(move |choice| set >> choice & 1 == 1)
    };
    let mean_square = |marginal: &[f64]| marginal.iter().map(|a| a * a).sum::<f64>() / marginal.len() as f64;
    let main = |i: usize| {
        let mut marginal = vec![0.0; levels[i]];
        for leaf in 0..leaves.len() {
            let added = density(leaf, &[i]);
            members(leaf, i).for_each(|choice| marginal[choice] += added);
        }
        mean_square(&marginal) / total
    };
    let main: Vec<f64> = (0..levels.len()).map(main).collect();
    let pair = |(i, j): (usize, usize)| {
        let mut marginal = vec![0.0; levels[i] * levels[j]];
        for leaf in 0..leaves.len() {
            let added = density(leaf, &[i, j]);
            for a in members(leaf, i) {
                members(leaf, j).for_each(|b| marginal[a * levels[j] + b] += added);
            }
        }
        (i, j, (mean_square(&marginal) / total - main[i] - main[j]).max(0.0))
    };
    let pairs = pairs(levels).into_iter().map(pair).collect();
    Some(Shares { main, pairs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::analysis::variance::exact;

    /// A tree that has seen every combination once is the table itself.
    #[test]
    fn a_full_tree_decomposes_as_the_table() {
        let levels = vec![3, 4, 2];
        let rows: Vec<Vec<u16>> = (0..24u16).map(|i| vec![i / 8, i / 2 % 4, i % 2]).collect();
        let value = |row: &Vec<u16>| f64::from(row[0]) * f64::from(row[1]) + f64::from(row[2] * row[0]).sqrt();
        let values: Vec<f64> = rows.iter().map(value).collect();
        let design = Design { levels: levels.clone(), rows: rows.iter().map(Vec::as_slice).collect(), values };
        let leaf =
            |(row, value): (&Vec<u16>, &f64)| Leaf { choices: row.iter().map(|c| 1 << c).collect(), value: *value };
        let leaves: Vec<Leaf> = rows.iter().zip(&design.values).map(leaf).collect();
        let (found, expected) = (decompose(&leaves, &levels).unwrap(), exact(&design));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        found.main.iter().zip(&expected.main).for_each(|(a, b)| close(*a, *b));
        found.pairs.iter().zip(&expected.pairs).for_each(|(a, b)| close(a.2, b.2));
    }
}
