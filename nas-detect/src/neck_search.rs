//! Searches of a neck by trials: every candidate is trained from random weights by a short recipe, on a part of the train split,
//! and scored on the rest of it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nas_core::nn::Cost;
use nas_core::nn::VarBuilder;
use nas_core::run::cli::Compute;
use nas_core::run::config::to_toml;
use nas_core::run::run_dir::RunDir;
use nas_core::search::goals::{Constraint, Goals};
use nas_core::space::Architecture;
use nas_core::space::ChoiceSpace;
use nas_core::space::trial::Values;
use nas_core::strategy::{RegularizedEvolutionConfig, StrategyConfig};
use nas_core::task::experiment::LoaderSection;
use nas_core::train::{self, LoopConfig};
use nas_datasets::det::{DetDataConfig, DetDataset, DetTransform};
use nas_datasets::{Split, Subset};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::backbone::total;
use crate::experiment::{CANDIDATE_AP, EvalConfig, TrainConfig, TrainExperiment};
use crate::model::ModelConfig;
use crate::neck::{BiFpnSpace, Levels, NasFpnConfig, NasFpnSpace, NeckConfig};
use crate::searching::parts;
use crate::training::Training;

/// `nas-detect search` with a section `space`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeckSearchExperiment {
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Candidates in all.
    pub num_trials: u64,
    /// Part of the train split that candidates are scored on, and not trained on.
    #[serde(default = "default_held_out")]
    pub held_out: f64,
    /// What is searched.
    pub space: NeckSpaceConfig,
    /// What proposes candidates.
    #[serde(default = "default_strategy")]
    pub strategy: StrategyConfig,
    /// Bounds of `params` and `macs` of candidates' detectors, for an image of `macs_size`.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// Height and width of the image that multiply-adds are counted for.
    #[serde(default = "default_macs_size")]
    pub macs_size: (i64, i64),
    /// The detector; candidates take the place of its neck.
    pub model: ModelConfig,
    /// The recipe of a candidate.
    #[serde(default)]
    pub train: TrainConfig,
    /// The recipe of the training that the search prepares.
    #[serde(default)]
    pub retrain: TrainConfig,
    /// Images and boxes.
    pub data: DetDataConfig,
    /// What is done to training samples; its resizing is that of validation too.
    #[serde(default)]
    pub augment: DetTransform,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How candidates are scored.
    #[serde(default)]
    pub eval: EvalConfig,
}

fn default_held_out() -> f64 {
    0.1
}

fn default_strategy() -> StrategyConfig {
    StrategyConfig::RegularizedEvolution(RegularizedEvolutionConfig::default())
}

fn default_macs_size() -> (i64, i64) {
    (256, 256)
}

/// `[space]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NeckSpaceConfig {
    /// Merging cells of NAS-FPN (Ghiasi et al. 2019, arXiv 1904.07392).
    NasFpn {
        /// Levels of the neck.
        levels: Levels,
        /// Cells before those that give the output.
        intermediate: usize,
        /// Channels of every level.
        channels: i64,
        /// How often the cells are repeated.
        stacks: usize,
    },
    /// Depth, width, fusions and connections of BiFPN (Tan et al. 2020, arXiv 1911.09070).
    Bifpn {
        /// Levels of the neck.
        levels: Levels,
    },
}

impl NeckSpaceConfig {
    /// The space.
    pub fn build(&self) -> Result<Box<dyn ChoiceSpace>> {
        Ok(match *self {
            Self::NasFpn { levels, intermediate, .. } => Box::new(NasFpnSpace::new(levels, intermediate)?),
            Self::Bifpn { levels } => Box::new(BiFpnSpace::new(levels)?),
        })
    }

    /// The neck of an architecture.
    pub fn neck(&self, arch: &Architecture) -> Result<NeckConfig> {
        Ok(match *self {
            Self::NasFpn { levels, intermediate, channels, stacks } => {
                let cells = NasFpnSpace::new(levels, intermediate)?.cells(arch)?;
                NeckConfig::NasFpn(NasFpnConfig { channels, levels, stacks, cells, ..NasFpnConfig::default() })
            }
            Self::Bifpn { levels } => NeckConfig::Bifpn(BiFpnSpace::new(levels)?.config(arch)?),
        })
    }
}

impl NeckSearchExperiment {
    /// Says which value makes no sense.
    pub fn check(&self) -> Result<()> {
        let Self { num_trials, held_out, macs_size: (h, w), .. } = self;
        ensure!(*num_trials > 0, "num_trials = 0; expected at least 1");
        ensure!(*held_out > 0.0 && *held_out < 1.0, "held_out = {held_out}; expected more than 0 and less than 1");
        ensure!(*h > 0 && *w > 0, "macs_size = [{h}, {w}]; expected height and width of an image");
        self.train.check("train")?;
        self.retrain.check("retrain")?;
        let info = self.strategy.info();
        ensure!(
            !info.multi_fidelity,
            "strategy.kind = {:?} chooses the epochs of its trials; a search of necks trains all by `train`",
            info.kind
        );
        self.strategy.check()?;
        let of_architecture = ["params", "macs"];
        self.goals().check(&info, &[CANDIDATE_AP, "ap50", "ap75", "params", "macs"], &of_architecture)?;
        // A neck, head or size that does not fit is found before anything is trained.
        let arch = self.space.build()?.sample(&mut nas_datasets::rng::stream(self.seed, "check", 0));
        self.cost(&arch, 1).map(drop)
    }

    /// Average precision, and the bounds.
    pub fn goals(&self) -> Goals {
        Goals { constraints: self.constraints.clone(), ..Goals::maximize(CANDIDATE_AP) }
    }

    /// The training of the detector with the neck of `arch`.
    pub fn training_of(&self, arch: &Architecture, recipe: &TrainConfig) -> Result<TrainExperiment> {
        Ok(TrainExperiment {
            seed: self.seed,
            model: ModelConfig { neck: self.space.neck(arch)?, ..self.model.clone() },
            train: recipe.clone(),
            data: self.data.clone(),
            augment: self.augment.clone(),
            loader: self.loader.clone(),
            eval: self.eval,
        })
    }

    /// Cost of the detector with the neck of `arch`, counted without weights.
    pub fn cost(&self, arch: &Architecture, num_classes: usize) -> Result<Cost> {
        let model = self.training_of(arch, &self.train)?.model;
        let net = model.build(&VarBuilder::dry(), num_classes as i64)?;
        net.top.check_size(self.macs_size).context("macs_size")?;
        Ok(total(&net.cost_parts(self.macs_size).concat()))
    }
}

/// Trains and scores candidates.
pub struct Trials<'a> {
    experiment: &'a NeckSearchExperiment,
    compute: Compute,
    seen: Arc<dyn DetDataset>,
    held_out: Arc<dyn DetDataset>,
}

impl<'a> Trials<'a> {
    /// Divides the train split.
    pub fn new(experiment: &'a NeckSearchExperiment, compute: Compute) -> Result<Self> {
        let train = experiment.data.open(Split::Train)?;
        let (seen, held_out) = parts(train.len(), experiment.held_out, experiment.seed);
        let [seen, held_out] = [seen, held_out].map(|part| Arc::new(Subset::new(train.clone(), part)));
        Ok(Self { experiment, compute, seen, held_out })
    }

    /// Metrics of an architecture that need no training.
    pub fn cost(&self, arch: &Architecture) -> Result<Values> {
        let Cost { params, macs } = self.experiment.cost(arch, self.seen.classes().len())?;
        Ok([("params", params), ("macs", macs)].map(|(name, value)| (name.to_string(), value as f64)).into())
    }

    /// Trains a candidate in the run folder `folder`, from its last checkpoint where there is one, and scores it.
    pub fn train(&self, arch: &Architecture, folder: &Path) -> Result<Values> {
        let experiment = self.experiment.training_of(arch, &self.experiment.train)?;
        let dir = RunDir::open(folder, &to_toml(&experiment), true, &json!({ "arch": arch }))?;
        let settings = LoopConfig::new(experiment.train.epochs, experiment.seed);
        let mut training = Training::on(experiment, self.seen.clone(), self.held_out.clone(), self.compute)?;
        train::run(&mut training, "trial", &dir, settings)?;
        let scores = training.task.scores().context("the last epoch validates")?;
        ensure!(scores.ap >= 0.0, "the held-out images have no object to find");
        let mut values = self.cost(arch)?;
        values.extend(
            [(CANDIDATE_AP, scores.ap), ("ap50", scores.ap50), ("ap75", scores.ap75)].map(|(n, v)| (n.to_string(), v)),
        );
        Ok(values)
    }
}
