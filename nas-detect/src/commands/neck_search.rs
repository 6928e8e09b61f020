//! `nas-detect search` of an experiment with a section `space`: a neck, by trials that train.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nas_core::one_shot::SecondStage;
use nas_core::run::cli::{Compute, run_in_folder};
use nas_core::run::config::{read_table, to_toml};
use nas_core::run::plot;
use nas_core::run::progress::Progress;
use nas_core::run::run_dir::{RunDir, write_atomic};
use nas_core::search::best_so_far;
use nas_core::search::goals::Restricted;
use nas_core::space::Architecture;
use nas_core::space::trial::{Outcome, Values};
use serde::{Deserialize, Serialize};

use super::require_sound;
use super::search::SearchArgs;
use crate::experiment::{self, CANDIDATE_AP};
use crate::neck_search::{NeckSearchExperiment, Trials};

/// `result.json` of a search of necks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NeckSearchResult {
    /// Name of the strategy.
    pub strategy: String,
    /// The architecture of the neck.
    pub architecture: Architecture,
    /// Its metrics by the short training, on the held-out images.
    pub candidate: Values,
    /// Candidates that were trained.
    pub num_trials: usize,
    /// Candidates that failed.
    pub num_failed: usize,
    /// What trains the detector with this neck.
    pub train: String,
    /// The run folder.
    pub run: String,
}

impl fmt::Display for NeckSearchResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}: neck {}", self.strategy, self.architecture)?;
        write!(f, "trained in short:")?;
        self.candidate.iter().try_for_each(|(name, value)| write!(f, " {name} {value}"))?;
        writeln!(f, "\n{} trials, {} failed", self.num_trials, self.num_failed)?;
        write!(f, "train it: {}\neverything is in {}", self.train, self.run)
    }
}

/// Whether the file at `path` is such an experiment.
pub fn is_at(path: &Path, sets: &[String]) -> Result<bool> {
    Ok(read_table(path, sets)?.contains_key("space"))
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> Result<()> {
    let experiment: NeckSearchExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    experiment.check().with_context(|| args.run.config.display().to_string())?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        search(dir, &experiment, compute)
    })
}

fn search(dir: &RunDir, experiment: &NeckSearchExperiment, compute: Compute) -> Result<NeckSearchResult> {
    require_sound(&experiment.data)?;
    let trials = Trials::new(experiment, compute)?;
    let folder = dir.path("trials");
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    let space = experiment.space.build()?;
    let cost = |arch: &Architecture| trials.cost(arch).expect("the check has built one of the space");
    let restricted = Restricted::new(&*space, &experiment.constraints, &cost)?;
    let mut progress = Progress::new("search", experiment.num_trials as usize, 0, Some(&dir.path("run.log")))?;
    let stage = SecondStage {
        strategy: experiment.strategy.clone(),
        num_trials: experiment.num_trials,
        recalibration_batches: 0,
        finalists: 0,
    };
    let evaluate = |arch: &Architecture, _| trials.train(arch, &folder.join(arch.to_string()));
    let goals = experiment.goals();
    let on_end = |record: &_| progress.trial(record);
    let (records, best) = stage.run(&restricted, &goals, experiment.seed, dir.root(), evaluate, on_end)?;

    let kind = experiment.strategy.info().kind;
    plot::lines(
        &dir.path("search.svg"),
        "best so far",
        "trials",
        CANDIDATE_AP,
        &[best_so_far(kind, &goals, &records)],
    )?;
    let config = dir.path("train.toml");
    let training = experiment.training_of(&best.trial.arch, &experiment.retrain)?;
    write_atomic(&config, to_toml(&training).as_bytes())?;
    let Outcome::Metrics(candidate) = best.outcome else { unreachable!("the best trial has metrics") };
    let result = NeckSearchResult {
        strategy: kind.to_string(),
        architecture: best.trial.arch,
        candidate,
        num_trials: records.len(),
        num_failed: records.iter().filter(|record| matches!(record.outcome, Outcome::Failed(_))).count(),
        train: format!("nas-detect train --config {}", config.display()),
        run: dir.root().display().to_string(),
    };
    write_atomic(&dir.path("result.txt"), format!("{result}\n").as_bytes())?;
    dir.finish(&result)?;
    Ok(result)
}
