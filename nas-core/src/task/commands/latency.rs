//! `latency`: how long a network takes for one image, by the protocol of docs/latency.md; in libtorch, or, of an ONNX file, in
//! onnxruntime.

mod onnx_file;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_datasets::Split;
use serde::Serialize;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::trained::{NetworkArgs, weights_of};
use crate::estimator::latency::{Latency, Protocol, Times};
use crate::nn::{channels_last, torch};
use crate::run::cli::{Compute, ComputeArgs, Format, count, parse_size, print};
use crate::run::device::describe;
use crate::run::interrupt::{self, Interrupted};
use crate::run::run_dir::{pretty, write_atomic};
use crate::task::experiment::{self, Experiment, TrainExperiment};
use crate::task::supervised::{new_network, trained_network};
use crate::task::{Pass, Task};

/// Measure how long a network takes for one image, by a protocol that others can repeat (docs/latency.md)
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  PROGRAM latency runs/derived --threads 1
  PROGRAM latency derived.onnx --like runs/derived --threads 1 --out derived_latency.json
  PROGRAM latency train.toml --size 512x1024 --format json")]
pub struct LatencyArgs {
    /// The network: the run folder of a training, timed in libtorch; an .onnx file, timed by onnxruntime in the Python that
    /// --python names; or a preset or an experiment file of kind train, whose weights are random
    #[arg(value_name = "RUN|FILE.onnx|NAME")]
    network: String,
    /// Of a run: a file of weights, or `last` for those of its last epoch [default: those of its best validation]
    #[arg(long, value_name = "FILE|last")]
    weights: Option<PathBuf>,
    /// Replace a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Height and width of the image, which is noise then [default: of a run those of its validation]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    size: Option<(i64, i64)>,
    /// Of an .onnx file: the run of a training whose image is taken
    #[arg(long, value_name = "RUN", conflicts_with = "size")]
    like: Option<PathBuf>,
    /// Seconds of runs that are not counted; at least three of them
    #[arg(long, default_value_t = 1.0, value_name = "SECS", value_parser = secs)]
    warm_up: f64,
    /// Rounds, with a pause before each
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = count(1, 10_000))]
    rounds: usize,
    /// Timed runs of a round
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = count(1, 1_000_000))]
    runs: usize,
    /// Seconds of a pause
    #[arg(long, default_value_t = 1.0, value_name = "SECS", value_parser = secs)]
    pause: f64,
    /// A Python with onnxruntime [default: what NAS_PYTHON names, or python3]
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Also write the JSON to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where and how to compute; an .onnx file on the CPU unless a card is named
    #[command(flatten)]
    compute: ComputeArgs,
    /// How to print the figures
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Seconds of the command line.
fn secs(text: &str) -> Result<f64, String> {
    let secs = text.parse().ok().filter(|secs| (0.0..=3600.0).contains(secs));
    secs.ok_or_else(|| "expected seconds, 0 to 3600".into())
}

/// What an image without content is called.
pub const NOISE: &str = "noise";

/// An image `[1, 3, H, W]` of normal noise, the same at every call.
pub fn noise((h, w): (i64, i64)) -> Tensor {
    tch::manual_seed(0);
    Tensor::randn([1, 3, h, w], (Kind::Float, Device::Cpu))
}

/// What is timed, and where.
#[derive(Debug, Serialize)]
struct Subject {
    /// As the command was given it.
    network: String,
    /// File of the weights; none where they are random, or in the network's own file.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    /// What a run ends with.
    includes: String,
    /// Shape of the image.
    input: Vec<i64>,
    /// What the image is.
    image: String,
    /// What computes, with its version.
    runtime: String,
    /// Model of the processor or card.
    device: String,
    /// Of the runtime.
    threads: usize,
    /// `float32`, or how it is mixed.
    precision: &'static str,
}

/// What the command prints.
#[derive(Debug, Serialize)]
struct LatencyReport {
    #[serde(flatten)]
    latency: Latency,
    #[serde(flatten)]
    subject: Subject,
    #[serde(flatten)]
    protocol: Protocol,
    clock: &'static str,
    /// Mean number of threads that wanted to run in the minute before; none where the system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    load_before: Option<f64>,
}

impl fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Latency { latency_millis, quartiles_millis: [q1, q3], range_millis: [least, most], .. } = self.latency;
        let Subject { network, includes, input, image, runtime, device, threads, precision, .. } = &self.subject;
        let Protocol { warm_up_secs, rounds, runs_per_round, pause_secs } = self.protocol;
        let size: Vec<String> = input.iter().map(ToString::to_string).collect();
        writeln!(
            f,
            "{network}: {} ms, quartiles {} to {} (fastest {}, slowest {}; {} runs)",
            digits(latency_millis),
            digits(q1),
            digits(q3),
            digits(least),
            digits(most),
            self.latency.runs
        )?;
        writeln!(f, "{runtime}, {device}, {threads} threads, {precision}")?;
        writeln!(f, "one image {} ({image}), {includes}", size.join("x"))?;
        let medians: Vec<String> = self.latency.rounds_millis.iter().map(|millis| digits(*millis)).collect();
        write!(
            f,
            "{rounds} rounds of {runs_per_round} runs, medians {} ms, {pause_secs} s of rest before each; warm-up {} runs \
             ({warm_up_secs} s at least); {}",
            medians.join(", "),
            self.latency.warm_up_runs,
            self.clock
        )?;
        // One thread that waits is this program or chance.
        if let Some(load) = self.load_before.filter(|load| *load >= 1.0) {
            write!(f, "\nload {load:.1} in the minute before: other programs took time, which shows in these numbers")?;
        }
        Ok(())
    }
}

/// Four digits, at least one after the point.
fn digits(millis: f64) -> String {
    let places = 3 - (millis.max(1e-3).log10().floor() as i32).clamp(-3, 2);
    format!("{millis:.*}", places as usize)
}

fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Runs the command.
pub fn run<T: Task>(args: &LatencyArgs) -> Result<()> {
    let protocol =
        Protocol { warm_up_secs: args.warm_up, rounds: args.rounds, runs_per_round: args.runs, pause_secs: args.pause };
    let load_before = load_average();
    let (subject, times) = match Path::new(&args.network).extension().is_some_and(|ending| ending == "onnx") {
        true => onnx_file::measure::<T>(args, &protocol)?,
        false => in_libtorch::<T>(args, &protocol)?,
    };
    let report =
        LatencyReport { latency: Latency::of(&times), subject, protocol, clock: "monotonic clock", load_before };
    if let Some(out) = &args.out {
        write_atomic(out, pretty(&report).as_bytes())?;
    }
    print(&report, args.format)
}

/// A network and the experiment that it is of.
struct Opened<T: Task> {
    experiment: TrainExperiment<T>,
    /// Holds the weights.
    _vs: VarStore,
    net: T::Net,
    /// Their file.
    weights: Option<PathBuf>,
}

impl<T: Task> Opened<T> {
    fn new(args: &LatencyArgs, compute: Compute) -> Result<Self> {
        let folder = Path::new(&args.network);
        let run = folder.is_dir().then(|| folder.to_path_buf());
        let model = run.is_none().then(|| args.network.clone());
        let network = NetworkArgs { run, model, weights: args.weights.clone(), sets: args.sets.clone() };
        let experiment: TrainExperiment<T> = match &network.run {
            Some(run) => of_run(run, &args.sets)?,
            None => network.experiment()?,
        };
        let (model, classes) = (&experiment.model, network.classes(&experiment)?.len());
        // Of a preset without a file they are random: they make no difference to the time.
        let trained = network.run.as_deref().map(|run| weights_of(run, args.weights.as_deref()));
        let weights = trained.or(network.weights);
        let (vs, net) = match &weights {
            Some(file) => trained_network::<T>(model, classes, file, compute)?,
            None => new_network::<T>(model, classes, experiment.seed, compute)?,
        };
        Ok(Self { _vs: vs, net, weights, experiment })
    }
}

/// The experiment of a training's run folder.
fn of_run<T: Task>(folder: &Path, sets: &[String]) -> Result<TrainExperiment<T>> {
    let config = folder.join("config.toml");
    ensure!(config.is_file(), "{}: no run folder (config.toml is missing)", folder.display());
    let found = experiment::kind_at(&config, sets)?;
    ensure!(
        found.is_none_or(|kind| kind == TrainExperiment::<T>::KIND),
        "{}: the run of a {found:?}; expected that of a training",
        folder.display()
    );
    experiment::load(&config, sets)
}

/// The image that an experiment's network is timed on, and what it is.
fn image_of<T: Task>(experiment: &TrainExperiment<T>, size: Option<(i64, i64)>) -> Result<(Tensor, &'static str)> {
    match size {
        Some(size) => Ok((noise(size), NOISE)),
        None => {
            let val =
                T::open(&experiment.data, Split::Val).context("the size of the images; --size HxW needs no data")?;
            T::timed_image(&experiment.setting(), &val)
        }
    }
}

fn in_libtorch<T: Task>(args: &LatencyArgs, protocol: &Protocol) -> Result<(Subject, Times)> {
    for (flag, given) in [("--like", args.like.is_some()), ("--python", args.python.is_some())] {
        ensure!(!given, "{flag} is for .onnx files; {} is timed in libtorch", args.network);
    }
    let compute = args.compute.resolve()?;
    let Opened { experiment, _vs, net, weights } = Opened::<T>::new(args, compute)?;
    let (image, what) = image_of(&experiment, args.size)?;
    let image = channels_last(&image.to_device(compute.device));
    let size = image.size();
    T::cost(&net, crate::nn::Shape::new(3, size[2], size[3])).context("the size of the image")?;
    let pass = Pass::<T> { net: &net, mixture: None, compute };
    let times = protocol.measure(|| {
        if interrupt::requested() {
            bail!(Interrupted);
        }
        tch::no_grad(|| T::run_once(pass, &image));
        Ok(())
    })?;
    let subject = Subject {
        network: args.network.clone(),
        weights: weights.map(|file| file.display().to_string()),
        includes: format!("forward pass{}", T::SPEED_INCLUDES),
        input: size,
        image: what.into(),
        runtime: format!("libtorch {}", torch::version()),
        device: describe(compute.device),
        threads: compute.threads,
        precision: compute.precision(),
    };
    Ok((subject, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_four_digits() {
        let shown = [0.01234, 0.1234, 1.234_56, 12.3456, 123.456, 1_234.56].map(digits);
        assert_eq!(shown, ["0.01234", "0.1234", "1.235", "12.35", "123.5", "1234.6"]);
    }

    #[test]
    fn a_report_says_how_it_was_made() {
        let times = Times { warm_up_runs: 8, millis: vec![vec![1.0, 2.0], vec![3.0, 4.0]] };
        let subject = Subject {
            network: "runs/x".into(),
            weights: None,
            includes: "forward pass".into(),
            input: vec![1, 3, 8, 9],
            image: NOISE.into(),
            runtime: "libtorch 2".into(),
            device: "cpu (Abacus)".into(),
            threads: 2,
            precision: "float32",
        };
        let protocol = Protocol { warm_up_secs: 1.0, rounds: 2, runs_per_round: 2, pause_secs: 0.5 };
        let clock = "monotonic clock";
        let report = LatencyReport { latency: Latency::of(&times), subject, protocol, clock, load_before: Some(2.5) };
        let text = report.to_string();
        for part in [
            "runs/x: 2.500 ms, quartiles 1.750 to 3.250 (fastest 1.000, slowest 4.000; 4 runs)",
            "libtorch 2, cpu (Abacus), 2 threads, float32",
            "one image 1x3x8x9 (noise), forward pass",
            "2 rounds of 2 runs, medians 1.500, 3.500 ms, 0.5 s of rest before each; warm-up 8 runs (1 s at least)",
            "load 2.5",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((json["latency_millis"].as_f64(), json["pause_secs"].as_f64()), (Some(2.5), Some(0.5)));
    }
}
