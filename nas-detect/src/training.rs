//! Trainings as jobs of the training loop: of one detector, of a supernet on detection, of a supernet on classification.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nas_core::cli::Compute;
use nas_core::experiment::is_due;
use nas_core::nn::{Mode, VarBuilder, channels_last};
use nas_core::one_shot::descend;
use nas_core::optim::{GradScaler, Named, Optimizer, named_parameters};
use nas_core::train::{At, Job, Metrics, Step, all_variables, copy_into, scalar};
use nas_datasets::det::loader::Boxes;
use nas_datasets::det::{DetBatch, DetDataset, DetTransform, det_train_loader};
use nas_datasets::{DataError, Source, Split, TrainLoader, rng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Device, Tensor, nn::VarStore};

use crate::eval::coco::MAX_DETS;
use crate::eval::report::CocoReport;
use crate::evaluation::{Reading, evaluate};
use crate::experiment::{TrainConfig, TrainExperiment};
use crate::head::Losses;
use crate::inheritance::inherit_run;
use crate::model::{Detector, Top};

/// What is trained, and what a step makes of a batch.
pub trait Task {
    /// Where batches come from.
    type Source: Source;

    /// Mean loss of a batch, and its number of images.
    fn loss(&mut self, batch: <Self::Source as Source>::Batch, at: At) -> Result<(Tensor, usize)>;

    /// Metrics after the last step of an epoch.
    fn end_epoch(&mut self, _epoch: usize, _last: bool) -> Result<Metrics> {
        Ok(Metrics::new())
    }

    /// What a resume needs besides the weights.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes back [`Task::state`].
    fn load_state(&mut self, _state: Value) -> Result<()> {
        Ok(())
    }
}

type Batches<S> = Box<dyn Iterator<Item = Result<<S as Source>::Batch, DataError>>>;

/// A task in training.
pub struct Training<T: Task> {
    /// What is trained.
    pub task: T,
    recipe: TrainConfig,
    vs: VarStore,
    optimizer: Box<dyn Optimizer>,
    scaler: Option<GradScaler>,
    loader: TrainLoader<T::Source>,
    batches: Option<Batches<T::Source>>,
}

impl<T: Task> Training<T> {
    /// Trains the weights of `vs` on the batches of `loader` by `recipe`.
    pub fn new(task: T, recipe: TrainConfig, vs: VarStore, loader: TrainLoader<T::Source>, compute: Compute) -> Self {
        let optimizer = recipe.optimizer.build(named_parameters(&vs));
        let scaler = compute.amp.then(GradScaler::default);
        Self { task, recipe, vs, optimizer, scaler, loader, batches: None }
    }

    /// The weights.
    pub fn weights(&self) -> &VarStore {
        &self.vs
    }
}

impl<T: Task> Job for Training<T> {
    fn steps_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch()
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.batches = Some(Box::new(self.loader.epoch(epoch, step)));
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        let batch = self.batches.as_mut().and_then(Iterator::next).context("the loader ended before the epoch")??;
        let (loss, images) = self.task.loss(batch, at)?;
        let recipe = &self.recipe;
        let lr = recipe.schedule.lr(recipe.optimizer.lr(), at.global_step, at.total_steps);
        descend(&loss, self.optimizer.as_mut(), lr, recipe.grad_clip, self.scaler.as_mut());
        Ok(Step { loss: scalar(&loss), images })
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.batches = None;
        self.task.end_epoch(epoch, last)
    }

    fn best_metric(&self) -> &'static str {
        "ap"
    }

    fn model(&self) -> Vec<Named> {
        all_variables(&self.vs)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        (self.optimizer.state(), json!({ "scaler": self.scaler, "task": self.task.state() }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        copy_into(&self.model(), &tensors)?;
        self.optimizer.load_state(&tensors);
        self.scaler = serde_json::from_value(json["scaler"].take())?;
        self.task.load_state(json["task"].take())
    }
}

/// Parts of the loss, summed over the steps of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossSums {
    steps: usize,
    classification: f64,
    regression: f64,
    centerness: Option<f64>,
    centerness_floor: Option<f64>,
}

impl LossSums {
    /// Adds a step; returns its whole loss.
    pub fn add(&mut self, losses: &Losses) -> Tensor {
        let add = |sum: &mut Option<f64>, part: &Option<Tensor>| {
            if let Some(part) = part {
                *sum = Some(sum.unwrap_or(0.0) + scalar(part));
            }
        };
        self.steps += 1;
        self.classification += scalar(&losses.classification);
        self.regression += scalar(&losses.regression);
        add(&mut self.centerness, &losses.centerness);
        add(&mut self.centerness_floor, &losses.centerness_floor);
        losses.total()
    }

    /// Means over the steps; the sums are 0 again. The loss of centre-ness stands beside the least that it can be.
    pub fn take(&mut self) -> Metrics {
        let Self { steps, classification, regression, centerness, centerness_floor } = std::mem::take(self);
        let mut metrics = Metrics::new();
        let mut mean = |name: &str, sum: f64| _ = metrics.insert(name.into(), json!(sum / steps.max(1) as f64));
        mean("classification_loss", classification);
        mean("regression_loss", regression);
        centerness.into_iter().for_each(|sum| mean("centerness_loss", sum));
        centerness_floor.into_iter().for_each(|sum| mean("centerness_floor", sum));
        metrics
    }
}

/// Images of a batch on `device`.
pub fn images_on(images: &Tensor, device: Device) -> Tensor {
    let images = images.to_device(device);
    if device.is_cuda() { channels_last(&images) } else { images }
}

/// One detector, validated on the val split.
pub struct Detection {
    experiment: TrainExperiment,
    compute: Compute,
    net: Detector,
    val: Arc<dyn DetDataset>,
    reading: Reading,
    sums: LossSums,
    scores: Option<CocoReport>,
}

impl Detection {
    /// The scores of the last validation.
    pub fn scores(&self) -> Option<&CocoReport> {
        self.scores.as_ref()
    }

    /// The network.
    pub fn net(&self) -> &Detector {
        &self.net
    }

    /// Height and width of the first validation image as the network sees it.
    pub fn image_size(&self) -> Result<(i64, i64)> {
        self.reading.image_size(&self.val)
    }
}

impl Training<Detection> {
    /// Builds the network with its initial weights and opens both splits.
    pub fn of_detector(experiment: TrainExperiment, compute: Compute) -> Result<Self> {
        experiment.train.check("train")?;
        let train = experiment.data.open(Split::Train)?;
        let val = experiment.data.open(Split::Val)?;
        require_equal_classes(&*train, &*val)?;
        let (vs, net) = new_network(&experiment, val.classes().len(), compute)?;
        check_padding(&net.top, &experiment.augment)?;
        if let Some(run) = &experiment.train.init {
            let left_out = inherit_run(run, &experiment.model.backbone, &vs)?;
            if !left_out.is_empty() {
                eprintln!(
                    "{}: for other classes; left at their initial weights: {}",
                    run.display(),
                    left_out.join(", ")
                );
            }
        }
        let config = experiment.loader.with(experiment.train.batch_size, compute.threads);
        let loader = det_train_loader(train, None, experiment.augment.clone(), config, experiment.seed, "train")?;
        let reading = Reading::new(&experiment.augment, &experiment.loader, &experiment.eval, compute);
        let recipe = experiment.train.clone();
        let task = Detection { experiment, compute, net, val, reading, sums: LossSums::default(), scores: None };
        Ok(Self::new(task, recipe, vs, loader, compute))
    }
}

/// The experiment's network with its random initial weights.
pub fn new_network(experiment: &TrainExperiment, num_classes: usize, compute: Compute) -> Result<(VarStore, Detector)> {
    tch::manual_seed(rng::torch_seed(experiment.seed, "init", 0));
    let vs = VarStore::new(compute.device);
    let net = experiment.model.build(&VarBuilder::new(&vs), num_classes as i64)?;
    Ok((vs, net))
}

/// Says when a neck does not take the sizes that images are padded to.
pub fn check_padding(top: &Top, transform: &DetTransform) -> Result<()> {
    let pad = i64::from(transform.pad_multiple);
    top.check_size((pad, pad)).with_context(|| format!("augment.pad_multiple = {pad}"))
}

/// Class indices of one split mean nothing in another that has other classes.
pub fn require_equal_classes(train: &dyn DetDataset, val: &dyn DetDataset) -> Result<()> {
    let (train, val) = (train.classes(), val.classes());
    ensure!(train == val, "the splits have different classes: {:?} in train, {:?} in val", train.names(), val.names());
    Ok(())
}

impl Task for Detection {
    type Source = Boxes;

    fn loss(&mut self, batch: DetBatch, at: At) -> Result<(Tensor, usize)> {
        let images = images_on(&batch.images, self.compute.device);
        let (count, _, h, w) = images.size4()?;
        let predictions = tch::autocast(self.compute.amp, || self.net.forward(&images, Mode::train(at.progress())));
        let losses = self.net.top.loss(&predictions, (h, w), &batch.targets);
        Ok((self.sums.add(&losses), count as usize))
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        let mut metrics = self.sums.take();
        if is_due(self.experiment.eval.every, epoch, last) {
            let detect = |images: &Tensor| self.net.detect(images);
            let files = evaluate(&detect, &self.val, &self.reading, self.compute, |_, _| Ok(()))?;
            let scores = CocoReport::new(&files, &MAX_DETS);
            metrics.extend(val_metrics(&scores));
            self.scores = Some(scores);
        }
        Ok(metrics)
    }

    fn state(&self) -> Value {
        json!({ "sums": self.sums, "scores": self.scores })
    }

    fn load_state(&mut self, mut state: Value) -> Result<()> {
        self.sums = serde_json::from_value(state["sums"].take())?;
        self.scores = serde_json::from_value(state["scores"].take())?;
        Ok(())
    }
}

/// What a validation adds to an epoch's metrics.
fn val_metrics(scores: &CocoReport) -> Metrics {
    let numbers = [("ap", scores.ap), ("ap50", scores.ap50), ("ap75", scores.ap75)];
    numbers.into_iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}
