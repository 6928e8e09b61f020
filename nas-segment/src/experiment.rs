//! The experiment files of `nas-segment`: one section per module, defaults beside the algorithm.

use std::path::Path;

use anyhow::{Result, bail};
use nas_core::estimator::learning_curve::EarlyStopConfig;
use nas_core::nn::Cost;
use nas_core::nn::VarBuilder;
use nas_core::one_shot::{DartsConfig, OneShotConfig};
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::run::config;
use nas_core::search::goals::Constraint;
use nas_core::space::Architecture;
use nas_core::task::experiment::{self, LoaderSection};
use nas_datasets::{DataConfig, Size, TrainTransform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::auto_deeplab::{AutoDeepLabConfig, AutoDeepLabSpace};
use crate::model::ModelConfig;

/// `nas-segment search`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchExperiment {
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// What to search.
    #[serde(default)]
    pub space: AutoDeepLabSpace,
    /// How to search.
    #[serde(default)]
    pub search: SearchConfig,
    /// The network that an architecture is for; absent for one as wide as the supernet. Its `arch` does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelConfig>,
    /// Bounds of that network's `params` and `macs`, the latter on one crop, in a search over the trained supernet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// Images and labels.
    pub data: DataConfig,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: TrainTransform,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the supernet is validated.
    #[serde(default)]
    pub eval: EvalConfig,
}

impl SearchExperiment {
    /// The cost of `arch`'s network on one crop.
    pub fn cost(&self, arch: &Architecture, num_classes: usize) -> Result<Cost> {
        let AutoDeepLabSpace { layers, filters, stem, .. } = self.space;
        let model = match &self.model {
            Some(model) => model.clone().with_arch(arch.clone())?,
            None => ModelConfig::AutoDeeplab(AutoDeepLabConfig {
                arch: arch.clone(),
                layers,
                filters,
                stem,
                ..Default::default()
            }),
        };
        let crop = self.augment.crop;
        Ok(model.build(&VarBuilder::dry(), num_classes as i64)?.cost((crop.height().into(), crop.width().into())))
    }
}

/// Length and method of a search. Defaults: Auto-DeepLab section 5.1. A section `first_order` in the place of `method` is
/// first-order DARTS with Auto-DeepLab's constants where it gives none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Passes over one half of the train set.
    pub epochs: usize,
    /// Images per step, for weights and architecture each.
    pub batch_size: usize,
    /// The one-shot method.
    pub method: OneShotConfig,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self { epochs: 40, batch_size: 2, method: OneShotConfig::Darts(DartsConfig::auto_deeplab()) }
    }
}

/// `nas-segment train`.
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
    /// Images and labels.
    pub data: DataConfig,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: TrainTransform,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the network is validated.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// A training recipe. Defaults: Auto-DeepLab's retraining, except for its length.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// Weight of each class in the loss; empty for 1.
    pub class_weights: Vec<f64>,
    /// Ends the run before its end where it will hardly beat the best mIOU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopConfig>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let sgd = SgdConfig { lr: 0.05, weight_decay: 4e-5, ..Default::default() };
        Self {
            epochs: 100,
            batch_size: 8,
            optimizer: OptimizerConfig::Sgd(sgd),
            schedule: Schedule { warmup_steps: 0, decay: Decay::Poly { power: 0.9 } },
            grad_clip: 0.0,
            class_weights: Vec::new(),
            early_stop: None,
        }
    }
}

/// `nas-segment compare`: several models, one recipe, several seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareExperiment {
    /// One training per model and seed.
    pub seeds: Vec<u64>,
    /// Validation images to draw overlays of.
    #[serde(default = "default_pictures")]
    pub pictures: usize,
    /// The networks, in the order of the table.
    pub models: Vec<NamedModel>,
    /// The recipe of all.
    #[serde(default)]
    pub train: TrainConfig,
    /// Images and labels.
    pub data: DataConfig,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: TrainTransform,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the networks are validated.
    #[serde(default)]
    pub eval: EvalConfig,
}

fn default_pictures() -> usize {
    4
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

/// How mIOU is measured; always at the label's own resolution.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// Epochs between validations; the last epoch always has one. 0: only the last.
    pub every: usize,
    /// Size the images are resized to, `[height, width]`; absent for their own.
    pub resize: Option<Size>,
    /// Scales whose probabilities are averaged.
    pub scales: Vec<f64>,
    /// Adds the mirrored image at every scale.
    pub flip: bool,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every: 0, resize: None, scales: vec![1.0], flip: false }
    }
}

/// Reads an experiment file, see [`experiment::read_table`].
pub fn load<T: DeserializeOwned>(path: &Path, sets: &[String]) -> Result<T> {
    let mut table = experiment::read_table(path, sets, ModelConfig::preset)?;
    if let Some(search) = table.get_mut("search").and_then(Value::as_table_mut) {
        resolve_method(search)?;
    }
    Ok(config::from_table(table, &path.display().to_string())?)
}

fn resolve_method(search: &mut Table) -> Result<()> {
    let Some(first_order) = search.remove("first_order") else { return Ok(()) };
    if search.contains_key("method") {
        bail!("search.first_order is the older form of search.method; expected one of the two");
    }
    let Value::Table(first_order) = first_order else {
        bail!("search.first_order = {first_order}: expected a section")
    };
    let mut method = Table::try_from(OneShotConfig::Darts(DartsConfig::auto_deeplab()))?;
    method.extend(first_order);
    search.insert("method".into(), Value::Table(method));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn write(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("x.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    const DATA: &str = "[data]\nkind = 'camvid'\nroot = 'camvid'\n";

    #[test]
    fn a_preset_is_expanded_and_its_keys_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &format!("[model]\npreset = 'auto_deeplab_s'\nfilters = 4\n{DATA}"));
        let experiment: TrainExperiment = load(&path, &[]).unwrap();
        let ModelConfig::AutoDeeplab(config) = experiment.model else { panic!("an Auto-DeepLab network") };
        assert_eq!((config.filters, config.layers), (4, 12));
        let error = load::<TrainExperiment>(&path, &["model.preset=auto_deeplab_x".into()]).unwrap_err().to_string();
        assert!(error.contains("auto_deeplab_x") && error.contains("auto_deeplab_s"), "{error}");
    }

    #[test]
    fn a_section_first_order_is_darts_with_auto_deeplabs_constants() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &format!("[search.first_order]\ngrad_clip = 2.0\n{DATA}"));
        let experiment: SearchExperiment = load(&path, &["search.first_order.arch_start_epoch=7".into()]).unwrap();
        let expected = DartsConfig { grad_clip: 2.0, arch_start_epoch: 7, ..DartsConfig::auto_deeplab() };
        assert_eq!(experiment.search.method, OneShotConfig::Darts(expected));
        let both = ["search.method.kind=gdas".to_string()];
        let error = load::<SearchExperiment>(&path, &both).unwrap_err().to_string();
        assert!(error.contains("search.first_order"), "{error}");
    }

    #[test]
    fn the_committed_experiments_are_read() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/segment");
        let published = ["models=[{name='x', model={preset='auto_deeplab_s'}}]".to_string()];
        for entry in std::fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let arch = ["model.arch='0-1-0-4-1-4'".to_string(), "model.layers=2".to_string()];
            let outcome = match name {
                name if ["_auto_deeplab.toml", "_spos.toml", "demo_search.toml"]
                    .iter()
                    .any(|end| name.ends_with(end)) =>
                {
                    load::<SearchExperiment>(&path, &[]).map(drop)
                }
                name if name.contains("compare") => load::<CompareExperiment>(&path, &published).map(drop),
                name if name.ends_with("_derived.toml") => load::<TrainExperiment>(&path, &arch).map(drop),
                _ => load::<TrainExperiment>(&path, &[]).map(drop),
            };
            outcome.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }
}
