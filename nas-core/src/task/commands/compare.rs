//! The `compare` commands: several models, one recipe, several seeds; a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nas_datasets::Split;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::nn::{Cost, channels_last};
use crate::run::cli::{Compute, Format, RunArgs, run_in_folder};
use crate::run::config::to_toml;
use crate::run::run_dir::{
    RunDir, last_weights, pretty, read_result, require_distinct_seeds, require_names, write_atomic,
};
use crate::stats::mean_and_deviation;
use crate::task::commands::cost::MacsUnit;
use crate::task::commands::trainings::{Children, Training, run_folder, table};
use crate::task::experiment::{self, CompareExperiment, Experiment, NamedModel};
use crate::task::supervised::trained_network;
use crate::task::{Pass, Task};

/// Train several models by one recipe on several seeds and compare them
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Experiment, run folder and device
    #[command(flatten)]
    pub run: RunArgs,
    /// Trainings side by side [default: one per core on the CPU, 1 on CUDA]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How to print the table
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Models compared on one recipe; `result.json` of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Keys of the metrics in the rows, and their names.
    pub metrics: Vec<(String, String)>,
    /// One row per model.
    pub rows: Vec<Row>,
    /// What the numbers hold for.
    pub footnote: String,
    /// The run folder.
    pub run: String,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The model's name.
    pub name: String,
    /// Parameters and multiply-adds.
    pub cost: Cost,
    /// Images per second of the forward pass at batch 1.
    pub images_per_sec: f64,
    /// Mean seconds of a training's optimisation steps.
    pub train_secs: f64,
    /// Each metric of each seed, a fraction.
    #[serde(flatten)]
    pub scores: BTreeMap<String, Vec<f64>>,
}

impl Comparison {
    /// The table, for people or as Markdown.
    pub fn table(&self, markdown: bool) -> String {
        let unit = MacsUnit::of(self.rows.iter().map(|row| row.cost.macs));
        let metrics = self.metrics.iter().map(|(_, name)| format!("{name} %"));
        let rest = ["seeds", "params", "multiply-adds", "images/s", "train s"].map(String::from);
        let header = std::iter::once("model".to_string()).chain(metrics).chain(rest).collect();
        let rows = self.rows.iter().map(|row| row.cells(&self.metrics, unit));
        table(&std::iter::once(header).chain(rows).collect::<Vec<_>>(), markdown)
    }
}

impl Row {
    fn cells(&self, metrics: &[(String, String)], unit: MacsUnit) -> Vec<String> {
        let percent = |(key, _): &(String, String)| {
            let (mean, deviation) = mean_and_deviation(&self.scores[key]);
            format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * deviation)
        };
        let seeds = self.scores.values().next().map_or(0, Vec::len);
        let rest = [
            seeds.to_string(),
            format!("{:.3} M", self.cost.params as f64 / 1e6),
            unit.text(self.cost.macs),
            format!("{:.1}", self.images_per_sec),
            format!("{:.0}", self.train_secs),
        ];
        std::iter::once(self.name.clone()).chain(metrics.iter().map(percent)).chain(rest).collect()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}\n{}; everything is in {}", self.table(false), self.footnote, self.run)
    }
}

/// Runs the command.
pub fn run<T: Task>(args: &CompareArgs) -> Result<()> {
    let experiment: CompareExperiment<T> = experiment::load(&args.run.config, &args.run.sets)?;
    require_names("the model", experiment.models.iter().map(|model| &*model.name))?;
    require_distinct_seeds(&experiment.seeds)?;
    let trainings = experiment.models.len() * experiment.seeds.len();
    let compute = args.run.compute.resolve()?;
    run_in_folder(&args.run, compute, None, (&experiment, None), args.format, |dir| {
        let default = if compute.device.is_cuda() { 1 } else { compute.threads };
        let workers = args.workers.unwrap_or(default).clamp(1, trainings);
        let threads = (compute.threads / workers).max(1);
        compare(dir, &experiment, &Children { compute, threads, workers }, compute)
    })
}

fn compare<T: Task>(
    dir: &RunDir,
    experiment: &CompareExperiment<T>,
    children: &Children,
    compute: Compute,
) -> Result<Comparison> {
    let setting = experiment.setting();
    setting.open_sound(Split::Train)?;
    let val = setting.open_sound(Split::Val)?;
    let CompareExperiment { seeds, models, pictures, .. } = experiment;
    let mut trainings = Vec::new();
    for seed in seeds {
        for (i, model) in models.iter().enumerate() {
            let training = experiment.training_of(i, *seed);
            training.check().with_context(|| model.name.clone())?;
            trainings.push(Training { name: run_name(&model.name, *seed), config: to_toml(&training) });
        }
    }
    let (main, heading) = T::METRICS[0];
    children.train_all(dir, trainings, |result| {
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        format!("{heading} {:.4} in {:.0} s", number(&result["scores"][main]), number(&result["train_secs"]))
    })?;
    let load = |model: &NamedModel<T::Model>| {
        let run = run_folder(dir, &run_name(&model.name, seeds[0]));
        trained_network::<T>(&model.model, T::classes(&val).len(), &last_weights(&run), compute)
    };
    let trained = models.iter().map(load).collect::<Result<Vec<(VarStore, T::Net)>>>()?;
    let input = T::eval_input(&setting, &val)?;
    let rows = models.iter().zip(&trained).map(|(model, (_, net))| {
        let image = channels_last(&Tensor::zeros([1, 3, input.h, input.w], (Kind::Float, compute.device)));
        let pass = Pass::<T> { net, mixture: None, compute };
        let speed = images_per_sec(|| tch::no_grad(|| T::run_once(pass, &image)));
        row(dir, &model.name, seeds, T::METRICS, T::cost(net, input)?, speed)
    });
    let comparison = Comparison {
        metrics: T::METRICS.iter().map(|(key, name)| (key.to_string(), name.to_string())).collect(),
        rows: rows.collect::<Result<_>>()?,
        footnote: format!("multiply-adds and images/s (batch 1{}) at {}x{}", T::SPEED_INCLUDES, input.h, input.w),
        run: dir.root().display().to_string(),
    };
    let nets: Vec<Pass<T>> = trained.iter().map(|(_, net)| Pass { net, mixture: None, compute }).collect();
    T::draw(dir, &nets, &setting, &val, *pictures)?;
    write_atomic(&dir.path("table.txt"), format!("{comparison}\n").as_bytes())?;
    write_atomic(&dir.path("table.md"), (comparison.table(true) + "\n").as_bytes())?;
    write_atomic(&dir.path("table.json"), pretty(&comparison).as_bytes())?;
    dir.finish(&comparison)?;
    Ok(comparison)
}

fn run_name(model: &str, seed: u64) -> String {
    format!("{model}-s{seed}")
}

fn row(
    dir: &RunDir,
    model: &str,
    seeds: &[u64],
    metrics: &[(&str, &str)],
    cost: Cost,
    images_per_sec: f64,
) -> Result<Row> {
    /// What is of interest of a training's `result.json`.
    #[derive(Deserialize)]
    struct Ended {
        scores: Value,
        train_secs: f64,
    }
    let mut scores: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut train_secs = 0.0;
    for seed in seeds {
        let folder = run_folder(dir, &run_name(model, *seed));
        let ended = read_result::<Ended>(&folder)?.with_context(|| format!("{}: no result", folder.display()))?;
        train_secs += ended.train_secs / seeds.len() as f64;
        for (key, _) in metrics {
            let score = ended.scores[*key].as_f64();
            let score = score.with_context(|| format!("{}: result.json has no scores.{key}", folder.display()))?;
            scores.entry(key.to_string()).or_default().push(score);
        }
    }
    Ok(Row { name: model.to_string(), cost, images_per_sec, train_secs, scores })
}

/// Images per second of `forward`, which takes one image and waits for its end.
fn images_per_sec(mut forward: impl FnMut()) -> f64 {
    (0..3).for_each(|_| forward());
    let started = Instant::now();
    let mut images = 0;
    while images < 10 || started.elapsed() < Duration::from_secs(1) {
        forward();
        images += 1;
    }
    f64::from(images) / started.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_mean_and_sample_deviation() {
        let cost = Cost { params: 600_000, macs: 1_500_000_000 };
        let scores = BTreeMap::from([("miou".to_string(), vec![0.5, 0.6, 0.7])]);
        let row = Row { name: "x".into(), scores, cost, images_per_sec: 8.0, train_secs: 90.0 };
        let comparison = Comparison {
            metrics: vec![("miou".into(), "mIOU".into())],
            rows: vec![row],
            footnote: "at 360x480".into(),
            run: "runs/x".into(),
        };
        let table = comparison.table(true);
        assert!(table.contains("| x     | 60.00 ± 10.00 |     3 | 0.600 M |       1.500 G |"), "{table}");
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["rows"][0]["miou"][2], 0.7);
        assert_eq!(serde_json::from_value::<Comparison>(json).unwrap(), comparison);
    }
}
