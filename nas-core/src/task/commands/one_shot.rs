//! `search` of an experiment of kind `one_shot`: a supernet, then an architecture.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nas_datasets::{Split, rng};
use serde::{Deserialize, Serialize};

use super::report::draw_curves;
use super::search::{SearchArgs, report};
use crate::estimator::honesty::HonestyReport;
use crate::executor::{InProcess, trial_folder};
use crate::nn::Shape;
use crate::one_shot::{Images, SecondStage};
use crate::run::cli::{Compute, print, run_in_folder};
use crate::run::config::to_toml;
use crate::run::launch;
use crate::run::plot;
use crate::run::progress::Progress;
use crate::run::run_dir::{RunDir, write_atomic};
use crate::search::goals::{Goals, Restricted};
use crate::search::log::TrialStore;
use crate::search::{SearchLoop, Searcher, best_so_far};
use crate::space::trial::{Budget, Outcome, Record, Trial, Values};
use crate::space::{Architecture, ChoiceSpace};
use crate::strategy::{RandomConfig, StrategyConfig};
use crate::task::evaluator::{Evaluator, HonestyConfig, SearchPart, Searched, cost_input};
use crate::task::experiment::{self, OneShotExperiment, Recipe};
use crate::task::find_batch::find_shared_batch;
use crate::task::latency::{FoundLatency, Latencies, priced_latency};
use crate::task::searched::SearchedSpace;
use crate::task::shared::{Candidates, Shared, main_candidate_metric};
use crate::task::{CostFunction, Task, TaskSpace};
use crate::train::{self, LoopConfig, Metrics, read_metrics, write_tensors};

/// `result.json` of a search on shared weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OneShotResult {
    /// Name of the method.
    pub method: String,
    /// The architecture, as configs and `--arch` take it.
    pub architecture: Architecture,
    /// In the literature's notation.
    pub notation: String,
    /// What the architecture alone decides: `params`, `macs`, ...
    pub cost: Values,
    /// Metrics by the supernet's weights on held-out training samples, where candidates were compared by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Values>,
    /// Candidates that were scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_trials: Option<usize>,
    /// Scores by the supernet's weights against what they stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyReport>,
    /// What `[latency]` says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<FoundLatency>,
    /// Metrics of the supernet after the last epoch.
    pub metrics: Metrics,
    /// Seconds in search steps of the supernet's training.
    pub search_secs: f64,
    /// Its network as it is in the supernet: what scores it without training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrained: Option<String>,
    /// What trains the architecture: from random weights and, where the space can, from the supernet's.
    pub train: Vec<String>,
    /// The run folder.
    pub run: String,
}

impl fmt::Display for OneShotResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut values = |title: &str, values: &Values| {
            write!(f, "{title}")?;
            values.iter().try_for_each(|(name, value)| write!(f, " {name} {value}"))?;
            writeln!(f)
        };
        values(&format!("{}: architecture {}\n{}\n ", self.method, self.architecture, self.notation), &self.cost)?;
        self.candidate.iter().try_for_each(|candidate| values("by the supernet:", candidate))?;
        self.num_trials.iter().try_for_each(|trials| write!(f, "{trials} candidates; "))?;
        writeln!(f, "supernet trained in {:.0} s", self.search_secs)?;
        self.honesty.iter().try_for_each(|report| writeln!(f, "{report}"))?;
        self.latency.iter().try_for_each(|latency| writeln!(f, "latency: {latency}"))?;
        self.untrained.iter().try_for_each(|command| writeln!(f, "as it is: {command}"))?;
        self.train.iter().try_for_each(|command| writeln!(f, "train it: {command}"))?;
        write!(f, "everything is in {}", self.run)
    }
}

/// Runs the command.
pub fn run<T: Task>(args: &SearchArgs) -> Result<()> {
    let SearchArgs { run, procs, largest, format, .. } = args;
    let origin = || run.config.display().to_string();
    let experiment: OneShotExperiment<T> = experiment::load(&run.config, &run.sets)?;
    if !largest.find_batch && launch::begin(*procs)? {
        return Ok(());
    }
    let compute = run.compute.resolve()?;
    // Refused before anything is created.
    let search = Search::new(&experiment).with_context(origin)?;
    if largest.find_batch {
        return print(&find_shared_batch(&experiment, search.input, compute, largest.limit())?, *format);
    }
    run_in_folder(run, compute, Some(experiment.seed), (&experiment, None), *format, |dir| search.run(dir, compute))
}

/// A search whose parts fit together.
struct Search<'a, T: Task> {
    experiment: &'a OneShotExperiment<T>,
    input: Shape,
    costs: CostFunction,
    latencies: Option<Latencies<T>>,
}

impl<'a, T: Task> Search<'a, T> {
    fn new(experiment: &'a OneShotExperiment<T>) -> Result<Self> {
        let setting = experiment.setting();
        let train = T::open(&experiment.data, Split::Train)?;
        let input = T::input(&setting, &train)?;
        let num_classes = T::classes(&train).len();
        let OneShotExperiment { space, model, one_shot, cost_size, .. } = experiment;
        one_shot.method.check(&*space.shared()?, input).context("one_shot")?;
        let costs = space.costs(model.as_ref(), num_classes, cost_input::<T>(*cost_size, &setting, &train)?)?;
        priced_latency(experiment)?;
        let latencies = Latencies::of_shared(experiment)?;
        let costs: CostFunction = match latencies.clone() {
            None => costs,
            Some(latencies) => Box::new(move |arch| {
                let mut values = costs(arch)?;
                values.extend(latencies.cost(arch));
                Ok(values)
            }),
        };
        let search = Self { experiment, input, costs, latencies };
        let any = space.choices()?.sample(&mut rng::stream(experiment.seed, "any", 0));
        let known: Vec<String> = (search.costs)(&any).context("model")?.into_keys().collect();
        for constraint in &experiment.constraints {
            let metric = &constraint.metric;
            anyhow::ensure!(
                known.contains(metric),
                "constraints: unknown metric {metric:?}; expected {}",
                known.join(" or ")
            );
        }
        search.truth(&known)?;
        Ok(search)
    }

    /// What measures the truth of `[honesty]`, and what the section asks; the error says what cannot be served.
    fn truth(&self, costs: &[String]) -> Result<Option<(&HonestyConfig, Evaluator<T>)>> {
        let Some(honesty) = &self.experiment.honesty else { return Ok(None) };
        let truth = honesty.evaluator.as_ref().context("honesty has no evaluator; expected what measures truth")?;
        let OneShotExperiment { seed, space, model, retrain, cost_size, .. } = self.experiment.clone();
        let train = Recipe { init: None, ..retrain };
        let setting = Some(self.experiment.setting());
        let space = SearchedSpace::of_task(space);
        let searched = Searched { seed, space, model, train, setting, cost_size, budget: Budget::default() };
        let truth = Evaluator::open(truth, &searched).context("honesty.evaluator")?;
        honesty.check(&truth.metrics(costs))?;
        Ok(Some((honesty, truth)))
    }

    fn run(&self, dir: &RunDir, compute: Compute) -> Result<OneShotResult> {
        let experiment = self.experiment;
        experiment.setting().open_sound(Split::Train)?;
        let space = experiment.space.choices()?;
        let of = |arch: &Architecture| (self.costs)(arch).expect("as of any other of the space");
        let restricted = Restricted::new(&*space, &experiment.constraints, &of)?;
        let pretrained = match &experiment.pretrain {
            Some(pretrain) => T::pretrain(pretrain, experiment, dir, compute)?,
            None => HashMap::new(),
        };
        let mut shared = Shared::new(experiment.clone(), &pretrained, self.input, compute)?;
        let settings = LoopConfig::new(experiment.one_shot.epochs, experiment.seed);
        let summary = train::run(&mut shared, "search", dir, settings)?;
        let draw = || draw_curves(dir.root(), &read_metrics(dir.root())?, T::CURVES);
        let (architecture, candidate, num_trials, weights) = match experiment.one_shot.method.second_stage() {
            None => {
                launch::dismiss();
                draw()?;
                (self.most_probable(&shared, &restricted)?, None, None, None)
            }
            Some(stage) => {
                let candidates = shared.candidates(stage.recalibration_batches)?;
                let found = candidates.share(|| {
                    draw()?;
                    let (records, best) = self.candidates(dir, &stage, &candidates, &restricted)?;
                    Ok((records, candidates.weights(&best.trial.arch)?, best))
                })?;
                launch::dismiss();
                let (records, weights, best) = found.expect("the other ranks have ended");
                let Outcome::Metrics(metrics) = best.outcome else { unreachable!("the best trial has metrics") };
                (best.trial.arch, Some(metrics), Some(records.len()), weights)
            }
        };
        let network = weights.map(|weights| {
            let path = std::path::absolute(dir.path("network.safetensors"))?;
            write_tensors(&path, weights)?;
            Ok::<_, anyhow::Error>(path)
        });
        let network = network.transpose()?;
        let honesty = self.honesty(dir, &restricted, &shared, compute)?;
        let parameters = shared.arch_parameters();
        if !parameters.is_empty() {
            write_tensors(&dir.path("arch_parameters.safetensors"), parameters)?;
        }
        if let Some(drawing) = experiment.space.drawing(&architecture)? {
            write_atomic(&dir.path("architecture.svg"), drawing.as_bytes())?;
        }
        let result = OneShotResult {
            method: experiment.one_shot.method.info().kind.to_string(),
            notation: experiment.space.notation(&architecture)?,
            cost: restricted.costs(&architecture),
            latency: self.latencies.as_ref().map(|of| of.found(&architecture, &dir.path("latency"))).transpose()?,
            train: self.write_trainings(dir, &architecture, network.as_deref())?,
            untrained: network.map(|path| {
                let train = dir.path("train.toml");
                format!("{} eval --model {} --weights {}", T::PROGRAM, train.display(), path.display())
            }),
            architecture,
            candidate,
            num_trials,
            honesty,
            metrics: summary.metrics,
            search_secs: summary.train_secs,
            run: dir.root().display().to_string(),
        };
        let OneShotResult { architecture, notation, .. } = &result;
        write_atomic(&dir.path("architecture.txt"), format!("{architecture}\n{notation}\n").as_bytes())?;
        write_atomic(&dir.path("result.txt"), format!("{result}\n").as_bytes())?;
        dir.finish(&result)?;
        Ok(result)
    }

    /// What the method has found, within the bounds and in the form that stands for its network.
    fn most_probable(&self, shared: &Shared<T>, space: &Restricted) -> Result<Architecture> {
        let found = shared.derive().context("the method has found no architecture")?;
        if self.experiment.constraints.is_empty() {
            return Ok(space.standing_for(found.choices().to_vec()).unwrap_or(found));
        }
        let within = shared.derive_within(space);
        within.with_context(|| {
            format!("constraints: no architecture near {found}, which the method has found, meets them")
        })
    }

    /// The search over the trained supernet.
    fn candidates(
        &self,
        dir: &RunDir,
        stage: &SecondStage,
        candidates: &Candidates<T>,
        space: &Restricted,
    ) -> Result<(Vec<Record>, Record)> {
        let metric = main_candidate_metric::<T>();
        let constraints = self.experiment.constraints.clone();
        let goals = Goals { constraints, ..Goals::maximize(&metric) };
        let score = |arch: &Architecture, images| candidates.scores(arch, images);
        let (records, best) = stage.run_in_folder(dir, space, &goals, self.experiment.seed, score)?;
        let curve = best_so_far(stage.strategy.info().kind, &goals, &records);
        if !curve.points.is_empty() {
            plot::lines(&dir.path("search.svg"), "best so far", "trials", &metric, &[curve])?;
        }
        Ok((records, best))
    }

    /// Scores random architectures by the supernet and by what measures the truth.
    fn honesty(
        &self,
        dir: &RunDir,
        space: &Restricted,
        shared: &Shared<T>,
        compute: Compute,
    ) -> Result<Option<HonestyReport>> {
        let any = space.costs(&space.sample(&mut rng::stream(0, "any", 0)));
        let Some((section, truth)) = self.truth(&any.into_keys().collect::<Vec<_>>())? else { return Ok(None) };
        let folder = dir.path(SearchPart::Honesty.folder());
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        let candidates = shared.candidates(section.recalibration_batches)?;
        let trials = folder.join("trials");
        let evaluate = |trial: &Trial| {
            let mut metrics = space.costs(&trial.arch);
            metrics.extend(truth.evaluate(trial, &trial_folder(&trials, trial.id), compute)?);
            metrics.extend(candidates.scores(&trial.arch, Images::All)?);
            Ok(metrics)
        };
        let goals = Goals::maximize(&main_candidate_metric::<T>());
        let random = StrategyConfig::Random(RandomConfig {});
        let (store, records) = TrialStore::open(folder.join("trials.jsonl"))?;
        // Another seed than that of a search over the supernet: its first random architectures would be the same.
        let searcher = Searcher::new(space, &random, goals.clone(), Budget::default(), self.experiment.seed + 2);
        let log = dir.path("run.log");
        let mut progress = Progress::new("honesty", section.samples as usize, records.len(), Some(&log))?;
        let mut search = SearchLoop::new(searcher, store, records, section.samples)?;
        search.run(&mut InProcess::new(evaluate), true, Vec::new(), |record| progress.trial(record))?;
        report(section, &goals, search.records()).map(Some)
    }

    /// Writes the experiments of trainings of `arch`; returns their commands.
    fn write_trainings(&self, dir: &RunDir, arch: &Architecture, network: Option<&Path>) -> Result<Vec<String>> {
        let root = std::path::absolute(dir.root())?;
        let mut kinds = vec![("train.toml", None)];
        if let Some(init) = network.map(Path::to_path_buf).or(self.experiment.space.inherits().then_some(root)) {
            kinds.push(("train_inherited.toml", Some(init)));
        }
        let write = |(name, init)| {
            let path = dir.path(name);
            write_atomic(&path, to_toml(&self.experiment.training_of(arch, init)?).as_bytes())?;
            Ok(format!("{} train --config {}", T::PROGRAM, path.display()))
        };
        kinds.into_iter().map(write).collect()
    }
}
