//! Bayesian optimisation with a Gaussian process: a Weisfeiler-Lehman kernel on the cell's graph where the space has one
//! (NAS-BOWL, Ru et al., arXiv 2006.07556), a Hamming kernel on its traits where it has none; expected improvement. Where trials
//! have broken bounds, it is weighted with the probability that they are kept, of a process of its own (Gardner et al. 2014,
//! "Bayesian optimization with inequality constraints").

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::history::{History, scores};
use super::registry::at_least;
use super::{Asking, Fitness, Generation, SearchStrategy, StrategyDef, StrategyInfo};
use crate::space::Architecture;
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Graph, Observation};
use crate::stats::{expected_improvement, normal_cdf};

/// Parameters of Bayesian optimisation with a Gaussian process; the defaults are NAS-BOWL's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// How often as many candidates again are added, mutants of as many as `parents` that promise most: where an architecture has
    /// dozens of decisions, one mutation of what was tried and random ones do not come near the largest improvement.
    pub climbs: usize,
    /// Observations that the process is fitted to: the best half and the latest half of this many. Those that come until it is
    /// fitted again are added.
    pub max_points: usize,
}

impl Default for GaussianProcessConfig {
    fn default() -> Self {
        Self { startup: 10, batch: 5, pool: 200, parents: 10, climbs: 0, max_points: 300 }
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
    value: Option<Surrogate>,
    /// Where a trial has broken a bound.
    violation: Option<Surrogate>,
}

impl GaussianProcess {
    pub fn new(config: GaussianProcessConfig, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Self {
        let first = (0..config.startup).map(|_| space.sample(rng).into()).collect();
        Self { config, generation: Generation::new(first), history: History::default(), value: None, violation: None }
    }

    fn propose(&mut self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Vec<Proposal> {
        let GaussianProcessConfig { batch, pool: size, parents, climbs, .. } = self.config;
        let mut pool = self.history.candidates(space, size, parents, rng);
        if self.history.len() < 2 || pool.is_empty() {
            return (0..batch).map(|_| space.sample(rng).into()).collect();
        }
        let last = self.value.take();
        let mut value = self.up_to_date(last, Aspect::Value, space);
        let bounded = self.history.trials.iter().any(|(_, fitness)| fitness.violation > 0.0);
        let last = self.violation.take();
        let mut violation = bounded.then(|| self.up_to_date(last, Aspect::Violation, space));
        let mut chances = Vec::new();
        let mut promising = |pool: &[Architecture], count| {
            let of = |arch| violation.as_mut().map_or(1.0, |violation| violation.chance(space, arch));
            chances.extend(pool[chances.len()..].iter().map(of));
            value.best(space, pool, &chances, count)
        };
        for _ in 0..climbs {
            let around = promising(&pool, parents.max(1));
            pool.extend(self.history.around(space, &pool, &around, size, rng));
        }
        let best = promising(&pool, batch);
        (self.value, self.violation) = (Some(value), violation);
        best.into_iter().map(|i| pool[i].clone().into()).collect()
    }

    /// The last model with all trials: grown by the new ones, or fitted anew when there are half as many again as at its last fit.
    fn up_to_date(&self, last: Option<Surrogate>, aspect: Aspect, space: &dyn ChoiceSpace) -> Surrogate {
        let trials = &self.history.trials;
        let grown = last.filter(|model| trials.len() < model.fitted + model.fitted.div_ceil(2));
        let grown = grown.and_then(|mut model| {
            let fits = trials[model.told..].iter().all(|trial| model.push(space, trial));
            model.told = trials.len();
            fits.then_some(model)
        });
        let mut model = grown.unwrap_or_else(|| Surrogate::fit(space, aspect, self.informative(), trials.len()));
        model.weigh();
        model
    }

    /// All observations, or the best and the latest where there are too many.
    fn informative(&self) -> Vec<(Architecture, Fitness)> {
        let (n, half) = (self.history.len(), self.config.max_points / 2);
        if n <= self.config.max_points {
            return self.history.trials.clone();
        }
        let (old, latest) = self.history.trials.split_at(n - half);
        let mut best: Vec<&(Architecture, Fitness)> = old.iter().collect();
        best.sort_by_key(|(_, fitness)| Reverse(*fitness));
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

/// What of a trial a process is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aspect {
    /// The objective, whether bounds are kept or not.
    Value,
    /// How far bounds are kept.
    Violation,
}

impl Aspect {
    fn scores(self, trials: &[Fitness]) -> Vec<f64> {
        let of = |fitness: &Fitness| match self {
            Self::Value => Fitness { violation: 0.0, ..*fitness },
            Self::Violation => Fitness { value: 0.0, ..*fitness },
        };
        scores(trials.iter().map(of).collect::<Vec<_>>().iter())
    }
}

/// A process on trials that can be added one by one.
#[derive(Debug)]
pub(crate) struct Surrogate {
    aspect: Aspect,
    kernel: usize,
    noise: f64,
    features: Features,
    factor: Factor,
    fitness: Vec<Fitness>,
    /// Trials of the history at the last fit, and those that it was told of.
    fitted: usize,
    told: usize,
    /// Largest normal score that a trial that keeps all bounds is expected to have: what it had was luck too. None where none
    /// keeps them.
    best: Option<f64>,
    /// Half way between the normal scores of trials that keep all bounds and those that do not, of a process on violations.
    threshold: f64,
    /// Inverse covariance times the scores.
    weights: Vec<f64>,
    variance: f64,
}

impl Surrogate {
    /// Kernel and noise of the largest marginal likelihood; the signal's variance is the one that maximises it.
    fn fit(space: &dyn ChoiceSpace, aspect: Aspect, trials: Vec<(Architecture, Fitness)>, told: usize) -> Self {
        let mut features = Features::default();
        let mut rows: [Vec<Vec<f64>>; KERNELS] = Default::default();
        for (arch, _) in &trials {
            let point = features.of(space, arch);
            for (kernel, rows) in rows.iter_mut().enumerate() {
                rows.push(features.row(kernel, &point));
            }
            features.push(point);
        }
        let fitness: Vec<Fitness> = trials.into_iter().map(|(_, fitness)| fitness).collect();
        let y = aspect.scores(&fitness);
        let mut best: Option<(f64, usize, f64, Factor)> = None;
        for (kernel, rows) in rows.iter().enumerate() {
            for noise in NOISES {
                let mut factor = Factor::default();
                if !rows.iter().all(|row| factor.push(row, 1.0 + noise)) {
                    continue;
                }
                let likelihood = factor.likelihood(&y);
                if best.as_ref().is_none_or(|(other, ..)| likelihood > *other) {
                    best = Some((likelihood, kernel, noise, factor));
                }
            }
        }
        let (_, kernel, noise, factor) = best.expect("a kernel with noise on its diagonal is positive definite");
        let (weights, variance, best, threshold) = (Vec::new(), 0.0, None, 0.0);
        Self {
            aspect,
            kernel,
            noise,
            features,
            factor,
            fitness,
            fitted: told,
            told,
            best,
            threshold,
            weights,
            variance,
        }
    }

    /// A process on architectures and their values, larger is better, with its weights.
    pub fn of_values(space: &dyn ChoiceSpace, evaluated: &[(Architecture, f64)]) -> Self {
        let trial = |(arch, value): &(Architecture, f64)| (arch.clone(), Fitness { violation: 0.0, value: *value });
        let mut process = Self::fit(space, Aspect::Value, evaluated.iter().map(trial).collect(), evaluated.len());
        process.weigh();
        process
    }

    /// The normal score that an architecture is expected to have.
    pub fn mean(&self, space: &dyn ChoiceSpace, arch: &Architecture) -> f64 {
        let point = match space.graph(arch) {
            Some(graph) => Point::Labels(self.features.labels.clone().of(&graph)),
            None => Point::Traits(space.traits(arch)),
        };
        dot(&self.features.row(self.kernel, &point), &self.weights)
    }

    /// Adds a trial; false where the covariance is no longer positive definite.
    fn push(&mut self, space: &dyn ChoiceSpace, (arch, fitness): &(Architecture, Fitness)) -> bool {
        let point = self.features.of(space, arch);
        let row = self.features.row(self.kernel, &point);
        self.features.push(point);
        self.fitness.push(*fitness);
        self.factor.push(&row, 1.0 + self.noise)
    }

    /// Weights of the trials by their normal scores, which change with every trial.
    fn weigh(&mut self) {
        let y = self.aspect.scores(&self.fitness);
        self.weights = self.factor.solve(&y);
        self.variance = (dot(&y, &self.weights) / y.len() as f64).max(1e-12);
        let of = |keeps: bool| {
            let trials = self.fitness.iter().zip(&y).filter(move |(fitness, _)| (fitness.violation <= 0.0) == keeps);
            trials.map(|(_, score)| *score)
        };
        let smooth = y.iter().zip(&self.weights).map(|(score, weight)| score - self.noise * weight);
        let kept = smooth.zip(&self.fitness).filter(|(_, fitness)| fitness.violation <= 0.0);
        self.best = kept.map(|(mean, _)| mean).reduce(f64::max);
        // Where none keeps the bounds, to be among the best is all that can be hoped for.
        let (least, most) = (of(true).reduce(f64::min), of(false).reduce(f64::max).unwrap_or(f64::NEG_INFINITY));
        self.threshold = least.map_or(most, |least| (least + most) / 2.0);
    }

    /// Probability that an architecture keeps all bounds, of a process on violations.
    fn chance(&mut self, space: &dyn ChoiceSpace, arch: &Architecture) -> f64 {
        let point = self.features.of(space, arch);
        let row = self.features.row(self.kernel, &point);
        normal_cdf((dot(&row, &self.weights) - self.threshold) / self.deviation(&row))
    }

    /// Deviation of the score of a point with these kernels to the trials.
    fn deviation(&self, row: &[f64]) -> f64 {
        let half = self.factor.forward(row);
        let left = (1.0 - dot(&half, &half)).max(1e-9);
        (self.variance * left).sqrt()
    }

    /// Places in `pool` of the `count` largest expected improvements, each times the chance that the bounds are kept, the largest
    /// first. Of equal ones the first. Where no trial keeps the bounds, the chance alone counts.
    fn best(&mut self, space: &dyn ChoiceSpace, pool: &[Architecture], chances: &[f64], count: usize) -> Vec<usize> {
        let best = self.best;
        let gain = |mean, deviation, i: usize| {
            best.map_or(1.0, |best| expected_improvement(mean, deviation, best)) * chances[i]
        };
        let bounded = |(i, arch): (usize, &Architecture)| {
            let point = self.features.of(space, arch);
            let row = self.features.row(self.kernel, &point);
            let mean = dot(&row, &self.weights);
            // The deviation is at most the signal's, and the improvement grows with it.
            (gain(mean, self.variance.sqrt(), i), mean, row, i)
        };
        let mut bounds: Vec<(f64, f64, Vec<f64>, usize)> = pool.iter().enumerate().map(bounded).collect();
        bounds.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut found: Vec<(f64, usize)> = Vec::new();
        for (bound, mean, row, i) in bounds {
            if found.len() == count && found[count - 1].0 > bound {
                break;
            }
            let improvement = gain(mean, self.deviation(&row), i);
            let place = found.partition_point(|(other, j)| *other > improvement || (*other == improvement && *j < i));
            found.insert(place, (improvement, i));
            found.truncate(count);
        }
        found.into_iter().map(|(_, i)| i).collect()
    }
}

/// Kernels of which the likeliest is taken: Weisfeiler-Lehman of depth 0 to 3, or Hamming of four lengths.
const KERNELS: usize = 4;
const DECAYS: [f64; KERNELS] = [0.25, 1.0, 2.0, 4.0];

/// Noises of which the likeliest is taken, as parts of the signal's variance.
const NOISES: [f64; 4] = [1e-3, 1e-2, 5e-2, 2e-1];

/// What the kernels compare of an architecture.
#[derive(Clone, Debug)]
enum Point {
    /// Labels of the graph's nodes and how often each occurs, by depth.
    Labels([Vec<(usize, f64)>; KERNELS]),
    /// Without a graph its traits.
    Traits(Vec<u16>),
}

/// Points, and for every label those that have it.
#[derive(Clone, Debug, Default)]
struct Features {
    labels: Labels,
    points: Vec<Point>,
    /// Number of a point and how often it has the label, by label.
    postings: Vec<Vec<(u32, f64)>>,
    /// Norms of each point by depth.
    norms: Vec<[f64; KERNELS]>,
}

impl Features {
    fn of(&mut self, space: &dyn ChoiceSpace, arch: &Architecture) -> Point {
        match space.graph(arch) {
            Some(graph) => Point::Labels(self.labels.of(&graph)),
            None => Point::Traits(space.traits(arch)),
        }
    }

    fn push(&mut self, point: Point) {
        if let Point::Labels(depths) = &point {
            let number = self.points.len() as u32;
            for (label, count) in depths.iter().flatten() {
                if self.postings.len() <= *label {
                    self.postings.resize(label + 1, Vec::new());
                }
                self.postings[*label].push((number, *count));
            }
            self.norms.push(norms(depths));
        }
        self.points.push(point);
    }

    /// The kernel of a point with each of these.
    fn row(&self, kernel: usize, point: &Point) -> Vec<f64> {
        match point {
            Point::Labels(depths) => {
                let mut row = vec![0.0; self.points.len()];
                for (label, count) in depths[..=kernel].iter().flatten() {
                    for (other, times) in self.postings.get(*label).into_iter().flatten() {
                        row[*other as usize] += count * times;
                    }
                }
                let norm = norms(depths)[kernel];
                row.iter_mut().zip(&self.norms).for_each(|(dot, norms)| *dot /= norm * norms[kernel]);
                row
            }
            Point::Traits(traits) => {
                let other = |point: &Point| match point {
                    Point::Traits(other) => hamming(traits, other, DECAYS[kernel]),
                    Point::Labels(_) => 0.0,
                };
                self.points.iter().map(other).collect()
            }
        }
    }
}

/// Norms of the counts of all labels up to each depth.
fn norms(depths: &[Vec<(usize, f64)>; KERNELS]) -> [f64; KERNELS] {
    let mut square = 0.0;
    depths.each_ref().map(|labels| {
        square += labels.iter().map(|(_, count)| count * count).sum::<f64>();
        square.sqrt()
    })
}

/// The rows of a lower triangular matrix, Cholesky's factor of a covariance. A row more costs as much as solving with it.
#[derive(Debug, Default)]
struct Factor {
    rows: Vec<Vec<f64>>,
}

impl Factor {
    /// Adds a point with its covariances with those before and its variance; false, and nothing is added, where the matrix is
    /// not positive definite.
    fn push(&mut self, covariances: &[f64], variance: f64) -> bool {
        let mut row = self.forward(covariances);
        let square = variance - dot(&row, &row);
        if square > 0.0 {
            row.push(square.sqrt());
            self.rows.push(row);
        }
        square > 0.0
    }

    /// Solves `L x = b`.
    fn forward(&self, b: &[f64]) -> Vec<f64> {
        let mut x: Vec<f64> = Vec::with_capacity(b.len() + 1);
        for (row, b) in self.rows.iter().zip(b) {
            let i = x.len();
            x.push((b - dot(&row[..i], &x)) / row[i]);
        }
        x
    }

    /// Solves `L L' x = b`.
    fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = self.forward(b);
        for (i, row) in self.rows.iter().enumerate().rev() {
            x[i] /= row[i];
            let (before, at) = x.split_at_mut(i);
            before.iter_mut().zip(row).for_each(|(x, l)| *x -= at[0] * l);
        }
        x
    }

    /// Logarithm of the marginal likelihood of `y` at its likeliest variance, but for a constant.
    fn likelihood(&self, y: &[f64]) -> f64 {
        let half = self.forward(y);
        let n = y.len() as f64;
        let variance = (dot(&half, &half) / n).max(1e-12);
        let half_log_determinant: f64 = self.rows.iter().enumerate().map(|(i, row)| row[i].ln()).sum();
        -0.5 * n * variance.ln() - half_log_determinant
    }
}

/// Sum of products, in four sums that can be computed at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_blocks, b_blocks) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 4];
    for (a, b) in a_blocks.zip(b_blocks) {
        (0..4).for_each(|i| sums[i] += a[i] * b[i]);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

fn hamming(a: &[u16], b: &[u16], decay: f64) -> f64 {
    let different = a.iter().zip(b).filter(|(a, b)| a != b).count();
    (-decay * different as f64 / a.len() as f64).exp()
}

/// The labels of Weisfeiler and Lehman: at depth 0 a node's own, at each further depth its label with the sorted labels of its
/// predecessors. The kernel of depth h is the normalised count of common labels over all depths up to h.
#[derive(Clone, Debug, Default)]
struct Labels {
    numbers: HashMap<(usize, Vec<usize>), usize>,
}

impl Labels {
    /// Depth, as the first part of a key of what is no label yet.
    const OWN: usize = usize::MAX;

    fn number(&mut self, label: usize, before: Vec<usize>) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry((label, before)).or_insert(next)
    }

    /// The graph's labels and how often each occurs, by depth.
    fn of(&mut self, graph: &Graph) -> [Vec<(usize, f64)>; KERNELS] {
        let mut labels: Vec<usize> =
            graph.labels.iter().map(|label| self.number(Self::OWN, vec![usize::from(*label)])).collect();
        std::array::from_fn(|depth| {
            if depth > 0 {
                let next = |node: usize| {
                    let into = graph.edges.iter().filter(|(_, to)| *to == node);
                    let mut before: Vec<usize> = into.map(|(from, _)| labels[*from]).collect();
                    before.sort_unstable();
                    self.number(labels[node], before)
                };
                labels = (0..labels.len()).map(next).collect();
            }
            let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
            labels.iter().for_each(|label| *counts.entry(*label).or_default() += 1.0);
            counts.into_iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// The matrix `[n, n]` of one kernel between all architectures.
    fn gram(space: &dyn ChoiceSpace, archs: &[Architecture], kernel: usize) -> Tensor {
        let n = archs.len();
        let (mut features, mut gram) = (Features::default(), vec![0.0; n * n]);
        for (i, arch) in archs.iter().enumerate() {
            let point = features.of(space, arch);
            gram[i * n + i] = 1.0;
            for (j, value) in features.row(kernel, &point).into_iter().enumerate() {
                (gram[i * n + j], gram[j * n + i]) = (value, value);
            }
            features.push(point);
        }
        Tensor::from_slice(&gram).view([n as i64, n as i64])
    }

    fn chain(labels: &[u16]) -> Graph {
        Graph { labels: labels.to_vec(), edges: (1..labels.len()).map(|i| (i - 1, i)).collect() }
    }

    #[test]
    fn the_kernel_tells_order_from_depth_one_on() {
        let mut features = Features::default();
        for labels in [[0, 2, 3, 1], [0, 3, 2, 1], [0, 2, 3, 1]] {
            let point = Point::Labels(features.labels.of(&chain(&labels)));
            features.push(point);
        }
        let row = |kernel| features.row(kernel, &features.points[0]);
        // Depth 0: the same labels. Depth 1: by hand, labels 4 + common next labels 1 (the input without predecessors).
        assert!((row(0)[1] - 1.0).abs() < 1e-12 && (row(1)[2] - 1.0).abs() < 1e-12);
        assert!((row(1)[1] - 5.0 / 8.0).abs() < 1e-12, "{}", row(1)[1]);
    }

    /// A process that grows by one trial after the other is the one that is made of all at once.
    #[test]
    fn a_factor_that_grows_solves_like_a_new_one_and_the_best_are_those_of_the_whole_pool() {
        let mut rng = nas_datasets::rng::stream(0, "factor", 0);
        let archs: Vec<Architecture> =
            (0..80).map(|_| Architecture::new((0..6).map(|_| rng.random_range(0..4)).collect())).collect();
        let y = |arch: &Architecture| f64::from(arch.choices().iter().sum::<u16>());
        let trial = |arch: &Architecture| (arch.clone(), Fitness { violation: 0.0, value: y(arch) });
        let space = Plain;
        let (first, rest) = archs[..60].split_at(20);
        let mut grown = Surrogate::fit(&space, Aspect::Value, first.iter().map(trial).collect(), 20);
        assert!(rest.iter().all(|arch| grown.push(&space, &trial(arch))));
        grown.weigh();
        let gram = gram(&space, &archs, grown.kernel);
        let covariance =
            gram.narrow(0, 0, 60).narrow(1, 0, 60) + Tensor::eye(60, (Kind::Double, Device::Cpu)) * grown.noise;
        let factor = covariance.linalg_cholesky(false);
        let solve = |ys: &Tensor| ys.unsqueeze(1).cholesky_solve(&factor, false).squeeze_dim(1);
        let scores = Tensor::from_slice(&scores(grown.fitness.iter()));
        let weights = solve(&scores);
        assert!(weights.allclose(&Tensor::from_slice(&grown.weights), 0.0, 1e-8, false));
        let dot = |a: &Tensor, b: &Tensor| a.dot(b).double_value(&[]);
        let variance = dot(&scores, &weights) / 60.0;
        let improvement = |i: usize| {
            let row = gram.narrow(0, 0, 60).select(1, i as i64);
            let left: f64 = 1.0 - dot(&row, &solve(&row));
            expected_improvement(dot(&row, &weights), (variance * left.max(1e-9)).sqrt(), grown.best.unwrap())
        };
        let mut order: Vec<usize> = (60..80).collect();
        order.sort_by(|a, b| improvement(*b).total_cmp(&improvement(*a)));
        let expected: Vec<usize> = order[..5].iter().map(|i| i - 60).collect();
        assert_eq!(grown.best(&space, &archs[60..], &[1.0; 20], 5), expected);
    }

    #[test]
    fn the_incumbent_is_not_the_luckiest_trial() {
        let mut rng = nas_datasets::rng::stream(0, "luck", 0);
        let arch = |rng: &mut ChaCha8Rng| Architecture::new((0..6).map(|_| rng.random_range(0..4)).collect());
        let trials: Vec<(Architecture, f64)> = (0..40).map(|_| (arch(&mut rng), rng.random_range(0.0..1.0))).collect();
        let process = Surrogate::of_values(&Plain, &trials);
        let luckiest = scores(process.fitness.iter()).into_iter().fold(0.0, f64::max);
        let best = process.best.expect("nothing is bounded");
        assert!(best < 0.9 * luckiest, "{best} of {luckiest}");
    }

    #[test]
    fn a_process_on_violations_knows_which_choice_breaks_a_bound() {
        let mut rng = nas_datasets::rng::stream(0, "bounds", 0);
        let archs: Vec<Architecture> =
            (0..60).map(|_| Architecture::new((0..6).map(|_| rng.random_range(0..4)).collect())).collect();
        let violation = |arch: &Architecture| f64::from(arch.choices()[0].saturating_sub(1));
        let trial = |arch: &Architecture| (arch.clone(), Fitness { violation: violation(arch), value: 0.0 });
        let mut process = Surrogate::fit(&Plain, Aspect::Violation, archs[..40].iter().map(trial).collect(), 40);
        process.weigh();
        let right = archs[40..].iter().filter(|arch| (process.chance(&Plain, arch) > 0.5) == (violation(arch) == 0.0));
        let right = right.count();
        assert!(right >= 18, "{right} of 20");
    }

    #[derive(Debug)]
    struct Plain;

    impl ChoiceSpace for Plain {
        fn name(&self) -> &str {
            "plain"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![4; 6]
        }

        fn validate(&self, _: &Architecture) -> Result<(), crate::space::InvalidArchitecture> {
            Ok(())
        }
    }

    #[test]
    fn a_process_passes_through_its_points_and_is_unsure_elsewhere() {
        let trials: Vec<(Architecture, f64)> = [("0-0-0-0-0-0", 1.0), ("0-0-0-0-0-1", 0.9), ("1-1-1-1-1-1", -1.0)]
            .map(|(arch, value)| (arch.parse().unwrap(), value))
            .into();
        let mut process = Surrogate::of_values(&Plain, &trials);
        (process.kernel, process.noise) = (3, 1e-3);
        let mut factor = Factor::default();
        for (i, (arch, _)) in trials.iter().enumerate() {
            let row = process.features.row(3, &Point::Traits(Plain.traits(arch)));
            assert!(factor.push(&row[..i], 1.0 + 1e-3));
        }
        process.factor = factor;
        process.weigh();
        let left = |arch: &str| {
            let row = process.features.row(3, &Point::Traits(Plain.traits(&arch.parse().unwrap())));
            let half = process.factor.forward(&row);
            1.0 - dot(&half, &half)
        };
        let mean = |arch: &str| process.mean(&Plain, &arch.parse().unwrap());
        let scores = scores(process.fitness.iter());
        assert!((mean("0-0-0-0-0-0") - scores[0]).abs() < 0.05 && mean("2-2-2-2-2-2").abs() < 0.05);
        assert!(left("2-2-2-2-2-2") > 9.0 * left("0-0-0-0-0-0"));
    }
}
