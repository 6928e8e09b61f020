//! `[latency]` of a search: the time that networks take on a device, predicted from a table before a trial, measured by a command, or
//! both, and how far they agree.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nas_datasets::{Split, rng};
use rand::seq::IndexedRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::evaluator::{PLACEHOLDERS, cost_input, filled, placeholders};
use super::experiment::{OneShotExperiment, SearchExperiment, Setting, TrainExperiment};
use super::searched::SearchedSpace;
use super::supervised::cost_of;
use super::zero_cost::LATENCY;
use super::{CostFunction, Task, TaskSpace};
use crate::executor;
use crate::nn::Shape;
use crate::nn::layers::{self, Layer};
use crate::one_shot::{CostOf, CostTable};
use crate::run::config::to_toml;
use crate::run::run_dir::{open_to_append, write_atomic};
use crate::run::words;
use crate::search::analysis::vocabulary::Decision;
use crate::search::goals::Constraint;
use crate::search::layers::LayerTable;
use crate::search::operators::OperatorTable;
use crate::search::table::Table;
use crate::space::trial::{Budget, Record, Trial, Values};
use crate::space::{ArchParameter, Architecture, ChoiceSpace, WeightSharing};
use crate::stats::{kendall_tau, median};

/// Name of the metric of [`LatencyConfig::predict`].
pub const PREDICTED_LATENCY: &str = "predicted_latency_millis";

/// Name in braces of the folder that a command of [`MeasuredLatency`] may read.
const FOLDER: &str = "folder";

/// `[latency]`: the time of one image on a device, as the metrics `predicted_latency_millis` and `latency_millis`, which objectives and
/// constraints may name. The result says what both are of the networks that were found, and whether they keep the bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyConfig {
    /// What `predicted_latency_millis` is read from: known before a trial, so that no architecture beyond a bound is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predict: Option<PredictedLatency>,
    /// What measures `latency_millis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<MeasuredLatency>,
}

/// Where a latency is known from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PredictedLatency {
    /// Architectures that were measured.
    Table {
        /// CSV file, gzipped or plain, with a column `arch`. An empty cell or a negative number means that the network does not run
        /// there.
        path: PathBuf,
        /// Column of the milliseconds.
        column: String,
    },
    /// Operators that were measured, whose sum is the network's latency.
    Operators {
        /// CSV file with the columns `decision`, `choice` and `millis`: a row for every choice of every decision of the space, by
        /// name or number, and one without decision and choice for the rest of the network.
        path: PathBuf,
    },
    /// Layers that were measured, as the command `latency-table` does: their sum and a fixed part, for networks of any space. A layer
    /// that the file lacks takes what the most similar one does, times the ratio of their multiply-adds.
    Layers {
        /// CSV file with the columns `layer` and `millis`.
        path: PathBuf,
    },
}

/// A program that measures a latency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasuredLatency {
    /// Program and arguments, which prints one JSON object with `latency_millis` on its last line, as the command `latency` does.
    /// Names in braces are those of an evaluator of kind command, and `{folder}`: a folder with `train.toml`, the experiment of
    /// the network's training (where there are data), and, of trials that train, that training's run folder `train`.
    pub command: Vec<String>,
    /// Which networks are measured.
    #[serde(default)]
    pub when: When,
}

/// Which networks are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The best one and the Pareto set, when the search has ended.
    #[default]
    Found,
    /// That of every trial: `latency_millis` is one of its metrics.
    Trials,
}

impl LatencyConfig {
    /// Says what makes no sense.
    pub fn check(&self) -> Result<()> {
        let Self { predict, measure } = self;
        ensure!(predict.is_some() || measure.is_some(), "latency: expected `predict`, `measure` or both");
        measure.as_ref().map_or(Ok(()), |measure| {
            ensure!(
                !measure.command.is_empty(),
                "latency.measure.command is empty; expected a program and its arguments"
            );
            Ok(())
        })
    }

    /// Whether trials end in a measured latency.
    pub fn of_trials(&self) -> bool {
        self.measure.as_ref().is_some_and(|measure| measure.when == When::Trials)
    }
}

/// Latencies that are known before a trial.
#[derive(Clone)]
enum Prediction<T: Task> {
    Table(Table, usize),
    Operators(OperatorTable),
    Layers(Arc<(LayerTable, NetworkLayers<T>)>),
}

/// What knows the layers of the network of an architecture.
pub struct NetworkLayers<T: Task> {
    space: SearchedSpace<T>,
    model: Option<T::Model>,
    /// Number of classes.
    pub classes: usize,
    /// The image that costs are counted for.
    pub input: Shape,
}

impl<T: Task> NetworkLayers<T> {
    /// Of a search, whose data say what images and classes are.
    pub fn new(
        space: SearchedSpace<T>,
        model: Option<T::Model>,
        setting: &Setting<T>,
        cost_size: Option<(i64, i64)>,
    ) -> Result<Self> {
        let train = T::open(&setting.data, Split::Train)?;
        let input = cost_input::<T>(cost_size, setting, &train)?;
        Ok(Self { space, model, classes: T::classes(&train).len(), input })
    }

    /// The decisions.
    pub fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        self.space.choices()
    }

    /// What an architecture alone decides.
    pub fn costs(&self) -> Result<CostFunction> {
        self.space.costs(self.model.as_ref(), self.classes, self.input)
    }

    /// The network of an architecture.
    pub fn model(&self, arch: &Architecture) -> Result<T::Model> {
        self.space.derive(self.model.as_ref(), arch)
    }

    /// Its layers.
    pub fn of(&self, arch: &Architecture) -> Result<Vec<Layer>> {
        let model = self.model(arch)?;
        let (cost, layers) = layers::noted(|| cost_of::<T>(&model, self.classes, self.input));
        cost.map(|_| layers)
    }
}

/// The training of an architecture; none without data to train on.
type Training<T> = Arc<dyn Fn(&Architecture) -> Result<Option<TrainExperiment<T>>> + Send + Sync>;

/// A `[latency]` that is ready.
#[derive(Clone)]
pub struct Latencies<T: Task> {
    space: SearchedSpace<T>,
    seed: u64,
    constraints: Vec<Constraint>,
    training: Training<T>,
    prediction: Option<Prediction<T>>,
    measure: Option<MeasuredLatency>,
}

impl<T: Task> Latencies<T> {
    /// Opens what the `[latency]` of a search by trials names; none where there is no such section.
    pub fn open(experiment: &SearchExperiment<T>) -> Result<Option<Self>> {
        let SearchExperiment { latency, space, seed, constraints, .. } = experiment.clone();
        let experiment = experiment.clone();
        let layers = || {
            NetworkLayers::new(space.clone(), experiment.model.clone(), &experiment.setting()?, experiment.cost_size)
        };
        let training = {
            let experiment = experiment.clone();
            move |arch: &Architecture| experiment.training_of(arch)
        };
        Self::of(latency, space.clone(), seed, constraints, Arc::new(training), layers)
    }

    /// The same of a search on shared weights.
    pub fn of_shared(experiment: &OneShotExperiment<T>) -> Result<Option<Self>> {
        let OneShotExperiment { latency, space, seed, constraints, .. } = experiment.clone();
        let experiment = experiment.clone();
        let space = SearchedSpace::of_task(space);
        let OneShotExperiment { model, cost_size, .. } = experiment.clone();
        let layers = || NetworkLayers::new(space.clone(), model, &experiment.setting(), cost_size);
        let training = {
            let experiment = experiment.clone();
            move |arch: &Architecture| experiment.training_of(arch, None).map(Some)
        };
        Self::of(latency, space.clone(), seed, constraints, Arc::new(training), layers)
    }

    fn of(
        latency: Option<LatencyConfig>,
        searched: SearchedSpace<T>,
        seed: u64,
        constraints: Vec<Constraint>,
        training: Training<T>,
        layers: impl FnOnce() -> Result<NetworkLayers<T>>,
    ) -> Result<Option<Self>> {
        let Some(LatencyConfig { predict, measure }) = latency else { return Ok(None) };
        let SearchedSpace { space, recipe } = &searched;
        let prediction = match predict {
            None => None,
            Some(PredictedLatency::Operators { path }) => {
                let table = OperatorTable::read(&path, &space.names()?).context("latency.predict")?;
                Some(Prediction::Operators(table))
            }
            Some(PredictedLatency::Layers { path }) => {
                let table = LayerTable::read(&path).context("latency.predict")?;
                let layers = layers().context("latency.predict of kind \"layers\"")?;
                Some(Prediction::Layers(Arc::new((table, layers))))
            }
            Some(PredictedLatency::Table { path, column }) => {
                let choices = space.choices()?;
                let parse = |text: &str| {
                    let arch = space.parse(text)?;
                    choices.validate(&arch)?;
                    Ok(arch)
                };
                let table = Table::read(&[path], &parse).and_then(|table| table.without_negatives(&[]));
                let table = table.context("latency.predict")?;
                let column = table.column(&column).context("latency.predict.column")?;
                Some(Prediction::Table(table, column))
            }
        };
        if let Some(measure) = &measure {
            let recipe = recipe.choices()?;
            let known: Vec<&str> =
                PLACEHOLDERS.into_iter().chain([FOLDER]).chain(recipe.keys().map(String::as_str)).collect();
            words::check_placeholders("latency.measure.command", &measure.command, &known)?;
        }
        Ok(Some(Self { space: searched, seed, constraints, training, prediction, measure }))
    }

    /// The microseconds of every entry of the architecture parameters of `space`, from a table of operators or layers; none without
    /// one. An error where a choice does not run, or what it takes depends on other choices.
    fn prices(&self, space: &dyn WeightSharing) -> Result<Option<CostTable>> {
        let Some(Prediction::Operators(_) | Prediction::Layers(_)) = &self.prediction else { return Ok(None) };
        let parameters = space.arch_parameters();
        let rows = |parameter: &ArchParameter| {
            let options = parameter.dims[parameter.dims.len() - 1] as usize;
            let exists = |row: usize, i: &usize| parameter.exists.get(row * options + i).copied().unwrap_or(true);
            let rows = 0..parameter.dims.iter().product::<i64>() as usize / options;
            rows.map(|row| (0..options).filter(|i| exists(row, i)).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        // By parameter and row, the options that there are.
        let options: Vec<Vec<Vec<usize>>> = parameters.iter().map(rows).collect();
        let arch_of = |picked: &[Vec<Option<usize>>]| {
            let weights = |(parameter, rows): (&ArchParameter, &Vec<Option<usize>>)| {
                let weights = Tensor::zeros(&parameter.dims[..], (Kind::Float, Device::Cpu));
                rows.iter()
                    .enumerate()
                    .for_each(|(row, of)| of.iter().for_each(|option| choose(&weights, row, *option)));
                weights
            };
            space.discretize(&parameters.iter().zip(picked).map(weights).collect::<Vec<_>>())
        };
        let pick = |of: &mut dyn FnMut(&[usize]) -> Option<usize>| -> Vec<Vec<Option<usize>>> {
            options.iter().map(|rows| rows.iter().map(|some| of(some)).collect()).collect()
        };
        let firsts = pick(&mut |of| of.first().copied());
        let first = arch_of(&firsts);
        let micros = |arch: &Architecture| {
            let missing = || {
                let place = self.space.names().ok().zip(differing(arch, &first).first().copied());
                let named = |(names, i): (Vec<Decision>, usize)| {
                    format!("{},{}", names[i].name, names[i].choices[usize::from(arch.choices()[i])])
                };
                format!("{} does not run there; leave it out of the space", place.map_or(arch.to_string(), named))
            };
            self.predicted(arch).map(|millis| 1e3 * millis).with_context(missing)
        };
        let fixed = micros(&first)?;
        let mut prices: Vec<Vec<f64>> = Vec::new();
        for (at, parameter) in parameters.iter().enumerate() {
            let width = parameter.dims[parameter.dims.len() - 1] as usize;
            let mut of = vec![0.0; width * options[at].len()];
            for (row, some) in options[at].iter().enumerate() {
                for option in some {
                    let mut picked = firsts.clone();
                    picked[at][row] = Some(*option);
                    of[row * width + option] = micros(&arch_of(&picked))? - fixed;
                }
            }
            prices.push(of);
        }
        let mut rng = rng::stream(0, "prices", 0);
        for _ in 0..8 {
            let picked = pick(&mut |of| of.choose(&mut rng).copied());
            let of_rows = |(prices, rows): (&Vec<f64>, &Vec<Option<usize>>)| -> f64 {
                let width = prices.len() / rows.len().max(1);
                rows.iter().enumerate().filter_map(|(row, option)| Some(prices[row * width + (*option)?])).sum()
            };
            let sum = fixed + prices.iter().zip(&picked).map(of_rows).sum::<f64>();
            let arch = arch_of(&picked);
            let found = micros(&arch)?;
            ensure!(
                (sum - found).abs() <= 1e-6 * found.abs(),
                "what a choice of the space {} takes depends on others: {arch} takes {:.3} ms, its choices {:.3}",
                space.name(),
                found / 1e3,
                sum / 1e3
            );
        }
        Ok(Some((fixed, prices)))
    }

    /// Names of the metrics of a trial.
    pub fn metrics(&self) -> Vec<String> {
        let predicted = self.prediction.iter().map(|_| PREDICTED_LATENCY);
        predicted.chain(self.of_trials().then_some(LATENCY)).map(String::from).collect()
    }

    fn of_trials(&self) -> bool {
        self.measure.as_ref().is_some_and(|measure| measure.when == When::Trials)
    }

    /// The prediction for an architecture of the search's space; none where its network does not run, or none is made.
    fn predicted(&self, arch: &Architecture) -> Option<f64> {
        let network = self.space.network_of(arch).ok()?;
        match self.prediction.as_ref()? {
            Prediction::Table(table, column) => table.get(&network, *column),
            Prediction::Operators(table) => table.cost(&network),
            Prediction::Layers(layers) => layers.1.of(arch).ok().map(|of| layers.0.millis(&of)),
        }
    }

    /// What is known before a trial: NaN, which breaks every bound, where a network does not run.
    pub fn cost(&self, arch: &Architecture) -> Values {
        let known = self.prediction.iter().map(|_| self.predicted(arch).unwrap_or(f64::NAN));
        known.map(|millis| (PREDICTED_LATENCY.to_string(), millis)).collect()
    }

    /// The metrics of a trial, whose own folder is `folder`.
    pub fn evaluate(&self, trial: &Trial, folder: &Path) -> Result<Values> {
        let mut values: Values =
            self.predicted(&trial.arch).map(|millis| (PREDICTED_LATENCY.to_string(), millis)).into_iter().collect();
        if self.of_trials() {
            values.insert(LATENCY.into(), self.measured(trial, folder)?);
        }
        Ok(values)
    }

    /// Runs the command for a trial's network.
    fn measured(&self, trial: &Trial, folder: &Path) -> Result<f64> {
        let command = &self.measure.as_ref().context("latency.measure is missing")?.command;
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        if let Some(training) = (self.training)(&trial.arch)? {
            write_atomic(&folder.join("train.toml"), to_toml(&training).as_bytes())?;
        }
        let mut names = placeholders(&self.space, self.seed, trial)?;
        names.push((FOLDER.into(), std::path::absolute(folder)?.display().to_string()));
        let log = open_to_append(&folder.join("latency.log"))?;
        let asked = [LATENCY.to_string()];
        let values = executor::run_program(filled(command, &names), &asked, Some(log)).context("latency.measure")?;
        // Whatever else it prints is not of the trial.
        let millis = values[LATENCY];
        ensure!(millis > 0.0 && millis.is_finite(), "latency.measure: {LATENCY} = {millis}; expected more than 0");
        Ok(millis)
    }

    /// What is known of the network that a search on shared weights has found; measures it in `folder`.
    pub fn found(&self, arch: &Architecture, folder: &Path) -> Result<FoundLatency> {
        let trial = Trial { id: 0, arch: arch.clone(), budget: Budget::default(), parent: None };
        Ok(FoundLatency { trial: None, ..self.of_trial(&trial, None, folder)? })
    }

    /// What is known of the network of a trial, whose metrics have `measured`; measures it in `folder` where that is to be done now.
    fn of_trial(&self, trial: &Trial, measured: Option<f64>, folder: &Path) -> Result<FoundLatency> {
        let measured = if self.of_found() { Some(self.measured(trial, folder)?) } else { measured };
        Ok(FoundLatency::new(Some(trial.id), self.predicted(&trial.arch), measured, &self.constraints))
    }

    fn of_found(&self) -> bool {
        self.measure.as_ref().is_some_and(|measure| measure.when == When::Found)
    }

    /// What is known of the networks that a search has found: those of trials `(id, architecture)`, with their metrics among `records`.
    /// Measures them, in folders of their own below `folder`, where that is to be done now.
    pub fn report(&self, found: &[u64], records: &[Record], folder: &Path) -> Result<LatencyReport> {
        let measures = self.of_found();
        let one = |record: &Record| {
            let folder = folder.join(format!("{:05}", record.trial.id));
            self.of_trial(&record.trial, record.metric(LATENCY), &folder)
        };
        let of = |id: &u64| records.iter().find(|record| record.trial.id == *id);
        let found = found.iter().filter_map(of).map(one).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<(f64, f64)> = match measures {
            true => found.iter().filter_map(|found| found.predicted_millis.zip(found.measured_millis)).collect(),
            false => {
                let pair = |record: &Record| self.predicted(&record.trial.arch).zip(record.metric(LATENCY));
                records.iter().filter_map(pair).collect()
            }
        };
        Ok(LatencyReport { found, agreement: Agreement::of(&pairs) })
    }
}

/// Gives a row of `weights`, `[..., options]`, to one option.
fn choose(weights: &Tensor, row: usize, option: usize) {
    let row = weights.view([-1, weights.size()[weights.dim() - 1]]).get(row as i64);
    let _ = row.shallow_clone().fill_(0.0);
    let _ = row.get(option as i64).fill_(1.0);
}

/// Decisions in which two architectures differ.
fn differing(a: &Architecture, b: &Architecture) -> Vec<usize> {
    (0..a.choices().len()).filter(|i| a.choices()[*i] != b.choices()[*i]).collect()
}

/// What the choices of a search on shared weights take, where its method counts cost in that.
pub fn priced_latency<T: Task>(experiment: &OneShotExperiment<T>) -> Result<Option<CostTable>> {
    if experiment.one_shot.method.cost_of() != Some(CostOf::Latency) {
        return Ok(None);
    }
    let latencies = Latencies::of_shared(experiment)?;
    let prices = latencies.map(|latencies| latencies.prices(&*experiment.space.shared()?)).transpose();
    let prices = prices.context("one_shot.method.cost.of = \"latency\"")?.flatten();
    prices.map(Some).context(
        "one_shot.method.cost.of = \"latency\" without a table; expected latency.predict of kind \"operators\" or \"layers\"",
    )
}

/// What is known of the latency of a network that a search has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundLatency {
    /// Its trial, where it is one of a search by trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<u64>,
    /// From the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_millis: Option<f64>,
    /// By the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_millis: Option<f64>,
    /// The bounds of the search, and whether what was measured, or else what was predicted, keeps them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<(Constraint, bool)>,
}

impl FoundLatency {
    fn new(
        trial: Option<u64>,
        predicted_millis: Option<f64>,
        measured_millis: Option<f64>,
        constraints: &[Constraint],
    ) -> Self {
        let value = measured_millis.or(predicted_millis);
        let of_latency = |bound: &&Constraint| [LATENCY, PREDICTED_LATENCY].contains(&bound.metric.as_str());
        let bounds = constraints.iter().filter(of_latency);
        let bounds = bounds.map(|bound| (bound.clone(), bound.violation(value.as_ref()) == 0.0)).collect();
        Self { trial, predicted_millis, measured_millis, bounds }
    }

    /// What the bounds are and whether they are met, such as `at most 10: met`.
    pub fn verdicts(&self) -> Vec<String> {
        let verdict = |(bound, met): &(Constraint, bool)| {
            format!("{}: {}", bound.bounds().trim(), if *met { "met" } else { "NOT met" })
        };
        self.bounds.iter().map(verdict).collect()
    }
}

impl fmt::Display for FoundLatency {
    /// Such as `trial 3: predicted 8.00 ms, measured 9.00 ms (+12.5 %); at most 10: met`, or the same without a trial.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { trial, predicted_millis, measured_millis, .. } = self;
        let part = |name: &str, millis: &Option<f64>| millis.map(|millis| format!("{name} {millis:.2} ms"));
        let parts: Vec<String> =
            [part("predicted", predicted_millis), part("measured", measured_millis)].into_iter().flatten().collect();
        trial.iter().try_for_each(|trial| write!(f, "trial {trial}: "))?;
        write!(f, "{}", if parts.is_empty() { "unknown".into() } else { parts.join(", ") })?;
        if let Some((predicted, measured)) = predicted_millis.zip(*measured_millis) {
            write!(f, " ({:+.1} %)", 100.0 * (measured / predicted - 1.0))?;
        }
        self.verdicts().iter().try_for_each(|verdict| write!(f, "; {verdict}"))
    }
}

/// How far predictions agree with measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Networks that have both.
    pub networks: usize,
    /// Kendall's tau-b of both.
    pub kendall: f64,
    /// Median of |predicted - measured| / measured.
    pub median_error: f64,
}

impl Agreement {
    /// Of `(predicted, measured)`; none of fewer than two.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        if pairs.len() < 2 {
            return None;
        }
        let (predicted, measured): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let errors: Vec<f64> =
            pairs.iter().map(|(predicted, measured)| (predicted - measured).abs() / measured).collect();
        Some(Self { networks: pairs.len(), kendall: kendall_tau(&predicted, &measured), median_error: median(&errors) })
    }
}

/// What a search says of latency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// The networks that it has found, the best first.
    pub found: Vec<FoundLatency>,
    /// Over all networks that have a prediction and a measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
}

impl fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "latency:")?;
        self.found.iter().try_for_each(|found| write!(f, "\n  {found}"))?;
        self.agreement.iter().try_for_each(|Agreement { networks, kendall, median_error }| {
            let error = 100.0 * median_error;
            write!(f, "\n  predicted against measured, {networks} networks: Kendall's tau {kendall:.3}, median error {error:.1} %")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(metric: &str, upper: f64) -> Constraint {
        Constraint { metric: metric.into(), upper: Some(upper), lower: None }
    }

    #[test]
    fn what_was_measured_decides_whether_a_bound_is_met() {
        let bounds = [at_most("params", 1.0), at_most(PREDICTED_LATENCY, 10.0)];
        let found = |predicted, measured| FoundLatency::new(Some(3), predicted, measured, &bounds).to_string();
        assert_eq!(
            found(Some(8.0), Some(9.0)),
            "trial 3: predicted 8.00 ms, measured 9.00 ms (+12.5 %); at most 10: met"
        );
        assert_eq!(
            found(Some(8.0), Some(12.0)),
            "trial 3: predicted 8.00 ms, measured 12.00 ms (+50.0 %); at most 10: NOT met"
        );
        assert_eq!(found(Some(8.0), None), "trial 3: predicted 8.00 ms; at most 10: met");
        assert_eq!(found(None, None), "trial 3: unknown; at most 10: NOT met");
    }

    #[test]
    fn predictions_are_compared_with_measurements() {
        assert_eq!(Agreement::of(&[(1.0, 2.0)]), None);
        let found = Agreement::of(&[(1.0, 2.0), (3.0, 4.0), (8.0, 8.0)]).unwrap();
        assert_eq!(found, Agreement { networks: 3, kendall: 1.0, median_error: 0.25 });
    }

    #[test]
    fn a_section_predicts_or_measures() {
        let check = |text: &str| toml::from_str::<LatencyConfig>(text).map_err(anyhow::Error::from)?.check();
        assert!(check("").unwrap_err().to_string().contains("latency: expected `predict`, `measure` or both"));
        assert!(
            check("measure = { command = [] }").unwrap_err().to_string().contains("latency.measure.command is empty")
        );
        assert!(check("predict = { kind = 'operators', path = 'x' }").is_ok());
        assert!(check("predict = { kind = 'operators', path = 'x', column = 'y' }").is_err());
        assert!(check("measure = { command = ['x'], when = 'never' }").is_err());
    }
}
