//! `[pretrain]`: DetNAS' supernet as a classifier, path by path, before it becomes a detector (Chen et al. 2019, section 3.1).

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use nas_core::nn::{Mode, build_on, ranks};
use nas_core::one_shot::descend;
use nas_core::optim::{Decay, GradScaler, Named, Optimizer, OptimizerConfig, Schedule, SgdConfig, named_parameters};
use nas_core::run::cli::{self, Compute};
use nas_core::run::config::to_toml;
use nas_core::run::run_dir::RunDir;
use nas_core::space::{ChoiceSpace, Mixture};
use nas_core::task::experiment::{OneShotExperiment, Recipe};
use nas_core::train::{self, At, Job, LoopConfig, Metrics, Step, all_variables, copy_into, scalar};
use nas_datasets::classify::{self, ClassifyBatch, ClassifyDataConfig, ClassifyTransform, Images, train_loader};
use nas_datasets::{DataError, Split, TrainLoader, rng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Kind, Reduction, Tensor, nn::VarStore};

use crate::backbone::SuperClassifier;
use crate::detnas::{DetNasConfig, DetNasSpace};
use crate::task::space::SpaceConfig;
use crate::task::{Detection, EvalConfig, images_on};

/// The section `[pretrain]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Images and classes.
    pub data: ClassifyDataConfig,
    /// What is done to training images.
    #[serde(default)]
    pub augment: ClassifyTransform,
    /// The recipe; default: DetNAS', its learning rate scaled to the batch.
    #[serde(default = "recipe")]
    pub train: Recipe<Detection>,
    /// Share of the target that is spread over all classes (Szegedy et al. 2016).
    #[serde(default = "label_smoothing")]
    pub label_smoothing: f64,
}

fn recipe() -> Recipe<Detection> {
    let sgd = SgdConfig { lr: 0.125, weight_decay: 4e-5, ..Default::default() };
    let schedule = Schedule { warmup_steps: 0, decay: Decay::Poly { power: 1.0 } };
    Recipe::new(240, 256, OptimizerConfig::Sgd(sgd), schedule, 0.0)
}

fn label_smoothing() -> f64 {
    0.1
}

impl PretrainConfig {
    fn check(&self) -> Result<()> {
        let Self { train, label_smoothing, .. } = self;
        ensure!(
            (0.0..1.0).contains(label_smoothing),
            "pretrain.label_smoothing = {label_smoothing}; expected 0 or more, below 1"
        );
        let unused = train.init.is_some() || train.early_stop.is_some() || train.ema != 0.0;
        ensure!(!unused, "pretrain.train: init, early_stop and ema do not serve a supernet");
        train.check("pretrain.train", &EvalConfig::default())
    }
}

/// Trains the supernet as a classifier in the folder `pretrain` of a run; returns the backbone's tensors.
pub fn pretrain(
    config: &PretrainConfig,
    experiment: &OneShotExperiment<Detection>,
    dir: &RunDir,
    compute: Compute,
) -> Result<HashMap<String, Tensor>> {
    config.check()?;
    let SpaceConfig::Detnas(backbone) = &experiment.space else {
        anyhow::bail!("pretrain: only space.kind = \"detnas\" is pre-trained");
    };
    let images = config.data.open(Split::Train)?;
    cli::require_sound(&classify::check(&*images), images.len(), "pretrain.data train", "nas-classify")?;
    let folder = RunDir::open(&dir.path("pretrain"), &to_toml(config), true, &json!({ "part_of": dir.root() }))?;
    let mut training = Pretraining::new(config, backbone, experiment, compute)?;
    train::run(&mut training, "pretrain", &folder, LoopConfig::new(config.train.epochs, experiment.seed))?;
    let mut tensors = training.model();
    tensors.retain(|(name, _)| name.starts_with("backbone."));
    Ok(tensors.into_iter().collect())
}

/// A supernet in training as a classifier.
struct Pretraining {
    config: PretrainConfig,
    vs: VarStore,
    net: SuperClassifier,
    space: DetNasSpace,
    seed: u64,
    compute: Compute,
    optimizer: Box<dyn Optimizer>,
    scaler: Option<GradScaler>,
    loader: TrainLoader<Images>,
    batches: Option<Box<dyn Iterator<Item = Result<ClassifyBatch, DataError>>>>,
}

impl Pretraining {
    fn new(
        config: &PretrainConfig,
        backbone: &DetNasConfig,
        experiment: &OneShotExperiment<Detection>,
        compute: Compute,
    ) -> Result<Self> {
        let seed = experiment.seed;
        let dataset = config.data.open(Split::Train)?;
        tch::manual_seed(rng::torch_seed(seed, "init", 1));
        let classes = dataset.classes().len() as i64;
        let (vs, net) = build_on(compute.device, |vb| SuperClassifier::new(vb, backbone, classes));
        let net = net?;
        let loading = experiment.loader.with(config.train.batch_size, compute.threads);
        Ok(Self {
            loader: train_loader(dataset, None, config.augment.clone(), loading, seed, "pretrain")?
                .part(ranks::rank(), ranks::world())?,
            optimizer: config.train.optimizer.build(named_parameters(&vs)),
            scaler: compute.amp.then(GradScaler::default),
            config: config.clone(),
            vs,
            net,
            space: backbone.space()?,
            seed,
            compute,
            batches: None,
        })
    }
}

impl Job for Pretraining {
    fn steps_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch()
    }

    fn start_epoch(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.batches = Some(Box::new(self.loader.epoch(epoch, step)));
        Ok(())
    }

    fn step(&mut self, at: At) -> Result<Step> {
        let next = self.batches.as_mut().and_then(Iterator::next);
        let batch = next.context("the loader ended before the epoch")??;
        let images = images_on(&batch.images, self.compute.device);
        let path = self.space.sample(&mut rng::stream(self.seed, "path", at.global_step as u64));
        let forward = || self.net.forward(&images, Mixture::Path(&path), Mode::train(at.progress()));
        let logits = nas_core::nn::autocast(self.compute.amp, forward).to_kind(Kind::Float);
        let target = batch.mixed.as_ref().unwrap_or(&batch.labels).to_device(self.compute.device);
        let smoothing = self.config.label_smoothing;
        let loss = logits.cross_entropy_loss(&target, None::<&Tensor>, Reduction::Mean, -100, smoothing);
        let Recipe { schedule, optimizer, grad_clip, .. } = &self.config.train;
        let lr = schedule.lr(optimizer.lr(), at.global_step, at.total_steps);
        descend(&loss, self.optimizer.as_mut(), lr, *grad_clip, self.scaler.as_mut());
        Ok(Step { loss: scalar(&loss), images: batch.indices.len(), lr })
    }

    fn end_epoch(&mut self, _epoch: usize, _last: bool) -> Result<Metrics> {
        self.batches = None;
        Ok(Metrics::new())
    }

    fn best_metric(&self) -> &'static str {
        "ap"
    }

    fn model(&self) -> Vec<Named> {
        all_variables(&self.vs)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        (self.optimizer.state(), json!({ "scaler": self.scaler }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, mut json: Value) -> Result<()> {
        copy_into(&self.model(), &tensors)?;
        self.optimizer.load_state(&tensors);
        self.scaler = GradScaler::resumed(self.compute.amp, json["scaler"].take())?;
        Ok(())
    }
}
