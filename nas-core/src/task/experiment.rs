//! What the experiment files of all tasks have in common: how images are read, presets, architectures found by searches.

use std::io::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nas_datasets::{LoaderConfig, SampleSet, Split, shared_images};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::around::AROUND;
use super::evaluator::{EvaluatorConfig, HonestyConfig, PREDICTED, PredictorSection, SearchPart};
use super::held_out::HeldOut;
use super::latency::LatencyConfig;
use super::searched::SearchedSpace;
use super::{Task, TaskModel, TaskSpace, TeacherConfig};
use crate::estimator::learning_curve::EarlyStopConfig;
use crate::executor::{ExecutorConfig, Limits};
use crate::one_shot::OneShotConfig;
use crate::optim::{OptimizerConfig, Schedule};
use crate::run::cli::{Compute, require_sound, warn};
use crate::run::run_dir::read_json;
use crate::run::{config, ranges};
use crate::search::goals::{Constraint, Goal, Goals, Objective};
use crate::search::start::StartConfig;
use crate::space::Architecture;
use crate::space::trial::Budget;
use crate::strategy::StrategyConfig;

/// The section `[loader]`: how images are read. None of it changes what is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// What an experiment file is for: its key `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Kind {
    /// One training.
    Train,
    /// Several models by one recipe.
    Compare,
    /// A search by trials.
    Search,
    /// A search on shared weights.
    OneShot,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Compare => "compare",
            Self::Search => "search",
            Self::OneShot => "one_shot",
        }
    }
}

/// An experiment file of a task.
pub trait Experiment: Serialize + DeserializeOwned {
    /// Whose it is.
    type Task: Task;
    /// Its `kind`.
    const KIND: Kind;

    /// Says which value makes no sense.
    fn check(&self) -> Result<()>;
}

/// The sections of all experiments about data, and the loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T: Task> {
    /// Samples and classes.
    pub data: T::Data,
    /// What is done to training samples.
    pub augment: T::Augment,
    /// How samples are read.
    pub loader: LoaderSection,
    /// How networks are validated.
    pub eval: T::Eval,
    /// The loss.
    pub loss: T::Loss,
}

impl<T: Task> Setting<T> {
    /// Batches of a validation or a training on the machine's threads.
    pub fn loading(&self, batch_size: usize, compute: Compute) -> LoaderConfig {
        self.loader.with(batch_size, compute.threads)
    }

    /// Looks at every sample of a split before hours are spent on it.
    pub fn open_sound(&self, split: Split) -> Result<T::Set> {
        let set = T::open(&self.data, split)?;
        require_sound(&set.problems(), set.len(), split.as_str(), T::PROGRAM)?;
        set.warnings().iter().for_each(|warning| warn(format!("{split}: {warning}")));
        if split == Split::Train {
            T::require_trainable(&set).context("the train split")?;
        }
        Ok(set)
    }

    /// The train split without `held_out`, and that, looked at as by [`Setting::open_sound`].
    pub fn open_parts_sound(&self, held_out: HeldOut, seed: u64) -> Result<(T::Set, T::Set)> {
        let train = self.open_sound(Split::Train)?;
        let (seen, held_out) = held_out.split::<T>(&train, seed)?;
        Ok((train.subset(seen), train.subset(held_out)))
    }

    /// The splits of a training, looked at as by [`Setting::open_sound`], and for images that both have.
    pub fn open_both_sound(&self) -> Result<(T::Set, T::Set)> {
        let (train, val) = (self.open_sound(Split::Train)?, self.open_sound(Split::Val)?);
        let [of_train, of_val] = [&train, &val].map(|set| (0..set.len()).map(|i| set.image_path(i)));
        shared_images(of_train, of_val).into_iter().for_each(warn);
        Ok((train, val))
    }
}

/// `[train]`: a training recipe. Defaults are the task's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, bound = "T: Task")]
#[schemars(rename = "Recipe", bound = "T: Task")]
pub struct Recipe<T: Task> {
    /// Passes over the train split.
    pub epochs: usize,
    /// Samples per step.
    pub batch_size: usize,
    /// Parts that a batch is computed in, one after the other, so that it needs less memory: the gradients are those of the
    /// whole batch, but norms see the statistics of a part.
    #[serde(skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// Update rule of the weights.
    pub optimizer: OptimizerConfig,
    /// Learning rate over the run.
    pub schedule: Schedule,
    /// Norms see the statistics of the whole batch where several processes share it (`--procs`), instead of those of their part.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sync_batch_norm: bool,
    /// Largest norm of the gradient; 0 for no limit.
    pub grad_clip: f64,
    /// Decay per step of an average of the weights, which is what is validated and saved; 0 for none.
    pub ema: f64,
    /// Weights to start from: a run folder, of a training or of a search on shared weights, or a safetensors file.
    /// Absent: random ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Put before every name of `init`'s tensors, such as `backbone.`, or empty. With it what fits by name and shape is taken, and
    /// reported, also from files of PyTorch; without it the whole network must fit, but for the layers of other classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_prefix: Option<String>,
    /// A trained network whose predictions are learned beside the labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
    /// Ends the run before its end where it will hardly beat the best main metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStopConfig>,
    /// Whose recipe it is.
    #[serde(skip)]
    pub task: PhantomData<T>,
}

fn is_one(parts: &usize) -> bool {
    *parts == 1
}

impl<T: Task> Default for Recipe<T> {
    fn default() -> Self {
        T::recipe()
    }
}

impl<T: Task> Recipe<T> {
    /// A recipe without averaging, start or early stop.
    pub fn new(
        epochs: usize,
        batch_size: usize,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        grad_clip: f64,
    ) -> Self {
        Self {
            epochs,
            batch_size,
            accumulate: 1,
            optimizer,
            schedule,
            sync_batch_norm: false,
            grad_clip,
            ema: 0.0,
            init: None,
            init_prefix: None,
            teacher: None,
            early_stop: None,
            task: PhantomData,
        }
    }

    /// Says which value makes no sense; `section` is the recipe's name in the file.
    pub fn check(&self, section: &str, eval: &T::Eval) -> Result<()> {
        let Self { epochs, batch_size, accumulate, grad_clip, ema, .. } = self;
        ensure!(*epochs > 0, "{section}.epochs = 0; expected at least 1");
        ensure!(*batch_size > 0, "{section}.batch_size = 0; expected at least 1");
        ensure!(
            *accumulate > 0 && batch_size % accumulate == 0,
            "{section}.accumulate = {accumulate}; expected a number that divides {section}.batch_size = {batch_size}"
        );
        ensure!(*grad_clip >= 0.0 && grad_clip.is_finite(), "{section}.grad_clip = {grad_clip}; expected 0 or more");
        ensure!(
            self.init.is_some() || self.init_prefix.is_none(),
            "{section}.init_prefix without {section}.init; expected weights to start from"
        );
        ensure!(
            self.teacher.is_none() || T::PREDICTS_CLASSES,
            "{section}.teacher: the outputs of {}'s networks are no classes that could be learned; expected none",
            T::PROGRAM
        );
        ensure!((0.0..1.0).contains(ema), "{section}.ema = {ema}; expected at least 0 and less than 1");
        ranges::check(self)?;
        self.early_stop.as_ref().map_or(Ok(()), |early_stop| early_stop.check(T::eval_every(eval)))
    }
}

/// `kind = "train"`: one network, one recipe, one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "T: Task")]
#[schemars(rename = "Train", bound = "T: Task")]
pub struct TrainExperiment<T: Task> {
    /// `train`.
    pub kind: Kind,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// The network.
    pub model: T::Model,
    /// The recipe.
    #[serde(default)]
    pub train: Recipe<T>,
    /// The loss.
    #[serde(default)]
    pub loss: T::Loss,
    /// Samples and classes.
    pub data: T::Data,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: T::Augment,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the network is validated.
    #[serde(default)]
    pub eval: T::Eval,
    /// Part of the train split that is left out of the training and validated on in the place of the val split, which is not opened:
    /// for what a search begins from, or for choosing a recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
}

impl<T: Task> TrainExperiment<T> {
    /// The training of `model` by `train` on the data of `setting`.
    pub fn new(seed: u64, model: T::Model, train: Recipe<T>, setting: Setting<T>) -> Self {
        let Setting { data, augment, loader, eval, loss } = setting;
        Self { kind: Kind::Train, seed, model, train, loss, data, augment, loader, eval, held_out: None }
    }

    /// Its sections about data, and the loss.
    pub fn setting(&self) -> Setting<T> {
        let Self { data, augment, loader, eval, loss, .. } = self.clone();
        Setting { data, augment, loader, eval, loss }
    }
}

impl<T: Task> Experiment for TrainExperiment<T> {
    type Task = T;
    const KIND: Kind = Kind::Train;

    fn check(&self) -> Result<()> {
        self.train.check("train", &self.eval)?;
        self.held_out.map_or(Ok(()), |held_out| held_out.check("held_out"))?;
        T::check(&self.setting())
    }
}

/// `kind = "compare"`: several models, one recipe, several seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "T: Task")]
#[schemars(rename = "Compare", bound = "T: Task")]
pub struct CompareExperiment<T: Task> {
    /// `compare`.
    pub kind: Kind,
    /// One training per model and seed.
    pub seeds: Vec<u64>,
    /// Validation samples to draw.
    #[serde(default = "default_pictures")]
    pub pictures: usize,
    /// The networks, in the order of the table.
    pub models: Vec<NamedModel<T::Model>>,
    /// The recipe of all.
    #[serde(default)]
    pub train: Recipe<T>,
    /// The loss.
    #[serde(default)]
    pub loss: T::Loss,
    /// Samples and classes.
    pub data: T::Data,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: T::Augment,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the networks are validated.
    #[serde(default)]
    pub eval: T::Eval,
}

fn default_pictures() -> usize {
    4
}

/// A model of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NamedModel")]
pub struct NamedModel<M> {
    /// Name in the table and in file names.
    pub name: String,
    /// The network.
    pub model: M,
    /// As `train.init`, for this model alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// As `train.init_prefix`, for this model alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_prefix: Option<String>,
    /// It is one of the random networks that the others are compared with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub random: bool,
    /// Run folder of the search that found it, whose price stands below the table. Known by itself where `model.preset` or
    /// `model.arch` names that folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<PathBuf>,
}

impl<T: Task> CompareExperiment<T> {
    /// The training of one model, counted in the order of the table, under one seed.
    pub fn training_of(&self, model: usize, seed: u64) -> TrainExperiment<T> {
        let NamedModel { model, init, init_prefix, .. } = &self.models[model];
        let mut train = self.train.clone();
        train.init = init.clone().or(train.init);
        train.init_prefix = init_prefix.clone().or(train.init_prefix);
        TrainExperiment::new(seed, model.clone(), train, self.setting())
    }

    /// Its sections about data, and the loss.
    pub fn setting(&self) -> Setting<T> {
        let Self { data, augment, loader, eval, loss, .. } = self.clone();
        Setting { data, augment, loader, eval, loss }
    }
}

impl<T: Task> Experiment for CompareExperiment<T> {
    type Task = T;
    const KIND: Kind = Kind::Compare;

    fn check(&self) -> Result<()> {
        ensure!(!self.models.is_empty() && !self.seeds.is_empty(), "`models` and `seeds` must not be empty");
        // A prefix of all models may be of their own weights.
        Recipe { init_prefix: None, ..self.train.clone() }.check("train", &self.eval)?;
        for (i, model) in self.models.iter().enumerate() {
            let recipe = self.training_of(i, 0).train;
            recipe.check("train", &self.eval).with_context(|| format!("models: {}", model.name))?;
        }
        T::check(&self.setting())
    }
}

/// `kind = "one_shot"`: a search on the shared weights of a supernet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "T: Task")]
#[schemars(rename = "OneShot", bound = "T: Task")]
pub struct OneShotExperiment<T: Task> {
    /// `one_shot`.
    pub kind: Kind,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// What to search.
    pub space: T::Space,
    /// How to search.
    pub one_shot: OneShotSection,
    /// The network that an architecture is for; absent for one of the space's own size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<T::Model>,
    /// Bounds of what is found: of `params`, `macs` and the space's other costs. A search over the trained supernet proposes nothing
    /// else; of a method that learns probabilities, the most probable architecture inside is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// Height and width of the image that costs are counted for; absent for that of a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_size: Option<(i64, i64)>,
    /// How far scores by the trained supernet can be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyConfig>,
    /// The time that networks take on a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyConfig>,
    /// What the supernet is trained on before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<T::Pretrain>,
    /// The recipe of the training that the search prepares.
    #[serde(default)]
    pub retrain: Recipe<T>,
    /// The loss.
    #[serde(default)]
    pub loss: T::Loss,
    /// Samples and classes.
    pub data: T::Data,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: T::Augment,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How the supernet and its candidates are validated.
    #[serde(default)]
    pub eval: T::Eval,
}

/// `[one_shot]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneShotSection {
    /// The method and its parameters.
    pub method: OneShotConfig,
    /// Passes over the weights' part of the train split. Default: DARTS's.
    #[serde(default = "default_one_shot_epochs")]
    pub epochs: usize,
    /// Samples per step, for weights and architecture each. Default: DARTS's.
    #[serde(default = "default_one_shot_batch_size")]
    pub batch_size: usize,
    /// Norms see the statistics of the whole batch where several processes share it (`--procs`), instead of those of their part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sync_batch_norm: bool,
    /// Epochs between validations on the architecture's part; the last epoch always has one. 0: only the last.
    #[serde(default)]
    pub eval_every: usize,
    /// Part of the train split that the weights do not see; absent: one of two random halves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
    /// Weights that the supernet starts from, as far as names and shapes fit: a run folder or a file, also of PyTorch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Put before every name of `init`'s tensors, such as `backbone.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_prefix: Option<String>,
}

fn default_one_shot_epochs() -> usize {
    50
}

fn default_one_shot_batch_size() -> usize {
    64
}

impl<T: Task> OneShotExperiment<T> {
    /// Its sections about data, and the loss.
    pub fn setting(&self) -> Setting<T> {
        let Self { data, augment, loader, eval, loss, .. } = self.clone();
        Setting { data, augment, loader, eval, loss }
    }

    /// The training of an architecture, from the weights of `init` where there are some.
    pub fn training_of(&self, arch: &Architecture, init: Option<PathBuf>) -> Result<TrainExperiment<T>> {
        let model = self.space.derive(self.model.as_ref(), arch)?;
        Ok(TrainExperiment::new(self.seed, model, Recipe { init, ..self.retrain.clone() }, self.setting()))
    }
}

impl<T: Task> Experiment for OneShotExperiment<T> {
    type Task = T;
    const KIND: Kind = Kind::OneShot;

    fn check(&self) -> Result<()> {
        let OneShotSection { epochs, batch_size, held_out, init, init_prefix, .. } = &self.one_shot;
        ensure!(*epochs > 0, "one_shot.epochs = 0; expected at least 1");
        ensure!(*batch_size > 0, "one_shot.batch_size = 0; expected at least 1");
        held_out.map_or(Ok(()), |held_out| held_out.check("one_shot.held_out"))?;
        ensure!(
            init.is_some() || init_prefix.is_none(),
            "one_shot.init_prefix without one_shot.init; expected weights to start from"
        );
        ensure!(self.retrain.init.is_none(), "retrain.init: the search itself says what its trainings start from");
        self.retrain.check("retrain", &self.eval)?;
        T::check(&self.setting())?;
        self.space.shared().context("space")?;
        if let Some(latency) = &self.latency {
            latency.check()?;
            let of_trials = latency.of_trials();
            ensure!(
                !of_trials,
                "latency.measure.when = \"trials\": a supernet's candidates are not measured; expected \"found\""
            );
        }
        self.constraints.iter().try_for_each(Constraint::check)
    }
}

/// `kind = "search"`: a search by trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "T: Task")]
#[schemars(rename = "Search", bound = "T: Task")]
pub struct SearchExperiment<T: Task> {
    /// `search`.
    pub kind: Kind,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Trials in all.
    pub num_trials: u64,
    /// The space.
    pub space: SearchedSpace<T>,
    /// What proposes architectures.
    pub strategy: StrategyConfig,
    /// What to make better; several need a strategy that keeps a Pareto set.
    pub objectives: Vec<Objective>,
    /// Bounds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// How much of the full evaluation every trial gets.
    #[serde(default)]
    pub budget: Budget,
    /// What evaluates them.
    pub evaluator: EvaluatorConfig,
    /// Where trials run.
    #[serde(default)]
    pub executor: ExecutorConfig,
    /// What a trial may use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// What the search begins from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start: StartConfig,
    /// A second search with the same number of trials to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<StrategyConfig>,
    /// Learns the main objective from random architectures; the search then runs on what is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictor: Option<PredictorSection>,
    /// How far the main objective can be trusted, where it is only an estimate of another metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyConfig>,
    /// The time that networks take on a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyConfig>,
    /// Height and width of the image that costs are counted for; absent for that of a training, or of the batch of
    /// `zero_cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_size: Option<(i64, i64)>,
    /// The network that an architecture is for; absent for one of the space's own size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<T::Model>,
    /// The recipe of trials that train.
    #[serde(default)]
    pub train: Recipe<T>,
    /// The recipe of the training that the search prepares; that of the trials where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrain: Option<Recipe<T>>,
    /// The loss.
    #[serde(default)]
    pub loss: T::Loss,
    /// Samples and classes, for evaluators that need some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<T::Data>,
    /// What is done to training samples.
    #[serde(default)]
    pub augment: T::Augment,
    /// How samples are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How networks are validated.
    #[serde(default)]
    pub eval: T::Eval,
}

fn is_default<S: Default + PartialEq>(section: &S) -> bool {
    *section == S::default()
}

impl<T: Task> SearchExperiment<T> {
    /// Its sections about data, and the loss; an error without `[data]`.
    pub fn setting(&self) -> Result<Setting<T>> {
        let Self { data, augment, loader, eval, loss, .. } = self.clone();
        let data = data.context("data: the section is missing; the evaluator needs samples")?;
        Ok(Setting { data, augment, loader, eval, loss })
    }

    /// Objectives and constraints of the trials of a part.
    pub fn goals(&self, part: SearchPart) -> Goals {
        let mut goals = Goals { objectives: self.objectives.clone(), constraints: self.constraints.clone() };
        match part {
            // A predictor is taught that larger is better.
            SearchPart::Search if self.predictor.is_some() => {
                goals.objectives[0] = Objective { metric: PREDICTED.into(), goal: Goal::Maximize };
            }
            SearchPart::Search | SearchPart::Verify => {}
            SearchPart::Predictor | SearchPart::Baseline => goals.objectives.truncate(1),
            SearchPart::Honesty => {
                goals = self.goals(SearchPart::Search);
                goals.objectives.truncate(1);
                goals.constraints.clear();
            }
        }
        goals
    }

    /// The training of what was found; `None` without data to train on.
    pub fn training_of(&self, arch: &Architecture) -> Result<Option<TrainExperiment<T>>> {
        if self.data.is_none() {
            return Ok(None);
        }
        let model = self.space.derive(self.model.as_ref(), arch)?;
        let recipe = self.space.recipe(self.retrain.as_ref().unwrap_or(&self.train), arch)?;
        Ok(Some(TrainExperiment::new(self.seed, model, recipe, self.setting()?)))
    }
}

impl<T: Task> Experiment for SearchExperiment<T> {
    type Task = T;
    const KIND: Kind = Kind::Search;

    fn check(&self) -> Result<()> {
        ensure!(self.num_trials > 0, "num_trials = 0; expected at least 1");
        self.budget.check()?;
        self.executor.check()?;
        self.start.check(self.num_trials)?;
        self.train.check("train", &self.eval)?;
        self.retrain.as_ref().map_or(Ok(()), |recipe| recipe.check("retrain", &self.eval))?;
        self.latency.as_ref().map_or(Ok(()), LatencyConfig::check)?;
        if self.data.is_some() {
            T::check(&self.setting()?)?;
        }
        self.space.check(&self.train, &self.eval)
    }
}

/// Says when a part of a set is none of it or all.
pub fn check_part(key: &str, part: f64) -> Result<()> {
    ensure!(part > 0.0 && part < 1.0, "{key} = {part}; expected more than 0 and less than 1");
    Ok(())
}

/// Whether `epoch` (from 0) is followed by a validation, when there is one every so many epochs and one after the last.
pub fn is_due(every: usize, epoch: usize, last: bool) -> bool {
    last || (every > 0 && (epoch + 1).is_multiple_of(every))
}

/// Reads an experiment file, with `sets` in the place of the file's own keys. Paths become absolute. In `model` and in every
/// `models[].model`, `preset` becomes the keys of the network of that name, file or run, which the model's other keys replace, and an `arch`
/// there or in a part of the model that names a search's `result.json` (or its run folder) becomes the architecture found there.
pub fn load<E: Experiment>(path: &Path, sets: &[String]) -> Result<E> {
    let origin = path.display().to_string();
    let mut table = config::read_table(path, sets)?;
    let expected = E::KIND.name();
    match kind_of(&table).with_context(|| origin.clone())? {
        None => _ = table.insert("kind".into(), Value::String(expected.into())),
        Some(kind) if kind == E::KIND => {}
        Some(kind) => bail!("{origin}: kind = {:?}; this command takes kind = {expected:?}", kind.name()),
    }
    resolve(&mut table, &|name: &str| named_model(name, <E::Task as Task>::Model::preset))?;
    move_init(&mut table, E::KIND).with_context(|| origin.clone())?;
    go_around::<E::Task>(&mut table, E::KIND).with_context(|| origin.clone())?;
    let experiment: E = config::from_table(table, &origin)?;
    check_all(&experiment).with_context(|| origin)?;
    Ok(experiment)
}

/// In a search around a network: `model` where it is not given becomes that of `space.run`, and `space.stages` the model's own.
fn go_around<T: Task>(table: &mut Table, kind: Kind) -> Result<()> {
    let space = table.get("space").and_then(Value::as_table);
    let Some(mut space) = space.filter(|space| space.get("kind").and_then(Value::as_str) == Some(AROUND)).cloned()
    else {
        return Ok(());
    };
    ensure!(
        kind == Kind::Search,
        "space.kind = \"around\": such networks share no weights; expected kind = \"search\""
    );
    let run = match space.get("run") {
        Some(Value::String(run)) => Some(absolute(run).context("space.run")?),
        _ => None,
    };
    if let Some(run) = &run {
        space.insert("run".into(), Value::String(run.clone()));
    }
    if !table.contains_key("model") {
        let run = run.context("space.run, model: neither is given; expected the folder of a training, or a network")?;
        let theirs: TrainExperiment<T> = load(&Path::new(&run).join("config.toml"), &[]).context("space.run")?;
        table.insert("model".into(), Value::try_from(theirs.model)?);
    }
    let model: T::Model = config::section(table.clone(), "model", "the network to go around")?;
    let (own, top) = (model.stages()?, if space.contains_key("run") { None } else { model.top() });
    if let Some(stages) = space.get("stages") {
        // One too many would size a top that was not asked for.
        let with_top = space.get("top").and_then(Value::as_bool) == Some(true);
        ensure!(!with_top || top.is_some(), "space.top = true: the network has no top whose size could be chosen");
        let (found, expected) = (stages.as_array().map_or(0, Vec::len), own.len() + usize::from(with_top));
        ensure!(found == expected, "space.stages: {found} stages; expected the network's {expected}");
    } else {
        space.insert("stages".into(), Value::try_from([own, Vec::from_iter(top)].concat())?);
        space.extend(top.map(|_| ("top".to_string(), Value::Boolean(true))));
        let rise = model.rise().map(Value::try_from).transpose()?;
        space.extend(rise.map(|rise| ("rise".to_string(), rise)));
    }
    table.insert("space".into(), Value::Table(space));
    Ok(())
}

/// What makes no sense, as the sections say it and then by every number's range.
fn check_all<E: Experiment>(experiment: &E) -> Result<()> {
    experiment.check()?;
    ranges::check(experiment)
}

/// The weights of a network without a run: a file that is named, or those that come with the program.
pub enum Weights {
    /// A file.
    Named(PathBuf),
    /// A file of what came with the program, which goes with this value.
    Shipped(tempfile::NamedTempFile),
}

impl Weights {
    /// Of the network called `model`, where `named` is the file that was given.
    ///
    /// # Errors
    /// If no file was given and none comes with the program.
    pub fn of_model<T: Task>(model: &str, named: Option<&Path>) -> Result<Self> {
        if let Some(file) = named {
            return Ok(Self::Named(file.to_path_buf()));
        }
        let bytes = T::shipped_weights(model);
        let bytes =
            bytes.with_context(|| format!("--model {model}: no weights come with it; expected --weights FILE"))?;
        let mut file = tempfile::Builder::new().suffix(".safetensors").tempfile().context("a file for weights")?;
        file.write_all(bytes).context("a file for weights")?;
        Ok(Self::Shipped(file))
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Shipped(file) => file.path(),
        }
    }
}

/// The experiment of a network without a run: `name` is a preset, whose other sections are those of `sets`, or an experiment
/// file of kind `train`. A preset whose classes are known ([`Task::preset_classes`]) needs no data; then those of the
/// experiment stand for none.
pub fn of_model<T: Task>(name: &str, sets: &[String]) -> Result<TrainExperiment<T>> {
    let model = match T::Model::preset(name) {
        Err(_) if Path::new(name).is_file() => return load(Path::new(name), sets),
        preset => preset.with_context(|| format!("{name}: neither a preset nor an experiment file"))?,
    };
    let mut table = Table::from_iter([
        ("kind".to_string(), Value::String(Kind::Train.name().into())),
        ("model".to_string(), Value::try_from(model)?),
    ]);
    config::apply_all(&mut table, sets)?;
    if let Some((_, data)) = T::layouts(Path::new(".")).first().filter(|_| T::preset_classes(name).is_some()) {
        let data = Value::try_from(data)?;
        table.entry("data").or_insert(data);
    }
    ensure!(table.contains_key("data"), "{name}: no samples; expected --set data.kind=KIND and --set data.root=DIR");
    resolve(&mut table, &|name: &str| named_model(name, T::Model::preset))?;
    let experiment: TrainExperiment<T> = config::from_table(table, name)?;
    check_all(&experiment).with_context(|| name.to_string())?;
    Ok(experiment)
}

/// The kind that the experiment file at `path` says it is of; a file that says nothing is of its command's first kind.
pub fn kind_at(path: &Path, sets: &[String]) -> Result<Option<Kind>> {
    kind_of(&config::read_table(path, sets)?).with_context(|| path.display().to_string())
}

fn kind_of(table: &Table) -> Result<Option<Kind>> {
    const KINDS: &str = "\"train\", \"compare\", \"search\" (by trials) or \"one_shot\" (a search on shared weights)";
    let Some(kind) = table.get("kind") else { return Ok(None) };
    kind.clone().try_into().map(Some).map_err(|_| anyhow!("kind = {kind}; expected {KINDS}"))
}

/// One section of an experiment file of any kind.
pub fn load_section<S: DeserializeOwned>(path: &Path, sets: &[String], name: &str) -> Result<S> {
    let mut table = config::read_table(path, sets)?;
    absolute_paths(&mut table)?;
    Ok(config::section(table, name, &path.display().to_string())?)
}

/// Keys about weights to start from, which may stand in a model and are no part of it.
pub(super) const OF_WEIGHTS: [&str; 2] = ["init", "init_prefix"];

/// A key of weights, taken out of a model; a path as one that does not depend on the current folder.
fn taken(model: Option<&mut Value>, key: &str) -> Result<Option<Value>> {
    match model.and_then(|model| model.as_table_mut()?.remove(key)) {
        Some(Value::String(path)) if key == "init" => Ok(Some(Value::String(absolute(&path)?))),
        value => Ok(value),
    }
}

/// `init` and `init_prefix` may stand in `[model]` too: they move to the section of the recipe, or of the supernet.
fn move_init(table: &mut Table, kind: Kind) -> Result<()> {
    let section = if kind == Kind::OneShot { "one_shot" } else { "train" };
    for key in OF_WEIGHTS {
        let Some(value) = taken(table.get_mut("model"), key)? else { continue };
        let place = table.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut();
        let place = place.with_context(|| format!("{section}: expected a section"))?;
        ensure!(!place.contains_key(key), "model.{key} and {section}.{key}: expected one of them");
        place.insert(key.into(), value);
    }
    if table.get("model").and_then(Value::as_table).is_some_and(Table::is_empty) {
        table.remove("model");
    }
    for entry in table.get_mut("models").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(entry) = entry.as_table_mut() else { continue };
        for key in OF_WEIGHTS {
            let Some(value) = taken(entry.get_mut("model"), key)? else { continue };
            ensure!(!entry.contains_key(key), "models.model.{key} and models.{key}: expected one of them");
            entry.insert(key.into(), value);
        }
    }
    Ok(())
}

fn resolve<M: Serialize>(table: &mut Table, preset: &impl Fn(&str) -> Result<M>) -> Result<()> {
    absolute_paths(table)?;
    if let Some(model) = table.get_mut("model").and_then(Value::as_table_mut) {
        resolve_model(model, preset)?;
    }
    let models = table.get_mut("models").and_then(Value::as_array_mut);
    for entry in models.into_iter().flatten().filter_map(Value::as_table_mut) {
        let Some(model) = entry.get_mut("model").and_then(Value::as_table_mut) else { continue };
        let search = search_of(model)?;
        resolve_model(model, preset)?;
        if let Some(search) = search.filter(|_| !entry.contains_key("search")) {
            entry.insert("search".into(), Value::String(search));
        }
    }
    Ok(())
}

/// The search whose folder, or file in it, a model's `preset` or `arch` names.
fn search_of(model: &Table) -> Result<Option<String>> {
    for name in ["preset", "arch"].iter().filter_map(|key| model.get(*key)?.as_str()) {
        let path = Path::new(name);
        let folder = if path.is_dir() { Some(path) } else { path.parent().filter(|_| path.is_file()) };
        let Some(config) = folder.map(|folder| folder.join("config.toml")).filter(|config| config.exists()) else {
            continue;
        };
        let table = config::read_table(&config, &[])?;
        if matches!(kind_of(&table), Ok(Some(Kind::Search | Kind::OneShot))) {
            return absolute(&folder.unwrap_or(path).display().to_string()).map(Some);
        }
    }
    Ok(None)
}

/// Keys that hold paths, in whatever section they stand.
const PATHS: [&str; 6] = ["root", "init", "path", "log", "run", "search"];

/// Makes the paths of a file independent of the current folder.
fn absolute_paths(table: &mut Table) -> Result<()> {
    for (key, value) in table.iter_mut() {
        match value {
            Value::String(path) if PATHS.contains(&key.as_str()) => {
                *path = absolute(path).with_context(|| key.clone())?
            }
            // Networks and spaces are described without paths, but for searched architectures; `init` says there how weights are drawn.
            Value::Table(section) if !["model", "space"].contains(&key.as_str()) => absolute_paths(section)?,
            Value::Array(entries) => {
                entries.iter_mut().filter_map(Value::as_table_mut).try_for_each(absolute_paths)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The network that a command or a key `preset` is given by `name`: a preset, that of an experiment file with a section
/// `model`, that of a training's run folder, or the one that a search by trials has found.
pub fn named_model<M>(name: &str, preset: impl Fn(&str) -> Result<M>) -> Result<M>
where
    M: Serialize + DeserializeOwned,
{
    let mut path = PathBuf::from(name);
    match preset(name) {
        Err(_) if path.extension().is_some_and(|extension| extension == "toml") || path.exists() => {
            if path.is_dir() {
                let found = path.join("train.toml");
                path = if found.exists() { found } else { path.join("config.toml") };
            }
            let mut table = config::read_table(&path, &[])?;
            resolve(&mut table, &preset)?;
            Ok(config::section(table, "model", &path.display().to_string())?)
        }
        Err(_) if name.contains('/') => bail!("{name}: there is no such file or run; has the search ended?"),
        preset => preset.with_context(|| format!("{name}: neither a preset nor an experiment file or run")),
    }
}

/// A path of an experiment file as one that does not depend on the current folder.
pub fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("{path:?}"))?;
    absolute.into_os_string().into_string().map_err(|path| anyhow!("{path:?} is not UTF-8"))
}

fn resolve_model<M: Serialize>(model: &mut Table, preset: &impl Fn(&str) -> Result<M>) -> Result<()> {
    if let Some(name) = model.remove("preset") {
        let Value::String(name) = &name else { bail!("model.preset = {name}: expected a name in quotes") };
        let mut keys = Table::try_from(preset(name)?)?;
        keys.extend(std::mem::take(model));
        *model = keys;
    }
    resolve_arch(model)
}

/// The architecture may be one of the model's own keys, or of a part such as `model.backbone`.
fn resolve_arch(keys: &mut Table) -> Result<()> {
    for (key, value) in keys {
        match value {
            Value::String(arch) if key == "arch" => {
                if let Some(found) = searched_arch(arch)? {
                    *arch = found;
                }
            }
            Value::Table(part) => resolve_arch(part)?,
            _ => {}
        }
    }
    Ok(())
}

/// The best architecture of a search's `result.json`, when `text` is the path of one or of a run folder.
pub fn searched_arch(text: &str) -> Result<Option<String>> {
    if !text.contains('/') && !text.ends_with(".json") && !Path::new(text).is_dir() {
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

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Net {
        arch: String,
        channels: i64,
    }

    #[test]
    fn paths_become_absolute_but_not_how_weights_of_networks_and_spaces_are_drawn() {
        let text = "[data]\nroot = 'x'\n[space]\ninit = 'kaiming'\n[model]\ninit = 'kaiming'\n[train]\ninit = 'w'\n";
        let mut table: Table = text.parse().unwrap();
        absolute_paths(&mut table).unwrap();
        let get = |section: &str, key: &str| table[section][key].as_str().unwrap().to_string();
        assert_eq!([get("space", "init"), get("model", "init")], ["kaiming", "kaiming"]);
        assert!(Path::new(&get("data", "root")).is_absolute() && Path::new(&get("train", "init")).is_absolute());
    }

    fn preset(name: &str) -> Result<Net> {
        if name != "small" {
            bail!("{name:?} is no preset; expected small");
        }
        Ok(Net { arch: "0-1".into(), channels: 4 })
    }

    fn read(text: &str, sets: &[&str]) -> Result<Table> {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let mut table: Table = text.parse().unwrap();
        config::apply_all(&mut table, &sets)?;
        resolve(&mut table, &preset)?;
        Ok(table)
    }

    fn model(table: &Table) -> Net {
        table["model"].clone().try_into().unwrap()
    }

    #[test]
    fn a_preset_is_expanded_and_its_keys_can_be_replaced() {
        let text = "[model]\npreset = 'small'\nchannels = 8\n[[models]]\nname = 'x'\nmodel = { preset = 'small' }";
        let table = read(text, &[]).unwrap();
        assert_eq!(model(&table), Net { arch: "0-1".into(), channels: 8 });
        assert_eq!(model(table["models"][0].as_table().unwrap()), preset("small").unwrap());
        let error = format!("{:#}", read(text, &["model.preset=large"]).unwrap_err());
        assert!(error.contains("large") && error.contains("small"), "{error}");
    }

    #[test]
    fn an_architecture_comes_from_either_kind_of_search_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[model]\npreset = 'small'\narch = '{}'", dir.path().display());
        for result in [r#"{"architecture": "1-1"}"#, r#"{"best": {"architecture": "1-1"}}"#] {
            std::fs::write(dir.path().join("result.json"), result).unwrap();
            assert_eq!(model(&read(&text, &[]).unwrap()).arch, "1-1");
        }
        let error = format!("{:#}", read(&text, &["model.arch=nowhere/result.json"]).unwrap_err());
        assert!(error.contains("nowhere/result.json"), "{error}");
        std::fs::write(dir.path().join("result.json"), r#"{"best": null}"#).unwrap();
        assert!(format!("{:#}", read(&text, &[]).unwrap_err()).contains("no architecture"));
    }

    #[test]
    fn weights_that_stand_in_a_model_of_a_comparison_move_to_its_entry() {
        let read = |more: &str| {
            let model = "model = { channels = 4, init = 'w.pt', init_prefix = 'backbone.' }";
            let mut table: Table = format!("[[models]]\nname = 'x'\n{model}\n{more}").parse().unwrap();
            move_init(&mut table, Kind::Compare).map(|()| table)
        };
        let table = read("").unwrap();
        let entry = &table["models"][0];
        assert!(Path::new(entry["init"].as_str().unwrap()).is_absolute(), "{entry}");
        assert_eq!(entry["init_prefix"].as_str(), Some("backbone."));
        assert_eq!(entry["model"].as_table().unwrap().keys().collect::<Vec<_>>(), ["channels"]);
        for key in OF_WEIGHTS {
            let error = read(&format!("{key} = 'other'")).unwrap_err().to_string();
            assert!(error.contains(&format!("models.model.{key} and models.{key}")), "{error}");
        }
    }

    #[test]
    fn paths_become_absolute_and_networks_stay_as_they_are() {
        let text = "[data]\nroot = 'somewhere'\n[honesty.evaluator]\npath = 'table.csv'\n[model]\npath = '4-4'";
        let table = read(text, &[]).unwrap();
        let is_absolute = |value: &Value| Path::new(value.as_str().unwrap()).is_absolute();
        assert!(is_absolute(&table["data"]["root"]) && is_absolute(&table["honesty"]["evaluator"]["path"]));
        assert_eq!(table["model"]["path"].as_str(), Some("4-4"));
    }

    #[test]
    fn the_kind_of_an_experiment_is_written() {
        let kind = |text: &str| kind_of(&text.parse().unwrap()).map_err(|error| error.to_string());
        assert_eq!(kind("kind = 'one_shot'"), Ok(Some(Kind::OneShot)));
        assert_eq!(kind("seed = 0"), Ok(None));
        assert!(kind("kind = 'magic'").unwrap_err().contains("kind = \"magic\"; expected"));
    }
}
