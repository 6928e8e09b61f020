//! NAS-Bench-201 networks as zero-cost proxies see them.

use anyhow::{Context, Result, ensure};
use nas_core::arch::Architecture;
use nas_core::estimator::latency::latency_millis;
use nas_core::estimator::zero_cost::{Model, Proxy, score};
use nas_core::nn::{Mode, Shape, VarBuilder};
use nas_core::optim::{Named, named_parameters};
use nas_core::space::Cost;
use nas_core::trial::Values;
use nas_datasets::rng;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::nasbench201::{Network, NetworkConfig};

/// An untrained network with its weights, on the CPU.
#[derive(Debug)]
pub struct Candidate {
    /// The weights.
    pub vs: VarStore,
    net: Network,
    input: Shape,
}

impl Candidate {
    /// The network of `arch` with initial weights from libtorch's generator, for images of `input`.
    pub fn new(config: &NetworkConfig, arch: &Architecture, input: Shape) -> Result<Self> {
        let choices = arch.choices().try_into().ok().with_context(|| format!("{arch}: expected six choices"))?;
        let vs = VarStore::new(Device::Cpu);
        let net = Network::new(&VarBuilder::new(&vs), config, choices)?;
        Ok(Self { vs, net, input })
    }
}

impl Model for Candidate {
    fn logits(&self, xs: &Tensor) -> Tensor {
        self.net.forward(xs, Mode::train(0.0))
    }

    fn features(&self, xs: &Tensor) -> Tensor {
        self.net.trunk.last(xs, Mode::train(0.0))
    }

    fn parameters(&self) -> Vec<Named> {
        named_parameters(&self.vs)
    }

    fn cost(&self) -> Cost {
        self.net.cost(self.input)
    }
}

/// `[evaluator] kind = "zero_cost"`: scores of untrained networks on one batch of normal noise with random labels, the same
/// for every architecture of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZeroCostConfig {
    /// The proxies, which are the metrics of a trial; `params` and `macs` come by themselves.
    pub proxies: Vec<Proxy>,
    /// Images of the batch.
    #[serde(default = "default_batch_size")]
    pub batch_size: i64,
    /// Height and width of the images.
    #[serde(default = "default_image")]
    pub image: i64,
    /// Also measures `latency_millis` of one image. It differs from run to run, and so does what a search makes of it.
    #[serde(default)]
    pub latency: bool,
    /// The networks.
    #[serde(default)]
    pub network: NetworkConfig,
}

/// Name of the metric that [`ZeroCostConfig::latency`] adds.
pub const LATENCY: &str = "latency_millis";

fn default_batch_size() -> i64 {
    16
}

fn default_image() -> i64 {
    32
}

impl ZeroCostConfig {
    /// Says what has no score.
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.proxies.is_empty() || self.latency,
            "evaluator.proxies is empty; expected names such as \"synflow\""
        );
        let (batch, image) = (self.batch_size, self.image);
        ensure!((2..=4096).contains(&batch), "evaluator.batch_size = {batch}; expected 2 to 4096");
        ensure!((4..=1024).contains(&image), "evaluator.image = {image}; expected 4 to 1024");
        self.network.validate().context("evaluator.network")
    }

    /// Parameters and multiply-adds.
    pub fn cost(&self, arch: &Architecture) -> Values {
        let choices = arch.choices().try_into().expect("an architecture of the space");
        let net = Network::new(&VarBuilder::dry(), &self.network, choices).expect("checked with the config");
        let Cost { params, macs } = net.cost(Shape::new(3, self.image, self.image));
        [("params", params), ("macs", macs)].map(|(name, value)| (name.to_string(), value as f64)).into()
    }

    /// The scores of `arch`. A score that is not finite is an error.
    pub fn evaluate(&self, arch: &Architecture, seed: u64) -> Result<Values> {
        tch::manual_seed(rng::torch_seed(seed, "zero_cost", 0));
        let size = [self.batch_size, 3, self.image, self.image];
        let images = Tensor::randn(size, (Kind::Float, Device::Cpu));
        let labels = Tensor::randint(self.network.num_classes, [self.batch_size], (Kind::Int64, Device::Cpu));
        let candidate = Candidate::new(&self.network, arch, Shape::new(3, self.image, self.image))?;
        let mut values = self.cost(arch);
        for proxy in &self.proxies {
            values.insert(proxy.name().to_string(), score(*proxy, &candidate, &images, &labels)?);
        }
        if self.latency {
            const RUNS: usize = 11;
            let image = images.narrow(0, 0, 1);
            let forward = || drop(tch::no_grad(|| candidate.net.forward(&image, Mode::EVAL)));
            values.insert(LATENCY.into(), latency_millis(RUNS, forward));
        }
        Ok(values)
    }
}
