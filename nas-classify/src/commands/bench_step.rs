//! `nas-classify bench-step`: time and memory of a search step on shared weights.

use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use nas_core::cli::{ComputeArgs, Format, print};
use nas_core::device::peak_memory_bytes;
use nas_core::nn::{Mode, Shape, VarBuilder, channels_last};
use nas_core::one_shot::{DartsConfig, Objective, OneShotConfig, Part, Problem};
use nas_core::optim::named_parameters;
use nas_core::space::{Mixture, WeightSharing};
use nas_core::train::{At, scalar};
use serde::Serialize;
use tch::{Kind, Tensor, nn::VarStore};

use crate::cells::CellSpace;
use crate::loss::cross_entropy;
use crate::search_net::SearchNet;

/// Time and memory of one step of first-order DARTS (weights and architecture) on random images
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify bench-step --threads 1
  nas-classify bench-step --layers 5 --channels 8 --batch 64 --threads 2")]
pub struct BenchStepArgs {
    /// Cells of the supernet
    #[arg(long, default_value_t = 8)]
    layers: usize,
    /// Channels of a node in the first cell
    #[arg(long, default_value_t = 16)]
    channels: i64,
    /// Images per step
    #[arg(long, default_value_t = 16)]
    batch: i64,
    /// Side of the images in pixels
    #[arg(long, default_value_t = 32)]
    side: i64,
    /// Timed steps, after one that is not timed
    #[arg(long, default_value_t = 5)]
    steps: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// How to print the figures
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct BenchStepReport {
    threads: usize,
    weight_params: usize,
    secs_per_step: f64,
    images_per_sec: f64,
    peak_memory_mib: Option<u64>,
}

impl fmt::Display for BenchStepReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { threads, weight_params, secs_per_step, images_per_sec, peak_memory_mib } = self;
        let millions = *weight_params as f64 / 1e6;
        write!(f, "{threads} threads, {millions:.2} M weights: {secs_per_step:.2} s per search step")?;
        write!(f, ", {images_per_sec:.1} images/s")?;
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
        cross_entropy(&logits, &self.labels, None, 0.0)
    }

    fn score(&self, part: Part, mixture: Mixture, at: At) -> Result<f64> {
        Ok(-scalar(&tch::no_grad(|| self.loss(part, mixture, at))))
    }
}

/// Runs the command.
pub fn run(args: &BenchStepArgs) -> Result<()> {
    const NUM_CLASSES: i64 = 10;
    let BenchStepArgs { layers, channels, batch, side, steps, .. } = *args;
    ensure!((1..=65_536).contains(&batch), "--batch {batch}: expected 1 to 65536");
    ensure!((8..=4096).contains(&side), "--side {side}: expected 8 to 4096");
    ensure!(steps > 0, "--steps 0: expected at least 1");
    let space = CellSpace { layers, channels, ..CellSpace::default() };
    space.check()?;
    let space: Rc<dyn WeightSharing> = Rc::new(space);
    let compute = args.compute.resolve()?;
    tch::manual_seed(0);
    let weights = VarStore::new(compute.device);
    let net = SearchNet::new(&VarBuilder::new(&weights), &*space, NUM_CLASSES);
    let images = channels_last(&Tensor::randn([batch, 3, side, side], (Kind::Float, compute.device)));
    let labels = Tensor::randint(NUM_CLASSES, [batch], (Kind::Int64, compute.device));
    let (amp, input) = (compute.amp, Shape::new(3, side, side));
    let problem = Problem { space, weights: named_parameters(&weights), input, amp, seed: 0 };
    let config = DartsConfig { arch_start_epoch: 0, ..DartsConfig::default() };
    let mut method = OneShotConfig::Darts(config).build(problem)?;
    let mut batch_of = RandomBatch { net, images, labels, amp };
    let mut step = || method.step(At { epoch: 0, step: 0, global_step: 0, total_steps: 1 }, &mut batch_of);
    step()?;
    let started = Instant::now();
    (0..steps).try_for_each(|_| step().map(drop))?;
    let secs_per_step = started.elapsed().as_secs_f64() / steps as f64;
    let report = BenchStepReport {
        threads: compute.threads,
        weight_params: weights.trainable_variables().iter().map(Tensor::numel).sum(),
        secs_per_step,
        images_per_sec: batch as f64 / secs_per_step,
        peak_memory_mib: peak_memory_bytes(compute.device).map(|bytes| bytes >> 20),
    };
    print(&report, args.format)
}
