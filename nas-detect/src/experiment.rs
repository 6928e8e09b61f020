//! The experiment files of `nas-detect`: one section per module, defaults beside the algorithm.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use nas_core::estimator::learning_curve::EarlyStopConfig;
use nas_core::optim::{Decay, OptimizerConfig, Schedule, SgdConfig};
use nas_core::run::config;
use nas_core::search::goals::{Constraint, Goals};
use nas_core::space::Architecture;
use nas_core::strategy::{GeneticConfig, StrategyConfig};
use nas_core::task::experiment::{self, LoaderSection};
use nas_datasets::classify::{ClassifyDataConfig, ClassifyTransform};
use nas_datasets::det::{DetDataConfig, DetTransform};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::backbone::BackboneConfig;
use crate::detnas::DetNasConfig;
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
    /// Ends the run before its end where it will hardly beat the best AP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopConfig>,
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
            early_stop: None,
        }
    }
}

impl TrainExperiment {
    /// Says which value makes no sense.
    pub fn check(&self) -> Result<()> {
        self.train.check("train")?;
        self.train.early_stop.as_ref().map_or(Ok(()), |early_stop| early_stop.check(self.eval.every))
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

/// `nas-detect search`: a backbone of DetNAS' space (Chen et al. 2019, arXiv 1903.10979).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchExperiment {
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// How candidates are compared.
    #[serde(default)]
    pub search: SearchConfig,
    /// What proposes candidates.
    #[serde(default = "detnas_strategy")]
    pub strategy: StrategyConfig,
    /// Bounds of `backbone_macs` (stem and blocks) and `macs` (neck and head too) of candidates, for an image of
    /// `search.macs_size`.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// The detector; its backbone's space is searched, and the backbone's `arch` is not used.
    pub model: ModelConfig,
    /// Classification before detection; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<PretrainConfig>,
    /// The recipe of the supernet on detection.
    #[serde(default)]
    pub supernet: TrainConfig,
    /// The recipe of the two trainings that the search prepares.
    #[serde(default)]
    pub retrain: TrainConfig,
    /// Images and boxes.
    pub data: DetDataConfig,
    /// What is done to training samples; its resizing is that of candidates too.
    #[serde(default)]
    pub augment: DetTransform,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How candidates are run.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// `[search]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Candidates in all. DetNAS: 20 generations of 50.
    pub num_trials: u64,
    /// Part of the train split that candidates are scored on, and that the supernet is not trained on.
    pub held_out: f64,
    /// Images of the supernet's part that a candidate's batch-norm statistics are computed from, in batches of
    /// `supernet.batch_size` and held in memory; 0 leaves the supernet's statistics, which mix those of all candidates.
    pub recalibrate_images: usize,
    /// Height and width of the image that multiply-adds are counted for.
    pub macs_size: (i64, i64),
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self { num_trials: 1000, held_out: 0.1, recalibrate_images: 500, macs_size: (224, 224) }
    }
}

/// DetNAS' evolution: of 50 candidates a generation, 20 mutated, 20 crossed and 10 drawn at random.
fn detnas_strategy() -> StrategyConfig {
    StrategyConfig::Genetic(GeneticConfig { mutations: 20, crossovers: 20, ..GeneticConfig::default() })
}

/// `[pretrain]`: the supernet as a classifier, path by path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Images and classes.
    pub data: ClassifyDataConfig,
    /// What is done to training images.
    #[serde(default)]
    pub augment: ClassifyTransform,
    /// The recipe; default: DetNAS', its learning rate scaled to the batch.
    #[serde(default = "pretrain_recipe")]
    pub train: TrainConfig,
    /// Share of the target that is spread over all classes (Szegedy et al. 2016).
    #[serde(default = "label_smoothing")]
    pub label_smoothing: f64,
}

fn pretrain_recipe() -> TrainConfig {
    let sgd = SgdConfig { lr: 0.125, weight_decay: 4e-5, ..Default::default() };
    TrainConfig {
        epochs: 240,
        batch_size: 256,
        optimizer: OptimizerConfig::Sgd(sgd),
        schedule: Schedule { warmup_steps: 0, decay: Decay::Poly { power: 1.0 } },
        grad_clip: 0.0,
        init: None,
        early_stop: None,
    }
}

fn label_smoothing() -> f64 {
    0.1
}

impl SearchExperiment {
    /// The config of the backbone whose space is searched.
    pub fn backbone(&self) -> Result<&DetNasConfig> {
        match &self.model.backbone {
            BackboneConfig::Detnas(config) => Ok(config),
            _ => bail!("model.backbone: only kind = \"detnas\" is searched"),
        }
    }

    /// Says which value makes no sense.
    pub fn check(&self) -> Result<()> {
        let SearchConfig { num_trials, held_out, macs_size: (h, w), .. } = self.search;
        self.backbone()?.space()?;
        ensure!(num_trials > 0, "search.num_trials = 0; expected at least 1");
        ensure!(held_out > 0.0 && held_out < 1.0, "search.held_out = {held_out}; expected more than 0 and less than 1");
        ensure!(h > 0 && w > 0, "search.macs_size = [{h}, {w}]; expected height and width of an image");
        let info = self.strategy.info();
        ensure!(
            !info.multi_fidelity,
            "strategy.kind = {:?} chooses the epochs of its trials, and a candidate of a trained supernet has none",
            info.kind
        );
        self.strategy.check()?;
        self.goals().check(
            &info,
            &[CANDIDATE_AP, "ap50", "ap75", "backbone_macs", "macs"],
            &["backbone_macs", "macs"],
        )?;
        self.supernet.check("supernet")?;
        self.retrain.check("retrain")?;
        let mut recipes = vec![("supernet", &self.supernet), ("retrain", &self.retrain)];
        if let Some(pretrain) = &self.pretrain {
            let smoothing = pretrain.label_smoothing;
            ensure!(
                (0.0..1.0).contains(&smoothing),
                "pretrain.label_smoothing = {smoothing}; expected 0 or more, below 1"
            );
            pretrain.train.check("pretrain.train")?;
            recipes.push(("pretrain.train", &pretrain.train));
        }
        let given = recipes.into_iter().find(|(_, recipe)| recipe.init.is_some());
        let stops = [("supernet", &self.supernet)]
            .into_iter()
            .chain(self.pretrain.iter().map(|p| ("pretrain.train", &p.train)));
        for (section, recipe) in stops {
            ensure!(recipe.early_stop.is_none(), "{section}.early_stop: a supernet has no score to stop by");
        }
        ensure!(given.is_none(), "{}.init: a search starts from random weights, or from `pretrain`", given.unwrap().0);
        Ok(())
    }

    /// Average precision, and the bounds.
    pub fn goals(&self) -> Goals {
        Goals { constraints: self.constraints.clone(), ..Goals::maximize(CANDIDATE_AP) }
    }

    /// The training of `arch`, from the weights of the run `init` if there is one.
    pub fn training_of(&self, arch: &Architecture, init: Option<PathBuf>) -> Result<TrainExperiment> {
        Ok(TrainExperiment {
            seed: self.seed,
            model: self.model.clone().with_arch(arch.clone())?,
            train: TrainConfig { init, ..self.retrain.clone() },
            data: self.data.clone(),
            augment: self.augment.clone(),
            loader: self.loader.clone(),
            eval: self.eval,
        })
    }
}

/// The metric that candidates are compared by.
pub const CANDIDATE_AP: &str = "ap";

/// `nas-detect compare`: several models, one recipe, several seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareExperiment {
    /// One training per model and seed.
    pub seeds: Vec<u64>,
    /// Validation images to draw.
    #[serde(default = "default_pictures")]
    pub pictures: usize,
    /// Least score of a box that is drawn.
    #[serde(default = "default_min_score")]
    pub min_score: f64,
    /// The networks, in the order of the table.
    pub models: Vec<ComparedModel>,
    /// The recipe of all.
    #[serde(default)]
    pub train: TrainConfig,
    /// Images and boxes.
    pub data: DetDataConfig,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: DetTransform,
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

fn default_min_score() -> f64 {
    0.3
}

/// A model of a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparedModel {
    /// Name in the table and in file names.
    pub name: String,
    /// The network.
    pub model: ModelConfig,
    /// As `train.init`, for this model alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

impl CompareExperiment {
    /// The training of one model, counted in the order of the table, under one seed.
    pub fn training_of(&self, model: usize, seed: u64) -> TrainExperiment {
        let ComparedModel { model, init, .. } = &self.models[model];
        TrainExperiment {
            seed,
            model: model.clone(),
            train: TrainConfig { init: init.clone().or(self.train.init.clone()), ..self.train.clone() },
            data: self.data.clone(),
            augment: self.augment.clone(),
            loader: self.loader.clone(),
            eval: self.eval,
        }
    }
}

/// Reads an experiment file, see [`experiment::read_table`]; all paths of folders become absolute.
pub fn load<T: DeserializeOwned>(path: &Path, sets: &[String]) -> Result<T> {
    let mut table = experiment::read_table(path, sets, ModelConfig::preset)?;
    if let Some(train) = table.get_mut("train") {
        make_absolute(train.get_mut("init"))?;
    }
    if let Some(pretrain) = table.get_mut("pretrain").and_then(|pretrain| pretrain.get_mut("data")) {
        make_absolute(pretrain.get_mut("root"))?;
    }
    for model in table.get_mut("models").and_then(Value::as_array_mut).into_iter().flatten() {
        make_absolute(model.get_mut("init"))?;
    }
    Ok(config::from_table(table, &path.display().to_string())?)
}

fn make_absolute(value: Option<&mut Value>) -> Result<()> {
    if let Some(Value::String(path)) = value {
        *path = experiment::absolute(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neck_search::NeckSearchExperiment;

    #[test]
    fn the_committed_experiments_are_read() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/detect");
        let mut kinds = [0; 3];
        for entry in std::fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            let (kind, outcome) = match &name {
                name if name.ends_with("_neck_search") => {
                    (0, load::<NeckSearchExperiment>(&path, &[]).and_then(|experiment| experiment.check()))
                }
                name if name.ends_with("_search") => {
                    (0, load::<SearchExperiment>(&path, &[]).and_then(|experiment| experiment.check()))
                }
                name if name.ends_with("_compare") => (1, load::<CompareExperiment>(&path, &[]).map(drop)),
                _ => (2, load::<TrainExperiment>(&path, &[]).map(drop)),
            };
            kinds[kind] += 1;
            outcome.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
    }

    fn search(sets: &[&str]) -> Result<SearchExperiment> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/detect/shapes_search.toml");
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let experiment: SearchExperiment = load(&path, &sets)?;
        experiment.check().map(|()| experiment)
    }

    #[test]
    fn a_search_that_makes_no_sense_is_refused_by_its_key() {
        for (set, part) in [
            ("search.num_trials=0", "search.num_trials"),
            ("search.held_out=1.0", "search.held_out"),
            ("strategy={kind='asha'}", "strategy.kind = \"asha\""),
            ("strategy.population_size=0", "strategy.population_size"),
            ("constraints=[{metric='params', upper=1}]", "unknown metric \"params\""),
            ("constraints=[{metric='macs'}]", "neither `upper` nor `lower`"),
            ("model.backbone={kind='resnet', depth=18}", "only kind = \"detnas\""),
            ("supernet.init='x'", "supernet.init"),
            ("pretrain.label_smoothing=1.0", "pretrain.label_smoothing"),
            ("pretrain.train.epochs=0", "pretrain.train.epochs"),
        ] {
            let error = format!("{:#}", search(&[set]).unwrap_err());
            assert!(error.contains(part), "{set}: {error}");
        }
    }

    #[test]
    fn folders_are_named_without_regard_to_the_current_one() {
        let experiment = search(&["pretrain.data={kind='cifar10', root='somewhere'}"]).unwrap();
        let Some(PretrainConfig { data: ClassifyDataConfig::Cifar10 { root, .. }, .. }) = &experiment.pretrain else {
            panic!("CIFAR-10")
        };
        assert!(root.is_absolute());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let arch = "0-0-0-0-0-0-0-0-0".parse().unwrap();
        let training = experiment.training_of(&arch, Some("somewhere".into())).unwrap();
        std::fs::write(&path, config::to_toml(&training)).unwrap();
        assert!(load::<TrainExperiment>(&path, &[]).unwrap().train.init.unwrap().is_absolute());
    }
}
