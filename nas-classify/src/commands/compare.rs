//! `nas-classify compare`: several models, one recipe, several seeds; a table.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nas_core::cli::{Compute, Format, RunArgs, open_run, print};
use nas_core::compare::{Children, Training, run_folder, table};
use nas_core::config::to_toml;
use nas_core::run_dir::{RunDir, pretty, read_result, write_atomic};
use nas_core::space::Cost;
use nas_core::stats::mean_and_deviation;
use nas_datasets::Split;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::eval::Trained;
use super::require_sound;
use super::train::TrainResult;
use crate::evaluation::logits;
use crate::train_experiment::{self, CompareExperiment, NamedModel};

/// Train several models by one recipe on several seeds and compare them
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-classify compare --config configs/classify/cifar10_compare.toml --out runs/cifar10 --resume")]
pub struct CompareArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Trainings side by side [default: one per core on the CPU, 1 on CUDA]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How to print the table
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Models compared on one recipe; `result.json` of a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// One row per model.
    pub rows: Vec<Row>,
    /// The run folder.
    pub run: String,
}

/// One model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The model's name.
    pub name: String,
    /// Top-1 accuracy of each seed, a fraction.
    pub top1: Vec<f64>,
    /// Top-5 accuracy of each seed, a fraction.
    pub top5: Vec<f64>,
    /// Parameters, and multiply-adds at the size of the training images.
    pub cost: Cost,
    /// Images per second of the forward pass at batch 1.
    pub images_per_sec: f64,
    /// Mean seconds of a training's optimisation steps.
    pub train_secs: f64,
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let percent = |values: &[f64]| {
            let (mean, deviation) = mean_and_deviation(values);
            format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * deviation)
        };
        vec![
            self.name.clone(),
            percent(&self.top1),
            percent(&self.top5),
            self.top1.len().to_string(),
            format!("{:.3} M", self.cost.params as f64 / 1e6),
            format!("{:.2} M", self.cost.macs as f64 / 1e6),
            format!("{:.1}", self.images_per_sec),
            format!("{:.0}", self.train_secs),
        ]
    }
}

impl Comparison {
    fn table(&self, markdown: bool) -> String {
        let header = ["model", "top-1 %", "top-5 %", "seeds", "params", "multiply-adds", "images/s", "train s"];
        let header = header.map(String::from).to_vec();
        let rows: Vec<_> = std::iter::once(header).chain(self.rows.iter().map(Row::cells)).collect();
        table(&rows, markdown)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}\nimages/s at batch 1; everything is in {}", self.table(false), self.run)
    }
}

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<()> {
    let experiment: CompareExperiment = train_experiment::load(&args.run.config, &args.run.sets)?;
    let compute = args.run.compute.resolve()?;
    let trainings = experiment.models.len() * experiment.seeds.len();
    if trainings == 0 {
        bail!("{}: `models` and `seeds` must not be empty", args.run.config.display());
    }
    let dir = open_run(&args.run, None, &experiment, compute)?;
    let comparison = match dir.result()? {
        Some(comparison) => comparison,
        None => {
            let default = if compute.device.is_cuda() { 1 } else { compute.threads };
            let workers = args.workers.unwrap_or(default).clamp(1, trainings);
            let threads = (compute.threads / workers).max(1);
            compare(&dir, &experiment, &Children { compute: &args.run.compute, threads, workers }, compute)?
        }
    };
    print(&comparison, args.format)
}

fn compare(dir: &RunDir, experiment: &CompareExperiment, children: &Children, compute: Compute) -> Result<Comparison> {
    require_sound(&*experiment.data.open(Split::Train)?, "train")?;
    require_sound(&*experiment.data.open(Split::Val)?, "val")?;
    let mut trainings = Vec::new();
    for seed in &experiment.seeds {
        for model in &experiment.models {
            let training = experiment.training(model, *seed);
            training.check().with_context(|| model.name.clone())?;
            trainings.push(Training { name: run_name(model, *seed), config: to_toml(&training) });
        }
    }
    children.train_all(dir, trainings, |result| {
        let number = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
        format!("top-1 {:.4} in {:.0} s", number(&result["scores"]["top1"]), number(&result["train_secs"]))
    })?;
    let rows = experiment.models.iter().map(|model| row(dir, experiment, model, compute));
    let comparison = Comparison { rows: rows.collect::<Result<_>>()?, run: dir.root().display().to_string() };
    write_atomic(&dir.path("table.txt"), format!("{comparison}\n").as_bytes())?;
    write_atomic(&dir.path("table.md"), (comparison.table(true) + "\n").as_bytes())?;
    write_atomic(&dir.path("table.json"), pretty(&comparison).as_bytes())?;
    dir.finish(&comparison)?;
    Ok(comparison)
}

fn run_name(model: &NamedModel, seed: u64) -> String {
    format!("{}-s{seed}", model.name)
}

fn row(dir: &RunDir, experiment: &CompareExperiment, model: &NamedModel, compute: Compute) -> Result<Row> {
    let results = experiment.seeds.iter().map(|seed| {
        let folder = run_folder(dir, &run_name(model, *seed));
        let result: Option<TrainResult> = read_result(&folder)?;
        result.with_context(|| format!("{}: no result", folder.display()))
    });
    let results: Vec<TrainResult> = results.collect::<Result<_>>()?;
    let seed = experiment.seeds[0];
    let weights = run_folder(dir, &run_name(model, seed)).join("checkpoints/last.safetensors");
    let trained = Trained::load(experiment.training(model, seed), &weights, compute)?;
    Ok(Row {
        name: model.name.clone(),
        top1: results.iter().map(|result| result.scores.top1).collect(),
        top5: results.iter().map(|result| result.scores.top5).collect(),
        cost: results[0].cost,
        images_per_sec: inference_speed(&trained, compute),
        train_secs: results.iter().map(|result| result.train_secs).sum::<f64>() / results.len() as f64,
    })
}

/// Images per second of the forward pass at batch 1, after a warm-up.
fn inference_speed(trained: &Trained, compute: Compute) -> f64 {
    let size = trained.transform.size;
    let image = Tensor::zeros([1, 3, size.height().into(), size.width().into()], (Kind::Float, compute.device));
    // Reading a value waits for the device.
    let forward = || logits(&*trained.net, &image, compute).double_value(&[0, 0]);
    (0..3).for_each(|_| _ = forward());
    let started = Instant::now();
    let mut images = 0;
    while images < 10 || started.elapsed() < Duration::from_secs(1) {
        forward();
        images += 1;
    }
    f64::from(images) / started.elapsed().as_secs_f64()
}
