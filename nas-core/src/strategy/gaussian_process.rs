//! Bayesian optimisation with a Gaussian process: a Weisfeiler-Lehman kernel on the cell's graph where the space has one
//! (NAS-BOWL, Ru et al., arXiv 2006.07556), a Hamming kernel on the choices where it has none; expected improvement.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::history::{History, scores};
use super::registry::at_least;
use super::{Asking, Fitness, Generation, SearchStrategy, StrategyDef, StrategyInfo};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Graph, Observation};
use crate::stats::expected_improvement;

/// Parameters of Bayesian optimisation with a Gaussian process; the defaults are NAS-BOWL's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaussianProcessConfig {
    /// Random trials at the start.
    pub startup: usize,
    /// Trials that are proposed together.
    pub batch: usize,
    /// Candidates of which the best by expected improvement are proposed; half are mutants of the best so far.
    pub pool: usize,
    /// Best architectures so far that are mutated.
    pub parents: usize,
    /// Observations of which the process makes use: the best half and the latest half of this many.
    pub max_points: usize,
}

impl Default for GaussianProcessConfig {
    fn default() -> Self {
        Self { startup: 10, batch: 5, pool: 200, parents: 10, max_points: 300 }
    }
}

impl StrategyDef for GaussianProcessConfig {
    fn info(&self) -> StrategyInfo {
        StrategyInfo::new("gaussian_process", "Ru et al. 2020, arXiv 2006.07556")
    }

    fn check(&self) -> Result<()> {
        at_least(self, "startup", self.startup, 2)?;
        at_least(self, "batch", self.batch, 1)?;
        at_least(self, "pool", self.pool, self.batch)?;
        at_least(self, "max_points", self.max_points, 4)
    }

    fn build(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(GaussianProcess::new(self.clone(), space, rng))
    }
}

#[derive(Debug)]
pub(super) struct GaussianProcess {
    config: GaussianProcessConfig,
    generation: Generation,
    history: History,
}

impl GaussianProcess {
    pub fn new(config: GaussianProcessConfig, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let first = (0..config.startup).map(|_| space.sample(rng).into()).collect();
        Self { config, generation: Generation::new(first), history: History::default() }
    }

    fn propose(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Vec<Proposal> {
        let pool = self.history.candidates(space, self.config.pool, self.config.parents, rng);
        let data = self.informative();
        if data.len() < 2 || pool.is_empty() {
            return (0..self.config.batch).map(|_| space.sample(rng).into()).collect();
        }
        let archs: Vec<&Architecture> = data.iter().map(|(arch, _)| arch).chain(&pool).collect();
        let scores = scores(data.iter().map(|(_, fitness)| fitness));
        let grams = kernels(space, &archs);
        let process = Process::fit(&grams, &scores);
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut ranked: Vec<(f64, &Architecture)> = pool
            .iter()
            .enumerate()
            .map(|(i, arch)| {
                let (mean, deviation) = process.predict(data.len() + i);
                (expected_improvement(mean, deviation, best), arch)
            })
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.into_iter().take(self.config.batch).map(|(_, arch)| arch.clone().into()).collect()
    }

    /// All observations, or the best and the latest where there are too many.
    fn informative(&self) -> Vec<(Architecture, Fitness)> {
        let (n, half) = (self.history.len(), self.config.max_points / 2);
        if n <= self.config.max_points {
            return self.history.trials.clone();
        }
        let (old, latest) = self.history.trials.split_at(n - half);
        let mut best: Vec<&(Architecture, Fitness)> = old.iter().collect();
        best.sort_by(|a, b| b.1.cmp(&a.1));
        best.into_iter().take(half).chain(latest).cloned().collect()
    }
}

impl SearchStrategy for GaussianProcess {
    fn ask(&self, asking: &Asking, _: &mut ChaCha8Rng) -> Option<Proposal> {
        self.generation.get(asking.id)
    }

    fn tell(&mut self, space: &dyn ChoiceSpace, observation: &Observation, rng: &mut ChaCha8Rng) {
        self.history.observe(observation);
        if self.generation.end(observation) {
            let proposals = self.propose(space, rng);
            self.generation.next(proposals);
        }
    }

    fn begin(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) {
        if self.history.len() >= self.config.startup {
            let proposals = self.propose(space, rng);
            self.generation.next(proposals);
        }
    }
}

/// Gram matrices of all candidates for the kernel: Weisfeiler-Lehman of depth 0 to 3, or Hamming of four lengths.
pub(crate) fn kernels(space: &dyn ChoiceSpace, archs: &[&Architecture]) -> Vec<DMatrix<f64>> {
    const DEPTHS: usize = 4;
    match archs.iter().map(|arch| space.graph(arch)).collect::<Option<Vec<Graph>>>() {
        Some(graphs) => weisfeiler_lehman(&graphs, DEPTHS),
        None => [1.0, 2.0, 4.0, 8.0].map(|decay| hamming(archs, decay)).into(),
    }
}

fn hamming(archs: &[&Architecture], decay: f64) -> DMatrix<f64> {
    DMatrix::from_fn(archs.len(), archs.len(), |i, j| {
        let (a, b) = (archs[i].choices(), archs[j].choices());
        let different = a.iter().zip(b).filter(|(a, b)| a != b).count();
        (-decay * different as f64 / a.len() as f64).exp()
    })
}

/// For each depth h the normalised count of common labels over all depths up to h. A node's next label is its label with
/// the sorted labels of its predecessors.
fn weisfeiler_lehman(graphs: &[Graph], depths: usize) -> Vec<DMatrix<f64>> {
    let mut dictionary: HashMap<(usize, Vec<usize>), usize> = HashMap::new();
    let mut labels: Vec<Vec<usize>> =
        graphs.iter().map(|graph| graph.labels.iter().map(|label| usize::from(*label)).collect()).collect();
    let mut next_label = labels.iter().flatten().max().map_or(0, |label| label + 1);
    let mut counts: Vec<BTreeMap<usize, f64>> = vec![BTreeMap::new(); graphs.len()];
    let mut grams = Vec::new();
    for _ in 0..depths {
        for (counts, labels) in counts.iter_mut().zip(&labels) {
            labels.iter().for_each(|label| *counts.entry(*label).or_default() += 1.0);
        }
        grams.push(normalized_gram(&counts));
        for (labels, graph) in labels.iter_mut().zip(graphs) {
            let old = labels.clone();
            for (node, label) in labels.iter_mut().enumerate() {
                let into = graph.edges.iter().filter(|(_, to)| *to == node);
                let mut before: Vec<usize> = into.map(|(from, _)| old[*from]).collect();
                before.sort_unstable();
                *label = *dictionary.entry((old[node], before)).or_insert_with(|| {
                    next_label += 1;
                    next_label - 1
                });
            }
        }
    }
    grams
}

fn normalized_gram(counts: &[BTreeMap<usize, f64>]) -> DMatrix<f64> {
    let lists: Vec<Vec<(usize, f64)>> =
        counts.iter().map(|counts| counts.iter().map(|(label, count)| (*label, *count)).collect()).collect();
    let norms: Vec<f64> = lists.iter().map(|list| list.iter().map(|(_, c)| c * c).sum::<f64>().sqrt()).collect();
    let n = lists.len();
    let mut gram = DMatrix::zeros(n, n);
    for i in 0..n {
        for j in 0..=i {
            let value = sparse_dot(&lists[i], &lists[j]) / (norms[i] * norms[j]);
            gram[(i, j)] = value;
            gram[(j, i)] = value;
        }
    }
    gram
}

fn sparse_dot(a: &[(usize, f64)], b: &[(usize, f64)]) -> f64 {
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while i < a.len() && j < b.len() {
        match a[i].0.cmp(&b[j].0) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                sum += a[i].1 * b[j].1;
                i += 1;
                j += 1;
            }
        }
    }
    sum
}

/// A Gaussian process on the first points of a Gram matrix; the points after them are candidates.
pub(crate) struct Process<'a> {
    /// Number of the kernel.
    pub kernel: usize,
    gram: &'a DMatrix<f64>,
    cholesky: Cholesky<f64, Dyn>,
    /// Inverse covariance times the observations: the mean at a point is the kernel's row times these.
    pub weights: DVector<f64>,
    variance: f64,
}

impl<'a> Process<'a> {
    /// Kernel and noise of the largest marginal likelihood; the signal's variance is the one that maximises it.
    pub fn fit(grams: &'a [DMatrix<f64>], observations: &[f64]) -> Self {
        const NOISES: [f64; 4] = [1e-3, 1e-2, 5e-2, 2e-1];
        let n = observations.len();
        let y = DVector::from_column_slice(observations);
        let mut best: Option<(f64, Self)> = None;
        for (kernel, gram) in grams.iter().enumerate() {
            for noise in NOISES {
                let mut covariance = gram.view((0, 0), (n, n)).into_owned();
                (0..n).for_each(|i| covariance[(i, i)] += noise);
                let Some(cholesky) = covariance.cholesky() else { continue };
                let weights = cholesky.solve(&y);
                let variance = (y.dot(&weights) / n as f64).max(1e-12);
                let half_log_determinant: f64 = cholesky.l_dirty().diagonal().iter().map(|x| x.ln()).sum();
                let likelihood = -0.5 * n as f64 * variance.ln() - half_log_determinant;
                if best.as_ref().is_none_or(|(other, _)| likelihood > *other) {
                    best = Some((likelihood, Self { kernel, gram, cholesky, weights, variance }));
                }
            }
        }
        best.expect("a kernel with noise on its diagonal is positive definite").1
    }

    /// Mean and deviation at a point of the Gram matrix.
    fn predict(&self, point: usize) -> (f64, f64) {
        let n = self.weights.len();
        let covariance = self.gram.view((0, point), (n, 1)).into_owned();
        let mean = covariance.column(0).dot(&self.weights);
        let mut half = covariance;
        self.cholesky.l_dirty().solve_lower_triangular_mut(&mut half);
        let left = (self.gram[(point, point)] - half.norm_squared()).max(1e-9);
        (mean, (self.variance * left).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(labels: &[u16]) -> Graph {
        Graph { labels: labels.to_vec(), edges: (1..labels.len()).map(|i| (i - 1, i)).collect() }
    }

    #[test]
    fn the_kernel_tells_order_from_depth_one_on() {
        let grams = weisfeiler_lehman(&[chain(&[0, 2, 3, 1]), chain(&[0, 3, 2, 1]), chain(&[0, 2, 3, 1])], 2);
        // Depth 0: the same labels. Depth 1: by hand, labels 4 + common next labels 1 (the input without predecessors).
        assert!((grams[0][(0, 1)] - 1.0).abs() < 1e-12 && (grams[1][(0, 2)] - 1.0).abs() < 1e-12);
        assert!((grams[1][(0, 1)] - 5.0 / 8.0).abs() < 1e-12, "{}", grams[1][(0, 1)]);
    }

    #[test]
    fn a_process_passes_through_its_points_and_is_unsure_elsewhere() {
        let archs: Vec<Architecture> = ["0-0-0-0", "0-0-0-1", "1-1-1-1", "2-2-2-2"].map(|a| a.parse().unwrap()).into();
        let grams = vec![hamming(&archs.iter().collect::<Vec<_>>(), 8.0)];
        let process = Process::fit(&grams, &[1.0, 0.9, -1.0]);
        let (near, sure) = process.predict(0);
        let (far, unsure) = process.predict(3);
        assert!((near - 1.0).abs() < 0.1 && far.abs() < 0.1, "{near} {far}");
        assert!(unsure > 3.0 * sure, "{sure} {unsure}");
    }
}
