//! Which trained network a command works with: a run's, or one that has a name, with weights of a file.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use nas_datasets::{Split, require_same_classes};

use crate::run::run_dir::{best_weights, last_weights, read_classes};
use crate::task::Task;
use crate::task::experiment::{self, TrainExperiment, Weights};

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct NetworkArgs {
    /// Run folder of a training
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// In the place of a run: a preset, or an experiment file of kind train
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    pub model: Option<String>,
    /// A file of weights, or `last` for those of the run's last epoch [default: those of its best validation, or those that
    /// come with the program]
    #[arg(long, value_name = "FILE|last")]
    pub weights: Option<PathBuf>,
    /// Replace a key of the config (data.root, eval.resize, ...); may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

impl NetworkArgs {
    /// How it was trained; of a network without a run, what the command says.
    pub fn experiment<T: Task>(&self) -> Result<TrainExperiment<T>> {
        match (&self.run, &self.model) {
            (Some(run), _) => experiment::load(&run.join("config.toml"), &self.sets),
            (None, Some(model)) => experiment::of_model(model, &self.sets),
            (None, None) => bail!("no network: expected --run DIR, or --model NAME with --weights FILE"),
        }
    }

    /// The classes in the order of its outputs; none of a network without a run whose classes are not known.
    pub fn known_classes<T: Task>(&self) -> Result<Option<Vec<String>>> {
        match &self.run {
            Some(run) => read_classes(run).map(Some),
            None => Ok(self.model.as_deref().and_then(T::preset_classes)),
        }
    }

    /// The same, by default those of the data of `experiment`.
    pub fn classes<T: Task>(&self, experiment: &TrainExperiment<T>) -> Result<Vec<String>> {
        let of_data = || Ok(T::classes(&T::open(&experiment.data, Split::Val)?));
        self.known_classes::<T>()?.map_or_else(of_data, Ok)
    }

    /// Refuses a data set whose classes are not those of the network, in its order; `place` names it.
    pub fn require_classes<T: Task>(&self, place: &str, names: &[String]) -> Result<()> {
        let Some(known) = self.known_classes::<T>()? else { return Ok(()) };
        let owner = self.model.as_deref().unwrap_or("the run");
        Ok(require_same_classes(owner, &known, place, names)?)
    }

    /// Its weights.
    pub fn weights<T: Task>(&self) -> Result<Weights> {
        let named = self.weights.as_deref();
        match &self.run {
            Some(run) => Ok(Weights::Named(weights_of(run, named))),
            None => Weights::of_model::<T>(self.model.as_deref().unwrap_or_default(), named),
        }
    }
}

/// The file of the weights of a run, by what its command was given.
pub fn weights_of(run: &Path, named: Option<&Path>) -> PathBuf {
    match named {
        Some(last) if last == Path::new("last") => last_weights(run),
        Some(file) => file.to_path_buf(),
        None => best_weights(run).unwrap_or_else(|| last_weights(run)),
    }
}
