//! The experiment files of `nas-detect`: one section per module, defaults beside the algorithm.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nas_core::config;
use nas_core::experiment::{self, LoaderSection};
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_datasets::det::{DetDataConfig, DetTransform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::model::ModelConfig;

/// `nas-detect train`.
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
    /// Images and boxes.
    pub data: DetDataConfig,
    /// What is done to training samples; its resizing is that of validation too.
    #[serde(default)]
    pub augment: DetTransform,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the network is validated.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// A training recipe. Defaults: the usual one on COCO (Lin et al. 2017), its step decay replaced by a cosine, and its
/// gradients clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the train set.
    pub epochs: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Update rule of the weights.
    pub optimizer: OptimizerConfig,
    /// Learning rate over the run.
    pub schedule: Schedule,
    /// Largest norm of the gradient; 0 for no limit.
    pub grad_clip: f64,
    /// Run folder whose weights are the initial ones: of a training, or of a search, whose supernet gives those of the
    /// model's path. Absent: random ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let sgd = SgdConfig { lr: 0.01, weight_decay: 1e-4, ..Default::default() };
        Self {
            epochs: 12,
            batch_size: 16,
            optimizer: OptimizerConfig::Sgd(sgd),
            schedule: Schedule { warmup_steps: 500, decay: Decay::Cosine { min_lr: 0.0 } },
            grad_clip: 10.0,
            init: None,
        }
    }
}

impl TrainConfig {
    /// Says which value makes no sense; `section` is the recipe's name in the file.
    pub fn check(&self, section: &str) -> Result<()> {
        ensure!(self.epochs > 0, "{section}.epochs = 0; expected at least 1");
        ensure!(self.batch_size > 0, "{section}.batch_size = 0; expected at least 1");
        ensure!(self.grad_clip >= 0.0, "{section}.grad_clip = {}; expected 0 or more", self.grad_clip);
        Ok(())
    }
}

/// How average precision is measured; always in pixels of the original image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between validations; the last epoch always has one. 0: only the last.
    pub every: usize,
    /// Images per forward pass. Images of several sizes are padded to the largest, which group norms of a head see: 1 gives
    /// every image's own result.
    pub batch_size: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 0, batch_size: 1 }
    }
}

/// Reads an experiment file, see [`experiment::read_table`]; `train.init` becomes absolute too.
pub fn load<T: DeserializeOwned>(path: &Path, sets: &[String]) -> Result<T> {
    let mut table = experiment::read_table(path, sets, ModelConfig::preset)?;
    if let Some(Value::String(init)) = table.get_mut("train").and_then(|train| train.get_mut("init")) {
        let absolute = std::path::absolute(&*init).with_context(|| format!("train.init = {init:?}"))?;
        *init = absolute.into_os_string().into_string().ok().with_context(|| format!("train.init = {init:?}"))?;
    }
    Ok(config::from_table(table, &path.display().to_string())?)
}
