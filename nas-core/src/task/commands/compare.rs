//! The `compare` commands: several models, one recipe, several seeds; a table.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nas_datasets::SampleSet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Kind, Tensor};

use crate::executor::trial_folder;
use crate::nn::{self, Cost, channels_last};
use crate::run::cli::{Compute, Format, RunArgs, count, run_in_folder};
use crate::run::config::{self, to_toml};
use crate::run::picture::{read_pngs, write_png};
use crate::run::plot::{self, Axis, Keep, Mark, Series};
use crate::run::run_dir::{
    RunDir, last_weights, pretty, read_json, read_result, require_distinct_seeds, require_names, write_atomic,
};
use crate::run::tensorboard::Events;
use crate::run::times;
use crate::search::log;
use crate::stats::{mean_and_deviation, paired_t_test};
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
    #[arg(long, value_name = "N", value_parser = count(1, 4096))]
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
    /// The models beside the mean of the random ones, where there are some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside_random: Vec<BesideRandom>,
    /// What searches cost that have found some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<SearchCost>,
    /// With what the numbers were made, and at which cost.
    #[serde(default)]
    pub made_with: String,
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

/// A model beside the random networks of a comparison, by the main metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BesideRandom {
    /// The model.
    pub name: String,
    /// Random networks.
    pub networks: usize,
    /// Their mean and deviation, each network's mean over the seeds; fractions.
    pub random: (f64, f64),
    /// 100 (m - r) / r of the means.
    pub relative_improvement: f64,
    /// t and p of Student's paired test over the seeds, against the mean of the random networks of each seed; none of one seed.
    pub paired_test: Option<(f64, f64)>,
}

impl fmt::Display for BesideRandom {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { name, networks, random: (mean, deviation), relative_improvement, paired_test } = self;
        write!(f, "{name}: {relative_improvement:+.1} % relative to {networks} random networks")?;
        write!(f, " ({:.2} ± {:.2})", 100.0 * mean, 100.0 * deviation)?;
        match paired_test {
            Some((t, p)) => write!(f, ", paired over the seeds t = {t:.2}, p = {p:.3}"),
            None => write!(f, ", one seed"),
        }
    }
}

/// The models that are not random beside those that are; none where none is.
fn beside_random(rows: &[Row], random: &[bool], metric: &str) -> Vec<BesideRandom> {
    let drawn: Vec<&Vec<f64>> =
        rows.iter().zip(random).filter(|(_, is)| **is).map(|(row, _)| &row.scores[metric]).collect();
    if drawn.is_empty() {
        return Vec::new();
    }
    let means: Vec<f64> = drawn.iter().map(|scores| mean_and_deviation(scores).0).collect();
    let random_of_all = mean_and_deviation(&means);
    let of_seed = |seed: usize| drawn.iter().map(|scores| scores[seed]).sum::<f64>() / drawn.len() as f64;
    let by_seed: Vec<f64> = (0..drawn[0].len()).map(of_seed).collect();
    let beside = |row: &Row| {
        let scores = &row.scores[metric];
        let improvement = mean_and_deviation(scores).0 / random_of_all.0 - 1.0;
        let test = (scores.len() > 1).then(|| paired_t_test(scores, &by_seed));
        BesideRandom {
            name: row.name.clone(),
            networks: drawn.len(),
            random: random_of_all,
            relative_improvement: 100.0 * improvement,
            paired_test: test.map(|(_, t, p)| (t, p)),
        }
    };
    rows.iter().zip(random).filter(|(_, is)| !**is).map(|(row, _)| beside(row)).collect()
}

/// What it cost to find a model and to train it once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchCost {
    /// The model.
    pub name: String,
    /// Seed of the search.
    pub seed: u64,
    /// Its trials, or candidates.
    pub trials: usize,
    /// Its seconds of work, over all workers.
    pub search_secs: f64,
    /// Mean seconds of a final training.
    pub train_secs: f64,
    /// Mean seconds of a training of the random networks, where there are some, or else of the models without a search.
    pub other_secs: Option<f64>,
}

impl fmt::Display for SearchCost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { name, seed, trials, search_secs, train_secs, other_secs } = self;
        let (search, training) = (search_secs / 3600.0, train_secs / 3600.0);
        write!(
            f,
            "{name}: search of seed {seed}, {trials} trials, {search:.2} hours; with a training {:.2}",
            search + training
        )?;
        other_secs.iter().try_for_each(|secs| {
            write!(f, ", the price of {:.1} trainings without one", (search_secs + train_secs) / secs)
        })
    }
}

/// What the searches cost that the models name.
fn search_costs<M>(models: &[NamedModel<M>], rows: &[Row]) -> Result<Vec<SearchCost>> {
    let mean_secs = |is: &dyn Fn(&NamedModel<M>) -> bool| {
        let secs: Vec<f64> =
            models.iter().zip(rows).filter(|(model, _)| is(model)).map(|(_, row)| row.train_secs).collect();
        (!secs.is_empty()).then(|| mean_and_deviation(&secs).0)
    };
    let other_secs = mean_secs(&|model| model.random).or_else(|| mean_secs(&|model| model.search.is_none()));
    let of = |model: &NamedModel<M>, row: &Row| {
        let Some(run) = &model.search else { return Ok(None) };
        let (seed, trials, search_secs) = search_cost(run).with_context(|| format!("{}: its search", model.name))?;
        let (name, train_secs) = (model.name.clone(), row.train_secs);
        Ok(Some(SearchCost { name, seed, trials, search_secs, train_secs, other_secs }))
    };
    models.iter().zip(rows).filter_map(|(model, row)| of(model, row).transpose()).collect()
}

/// Seed, trials and seconds of a search. Those of trials that train are added up, for several may run at a time.
fn search_cost(run: &Path) -> Result<(u64, usize, f64)> {
    let last = |folder: &Path| -> Result<f64> { Ok(times::last_secs(&times::read(folder)?)) };
    let config = config::read_table(&run.join("config.toml"), &[])?;
    let seed = config.get("seed").and_then(|seed| u64::try_from(seed.as_integer()?).ok()).unwrap_or_default();
    let (mut trials, mut secs) = (0, 0.0);
    // The second is of a search over a supernet.
    for part in [run.to_path_buf(), run.join("supernet_search")] {
        let log = part.join("trials.jsonl");
        let records = if log.exists() { log::read(&log)? } else { Vec::new() };
        let folder = |id| trial_folder(&part.join("trials"), id).join("train");
        let added = records.iter().map(|record| last(&folder(record.trial.id))).sum::<Result<f64>>()?;
        (trials, secs) = (trials + records.len(), secs + last(&part)?.max(added));
    }
    Ok((seed, trials, secs))
}

/// Commit, device, threads, seeds and the hours of all trainings, as a report ends with them.
fn made_with(dir: &RunDir, seeds: &[u64], rows: &[Row]) -> Result<String> {
    let meta: Value = read_json(&dir.path("meta.json"))?;
    let text = |key: &str| meta[key].as_str().unwrap_or("unknown").to_string();
    let hours = rows.iter().map(|row| row.train_secs * seeds.len() as f64).sum::<f64>() / 3600.0;
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    Ok(format!(
        "version {}, commit {}, libtorch {}, {}, {} threads; seeds {}; {hours:.2} hours of trainings",
        text("version"),
        text("commit"),
        nn::torch::version(),
        text("device"),
        meta["threads"],
        seeds.join(", "),
    ))
}

impl Comparison {
    /// What a page that shows the table ends with.
    pub fn footer(&self) -> String {
        let lines = std::iter::once(self.footnote.clone());
        let lines = lines.chain(self.beside_random.iter().map(ToString::to_string));
        let lines = lines.chain(self.searches.iter().map(ToString::to_string)).chain([self.made_with.clone()]);
        lines.collect::<Vec<_>>().join("\n")
    }

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
        write!(f, "{}\n{}\neverything is in {}", self.table(false), self.footer(), self.run)
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
        compare(dir, &experiment, &Children { compute, threads, workers, tensorboard: args.run.tensorboard }, compute)
    })
}

fn compare<T: Task>(
    dir: &RunDir,
    experiment: &CompareExperiment<T>,
    children: &Children,
    compute: Compute,
) -> Result<Comparison> {
    let setting = experiment.setting();
    let (_, val) = setting.open_both_sound()?;
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
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let random: Vec<bool> = models.iter().map(|model| model.random).collect();
    draw_front(&dir.path("front.svg"), &rows, T::METRICS[0])?;
    let comparison = Comparison {
        beside_random: beside_random(&rows, &random, main),
        searches: search_costs(models, &rows)?,
        made_with: made_with(dir, seeds, &rows)?,
        metrics: T::METRICS.iter().map(|(key, name)| (key.to_string(), name.to_string())).collect(),
        rows,
        footnote: format!("multiply-adds and images/s (batch 1{}) at {}x{}", T::SPEED_INCLUDES, input.h, input.w),
        run: dir.root().display().to_string(),
    };
    let nets: Vec<Pass<T>> = trained.iter().map(|(_, net)| Pass { net, mixture: None, compute }).collect();
    let count = (*pictures).min(val.len());
    for index in (0..count).map(|i| i * val.len() / count) {
        if let Some(sheet) = T::sheet(&nets, &setting, &val, index)? {
            write_png(&dir.path(&format!("pictures/{}.png", val.sample_name(index))), &sheet)?;
        }
    }
    if let Some(board) = dir.tensorboard() {
        let mut events = Events::create(&board, None)?;
        for (name, png) in read_pngs(&dir.path("pictures"))? {
            events.image(0, &name, png)?;
        }
    }
    write_atomic(&dir.path("table.txt"), format!("{comparison}\n").as_bytes())?;
    let page = format!("{}\n{}\n", comparison.table(true), comparison.footer().replace('\n', "  \n"));
    write_atomic(&dir.path("table.md"), page.as_bytes())?;
    write_atomic(&dir.path("table.json"), pretty(&comparison).as_bytes())?;
    dir.finish(&comparison)?;
    Ok(comparison)
}

/// The main metric over multiply-adds, every model's mean and its seeds.
fn draw_front(path: &Path, rows: &[Row], (key, name): (&str, &str)) -> Result<()> {
    let points = |row: &Row| {
        let macs = row.cost.macs as f64 / 1e6;
        row.scores[key].iter().map(|score| (macs, 100.0 * score)).collect()
    };
    let series: Vec<Series> = rows.iter().map(|row| Series::new(row.name.clone(), points(row))).collect();
    let marked: Vec<(Mark, &Series)> = series.iter().map(|series| (Mark::Dots, series)).collect();
    let score = format!("{name} %");
    let axes = (Axis::all("million multiply-adds"), Axis { name: &score, keep: Keep::High });
    plot::chart(path, &format!("{name} over multiply-adds"), axes, &marked)
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
    fn a_model_stands_beside_the_mean_of_the_random_networks() {
        let row = |name: &str, scores: [f64; 2]| Row {
            name: name.into(),
            cost: Cost { params: 1, macs: 1 },
            images_per_sec: 1.0,
            train_secs: 1.0,
            scores: BTreeMap::from([("miou".to_string(), scores.to_vec())]),
        };
        let rows = [row("found", [0.55, 0.56]), row("a", [0.48, 0.50]), row("b", [0.50, 0.54])];
        let [found] = &beside_random(&rows, &[false, true, true], "miou")[..] else { panic!() };
        // Means 0.49 and 0.52, their mean 0.505; by seed 0.49 and 0.52, differences 0.06 and 0.04.
        assert!((found.relative_improvement - 100.0 * (0.555 / 0.505 - 1.0)).abs() < 1e-9);
        assert!((found.random.1 - 0.03 / 2f64.sqrt()).abs() < 1e-12 && found.networks == 2);
        assert!((found.paired_test.unwrap().0 - 5.0).abs() < 1e-9);
        assert!(beside_random(&rows, &[false; 3], "miou").is_empty());
    }

    #[test]
    fn a_search_costs_what_its_trials_and_the_time_between_them_do() {
        let temp = tempfile::tempdir().unwrap();
        let (run, below) = (temp.path(), temp.path().join("trials/00000/train"));
        std::fs::create_dir_all(&below).unwrap();
        let write = |path: std::path::PathBuf, text: &str| std::fs::write(path, text).unwrap();
        write(run.join("config.toml"), "kind = 'search'\nseed = 7\n");
        write(run.join("trials.jsonl"), "{\"id\":0,\"arch\":\"1\",\"budget\":{},\"outcome\":{\"metrics\":{}}}\n");
        write(run.join("times.jsonl"), "{\"id\":0,\"secs\":10.0}\n");
        assert_eq!(search_cost(run).unwrap(), (7, 1, 10.0));
        // Two workers do two hours of work in one.
        write(below.join("times.jsonl"), "{\"id\":1,\"secs\":5.0}\n{\"id\":2,\"secs\":3600.0}\n");
        assert_eq!(search_cost(run).unwrap(), (7, 1, 3600.0));
        let cost = |name: &str, secs| Row {
            name: name.into(),
            cost: Cost { params: 1, macs: 1 },
            images_per_sec: 1.0,
            train_secs: secs,
            scores: BTreeMap::new(),
        };
        let model = |name: &str, search: Option<&Path>, random| NamedModel {
            name: name.into(),
            model: (),
            init: None,
            init_prefix: None,
            random,
            search: search.map(Path::to_path_buf),
        };
        let models = [model("found", Some(run), false), model("by hand", None, false), model("drawn", None, true)];
        let rows = [cost("found", 360.0), cost("by hand", 100.0), cost("drawn", 720.0)];
        let costs = search_costs(&models, &rows).unwrap();
        let text = "found: search of seed 7, 1 trials, 1.00 hours; with a training 1.10, the price of 5.5 trainings without one";
        assert_eq!(costs.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
        assert_eq!(search_costs(&models[..2], &rows[..2]).unwrap()[0].other_secs, Some(100.0));
    }

    #[test]
    fn a_row_shows_mean_and_sample_deviation() {
        let cost = Cost { params: 600_000, macs: 1_500_000_000 };
        let scores = BTreeMap::from([("miou".to_string(), vec![0.5, 0.6, 0.7])]);
        let row = Row { name: "x".into(), scores, cost, images_per_sec: 8.0, train_secs: 90.0 };
        let comparison = Comparison {
            metrics: vec![("miou".into(), "mIOU".into())],
            rows: vec![row],
            footnote: "at 360x480".into(),
            beside_random: Vec::new(),
            searches: Vec::new(),
            made_with: String::new(),
            run: "runs/x".into(),
        };
        let table = comparison.table(true);
        assert!(table.contains("| x     | 60.00 ± 10.00 |     3 | 0.600 M |       1.500 G |"), "{table}");
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["rows"][0]["miou"][2], 0.7);
        assert_eq!(serde_json::from_value::<Comparison>(json).unwrap(), comparison);
    }
}
