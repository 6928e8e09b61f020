//! `nas-detect data`: check a data set, write a synthetic one.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use nas_core::run::cli::{self, Format, print};
use nas_core::run::config;
use nas_core::run::run_dir::open_output;
use nas_core::run::words;
use nas_core::task::experiment;
use nas_datasets::det::{DetDataConfig, DetDataset, check, shapes};
use nas_datasets::{Split, shared_images};
use serde::Serialize;

/// Check a data set, or write a synthetic one
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum DataCommand {
    Check(CheckArgs),
    Synth(SynthArgs),
}

/// Read every sample of a data set, list the broken ones and count what was left out
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-detect data check --set data.kind=coco --set data.root=/data/coco
  nas-detect data check --set data.kind=voc --set data.root=/data/VOC2012 --format json")]
struct CheckArgs {
    /// Experiment file; only its [data] section is used
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace a key of the experiment file, or do without one; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Write seeded pictures of circles, squares and triangles in COCO's layout
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-detect data synth --out data/shapes --images 400 --seed 0")]
struct SynthArgs {
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Training images; a quarter as many validation images come with them
    #[arg(long, value_name = "N")]
    images: usize,
    /// Seed of the pictures
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

#[derive(Serialize)]
struct CheckReport {
    classes: Vec<String>,
    splits: Vec<SplitReport>,
    /// What the splits have in common though they should not.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct SplitReport {
    split: String,
    samples: usize,
    /// Samples that cannot be used.
    problems: Vec<String>,
    /// What was left out of samples that can.
    warnings: Vec<String>,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let classes: Vec<_> = self.classes.iter().map(|name| words::name(name)).collect();
        write!(f, "{} classes: {}", classes.len(), classes.join(", "))?;
        for SplitReport { split, samples, problems, warnings } in &self.splits {
            write!(f, "\n{split}: {samples} samples, {} broken", problems.len())?;
            problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))?;
            warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

/// Runs the command.
pub fn run(args: &DataArgs) -> Result<()> {
    match &args.command {
        DataCommand::Check(args) => run_check(args),
        DataCommand::Synth(args) => run_synth(args),
    }
}

fn load(args: &CheckArgs) -> Result<DetDataConfig> {
    let Some(path) = &args.config else {
        let mut table = Default::default();
        config::apply_all(&mut table, &args.sets)?;
        return Ok(config::section(table, "data", "--set")?);
    };
    experiment::load_section(path, &args.sets, "data")
}

fn run_check(args: &CheckArgs) -> Result<()> {
    ensure!(args.config.is_some() || !args.sets.is_empty(), "no data set named: expected --config, or --set data.kind");
    let data = load(args)?;
    let [train, val] = data.open_both()?;
    let splits = [(Split::Train, &train), (Split::Val, &val)].map(|(split, dataset)| SplitReport {
        split: split.to_string(),
        samples: dataset.len(),
        problems: check(&**dataset).iter().map(ToString::to_string).collect(),
        warnings: dataset.warnings().to_vec(),
    });
    let shared = shared_images(paths(&*train), paths(&*val));
    let broken: usize = splits.iter().map(|split| split.problems.len()).sum();
    print(
        &CheckReport {
            classes: train.classes().names().to_vec(),
            splits: splits.into(),
            warnings: shared.into_iter().collect(),
        },
        args.format,
    )?;
    if broken > 0 {
        bail!("{broken} samples are broken");
    }
    Ok(())
}

fn paths(dataset: &dyn DetDataset) -> impl Iterator<Item = Option<&Path>> {
    (0..dataset.len()).map(|i| dataset.image_path(i))
}

fn run_synth(args: &SynthArgs) -> Result<()> {
    let num_val = (args.images / 4).max(1);
    open_output(&args.out, &cli::job())?;
    shapes::write_coco(&args.out, args.images, num_val, args.seed)?;
    println!("{} train and {num_val} val images in {}", args.images, args.out.display());
    Ok(())
}
