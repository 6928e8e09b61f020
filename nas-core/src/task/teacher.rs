//! A trained network that a training learns from beside its labels (knowledge distillation).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nas_datasets::require_same_classes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Tensor, nn::VarStore};

use super::experiment::{self, Setting, TrainExperiment};
use super::supervised::trained_network;
use super::{Losses, Task};
use crate::nn::{autocast, distillation};
use crate::run::cli::Compute;
use crate::run::run_dir::{last_weights, read_classes};

/// `[train.teacher]`: a trained network whose predictions of the same images are learned beside the labels (Hinton et al. 2015, arXiv
/// 1503.02531).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Teacher")]
pub struct TeacherConfig {
    /// The folder of a training that has ended, of the same classes and the same normalisation of images.
    pub run: PathBuf,
    /// Share of the loss that is the teacher's; the rest is the labels'.
    #[serde(default = "half")]
    pub weight: f64,
    /// What the logits of both are divided by.
    #[serde(default = "one")]
    pub temperature: f64,
}

fn half() -> f64 {
    0.5
}

fn one() -> f64 {
    1.0
}

/// The network of a [`TeacherConfig`].
pub(super) struct Teacher<T: Task> {
    config: TeacherConfig,
    net: T::Net,
    /// Keeps the weights.
    _vs: VarStore,
    compute: Compute,
}

impl<T: Task> Teacher<T> {
    /// # Errors
    /// If its training has not ended, knows other classes, or sees other numbers in the same image.
    pub fn open(config: TeacherConfig, setting: &Setting<T>, classes: &[String], compute: Compute) -> Result<Self> {
        let run = &config.run;
        let name = run.display().to_string();
        ensure!(run.join("result.json").exists(), "{name}: no training that has ended (result.json is missing)");
        let theirs: TrainExperiment<T> = experiment::load(&run.join("config.toml"), &[])?;
        require_same_classes("the teacher", &read_classes(run)?, "the data", classes).with_context(|| name.clone())?;
        let [theirs_sees, sees] = [&theirs.augment, &setting.augment].map(normalisation::<T>);
        ensure!(
            theirs_sees == sees,
            "{name}: its images are normalised by {theirs_sees}, here by {sees}; expected the same"
        );
        let (vs, net) = trained_network::<T>(&theirs.model, classes.len(), &last_weights(run), compute)?;
        Ok(Self { config, net, _vs: vs, compute })
    }

    /// The losses of a network's pass over `images`, with what the teacher says of them.
    pub fn losses(&self, (losses, logits): (Losses, Option<Tensor>), images: &Tensor) -> Result<Losses> {
        let TeacherConfig { weight, temperature, .. } = self.config;
        let said = tch::no_grad(|| autocast(self.compute.amp, || T::outputs(&self.net, images)));
        let logits = logits.context("the network gives no logits")?;
        let learned = distillation(&said[0], &logits, temperature);
        let Losses { total, shown, mut parts } = losses;
        parts.push(("label_loss", shown.unwrap_or_else(|| total.shallow_clone())));
        parts.push(("teacher_loss", learned.shallow_clone()));
        Ok(Losses { total: total * (1.0 - weight) + learned * weight, shown: None, parts })
    }
}

/// What a task makes of the values of pixels.
fn normalisation<T: Task>(augment: &T::Augment) -> Value {
    let augment = json!(augment);
    ["mean", "std"].iter().map(|key| (key.to_string(), augment[key].clone())).collect()
}
