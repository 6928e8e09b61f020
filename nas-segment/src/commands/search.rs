//! `nas-segment search`: from an experiment file to an architecture.

use std::fmt;

use anyhow::{Context, Result};
use clap::Args;
use nas_core::one_shot::{check_constraints, sizes};
use nas_core::run::cli::{Compute, Format, RunArgs, run_in_folder};
use nas_core::run::run_dir::{RunDir, write_atomic};
use nas_core::search::goals::Restricted;
use nas_core::space::Architecture;
use nas_core::space::ChoiceSpace;
use nas_core::train::{self, LoopConfig, Metrics, write_tensors};
use nas_datasets::{Split, rng};
use serde::{Deserialize, Serialize};

use super::{draw_run, require_sound};
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
    /// mIOU by the supernet's weights on held-out training images, where candidates were compared by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supernet_miou: Option<f64>,
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
        self.supernet_miou.iter().try_for_each(|miou| writeln!(f, "mIOU by the supernet {:.2} %", 100.0 * miou))?;
        write!(f, "searched in {:.0} s; {}/result.json", self.search_secs, self.run)
    }
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> Result<()> {
    let experiment: SearchExperiment = experiment::load(&args.run.config, &args.run.sets)?;
    let method = &experiment.search.method;
    check_constraints(&experiment.constraints, method.second_stage().as_ref(), method.info().kind)
        .with_context(|| args.run.config.display().to_string())?;
    run_in_folder(&args.run, Some(experiment.seed), &experiment, args.format, |dir, compute| {
        search(dir, experiment.clone(), compute)
    })
}

fn search(dir: &RunDir, experiment: SearchExperiment, compute: Compute) -> Result<SearchResult> {
    let train_split = experiment.data.open(Split::Train)?;
    require_sound(&*train_split, "train")?;
    require_sound(&*experiment.data.open(Split::Val)?, "val")?;
    let num_classes = train_split.classes().len();
    let any = experiment.space.sample(&mut rng::stream(experiment.seed, "any", 0));
    experiment.cost(&any, num_classes).context("model")?;
    let cost = |arch: &Architecture| sizes(experiment.cost(arch, num_classes).expect("as of any other of the space"));
    let restricted = Restricted::new(&experiment.space, &experiment.constraints, &cost)?;
    let settings = LoopConfig::new(experiment.search.epochs, experiment.seed);
    let mut searching = Searching::new(experiment.clone(), compute)?;
    let summary = train::run(&mut searching, "search", dir, settings)?;
    let (architecture, supernet_miou) = match experiment.search.method.second_stage() {
        None => (searching.derive().context("the method has found no architecture")?, None),
        Some(stage) => {
            let candidates = searching.evaluator(stage.recalibration_batches)?;
            let score = |arch: &Architecture, images| candidates.miou(arch, images);
            let best = stage.best_in_folder(dir, &restricted, experiment.seed, MIOU, score)?;
            let miou = best.metric(MIOU);
            (best.trial.arch, miou)
        }
    };
    let parameters = searching.arch_parameters();
    if !parameters.is_empty() {
        write_tensors(&dir.path("arch_parameters.safetensors"), parameters)?;
    }
    let result = SearchResult {
        genotype: experiment.space.genotype(&architecture)?.to_string(),
        architecture,
        supernet_miou,
        metrics: summary.metrics,
        search_secs: summary.train_secs,
        run: dir.root().display().to_string(),
    };
    write_atomic(&dir.path("architecture.txt"), format!("{result}\n").as_bytes())?;
    draw_run(dir.root())?;
    dir.finish(&result)?;
    Ok(result)
}

/// The metric of a candidate.
const MIOU: &str = "supernet_miou";
