//! `nas-detect search`: a supernet, and the best of its candidates.

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::nn::Cost;
use nas_core::nn::VarBuilder;
use nas_core::one_shot::SecondStage;
use nas_core::run::cli::{self, Compute, Format, RunArgs, run_in_folder};
use nas_core::run::config::to_toml;
use nas_core::run::plot;
use nas_core::run::run_dir::{RunDir, write_atomic};
use nas_core::search::best_so_far;
use nas_core::search::goals::Restricted;
use nas_core::space::Architecture;
use nas_core::space::trial::{Outcome, Record, Values};
use nas_core::train::{self, LoopConfig, read_tensors};
use nas_datasets::{Split, classify};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{draw_run, require_sound};
use crate::backbone::total;
use crate::experiment::{self, CANDIDATE_AP, PretrainConfig, SearchExperiment};
use crate::searching::{CandidateMacs, Candidates};
use crate::training::Training;

/// Search the backbone of a detector, or its neck
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "One run folder holds it all: pretrain/ (where the experiment has a section `pretrain`), the supernet's
training, supernet_search/trials.jsonl with every candidate, and the experiments of two trainings of the best one, from random
weights and from the supernet's. --resume goes on wherever the run was cut off.

Example:
  nas-detect search --config configs/detect/shapes_search.toml --out runs/search"
)]
pub struct SearchArgs {
    #[command(flatten)]
    pub(super) run: RunArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

/// `result.json` of a search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchResult {
    /// Name of the strategy.
    pub strategy: String,
    /// The architecture, as configs and `--arch` take it.
    pub architecture: Architecture,
    /// Its metrics by the supernet's weights on the held-out images.
    pub candidate: Values,
    /// Cost of its detector on an image of `search.macs_size`.
    #[serde(flatten)]
    pub cost: Cost,
    /// Candidates that were scored.
    pub num_trials: usize,
    /// Candidates that failed.
    pub num_failed: usize,
    /// Seconds in optimisation steps of the pre-training, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain_secs: Option<f64>,
    /// Seconds in optimisation steps of the supernet on detection.
    pub supernet_secs: f64,
    /// Seconds in which this process scored candidates.
    pub search_secs: f64,
    /// What trains the architecture from random weights, and from the supernet's.
    pub train: [String; 2],
    /// The run folder.
    pub run: String,
}

impl fmt::Display for SearchResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Cost { params, macs } = self.cost;
        writeln!(f, "{}: architecture {}", self.strategy, self.architecture)?;
        writeln!(f, "params {params}, macs {macs}")?;
        write!(f, "by the supernet:")?;
        self.candidate.iter().try_for_each(|(name, value)| write!(f, " {name} {value}"))?;
        write!(f, "\n{} trials, {} failed; ", self.num_trials, self.num_failed)?;
        self.pretrain_secs.iter().try_for_each(|secs| write!(f, "pre-training {secs:.0} s, "))?;
        writeln!(f, "supernet {:.0} s, candidates {:.0} s", self.supernet_secs, self.search_secs)?;
        let [scratch, inherited] = &self.train;
        write!(f, "train it from random weights: {scratch}\n          from the supernet's: {inherited}\n")?;
        write!(f, "everything is in {}", self.run)
    }
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> Result<()> {
    if super::neck_search::is_at(&args.run.config, &args.run.sets)? {
        return super::neck_search::run(args);
    }
    let experiment: SearchExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    experiment.check().with_context(|| args.run.config.display().to_string())?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        search(dir, &experiment, compute)
    })
}

fn search(dir: &RunDir, experiment: &SearchExperiment, compute: Compute) -> Result<SearchResult> {
    require_sound(&experiment.data)?;
    let pretrain = experiment.pretrain.as_ref();
    let pretrain_secs = pretrain.map(|pretrain| train_classifier(dir, experiment, pretrain, compute)).transpose()?;
    let weights = pretrain.map(|_| read_tensors(&dir.path("pretrain/checkpoints/last.safetensors"))).transpose()?;
    let mut training = Training::of_supernet(experiment, weights.as_ref(), compute)?;
    let settings = LoopConfig::new(experiment.supernet.epochs, experiment.seed);
    let summary = train::run(&mut training, "supernet", dir, settings)?;
    draw_run(dir.root())?;

    let num_classes = experiment.data.open(Split::Train)?.classes().len();
    let started = Instant::now();
    let candidates = Candidates::new(experiment, &training)?;
    let (records, best) = second_stage(dir, experiment, num_classes, &candidates)?;
    let search_secs = started.elapsed().as_secs_f64();
    let curve = best_so_far(experiment.strategy.info().kind, &experiment.goals(), &records);
    plot::lines(&dir.path("search.svg"), "best so far", "trials", CANDIDATE_AP, &[curve])?;

    let architecture = best.trial.arch;
    let net = experiment.training_of(&architecture, None)?.model.build(&VarBuilder::dry(), num_classes as i64)?;
    let Outcome::Metrics(candidate) = best.outcome else { unreachable!("the best trial has metrics") };
    let result = SearchResult {
        strategy: experiment.strategy.info().kind.to_string(),
        train: write_trainings(dir, experiment, &architecture)?,
        architecture,
        candidate,
        cost: total(&net.cost_parts(experiment.search.macs_size).concat()),
        num_trials: records.len(),
        num_failed: records.iter().filter(|record| matches!(record.outcome, Outcome::Failed(_))).count(),
        pretrain_secs,
        supernet_secs: summary.train_secs,
        search_secs,
        run: dir.root().display().to_string(),
    };
    write_atomic(&dir.path("architecture.txt"), format!("{}\n", result.architecture).as_bytes())?;
    write_atomic(&dir.path("result.txt"), format!("{result}\n").as_bytes())?;
    dir.finish(&result)?;
    Ok(result)
}

/// Trains the supernet as a classifier in a run folder of its own; returns the seconds that it took.
fn train_classifier(
    dir: &RunDir,
    experiment: &SearchExperiment,
    pretrain: &PretrainConfig,
    compute: Compute,
) -> Result<f64> {
    let images = pretrain.data.open(Split::Train)?;
    cli::require_sound(&classify::check(&*images), images.len(), "pretrain.data train", "nas-classify")?;
    let folder = RunDir::open(&dir.path("pretrain"), &to_toml(pretrain), true, &json!({ "part_of": dir.root() }))?;
    let mut training = Training::of_classifier(experiment, pretrain, compute)?;
    let settings = LoopConfig::new(pretrain.train.epochs, experiment.seed);
    Ok(train::run(&mut training, "pretrain", &folder, settings)?.train_secs)
}

fn second_stage(
    dir: &RunDir,
    experiment: &SearchExperiment,
    num_classes: usize,
    candidates: &Candidates,
) -> Result<(Vec<Record>, Record)> {
    let macs = CandidateMacs::new(experiment, num_classes)?;
    let cost = |arch: &Architecture| macs.values(arch);
    let space = experiment.backbone()?.space()?;
    let restricted = Restricted::new(&space, &experiment.constraints, &cost)?;
    let num_trials = experiment.search.num_trials;
    let stage =
        SecondStage { strategy: experiment.strategy.clone(), num_trials, recalibration_batches: 0, finalists: 0 };
    stage.run_in_folder(dir, &restricted, &experiment.goals(), experiment.seed, |arch, _| candidates.scores(arch))
}

/// Writes the experiments of both trainings; returns their commands.
fn write_trainings(dir: &RunDir, experiment: &SearchExperiment, arch: &Architecture) -> Result<[String; 2]> {
    let root = std::path::absolute(dir.root())?;
    let mut commands = [(), ()].map(|()| String::new());
    let kinds = [("train_scratch.toml", None), ("train_inherited.toml", Some(root))];
    for (command, (name, init)) in commands.iter_mut().zip(kinds) {
        let path = dir.path(name);
        write_atomic(&path, to_toml(&experiment.training_of(arch, init)?).as_bytes())?;
        *command = format!("nas-detect train --config {}", path.display());
    }
    Ok(commands)
}
