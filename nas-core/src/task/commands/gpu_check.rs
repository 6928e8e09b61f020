//! `gpu-check`: does a card compute what the CPU computes? A task gives cases; each is computed at equal parameters on both, in
//! single precision, with TF32, and in mixed precision, and losses, gradients and outputs are compared.

use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use nas_datasets::rng::stream;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::nn::{VarBuilder, build_on, ranks, torch};
use crate::optim::{GradScaler, Named, named_parameters};
use crate::run::cli::{Compute, Format, print};
use crate::run::device::{DeviceChoice, describe, peak_memory_bytes};
use crate::space::{Mixture, WeightSharing};
use crate::train::scalar;

/// Prove the GPU path: losses, gradients and outputs on a card are the CPU's
#[derive(Clone, Debug, Args)]
pub struct GpuCheckArgs {
    /// CUDA device
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// What a case gives, on the CPU.
#[derive(Debug)]
pub struct Computed {
    loss: f64,
    /// Gradients, or the outputs of an evaluation.
    tensors: Vec<Tensor>,
}

/// One computation that a card must repeat.
pub struct Case {
    name: &'static str,
    compute: Box<dyn Fn(Compute) -> Result<Computed>>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish()
    }
}

/// Names the seed of all that cases draw.
const SEED: u64 = 0;

fn built<N>(compute: Compute, build: &dyn Fn(&VarBuilder) -> Result<N>) -> Result<(Vec<Named>, N)> {
    tch::manual_seed(SEED as i64);
    let (vs, net) = build_on(compute.device, build);
    Ok((named_parameters(&vs), net?))
}

/// The gradients of `loss`, in mixed precision by scaled losses as in a training.
fn differentiated(loss: &Tensor, parameters: &[Named], amp: bool) -> Computed {
    let inputs: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).collect();
    let mut scaler = amp.then(GradScaler::default);
    let grads = loop {
        let scaled = scaler.as_mut().map_or_else(|| loss.shallow_clone(), |scaler| scaler.scale(loss));
        let grads = Tensor::run_backward(&[scaled], &inputs, true, false);
        let overflow = scaler.as_mut().map(|scaler| scaler.unscale(&grads));
        // Each overflow halves the scale.
        if overflow.is_none_or(|overflow| overflow.double_value(&[0]) == 0.0 || !scalar(loss).is_finite()) {
            break grads;
        }
    };
    let grads = grads.into_iter().filter(Tensor::defined).map(|grad| grad.to_device(Device::Cpu));
    Computed { loss: scalar(loss), tensors: grads.collect() }
}

/// A training step, called `name`: the gradients of the `loss` of a network.
pub fn step<N: 'static>(
    name: &'static str,
    build: impl Fn(&VarBuilder) -> Result<N> + 'static,
    loss: impl Fn(&N, Compute) -> Result<Tensor> + 'static,
) -> Case {
    let compute = move |compute| {
        let (parameters, net) = built(compute, &build)?;
        Ok(differentiated(&loss(&net, compute)?, &parameters, compute.amp))
    };
    Case { name, compute: Box::new(compute) }
}

/// An evaluation: the `outputs` of a network.
pub fn evaluation<N: 'static>(
    build: impl Fn(&VarBuilder) -> Result<N> + 'static,
    outputs: impl Fn(&N, Compute) -> Result<Vec<Tensor>> + 'static,
) -> Case {
    let compute = move |compute| {
        let (_, net) = built(compute, &build)?;
        let outputs = tch::no_grad(|| outputs(&net, compute))?;
        let tensors: Vec<Tensor> =
            outputs.iter().map(|output| output.to_kind(Kind::Float).to_device(Device::Cpu)).collect();
        Ok(Computed { loss: tensors.iter().map(|output| output.mean(Kind::Double).double_value(&[])).sum(), tensors })
    };
    Case { name: "evaluation", compute: Box::new(compute) }
}

/// Two steps of a search on shared weights: the gradients of the `loss` of a relaxed supernet by weights and architecture
/// parameters, and of one path by its weights.
pub fn supernet<N: 'static>(
    space: Rc<dyn WeightSharing>,
    build: impl Fn(&VarBuilder) -> Result<N> + 'static,
    loss: impl Fn(&N, Mixture, Compute) -> Result<Tensor> + 'static,
) -> [Case; 2] {
    let (build, loss) = (Rc::new(build), Rc::new(loss));
    let relaxed = {
        let (space, build, loss) = (space.clone(), build.clone(), loss.clone());
        move |compute: Compute| {
            let (mut parameters, net) = built(compute, &*build)?;
            let draw = |dims: &[i64]| Tensor::randn(dims, (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let raw: Vec<Tensor> = space.arch_parameters().iter().map(|p| draw(&p.dims)).collect();
            let weights = space.softmax(&raw).into_iter().map(|weights| weights.to_device(compute.device));
            let loss = loss(&net, Mixture::Weights(&weights.collect::<Vec<_>>()), compute)?;
            parameters.extend(raw.into_iter().map(|raw| (String::new(), raw)));
            Ok(differentiated(&loss, &parameters, compute.amp))
        }
    };
    let path = step(
        "path search",
        move |vb| build(vb),
        move |net, compute| loss(net, Mixture::Path(&space.sample(&mut stream(SEED, "path", 0))), compute),
    );
    [Case { name: "relaxed search", compute: Box::new(relaxed) }, path]
}

/// How a card rounds, with the relative differences from the CPU that this explains: of a loss, of all gradients or outputs
/// together. TF32 keeps 10 bits of a mantissa, as float16 does; a gradient passes dozens of layers and norms of small batches.
struct Precision {
    name: &'static str,
    tf32: bool,
    amp: bool,
    limits: [f64; 2],
}

const PRECISIONS: [Precision; 3] = [
    Precision { name: "single precision", tf32: false, amp: false, limits: [1e-4, 1e-2] },
    Precision { name: "TF32", tf32: true, amp: false, limits: [2e-2, 0.2] },
    Precision { name: "mixed precision", tf32: true, amp: true, limits: [5e-2, 0.4] },
];

#[derive(Serialize)]
struct Finding {
    case: &'static str,
    precision: &'static str,
    loss_cpu: f64,
    loss_card: f64,
    /// Norm of the difference of all gradients, or outputs, relative to the CPU's.
    difference: f64,
    millis: f64,
    /// What is wrong.
    problem: Option<String>,
}

#[derive(Serialize)]
struct GpuReport {
    device: String,
    findings: Vec<Finding>,
    peak_memory_mib: Option<u64>,
    /// Whether the gradients of several processes would go from card to card.
    nccl: Option<String>,
}

impl fmt::Display for GpuReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.findings.is_empty() {
            return write!(f, "no CUDA device on this machine: nothing was checked");
        }
        write!(f, "{}", self.device)?;
        self.peak_memory_mib.iter().try_for_each(|mib| write!(f, ", peak memory {mib} MiB"))?;
        for Finding { case, precision, loss_cpu, loss_card, difference, millis, problem } in &self.findings {
            write!(f, "\n{case}, {precision}: loss {loss_card:.6} (CPU {loss_cpu:.6}), difference {difference:.1e}")?;
            write!(f, ", {millis:.1} ms: {}", problem.as_deref().unwrap_or("right"))?;
        }
        self.nccl.iter().try_for_each(|nccl| write!(f, "\n{nccl}"))
    }
}

/// Runs the command with the cases of a task. Without a card it says so and succeeds.
pub fn run(args: &GpuCheckArgs, cases: impl FnOnce() -> Result<Vec<Case>>) -> Result<()> {
    let device = args.device.resolve()?;
    let mut report = GpuReport { device: describe(device), findings: Vec::new(), peak_memory_mib: None, nccl: None };
    torch::plain_norms();
    if let Device::Cuda(card) = device {
        report.nccl = Some(match ranks::check_nccl(card) {
            Ok(version) => format!("NCCL {version}: gradients of several processes go from card to card"),
            Err(error) => format!("gradients of several processes would go through the host's memory: {error:#}"),
        });
        for case in cases()? {
            report.findings.extend(check(&case, device)?);
        }
        report.peak_memory_mib = peak_memory_bytes(device).map(|bytes| bytes >> 20);
        if report.findings.iter().any(|finding| finding.problem.is_some()) {
            bail!("the card does not compute what the CPU computes:\n{report}");
        }
    }
    print(&report, args.format)
}

fn check(case: &Case, device: Device) -> Result<Vec<Finding>> {
    let on = |device, amp| (case.compute)(Compute { device, threads: 1, amp });
    let cpu = on(Device::Cpu, false)?;
    let find = |precision: &Precision| {
        torch::set_tf32(precision.tf32);
        // The first pass loads kernels.
        on(device, precision.amp)?;
        let started = Instant::now();
        let card = on(device, precision.amp)?;
        let millis = started.elapsed().as_secs_f64() * 1e3;
        let difference = distance(&card.tensors, &cpu.tensors);
        Ok(Finding {
            case: case.name,
            precision: precision.name,
            loss_cpu: cpu.loss,
            loss_card: card.loss,
            difference,
            millis,
            problem: problem(precision, relative(card.loss, cpu.loss), difference),
        })
    };
    PRECISIONS.iter().map(find).collect()
}

fn relative(found: f64, expected: f64) -> f64 {
    (found - expected).abs() / expected.abs().max(1e-6)
}

/// What is wrong, in words.
fn problem(precision: &Precision, loss: f64, difference: f64) -> Option<String> {
    let [loss_limit, limit] = precision.limits;
    let cause = match precision {
        Precision { amp: true, .. } => "more than half precision explains",
        Precision { tf32: true, .. } => "more than TF32 explains",
        _ => "the card or one of its libraries computes something else",
    };
    if !loss.is_finite() || !difference.is_finite() {
        return Some("WRONG: a loss, gradient or output is no finite number".to_string());
    }
    if loss > loss_limit {
        return Some(format!("WRONG: the loss differs by {loss:.1e} of its value (limit {loss_limit:.0e}), {cause}"));
    }
    let text =
        || format!("WRONG: gradients or outputs differ by {difference:.1e} of their norm (limit {limit:.0e}), {cause}");
    (difference > limit).then(text)
}

/// Euclidean distance of two lists of tensors, relative to the second's norm.
fn distance(found: &[Tensor], expected: &[Tensor]) -> f64 {
    let square = |tensor: Tensor| tensor.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    if found.len() != expected.len() {
        return f64::NAN;
    }
    let apart: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = expected.iter().map(|tensor| square(tensor.shallow_clone())).sum();
    (apart / norm.max(f64::MIN_POSITIVE)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_relative_over_all_tensors() {
        let list = |x: f32, y: f32| [Tensor::from(x), Tensor::from(y)];
        assert!((distance(&list(3.0, 0.0), &list(0.0, 4.0)) - 1.25).abs() < 1e-6);
        assert!(distance(&list(f32::NAN, 0.0), &list(0.0, 4.0)).is_nan());
        assert!(distance(&list(1.0, 1.0)[..1], &list(1.0, 1.0)).is_nan());
    }

    #[test]
    fn problems_are_said_in_words() {
        let [single, tf32, half] = &PRECISIONS;
        assert_eq!(problem(single, 1e-6, 1e-4), None);
        assert!(problem(single, 1e-3, 1e-4).unwrap().contains("the loss differs by 1.0e-3"));
        assert_eq!(problem(tf32, 1e-3, 0.05), None);
        assert!(problem(tf32, 1e-3, 0.5).unwrap().contains("more than TF32 explains"));
        assert!(problem(half, f64::NAN, 0.0).unwrap().contains("no finite number"));
    }
}
