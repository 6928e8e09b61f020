//! Training of a supernet and search on it, as a job of the training loop.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use nas_core::estimator::supernet::SupernetEvaluator;
use nas_core::nn::{Mode, Shape, VarBuilder, channels_last};
use nas_core::one_shot::{self, Objective, OneShot, Part, Problem, check_epochs, check_recalibration};
use nas_core::optim::{Named, named_parameters};
use nas_core::run::cli::Compute;
use nas_core::space::Architecture;
use nas_core::space::{Mixture, WeightSharing};
use nas_core::train::{At, Job, Metrics, Step, all_variables, copy_into};
use nas_datasets::classify::{
    ClassifyBatch, ClassifyDataset, ClassifyEvalTransform, Images, eval_batches, train_loader,
};
use nas_datasets::{DataError, LoaderConfig, Split, Subset, TrainLoader, disjoint_halves, rng};
use serde_json::{Value, json};
use tch::{Kind, Reduction, Tensor, nn::VarStore};

use crate::one_shot::OneShotExperiment;
use crate::search_net::SearchNet;

type Batches = Box<dyn Iterator<Item = Result<ClassifyBatch, DataError>>>;

/// Images per forward pass of a validation.
const EVAL_BATCH: usize = 200;

/// A supernet in search. The train split is divided once into disjoint random halves: weights see one, the architecture the
/// other. A method that takes no batches of the second half, and is followed by no search that scores on it, trains on all.
pub struct Searching {
    experiment: OneShotExperiment,
    method: Box<dyn OneShot>,
    supernet: Halves,
    weight_data: TrainLoader<Images>,
    arch_data: Option<TrainLoader<Images>>,
    held_out: Arc<dyn ClassifyDataset>,
    val: Arc<dyn ClassifyDataset>,
    transform: ClassifyEvalTransform,
}

/// The supernet and the batches of the running epoch.
struct Halves {
    weights: VarStore,
    net: SearchNet,
    num_classes: i64,
    compute: Compute,
    /// Of the weights, of the architecture.
    batches: [Option<Batches>; 2],
    current: [Option<ClassifyBatch>; 2],
}

impl Searching {
    /// Builds the supernet with the seed's initial weights and opens both splits.
    pub fn new(experiment: OneShotExperiment, compute: Compute) -> Result<Self> {
        let section = &experiment.one_shot;
        let train = experiment.data.open(Split::Train)?;
        let val = experiment.data.open(Split::Val)?;
        let space: Rc<dyn WeightSharing> = Rc::from(experiment.space.build()?);
        let supernet = Halves::new(&*space, train.classes().len(), experiment.seed, compute);
        let problem = Problem {
            space,
            weights: named_parameters(&supernet.weights),
            input: input(&experiment),
            amp: compute.amp,
            seed: experiment.seed,
        };
        let method = section.method.build(problem).context("one_shot")?;
        check_epochs(&*method, section.epochs).context("one_shot")?;
        let (half_a, half_b) = disjoint_halves(train.len(), experiment.seed);
        let halves = method.arch_start_epoch().is_some() || section.method.second_stage().is_some();
        let loader = |indices, purpose| {
            let config = LoaderConfig { batch_size: section.batch_size, ..loading(compute) };
            train_loader(train.clone(), indices, experiment.augment.clone(), config, experiment.seed, purpose)
        };
        let weight_data = loader(halves.then_some(half_a), "train_a")?;
        let of_method = section.method.second_stage().map(|stage| ("one_shot.method", stage.recalibration_batches));
        let of_honesty = experiment.honesty.iter().map(|honesty| ("honesty", honesty.recalibration_batches));
        for (section, batches) in of_method.into_iter().chain(of_honesty) {
            check_recalibration(section, batches, weight_data.batches_per_epoch())?;
        }
        let arch_data = method.arch_start_epoch().map(|_| loader(Some(half_b.clone()), "train_b")).transpose()?;
        let held_out = Arc::new(Subset::new(train.clone(), half_b));
        let transform = ClassifyEvalTransform::like(&experiment.augment, None)?;
        Ok(Self { experiment, method, supernet, weight_data, arch_data, held_out, val, transform })
    }

    /// The architecture that the method has found so far.
    pub fn derive(&self) -> Option<Architecture> {
        self.method.derive()
    }

    /// Raw architecture parameters by name.
    pub fn arch_parameters(&self) -> Vec<Named> {
        self.method.arch_parameters()
    }

    /// Scores candidates on images that the weights have not seen, with batch-norm statistics of `batches` of those they have.
    pub fn evaluator(&mut self, batches: usize) -> Result<Candidates<'_>> {
        let device = self.supernet.compute.device;
        let images = self.weight_data.epoch(0, 0).take(batches).map(|batch| Ok(batch?.images.to_device(device)));
        let images = images.collect::<Result<_>>()?;
        Ok(Candidates {
            evaluator: SupernetEvaluator::new(&all_variables(&self.supernet.weights), images),
            searching: self,
        })
    }

    fn accuracy(&self, dataset: &Arc<dyn ClassifyDataset>, mixture: Mixture, batches: usize) -> Result<f64> {
        let config = LoaderConfig { batch_size: EVAL_BATCH, ..loading(self.supernet.compute) };
        let (mut right, mut all) = (0, 0);
        for batch in eval_batches(dataset.clone(), self.transform.clone(), &config)?.take(batches) {
            let batch = batch?;
            right += self.supernet.hits(&batch.images, &batch.labels, mixture, Mode::EVAL);
            all += batch.indices.len();
        }
        Ok(right as f64 / all as f64)
    }

    fn searches_arch(&self, epoch: usize) -> bool {
        self.method.arch_start_epoch().is_some_and(|first| epoch >= first)
    }
}

/// Shape of an image after augmentation.
pub fn input(experiment: &OneShotExperiment) -> Shape {
    let size = experiment.augment.size;
    Shape::new(3, i64::from(size.height()), i64::from(size.width()))
}

fn loading(compute: Compute) -> LoaderConfig {
    LoaderConfig { batch_size: 1, threads: compute.threads, prefetch: 4, cache_mb: 1024 }
}

/// Candidates of a trained supernet.
pub struct Candidates<'a> {
    evaluator: SupernetEvaluator,
    searching: &'a Searching,
}

impl Candidates<'_> {
    /// Accuracy of `arch`, a fraction, on the held-out half of the train split or one batch of it.
    pub fn accuracy(&self, arch: &Architecture, images: one_shot::Images) -> Result<f64> {
        let Searching { supernet, held_out, .. } = self.searching;
        let batches = if images == one_shot::Images::All { usize::MAX } else { 1 };
        self.evaluator.evaluate(
            |xs, mode| _ = supernet.forward(xs, Mixture::Path(arch), mode),
            || self.searching.accuracy(held_out, Mixture::Path(arch), batches),
        )
    }
}

impl Halves {
    fn new(space: &dyn WeightSharing, num_classes: usize, seed: u64, compute: Compute) -> Self {
        tch::manual_seed(rng::torch_seed(seed, "init", 0));
        let (weights, num_classes) = (VarStore::new(compute.device), num_classes as i64);
        let net = SearchNet::new(&VarBuilder::new(&weights), space, num_classes);
        Self { weights, net, num_classes, compute, batches: [None, None], current: [None, None] }
    }

    fn batch(&self, part: Part) -> &ClassifyBatch {
        self.current[part as usize].as_ref().expect("the method took a batch")
    }

    fn forward(&self, images: &Tensor, mixture: Mixture, mode: Mode) -> Tensor {
        let logits = tch::autocast(self.compute.amp, || self.net.forward(images, mixture, mode));
        logits.to_kind(Kind::Float)
    }

    /// Images whose class has the largest logit.
    fn hits(&self, images: &Tensor, labels: &Tensor, mixture: Mixture, mode: Mode) -> i64 {
        let images = images.to_device(self.compute.device);
        let predicted = tch::no_grad(|| self.forward(&images, mixture, mode)).argmax(-1, false);
        predicted.to_device(labels.device()).eq_tensor(labels).sum(Kind::Int64).int64_value(&[])
    }
}

impl Objective for Halves {
    fn next(&mut self, part: Part) -> Result<usize> {
        let next = self.batches[part as usize].as_mut().and_then(Iterator::next);
        let mut batch = next.ok_or_else(|| anyhow!("the loader ended before the epoch"))??;
        let device = self.compute.device;
        batch.images = batch.images.to_device(device);
        if device.is_cuda() {
            batch.images = channels_last(&batch.images);
        }
        (batch.labels, batch.mixed) = (batch.labels.to_device(device), batch.mixed.map(|m| m.to_device(device)));
        let images = batch.indices.len();
        self.current[part as usize] = Some(batch);
        Ok(images)
    }

    fn loss(&self, part: Part, mixture: Mixture, at: At) -> Tensor {
        let ClassifyBatch { images, labels, mixed, .. } = self.batch(part);
        let logits = self.forward(images, mixture, Mode::train(at.progress()));
        logits.cross_entropy_loss(mixed.as_ref().unwrap_or(labels), None::<&Tensor>, Reduction::Mean, -100, 0.0)
    }

    fn score(&self, part: Part, mixture: Mixture, at: At) -> Result<f64> {
        let ClassifyBatch { images, labels, indices, .. } = self.batch(part);
        Ok(self.hits(images, labels, mixture, Mode::train(at.progress())) as f64 / indices.len() as f64)
    }

    fn rebuild(&mut self, space: &dyn WeightSharing) -> Result<Vec<Named>> {
        self.weights = VarStore::new(self.compute.device);
        self.net = SearchNet::new(&VarBuilder::new(&self.weights), space, self.num_classes);
        Ok(named_parameters(&self.weights))
    }
}

impl Job for Searching {
    fn steps_per_epoch(&self) -> usize {
        let of_arch = self.arch_data.as_ref().map_or(usize::MAX, TrainLoader::batches_per_epoch);
        self.weight_data.batches_per_epoch().min(of_arch)
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        let arch_data = self.arch_data.as_ref().filter(|_| self.searches_arch(epoch));
        let arch = arch_data.map(|data| Box::new(data.epoch(epoch, step)) as Batches);
        self.supernet.batches = [Some(Box::new(self.weight_data.epoch(epoch, step))), arch];
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        self.method.step(at, &mut self.supernet)
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.supernet.batches = [None, None];
        let mut metrics = Metrics::new();
        let every = self.experiment.one_shot.eval_every;
        let due = last || (every > 0 && (epoch + 1).is_multiple_of(every));
        if let Some(chosen) = self.method.chosen().filter(|_| due) {
            let accuracy = self.accuracy(&self.val, chosen.as_mixture(), usize::MAX)?;
            metrics.insert("val_acc".into(), json!(accuracy));
        }
        if let Some(arch) = self.derive().filter(|_| self.searches_arch(epoch)) {
            metrics.insert("architecture".into(), json!(arch));
        }
        Ok(metrics)
    }

    fn best_metric(&self) -> &'static str {
        "val_acc"
    }

    fn model(&self) -> Vec<Named> {
        all_variables(&self.supernet.weights)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        self.method.state()
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, json: Value) -> Result<()> {
        self.method.restore_form(&mut self.supernet, &json)?;
        copy_into(&self.model(), &tensors)?;
        self.method.load_state(&tensors, json)
    }
}
