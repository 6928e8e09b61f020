//! Search of an Auto-DeepLab architecture, as a job of the training loop.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use nas_core::estimator::supernet::SupernetEvaluator;
use nas_core::nn::{Mode, Shape, VarBuilder};
use nas_core::one_shot::{self, Objective, OneShot, Part, Problem, check_epochs, check_recalibration};
use nas_core::optim::{Named, named_parameters};
use nas_core::run::cli::Compute;
use nas_core::space::Architecture;
use nas_core::space::Mixture;
use nas_core::task::experiment::is_due;
use nas_core::train::{At, Job, Metrics, Step, all_variables, copy_into};
use nas_datasets::{EvalTransform, SegDataset, Split, Subset, TrainLoader, disjoint_halves, rng};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, nn::VarStore};

use crate::auto_deeplab::SearchNet;
use crate::evaluation::evaluate;
use crate::experiment::SearchExperiment;
use crate::loss::cross_entropy;
use crate::metric::{ConfusionMatrix, Scores};
use crate::training::{Batches, next_batch, val_metrics};

/// A supernet in search. The train set is split once into disjoint random halves: weights see one, the architecture
/// parameters, or the candidates of a search over the trained supernet, the other.
pub struct Searching {
    experiment: SearchExperiment,
    method: Box<dyn OneShot>,
    supernet: Halves,
    weight_data: TrainLoader,
    arch_data: TrainLoader,
    held_out: Arc<dyn SegDataset>,
    val: Arc<dyn SegDataset>,
}

/// The supernet and the batches of the running epoch.
struct Halves {
    weights: VarStore,
    net: SearchNet,
    compute: Compute,
    num_classes: usize,
    /// Of the weights, of the architecture.
    batches: [Option<Batches>; 2],
    current: [Option<(Tensor, Tensor)>; 2],
}

impl Searching {
    /// Builds the supernet with the seed's initial weights and opens both splits.
    pub fn new(experiment: SearchExperiment, compute: Compute) -> Result<Self> {
        let train = experiment.data.open(Split::Train)?;
        let val = experiment.data.open(Split::Val)?;
        let supernet = Halves::new(&experiment, val.classes().len(), compute);
        let crop = experiment.augment.crop;
        let problem = Problem {
            space: Rc::new(experiment.space.clone()),
            weights: named_parameters(&supernet.weights),
            input: Shape::new(3, i64::from(crop.height()), i64::from(crop.width())),
            amp: compute.amp,
            seed: experiment.seed,
        };
        let method = experiment.search.method.build(problem).context("search")?;
        check_epochs(&*method, experiment.search.epochs).context("search")?;
        let (half_a, half_b) = disjoint_halves(train.len(), experiment.seed);
        let loader = |indices, purpose| {
            let config = experiment.loader.with(experiment.search.batch_size, compute.threads);
            let transform = experiment.augment.clone();
            TrainLoader::new(train.clone(), Some(indices), transform, config, experiment.seed, purpose)
        };
        let (weight_data, arch_data) = (loader(half_a, "train_a")?, loader(half_b.clone(), "train_b")?);
        if let Some(stage) = experiment.search.method.second_stage() {
            check_recalibration("search.method", stage.recalibration_batches, weight_data.batches_per_epoch())?;
        }
        let held_out = Arc::new(Subset::new(train, half_b));
        Ok(Self { experiment, method, supernet, weight_data, arch_data, held_out, val })
    }

    /// Scores candidates on images that the weights have not seen, with batch-norm statistics of `batches` of those they have.
    pub fn evaluator(&mut self, batches: usize) -> Result<Candidates<'_>> {
        let device = self.supernet.compute.device;
        let images = self.weight_data.epoch(0, 0).take(batches).map(|batch| Ok(batch?.images.to_device(device)));
        let images = images.collect::<Result<_>>()?;
        let batch = (0..self.experiment.search.batch_size).collect();
        Ok(Candidates {
            evaluator: SupernetEvaluator::new(&all_variables(&self.supernet.weights), images),
            batch: Arc::new(Subset::new(self.held_out.clone(), batch)),
            searching: self,
        })
    }

    fn scores(&self, dataset: &Arc<dyn SegDataset>, mixture: Mixture) -> Result<Scores> {
        let eval = &self.experiment.eval;
        let transform = EvalTransform::like(&self.experiment.augment, eval.resize);
        let net = |xs: &Tensor, mode| self.supernet.net.forward(xs, mixture, mode);
        evaluate(&net, dataset, &transform, eval, self.supernet.compute, || {})
    }

    /// The architecture that the method has found so far.
    pub fn derive(&self) -> Option<Architecture> {
        self.method.derive()
    }

    /// Raw architecture parameters by name.
    pub fn arch_parameters(&self) -> Vec<Named> {
        self.method.arch_parameters()
    }

    fn searches_arch(&self, epoch: usize) -> bool {
        self.method.arch_start_epoch().is_some_and(|first| epoch >= first)
    }
}

/// Candidates of a trained supernet.
pub struct Candidates<'a> {
    evaluator: SupernetEvaluator,
    /// A batch of the held-out half.
    batch: Arc<dyn SegDataset>,
    searching: &'a Searching,
}

impl Candidates<'_> {
    /// mIOU of `arch`, a fraction, on the held-out half of the train split or one batch of it.
    pub fn miou(&self, arch: &Architecture, images: one_shot::Images) -> Result<f64> {
        let Searching { supernet, held_out, .. } = self.searching;
        let dataset = if images == one_shot::Images::All { held_out } else { &self.batch };
        let path = Mixture::Path(arch);
        let forward =
            |xs: &Tensor, mode| tch::autocast(supernet.compute.amp, || _ = supernet.net.forward(xs, path, mode));
        Ok(self.evaluator.evaluate(forward, || self.searching.scores(dataset, path))?.miou)
    }
}

impl Halves {
    fn new(experiment: &SearchExperiment, num_classes: usize, compute: Compute) -> Self {
        tch::manual_seed(rng::torch_seed(experiment.seed, "init", 0));
        let weights = VarStore::new(compute.device);
        let net = SearchNet::new(&VarBuilder::new(&weights), &experiment.space, num_classes as i64);
        Self { weights, net, compute, num_classes, batches: [None, None], current: [None, None] }
    }

    fn batch(&self, part: Part) -> &(Tensor, Tensor) {
        self.current[part as usize].as_ref().expect("the method took a batch")
    }
}

impl Objective for Halves {
    fn next(&mut self, part: Part) -> Result<usize> {
        let batch = next_batch(&mut self.batches[part as usize], self.compute.device)?;
        let images = batch.0.size()[0] as usize;
        self.current[part as usize] = Some(batch);
        Ok(images)
    }

    fn loss(&self, part: Part, mixture: Mixture, at: At) -> Tensor {
        let (images, labels) = self.batch(part);
        let mode = Mode::train(at.progress());
        let logits = tch::autocast(self.compute.amp, || self.net.forward(images, mixture, mode));
        cross_entropy(&logits, labels, None)
    }

    fn score(&self, part: Part, mixture: Mixture, at: At) -> Result<f64> {
        let (images, labels) = self.batch(part);
        let mode = Mode::train(at.progress());
        let logits = tch::no_grad(|| tch::autocast(self.compute.amp, || self.net.forward(images, mixture, mode)));
        let ids =
            |tensor: &Tensor| Vec::<u8>::try_from(tensor.to_kind(Kind::Uint8).to_device(Device::Cpu).flatten(0, -1));
        let mut matrix = ConfusionMatrix::new(self.num_classes);
        matrix.add(&ids(labels)?, &ids(&logits.argmax(1, false))?);
        Ok(matrix.scores().miou)
    }
}

impl Job for Searching {
    fn steps_per_epoch(&self) -> usize {
        self.weight_data.batches_per_epoch().min(self.arch_data.batches_per_epoch())
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        let arch = self.searches_arch(epoch).then(|| Box::new(self.arch_data.epoch(epoch, step)) as Batches);
        self.supernet.batches = [Some(Box::new(self.weight_data.epoch(epoch, step))), arch];
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        self.method.step(at, &mut self.supernet)
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        self.supernet.batches = [None, None];
        let mut metrics = Metrics::new();
        let eval = &self.experiment.eval;
        if let Some(chosen) = self.method.chosen().filter(|_| is_due(eval.every, epoch, last)) {
            metrics = val_metrics(&self.scores(&self.val, chosen.as_mixture())?);
        }
        if let Some(arch) = self.derive().filter(|_| self.searches_arch(epoch)) {
            metrics.insert("architecture".into(), json!(arch));
        }
        Ok(metrics)
    }

    fn best_metric(&self) -> &'static str {
        "miou"
    }

    fn model(&self) -> Vec<Named> {
        all_variables(&self.supernet.weights)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        self.method.state()
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, json: Value) -> Result<()> {
        copy_into(&self.model(), &tensors)?;
        self.method.load_state(&tensors, json)
    }
}
