//! The time of an ONNX file in onnxruntime: a small script in the user's Python, which is given the image and the protocol.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use tch::Tensor;

use super::{LatencyArgs, NOISE, Subject, image_of, noise, of_run};
use crate::estimator::latency::{Protocol, Times};
use crate::executor::die_with_parent;
use crate::run::cli::warn;
use crate::run::device::{DeviceChoice, describe};
use crate::run::export::onnx::proto::{GraphProto, ModelProto, Side, ValueInfoProto};
use crate::run::export::onnx::read;
use crate::task::Task;

/// What times the file.
const SCRIPT: &str = include_str!("onnxruntime.py");

/// The exit code by which the script says that Python lacks a package.
const NO_PACKAGE: i32 = 3;

/// What the script prints.
#[derive(Deserialize)]
struct Timed {
    #[serde(flatten)]
    times: Times,
    version: String,
    threads: usize,
}

/// What a file says of its input and outputs.
struct Described {
    /// Height and width where they are not free.
    fixed: Option<(i64, i64)>,
    /// Sides are multiples of it.
    divisor: i64,
    outputs: Vec<String>,
}

impl Described {
    fn read(path: &Path) -> Result<Self> {
        let model = read(path)?;
        let graph = model.graph.as_ref().with_context(|| format!("{}: a model without a graph", path.display()))?;
        let input = images(graph).with_context(|| path.display().to_string())?;
        let side = |i: usize| match input.get(i).and_then(Option::as_ref) {
            Some(Side::Known(n)) => Some(*n),
            _ => None,
        };
        let names = graph.output.iter().filter_map(|output| output.name.clone());
        Ok(Self { fixed: side(2).zip(side(3)), divisor: divisor(&model), outputs: names.collect() })
    }
}

/// The sides of the one input, which takes images `[batch, 3, height, width]`.
fn images(graph: &GraphProto) -> Result<Vec<Option<Side>>> {
    // Before IR version 4 weights were inputs too.
    let is_weight = |input: &&ValueInfoProto| graph.initializer.iter().any(|weight| weight.name == input.name);
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|input| !is_weight(input)).collect();
    let [input] = inputs[..] else { bail!("{} inputs; expected one, of images", inputs.len()) };
    let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let sides =
        tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.iter().map(|side| side.value.clone()));
    let sides: Vec<Option<Side>> = sides.context("an input without a shape")?.collect();
    let takes = |i: usize, n: i64| !matches!(sides[i], Some(Side::Known(known)) if known != n);
    ensure!(
        sides.len() == 4 && takes(0, 1) && takes(1, 3),
        "an input of shape {sides:?}; expected images [1, 3, height, width]"
    );
    Ok(sides)
}

/// What this program's exports say of sizes.
fn divisor(model: &ModelProto) -> i64 {
    let entry = model.metadata_props.iter().find(|entry| entry.key.as_deref() == Some("size_divisor"));
    entry.and_then(|entry| entry.value.as_ref()?.parse().ok()).filter(|n| *n > 0).unwrap_or(1)
}

/// Times the file.
pub(super) fn measure<T: Task>(args: &LatencyArgs, protocol: &Protocol) -> Result<(Subject, Times)> {
    ensure!(args.weights.is_none(), "--weights is for runs; {} holds its own", args.network);
    let compute = match args.compute.device {
        // Few have the onnxruntime that computes on a card.
        DeviceChoice::Auto => {
            let mut cpu = args.compute.clone();
            cpu.device = DeviceChoice::Cpu;
            cpu.resolve()?
        }
        _ => args.compute.resolve()?,
    };
    ensure!(!compute.amp, "--amp, --bf16: {} computes in the precision that it was written in", args.network);
    let path = Path::new(&args.network);
    let about = Described::read(path)?;
    let (image, what) = image::<T>(args, &about)?;
    let size = image.size();
    let input = tempfile::NamedTempFile::new().context("a file for the image")?;
    let numbers = Vec::<f32>::try_from(image.contiguous().reshape([-1]))?;
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(input.path(), bytes).context("a file for the image")?;
    let card = match compute.device {
        tch::Device::Cuda(index) => Some(index),
        _ => None,
    };
    let settings = json!({
        "model": path, "input": input.path(), "shape": size, "threads": compute.threads, "card": card,
        "warm_up_secs": protocol.warm_up_secs, "least_warm_up_runs": Protocol::LEAST_WARM_UP_RUNS,
        "rounds": protocol.rounds, "runs_per_round": protocol.runs_per_round, "pause_secs": protocol.pause_secs,
    });
    let Timed { times, version, threads } = run_script(&python(args), &settings.to_string())?;
    ensure!(
        times.millis.len() == protocol.rounds && times.millis.iter().all(|r| r.len() == protocol.runs_per_round),
        "the script timed other runs than it was told to; this is a bug"
    );
    if about.outputs == ["scores", "boxes"] {
        warn(format!(
            "{}: doubles are not suppressed in this file, and what does that takes time too; `export --nms` has it in the file",
            args.network
        ));
    }
    let subject = Subject {
        network: args.network.clone(),
        weights: None,
        includes: format!("outputs {}", about.outputs.join(", ")),
        input: size,
        image: what.into(),
        runtime: format!("onnxruntime {version}"),
        device: describe(compute.device),
        threads,
        precision: "as in the file",
    };
    Ok((subject, times))
}

/// The image, padded below and to the right to a size that the file takes.
fn image<T: Task>(args: &LatencyArgs, about: &Described) -> Result<(Tensor, &'static str)> {
    let (image, what) = match (&args.like, args.size, about.fixed) {
        (Some(run), ..) => image_of(&of_run::<T>(run, &args.sets)?, None)?,
        (None, Some(size), _) => (noise(size), NOISE),
        (None, None, Some(size)) => (noise(size), NOISE),
        (None, None, None) => bail!("{}: it takes images of any size; expected --size HxW or --like RUN", args.network),
    };
    let size = image.size();
    if let Some((h, w)) = about.fixed {
        ensure!(
            (size[2], size[3]) == (h, w),
            "{}: it takes images of {h}x{w}, not {}x{}",
            args.network,
            size[2],
            size[3]
        );
    }
    let more = |n: i64| (about.divisor - n % about.divisor) % about.divisor;
    Ok((image.constant_pad_nd([0, more(size[3]), 0, more(size[2])]), what))
}

/// The interpreter.
fn python(args: &LatencyArgs) -> PathBuf {
    let named = args.python.clone().or_else(|| std::env::var_os("NAS_PYTHON").map(PathBuf::from));
    named.unwrap_or_else(|| PathBuf::from("python3"))
}

fn run_script(python: &Path, settings: &str) -> Result<Timed> {
    const NAMED: &str = "--python PROGRAM or the variable NAS_PYTHON names another one";
    let name = python.display();
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT, settings]);
    die_with_parent(&mut command);
    let output =
        command.output().with_context(|| format!("cannot start {name}, the Python that has onnxruntime; {NAMED}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    if output.status.code() == Some(NO_PACKAGE) {
        bail!("{said}; `{name} -m pip install onnxruntime numpy` installs what is missing, and {NAMED}");
    }
    ensure!(output.status.success(), "{name} ended with {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{name}: what it printed"))
}
