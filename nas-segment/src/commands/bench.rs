//! `nas-segment bench`: time and memory of a search step.

use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use nas_core::cli::{Compute, ComputeArgs, Format, print};
use nas_core::device::peak_memory_bytes;
use nas_core::nn::{Mode, Shape, VarBuilder, channels_last};
use nas_core::one_shot::{DartsConfig, Objective, OneShot, OneShotConfig, Part, Problem};
use nas_core::optim::{Named, named_parameters};
use nas_core::space::Mixture;
use nas_core::train::{At, scalar};
use serde::Serialize;
use tch::{Kind, Tensor, nn::VarStore};

use crate::auto_deeplab::{AutoDeepLabSpace, SearchNet};
use crate::loss::cross_entropy;

/// Time and memory of one search step (weights and architecture) on random images
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment bench --layers 12 --blocks 5 --filters 8 --batch 2 --crop 65 --threads 1
  nas-segment bench --layers 12 --blocks 3 --filters 4 --batch 4 --crop 129 --threads 2")]
pub struct BenchArgs {
    /// Layers of the trellis
    #[arg(long, default_value_t = 12)]
    layers: usize,
    /// Blocks of a cell
    #[arg(long, default_value_t = 5)]
    blocks: usize,
    /// Filter multiplier
    #[arg(long, default_value_t = 8)]
    filters: i64,
    /// Images per step
    #[arg(long, default_value_t = 2)]
    batch: i64,
    /// Side of the square crop in pixels
    #[arg(long, default_value_t = 65)]
    crop: i64,
    /// Timed steps, after one that is not timed
    #[arg(long, default_value_t = 3)]
    steps: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// How to print the figures
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct BenchReport {
    threads: usize,
    weight_params: usize,
    secs_per_step: f64,
    images_per_sec: f64,
    peak_memory_mib: Option<u64>,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { threads, weight_params, secs_per_step, images_per_sec, peak_memory_mib } = self;
        write!(
            f,
            "{threads} threads, {:.2} M weights: {secs_per_step:.2} s per search step",
            *weight_params as f64 / 1e6
        )?;
        write!(f, ", {images_per_sec:.2} images/s")?;
        peak_memory_mib.iter().try_for_each(|mib| write!(f, ", peak memory {mib} MiB"))
    }
}

/// A supernet on one random batch.
struct RandomBatch {
    net: SearchNet,
    images: Tensor,
    labels: Tensor,
    amp: bool,
}

impl Objective for RandomBatch {
    fn next(&mut self, _: Part) -> Result<usize> {
        Ok(self.images.size()[0] as usize)
    }

    fn loss(&self, _: Part, mixture: Mixture, at: At) -> Tensor {
        let mode = Mode::train(at.progress());
        let logits = tch::autocast(self.amp, || self.net.forward(&self.images, mixture, mode));
        cross_entropy(&logits, &self.labels, None)
    }

    fn score(&self, part: Part, mixture: Mixture, at: At) -> Result<f64> {
        Ok(-scalar(&tch::no_grad(|| self.loss(part, mixture, at))))
    }
}

/// A search step on random images, the same ones for the same arguments on every device.
pub(super) struct SearchStep {
    /// The supernet's weights.
    pub weights: VarStore,
    method: Box<dyn OneShot>,
    batch: RandomBatch,
}

impl SearchStep {
    /// A supernet of `space` with 19 classes on `batch` images of `crop` x `crop` pixels.
    pub fn new(space: &AutoDeepLabSpace, batch: i64, crop: i64, compute: Compute) -> Self {
        const NUM_CLASSES: i64 = 19;
        tch::manual_seed(0);
        let mut weights = VarStore::new(tch::Device::Cpu);
        let net = SearchNet::new(&VarBuilder::new(&weights), space, NUM_CLASSES);
        let images = Tensor::randn([batch, 3, crop, crop], (Kind::Float, tch::Device::Cpu));
        let labels = Tensor::randint(NUM_CLASSES, [batch, crop, crop], (Kind::Int64, tch::Device::Cpu));
        weights.set_device(compute.device);
        let config = DartsConfig { arch_start_epoch: 0, ..DartsConfig::auto_deeplab() };
        let problem = Problem {
            space: Rc::new(space.clone()),
            weights: named_parameters(&weights),
            input: Shape::new(3, crop, crop),
            amp: compute.amp,
            seed: 0,
        };
        let method = OneShotConfig::Darts(config).build(problem).expect("first-order DARTS serves the space");
        let images = channels_last(&images.to_device(compute.device));
        let labels = labels.to_device(compute.device);
        Self { weights, method, batch: RandomBatch { net, images, labels, amp: compute.amp } }
    }

    /// The architecture parameters.
    pub fn arch(&self) -> Vec<Named> {
        self.method.arch_parameters()
    }

    /// One step; returns the loss of the weights' half.
    pub fn step(&mut self) -> Result<f64> {
        let at = At { epoch: 0, step: 0, global_step: 0, total_steps: 1 };
        Ok(self.method.step(at, &mut self.batch)?.loss)
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    let compute = args.compute.resolve()?;
    let space = AutoDeepLabSpace {
        layers: args.layers,
        blocks: args.blocks,
        filters: args.filters,
        ..AutoDeepLabSpace::default()
    };
    space.check()?;
    let mut search = SearchStep::new(&space, args.batch, args.crop, compute);
    search.step()?;
    let started = Instant::now();
    for _ in 0..args.steps.max(1) {
        search.step()?;
    }
    let secs_per_step = started.elapsed().as_secs_f64() / args.steps.max(1) as f64;
    let report = BenchReport {
        threads: compute.threads,
        weight_params: search.weights.trainable_variables().iter().map(Tensor::numel).sum(),
        secs_per_step,
        images_per_sec: args.batch as f64 / secs_per_step,
        peak_memory_mib: peak_memory_bytes(compute.device).map(|bytes| bytes >> 20),
    };
    print(&report, args.format)
}
