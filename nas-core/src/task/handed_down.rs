//! Weights that a network starts from although they are another network's: those of a trial's parent, or of the run that a search goes
//! around.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor};

use super::commands::export::names;
use super::experiment::{self, TrainExperiment};
use super::supervised::new_network;
use super::{Task, TaskModel};
use crate::estimator::inheritance::{Lineage, inherit};
use crate::optim::Named;
use crate::run::cli::Compute;
use crate::run::export::channels::Channels;
use crate::run::export::{Network, trace};
use crate::run::run_dir::{last_weights, read_classes};
use crate::run::tensor_file::write_tensors_about;
use crate::train::{all_variables, copy_into, read_tensors};

/// Name of the file with the weights of a network that another one handed down.
pub const INHERITED: &str = "inherited.safetensors";

const CPU: Compute = Compute { device: Device::Cpu, threads: 1, amp: false };

/// What the variables of a network are in that of its parent.
pub fn lineage<M: TaskModel>(child: &M, parent: &M) -> Lineage {
    match (child.parts(), parent.parts()) {
        (Some(child), Some(parent)) => Lineage::of_blocks(&child, &parent),
        _ => Lineage::default(),
    }
}

/// Which channels of a network go together.
///
/// # Errors
/// If that cannot be said of it.
pub fn channels_of<T: Task>(variables: Vec<Named>, net: &T::Net) -> Result<Channels> {
    let network = Network {
        variables,
        forward: &|images: &Tensor| T::outputs(net, images),
        outputs: names::<T>(),
        size: (128, 128),
        divisor: 128,
        fixed: None,
        suppressed: None,
    };
    let graph = tch::no_grad(|| trace::trace_at_its_size(&network))?;
    Channels::of(&graph).context("channels that go together")
}

/// A training whose network hands its weights down.
#[derive(Debug)]
pub struct Source<T: Task> {
    /// Its folder.
    run: PathBuf,
    model: T::Model,
    classes: Vec<String>,
    weights: HashMap<String, Tensor>,
    /// What its channels are worth; where that is not asked for the first ones are handed down.
    channels: Option<Channels>,
}

impl<T: Task> Source<T> {
    /// A training that has weights.
    pub fn open(run: &Path) -> Result<Self> {
        let theirs: TrainExperiment<T> = experiment::load(&run.join("config.toml"), &[])?;
        let file = last_weights(run);
        let weights = read_tensors(&file).with_context(|| format!("{}: the weights to start from", file.display()))?;
        Ok(Self { run: run.to_path_buf(), model: theirs.model, classes: read_classes(run)?, weights, channels: None })
    }

    /// The same of a training that has ended, handing down its most important channels to networks that have fewer.
    ///
    /// # Errors
    /// If it has not ended, or if it cannot be said which of its channels go together.
    pub fn by_importance(run: &Path) -> Result<Self> {
        let ended = run.join("result.json").exists();
        ensure!(ended, "{}: no training that has ended (result.json is missing)", run.display());
        let source = Self::open(run)?;
        let (vs, net) = new_network::<T>(&source.model, source.classes.len(), 0, CPU)?;
        let variables = all_variables(&vs);
        copy_into(&variables, &source.weights).with_context(|| format!("{}: other network", run.display()))?;
        let channels = channels_of::<T>(variables, &net).with_context(|| run.display().to_string())?;
        Ok(Self { channels: Some(channels), ..source })
    }

    /// Whether its network is the one of `experiment`.
    pub fn is_of(&self, experiment: &TrainExperiment<T>) -> bool {
        self.model == experiment.model
    }

    /// Makes the initial weights of a training on `classes` those that this one hands down, as a file in `folder`.
    pub fn hand_down(&self, folder: &Path, experiment: &mut TrainExperiment<T>, classes: &[String]) -> Result<()> {
        let (vs, net) = new_network::<T>(&experiment.model, classes.len(), experiment.seed, CPU)?;
        let variables = all_variables(&vs);
        let lineage = lineage(&experiment.model, &self.model);
        let handed = match &self.channels {
            Some(own) => own.handed_to(&channels_of::<T>(all_variables(&vs), &net)?, &lineage),
            None => HashMap::new(),
        };
        let taken = |name: &str, axis: usize| handed.get(&(name.to_string(), axis)).cloned();
        let of_classes = |name: &String| T::CLASS_LAYERS.iter().any(|layer| name.starts_with(layer));
        let other_classes = self.classes != classes;
        let weights = self.weights.iter().filter(|(name, _)| !other_classes || !of_classes(name));
        let weights = weights.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        let count = inherit(&variables, &weights, &lineage, &taken);
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        let path = folder.join(INHERITED);
        let mut about = serde_json::to_value(count)?;
        about["from"] = serde_json::to_value(&self.run)?;
        write_tensors_about(&path, variables, Some(&about))?;
        (experiment.train.init, experiment.train.init_prefix) = (Some(std::path::absolute(path)?), None);
        Ok(())
    }
}
