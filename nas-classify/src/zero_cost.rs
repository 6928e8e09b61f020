//! Untrained networks of a space as zero-cost proxies see them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nas_core::estimator::latency::latency_millis;
use nas_core::estimator::zero_cost::{Model, Proxy, score};
use nas_core::nn::Cost;
use nas_core::nn::{Mode, Shape, VarBuilder};
use nas_core::optim::{Named, named_parameters};
use nas_core::space::Architecture;
use nas_core::space::trial::Values;
use nas_datasets::classify::{ClassifyDataConfig, ClassifyEvalTransform, ClassifyTransform};
use nas_datasets::{Size, Split, rng};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::model::{Classifier, ModelConfig};
use crate::search_net::SpaceConfig;

/// An untrained network with its weights, on the CPU.
#[derive(Debug)]
pub struct Candidate {
    /// The weights.
    pub vs: VarStore,
    net: Box<dyn Classifier>,
    input: Shape,
}

impl Candidate {
    /// The network of `model` for `num_classes` with initial weights from libtorch's generator, for images of `input`.
    pub fn new(model: &ModelConfig, num_classes: i64, input: Shape) -> Result<Self> {
        let vs = VarStore::new(Device::Cpu);
        let net = model.build(&VarBuilder::new(&vs), num_classes)?;
        Ok(Self { vs, net, input })
    }
}

impl Model for Candidate {
    fn logits(&self, xs: &Tensor) -> Tensor {
        self.net.forward(xs, Mode::train(0.0)).main
    }

    fn features(&self, xs: &Tensor) -> Tensor {
        self.net.features(xs, Mode::train(0.0))
    }

    fn parameters(&self) -> Vec<Named> {
        named_parameters(&self.vs)
    }

    fn cost(&self) -> Cost {
        self.net.cost(self.input)
    }
}

/// `[evaluator] kind = "zero_cost"`: scores of untrained networks on one batch, the same for every architecture of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroCostConfig {
    /// The proxies, which are the metrics of a trial; `params` and `macs` come by themselves.
    pub proxies: Vec<Proxy>,
    /// Images of the batch.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Height and width of the images.
    #[serde(default = "default_image")]
    pub image: u32,
    /// The set of whose train split the batch is a random part; normal noise with random labels of ten classes if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ClassifyDataConfig>,
    /// Also measures `latency_millis` of one image. It differs from run to run, and so does what a search makes of it.
    #[serde(default)]
    pub latency: bool,
}

/// Name of the metric that [`ZeroCostConfig::latency`] adds.
pub const LATENCY: &str = "latency_millis";

/// Classes of the labels of noise.
const NOISE_CLASSES: i64 = 10;

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
    fn batch(&self, seed: u64) -> Result<(Tensor, Tensor, i64)> {
        let (batch, side) = (self.batch_size, i64::from(self.image));
        let Some(data) = &self.data else {
            tch::manual_seed(rng::torch_seed(seed, "zero_cost", 0));
            let images = Tensor::randn([batch as i64, 3, side, side], (Kind::Float, Device::Cpu));
            let labels = Tensor::randint(NOISE_CLASSES, [batch as i64], (Kind::Int64, Device::Cpu));
            return Ok((images, labels, NOISE_CLASSES));
        };
        let train = data.open(Split::Train)?;
        ensure!(batch <= train.len(), "evaluator.batch_size = {batch}: the train split has {} images", train.len());
        let training = ClassifyTransform { size: Size::new(self.image, self.image), ..Default::default() };
        let transform = ClassifyEvalTransform::like(&training, None)?;
        let chosen = rand::seq::index::sample(&mut rng::stream(seed, "zero_cost", 0), train.len(), batch).into_vec();
        let images = chosen.iter().map(|i| Ok(transform.apply(&train.image(*i)?))).collect::<Result<Vec<_>>>()?;
        let labels: Vec<i64> = chosen.iter().map(|i| train.label(*i) as i64).collect();
        Ok((Tensor::cat(&images, 0), Tensor::from_slice(&labels), train.classes().len() as i64))
    }
}

/// The proxies of a space's networks on one batch.
pub struct ZeroCost {
    space: SpaceConfig,
    config: ZeroCostConfig,
    seed: u64,
    /// Images and labels; tensors must not be shared between threads.
    batch: Mutex<(Tensor, Tensor)>,
    num_classes: i64,
}

impl fmt::Debug for ZeroCost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("ZeroCost").field("config", &self.config).finish_non_exhaustive()
    }
}

impl ZeroCost {
    /// Takes the batch. A config that makes no sense is an error that names the key.
    pub fn new(config: &ZeroCostConfig, space: &SpaceConfig, seed: u64) -> Result<Self> {
        config.check()?;
        space.build().context("space")?;
        let (images, labels, num_classes) = config.batch(seed).context("evaluator.data")?;
        let batch = Mutex::new((images, labels));
        Ok(Self { space: space.clone(), config: config.clone(), seed, batch, num_classes })
    }

    /// Names of the metrics of a trial.
    pub fn metrics(&self) -> BTreeSet<String> {
        let names = self.config.proxies.iter().map(|proxy| proxy.name()).chain(["params", "macs"]);
        names.chain(self.config.latency.then_some(LATENCY)).map(String::from).collect()
    }

    fn input(&self) -> Shape {
        let side = self.config.image.into();
        Shape::new(3, side, side)
    }

    /// Parameters and multiply-adds.
    pub fn cost(&self, arch: &Architecture) -> Result<Values> {
        let net = self.space.derive(arch)?.build(&VarBuilder::dry(), self.num_classes)?;
        let Cost { params, macs } = net.cost(self.input());
        Ok([("params", params), ("macs", macs)].map(|(name, value)| (name.to_string(), value as f64)).into())
    }

    /// The scores of `arch`. A score that is not finite is an error.
    pub fn evaluate(&self, arch: &Architecture) -> Result<Values> {
        tch::manual_seed(rng::torch_seed(self.seed, "init", 0));
        let candidate = Candidate::new(&self.space.derive(arch)?, self.num_classes, self.input())?;
        let mut values = self.cost(arch)?;
        let (images, labels) = &*self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        for proxy in &self.config.proxies {
            values.insert(proxy.name().to_string(), score(*proxy, &candidate, images, labels)?);
        }
        if self.config.latency {
            const RUNS: usize = 11;
            let image = images.narrow(0, 0, 1);
            let forward = || drop(tch::no_grad(|| candidate.net.forward(&image, Mode::EVAL)));
            values.insert(LATENCY.into(), latency_millis(RUNS, forward));
        }
        Ok(values)
    }
}
