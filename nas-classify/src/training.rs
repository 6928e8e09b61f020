//! Training of one classifier, as a job of the training loop.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use nas_core::estimator::learning_curve::{Curve, Stopped};
use nas_core::nn::{Mode, VarBuilder, channels_last};
use nas_core::one_shot::descend;
use nas_core::optim::{GradScaler, Named, Optimizer, named_parameters};
use nas_core::run::cli::Compute;
use nas_core::task::experiment::is_due;
use nas_core::train::{At, Job, Metrics, Step, all_variables, copy_into, scalar};
use nas_datasets::classify::{ClassifyBatch, ClassifyDataset, ClassifyEvalTransform, Images, train_loader};
use nas_datasets::{DataError, Split, TrainLoader, rng};
use serde_json::{Value, json};
use tch::{Tensor, nn::VarStore};

use crate::evaluation::evaluate;
use crate::loss::cross_entropy;
use crate::metric::{ConfusionMatrix, Scores};
use crate::model::Classifier;
use crate::train_experiment::{TrainConfig, TrainExperiment};

type Batches = Box<dyn Iterator<Item = Result<ClassifyBatch, DataError>>>;

/// Prefix of the trained weights in a checkpoint whose plain names hold their average.
const RAW: &str = "raw/";

/// A network in training.
pub struct Training {
    experiment: TrainExperiment,
    compute: Compute,
    vs: VarStore,
    net: Box<dyn Classifier>,
    /// Averages of all variables, in the order of [`all_variables`].
    averages: Option<Vec<Named>>,
    optimizer: Box<dyn Optimizer>,
    scaler: Option<GradScaler>,
    loader: TrainLoader<Images>,
    batches: Option<Batches>,
    val: Arc<dyn ClassifyDataset>,
    scores: Option<Scores>,
    /// Top-1 accuracy after every validated epoch.
    curve: Curve,
}

impl Training {
    /// Builds the network with the seed's initial weights and opens both splits.
    pub fn new(experiment: TrainExperiment, compute: Compute) -> Result<Self> {
        experiment.check()?;
        let train = experiment.data.open(Split::Train)?;
        let val = experiment.data.open(Split::Val)?;
        ConfusionMatrix::new(train.classes().len()).matches(val.classes())?;
        ClassifyEvalTransform::like(&experiment.augment, experiment.eval.resize)?;
        let (vs, net) = new_network(&experiment, val.classes().len(), compute)?;
        let optimizer = experiment.train.optimizer.build(named_parameters(&vs));
        let loader_config = experiment.loader.with(experiment.train.batch_size, compute.threads);
        let loader = train_loader(train, None, experiment.augment.clone(), loader_config, experiment.seed, "train")?;
        let copy = |(name, tensor): Named| (name, tensor.detach().copy());
        let averages = (experiment.train.ema > 0.0).then(|| all_variables(&vs).into_iter().map(copy).collect());
        Ok(Self {
            scaler: compute.amp.then(GradScaler::default),
            experiment,
            compute,
            vs,
            net,
            averages,
            optimizer,
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
    pub fn net(&self) -> &dyn Classifier {
        &*self.net
    }

    /// What the network predicts for the val split, by the averaged weights where there are some.
    pub fn validate(&self) -> Result<ConfusionMatrix> {
        let trained = self.averages.as_ref().map(|averages| {
            let copy = |(name, tensor): Named| (name, tensor.detach().copy());
            let trained: HashMap<String, Tensor> = all_variables(&self.vs).into_iter().map(copy).collect();
            assign(&all_variables(&self.vs), averages);
            trained
        });
        let transform = ClassifyEvalTransform::like(&self.experiment.augment, self.experiment.eval.resize)?;
        let config = self.experiment.loader.with(self.experiment.eval.batch_size, self.compute.threads);
        let matrix = evaluate(&*self.net, &self.val, &transform, &config, self.compute, || {});
        match trained {
            Some(trained) => copy_into(&all_variables(&self.vs), &trained).and(matrix),
            None => matrix,
        }
    }

    fn average(&mut self) {
        let Some(averages) = &mut self.averages else { return };
        let decay = self.experiment.train.ema;
        tch::no_grad(|| {
            for ((_, average), (_, variable)) in averages.iter_mut().zip(all_variables(&self.vs)) {
                let _ = average.g_mul_scalar_(decay).g_add_(&(variable * (1.0 - decay)));
            }
        });
    }
}

/// Copies tensors into variables of the same order.
fn assign(variables: &[Named], sources: &[Named]) {
    tch::no_grad(|| variables.iter().zip(sources).for_each(|((_, to), (_, from))| to.shallow_clone().copy_(from)));
}

/// The experiment's network with its initial weights.
pub fn new_network(
    experiment: &TrainExperiment,
    num_classes: usize,
    compute: Compute,
) -> Result<(VarStore, Box<dyn Classifier>)> {
    tch::manual_seed(rng::torch_seed(experiment.seed, "init", 0));
    let vs = VarStore::new(compute.device);
    let net = experiment.model.build(&VarBuilder::new(&vs), num_classes as i64)?;
    Ok((vs, net))
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
        let batch = self.batches.as_mut().and_then(Iterator::next).context("the loader ended before the epoch")??;
        let device = self.compute.device;
        let images = batch.images.to_device(device);
        let images = if device.is_cuda() { channels_last(&images) } else { images };
        let (labels, mixed) = (batch.labels.to_device(device), batch.mixed.map(|mixed| mixed.to_device(device)));
        let recipe = &self.experiment.train;
        let out = tch::autocast(self.compute.amp, || self.net.forward(&images, Mode::train(at.progress())));
        let loss_of = |logits: &Tensor| cross_entropy(logits, &labels, mixed.as_ref(), recipe.label_smoothing);
        let main = loss_of(&out.main);
        let loss = match &out.aux {
            Some(aux) => &main + loss_of(aux) * recipe.aux_weight,
            None => main.shallow_clone(),
        };
        let lr = recipe.schedule.lr(recipe.optimizer.lr(), at.global_step, at.total_steps);
        descend(&loss, self.optimizer.as_mut(), lr, recipe.grad_clip, self.scaler.as_mut());
        self.average();
        Ok(Step { loss: scalar(&main), images: images.size()[0] as usize })
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.batches = None;
        let mut metrics = Metrics::new();
        if !is_due(self.experiment.eval.every, epoch, last) {
            return Ok(metrics);
        }
        let scores = self.validate()?.scores(self.val.classes());
        metrics.insert("top1".into(), json!(scores.top1));
        metrics.insert("top5".into(), json!(scores.top5));
        let TrainConfig { epochs, early_stop, .. } = &self.experiment.train;
        self.curve.record(scores.top1, early_stop.as_ref(), (epoch, *epochs), self.experiment.seed)?;
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
        "top1"
    }

    /// With averaging, the averages: they are what is used.
    fn model(&self) -> Vec<Named> {
        match &self.averages {
            Some(averages) => averages.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
            None => all_variables(&self.vs),
        }
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        let mut tensors = self.optimizer.state();
        if self.averages.is_some() {
            tensors.extend(all_variables(&self.vs).into_iter().map(|(name, tensor)| (format!("{RAW}{name}"), tensor)));
        }
        (tensors, json!({ "scaler": self.scaler, "curve": self.curve, "scores": self.scores }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        match &self.averages {
            Some(averages) => {
                copy_into(averages, &tensors)?;
                let raw = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(RAW)?, tensor)));
                let raw: HashMap<String, Tensor> =
                    raw.map(|(name, tensor)| (name.to_string(), tensor.shallow_clone())).collect();
                copy_into(&all_variables(&self.vs), &raw)?;
            }
            None => copy_into(&all_variables(&self.vs), &tensors)?,
        }
        self.optimizer.load_state(&tensors);
        self.scaler = serde_json::from_value(json["scaler"].take())?;
        self.curve = serde_json::from_value(json["curve"].take())?;
        self.scores = serde_json::from_value(json["scores"].take())?;
        Ok(())
    }
}
