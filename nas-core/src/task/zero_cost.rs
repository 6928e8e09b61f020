//! Untrained networks of a space as zero-cost proxies see them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nas_datasets::{SampleSet, Split, rng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::experiment::Setting;
use super::searched::SearchedSpace;
use super::{CostFunction, Task};
use crate::estimator::latency::latency_millis;
use crate::estimator::zero_cost::{Model, Proxy, score};
use crate::nn::{Cost, Mode, Shape, VarBuilder};
use crate::optim::{Named, named_parameters};
use crate::space::Architecture;
use crate::space::trial::Values;

/// An untrained network with its weights, on the CPU.
pub struct Candidate<T: Task> {
    /// The weights.
    pub vs: VarStore,
    net: T::Net,
    input: Shape,
}

impl<T: Task> Candidate<T> {
    /// The network of `model` with initial weights from libtorch's generator, for images of `input`.
    pub fn new(model: &T::Model, num_classes: usize, input: Shape) -> Result<Self> {
        let vs = VarStore::new(Device::Cpu);
        let net = T::build(model, &VarBuilder::new(&vs), num_classes)?;
        Ok(Self { vs, net, input })
    }
}

impl<T: Task> Model for Candidate<T> {
    fn logits(&self, xs: &Tensor) -> Tensor {
        T::probe_logits(&self.net, xs, Mode::train(0.0))
    }

    fn features(&self, xs: &Tensor) -> Tensor {
        T::probe_features(&self.net, xs, Mode::train(0.0))
    }

    fn parameters(&self) -> Vec<Named> {
        named_parameters(&self.vs)
    }

    fn cost(&self) -> Cost {
        T::cost(&self.net, self.input).unwrap_or_default()
    }
}

/// `[evaluator] kind = "zero_cost"`: scores of untrained networks on one batch, the same for every architecture of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZeroCostConfig {
    /// The proxies, which are the metrics of a trial; the costs come by themselves.
    pub proxies: Vec<Proxy>,
    /// Images of the batch.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Height and width of the images.
    #[serde(default = "default_image")]
    pub image: u32,
    /// What the batch is.
    #[serde(default)]
    pub on: ProbeBatch,
    /// Also measures `latency_millis` of one image. It differs from run to run, and so does what a search makes of it.
    #[serde(default)]
    pub latency: bool,
}

/// What untrained networks are scored on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeBatch {
    /// Normal noise with random labels of ten classes.
    #[default]
    Noise,
    /// A random part of the train split of `[data]`.
    Data,
}

/// Name of the metric that [`ZeroCostConfig::latency`] adds.
pub const LATENCY: &str = "latency_millis";

/// Classes of the labels of noise.
const NOISE_CLASSES: usize = 10;

fn default_batch_size() -> usize {
    16
}

fn default_image() -> u32 {
    32
}

impl ZeroCostConfig {
    fn check(&self) -> Result<()> {
        ensure!(
            !self.proxies.is_empty() || self.latency,
            "evaluator.proxies is empty; expected names such as \"synflow\""
        );
        let (batch, image) = (self.batch_size, self.image);
        ensure!((2..=4096).contains(&batch), "evaluator.batch_size = {batch}; expected 2 to 4096");
        ensure!((4..=1024).contains(&image), "evaluator.image = {image}; expected 4 to 1024");
        Ok(())
    }

    /// Images `[B, 3, H, W]`, labels `[B]` and the number of classes.
    fn batch<T: Task>(
        &self,
        setting: impl FnOnce() -> Result<Setting<T>>,
        seed: u64,
    ) -> Result<(Tensor, Tensor, usize)> {
        let (batch, side) = (self.batch_size, i64::from(self.image));
        if self.on == ProbeBatch::Noise {
            tch::manual_seed(rng::torch_seed(seed, "zero_cost", 0));
            let images = Tensor::randn([batch as i64, 3, side, side], (Kind::Float, Device::Cpu));
            let labels = Tensor::randint(NOISE_CLASSES as i64, [batch as i64], (Kind::Int64, Device::Cpu));
            return Ok((images, labels, NOISE_CLASSES));
        }
        let setting = setting()?;
        let train = T::open(&setting.data, Split::Train)?;
        let len = train.len();
        ensure!(batch <= len, "evaluator.batch_size = {batch}: the train split has {len} images");
        let chosen = rand::seq::index::sample(&mut rng::stream(seed, "zero_cost", 0), len, batch).into_vec();
        let (images, labels) = T::probe_batch(&setting, &train, &chosen, self.image)?;
        Ok((images, labels, T::classes(&train).len()))
    }
}

/// The proxies of a space's networks on one batch.
pub struct ZeroCost<T: Task> {
    space: SearchedSpace<T>,
    model: Option<T::Model>,
    config: ZeroCostConfig,
    seed: u64,
    /// Images and labels; tensors must not be shared between threads.
    batch: Mutex<(Tensor, Tensor)>,
    num_classes: usize,
    costs: CostFunction,
}

impl<T: Task> fmt::Debug for ZeroCost<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("ZeroCost").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<T: Task> ZeroCost<T> {
    /// Takes the batch. A config that makes no sense is an error that names the key.
    pub fn new(
        config: &ZeroCostConfig,
        space: &SearchedSpace<T>,
        model: Option<&T::Model>,
        cost_size: Option<(i64, i64)>,
        setting: impl FnOnce() -> Result<Setting<T>>,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        let (images, labels, num_classes) = config.batch::<T>(setting, seed)?;
        let (h, w) = cost_size.unwrap_or((config.image.into(), config.image.into()));
        Ok(Self {
            costs: space.costs(model, num_classes, Shape::new(3, h, w))?,
            space: space.clone(),
            model: model.cloned(),
            config: config.clone(),
            seed,
            batch: Mutex::new((images, labels)),
            num_classes,
        })
    }

    /// Names of the metrics of a trial besides its costs.
    pub fn metrics(&self) -> BTreeSet<String> {
        let names = self.config.proxies.iter().map(|proxy| proxy.name());
        names.chain(self.config.latency.then_some(LATENCY)).map(String::from).collect()
    }

    /// What the architecture alone decides.
    pub fn cost(&self, arch: &Architecture) -> Result<Values> {
        (self.costs)(arch)
    }

    /// The scores of `arch`. A score that is not finite is an error.
    pub fn evaluate(&self, arch: &Architecture) -> Result<Values> {
        tch::manual_seed(rng::torch_seed(self.seed, "init", 0));
        let model = self.space.derive(self.model.as_ref(), arch)?;
        let side = self.config.image.into();
        let candidate = Candidate::<T>::new(&model, self.num_classes, Shape::new(3, side, side)).context("space")?;
        let mut values = self.cost(arch)?;
        let (images, labels) = &*self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        for proxy in &self.config.proxies {
            values.insert(proxy.name().to_string(), score(*proxy, &candidate, images, labels)?);
        }
        if self.config.latency {
            const RUNS: usize = 11;
            let image = images.narrow(0, 0, 1);
            let forward = || drop(tch::no_grad(|| T::probe_logits(&candidate.net, &image, Mode::EVAL)));
            values.insert(LATENCY.into(), latency_millis(RUNS, forward));
        }
        Ok(values)
    }
}
