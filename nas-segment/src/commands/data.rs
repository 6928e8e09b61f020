//! `nas-segment data`: check a data set, write a synthetic one.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use nas_core::run::cli::{Format, parse_size, print};
use nas_core::task::experiment;
use nas_datasets::{DataConfig, Split, check, synth};
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
}

#[derive(Serialize)]
struct SplitReport {
    split: String,
    samples: usize,
    problems: Vec<String>,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, SplitReport { split, samples, problems }) in self.splits.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{split}: {samples} samples, {} broken", problems.len())?;
            problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))?;
        }
        Ok(())
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
    let mut splits = Vec::new();
    for split in [Split::Train, Split::Val] {
        let dataset = data.open(split)?;
        let problems = check(&*dataset).iter().map(ToString::to_string).collect();
        splits.push(SplitReport { split: split.to_string(), samples: dataset.len(), problems });
    }
    let broken: usize = splits.iter().map(|split| split.problems.len()).sum();
    print(&CheckReport { splits }, args.format)?;
    if broken > 0 {
        bail!("{broken} samples are broken");
    }
    Ok(())
}

fn run_synth(args: &SynthArgs) -> Result<()> {
    let num_val = (args.images / 4).max(1);
    let (h, w) = args.size;
    synth::write_cityscapes(&args.out, args.images, num_val, (h as u32, w as u32), args.seed)?;
    println!("{} train and {num_val} val images in {}", args.images, args.out.display());
    Ok(())
}
