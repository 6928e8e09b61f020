//! `nas-segment gpu-check`: does CUDA compute what the CPU computes?

use std::fmt;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use nas_core::optim::{Named, named_parameters};
use nas_core::run::cli::{Compute, Format, print};
use nas_core::run::device::{DeviceChoice, describe, peak_memory_bytes};
use serde::Serialize;
use tch::{Device, Kind};

use super::bench_step::SearchStep;
use crate::auto_deeplab::AutoDeepLabSpace;

/// Relative difference that f32 sums in another order explain (cuDNN's TF32 is off by default for matrix products and on
/// for convolutions, whose 10-bit mantissa sets this limit).
const TOLERANCE: f64 = 2e-2;

/// Prove the GPU path: a search step on CUDA equals the CPU's, a mixed-precision step is finite
#[derive(Clone, Debug, Args)]
pub struct GpuCheckArgs {
    /// CUDA device
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct GpuReport {
    device: String,
    loss_cpu: Option<f64>,
    loss_cuda: Option<f64>,
    weights_difference: Option<f64>,
    arch_difference: Option<f64>,
    amp_loss: Option<f64>,
    images_per_sec: Option<f64>,
    peak_memory_mib: Option<u64>,
}

impl fmt::Display for GpuReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Some(loss_cuda) = self.loss_cuda else {
            return write!(f, "no CUDA device on this machine: nothing was checked");
        };
        let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
        writeln!(f, "{}", self.device)?;
        writeln!(f, "loss: CPU {:.6}, CUDA {loss_cuda:.6}", number(self.loss_cpu))?;
        writeln!(f, "update after one search step, relative difference (limit {TOLERANCE}):")?;
        writeln!(f, "  weights {:.2e}, arch {:.2e}", number(self.weights_difference), number(self.arch_difference))?;
        writeln!(f, "mixed precision: loss {:.6}", number(self.amp_loss))?;
        write!(f, "{:.1} images/s", number(self.images_per_sec))?;
        self.peak_memory_mib.iter().try_for_each(|mib| write!(f, ", peak memory {mib} MiB"))
    }
}

/// Runs the command. Without a GPU it says so and succeeds.
pub fn run(args: &GpuCheckArgs) -> Result<()> {
    let device = args.device.resolve()?;
    let report = if device.is_cuda() { check(device)? } else { nothing(device) };
    print(&report, args.format)
}

fn nothing(device: Device) -> GpuReport {
    GpuReport {
        device: describe(device),
        loss_cpu: None,
        loss_cuda: None,
        weights_difference: None,
        arch_difference: None,
        amp_loss: None,
        images_per_sec: None,
        peak_memory_mib: None,
    }
}

fn check(device: Device) -> Result<GpuReport> {
    let space = AutoDeepLabSpace { layers: 4, blocks: 2, filters: 4, ..AutoDeepLabSpace::default() };
    let on = |device, amp| SearchStep::new(&space, 2, 65, Compute { device, threads: 1, amp });
    let (cpu, mut cuda) = (first_step(on(Device::Cpu, false))?, first_step(on(device, false))?);
    let [weights_difference, arch_difference] =
        [0, 1].map(|i| distance(&cuda.after[i], &cpu.after[i]) / distance(&cpu.after[i], &cpu.before[i]));
    let (loss_cpu, loss_cuda) = (cpu.loss, cuda.loss);
    let amp_loss = first_step(on(device, true))?.loss;
    let started = Instant::now();
    const STEPS: usize = 10;
    for _ in 0..STEPS {
        cuda.search.step()?;
    }
    let report = GpuReport {
        device: describe(device),
        loss_cpu: Some(loss_cpu),
        loss_cuda: Some(loss_cuda),
        weights_difference: Some(weights_difference),
        arch_difference: Some(arch_difference),
        amp_loss: Some(amp_loss),
        images_per_sec: Some(2.0 * STEPS as f64 / started.elapsed().as_secs_f64()),
        peak_memory_mib: peak_memory_bytes(device).map(|bytes| bytes >> 20),
    };
    let loss_difference = (loss_cuda - loss_cpu).abs() / loss_cpu;
    let worst = [loss_difference, weights_difference, arch_difference].into_iter().fold(0.0, f64::max);
    if worst.is_nan() || worst > TOLERANCE || !amp_loss.is_finite() {
        bail!("CUDA and CPU disagree:\n{report}");
    }
    Ok(report)
}

/// A search after its first step, with its weights and architecture parameters before and after.
struct FirstStep {
    search: SearchStep,
    loss: f64,
    before: [Vec<Named>; 2],
    after: [Vec<Named>; 2],
}

fn first_step(mut search: SearchStep) -> Result<FirstStep> {
    let before = snapshots(&search);
    let loss = search.step()?;
    let after = snapshots(&search);
    Ok(FirstStep { search, loss, before, after })
}

fn snapshots(search: &SearchStep) -> [Vec<Named>; 2] {
    let copy = |(name, tensor): Named| (name, tensor.detach().to_device(Device::Cpu).copy());
    [named_parameters(&search.weights), search.arch()].map(|tensors| tensors.into_iter().map(copy).collect())
}

/// Euclidean distance of two lists of tensors.
fn distance(a: &[Named], b: &[Named]) -> f64 {
    let square = |((_, a), (_, b)): (&Named, &Named)| (a - b).square().sum(Kind::Double).double_value(&[]);
    a.iter().zip(b).map(square).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    #[test]
    fn distance_is_euclidean_over_all_tensors() {
        let list = |x: f32, y: f32| vec![("x".into(), Tensor::from(x)), ("y".into(), Tensor::from(y))];
        assert!((distance(&list(3.0, 0.0), &list(0.0, 4.0)) - 5.0).abs() < 1e-9);
    }
}
