//! P-DARTS (Chen et al. 2019, arXiv 1904.12760): DARTS in stages. Each stage starts with a new, deeper supernet and the
//! operators that the stage before weighed most on every edge. Dropout behind identities, and a limit on their number in the
//! end, keep them from winning because they are easy to train.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::config::{OneShotDef, OneShotInfo, chooses_operators};
use super::relaxed::{Bilevel, Relaxed};
use super::weights::Recipe;
use super::{Chosen, Objective, OneShot, Part, Problem};
use crate::nn::Shape;
use crate::optim::{AdamConfig, Decay, Named, OptimizerConfig, Schedule, SgdConfig};
use crate::space::{ArchParameter, Architecture, Choice, ChoiceSpace, Mixture, WeightSharing};
use crate::train::{At, Step, scalar};

/// Parameters of P-DARTS; the defaults are its authors' on CIFAR-10 (`train_search.py`, batches of 96). Stages are equal
/// parts of the steps: 75 epochs make three of the authors' 25.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PDartsConfig {
    /// Layers of the supernet of each stage.
    pub layers: Vec<usize>,
    /// Operators that an edge keeps after each stage but the last.
    pub keep: Vec<usize>,
    /// Share of the values behind an identity that are dropped at the start of each stage. It decays in the stage.
    pub skip_dropout: Vec<f64>,
    /// Share of each stage in which the architecture parameters rest.
    pub warmup: f64,
    /// Identities in a normal cell of the result, at most.
    pub max_skip_connects: usize,
    /// Update rule of the weights.
    pub weights: OptimizerConfig,
    /// Learning rate of the weights over a stage.
    pub schedule: Schedule,
    /// Largest norm of the gradient of the weights; 0 for no limit.
    pub grad_clip: f64,
    /// Update rule of the architecture parameters.
    pub arch: OptimizerConfig,
}

impl Default for PDartsConfig {
    fn default() -> Self {
        let arch = AdamConfig { lr: 6e-4, beta1: 0.5, weight_decay: 1e-3, ..Default::default() };
        Self {
            layers: vec![5, 11, 17],
            keep: vec![5, 3],
            skip_dropout: vec![0.0, 0.4, 0.7],
            warmup: 0.4,
            max_skip_connects: 2,
            weights: OptimizerConfig::Sgd(SgdConfig::default()),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } },
            grad_clip: 5.0,
            arch: OptimizerConfig::Adam(arch),
        }
    }
}

impl PDartsConfig {
    /// Says which parameter has an impossible value, or why `space` cannot be served.
    fn check_stages(&self, space: &dyn WeightSharing) -> Result<()> {
        let Self { layers, keep, skip_dropout, warmup, .. } = self;
        let stages = layers.len();
        ensure!(stages > 0, "method.layers is empty; expected the layers of each stage");
        ensure!(
            keep.len() + 1 == stages && skip_dropout.len() == stages,
            "method.layers has {stages} stages; expected {} numbers in keep, found {}, and {stages} in skip_dropout, found {}",
            stages - 1,
            keep.len(),
            skip_dropout.len()
        );
        ensure!(keep.iter().all(|keep| *keep > 0), "method.keep = {keep:?}; expected at least 1 operator");
        let shares = skip_dropout.iter().all(|share| (0.0..1.0).contains(share));
        ensure!(shares, "method.skip_dropout = {skip_dropout:?}; expected 0 up to but not 1");
        ensure!((0.0..1.0).contains(warmup), "method.warmup = {warmup}; expected 0 up to but not 1");
        let parameters = |space: &dyn WeightSharing| -> Vec<(String, Vec<i64>)> {
            space.arch_parameters().into_iter().map(|p| (p.name, p.dims)).collect()
        };
        for layers in layers {
            let deeper = space.with_layers(*layers);
            ensure!(
                deeper.is_some_and(|deeper| parameters(&*deeper) == parameters(space)),
                "method.kind = \"p_darts\" makes the supernet deeper, and the space {} does not have the same choices at \
                 method.layers = {layers}",
                space.name()
            );
        }
        Ok(())
    }

    /// The stage at a step, and the place of the step in it.
    fn stage(&self, at: At) -> (usize, At) {
        let stages = self.layers.len();
        let first = |stage: usize| (stage * at.total_steps).div_ceil(stages);
        let stage =
            (0..stages).rev().find(|stage| first(*stage) <= at.global_step).expect("the first starts at step 0");
        let (global_step, total_steps) = (at.global_step - first(stage), first(stage + 1) - first(stage));
        (stage, At { global_step, total_steps, ..at })
    }

    /// The authors' decay: linear while the architecture parameters rest, from the start again and exponential afterwards.
    fn skip_dropout(&self, stage: usize, progress: f64) -> f64 {
        // 0.2 per epoch of 25.
        const DECAY: f64 = 5.0;
        let factor = if progress < self.warmup { 1.0 - progress } else { (-DECAY * (progress - self.warmup)).exp() };
        self.skip_dropout[stage] * factor
    }

    fn relaxed(&self, problem: Problem) -> Relaxed {
        let Self { weights, schedule, grad_clip, arch, .. } = self.clone();
        Relaxed::new(Bilevel { recipe: Recipe { weights, schedule, grad_clip }, arch, arch_start_epoch: 0 }, problem)
    }
}

impl OneShotDef for PDartsConfig {
    fn info(&self) -> OneShotInfo {
        OneShotInfo { kind: "p_darts", paper: "Chen et al. 2019, arXiv 1904.12760" }
    }

    fn check(&self, space: &dyn WeightSharing, _: Shape) -> Result<()> {
        self.check_stages(space)?;
        chooses_operators(self, space)
    }

    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        Ok(Box::new(PDarts::new(self.clone(), problem)))
    }
}

pub(super) struct PDarts {
    config: PDartsConfig,
    space: Rc<dyn WeightSharing>,
    input: Shape,
    amp: bool,
    seed: u64,
    /// `None` before the first step.
    stage: Option<usize>,
    /// Its parameters' options are those that are left.
    relaxed: Relaxed,
}

impl PDarts {
    pub fn new(config: PDartsConfig, problem: Problem) -> Self {
        let Problem { input, amp, seed, .. } = problem;
        let space = problem.space.clone();
        Self { space, input, amp, seed, stage: None, relaxed: config.relaxed(problem), config }
    }

    /// Starts `stage`: a new supernet and new architecture parameters for the options that are left.
    fn enter(&mut self, stage: usize, objective: &mut dyn Objective) -> Result<()> {
        let deeper = self.space.with_layers(self.config.layers[stage]).expect("checked when the method was built");
        let weights = objective.rebuild(&*deeper)?;
        let &mut Self { input, amp, seed, .. } = self;
        let list = std::mem::take(&mut self.relaxed.parameters.list);
        self.relaxed =
            self.config.relaxed(Problem { space: self.space.clone(), weights, input, latency: None, amp, seed });
        self.relaxed.parameters.list = list;
        self.stage = Some(stage);
        Ok(())
    }

    /// Leaves every row of operators the `keep` options of the largest weights.
    fn cut(&mut self, keep: usize) {
        let parameters = &mut self.relaxed.parameters;
        for (p, raw) in parameters.list.iter_mut().zip(&parameters.raw).filter(|(p, _)| p.choice == Choice::Operator) {
            let weights = numbers(&p.softmax(raw));
            let exists = |i: &usize| p.exists.is_empty() || p.exists[*i];
            let mut left = vec![false; weights.len()];
            for row in rows(p, weights.len()) {
                let mut options: Vec<usize> = row.filter(exists).collect();
                // Stable: of equal ones the first.
                options.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
                options.into_iter().take(keep).for_each(|i| left[i] = true);
            }
            p.exists = left;
        }
    }

    fn active(&self) -> Vec<Vec<bool>> {
        let all = |p: &ArchParameter| vec![true; p.dims.iter().product::<i64>() as usize];
        let of = |p: &ArchParameter| if p.exists.is_empty() { all(p) } else { p.exists.clone() };
        self.relaxed.parameters.list.iter().map(of).collect()
    }

    fn softmax(&self) -> Vec<Tensor> {
        self.relaxed.parameters.weights(ArchParameter::softmax)
    }

    fn placed_softmax(&self) -> Vec<Tensor> {
        self.relaxed.parameters.placed(&self.softmax())
    }
}

/// Entries of each row of a parameter of `len` entries.
fn rows(p: &ArchParameter, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let width = p.dims.last().map_or(1, |width| *width as usize);
    (0..len / width).map(move |row| row * width..(row + 1) * width)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).expect("a list of numbers")
}

/// The most probable architecture of `space` with at most `most` identities among the choices of each parameter: the least
/// probable ones that are too many lose their weight.
fn derive(space: &dyn WeightSharing, weights: &[Tensor], most: usize) -> Architecture {
    let mut values: Vec<Vec<f64>> = weights.iter().map(numbers).collect();
    loop {
        let tensor = |(values, like): (&Vec<f64>, &Tensor)| Tensor::from_slice(values).view(&like.size()[..]);
        let weights: Vec<Tensor> = values.iter().zip(weights).map(tensor).collect();
        let arch = space.discretize(&weights);
        let mut of_parameter: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        space.skip_connects(&arch).into_iter().for_each(|(p, entry)| of_parameter.entry(p).or_default().push(entry));
        let mut changed = false;
        for (p, entries) in of_parameter.into_iter().filter(|(_, entries)| entries.len() > most) {
            let least = entries.into_iter().min_by(|a, b| values[p][*a].total_cmp(&values[p][*b])).expect("some");
            // An identity without weight has no other option beside it.
            changed |= values[p][least] > 0.0;
            values[p][least] = 0.0;
        }
        if !changed {
            return arch;
        }
    }
}

impl OneShot for PDarts {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let (stage, place) = self.config.stage(at);
        if self.stage != Some(stage) {
            if let Some(before) = self.stage {
                (before..stage).for_each(|ended| self.cut(self.config.keep[ended]));
            }
            self.enter(stage, objective)?;
        }
        let (images, _) = (objective.next(Part::Weights)?, objective.next(Part::Arch)?);
        let active = self.active();
        let skip_dropout = self.config.skip_dropout(stage, place.progress());
        let loss = |weights: &[Tensor], part| {
            objective.loss(part, Mixture::Sampled { weights, active: &active, skip_dropout, undrawn: false }, at)
        };
        let of_weights = loss(&self.placed_softmax(), Part::Weights);
        self.relaxed.training.descend(&of_weights, place);
        if place.progress() >= self.config.warmup {
            self.relaxed.descend_arch(&loss(&self.placed_softmax(), Part::Arch));
        }
        Ok(Step { loss: scalar(&of_weights), images, lr: self.relaxed.training.lr(place) })
    }

    fn arch_start_epoch(&self) -> Option<usize> {
        Some(0)
    }

    fn chosen(&self) -> Option<Chosen> {
        Some(Chosen::Weights(tch::no_grad(|| self.placed_softmax())))
    }

    fn derive(&self) -> Option<Architecture> {
        Some(derive(&*self.space, &self.softmax(), self.config.max_skip_connects))
    }

    fn derive_within(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        let parameters = &self.relaxed.parameters;
        parameters.within(space, |raw| {
            let weights: Vec<Tensor> = parameters.list.iter().zip(raw).map(|(p, raw)| p.softmax(raw)).collect();
            derive(&*self.space, &weights, self.config.max_skip_connects)
        })
    }

    fn arch_parameters(&self) -> Vec<Named> {
        self.relaxed.parameters.named()
    }

    fn state(&self) -> (Vec<Named>, Value) {
        let (tensors, mut json) = self.relaxed.state();
        json["stage"] = self.stage.into();
        json["options"] = self.active().into();
        (tensors, json)
    }

    fn restore_form(&mut self, objective: &mut dyn Objective, json: &Value) -> Result<()> {
        let stage: Option<usize> = serde_json::from_value(json["stage"].clone())?;
        stage.map_or(Ok(()), |stage| self.enter(stage, objective))
    }

    fn load_state(&mut self, tensors: &HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        let options: Vec<Vec<bool>> = serde_json::from_value(json["options"].take())?;
        self.relaxed.parameters.list.iter_mut().zip(options).for_each(|(p, options)| p.exists = options);
        self.relaxed.load_state(tensors, json)
    }
}
