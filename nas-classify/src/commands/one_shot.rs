//! `nas-classify search` of an experiment with a section `one_shot`: a supernet, then an architecture.

use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use nas_core::estimator::honesty::HonestyReport;
use nas_core::executor::{InProcess, trial_folder};
use nas_core::nn::Cost;
use nas_core::nn::{Shape, VarBuilder};
use nas_core::one_shot::{Images, sizes};
use nas_core::run::cli::{Compute, RunArgs, run_in_folder};
use nas_core::run::config::to_toml;
use nas_core::run::plot::{self, Series};
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::{RunDir, write_atomic};
use nas_core::search::goals::{Goals, Restricted};
use nas_core::search::log::TrialStore;
use nas_core::search::{SearchLoop, Searcher};
use nas_core::space::Architecture;
use nas_core::space::trial::{Budget, Trial};
use nas_core::strategy::{RandomConfig, StrategyConfig};
use nas_core::train::{self, LoopConfig, Metrics, write_tensors};
use nas_datasets::Split;
use serde::{Deserialize, Serialize};

use super::search::{SearchArgs, report};
use crate::experiment::{Evaluator, HonestyConfig, Part};
use crate::one_shot::{OneShotExperiment, Retraining};
use crate::searching::{Searching, input};

/// `result.json` of a search on shared weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OneShotResult {
    /// Name of the method.
    pub method: String,
    /// The architecture, as configs and `--arch` take it.
    pub architecture: Architecture,
    /// In the literature's notation.
    pub notation: String,
    /// Cost of its network in the search's size, on one image of the search.
    #[serde(flatten)]
    pub cost: Cost,
    /// Accuracy by the supernet's weights on held-out training images, where candidates were compared by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supernet_acc: Option<f64>,
    /// Accuracy by the supernet's weights against what it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyReport>,
    /// Metrics of the supernet after the last epoch.
    pub metrics: Metrics,
    /// Seconds in search steps of the supernet's training.
    pub search_secs: f64,
    /// What trains the architecture.
    pub train: String,
    /// The run folder.
    pub run: String,
}

impl fmt::Display for OneShotResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Cost { params, macs } = self.cost;
        writeln!(f, "{}: architecture {}\n{}", self.method, self.architecture, self.notation)?;
        writeln!(f, "params {params}, macs {macs}")?;
        self.supernet_acc.iter().try_for_each(|acc| writeln!(f, "accuracy by the supernet {:.2} %", 100.0 * acc))?;
        writeln!(f, "supernet trained in {:.0} s", self.search_secs)?;
        self.honesty.iter().try_for_each(|report| writeln!(f, "{report}"))?;
        write!(f, "train it: {}\neverything is in {}", self.train, self.run)
    }
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> Result<()> {
    let RunArgs { config, sets, .. } = &args.run;
    let experiment = OneShotExperiment::load(config, sets)?;
    // Refused before anything is created.
    let space = experiment.space.build()?;
    experiment
        .one_shot
        .method
        .check(&*space, input(&experiment))
        .with_context(|| format!("{}: one_shot", config.display()))?;
    experiment.honesty().with_context(|| config.display().to_string())?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        search(dir, experiment.clone(), compute)
    })
}

fn search(dir: &RunDir, experiment: OneShotExperiment, compute: Compute) -> Result<OneShotResult> {
    let (epochs, seed) = (experiment.one_shot.epochs, experiment.seed);
    let num_classes = experiment.data.open(Split::Train)?.classes().len();
    let space = experiment.space.build()?;
    let of = |arch: &Architecture| sizes(cost(&experiment, num_classes, arch).expect("it is of the space"));
    let restricted = Restricted::new(&*space, &experiment.constraints, &of)?;
    let settings = LoopConfig::new(epochs, seed);
    let mut searching = Searching::new(experiment.clone(), compute)?;
    let summary = train::run(&mut searching, "search", dir, settings)?;
    let (architecture, supernet_acc) = match experiment.one_shot.method.second_stage() {
        None => (searching.derive().context("the method has found no architecture")?, None),
        Some(stage) => {
            let candidates = searching.evaluator(stage.recalibration_batches)?;
            let score = |arch: &Architecture, images| candidates.accuracy(arch, images);
            let best = stage.best_in_folder(dir, &restricted, seed, ACCURACY, score)?;
            let accuracy = best.metric(ACCURACY);
            (best.trial.arch, accuracy)
        }
    };
    let honesty = match experiment.honesty()? {
        Some((section, truth)) => Some(honesty(dir, &restricted, seed, section, &truth, &mut searching, compute)?),
        None => None,
    };
    let parameters = searching.arch_parameters();
    if !parameters.is_empty() {
        write_tensors(&dir.path("arch_parameters.safetensors"), parameters)?;
    }
    draw(dir)?;
    if let Some(drawing) = experiment.space.drawing(&architecture)? {
        write_atomic(&dir.path("cells.svg"), drawing.as_bytes())?;
    }
    let model = experiment.space.derive(&architecture)?;
    let OneShotExperiment { data, augment, .. } = &experiment;
    let retraining = Retraining { seed, model, data, augment };
    let config = dir.path("train.toml");
    write_atomic(&config, to_toml(&retraining).as_bytes())?;
    let result = OneShotResult {
        method: experiment.one_shot.method.info().kind.to_string(),
        notation: experiment.space.notation(&architecture)?,
        cost: cost(&experiment, num_classes, &architecture)?,
        architecture,
        supernet_acc,
        honesty,
        metrics: summary.metrics,
        search_secs: summary.train_secs,
        train: format!("nas-classify train --config {}", config.display()),
        run: dir.root().display().to_string(),
    };
    write_atomic(&dir.path("architecture.txt"), format!("{result}\n").as_bytes())?;
    dir.finish(&result)?;
    Ok(result)
}

/// The metric of a candidate.
const ACCURACY: &str = "supernet_acc";

/// Scores random architectures by the supernet and by what measures the truth.
fn honesty(
    dir: &RunDir,
    space: &Restricted,
    seed: u64,
    section: &HonestyConfig,
    truth: &Evaluator,
    searching: &mut Searching,
    compute: Compute,
) -> Result<HonestyReport> {
    let folder = dir.path(Part::Honesty.folder());
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    let candidates = searching.evaluator(section.recalibration_batches)?;
    let trials = folder.join("trials");
    let evaluate = |trial: &Trial| {
        let mut metrics = space.costs(&trial.arch);
        metrics.extend(truth.evaluate(trial, &trial_folder(&trials, trial.id), compute)?);
        metrics.insert(ACCURACY.into(), candidates.accuracy(&trial.arch, Images::All)?);
        Ok(metrics)
    };
    let (goals, random) = (Goals::maximize(ACCURACY), StrategyConfig::Random(RandomConfig {}));
    let (store, records) = TrialStore::open(folder.join("trials.jsonl"))?;
    // Another seed than that of a search over the supernet: its first random architectures would be the same.
    let searcher = Searcher::new(space, &random, goals.clone(), Budget::default(), seed + 2);
    let log = dir.path("run.log");
    let mut progress = Progress::new("honesty", section.samples as usize, records.len(), Some(&log))?;
    let mut search = SearchLoop::new(searcher, store, records, section.samples);
    search.run(&mut InProcess::new(evaluate), Vec::new(), |record| progress.trial(record))?;
    report(section, &goals, search.records())
}

/// Cost of `arch`'s network in the search's size, on one image of the search.
fn cost(experiment: &OneShotExperiment, num_classes: usize, arch: &Architecture) -> Result<Cost> {
    let Shape { c, h, w } = input(experiment);
    let net = experiment.space.derive(arch)?.build(&VarBuilder::dry(), num_classes as i64)?;
    Ok(net.cost(Shape { c, h, w }))
}

/// Draws loss and accuracy over epochs.
fn draw(dir: &RunDir) -> Result<()> {
    let path = dir.path("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))?;
    let lines: Vec<Metrics> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let series = ["loss", "val_acc"].map(|name| {
        let point = |line: &Metrics| Some((line.get("epoch")?.as_f64()?, line.get(name)?.as_f64()?));
        Series { name: name.to_string(), points: lines.iter().filter_map(point).collect() }
    });
    plot::lines(&dir.path("curves.svg"), "supernet", "epoch", "loss, accuracy", &series)
}
