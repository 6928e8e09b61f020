//! `latency-table`: measures the layers of a search's networks, for `latency.predict` of kind `layers`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_datasets::rng;
use serde::Serialize;
use tch::Device;

use super::latency::noise;
use crate::estimator::latency::latency_millis;
use crate::nn::layers::Layer;
use crate::nn::{autocast, build_on, channels_last, torch};
use crate::run::cli::{Compute, ComputeArgs, Format, count, print};
use crate::run::device::describe;
use crate::run::interrupt::{self, Interrupted};
use crate::run::progress::Progress;
use crate::run::run_dir::{open_to_append, write_atomic};
use crate::search::goals::{Constraint, Restricted};
use crate::search::layers::{LayerTable, Row, calibrate};
use crate::space::{Architecture, ChoiceSpace};
use crate::stats::kendall_tau;
use crate::task::experiment::{self, Experiment, Kind, OneShotExperiment, SearchExperiment};
use crate::task::latency::{Agreement, NetworkLayers};
use crate::task::searched::SearchedSpace;
use crate::task::supervised::new_network;
use crate::task::{Pass, Task};

/// Measure the layers of a search's networks on this device, from which its networks' latencies are predicted
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  PROGRAM latency-table --config search.toml --threads 1 --out layers.csv
  PROGRAM search --config search.toml --set 'latency.predict={kind=\"layers\",path=\"layers.csv\"}' \\
      --set 'constraints=[{metric=\"predicted_latency_millis\",upper=40}]' --out runs/search

Random networks that keep the search's bounds of parameters and multiply-adds are drawn, every layer that they have is timed once, and a
part of the networks is timed as a whole: one half gives what sums of layers leave out, the other says how good predictions are.")]
pub struct LatencyTableArgs {
    /// Experiment of kind search or one_shot, with data
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Replace a key of the experiment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// CSV file to write; FILE.part holds what is measured until all is
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Go on with the layers of FILE.part
    #[arg(long)]
    resume: bool,
    /// Random networks whose layers are measured
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = count(1, 10_000_000))]
    sample: usize,
    /// Layers to measure at most, those of most networks first; a search takes others from the most similar ones
    #[arg(long, default_value_t = 3000, value_name = "N", value_parser = count(1, 10_000_000))]
    layers: usize,
    /// Networks to time as a whole
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = count(4, 100_000))]
    networks: usize,
    /// Timed runs of a layer or network, after three that are not
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = count(1, 100_000))]
    runs: usize,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where and how to compute
    #[command(flatten)]
    compute: ComputeArgs,
    /// How to print what was measured
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What the command prints.
#[derive(Debug, Serialize)]
struct LatencyTableReport {
    /// The file.
    out: PathBuf,
    /// Layers that were measured.
    measured: usize,
    /// Layers that the random networks have.
    layers: usize,
    /// Milliseconds that every network takes beside its layers.
    fixed_millis: f64,
    /// Times of layers in a network, as multiples of theirs alone.
    factor: f64,
    /// Predictions against measurements of the networks that the table was not fitted to.
    agreement: Option<Agreement>,
    /// Kendall's tau of their multiply-adds and measurements, for comparison.
    kendall_of_macs: f64,
    /// Their `[predicted, measured]` milliseconds.
    checked: Vec<(f64, f64)>,
    /// Runtime, device, threads and precision.
    place: String,
    secs: f64,
}

impl fmt::Display for LatencyTableReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { out, measured, layers, fixed_millis, factor, place, secs, .. } = self;
        writeln!(f, "{measured} of {layers} layers measured, {place}, {secs:.0} s")?;
        writeln!(f, "in a network {factor:.2} times what they take alone, and {fixed_millis:.2} ms for the rest")?;
        if let Some(Agreement { networks, kendall, median_error }) = &self.agreement {
            let error = 100.0 * median_error;
            writeln!(
                f,
                "{networks} other networks: Kendall's tau {kendall:.3} (of multiply-adds {:.3}), median error {error:.1} %",
                self.kendall_of_macs
            )?;
        }
        write!(f, "{}", out.display())
    }
}

/// Networks of a search, and their layers.
struct Subject<T: Task> {
    constraints: Vec<Constraint>,
    layers: NetworkLayers<T>,
}

impl<T: Task> Subject<T> {
    fn open(args: &LatencyTableArgs) -> Result<Self> {
        let LatencyTableArgs { config, sets, .. } = args;
        let (space, model, setting, cost_size, constraints) = match experiment::kind_at(config, sets)? {
            Some(kind) if kind == OneShotExperiment::<T>::KIND => {
                let experiment: OneShotExperiment<T> = experiment::load(config, sets)?;
                let setting = experiment.setting();
                let OneShotExperiment { space, model, cost_size, constraints, .. } = experiment;
                let space = SearchedSpace::of_task(space);
                (space, model, setting, cost_size, constraints)
            }
            None | Some(Kind::Search) => {
                let experiment: SearchExperiment<T> = experiment::load(config, sets)?;
                let setting = experiment.setting()?;
                let SearchExperiment { space, model, cost_size, constraints, .. } = experiment;
                (space, model, setting, cost_size, constraints)
            }
            Some(kind) => bail!("{}: kind = {:?}; expected a search or a one_shot", config.display(), kind.name()),
        };
        Ok(Self { constraints, layers: NetworkLayers::new(space, model, &setting, cost_size)? })
    }

    /// `count` random architectures that keep the bounds of what an architecture alone decides.
    fn sample(&self, seed: u64, count: usize) -> Result<Vec<Architecture>> {
        let (choices, costs) = (self.layers.choices().context("space")?, self.layers.costs()?);
        let cost = |arch: &Architecture| costs(arch).unwrap_or_default();
        let restricted = Restricted::new(&*choices, &self.constraints, &cost)?;
        Ok((0..count as u64).map(|i| restricted.sample(&mut rng::stream(seed, "latency table", i))).collect())
    }

    /// Milliseconds of a whole network, its weights random.
    fn millis(&self, arch: &Architecture, runs: usize, compute: Compute) -> Result<f64> {
        let (_vs, net) = new_network::<T>(&self.layers.model(arch)?, self.layers.classes, 0, compute)?;
        let image = channels_last(&noise(self.layers.input.size()).to_device(compute.device));
        let pass = Pass::<T> { net: &net, mixture: None, compute };
        Ok(tch::no_grad(|| latency_millis(runs, || T::run_once(pass, &image))))
    }
}

/// Milliseconds of a layer.
fn layer_millis(layer: &Layer, runs: usize, compute: Compute) -> f64 {
    let (_vs, forward) = build_on(compute.device, |vb| layer.build(vb));
    let input = layer.input();
    let input = if input.dim() == 4 { channels_last(&input) } else { input }.to_device(compute.device);
    let run = || {
        let _ = autocast(compute.amp, || forward(&input));
        if let Device::Cuda(index) = compute.device {
            tch::Cuda::synchronize(index as i64);
        }
    };
    tch::no_grad(|| latency_millis(runs, run))
}

/// The layers of some networks, those of most networks first.
fn most_frequent(networks: &[Vec<Layer>]) -> Vec<Layer> {
    let mut counts: HashMap<Layer, usize> = HashMap::new();
    networks.iter().flatten().for_each(|layer| *counts.entry(*layer).or_default() += 1);
    let mut layers: Vec<(usize, Layer)> = counts.into_iter().map(|(layer, count)| (count, layer)).collect();
    layers.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.cmp(y)));
    layers.into_iter().map(|(_, layer)| layer).collect()
}

/// The layers that a run which was stopped has measured on the device `of`, which the first line says. A last line without its end counts
/// for nothing.
fn read_part(part: &Path, of: &str) -> Result<HashMap<Layer, f64>> {
    let text = fs::read_to_string(part).with_context(|| part.display().to_string())?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let (first, whole) = whole.split_once('\n').unwrap_or((whole, ""));
    ensure!(first == of, "{}: measured on {first:?}; this is {of:?}", part.display());
    let read = |line: &str| -> Result<(Layer, f64)> {
        let (layer, millis) = line.split_once(',').context("no comma")?;
        Ok((layer.parse()?, millis.parse()?))
    };
    whole.lines().map(|line| read(line).with_context(|| format!("{}: {line:?}", part.display()))).collect()
}

/// Runs the command.
pub fn run<T: Task>(args: &LatencyTableArgs) -> Result<()> {
    let LatencyTableArgs { out, resume, runs, networks, .. } = args;
    let compute = args.compute.resolve()?;
    let started = Instant::now();
    let part = PathBuf::from(format!("{}.part", out.display()));
    let (device, runtime) = (describe(compute.device), format!("libtorch {}", torch::version()));
    let place = format!("{runtime}, {device}, {} threads, {}", compute.threads, compute.precision());
    let mut alone = match (part.exists(), resume) {
        (false, _) => HashMap::new(),
        (true, true) => read_part(&part, &place)?,
        (true, false) => bail!("{}: the layers of a run that was stopped; --resume goes on with them", part.display()),
    };
    let subject = Subject::<T>::open(args)?;
    // The first ones are timed as a whole.
    let archs = subject.sample(args.seed, args.sample.max(*networks))?;
    let of_each = archs.iter().map(|arch| subject.layers.of(arch)).collect::<Result<Vec<_>>>()?;
    let all = most_frequent(&of_each);
    ensure!(!all.is_empty(), "{}: its networks have no layers that are counted", args.config.display());
    let chosen = &all[..all.len().min(args.layers)];
    alone.retain(|layer, _| chosen.contains(layer));
    let lines: String = alone.iter().map(|(layer, millis)| format!("{layer},{millis}\n")).collect();
    write_atomic(&part, format!("{place}\n{lines}").as_bytes())?;
    let mut log = open_to_append(&part)?;
    let mut progress = Progress::new("latency-table", chosen.len() + networks, alone.len(), None)?;
    let stop = || if interrupt::requested() { Err(Interrupted) } else { Ok(()) };
    for layer in chosen {
        if let Entry::Vacant(open) = alone.entry(*layer) {
            stop()?;
            let millis = *open.insert(layer_millis(layer, *runs, compute));
            writeln!(log, "{layer},{millis}").with_context(|| part.display().to_string())?;
            progress.step(|| layer.to_string());
        }
    }
    let bare = LayerTable::new(0.0, alone.clone());
    let mut pairs = Vec::new();
    for (arch, layers) in archs.iter().zip(&of_each).take(*networks) {
        stop()?;
        pairs.push((bare.millis(layers), subject.millis(arch, *runs, compute)?));
        progress.step(|| "whole networks".into());
    }
    let fit = networks / 2;
    let (fitted, checked) = pairs.split_at(fit);
    let (fixed, factor) = calibrate(fitted);
    let checked: Vec<(f64, f64)> = checked.iter().map(|(sum, time)| (fixed + factor * sum, *time)).collect();
    let costs = subject.layers.costs()?;
    let macs: Vec<f64> = archs[fit..*networks].iter().map(|arch| Ok(costs(arch)?["macs"])).collect::<Result<_>>()?;
    let measured: Vec<f64> = checked.iter().map(|(_, time)| *time).collect();
    write_table(out, fixed, factor, chosen, &alone)?;
    fs::remove_file(&part).with_context(|| part.display().to_string())?;
    let report = LatencyTableReport {
        out: out.clone(),
        measured: chosen.len(),
        layers: all.len(),
        fixed_millis: fixed,
        factor,
        agreement: Agreement::of(&checked),
        kendall_of_macs: kendall_tau(&macs, &measured),
        checked,
        place,
        secs: started.elapsed().as_secs_f64(),
    };
    print(&report, args.format)
}

/// Writes the file that [`LayerTable::read`] reads.
fn write_table(out: &Path, fixed: f64, factor: f64, layers: &[Layer], alone: &HashMap<Layer, f64>) -> Result<()> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.serialize(Row { layer: String::new(), millis: fixed, alone: None })?;
    for layer in layers {
        let millis = alone[layer];
        csv.serialize(Row { layer: layer.to_string(), millis: factor * millis, alone: Some(millis) })?;
    }
    write_atomic(out, &csv.into_inner()?)
}
