//! `nas-classify bench-step`: time and memory of a search step on shared weights.

use std::rc::Rc;

use anyhow::Result;
use clap::Args;
use nas_core::nn::{Mode, Shape, build_on, channels_last};
use nas_core::one_shot::bench::{FixedBatch, measure};
use nas_core::one_shot::{DartsConfig, OneShotConfig, Problem};
use nas_core::optim::named_parameters;
use nas_core::run::cli::{ComputeArgs, Format, count, print};
use nas_core::space::{Mixture, WeightSharing};
use nas_core::train::At;
use tch::{Device, Kind, Tensor};

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
    #[arg(long, default_value_t = 8, value_parser = count(1, 1000))]
    layers: usize,
    /// Channels of a node in the first cell
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(i64).range(1..=65_536))]
    channels: i64,
    /// Images per step
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(i64).range(1..=65_536))]
    batch: i64,
    /// Side of the images in pixels
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(i64).range(8..=4096))]
    side: i64,
    /// Timed steps, after one that is not timed
    #[arg(long, default_value_t = 5, value_parser = count(1, 1_000_000))]
    steps: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// How to print the figures
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the command.
pub fn run(args: &BenchStepArgs) -> Result<()> {
    const NUM_CLASSES: i64 = 10;
    let BenchStepArgs { layers, channels, batch, side, steps, .. } = *args;
    let space = CellSpace { layers, channels, ..CellSpace::default() };
    space.check()?;
    let space: Rc<dyn WeightSharing> = Rc::new(space);
    let compute = args.compute.resolve()?;
    tch::manual_seed(0);
    let (weights, net) = build_on(compute.device, |vb| SearchNet::new(vb, &*space, NUM_CLASSES));
    let images = Tensor::randn([batch, 3, side, side], (Kind::Float, Device::Cpu));
    let images = channels_last(&images.to_device(compute.device));
    let labels = Tensor::randint(NUM_CLASSES, [batch], (Kind::Int64, Device::Cpu)).to_device(compute.device);
    let (amp, input) = (compute.amp, Shape::new(3, side, side));
    let problem = Problem { space, weights: named_parameters(&weights), input, latency: None, amp, seed: 0 };
    let config = DartsConfig { arch_start_epoch: 0, ..DartsConfig::default() };
    let mut method = OneShotConfig::Darts(config).build(problem)?;
    let loss = move |mixture: Mixture, mode: Mode| {
        let logits = nas_core::nn::autocast(amp, || net.forward(&images, mixture, mode));
        cross_entropy(&logits, &labels, None, 0.0)
    };
    let mut on_batch = FixedBatch { images: batch as usize, loss: Box::new(loss) };
    let at = At { epoch: 0, step: 0, global_step: 0, total_steps: 1 };
    let report = measure(steps, batch, &weights, compute, || method.step(at, &mut on_batch).map(drop))?;
    print(&report, args.format)
}
