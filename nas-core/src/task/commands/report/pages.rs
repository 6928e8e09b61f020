//! What a page shows of runs: everything that their folders hold, as one value.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::Value;

use crate::estimator::honesty::{HonestyReport, HonestyRow};
use crate::executor::trial_folder;
use crate::run::config;
use crate::run::confusion::Confusion;
use crate::run::picture::read_pngs;
use crate::run::precision_recall::PrecisionRecall;
use crate::run::run_dir::{read_json, read_result, read_text};
use crate::run::times;
use crate::search::analysis::vocabulary::Decision;
use crate::search::goals::{Constraint, Goal, Goals, Objective};
use crate::search::log;
use crate::search::pareto::Point;
use crate::space::Architecture;
use crate::space::trial::{Outcome, Record, Values};
use crate::stats::mean_and_deviation;
use crate::task::commands::compare::{Comparison, Row};
use crate::task::commands::one_shot::OneShotResult;
use crate::task::commands::search::SearchResult;
use crate::task::commands::train::TrainResult;
use crate::task::evaluator::SearchPart;
use crate::task::experiment::{self, Kind, OneShotExperiment, SearchExperiment};
use crate::task::latency::{Agreement, FoundLatency, LatencyReport};
use crate::task::shared::main_candidate_metric;
use crate::task::{PerClass, SIZES, Scores, Task, TaskSpace, sizes};
use crate::train::{Metrics, read_metrics};

/// Largest sum of drawings of one trial log, and of pictures of one run, in bytes.
const MOST_BYTES: usize = 6 << 20;

/// The data of a page.
#[derive(Debug, Serialize)]
pub struct Page {
    /// Version of this form.
    pub version: u32,
    /// Program and version that made the page.
    pub made_by: String,
    /// Metrics of the task, the main one first: key and heading. Fractions.
    pub metrics: &'static [(&'static str, &'static str)],
    /// The runs in the order of the command line, each before the trainings of its comparison.
    pub runs: Vec<Run>,
}

/// One run folder.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    /// Short and unique on the page.
    pub name: String,
    /// The folder.
    pub path: String,
    /// Name of the comparison that it is a training of, and of its model there.
    pub parent: Option<String>,
    /// The model of a training of a comparison.
    pub group: Option<String>,
    /// `train`, `compare`, `search` or `one_shot`.
    pub kind: Option<Kind>,
    /// Whether it has ended.
    pub done: bool,
    /// What came of it.
    pub facts: Vec<Fact>,
    /// A table of its result.
    pub tables: Vec<Table>,
    /// What was found, or is best so far.
    pub found: Option<Found>,
    /// One object per epoch, with `secs` and `images_per_sec` where they are known.
    pub epochs: Vec<Metrics>,
    /// Trial logs.
    pub parts: Vec<Part>,
    /// Scores by class.
    pub classes: Option<PerClass>,
    /// Samples by true and predicted class.
    pub confusion: Option<Confusion>,
    /// Precision over recall by class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision_recall: Option<PrecisionRecall>,
    /// Pictures that the run has drawn.
    pub pictures: Vec<Picture>,
    /// The resolved experiment by dotted key.
    pub config: BTreeMap<String, String>,
    /// `meta.json`.
    pub meta: Value,
    /// What could not be shown, and why.
    pub notes: Vec<String>,
}

/// A number or a word with its name.
#[derive(Debug, Serialize)]
pub struct Fact {
    label: String,
    value: Value,
    /// `fraction`, `count`, `secs`, or none.
    unit: Option<&'static str>,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.unit, self.value.as_f64()) {
            (Some("fraction"), Some(value)) => write!(f, "{}: {:.2} %", self.label, 100.0 * value),
            (Some("secs"), Some(value)) => write!(f, "{}: {value:.0} s", self.label),
            (_, Some(value)) => write!(f, "{}: {value}", self.label),
            (_, None) => write!(f, "{}: {}", self.label, self.value.as_str().unwrap_or_default()),
        }
    }
}

/// Rows of cells below headings.
#[derive(Debug, Serialize)]
pub struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// An architecture.
#[derive(Debug, Serialize)]
pub struct Found {
    architecture: Architecture,
    notation: String,
    /// SVG.
    drawing: Option<String>,
}

/// A file as an address that holds its content.
#[derive(Debug, Serialize)]
pub struct Picture {
    name: String,
    data: String,
}

impl Picture {
    /// A PNG.
    pub(super) fn new(name: String, png: &[u8]) -> Self {
        Self { name, data: format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)) }
    }
}

/// A trial log of a run.
#[derive(Debug, Serialize)]
pub struct Part {
    /// `search`, `baseline`, ...
    pub(in crate::task::commands) name: &'static str,
    /// Who proposed the trials.
    pub(in crate::task::commands) strategy: String,
    pub(in crate::task::commands) objectives: Vec<Objective>,
    pub(in crate::task::commands) constraints: Vec<Constraint>,
    /// The metric that the main objective stands for, of a part that measures it.
    truth: Option<String>,
    /// Names of all metrics.
    metrics: Vec<String>,
    pub(in crate::task::commands) decisions: Vec<Choices>,
    pub(in crate::task::commands) trials: Vec<TrialRow>,
    /// SVG of some architectures.
    drawings: Vec<String>,
}

/// A decision.
#[derive(Debug, Serialize)]
pub(in crate::task::commands) struct Choices {
    pub name: String,
    pub choices: Vec<String>,
}

/// A trial.
#[derive(Debug, Serialize)]
pub(in crate::task::commands) struct TrialRow {
    pub id: u64,
    pub arch: Vec<u16>,
    pub notation: String,
    pub epochs: Option<u32>,
    pub parent: Option<u64>,
    pub failed: Option<String>,
    pub metrics: Values,
    /// The main objective as it was measured.
    pub value: Option<f64>,
    /// Whether the constraints are met.
    pub feasible: bool,
    /// Whether no other feasible trial is better in every objective.
    pub front: bool,
    /// Seconds in steps of its training.
    pub train_secs: Option<f64>,
    /// Seconds of the search when it ended.
    pub secs: Option<f64>,
    /// Learning curve of the main metric: (epoch, value).
    pub curve: Vec<(f64, f64)>,
    /// Index of its drawing.
    pub drawing: Option<usize>,
}

/// What the space of a log says of its architectures.
struct Words<'a> {
    decisions: Vec<Decision>,
    notation: &'a dyn Fn(&Architecture) -> String,
    drawing: &'a dyn Fn(&Architecture) -> Option<String>,
}

impl Page {
    /// The page of run folders.
    pub fn read<T: Task>(folders: &[PathBuf]) -> Result<Self> {
        let mut runs = Vec::new();
        for (folder, name) in folders.iter().zip(short_names(folders)) {
            let run = Run::read::<T>(folder, name)?;
            let children = run.children::<T>(folder)?;
            runs.push(run);
            runs.extend(children);
        }
        let made_by = format!("{} {}", T::PROGRAM, env!("CARGO_PKG_VERSION"));
        Ok(Self { version: 1, made_by, metrics: T::METRICS, runs })
    }

    /// Names of the runs that were asked for.
    pub fn title(&self) -> String {
        let named = self.runs.iter().filter(|run| run.parent.is_none());
        named.map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The last parts of paths, as many as tell them apart.
fn short_names(folders: &[PathBuf]) -> Vec<String> {
    let full: Vec<PathBuf> = folders.iter().map(|f| std::path::absolute(f).unwrap_or_else(|_| f.clone())).collect();
    let tail = |path: &Path, parts: usize| -> String {
        let all: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let depth = full.iter().map(|path| path.iter().count()).max().unwrap_or(1);
    let unique = |parts: &usize| {
        let names: Vec<String> = full.iter().map(|path| tail(path, *parts)).collect();
        names.iter().enumerate().all(|(i, name)| !names[..i].contains(name))
    };
    let parts = (1..depth).find(unique).unwrap_or(depth);
    full.iter().map(|path| tail(path, parts)).collect()
}

impl Run {
    fn read<T: Task>(folder: &Path, name: String) -> Result<Self> {
        let file = folder.join("config.toml");
        ensure!(file.exists(), "{}: no run folder (config.toml is missing)", folder.display());
        let mut run = Self {
            name,
            path: folder.display().to_string(),
            kind: experiment::kind_at(&file, &[])?,
            done: folder.join("result.json").exists(),
            epochs: epochs(folder)?,
            confusion: Confusion::read(folder)?,
            precision_recall: PrecisionRecall::read(folder)?,
            meta: read_json(&folder.join("meta.json"))?,
            ..Self::default()
        };
        config::flatten(&toml::Value::Table(config::read_table(&file, &[])?), "", &mut run.config);
        run.pictures = pictures(folder)?;
        let read = match run.kind {
            None | Some(Kind::Train) => run.read_training::<T>(folder),
            Some(Kind::Compare) => run.read_comparison(folder),
            Some(Kind::Search) => run.read_search::<T>(folder, &file),
            Some(Kind::OneShot) => run.read_one_shot::<T>(folder, &file),
        };
        // The run may be of another program or version: what is left is shown.
        read.unwrap_or_else(|error| run.notes.push(format!("{error:#}")));
        Ok(run)
    }

    /// The trainings of a comparison.
    fn children<T: Task>(&self, folder: &Path) -> Result<Vec<Self>> {
        let runs = folder.join("runs");
        if self.kind != Some(Kind::Compare) || !runs.is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&runs).with_context(|| format!("{}: cannot read", runs.display()))?;
        let mut names: Vec<String> =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
        names.retain(|name| runs.join(name).join("config.toml").exists());
        names.sort();
        let child = |name: &String| {
            let run = Self::read::<T>(&runs.join(name), format!("{}/{name}", self.name))?;
            let group = name.rsplit_once("-s").map_or(name.as_str(), |(model, _)| model).to_string();
            Ok(Self { parent: Some(self.name.clone()), group: Some(group), ..run })
        };
        names.iter().map(child).collect()
    }

    /// Whether it trained a network of its own.
    pub(super) fn is_training(&self) -> bool {
        matches!(self.kind, None | Some(Kind::Train))
    }

    fn fact(&mut self, label: &str, value: impl Into<Value>, unit: Option<&'static str>) {
        self.facts.push(Fact { label: label.to_string(), value: value.into(), unit });
    }

    fn sizes(&mut self, values: &Values) {
        for (key, label) in [("params", "parameters"), ("macs", "multiply-adds")] {
            values.get(key).iter().for_each(|value| self.fact(label, **value, Some("count")));
        }
    }

    fn read_training<T: Task>(&mut self, folder: &Path) -> Result<()> {
        let main = T::METRICS[0];
        let value = |line: &Metrics| Some((line.get("epoch")?.as_u64()?, line.get(main.0)?.as_f64()?));
        let best = self.epochs.iter().filter_map(value).max_by(|a, b| a.1.total_cmp(&b.1));
        match read_result::<TrainResult<T::Scores>>(folder)? {
            Some(result) => {
                for (key, heading) in T::METRICS {
                    result.scores.metric(key).iter().for_each(|v| self.fact(heading, *v, Some("fraction")));
                }
                self.sizes(&sizes(result.cost));
                self.fact("training", result.train_secs, Some("secs"));
                self.fact("images per second", result.images_per_sec, None);
                result.stopped.iter().for_each(|stopped| self.fact("ended early", stopped.to_string(), None));
                self.classes = result.scores.per_class();
            }
            None => self.fact("epochs so far", self.epochs.len(), None),
        }
        if let Some((epoch, best)) = best {
            self.fact(&format!("best {} (epoch {epoch})", main.1), best, Some("fraction"));
        }
        Ok(())
    }

    fn read_comparison(&mut self, folder: &Path) -> Result<()> {
        let Some(comparison) = read_result::<Comparison>(folder)? else { return Ok(()) };
        let headings = comparison.metrics.iter().map(|(_, name)| format!("{name} %"));
        let rest = ["seeds", "parameters", "multiply-adds", "images/s", "training s"].map(String::from);
        let head = std::iter::once("model".to_string()).chain(headings).chain(rest).collect();
        let row = |row: &Row| -> Vec<Value> {
            let scores = comparison.metrics.iter().map(|(key, _)| {
                let (mean, deviation) = mean_and_deviation(&row.scores[key]);
                Value::from(format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * deviation))
            });
            let seeds = row.scores.values().next().map_or(0, Vec::len);
            let rest = [
                Value::from(seeds),
                row.cost.params.into(),
                row.cost.macs.into(),
                row.images_per_sec.into(),
                row.train_secs.into(),
            ];
            std::iter::once(Value::from(row.name.clone())).chain(scores).chain(rest).collect()
        };
        let rows = comparison.rows.iter().map(row).collect();
        self.tables.push(Table { title: comparison.footer(), head, rows });
        let main = comparison.metrics.first().map(|(key, name)| (key.clone(), name.clone()));
        let mean =
            |row: &Row, key: &str| row.scores.get(key).map_or(f64::NEG_INFINITY, |scores| mean_and_deviation(scores).0);
        if let Some((key, name)) = main
            && let Some(best) = comparison.rows.iter().max_by(|a, b| mean(a, &key).total_cmp(&mean(b, &key)))
        {
            self.fact(&format!("best {name}, mean over seeds"), mean(best, &key), Some("fraction"));
            self.fact("best model", best.name.clone(), None);
        }
        Ok(())
    }

    fn read_search<T: Task>(&mut self, folder: &Path, file: &Path) -> Result<()> {
        let experiment: SearchExperiment<T> = experiment::load(file, &[])?;
        let space = &experiment.space;
        let words = Words {
            decisions: space.names()?,
            notation: &|arch| space.notation(arch).unwrap_or_else(|_| arch.to_string()),
            drawing: &|arch| space.drawing(arch).ok().flatten(),
        };
        let result = read_result::<SearchResult>(folder)?;
        for part in
            [SearchPart::Search, SearchPart::Verify, SearchPart::Baseline, SearchPart::Predictor, SearchPart::Honesty]
        {
            let goals = experiment.goals(part);
            let strategy = match part {
                SearchPart::Search => experiment.strategy.info().kind,
                SearchPart::Baseline => experiment.baseline.as_ref().map_or("random", |of| of.info().kind),
                _ => "random",
            };
            let truth = experiment.honesty.as_ref().filter(|_| part == SearchPart::Honesty);
            let truth = truth.map(|honesty| honesty.truth.clone());
            let (name, below) = (part.name(), folder.join(part.folder()));
            self.parts.extend(Part::read::<T>(name, strategy, &below, goals, truth, &words)?);
        }
        self.fact("strategy", experiment.strategy.info().kind, None);
        let ended = self.parts.first().map_or(0, |part| part.trials.len());
        self.fact("trials", ended, None);
        let failed = self.parts.first().map_or(0, |part| part.trials.iter().filter(|t| t.failed.is_some()).count());
        if failed > 0 {
            self.fact("failed", failed, None);
        }
        let of_result = result.as_ref().and_then(|result| result.best.as_ref()).map(|best| best.metrics.clone());
        let best = self.parts.first().and_then(Part::best);
        let arch = best.map(|best| Architecture::new(best.arch.clone()));
        let arch = result.as_ref().and_then(|result| Some(result.best.as_ref()?.architecture.clone())).or(arch);
        let metrics = of_result.or(best.map(|best| best.metrics.clone())).unwrap_or_default();
        let objectives = experiment.objectives.iter().map(|objective| objective.metric.as_str());
        self.metrics_of::<T>(objectives.collect(), &metrics);
        self.find(arch, &words);
        if let Some(honesty) = result.as_ref().and_then(|result| result.honesty.as_ref()) {
            self.tables.push(honesty_table(honesty));
        }
        if let Some(latency) = result.as_ref().and_then(|result| result.latency.as_ref()) {
            self.tables.push(latency_table(latency));
        }
        Ok(())
    }

    fn read_one_shot<T: Task>(&mut self, folder: &Path, file: &Path) -> Result<()> {
        let experiment: OneShotExperiment<T> = experiment::load(file, &[])?;
        let space = &experiment.space;
        let words = Words {
            decisions: space.names()?,
            notation: &|arch| space.notation(arch).unwrap_or_else(|_| arch.to_string()),
            drawing: &|arch| space.drawing(arch).ok().flatten(),
        };
        let method = &experiment.one_shot.method;
        self.fact("method", method.info().kind, None);
        let goals = Goals::maximize(&main_candidate_metric::<T>());
        if let Some(stage) = method.second_stage() {
            let goals = Goals { constraints: experiment.constraints.clone(), ..goals.clone() };
            let (below, strategy) = (folder.join("supernet_search"), stage.strategy.info().kind);
            self.parts.extend(Part::read::<T>("on the supernet", strategy, &below, goals, None, &words)?);
        }
        let truth = experiment.honesty.as_ref().map(|honesty| honesty.truth.clone());
        let (name, below) = (SearchPart::Honesty.name(), folder.join(SearchPart::Honesty.folder()));
        self.parts.extend(Part::read::<T>(name, "random", &below, goals, truth, &words)?);
        let Some(result) = read_result::<OneShotResult>(folder)? else {
            let last = self.epochs.iter().rev().find_map(|epoch| epoch.get("architecture")?.as_str()?.parse().ok());
            self.fact("epochs so far", self.epochs.len(), None);
            self.find(last, &words);
            return Ok(());
        };
        let main = main_candidate_metric::<T>();
        self.metrics_of::<T>(vec![&main], result.candidate.as_ref().unwrap_or(&result.cost));
        self.fact("supernet trained", result.search_secs, Some("secs"));
        result.num_trials.iter().for_each(|trials| self.fact("candidates", *trials, None));
        self.find(Some(result.architecture), &words);
        result.honesty.iter().for_each(|honesty| self.tables.push(honesty_table(honesty)));
        let found = result.latency.map(|found| LatencyReport { found: vec![found], agreement: None });
        found.iter().for_each(|latency| self.tables.push(latency_table(latency)));
        Ok(())
    }

    /// Metrics of what was found, `first` those that it was found by: the task's as fractions, sizes as counts, others as they are.
    fn metrics_of<'a, T: Task>(&mut self, mut first: Vec<&'a str>, metrics: &'a Values) {
        let rest: Vec<&str> = metrics.keys().map(String::as_str).filter(|key| !first.contains(key)).collect();
        first.extend(rest);
        first.retain(|key| !SIZES.contains(key));
        for (key, value) in first.into_iter().filter_map(|key| Some((key, metrics.get(key)?))) {
            let own = key.strip_prefix("supernet_").unwrap_or(key);
            let heading = T::METRICS.iter().find(|(known, _)| *known == own).map(|(_, heading)| *heading);
            let label = match heading {
                Some(heading) if own != key => format!("{heading} by the supernet"),
                Some(heading) => heading.to_string(),
                None => key.to_string(),
            };
            self.fact(&label, *value, heading.map(|_| "fraction"));
        }
        self.sizes(metrics);
    }

    fn find(&mut self, arch: Option<Architecture>, words: &Words) {
        self.found = arch.map(|architecture| Found {
            notation: (words.notation)(&architecture),
            drawing: (words.drawing)(&architecture),
            architecture,
        });
    }
}

fn honesty_table(report: &HonestyReport) -> Table {
    let head = ["estimate", "Kendall", "Spearman", "Kendall, best fifth", "precision", "regret", "rank of its best"];
    let row = |row: &HonestyRow| -> Vec<Value> {
        let numbers =
            [row.kendall, row.spearman, row.kendall_top_fifth, Some(row.precision), Some(row.regret), Some(row.rank)];
        std::iter::once(Value::from(row.estimate.clone())).chain(numbers.map(Value::from)).collect()
    };
    Table {
        title: format!("Estimates against {} on {} random architectures", report.truth, report.samples),
        head: head.map(String::from).to_vec(),
        rows: report.rows.iter().map(row).collect(),
    }
}

fn latency_table(report: &LatencyReport) -> Table {
    let head = ["trial", "predicted ms", "measured ms", "bounds"];
    let row = |found: &FoundLatency| -> Vec<Value> {
        let verdicts = found.verdicts().join("; ");
        vec![found.trial.into(), found.predicted_millis.into(), found.measured_millis.into(), verdicts.into()]
    };
    let agreement = report.agreement.as_ref().map_or(String::new(), |agreement| {
        let Agreement { networks, kendall, median_error } = agreement;
        let error = 100.0 * median_error;
        format!(
            "; predicted against measured, {networks} networks: Kendall's tau {kendall:.3}, median error {error:.1} %"
        )
    });
    Table {
        title: format!("Latency of what was found{agreement}"),
        head: head.map(String::from).to_vec(),
        rows: report.found.iter().map(row).collect(),
    }
}

/// Lines of `metrics.jsonl` with the times of their epochs.
fn epochs(folder: &Path) -> Result<Vec<Metrics>> {
    let (mut lines, marks) = (read_metrics(folder)?, times::read(folder)?);
    for line in &mut lines {
        let Some(epoch) = line.get("epoch").and_then(Value::as_u64) else { continue };
        let Some(mark) = marks.get(&epoch) else { continue };
        let before = epoch.checked_sub(1).and_then(|before| marks.get(&before));
        line.insert("secs".into(), mark.secs.into());
        let speed = mark.images_per_sec(before).filter(|_| before.is_some() || epoch == 1);
        speed.iter().for_each(|speed| _ = line.insert("images_per_sec".into(), (*speed).into()));
    }
    Ok(lines)
}

/// The pictures of a comparison, as many as there is room for.
fn pictures(folder: &Path) -> Result<Vec<Picture>> {
    let mut room = MOST_BYTES;
    let fits = |(_, bytes): &(String, Vec<u8>)| {
        let left = room.checked_sub(bytes.len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    let read = read_pngs(&folder.join("pictures"))?.into_iter().take_while(fits);
    Ok(read.map(|(name, bytes)| Picture::new(name, &bytes)).collect())
}

impl Part {
    /// The log in a folder; none where there is none.
    fn read<T: Task>(
        name: &'static str,
        strategy: &str,
        folder: &Path,
        goals: Goals,
        truth: Option<String>,
        words: &Words,
    ) -> Result<Option<Self>> {
        let path = folder.join("trials.jsonl");
        if !path.exists() {
            return Ok(None);
        }
        let records = log::read(&path)?;
        let marks = times::read(folder)?;
        let on_front = front(&goals, &records);
        let mut trials = Vec::new();
        for (record, front) in records.iter().zip(on_front) {
            let below = trial_folder(&folder.join("trials"), record.trial.id).join("train");
            let observed = goals.observe(record);
            let (metrics, failed) = match &record.outcome {
                Outcome::Metrics(metrics) => (metrics.clone(), None),
                Outcome::Failed(reason) => (Values::new(), Some(reason.clone())),
            };
            trials.push(TrialRow {
                id: record.trial.id,
                arch: record.trial.arch.choices().to_vec(),
                notation: (words.notation)(&record.trial.arch),
                epochs: record.trial.budget.epochs,
                parent: record.trial.parent,
                value: metrics.get(&goals.objectives[0].metric).copied(),
                feasible: observed.values.is_some() && observed.violation == 0.0,
                front,
                metrics,
                failed,
                train_secs: train_secs(&below),
                secs: marks.get(&record.trial.id).map(|mark| mark.secs),
                curve: super::series(&read_metrics(&below)?, T::METRICS[0].0).points,
                drawing: None,
            });
        }
        let mut metrics: Vec<String> = trials.iter().flat_map(|trial| trial.metrics.keys().cloned()).collect();
        metrics.sort();
        metrics.dedup();
        let Goals { objectives, constraints } = goals;
        let decisions = words.decisions.iter().cloned().map(|Decision { name, choices }| Choices { name, choices });
        let (strategy, decisions) = (strategy.to_string(), decisions.collect());
        let drawings = Vec::new();
        let mut part = Self { name, strategy, objectives, constraints, truth, metrics, decisions, trials, drawings };
        part.draw(words.drawing);
        Ok(Some(part))
    }

    /// Draws the architectures, those of the front and the best first, as many as there is room for.
    fn draw(&mut self, drawing: &dyn Fn(&Architecture) -> Option<String>) {
        let sign = self.sign();
        let rank = |trial: &TrialRow| trial.value.map_or(f64::NEG_INFINITY, |value| sign * value);
        let mut order: Vec<usize> = (0..self.trials.len()).filter(|i| self.trials[*i].failed.is_none()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (&self.trials[*a], &self.trials[*b]);
            b.front.cmp(&a.front).then(b.feasible.cmp(&a.feasible)).then(rank(b).total_cmp(&rank(a)))
        });
        let mut room = MOST_BYTES;
        let mut drawn: HashMap<Vec<u16>, usize> = HashMap::new();
        for i in order {
            let arch = &self.trials[i].arch;
            let known = drawn.get(arch).copied();
            let index = match known {
                Some(index) => index,
                None => {
                    let Some(svg) = drawing(&Architecture::new(arch.clone())) else { continue };
                    let Some(left) = room.checked_sub(svg.len()) else { return };
                    room = left;
                    self.drawings.push(svg);
                    drawn.insert(arch.clone(), self.drawings.len() - 1);
                    self.drawings.len() - 1
                }
            };
            self.trials[i].drawing = Some(index);
        }
    }

    /// 1 where more of the main objective is better, else -1.
    fn sign(&self) -> f64 {
        if self.objectives[0].goal == Goal::Maximize { 1.0 } else { -1.0 }
    }

    /// The best trial that meets the constraints.
    fn best(&self) -> Option<&TrialRow> {
        let feasible = self.trials.iter().filter(|trial| trial.feasible);
        let value = |trial: &TrialRow| self.sign() * trial.value.unwrap_or(f64::NEG_INFINITY);
        feasible.rev().max_by(|a, b| value(a).total_cmp(&value(b)))
    }
}

/// Which records no other feasible one dominates.
fn front(goals: &Goals, records: &[Record]) -> Vec<bool> {
    let observed = records.iter().map(|record| goals.observe(record)).enumerate();
    let feasible: Vec<(usize, Point)> = observed
        .filter(|(_, observation)| observation.violation == 0.0)
        .filter_map(|(i, observation)| Some((i, Point::feasible(observation.values?))))
        .collect();
    let mut first: Vec<&(usize, Point)> = Vec::new();
    for candidate in &feasible {
        if first.iter().any(|known| known.1.dominates(&candidate.1)) {
            continue;
        }
        first.retain(|known| !candidate.1.dominates(&known.1));
        first.push(candidate);
    }
    let mut on_front = vec![false; records.len()];
    first.into_iter().for_each(|(i, _)| on_front[*i] = true);
    on_front
}

/// Seconds in steps of a training that has ended.
fn train_secs(folder: &Path) -> Option<f64> {
    let text = read_text(&folder.join("result.json")).ok()?;
    serde_json::from_str::<Value>(&text).ok()?.get("train_secs")?.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_tells_them_apart() {
        let names = |paths: &[&str]| short_names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["/runs/a", "/runs/b/"]), ["a", "b"]);
        assert_eq!(names(&["/x/search", "/y/search"]), ["x/search", "y/search"]);
    }
}
