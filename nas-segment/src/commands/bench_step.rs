//! `nas-segment bench-step`: time and memory of a search step.

use std::rc::Rc;

use anyhow::Result;
use clap::Args;
use nas_core::nn::{Mode, Shape, build_on, channels_last};
use nas_core::one_shot::bench::{FixedBatch, measure};
use nas_core::one_shot::{DartsConfig, OneShot, OneShotConfig, Problem};
use nas_core::optim::named_parameters;
use nas_core::run::cli::{Compute, ComputeArgs, Format, count, print};
use nas_core::space::Mixture;
use nas_core::train::At;
use tch::{Kind, Tensor, nn::VarStore};

use crate::auto_deeplab::{AutoDeepLabSpace, SearchNet};
use crate::loss::cross_entropy;

/// Time and memory of one search step (weights and architecture) on random images
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment bench-step --layers 12 --blocks 5 --filters 8 --batch 2 --crop 65 --threads 1
  nas-segment bench-step --layers 12 --blocks 3 --filters 4 --batch 4 --crop 129 --threads 2")]
pub struct BenchStepArgs {
    /// Layers of the trellis
    #[arg(long, default_value_t = 12, value_parser = count(1, 1000))]
    layers: usize,
    /// Blocks of a cell
    #[arg(long, default_value_t = 5, value_parser = count(1, 100))]
    blocks: usize,
    /// Filter multiplier
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i64).range(1..=65_536))]
    filters: i64,
    /// Images per step
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(i64).range(1..=65_536))]
    batch: i64,
    /// Side of the square crop in pixels
    #[arg(long, default_value_t = 65, value_parser = clap::value_parser!(i64).range(1..=4096))]
    crop: i64,
    /// Timed steps, after one that is not timed
    #[arg(long, default_value_t = 3, value_parser = count(1, 1_000_000))]
    steps: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// How to print the figures
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const AT: At = At { epoch: 0, step: 0, global_step: 0, total_steps: 1 };

/// A search step on random images, the same ones for the same arguments on every device.
struct SearchStep {
    /// The supernet's weights.
    weights: VarStore,
    method: Box<dyn OneShot>,
    batch: FixedBatch,
}

impl SearchStep {
    /// A supernet of `space` with 19 classes on `batch` images of `crop` x `crop` pixels.
    fn new(space: &AutoDeepLabSpace, batch: i64, crop: i64, compute: Compute) -> Self {
        const NUM_CLASSES: i64 = 19;
        tch::manual_seed(0);
        let (weights, net) = build_on(compute.device, |vb| SearchNet::new(vb, space, NUM_CLASSES));
        let images = Tensor::randn([batch, 3, crop, crop], (Kind::Float, tch::Device::Cpu));
        let labels = Tensor::randint(NUM_CLASSES, [batch, crop, crop], (Kind::Int64, tch::Device::Cpu));
        let config = DartsConfig { arch_start_epoch: 0, ..DartsConfig::auto_deeplab() };
        let problem = Problem {
            space: Rc::new(space.clone()),
            weights: named_parameters(&weights),
            input: Shape::new(3, crop, crop),
            latency: None,
            amp: compute.amp,
            seed: 0,
        };
        let method = OneShotConfig::Darts(config).build(problem).expect("first-order DARTS serves the space");
        let images = channels_last(&images.to_device(compute.device));
        let labels = labels.to_device(compute.device);
        let loss = move |mixture: Mixture, mode: Mode| {
            let logits = nas_core::nn::autocast(compute.amp, || net.forward(&images, mixture, mode));
            cross_entropy(&logits, &labels, None)
        };
        Self { weights, method, batch: FixedBatch { images: batch as usize, loss: Box::new(loss) } }
    }
}

/// Runs the command.
pub fn run(args: &BenchStepArgs) -> Result<()> {
    let compute = args.compute.resolve()?;
    let space = AutoDeepLabSpace {
        layers: args.layers,
        blocks: args.blocks,
        filters: args.filters,
        ..AutoDeepLabSpace::default()
    };
    space.check()?;
    let SearchStep { weights, mut method, mut batch } = SearchStep::new(&space, args.batch, args.crop, compute);
    let report = measure(args.steps, args.batch, &weights, compute, || method.step(AT, &mut batch).map(drop))?;
    print(&report, args.format)
}
