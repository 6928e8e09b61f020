//! Training of one segmentation network, as a job of the training loop.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use nas_core::estimator::learning_curve::{Curve, Stopped};
use nas_core::nn::{Mode, VarBuilder, channels_last};
use nas_core::one_shot::descend;
use nas_core::optim::{GradScaler, Named, Optimizer, named_parameters};
use nas_core::run::cli::Compute;
use nas_core::task::experiment::is_due;
use nas_core::train::{At, Job, Metrics, Step, all_variables, copy_into, scalar};
use nas_datasets::{Batch, DataError, EvalTransform, SegDataset, Split, TrainLoader, rng};
use serde_json::{Value, json};
use tch::{Kind, Tensor, nn::VarStore};

use crate::evaluation::evaluate;
use crate::experiment::{TrainConfig, TrainExperiment};
use crate::loss::cross_entropy;
use crate::metric::Scores;
use crate::model::SegNet;

/// Batches of one epoch.
pub type Batches = Box<dyn Iterator<Item = Result<Batch, DataError>>>;

/// A network in training.
pub struct Training {
    experiment: TrainExperiment,
    compute: Compute,
    vs: VarStore,
    net: SegNet,
    optimizer: Box<dyn Optimizer>,
    scaler: Option<GradScaler>,
    class_weights: Option<Tensor>,
    loader: TrainLoader,
    batches: Option<Batches>,
    val: Arc<dyn SegDataset>,
    scores: Option<Scores>,
    /// mIOU after every validated epoch.
    curve: Curve,
}

impl Training {
    /// Builds the network with the seed's initial weights and opens both splits.
    pub fn new(experiment: TrainExperiment, compute: Compute) -> Result<Self> {
        if let Some(early_stop) = &experiment.train.early_stop {
            early_stop.check(experiment.eval.every)?;
        }
        let train = experiment.data.open(Split::Train)?;
        let val = experiment.data.open(Split::Val)?;
        let (vs, net) = new_network(&experiment, val.classes().len(), compute)?;
        let optimizer = experiment.train.optimizer.build(named_parameters(&vs));
        let loader_config = experiment.loader.with(experiment.train.batch_size, compute.threads);
        let loader =
            TrainLoader::new(train, None, experiment.augment.clone(), loader_config, experiment.seed, "train")?;
        let class_weights = class_weights(&experiment.train.class_weights, val.classes().len())?;
        let class_weights = class_weights.map(|weights| weights.to_device(compute.device));
        let scaler = compute.amp.then(GradScaler::default);
        Ok(Self {
            experiment,
            compute,
            vs,
            net,
            optimizer,
            scaler,
            class_weights,
            loader,
            batches: None,
            val,
            scores: None,
            curve: Curve::default(),
        })
    }

    /// The scores of the last validation.
    pub fn scores(&self) -> Option<&Scores> {
        self.scores.as_ref()
    }

    /// Why and when the run ended early, if it did.
    pub fn stopped(&self) -> Option<Stopped> {
        self.curve.stopped()
    }

    /// The network.
    pub fn net(&self) -> &SegNet {
        &self.net
    }
}

fn class_weights(weights: &[f64], num_classes: usize) -> Result<Option<Tensor>> {
    if weights.is_empty() {
        return Ok(None);
    }
    let positive = weights.iter().all(|weight| *weight > 0.0 && weight.is_finite());
    ensure!(
        weights.len() == num_classes && positive,
        "train.class_weights = {weights:?}: expected one positive number for each of the {num_classes} classes"
    );
    Ok(Some(Tensor::from_slice(weights).to_kind(Kind::Float)))
}

/// The experiment's network with its initial weights.
pub fn new_network(experiment: &TrainExperiment, num_classes: usize, compute: Compute) -> Result<(VarStore, SegNet)> {
    tch::manual_seed(rng::torch_seed(experiment.seed, "init", 0));
    let vs = VarStore::new(compute.device);
    let net = experiment.model.build(&VarBuilder::new(&vs), num_classes as i64)?;
    Ok((vs, net))
}

/// The next batch on `device`.
pub fn next_batch(batches: &mut Option<Batches>, device: tch::Device) -> Result<(Tensor, Tensor)> {
    let next = batches.as_mut().and_then(Iterator::next);
    let batch = next.ok_or_else(|| anyhow!("the loader ended before the epoch"))??;
    let images = batch.images.to_device(device);
    Ok((if device.is_cuda() { channels_last(&images) } else { images }, batch.labels.to_device(device)))
}

/// What a validation adds to an epoch's metrics.
pub fn val_metrics(scores: &Scores) -> Metrics {
    let mut metrics = Metrics::new();
    metrics.insert("miou".into(), json!(scores.miou));
    metrics.insert("pixel_acc".into(), json!(scores.pixel_acc));
    metrics
}

impl Job for Training {
    fn steps_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch()
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.batches = Some(Box::new(self.loader.epoch(epoch, step)));
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        let (images, labels) = next_batch(&mut self.batches, self.compute.device)?;
        let logits = tch::autocast(self.compute.amp, || self.net.forward(&images, Mode::train(at.progress())));
        let loss = cross_entropy(&logits, &labels, self.class_weights.as_ref());
        let recipe = &self.experiment.train;
        let lr = recipe.schedule.lr(recipe.optimizer.lr(), at.global_step, at.total_steps);
        descend(&loss, self.optimizer.as_mut(), lr, recipe.grad_clip, self.scaler.as_mut());
        Ok(Step { loss: scalar(&loss), images: images.size()[0] as usize })
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.batches = None;
        if !is_due(self.experiment.eval.every, epoch, last) {
            return Ok(Metrics::new());
        }
        let transform = EvalTransform::like(&self.experiment.augment, self.experiment.eval.resize);
        let net = |xs: &Tensor, mode| self.net.forward(xs, mode);
        let scores = evaluate(&net, &self.val, &transform, &self.experiment.eval, self.compute, || {})?;
        let mut metrics = val_metrics(&scores);
        let TrainConfig { epochs, early_stop, .. } = &self.experiment.train;
        self.curve.record(scores.miou, early_stop.as_ref(), (epoch, *epochs), self.experiment.seed)?;
        self.scores = Some(scores);
        if let Some(Stopped { probability, .. }) = self.curve.stopped() {
            metrics.insert("stopped_at_probability".into(), json!(probability));
        }
        Ok(metrics)
    }

    fn is_done(&self) -> bool {
        self.curve.stopped().is_some()
    }

    fn best_metric(&self) -> &'static str {
        "miou"
    }

    fn model(&self) -> Vec<Named> {
        all_variables(&self.vs)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        (self.optimizer.state(), json!({ "scaler": self.scaler, "curve": self.curve, "scores": self.scores }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        copy_into(&self.model(), &tensors)?;
        self.optimizer.load_state(&tensors);
        self.scaler = serde_json::from_value(json["scaler"].take())?;
        self.curve = serde_json::from_value(json["curve"].take())?;
        self.scores = serde_json::from_value(json["scores"].take())?;
        Ok(())
    }
}
