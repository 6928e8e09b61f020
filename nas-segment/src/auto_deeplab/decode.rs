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

/// The most probable path, by Viterbi in log space: products of twelve probabilities are small, their logs are not.
pub fn viterbi(betas: &Betas) -> Vec<usize> {
    let mut scores = [0.0, f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    let mut sources = Vec::with_capacity(betas.len());
    for layer in betas {
        let mut next = [f64::NEG_INFINITY; LEVELS];
        let mut source = [0; LEVELS];
        for (level, probabilities) in layer.iter().enumerate() {
            for (step, probability) in probabilities.iter().enumerate() {
                let Some(to) = target(level, step) else { continue };
                let score = scores[level] + probability.ln();
                if score > next[to] {
                    (next[to], source[to]) = (score, level);
                }
            }
        }
        scores = next;
        sources.push(source);
    }
    let best = |best: usize, level: usize| if scores[level] > scores[best] { level } else { best };
    let mut level = (0..LEVELS).fold(0, best);
    let mut path = Vec::with_capacity(betas.len());
    for source in sources.iter().rev() {
        path.push(level);
        level = source[level];
    }
    path.reverse();
    path
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
            let probability = |path: &Vec<usize>| -> f64 {
                let from = std::iter::once(0).chain(path.iter().copied());
                from.zip(path).zip(&betas).map(|((from, to), beta)| beta[from][to + 1 - from].ln()).sum()
            };
            let best = all.iter().max_by(|a, b| probability(a).total_cmp(&probability(b))).unwrap();
            assert_eq!(&viterbi(&betas), best);
        }
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
