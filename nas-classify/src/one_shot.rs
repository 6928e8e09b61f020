//! `[sections]` of an experiment file of `nas-classify search` that trains a supernet.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nas_core::one_shot::{OneShotConfig, SIZES, check_constraints};
use nas_core::run::config;
use nas_core::search::goals::Constraint;
use nas_core::space::trial::Budget;
use nas_core::task::experiment;
use nas_datasets::classify::{ClassifyDataConfig, ClassifyTransform};
use serde::{Deserialize, Serialize};

use crate::experiment::{Evaluator, HonestyConfig};
use crate::model::ModelConfig;
use crate::search_net::SpaceConfig;

/// A search on shared weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneShotExperiment {
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// What to search.
    pub space: SpaceConfig,
    /// How to search.
    pub one_shot: OneShotSection,
    /// Bounds of `params` and `macs` of what a search over the trained supernet may propose.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// How far scores by the trained supernet can be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honesty: Option<HonestyConfig>,
    /// Images and classes.
    pub data: ClassifyDataConfig,
    /// What is done to training images.
    #[serde(default)]
    pub augment: ClassifyTransform,
}

/// `[one_shot]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneShotSection {
    /// The method and its parameters.
    pub method: OneShotConfig,
    /// Passes over the weights' part of the train split. Default: DARTS's.
    #[serde(default = "default_epochs")]
    pub epochs: usize,
    /// Images per step, for weights and architecture each. Default: DARTS's.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Epochs between validations; the last epoch always has one. 0: only the last.
    #[serde(default)]
    pub eval_every: usize,
}

fn default_epochs() -> usize {
    50
}

fn default_batch_size() -> usize {
    64
}

impl OneShotExperiment {
    /// Reads an experiment file; the path of the data becomes absolute.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        let table = experiment::read_table(path, sets, ModelConfig::preset)?;
        let experiment: Self = config::from_table(table, &path.display().to_string())?;
        experiment.check().with_context(|| path.display().to_string())?;
        Ok(experiment)
    }

    /// Whether the file at `path` is one of these: whether it has a section `one_shot`.
    pub fn is_at(path: &Path, sets: &[String]) -> Result<bool> {
        Ok(config::read_table(path, sets)?.contains_key("one_shot"))
    }

    /// What measures the truth of `[honesty]`, and what the section asks; the error says what cannot be served.
    pub fn honesty(&self) -> Result<Option<(&HonestyConfig, Evaluator)>> {
        let Some(honesty) = &self.honesty else { return Ok(None) };
        let truth = honesty.evaluator.as_ref().context("honesty has no evaluator; expected what measures truth")?;
        let truth = Evaluator::open(truth, &self.space, Budget::default(), self.seed).context("honesty.evaluator")?;
        honesty.check(&truth.metrics().into_iter().chain(SIZES).collect::<Vec<_>>())?;
        Ok(Some((honesty, truth)))
    }

    fn check(&self) -> Result<()> {
        ensure!(self.one_shot.epochs > 0, "one_shot.epochs = 0; expected at least 1");
        ensure!(self.one_shot.batch_size > 0, "one_shot.batch_size = 0; expected at least 1");
        let method = &self.one_shot.method;
        check_constraints(&self.constraints, method.second_stage().as_ref(), method.info().kind)
    }
}

/// The experiment of `nas-classify train` that trains what a search has found.
#[derive(Debug, Serialize)]
pub struct Retraining<'a> {
    /// Seed of everything random.
    pub seed: u64,
    /// The network.
    pub model: ModelConfig,
    /// As in the search.
    pub data: &'a ClassifyDataConfig,
    /// As in the search.
    pub augment: &'a ClassifyTransform,
}
