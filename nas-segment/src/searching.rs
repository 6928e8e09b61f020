//! Search of an Auto-DeepLab architecture, as a job of the training loop.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use nas_core::arch::Architecture;
use nas_core::cli::Compute;
use nas_core::nn::{Mode, VarBuilder};
use nas_core::one_shot::{BilevelObjective, FirstOrder};
use nas_core::optim::{Named, named_parameters};
use nas_core::space::{ArchParameter, Mixture, WeightSharing};
use nas_core::train::{At, Job, Metrics, Step, all_variables, copy_into};
use nas_datasets::{EvalTransform, SegDataset, Split, TrainLoader, disjoint_halves, rng};
use serde_json::{Value, json};
use tch::{Kind, Tensor, nn::VarStore};

use crate::auto_deeplab::{AutoDeepLabSpace, SearchNet};
use crate::evaluation::evaluate;
use crate::experiment::SearchExperiment;
use crate::loss::cross_entropy;
use crate::training::{Batches, next_batch, val_metrics};

/// A supernet in search. The train set is split once into disjoint random halves: weights see one, the architecture
/// parameters the other.
pub struct Searching {
    experiment: SearchExperiment,
    method: FirstOrder,
    supernet: Relaxed,
    weight_data: TrainLoader,
    arch_data: TrainLoader,
    val: Arc<dyn SegDataset>,
}

/// The supernet under its architecture parameters, and the batches of the running epoch.
struct Relaxed {
    space: AutoDeepLabSpace,
    weights: VarStore,
    arch: VarStore,
    net: SearchNet,
    parameters: Vec<Tensor>,
    compute: Compute,
    weight_batches: Option<Batches>,
    arch_batches: Option<Batches>,
}

impl Searching {
    /// Builds the supernet with the seed's initial weights and opens both splits.
    pub fn new(experiment: SearchExperiment, compute: Compute) -> Result<Self> {
        let train = experiment.data.open(Split::Train)?;
        let val = experiment.data.open(Split::Val)?;
        let supernet = Relaxed::new(&experiment, val.classes().len(), compute)?;
        let (weights, arch) = (named_parameters(&supernet.weights), named_parameters(&supernet.arch));
        let method = FirstOrder::new(experiment.search.first_order.clone(), weights, arch, compute.amp);
        let (half_a, half_b) = disjoint_halves(train.len(), experiment.seed);
        let loader = |indices, purpose| {
            let config = experiment.loader.with(experiment.search.batch_size, compute.threads);
            let transform = experiment.augment.clone();
            TrainLoader::new(train.clone(), Some(indices), transform, config, experiment.seed, purpose)
        };
        let (weight_data, arch_data) = (loader(half_a, "train_a")?, loader(half_b, "train_b")?);
        Ok(Self { experiment, method, supernet, weight_data, arch_data, val })
    }

    /// The most probable architecture under the present architecture parameters.
    pub fn derive(&self) -> Architecture {
        let raw: Vec<Tensor> = self.supernet.parameters.iter().map(|raw| raw.detach().to_kind(Kind::Double)).collect();
        let space = &self.experiment.space;
        space.discretize(&space.softmax(&raw))
    }

    /// Raw architecture parameters by name.
    pub fn arch_parameters(&self) -> Vec<Named> {
        named_parameters(&self.supernet.arch)
    }

    fn searches_arch(&self, epoch: usize) -> bool {
        epoch >= self.experiment.search.first_order.arch_start_epoch
    }
}

impl Relaxed {
    fn new(experiment: &SearchExperiment, num_classes: usize, compute: Compute) -> Result<Self> {
        tch::manual_seed(rng::torch_seed(experiment.seed, "init", 0));
        let (weights, arch) = (VarStore::new(compute.device), VarStore::new(compute.device));
        let net = SearchNet::new(&VarBuilder::new(&weights), &experiment.space, num_classes as i64);
        let declare = |p: ArchParameter| arch.root().randn(&p.name, &p.dims, 0.0, 1e-3);
        let parameters = experiment.space.arch_parameters().into_iter().map(declare).collect();
        let space = experiment.space.clone();
        Ok(Self { space, weights, arch, net, parameters, compute, weight_batches: None, arch_batches: None })
    }

    fn forward(&self, images: &Tensor, mode: Mode) -> Tensor {
        self.net.forward(images, Mixture::Weights(&self.space.softmax(&self.parameters)), mode)
    }

    fn loss(&self, images: &Tensor, labels: &Tensor, at: At) -> Tensor {
        let logits = tch::autocast(self.compute.amp, || self.forward(images, Mode::train(at.progress())));
        cross_entropy(&logits, labels, None)
    }
}

impl BilevelObjective for Relaxed {
    fn weight_loss(&mut self, at: At) -> Result<(Tensor, usize)> {
        let (images, labels) = next_batch(&mut self.weight_batches, self.compute.device)?;
        Ok((self.loss(&images, &labels, at), images.size()[0] as usize))
    }

    fn arch_loss(&mut self, at: At) -> Result<Tensor> {
        let (images, labels) = next_batch(&mut self.arch_batches, self.compute.device)?;
        Ok(self.loss(&images, &labels, at))
    }
}

impl Job for Searching {
    fn steps_per_epoch(&self) -> usize {
        self.weight_data.batches_per_epoch().min(self.arch_data.batches_per_epoch())
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.supernet.weight_batches = Some(Box::new(self.weight_data.epoch(epoch, step)));
        if self.searches_arch(epoch) {
            self.supernet.arch_batches = Some(Box::new(self.arch_data.epoch(epoch, step)));
        }
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        self.method.step(at, &mut self.supernet)
    }

    fn end_epoch(&mut self, epoch: usize, last: bool) -> Result<Metrics> {
        (self.supernet.weight_batches, self.supernet.arch_batches) = (None, None);
        let mut metrics = Metrics::new();
        let eval = &self.experiment.eval;
        if eval.is_due(epoch, last) {
            let transform = EvalTransform::like(&self.experiment.augment, eval.resize);
            let net = |xs: &Tensor, mode| self.supernet.forward(xs, mode);
            let scores = evaluate(&net, &self.val, &transform, eval, self.supernet.compute, || {})?;
            metrics = val_metrics(&scores);
        }
        if self.searches_arch(epoch) {
            metrics.insert("architecture".into(), json!(self.derive()));
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
        let mut tensors = self.method.state();
        tensors.extend(all_variables(&self.supernet.arch));
        (tensors, json!({ "scaler": self.method.scaler() }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        copy_into(&self.model(), &tensors)?;
        copy_into(&all_variables(&self.supernet.arch), &tensors)?;
        self.method.load_state(&tensors, serde_json::from_value(json["scaler"].take())?);
        Ok(())
    }
}
