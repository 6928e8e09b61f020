//! BigNAS (Yu et al. 2020, arXiv 2003.11142): a supernet whose networks are good as they are. Every step trains the largest
//! network, the smallest and some random ones (the sandwich rule of Yu and Huang 2019, arXiv 1903.05134); all but the largest
//! learn what the largest one says of the same images. Afterwards a strategy searches over it as in SPOS, and what it finds may
//! be used without training.

use anyhow::{Result, ensure};

use super::config::{OneShotDef, OneShotInfo};
use super::paths::{Paths, leaves_choice, paths_config};
use super::spos::SposConfig;
use super::{Objective, OneShot, Part, Problem, SecondStage};
use crate::nn::{Shape, distillation};
use crate::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use crate::space::{Architecture, Mixture, WeightSharing};
use crate::strategy::{RegularizedEvolutionConfig, StrategyConfig};
use crate::train::{At, Step, scalar};

paths_config! {
    /// Parameters of BigNAS. Two random networks a step and a rate that ends at a twentieth are its authors'; their optimizer
    /// (RMSProp at batches of 4096) and coarse-to-fine grid are not: SGD at small batches, and any strategy.
    BignasConfig {
        /// Random networks of a step, beside the largest and the smallest.
        random_paths: usize,
        /// All but the largest learn its predictions in the place of the labels, where predictions are classes.
        distillation: bool,
        /// What searches over the trained supernet.
        strategy: StrategyConfig,
        /// Candidates of that search.
        num_trials: u64,
        /// Batches that a candidate's batch-norm statistics are computed from; 0 leaves the supernet's.
        recalibration_batches: usize,
    }
}

impl Default for BignasConfig {
    fn default() -> Self {
        Self {
            random_paths: 2,
            distillation: true,
            strategy: StrategyConfig::RegularizedEvolution(RegularizedEvolutionConfig::default()),
            num_trials: 1000,
            recalibration_batches: 20,
            weights: OptimizerConfig::Sgd(SgdConfig { lr: 0.05, weight_decay: 1e-5, ..SgdConfig::default() }),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0025 } },
            grad_clip: 1.0,
        }
    }
}

impl BignasConfig {
    /// The part that is SPOS's.
    fn spos(&self) -> SposConfig {
        let Self { strategy, num_trials, recalibration_batches, .. } = self.clone();
        SposConfig { strategy, num_trials, recalibration_batches, ..SposConfig::default() }
    }
}

impl OneShotDef for BignasConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "bignas", paper: "Yu et al. 2020, arXiv 2003.11142" }
    }

    fn check(&self, space: &dyn WeightSharing, input: Shape) -> Result<()> {
        ensure!(self.random_paths <= 64, "method.random_paths = {}; expected 0 to 64", self.random_paths);
        self.spos().check(space, input)
    }

    fn runs_paths(&self) -> bool {
        true
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        let [smallest, largest] = extremes(&*problem.space, problem.input)?;
        let Self { random_paths, distillation, .. } = *self;
        Ok(Box::new(Sandwich {
            paths: Paths::new(self.recipe(), problem),
            smallest,
            largest,
            random_paths,
            distillation,
        }))
    }

    fn second_stage(&self) -> Option<SecondStage> {
        self.spos().second_stage()
    }
}

/// Architectures of few and of many multiply-adds on an image of `input`: from the least and the most of some that are drawn,
/// changes of one decision, each the one that saves or adds most, for as long as one does.
pub fn extremes(space: &dyn WeightSharing, input: Shape) -> Result<[Architecture; 2]> {
    const DRAWN: u64 = 256;
    let climb = |sign: f64| {
        let height = |arch: &Architecture| Ok::<f64, anyhow::Error>(sign * space.cost(arch, input)?.macs as f64);
        // Of equal ones the first.
        let highest = |of: &mut dyn Iterator<Item = Architecture>| -> Result<Option<(f64, Architecture)>> {
            let mut best: Option<(f64, Architecture)> = None;
            for arch in of {
                let reached = height(&arch)?;
                if best.as_ref().is_none_or(|(best, _)| reached > *best) {
                    best = Some((reached, arch));
                }
            }
            Ok(best)
        };
        let drawn = |i| space.sample(&mut nas_datasets::rng::stream(0, "extremes", i));
        let mut best = highest(&mut (0..DRAWN).map(drawn))?.expect("some are drawn");
        while let Some(higher) = highest(&mut space.neighbors(&best.1).into_iter())?.filter(|next| next.0 > best.0) {
            best = higher;
        }
        Ok::<_, anyhow::Error>(best.1)
    };
    Ok([climb(-1.0)?, climb(1.0)?])
}

/// Trains by the sandwich rule.
struct Sandwich {
    paths: Paths,
    smallest: Architecture,
    largest: Architecture,
    random_paths: usize,
    distillation: bool,
}

impl OneShot for Sandwich {
    /// The loss that is reported is the largest network's.
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let images = objective.next(Part::Weights)?;
        let (loss, logits) = objective.loss_and_logits(Part::Weights, Mixture::Path(&self.largest), at);
        let teacher = logits.filter(|_| self.distillation).map(|logits| logits.detach());
        let shown = scalar(&loss);
        let random = self.paths.several(self.random_paths, at);
        let of = |arch: &Architecture| {
            let (loss, logits) = objective.loss_and_logits(Part::Weights, Mixture::Path(arch), at);
            teacher.as_ref().zip(logits).map_or(loss, |(teacher, student)| distillation(teacher, &student, 1.0))
        };
        let others = [&self.smallest].into_iter().chain(&random).map(of);
        self.paths.training.descend_all([loss].into_iter().chain(others), at);
        Ok(Step { loss: shown, images, lr: self.paths.training.lr(at) })
    }

    leaves_choice!();
}
