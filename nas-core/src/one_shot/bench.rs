//! Time and memory of a search step, on random images that stay the same.

use std::fmt;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use tch::{Tensor, nn::VarStore};

use super::{Objective, Part};
use crate::nn::Mode;
use crate::run::cli::Compute;
use crate::run::device::{CardWork, peak_memory_bytes};
use crate::space::Mixture;
use crate::train::{At, scalar};

/// One batch that serves weights and architecture alike.
pub struct FixedBatch {
    /// Images of the batch.
    pub images: usize,
    /// The loss of a mixture on it.
    pub loss: Box<dyn Fn(Mixture, Mode) -> Tensor>,
}

impl Objective for FixedBatch {
    fn next(&mut self, _: Part) -> Result<usize> {
        Ok(self.images)
    }

    fn loss(&self, _: Part, mixture: Mixture, at: At) -> Tensor {
        (self.loss)(mixture, Mode::train(at.progress()))
    }

    fn score(&self, part: Part, mixture: Mixture, at: At) -> Result<f64> {
        Ok(-scalar(&tch::no_grad(|| self.loss(part, mixture, at))))
    }
}

/// What a `bench` of search steps prints.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Threads of libtorch.
    pub threads: usize,
    /// Weights of the supernet.
    pub weight_params: usize,
    /// Mean over the timed steps.
    pub secs_per_step: f64,
    /// Images per second, each counted once though weights and architecture both see it.
    pub images_per_sec: f64,
    /// Largest memory of the process, or on the device.
    pub peak_memory_mib: Option<u64>,
    /// What each of them asked of a simulated card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card_per_step: Option<CardWork>,
}

impl fmt::Display for StepReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { threads, weight_params, secs_per_step, images_per_sec, peak_memory_mib, card_per_step } = self;
        let millions = *weight_params as f64 / 1e6;
        write!(f, "{threads} threads, {millions:.2} M weights: {secs_per_step:.2} s per search step")?;
        write!(f, ", {images_per_sec:.2} images/s")?;
        peak_memory_mib.iter().try_for_each(|mib| write!(f, ", peak memory {mib} MiB"))?;
        card_per_step.iter().try_for_each(|CardWork { launches, syncs, to_device, to_host }| {
            write!(f, "\na step: {launches} launches, {syncs} synchronisations, {to_device} copies to the card, {to_host} back")
        })
    }
}

/// Times `steps` steps on batches of `batch` images, after one that is not timed. `weights` are the supernet's.
pub fn measure(
    steps: usize,
    batch: i64,
    weights: &VarStore,
    compute: Compute,
    mut step: impl FnMut() -> Result<()>,
) -> Result<StepReport> {
    ensure!(steps > 0, "--steps 0: expected at least 1");
    step()?;
    let (started, before) = (Instant::now(), CardWork::so_far());
    (0..steps).try_for_each(|_| step())?;
    let secs_per_step = started.elapsed().as_secs_f64() / steps as f64;
    Ok(StepReport {
        threads: compute.threads,
        weight_params: weights.trainable_variables().iter().map(Tensor::numel).sum(),
        secs_per_step,
        images_per_sec: batch as f64 / secs_per_step,
        peak_memory_mib: peak_memory_bytes(compute.device).map(|bytes| bytes >> 20),
        card_per_step: before.zip(CardWork::so_far()).map(|(before, now)| now.per_step(before, steps)),
    })
}
