//! `nas-segment search`: from an experiment file to an architecture.

use std::fmt;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nas_core::arch::Architecture;
use nas_core::cli::{Compute, Format, RunArgs, run_in_folder};
use nas_core::run_dir::{RunDir, write_atomic};
use nas_core::train::{self, LoopConfig, Metrics, write_tensors};
use nas_datasets::Split;
use serde::{Deserialize, Serialize};

use super::{draw_run, require_sound};
use crate::auto_deeplab::{AutoDeepLabSpace, Genotype};
use crate::experiment::{self, SearchExperiment};
use crate::searching::Searching;

/// Search an Auto-DeepLab architecture
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-segment search --config configs/segment/camvid_auto_deeplab.toml --set data.root=../shared/data/camvid
  nas-segment search --config configs/segment/cityscapes_auto_deeplab.toml --set data.root=/data/cityscapes --amp")]
pub struct SearchArgs {
    #[command(flatten)]
    run: RunArgs,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `result.json` of a search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchResult {
    /// The architecture, as configs and `--arch` take it.
    pub architecture: Architecture,
    /// The network's levels and the cell, in the paper's terms.
    pub genotype: String,
    /// Metrics of the supernet after the last epoch.
    pub metrics: Metrics,
    /// Seconds in search steps.
    pub search_secs: f64,
    /// The run folder.
    pub run: String,
}

impl fmt::Display for SearchResult {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "architecture {}\n{}", self.architecture, self.genotype)?;
        write!(f, "searched in {:.0} s; {}/result.json", self.search_secs, self.run)
    }
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> Result<()> {
    let experiment: SearchExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    let method = &experiment.search.method;
    ensure!(
        method.second_stage().is_none(),
        "search.method.kind = {}: it trains a supernet and then compares candidates on it, which nas-segment does not offer yet",
        method.info().kind
    );
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        search(dir, experiment.clone(), compute)
    })
}

fn search(dir: &RunDir, experiment: SearchExperiment, compute: Compute) -> Result<SearchResult> {
    require_sound(&*experiment.data.open(Split::Train)?, "train")?;
    require_sound(&*experiment.data.open(Split::Val)?, "val")?;
    let space = experiment.space.clone();
    let settings = LoopConfig::new(experiment.search.epochs, experiment.seed);
    let mut searching = Searching::new(experiment, compute)?;
    let summary = train::run(&mut searching, "search", dir, settings)?;
    let architecture = searching.derive().context("search.method: it only trains the supernet")?;
    write_tensors(&dir.path("arch_parameters.safetensors"), searching.arch_parameters())?;
    let result = SearchResult {
        genotype: genotype(&space, &architecture)?.to_string(),
        architecture,
        metrics: summary.metrics,
        search_secs: summary.train_secs,
        run: dir.root().display().to_string(),
    };
    write_atomic(&dir.path("architecture.txt"), format!("{result}\n").as_bytes())?;
    draw_run(dir.root())?;
    dir.finish(&result)?;
    Ok(result)
}

fn genotype(space: &AutoDeepLabSpace, architecture: &Architecture) -> Result<Genotype> {
    Ok(space.genotype(architecture)?)
}
