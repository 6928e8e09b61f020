//! Methods that train the weights of one architecture per step.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result};
use nas_datasets::rng::stream;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::Tensor;

use super::weights::{Recipe, WeightTraining};
use super::{Chosen, Objective, OneShot, Part, Problem};
use crate::optim::Named;
use crate::space::{Architecture, ChoiceSpace, Mixture, Observation, Origin, WeightSharing};
use crate::strategy::{Asking, SearchStrategy, StrategyConfig};
use crate::train::{At, Step, scalar};

/// Declares the config of a method that trains one path per step: as `relaxed_config`, without architecture parameters.
macro_rules! paths_config {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
            /// Update rule of the weights.
            pub weights: $crate::optim::OptimizerConfig,
            /// Learning rate of the weights over the run.
            pub schedule: $crate::optim::Schedule,
            /// Largest norm of the gradient of the weights; 0 for no limit.
            pub grad_clip: f64,
        }

        impl $name {
            pub(super) fn recipe(&self) -> $crate::one_shot::weights::Recipe {
                let Self { weights, schedule, grad_clip, .. } = self.clone();
                $crate::one_shot::weights::Recipe { weights, schedule, grad_clip }
            }
        }
    };
}
pub(super) use paths_config;

/// The rest of a `OneShot` with a field `paths` that leaves the choice to a search over the trained supernet.
macro_rules! leaves_choice {
    () => {
        fn arch_start_epoch(&self) -> Option<usize> {
            None
        }

        fn chosen(&self) -> Option<$crate::one_shot::Chosen> {
            None
        }

        fn derive(&self) -> Option<$crate::space::Architecture> {
            None
        }

        fn derive_within(&self, _: &dyn $crate::space::ChoiceSpace) -> Option<$crate::space::Architecture> {
            None
        }

        fn state(&self) -> (Vec<$crate::optim::Named>, serde_json::Value) {
            self.paths.state()
        }

        fn load_state(
            &mut self,
            tensors: &std::collections::HashMap<String, tch::Tensor>,
            mut json: serde_json::Value,
        ) -> anyhow::Result<()> {
            self.paths.load_state(tensors, &mut json)
        }
    };
}
pub(super) use leaves_choice;

/// Weights trained path by path.
pub(super) struct Paths {
    pub space: Rc<dyn WeightSharing>,
    pub seed: u64,
    pub training: WeightTraining,
}

impl Paths {
    pub fn new(recipe: Recipe, problem: Problem) -> Self {
        let training = WeightTraining::new(recipe, problem.weights, problem.amp);
        Self { space: problem.space, seed: problem.seed, training }
    }

    /// A path drawn uniformly for the step.
    pub fn uniform(&self, at: At) -> Architecture {
        self.several(1, at).remove(0)
    }

    /// `count` paths drawn uniformly for the step.
    pub fn several(&self, count: usize, at: At) -> Vec<Architecture> {
        let index = |i| (at.global_step * count + i) as u64;
        (0..count).map(|i| self.space.sample(&mut stream(self.seed, "path", index(i)))).collect()
    }

    /// Paths that together take every option of every decision equally often, as far as decisions have equally many: the
    /// strict fairness of FairNAS (Chu et al. 2021, arXiv 1907.01845). Options that make no network together give way to a path
    /// drawn uniformly.
    pub fn fair(&self, at: At) -> Vec<Architecture> {
        let mut rng = stream(self.seed, "path", at.global_step as u64);
        let decisions = self.space.decisions();
        let count = decisions.iter().copied().max().unwrap_or(1);
        let mut order = |options: u16| {
            let mut order: Vec<u16> = (0..count).map(|i| i % options).collect();
            order.shuffle(&mut rng);
            order
        };
        let orders: Vec<Vec<u16>> = decisions.iter().map(|options| order(*options)).collect();
        let path = |i: usize| self.space.standing_for(orders.iter().map(|order| order[i]).collect());
        (0..usize::from(count)).map(|i| path(i).unwrap_or_else(|| self.space.sample(&mut rng))).collect()
    }

    /// One step of the weights of all of `archs` on one batch.
    pub fn train_all(&mut self, archs: &[Architecture], at: At, objective: &mut dyn Objective) -> Result<Step> {
        let images = objective.next(Part::Weights)?;
        let mut sum = 0.0;
        let losses = archs.iter().map(|arch| {
            let loss = objective.loss(Part::Weights, Mixture::Path(arch), at);
            sum += scalar(&loss);
            loss
        });
        self.training.descend_all(losses, at);
        Ok(Step { loss: sum / archs.len() as f64, images, lr: self.training.lr(at) })
    }

    /// One step of the weights of `arch`.
    pub fn train(&mut self, arch: &Architecture, at: At, objective: &mut dyn Objective) -> Result<Step> {
        let images = objective.next(Part::Weights)?;
        let loss = objective.loss(Part::Weights, Mixture::Path(arch), at);
        self.training.descend(&loss, at);
        Ok(Step { loss: scalar(&loss), images, lr: self.training.lr(at) })
    }

    pub fn state(&self) -> (Vec<Named>, Value) {
        (self.training.optimizer.state(), json!({ "scaler": self.training.scaler }))
    }

    pub fn load_state(&mut self, tensors: &HashMap<String, Tensor>, json: &mut Value) -> Result<()> {
        self.training.load_state(tensors, json["scaler"].take())
    }
}

/// What a strategy was told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    arch: Architecture,
    score: f64,
}

/// A strategy of searches by trials on shared weights: a trial is a step of the weights of the proposed architecture and then
/// its score on a batch of the other half. Its state is the list of what it was told.
pub(super) struct Learned {
    paths: Paths,
    config: StrategyConfig,
    strategy: Box<dyn SearchStrategy>,
    told: Vec<Told>,
    /// First epoch in which the strategy proposes; before it paths are drawn uniformly.
    start_epoch: usize,
}

impl Learned {
    pub fn new(config: StrategyConfig, start_epoch: usize, recipe: Recipe, problem: Problem) -> Self {
        let paths = Paths::new(recipe, problem);
        let strategy = config.build(&*paths.space, &mut strategy_rng(paths.seed));
        Self { paths, config, strategy, told: Vec::new(), start_epoch }
    }

    fn tell(&mut self, Told { arch, score }: Told) {
        let id = self.told.len() as u64;
        let values = Some(vec![score]);
        let observation = Observation {
            id,
            arch: arch.clone(),
            epochs: None,
            parent: None,
            values,
            violation: 0.0,
            origin: Origin::Proposed,
        };
        self.strategy.tell(&*self.paths.space, &observation, &mut stream(self.paths.seed, "tell", id));
        self.told.push(Told { arch, score });
    }
}

fn strategy_rng(seed: u64) -> ChaCha8Rng {
    stream(seed, "strategy", 0)
}

impl OneShot for Learned {
    fn step(&mut self, at: At, objective: &mut dyn Objective) -> Result<Step> {
        if at.epoch < self.start_epoch {
            return self.paths.train(&self.paths.uniform(at), at, objective);
        }
        let id = self.told.len() as u64;
        let asking = Asking { space: &*self.paths.space, id, running: &[] };
        let proposal = self.strategy.ask(&asking, &mut stream(self.paths.seed, "ask", id));
        let arch = proposal.context("the strategy has no architecture left to propose")?.arch;
        let step = self.paths.train(&arch, at, objective)?;
        objective.next(Part::Arch)?;
        let score = objective.score(Part::Arch, Mixture::Path(&arch), at)?;
        self.tell(Told { arch, score });
        Ok(step)
    }

    fn arch_start_epoch(&self) -> Option<usize> {
        Some(self.start_epoch)
    }

    fn chosen(&self) -> Option<Chosen> {
        self.derive().map(Chosen::Path)
    }

    fn derive(&self) -> Option<Architecture> {
        self.strategy.most_probable(&*self.paths.space)
    }

    fn derive_within(&self, space: &dyn ChoiceSpace) -> Option<Architecture> {
        self.strategy.most_probable(space).and_then(|arch| space.standing_for(arch.choices().to_vec()))
    }

    fn state(&self) -> (Vec<Named>, Value) {
        let (tensors, mut json) = self.paths.state();
        json["told"] = json!(self.told);
        (tensors, json)
    }

    fn load_state(&mut self, tensors: &HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        self.paths.load_state(tensors, &mut json)?;
        let told: Vec<Told> = serde_json::from_value(json["told"].take())?;
        self.strategy = self.config.build(&*self.paths.space, &mut strategy_rng(self.paths.seed));
        self.told.clear();
        told.into_iter().for_each(|told| self.tell(told));
        Ok(())
    }
}
