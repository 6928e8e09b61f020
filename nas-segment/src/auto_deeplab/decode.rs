//! From relaxed architecture parameters to an architecture (arXiv 1901.02985, section 4.2).

use nas_core::nn::Op;

use super::genotype::{Edge, OPS};

/// Levels of the trellis.
pub const LEVELS: usize = 4;

/// Transition probabilities `[layer][source level][step]`, step 0 to the finer level, 1 to the same, 2 to the coarser.
/// Entries of edges that do not exist are never looked at.
pub type Betas = Vec<[[f64; 3]; LEVELS]>;

/// The level that `step` leads to from `level`.
pub fn target(level: usize, step: usize) -> Option<usize> {
    (level + step).checked_sub(1).filter(|target| *target < LEVELS)
}

/// Levels that can be reached from `level`.
fn exits(level: usize) -> usize {
    (0..3).filter(|step| target(level, *step).is_some()).count()
}

/// The path that the transition probabilities speak for, and how clearly.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedPath {
    /// Levels of the layers.
    pub levels: Vec<usize>,
    /// By how much it is more probable than where all exits of a level are equally probable, as a natural logarithm: 0 for
    /// untrained parameters.
    pub over_uniform: f64,
    /// The same, above the second path's. Infinite where there is one path.
    pub over_second: f64,
}

/// The best path by the sum of `ln(probability * exits)`, by Viterbi with the two best paths into every level.
///
/// The factor takes out what the trellis says by itself: the outer levels have two exits and the inner ones three, so at equal
/// probabilities the product favours paths along the borders, and a search decoded by it can return its own prior.
pub fn viterbi(betas: &Betas) -> DecodedPath {
    /// Score of a path, and the level and rank of its last but one node.
    type Entry = (f64, usize, usize);
    let mut best: [Vec<f64>; LEVELS] = [vec![0.0], Vec::new(), Vec::new(), Vec::new()];
    let mut sources: Vec<[Vec<Entry>; LEVELS]> = Vec::with_capacity(betas.len());
    for layer in betas {
        let mut next: [Vec<Entry>; LEVELS] = Default::default();
        for (level, probabilities) in layer.iter().enumerate() {
            for (step, probability) in probabilities.iter().enumerate() {
                let Some(to) = target(level, step) else { continue };
                let gain = (probability * exits(level) as f64).ln();
                next[to].extend(best[level].iter().enumerate().map(|(rank, score)| (score + gain, level, rank)));
            }
        }
        for entries in &mut next {
            entries.sort_by(|a, b| b.0.total_cmp(&a.0));
            entries.truncate(2);
        }
        best = next.each_ref().map(|entries| entries.iter().map(|entry| entry.0).collect());
        sources.push(next);
    }
    let mut ends: Vec<Entry> = best
        .iter()
        .enumerate()
        .flat_map(|(level, scores)| scores.iter().enumerate().map(move |(r, s)| (*s, level, r)))
        .collect();
    ends.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (over_uniform, mut level, mut rank) = ends[0];
    let mut levels = Vec::with_capacity(betas.len());
    for layer in sources.iter().rev() {
        levels.push(level);
        (_, level, rank) = layer[level][rank];
    }
    levels.reverse();
    let over_second = ends.get(1).map_or(f64::INFINITY, |second| over_uniform - second.0);
    DecodedPath { levels, over_uniform, over_second }
}

/// Index of the first edge into `block`; edges are ordered by block, then by state.
pub fn first_edge(block: usize) -> usize {
    block * (block + 3) / 2
}

/// The cell of edge probabilities `alphas[edge][op]`: for each block the two states with the strongest operator, `none`
/// left out of both comparisons, and for each its strongest operator.
pub fn decode_cell(alphas: &[[f64; 8]], blocks: usize) -> Vec<[Edge; 2]> {
    (0..blocks)
        .map(|block| {
            let mut edges: Vec<(f64, Edge)> = (0..2 + block)
                .map(|state| {
                    let (op, strength) = strongest(&alphas[first_edge(block) + state]);
                    (strength, Edge { state, op })
                })
                .collect();
            edges.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut inputs = [edges[0].1, edges[1].1];
            inputs.sort_by_key(|edge| edge.state);
            inputs
        })
        .collect()
}

fn strongest(alphas: &[f64; 8]) -> (Op, f64) {
    let candidates = OPS.iter().copied().zip(*alphas).filter(|(op, _)| *op != Op::None);
    candidates.max_by(|a, b| a.1.total_cmp(&b.1)).expect("seven operators besides none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    fn paths(layers: usize) -> Vec<Vec<usize>> {
        (0..layers).fold(vec![vec![]], |paths, _| {
            paths
                .iter()
                .flat_map(|path| {
                    let level = path.last().copied().unwrap_or(0);
                    (0..3).filter_map(move |step| target(level, step)).map(move |next| [&path[..], &[next]].concat())
                })
                .collect()
        })
    }

    #[test]
    fn the_trellis_has_the_papers_paths_edges_and_nodes() {
        assert_eq!(paths(11).len(), 28657);
        assert_eq!(paths(12).len(), 75025);
        let edges = |layer: usize| -> usize {
            let exits = |level: usize| (0..3).filter(|step| target(level, *step).is_some()).count();
            (0..LEVELS.min(layer + 1)).map(exits).sum::<usize>()
        };
        assert_eq!((0..12).map(edges).collect::<Vec<_>>(), [2, 5, 8, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!((0..12).map(edges).sum::<usize>(), 105);
        assert_eq!((1..=12).map(|layer| (0..LEVELS).filter(|level| *level <= layer).count()).sum::<usize>(), 45);
    }

    #[test]
    fn viterbi_equals_brute_force_over_all_75025_paths() {
        let all = paths(12);
        let mut rng = nas_datasets::rng::stream(3, "viterbi", 0);
        for _ in 0..5 {
            let betas: Betas =
                (0..12).map(|_| std::array::from_fn(|_| std::array::from_fn(|_| rng.random()))).collect();
            let score = |path: &Vec<usize>| -> f64 {
                let from = std::iter::once(0).chain(path.iter().copied());
                let step = |((from, to), beta): ((usize, &usize), &[[f64; 3]; LEVELS])| {
                    (beta[from][to + 1 - from] * if from % 3 == 0 { 2.0 } else { 3.0 }).ln()
                };
                from.zip(path).zip(&betas).map(step).sum()
            };
            let mut ranked: Vec<(f64, &Vec<usize>)> = all.iter().map(|path| (score(path), path)).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            let found = viterbi(&betas);
            assert_eq!(&found.levels, ranked[0].1);
            assert!((found.over_uniform - ranked[0].0).abs() < 1e-9);
            assert!((found.over_second - (ranked[0].0 - ranked[1].0)).abs() < 1e-9);
        }
    }

    /// Untrained parameters speak for no path, and a small preference decides whatever the number of exits is.
    #[test]
    fn the_trellis_has_no_say() {
        let uniform = || -> [[f64; 3]; LEVELS] {
            let node = |level: usize| std::array::from_fn(|_| 1.0 / exits(level) as f64);
            std::array::from_fn(node)
        };
        let mut betas: Betas = (0..6).map(|_| uniform()).collect();
        let found = viterbi(&betas);
        assert!(found.over_uniform.abs() < 1e-12 && found.over_second.abs() < 1e-12, "{found:?}");
        // Down to the second level, there until the end: three exits each, so less probable than the border's.
        let preferred = [1, 2, 2, 2, 2, 2];
        let from = [0, 1, 2, 2, 2, 2];
        for (beta, (from, to)) in betas.iter_mut().zip(from.into_iter().zip(preferred)) {
            beta[from][to + 1 - from] *= 1.05;
        }
        let found = viterbi(&betas);
        assert_eq!(found.levels, preferred);
        assert!((found.over_uniform - 6.0 * 1.05f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn edges_are_twenty_at_five_blocks() {
        assert_eq!((0..=5).map(first_edge).collect::<Vec<_>>(), [0, 2, 5, 9, 14, 20]);
    }

    /// A strong `none` neither becomes an operator nor keeps its edge out, and operators stay with their states.
    #[test]
    fn the_cell_excludes_none_and_keeps_operators_with_their_states() {
        let mut alphas = vec![[0.01; 8]; 5];
        alphas[0][0] = 0.9;
        (alphas[0][5], alphas[1][6]) = (0.05, 0.3);
        (alphas[2][4], alphas[3][1], alphas[4][7]) = (0.2, 0.02, 0.6);
        let edge = |state, op| Edge { state, op };
        let expected = vec![
            [edge(0, Op::SepConv5x5), edge(1, Op::AtrousConv3x3)],
            [edge(0, Op::SepConv3x3), edge(2, Op::AtrousConv5x5)],
        ];
        assert_eq!(decode_cell(&alphas, 2), expected);
    }
}
