//! The experiment files of `nas-classify train` and `compare`: one section per module, defaults beside the algorithm.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nas_core::config;
use nas_core::estimator::learning_curve::EarlyStop;
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::run_dir::read_json;
use nas_datasets::LoaderConfig;
use nas_datasets::classify::{ClassifyDataConfig, ClassifyTransform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

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

/// `[train.early_stop]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopConfig {
    /// The final top-1 accuracy that is to be beaten, a fraction. Without it no run is stopped: the trials of a search are
    /// given theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
    /// When to look and how to extrapolate.
    #[serde(default)]
    pub rule: EarlyStop,
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
        if let Some(EarlyStopConfig { best, rule }) = early_stop {
            rule.validate().context("train.early_stop.rule")?;
            if let Some(best) = best.filter(|best| !(0.0..=1.0).contains(best)) {
                bail!("train.early_stop.best = {best}; expected a fraction of 0..=1");
            }
            if self.eval.every != 1 {
                bail!(
                    "train.early_stop needs a validation after every epoch: eval.every = {}, expected 1",
                    self.eval.every
                );
            }
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedModel {
    /// Name in the table and in file names.
    pub name: String,
    /// The network.
    pub model: ModelConfig,
}

impl CompareExperiment {
    /// The training of one model under one seed.
    pub fn training(&self, model: &NamedModel, seed: u64) -> TrainExperiment {
        TrainExperiment {
            seed,
            model: model.model.clone(),
            train: self.train.clone(),
            data: self.data.clone(),
            augment: self.augment.clone(),
            loader: self.loader.clone(),
            eval: self.eval.clone(),
        }
    }
}

/// How images are read. None of it changes what is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderSection {
    /// Batches that are made ahead of the one in use.
    pub prefetch: usize,
    /// Megabytes of decoded images to keep in memory; 0 for none.
    pub cache_mb: usize,
}

impl Default for LoaderSection {
    fn default() -> Self {
        Self { prefetch: 4, cache_mb: 1024 }
    }
}

impl LoaderSection {
    /// Settings of a loader of `batch_size`.
    pub fn with(&self, batch_size: usize, threads: usize) -> LoaderConfig {
        LoaderConfig { batch_size, threads, prefetch: self.prefetch, cache_mb: self.cache_mb }
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

impl EvalConfig {
    /// Whether `epoch` (from 0) is followed by a validation.
    pub fn is_due(&self, epoch: usize, last: bool) -> bool {
        last || (self.every > 0 && (epoch + 1).is_multiple_of(self.every))
    }
}

/// Reads an experiment file. Paths of data sets become absolute; a model's `preset` becomes the keys of the named network, which
/// the model's other keys replace; an `arch` that names a search's `result.json` (or its run folder) becomes the architecture
/// found there.
pub fn load<T: DeserializeOwned>(path: &Path, sets: &[String]) -> Result<T> {
    let mut table = config::read_table(path, sets)?;
    absolute_root(&mut table)?;
    if let Some(model) = table.get_mut("model").and_then(Value::as_table_mut) {
        resolve_model(model)?;
    }
    let models = table.get_mut("models").and_then(Value::as_array_mut);
    for model in models.into_iter().flatten().filter_map(|entry| entry.get_mut("model")?.as_table_mut()) {
        resolve_model(model)?;
    }
    Ok(config::from_table(table, &path.display().to_string())?)
}

fn absolute_root(table: &mut Table) -> Result<()> {
    if let Some(Value::String(root)) = table.get_mut("data").and_then(|data| data.get_mut("root")) {
        let path = std::path::absolute(&*root).with_context(|| format!("data.root = {root:?}"))?;
        let path = path.into_os_string().into_string();
        *root = path.map_err(|path| anyhow::anyhow!("data.root: {path:?} is not UTF-8"))?;
    }
    Ok(())
}

fn resolve_model(model: &mut Table) -> Result<()> {
    if let Some(preset) = model.remove("preset") {
        let Value::String(name) = &preset else { bail!("model.preset = {preset}: expected a name in quotes") };
        let mut keys = Table::try_from(ModelConfig::preset(name)?)?;
        keys.extend(std::mem::take(model));
        *model = keys;
    }
    let Some(Value::String(arch)) = model.get_mut("arch") else { return Ok(()) };
    if let Some(found) = searched_arch(arch)? {
        *arch = found;
    }
    Ok(())
}

/// The best architecture of a search's `result.json`, when `text` is the path of one or of a run folder.
pub fn searched_arch(text: &str) -> Result<Option<String>> {
    if !text.contains('/') && !text.ends_with(".json") {
        return Ok(None);
    }
    let mut path = PathBuf::from(text);
    if path.is_dir() {
        path.push("result.json");
    }
    if !path.exists() {
        bail!("arch = {text:?}: there is no {}; has the search ended?", path.display());
    }
    let result: serde_json::Value = read_json(&path)?;
    // One-shot searches end in one architecture, searches by trials in a best one.
    let found = [&result["architecture"], &result["best"]["architecture"]].into_iter().find_map(|value| value.as_str());
    let found = found.with_context(|| format!("{}: no architecture; did the search find any?", path.display()))?;
    Ok(Some(found.to_string()))
}

#[cfg(test)]
mod tests {
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
    fn a_preset_is_expanded_and_its_keys_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &format!("[model]\npreset = 'nasbench201_resnet'\nchannels = 8\n{DATA}"));
        let experiment: TrainExperiment = load(&path, &[]).unwrap();
        let keys = Table::try_from(&experiment.model).unwrap();
        assert_eq!((keys["arch"].as_str(), keys["channels"].as_integer()), (Some("3-0-3-1-0-1"), Some(8)));
        let error = load::<TrainExperiment>(&path, &["model.preset=resnet_x".into()]).unwrap_err().to_string();
        assert!(error.contains("resnet_x") && error.contains("nasbench201_resnet"), "{error}");
    }

    #[test]
    fn an_architecture_comes_from_either_kind_of_search_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let model = format!("[model]\nkind = 'nasbench201'\narch = '{}'\n{DATA}", dir.path().display());
        let path = write(dir.path(), &model);
        let results = [r#"{"architecture": "0-1-2-3-4-1"}"#, r#"{"best": {"architecture": "0-1-2-3-4-1"}}"#];
        for result in results {
            std::fs::write(dir.path().join("result.json"), result).unwrap();
            let experiment: TrainExperiment = load(&path, &[]).unwrap();
            assert_eq!(Table::try_from(&experiment.model).unwrap()["arch"].as_str(), Some("0-1-2-3-4-1"));
        }
        let missing = ["model.arch=nowhere/result.json".to_string()];
        let error = load::<TrainExperiment>(&path, &missing).unwrap_err().to_string();
        assert!(error.contains("nowhere/result.json"), "{error}");
        std::fs::write(dir.path().join("result.json"), r#"{"best": null}"#).unwrap();
        assert!(load::<TrainExperiment>(&path, &[]).unwrap_err().to_string().contains("no architecture"));
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
                    nas_core::config::load::<SearchExperiment>(&path, &[]).map_err(Into::into).map(drop)
                }
                text if text.contains("[[models]]") => load::<CompareExperiment>(&path, &[]).map(drop),
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
