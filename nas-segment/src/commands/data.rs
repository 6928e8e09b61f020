//! `nas-segment data`: check a data set, write a synthetic one.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use nas_core::run::cli::{self, Format, parse_size, print};
use nas_core::run::run_dir::open_output;
use nas_core::task::experiment;
use nas_datasets::{DataConfig, SegDataset, Split, check, shared_images, synth};
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

/// Read every sample of an experiment's data set and list the broken ones
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-segment data check --config configs/segment/cityscapes_auto_deeplab.toml --set data.root=/data/cityscapes")]
struct CheckArgs {
    /// Experiment file; only its [data] section is used
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Replace a key of the experiment file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Write a seeded synthetic street set in Cityscapes' layout
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-segment data synth --out data/street --images 200 --size 128x256 --seed 0")]
struct SynthArgs {
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Training images; a quarter as many validation images come with them
    #[arg(long, value_name = "N")]
    images: usize,
    /// Height and width
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    size: (i64, i64),
    /// Seed of the scenes
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

#[derive(Serialize)]
struct CheckReport {
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
    /// What was left out or looks like a mistake.
    warnings: Vec<String>,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, SplitReport { split, samples, problems, warnings }) in self.splits.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{split}: {samples} samples, {} broken", problems.len())?;
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

fn run_check(args: &CheckArgs) -> Result<()> {
    let data: DataConfig = experiment::load_section(&args.config, &args.sets, "data")?;
    let (train, val) = (data.open(Split::Train)?, data.open(Split::Val)?);
    let splits = [(Split::Train, &train), (Split::Val, &val)].map(|(split, dataset)| SplitReport {
        split: split.to_string(),
        samples: dataset.len(),
        problems: check(&**dataset).iter().map(ToString::to_string).collect(),
        warnings: dataset.warnings().to_vec(),
    });
    let warnings = shared_images(paths(&*train), paths(&*val)).into_iter().collect();
    let broken: usize = splits.iter().map(|split| split.problems.len()).sum();
    print(&CheckReport { splits: splits.into(), warnings }, args.format)?;
    if broken > 0 {
        bail!("{broken} samples are broken");
    }
    Ok(())
}

fn paths(dataset: &dyn SegDataset) -> impl Iterator<Item = Option<&Path>> {
    (0..dataset.len()).map(|i| dataset.image_path(i))
}

fn run_synth(args: &SynthArgs) -> Result<()> {
    let num_val = (args.images / 4).max(1);
    let (h, w) = args.size;
    open_output(&args.out, &cli::job())?;
    synth::write_cityscapes(&args.out, args.images, num_val, (h as u32, w as u32), args.seed)?;
    println!("{} train and {num_val} val images in {}", args.images, args.out.display());
    Ok(())
}
