//! The frame that every task fills. A task says what its data, networks, losses and scores are ([`Task`]) and what can be
//! searched ([`TaskSpace`]); trainings, searches by trials and on shared weights, comparisons and their commands follow.

pub mod around;
pub mod commands;
pub mod evaluator;
pub mod experiment;
pub mod find_batch;
pub mod handed_down;
pub mod held_out;
pub mod latency;
pub mod schema;
pub mod searched;
pub mod shared;
pub mod supervised;
mod teacher;
pub mod zero_cost;

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::path::Path;

use anyhow::{Context, Result, bail};
use image::RgbImage;
use nas_datasets::{LoaderConfig, SampleSet, Source, Split, TrainLoader};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn::VarStore};

use crate::estimator::inheritance::BlockParts;
use crate::models::StageSize;
use crate::models::sizes::Rise;
use crate::nn::{Cost, Mode, Shape, VarBuilder};
use crate::optim::Named;
use crate::run::cli::Compute;
use crate::run::confusion::Confusion;
use crate::run::export::Outputs;
use crate::run::precision_recall::PrecisionRecall;
use crate::run::run_dir::RunDir;
use crate::search::analysis::vocabulary::{Decision, numbered};
use crate::space::trial::Values;
use crate::space::{Architecture, ChoiceSpace, Mixture, WeightSharing};
use crate::task::commands::init::{Facts, Survey};
use experiment::{OneShotExperiment, Recipe, Setting};
use supervised::{cost_of, require_equal_classes};
pub use teacher::TeacherConfig;

/// A section of an experiment file: plain data.
pub trait Section:
    Clone + Debug + PartialEq + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static
{
}

impl<S: Clone + Debug + PartialEq + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static> Section for S {}

/// A network as plain data: the section `[model]`.
pub trait TaskModel: Section {
    /// Every published network by name.
    fn presets() -> Vec<(&'static str, Self)>;

    /// The published network called `name`. The error of an unknown name lists the known ones.
    fn preset(name: &str) -> Result<Self> {
        let preset = Self::presets().into_iter().find(|(known, _)| *known == name);
        let (_, config) = preset.with_context(|| {
            let known: Vec<&str> = Self::presets().into_iter().map(|(known, _)| known).collect();
            format!("{name:?} is no preset; expected one of {}", known.join(", "))
        })?;
        Ok(config)
    }

    /// The stages of a network that a search may go around ([`around::AroundSpace`]); an error of others says which it may.
    fn stages(&self) -> Result<Vec<StageSize>> {
        bail!("the networks of this program have no stages that a search may go around")
    }

    /// What stands on the stages, where that has a size too: of a detector the channels of its neck and the convolutions of a
    /// tower of its head. A search around a network from random weights sizes it as the last stage; trained ones keep theirs.
    fn top(&self) -> Option<StageSize> {
        None
    }

    /// How channels must rise from each of its stages to the next, where they must.
    fn rise(&self) -> Option<Rise> {
        None
    }

    /// The same network with other stages, where [`TaskModel::stages`] gives any, and perhaps another [`TaskModel::top`] after
    /// them. What no network can have is an error when it is built.
    fn with_stages(self, _stages: Vec<StageSize>) -> Result<Self> {
        bail!("the networks of this program take no other stages")
    }

    /// The blocks, where they are not called the same in networks of other stages.
    fn parts(&self) -> Option<Vec<BlockParts>> {
        None
    }
}

/// What a validation ends in.
pub trait Scores: Clone + Debug + Display + Serialize + DeserializeOwned {
    /// Value of one of [`Task::METRICS`], a fraction that is printed in percent, larger is better; `None` where there was nothing to score.
    fn metric(&self, key: &str) -> Option<f64>;

    /// The same by class, where there are such scores.
    fn per_class(&self) -> Option<PerClass> {
        None
    }
}

/// Scores by class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PerClass {
    /// Headings of the scores.
    pub scores: Vec<&'static str>,
    /// Name of a class and its scores; none where it has nothing to score.
    pub rows: Vec<(String, Vec<Option<f64>>)>,
}

/// A network at work: all of it or, of a supernet, a mixture of its candidates.
pub struct Pass<'a, T: Task> {
    /// The network.
    pub net: &'a T::Net,
    /// Of a supernet: which candidates.
    pub mixture: Option<Mixture<'a>>,
    /// Where it computes.
    pub compute: Compute,
}

impl<T: Task> Pass<'_, T> {
    /// Runs `forward`, in half precision where the run asks for it.
    pub fn autocast<R>(&self, forward: impl FnOnce() -> R) -> R {
        crate::nn::autocast(self.compute.amp, forward)
    }
}

impl<T: Task> Clone for Pass<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Task> Copy for Pass<'_, T> {}

/// The loss of a batch.
#[derive(Debug)]
pub struct Losses {
    /// What is descended.
    pub total: Tensor,
    /// What is reported as the loss, where that is another one.
    pub shown: Option<Tensor>,
    /// Parts by name, whose means over an epoch become its metrics.
    pub parts: Vec<(&'static str, Tensor)>,
}

impl From<Tensor> for Losses {
    fn from(total: Tensor) -> Self {
        Self { total, shown: None, parts: Vec::new() }
    }
}

/// Batches of a task.
pub type BatchOf<T> = <<T as Task>::Source as Source>::Batch;

/// One kind of problem: classification, segmentation, detection.
pub trait Task: Clone + Debug + Default + PartialEq + Send + Sync + 'static {
    /// Name of its program.
    const PROGRAM: &'static str;
    /// Metrics of a validation, the main one first: key in files, and heading of a table.
    const METRICS: &'static [(&'static str, &'static str)];
    /// Metrics of an epoch that are drawn.
    const CURVES: &'static [&'static str];
    /// Keys of a model that hold its width, and its number of repeated cells; budgets reduce them.
    const REDUCED: [&'static [&'static str]; 2];

    /// Whether the images of all steps have one shape.
    const FIXED_SHAPES: bool = true;
    /// What the speed of a network includes beside its forward pass, such as `, boxes included`.
    const SPEED_INCLUDES: &'static str = "";
    /// Kind of the space of the task's published benchmark, where it has one.
    const BENCHMARK: Option<&'static str> = None;
    /// Prefixes of the variables whose shape follows from the number of classes.
    const CLASS_LAYERS: &'static [&'static str];
    /// Whether a network's outputs are classes, so that another network can learn them ([`Task::loss_and_logits`]).
    const PREDICTS_CLASSES: bool = true;
    /// Names of what a file of a network gives.
    const OUTPUTS: &'static [&'static str];

    /// `[space]`.
    type Space: TaskSpace<Self>;
    /// `[model]`.
    type Model: TaskModel;
    /// `[loss]`.
    type Loss: Section + Default;
    /// `[data]`.
    type Data: Section;
    /// `[augment]`.
    type Augment: Section + Default;
    /// `[eval]`.
    type Eval: Section + Default;
    /// `[pretrain]` of searches on shared weights; [`NoPretrain`] where there is none.
    type Pretrain: Section;
    /// A split of the data.
    type Set: SampleSet;
    /// What training batches are made of.
    type Source: Source;
    /// A network, fixed or a supernet.
    type Net;
    /// What a validation finds, as a checkpoint keeps it.
    type Validation: Clone + Serialize + DeserializeOwned;
    /// What is reported of it.
    type Scores: Scores;

    /// The default recipe of a training.
    fn recipe() -> Recipe<Self>;

    /// Epochs between validations; 0: only after the last.
    fn eval_every(eval: &Self::Eval) -> usize;

    /// Says which value of the sections makes no sense.
    fn check(setting: &Setting<Self>) -> Result<()>;

    /// Names of the classes that the published weights of a preset know.
    fn preset_classes(_name: &str) -> Option<Vec<String>> {
        None
    }

    /// Trained weights of a published network that come with the program, as a safetensors file.
    fn shipped_weights(_name: &str) -> Option<&'static [u8]> {
        None
    }

    /// A split of the data.
    fn open(data: &Self::Data, split: Split) -> Result<Self::Set>;

    /// The splits for training and validation, whose classes are the same.
    fn open_both(data: &Self::Data) -> Result<[Self::Set; 2]> {
        let sets = [Self::open(data, Split::Train)?, Self::open(data, Split::Val)?];
        require_equal_classes(&Self::classes(&sets[0]), &Self::classes(&sets[1]))?;
        Ok(sets)
    }

    /// Samples of each class, where a sample is of one.
    fn samples_of_classes(_set: &Self::Set) -> Vec<usize> {
        Vec::new()
    }

    /// Names of the classes, by index; of data without classes a name for each output.
    fn classes(set: &Self::Set) -> Vec<String>;

    /// Says why nothing can be learned from a train split whose samples are sound.
    fn require_trainable(_set: &Self::Set) -> Result<()> {
        Ok(())
    }

    /// Momentum of the norms of `model` that settle last, where the task knows it.
    fn slowest_momentum(_model: &Self::Model) -> Option<f64> {
        None
    }

    /// How the data in a folder could be read, by name of the layout, the likelier first.
    fn layouts(root: &Path) -> Vec<(&'static str, Self::Data)>;

    /// What a sample looks like.
    fn survey(set: &Self::Set, index: usize) -> Result<Survey>;

    /// A sample with its truth drawn in.
    fn picture(set: &Self::Set, index: usize) -> Result<RgbImage>;

    /// Experiment files without `[data]` for a first search, training and comparison; the last takes what the first, run in
    /// `runs/search`, has found.
    fn starters(facts: &Facts) -> [String; 3];

    /// Training batches of the samples `indices` of a set, all if `None`.
    fn loader(
        setting: &Setting<Self>,
        set: &Self::Set,
        indices: Option<Vec<usize>>,
        config: LoaderConfig,
        seed: u64,
        purpose: &str,
    ) -> Result<TrainLoader<Self::Source>>;

    /// The augmentation for images whose sides are the part `factor` of the full ones.
    fn resized(augment: &Self::Augment, eval: &Self::Eval, factor: f64) -> (Self::Augment, Self::Eval);

    /// Shape of the image that costs are counted for.
    fn input(setting: &Setting<Self>, set: &Self::Set) -> Result<Shape>;

    /// Shape of the image that networks see in validation, where it is another one.
    fn eval_input(setting: &Setting<Self>, set: &Self::Set) -> Result<Shape> {
        Self::input(setting, set)
    }

    /// The image `[1, 3, H, W]` that the time of a network is measured on, and what it is: noise of the size of a validation, or, where
    /// the time depends on what is seen, an image of `set`.
    fn timed_image(setting: &Setting<Self>, set: &Self::Set) -> Result<(Tensor, &'static str)> {
        let Shape { h, w, .. } = Self::eval_input(setting, set)?;
        Ok((commands::latency::noise((h, w)), commands::latency::NOISE))
    }

    /// The network of a model, its weights under `vb`.
    fn build(model: &Self::Model, vb: &VarBuilder, num_classes: usize) -> Result<Self::Net>;

    /// Cost of a fixed network on an image of `input`. An error where the network does not take such images.
    fn cost(net: &Self::Net, input: Shape) -> Result<Cost>;

    /// Says which value of the sections does not fit the network or the classes.
    fn fits(_setting: &Setting<Self>, _net: &Self::Net, _num_classes: usize) -> Result<()> {
        Ok(())
    }

    /// What a file of a network gives for images `[B, 3, H, W]`, one tensor for each of [`Task::OUTPUTS`].
    fn outputs(net: &Self::Net, images: &Tensor) -> Vec<Tensor>;

    /// Takes over weights of a run or a file; returns the names of variables that keep their initial values.
    fn inherit(from: &Path, _model: &Self::Model, to: &VarStore) -> Result<Vec<String>> {
        supervised::inherit(from, to, Self::CLASS_LAYERS, Ok)
    }

    /// Trains what a supernet starts from, in a folder of its own; returns tensors by the supernet's names. Never called where
    /// [`Task::Pretrain`] is [`NoPretrain`].
    fn pretrain(
        _pretrain: &Self::Pretrain,
        _experiment: &OneShotExperiment<Self>,
        _dir: &RunDir,
        _compute: Compute,
    ) -> Result<HashMap<String, Tensor>> {
        bail!("pretrain: {} trains nothing before a supernet", Self::PROGRAM)
    }

    /// Moves a batch to the device.
    fn place(batch: BatchOf<Self>, compute: Compute) -> BatchOf<Self>;

    /// Images of a batch, `[B, 3, H, W]`.
    fn images(batch: &BatchOf<Self>) -> &Tensor;

    /// Loss of a pass over a batch.
    fn loss(pass: Pass<Self>, loss: &Self::Loss, batch: &BatchOf<Self>, mode: Mode) -> Result<Losses>;

    /// [`Task::loss`] and the logits that it is of, `[B, K, ...]`; none where a network's outputs are no classes.
    fn loss_and_logits(
        pass: Pass<Self>,
        loss: &Self::Loss,
        batch: &BatchOf<Self>,
        mode: Mode,
    ) -> Result<(Losses, Option<Tensor>)> {
        Ok((Self::loss(pass, loss, batch, mode)?, None))
    }

    /// A fraction that is better when larger, of a pass over a batch with batch statistics.
    fn score(pass: Pass<Self>, batch: &BatchOf<Self>, num_classes: usize, mode: Mode) -> Result<f64>;

    /// Runs images through, for the statistics of its norms.
    fn run(pass: Pass<Self>, images: &Tensor, mode: Mode);

    /// Predicts for one image and waits for the end.
    fn run_once(pass: Pass<Self>, image: &Tensor);

    /// Validates on a whole set; `tick` is called after each image.
    fn validate(
        pass: Pass<Self>,
        setting: &Setting<Self>,
        set: &Self::Set,
        tick: &mut dyn FnMut(),
    ) -> Result<Self::Validation>;

    /// [`Task::validate`] of a file of `net`: `outputs` are what its export names, of images on the CPU.
    fn validate_outputs(
        outputs: &Outputs,
        net: &Self::Net,
        setting: &Setting<Self>,
        set: &Self::Set,
        threads: usize,
        tick: &mut dyn FnMut(),
    ) -> Result<Self::Validation>;

    /// The scores of a validation.
    fn scores(validation: &Self::Validation, classes: &[String]) -> Self::Scores;

    /// Samples by true and predicted class, where a validation has counted them.
    fn confusion(_validation: &Self::Validation, _classes: &[String]) -> Option<Confusion> {
        None
    }

    /// Precision over recall by class, where a validation has measured it.
    fn precision_recall(_validation: &Self::Validation) -> Option<PrecisionRecall> {
        None
    }

    /// Images that a candidate's batch-norm statistics are computed from: `batches` of `batch_size` of those that the weights
    /// are trained on. By default the first of the training's own.
    fn statistics_images(
        _setting: &Setting<Self>,
        loader: &TrainLoader<Self::Source>,
        _seen: &Self::Set,
        (batches, _batch_size): (usize, usize),
        _seed: u64,
        compute: Compute,
    ) -> Result<Vec<Tensor>> {
        let images = |batch| Ok(Self::images(&Self::place(batch?, compute)).shallow_clone());
        loader.whole().epoch(0, 0).take(batches).map(images).collect()
    }

    /// Held-out samples of a quick score of a candidate.
    fn quick_samples(_setting: &Setting<Self>, batch_size: usize) -> usize {
        batch_size
    }

    /// What trained networks make of a sample, each beside the others and the truth; none where that is no picture.
    fn sheet(
        _nets: &[Pass<Self>],
        _setting: &Setting<Self>,
        _set: &Self::Set,
        _index: usize,
    ) -> Result<Option<RgbImage>> {
        Ok(None)
    }

    /// How well a network does on a sample, larger is better, and that in words; none of a sample without truth. By default the main
    /// metric of that sample alone.
    fn judge(
        pass: Pass<Self>,
        setting: &Setting<Self>,
        set: &Self::Set,
        index: usize,
    ) -> Result<Option<(f64, String)>> {
        let validation = Self::validate(pass, setting, &set.subset(vec![index]), &mut || {})?;
        let (key, name) = Self::METRICS[0];
        let score = Self::scores(&validation, &Self::classes(set)).metric(key).filter(|score| score.is_finite());
        Ok(score.map(|score| (score, format!("{name} {:.1} %", 100.0 * score))))
    }

    /// Logits `[B, K]` of an untrained network, as zero-cost proxies see them: one forward pass. By default the means of the last
    /// maps' channels.
    fn probe_logits(net: &Self::Net, images: &Tensor, mode: Mode) -> Tensor {
        Self::probe_features(net, images, mode).mean_dim([2i64, 3].as_slice(), false, None)
    }

    /// The last maps of an untrained network, before its head: one forward pass.
    fn probe_features(net: &Self::Net, images: &Tensor, mode: Mode) -> Tensor;

    /// Images `[B, 3, side, side]` of the samples `indices`, and a class for each, `[B]`; an error where samples have none.
    fn probe_batch(
        _setting: &Setting<Self>,
        _set: &Self::Set,
        _indices: &[usize],
        _side: u32,
    ) -> Result<(Tensor, Tensor)> {
        bail!("evaluator.on = \"data\": these samples have no classes; expected \"noise\"")
    }
}

/// `[pretrain]` of a task that has none: no value is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum NoPretrain {}

/// Metrics of an architecture that need no trial; an error where its network does not take the input.
pub type CostFunction = Box<dyn Fn(&Architecture) -> Result<Values> + Send + Sync>;

/// Names of what every cost function gives.
pub const SIZES: [&str; 2] = ["params", "macs"];

/// A cost as metrics named as [`SIZES`].
pub fn sizes(Cost { params, macs }: Cost) -> Values {
    SIZES.into_iter().map(String::from).zip([params as f64, macs as f64]).collect()
}

/// What can be searched in a task: the section `[space]`.
pub trait TaskSpace<T: Task>: Section {
    /// The decisions. A value that no space can be made of is an error that names the key.
    fn choices(&self) -> Result<Box<dyn ChoiceSpace>>;

    /// The space as methods on shared weights see it; the error says why there is no supernet.
    fn shared(&self) -> Result<Box<dyn WeightSharing>>;

    /// The network of an architecture; in the place of the searched part of `model` where there is one, in the space's own
    /// size else.
    fn derive(&self, model: Option<&T::Model>, arch: &Architecture) -> Result<T::Model>;

    /// The supernet of `space`, which is [`TaskSpace::shared`] or another size of it.
    fn supernet(
        &self,
        space: &dyn WeightSharing,
        model: Option<&T::Model>,
        vb: &VarBuilder,
        num_classes: usize,
    ) -> Result<T::Net>;

    /// Whether [`Task::inherit`] takes the weights of a network out of its supernet's run.
    fn inherits(&self) -> bool {
        false
    }

    /// The weights and statistics of a path of the supernet `net`, by the names of its network on its own; `None` where a
    /// network is another one than its path.
    fn path_weights(&self, _net: &T::Net, _arch: &Architecture) -> Result<Option<Vec<Named>>> {
        Ok(None)
    }

    /// What an architecture alone decides, for images of `input`: by default parameters and multiply-adds of its network.
    fn costs(&self, model: Option<&T::Model>, num_classes: usize, input: Shape) -> Result<CostFunction> {
        let (space, model) = (self.clone(), model.cloned());
        Ok(Box::new(move |arch| Ok(sizes(cost_of::<T>(&space.derive(model.as_ref(), arch)?, num_classes, input)?))))
    }

    /// An architecture in the literature's notation.
    fn notation(&self, arch: &Architecture) -> Result<String> {
        Ok(arch.to_string())
    }

    /// The architecture of a notation.
    fn parse(&self, notation: &str) -> Result<Architecture> {
        Ok(notation.parse()?)
    }

    /// Names of the decisions and of their choices: numbers where the space has no others.
    fn names(&self) -> Result<Vec<Decision>> {
        Ok(numbered(&self.choices()?.decisions()))
    }

    /// Name of a label of the nodes of an architecture's graph, where it is neither the first nor the last.
    fn label(&self, label: u16) -> String {
        label.to_string()
    }

    /// The space whose tables write an architecture like `arch`, where it is a notation of one space alone.
    fn of_notation(_arch: &str) -> Option<Self> {
        None
    }

    /// An architecture as SVG.
    fn drawing(&self, _arch: &Architecture) -> Result<Option<String>> {
        Ok(None)
    }
}
