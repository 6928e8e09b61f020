//! The evaluator `train`: a trial is a training of the space's network at the trial's budget, in the trial's folder.
//!
//! A killed trial goes on where it was. A trial with a parent of the same architecture goes on from the parent's last
//! checkpoint, optimizer included; the learning rate follows the schedule of the longer run from there on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nas_core::executor::trial_folder;
use nas_core::nn::Cost;
use nas_core::nn::{Shape, VarBuilder};
use nas_core::run::cli::Compute;
use nas_core::run::config::{self, to_toml};
use nas_core::run::run_dir::{RunDir, write_atomic_with};
use nas_core::search::log as trial_log;
use nas_core::space::Architecture;
use nas_core::space::trial::{Budget, Trial, Values};
use nas_core::task::commands::train::TrainResult;
use nas_core::task::experiment::LoaderSection;
use nas_datasets::classify::{ClassifyDataConfig, ClassifyTransform, Part};
use nas_datasets::{Size, Split};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::commands::train::train;
use crate::metric::Scores;
use crate::model::ModelConfig;
use crate::search_net::SpaceConfig;
use crate::train_experiment::{EvalConfig, TrainConfig, TrainExperiment};

/// `[evaluator]` of kind `train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainEvaluator {
    /// The recipe; its epochs where a trial's budget has none.
    #[serde(default)]
    pub train: TrainConfig,
    /// Images and classes. With `part.hold_out`, trials are scored on held-out train images.
    pub data: ClassifyDataConfig,
    /// What is done to training images.
    #[serde(default)]
    pub augment: ClassifyTransform,
    /// How images are read.
    #[serde(default)]
    pub loader: LoaderSection,
    /// How networks are validated.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// Names of the metrics.
pub const METRICS: [&str; 4] = ["macs", "params", "top1", "top5"];

/// Keys of a model that a budget's channels and cells reduce.
const CHANNELS: &[&str] = &["channels"];
const CELLS: &[&str] = &["cells", "layers"];

impl TrainEvaluator {
    /// The training of an architecture at a budget.
    pub fn experiment(
        &self,
        space: &SpaceConfig,
        arch: &Architecture,
        budget: &Budget,
        seed: u64,
    ) -> Result<TrainExperiment> {
        let part = self.data.part();
        let size = self.augment.size;
        let side = |side: u32| ((f64::from(side) * budget.image).round() as u32).max(1);
        Ok(TrainExperiment {
            seed,
            model: model_of(space, arch, budget)?,
            train: TrainConfig {
                epochs: budget.epochs.map_or(self.train.epochs, |epochs| epochs as usize),
                ..self.train.clone()
            },
            data: self.data.clone().with_part(Part { fraction: part.fraction * budget.data, ..part.clone() }),
            augment: ClassifyTransform {
                size: Size::new(side(size.height()), side(size.width())),
                ..self.augment.clone()
            },
            loader: self.loader.clone(),
            eval: self.eval.clone(),
        })
    }

    /// Parameters and multiply-adds of an architecture at a budget.
    pub fn cost(&self, space: &SpaceConfig, arch: &Architecture, budget: &Budget) -> Result<Values> {
        let experiment = self.experiment(space, arch, budget, 0)?;
        let classes = experiment.data.open(Split::Val)?.classes().len() as i64;
        let size = experiment.augment.size;
        let net = experiment.model.build(&VarBuilder::dry(), classes)?;
        let Cost { params, macs } = net.cost(Shape::new(3, size.height().into(), size.width().into()));
        Ok(Values::from([("params".into(), params as f64), ("macs".into(), macs as f64)]))
    }

    /// Trains in `folder`, the trial's own, and returns the metrics.
    pub fn evaluate(
        &self,
        space: &SpaceConfig,
        trial: &Trial,
        folder: &Path,
        seed: u64,
        compute: Compute,
    ) -> Result<Values> {
        let run = folder.join("train");
        let stored = run.join("config.toml");
        // What a resumed trial started with: the best value so far may be another one by now.
        let experiment: TrainExperiment = match stored.exists() {
            true => config::load(&stored, &[])?,
            false => self.with_best(self.experiment(space, &trial.arch, &trial.budget, seed)?, folder)?,
        };
        let dir = RunDir::open(&run, &to_toml(&experiment), true, trial)?;
        let result: TrainResult<Scores> = match dir.result()? {
            Some(result) => result,
            None => {
                if let Some(parent) = trial.parent {
                    let root = folder.parent().context("a trial's folder lies in the folder of all trials")?;
                    go_on_from(&trial_folder(root, parent).join("train"), &run, &experiment)?;
                }
                train(&dir, experiment, compute)?
            }
        };
        let mut values = Values::from([("top1".into(), result.scores.top1), ("top5".into(), result.scores.top5)]);
        values.extend([("params".into(), result.cost.params as f64), ("macs".into(), result.cost.macs as f64)]);
        Ok(values)
    }

    /// With early stopping: the best value that the log of the search holds is to be beaten.
    fn with_best(&self, mut experiment: TrainExperiment, folder: &Path) -> Result<TrainExperiment> {
        let Some(stop) = &mut experiment.train.early_stop else { return Ok(experiment) };
        let log = folder.parent().and_then(Path::parent).map(|part| part.join("trials.jsonl"));
        if let Some(log) = log.filter(|log| log.exists()) {
            let values = trial_log::read(&log)?.into_iter().filter_map(|record| record.metric("top1"));
            stop.best = values.chain(stop.best).reduce(f64::max);
        }
        Ok(experiment)
    }
}

/// The network of an architecture in the space's size, reduced to the budget.
fn model_of(space: &SpaceConfig, arch: &Architecture, budget: &Budget) -> Result<ModelConfig> {
    let model = space.derive(arch)?;
    if budget.channels == 1.0 && budget.cells == 1.0 {
        return Ok(model);
    }
    let mut table = Table::try_from(model)?;
    scale(&mut table, CHANNELS, budget.channels).context("budget.channels")?;
    scale(&mut table, CELLS, budget.cells).context("budget.cells")?;
    Value::Table(table).try_into().context("the model at the trial's budget")
}

fn scale(table: &mut Table, keys: &[&str], factor: f64) -> Result<()> {
    if factor == 1.0 {
        return Ok(());
    }
    let key = keys.iter().find(|key| table.contains_key(**key));
    let key = key.with_context(|| format!("the model has no key {} to reduce", keys.join(" or ")))?;
    let full = table[*key].as_integer().with_context(|| format!("model.{key} is no number"))?;
    table.insert((*key).into(), Value::Integer(((full as f64 * factor).round() as i64).max(1)));
    Ok(())
}

/// Makes the parent's last checkpoint that of `run`, where `run` has none yet and both train the same network.
fn go_on_from(parent: &Path, run: &Path, experiment: &TrainExperiment) -> Result<()> {
    let last = |run: &Path| -> PathBuf { run.join("checkpoints/last.safetensors") };
    if last(run).exists() {
        return Ok(());
    }
    let theirs: TrainExperiment = config::load(&parent.join("config.toml"), &[])?;
    if theirs.model != experiment.model {
        return Ok(());
    }
    ensure!(last(parent).exists(), "{}: the parent's checkpoint is missing", last(parent).display());
    // The checkpoint comes last: without it everything is copied again.
    for file in ["metrics.jsonl".into(), last(Path::new(""))] {
        let copy = |temporary: &Path| fs::copy(parent.join(&file), temporary).map(drop);
        write_atomic_with(&run.join(&file), copy)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nasbench201::NasBench201Nets;

    fn evaluator() -> TrainEvaluator {
        TrainEvaluator {
            train: TrainConfig::default(),
            data: ClassifyDataConfig::Synth {
                num_images: 100,
                num_val: 20,
                side: 16,
                seed: 0,
                part: Part { fraction: 0.8, ..Part::default() },
            },
            augment: ClassifyTransform::default(),
            loader: LoaderSection::default(),
            eval: EvalConfig::default(),
        }
    }

    #[test]
    fn a_budget_reduces_epochs_data_image_channels_and_cells() {
        let (evaluator, space) = (evaluator(), SpaceConfig::Nasbench201(NasBench201Nets::default()));
        let arch: Architecture = "3-1-0-4-2-3".parse().unwrap();
        let full = evaluator.experiment(&space, &arch, &Budget::default(), 7).unwrap();
        assert_eq!((full.train.epochs, full.seed, full.data.part().fraction), (200, 7, 0.8));
        let budget = Budget { epochs: Some(3), data: 0.5, image: 0.5, channels: 0.5, cells: 0.4 };
        let small = evaluator.experiment(&space, &arch, &budget, 7).unwrap();
        assert_eq!((small.train.epochs, small.data.part().fraction), (3, 0.4));
        assert_eq!(small.augment.size, Size::new(16, 16));
        let keys = Table::try_from(&small.model).unwrap();
        assert_eq!((keys["channels"].as_integer(), keys["cells"].as_integer()), (Some(8), Some(2)));
        assert_eq!(keys["arch"].as_str(), Some("3-1-0-4-2-3"));
        let (large, small) = (
            evaluator.cost(&space, &arch, &Budget::default()).unwrap(),
            evaluator.cost(&space, &arch, &budget).unwrap(),
        );
        assert!(large["params"] > 4.0 * small["params"] && large["macs"] > 30.0 * small["macs"]);
    }

    #[test]
    fn a_space_whose_networks_cannot_be_reduced_is_refused_by_key() {
        let space: SpaceConfig = toml::from_str("kind = 'mobile'").unwrap();
        let arch = space.build().unwrap().sample(&mut nas_datasets::rng::stream(0, "sample", 0));
        let budget = Budget { cells: 0.5, ..Budget::default() };
        let error = evaluator().experiment(&space, &arch, &budget, 0).unwrap_err();
        assert!(format!("{error:#}").contains("budget.cells"), "{error:#}");
    }
}
