//! The experiment files of `nas-classify train` and `compare`: one section per module, defaults beside the algorithm.

use std::path::Path;

use anyhow::{Result, bail};
use nas_core::estimator::learning_curve::EarlyStopConfig;
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::task::experiment::{self, LoaderSection};
use nas_datasets::classify::{ClassifyDataConfig, ClassifyTransform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::ModelConfig;

/// `nas-classify train`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainExperiment {
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// The network.
    pub model: ModelConfig,
    /// The recipe.
    #[serde(default)]
    pub train: TrainConfig,
    /// Images and classes.
    pub data: ClassifyDataConfig,
    /// What is done to training images.
    #[serde(default)]
    pub augment: ClassifyTransform,
    /// How images are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the network is validated.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// A training recipe. Defaults: NAS-Bench-201's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the train split.
    pub epochs: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Update rule of the weights.
    pub optimizer: OptimizerConfig,
    /// Learning rate over the run.
    pub schedule: Schedule,
    /// Largest norm of the gradient; 0 for no limit.
    pub grad_clip: f64,
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f64,
    /// Weight of the auxiliary head's loss, where the network has one.
    pub aux_weight: f64,
    /// Decay per step of an average of the weights, which is what is validated and saved; 0 for none.
    pub ema: f64,
    /// Ends the run before its end where it will hardly beat the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopConfig>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let sgd = SgdConfig { lr: 0.1, momentum: 0.9, weight_decay: 5e-4, nesterov: true };
        Self {
            epochs: 200,
            batch_size: 256,
            optimizer: OptimizerConfig::Sgd(sgd),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Cosine { min_lr: 0.0 } },
            grad_clip: 0.0,
            label_smoothing: 0.0,
            aux_weight: 0.4,
            ema: 0.0,
            early_stop: None,
        }
    }
}

impl TrainExperiment {
    /// Says which value makes no sense.
    pub fn check(&self) -> Result<()> {
        let TrainConfig { epochs, label_smoothing, aux_weight, ema, early_stop, .. } = &self.train;
        if *epochs == 0 {
            bail!("train.epochs = 0; expected at least 1");
        }
        for (key, value) in [("label_smoothing", label_smoothing), ("ema", ema)] {
            if !(0.0..1.0).contains(value) {
                bail!("train.{key} = {value}; expected at least 0 and less than 1");
            }
        }
        if !(*aux_weight >= 0.0 && aux_weight.is_finite()) {
            bail!("train.aux_weight = {aux_weight}; expected 0 or more");
        }
        if let Some(early_stop) = early_stop {
            early_stop.check(self.eval.every)?;
        }
        Ok(())
    }
}

/// `nas-classify compare`: several models, one recipe, several seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareExperiment {
    /// One training per model and seed.
    pub seeds: Vec<u64>,
    /// The networks, in the order of the table.
    pub models: Vec<NamedModel>,
    /// The recipe of all.
    #[serde(default)]
    pub train: TrainConfig,
    /// Images and classes.
    pub data: ClassifyDataConfig,
    /// What is done to training images.
    #[serde(default)]
    pub augment: ClassifyTransform,
    /// How images are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the networks are validated.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// A model of a comparison.
pub type NamedModel = experiment::NamedModel<ModelConfig>;

impl CompareExperiment {
    /// The training of one model, counted in the order of the table, under one seed.
    pub fn training_of(&self, model: usize, seed: u64) -> TrainExperiment {
        TrainExperiment {
            seed,
            model: self.models[model].model.clone(),
            train: self.train.clone(),
            data: self.data.clone(),
            augment: self.augment.clone(),
            loader: self.loader.clone(),
            eval: self.eval.clone(),
        }
    }
}

/// How accuracy is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between validations; the last epoch always has one. 0: only the last.
    pub every: usize,
    /// Length that the shorter side of an image is resized to before its middle is cut out; absent for the least that
    /// `augment.size` allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<u32>,
    /// Images per forward pass.
    pub batch_size: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 1, resize: None, batch_size: 200 }
    }
}

/// Reads an experiment file, see [`experiment::read_table`].
pub fn load<T: DeserializeOwned>(path: &Path, sets: &[String]) -> Result<T> {
    experiment::load(path, sets, ModelConfig::preset)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::experiment::SearchExperiment;
    use crate::one_shot::OneShotExperiment;

    const DATA: &str = "[data]\nkind = 'cifar10'\nroot = 'somewhere'\n";

    fn write(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("x.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_committed_experiments_are_read() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/classify");
        let is_one_shot = |text: &str| text.contains("[one_shot]");
        let is_search = |text: &str| text.contains("[space]");
        let mut read = 0;
        for entry in std::fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let outcome = match &text {
                text if is_one_shot(text) => OneShotExperiment::load(&path, &[]).map(drop),
                text if is_search(text) => {
                    nas_core::run::config::load::<SearchExperiment>(&path, &[]).map_err(Into::into).map(drop)
                }
                // The models of some are architectures that searches have found.
                text if text.contains("[[models]]") => {
                    let models = ["models=[{name='x', model={preset='resnet20'}}]".to_string()];
                    load::<CompareExperiment>(&path, if text.contains("runs/") { &models } else { &[] }).map(drop)
                }
                _ => load::<TrainExperiment>(&path, &[]).and_then(|experiment| experiment.check()),
            };
            outcome.unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
            read += 1;
        }
        assert!(read >= 16, "{read} experiments");
    }

    #[test]
    fn senseless_recipes_are_refused_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &format!("[model]\npreset = 'nasbench201_resnet'\n{DATA}"));
        let refused = |sets: &[&str], expected: &str| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            let error = load::<TrainExperiment>(&path, &sets).and_then(|experiment| experiment.check()).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{sets:?}: {error:#}");
        };
        refused(&["train.epochs=0"], "train.epochs = 0");
        refused(&["train.ema=1.0"], "train.ema = 1");
        refused(&["train.early_stop.best=90.0"], "train.early_stop.best = 90");
        refused(&["train.early_stop.best=0.9", "eval.every=5"], "eval.every = 5, expected 1");
        refused(&["train.early_stop.rule.every=0"], "at least 1");
    }
}
