//! `nas-classify data`: check a data set.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use nas_core::run::cli::{Format, print};
use nas_core::task::experiment;
use nas_datasets::classify::{ClassifyDataConfig, ClassifyDataset, check};
use nas_datasets::{Split, require_same_classes, shared_images};
use serde::Serialize;

/// Check a data set
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum DataCommand {
    Check(CheckArgs),
}

/// Read every sample of an experiment's data set and list the broken ones
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example:
  nas-classify data check --config configs/classify/cifar10_small.toml --set data.root=/data/cifar10")]
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
    /// Samples of each class, in the order of the set.
    classes: Vec<(String, usize)>,
    problems: Vec<String>,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, SplitReport { split, samples, classes, problems }) in self.splits.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            let counts = classes.iter().map(|(_, count)| *count);
            let (least, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
            let broken = problems.len();
            write!(f, "{newline}{split}: {samples} samples, {broken} broken, {} classes", classes.len())?;
            write!(f, " of {least} to {most} samples")?;
            problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

/// Runs the command.
pub fn run(args: &DataArgs) -> Result<()> {
    let DataCommand::Check(args) = &args.command;
    let data: ClassifyDataConfig = experiment::load_section(&args.config, &args.sets, "data")?;
    let mut splits = Vec::new();
    let (train, val) = (data.open(Split::Train)?, data.open(Split::Val)?);
    require_same_classes("the train split", train.classes(), "the val split", val.classes())?;
    for (split, dataset) in [(Split::Train, &train), (Split::Val, &val)] {
        let mut counts = vec![0; dataset.classes().len()];
        (0..dataset.len()).for_each(|i| counts[dataset.label(i)] += 1);
        splits.push(SplitReport {
            split: split.to_string(),
            samples: dataset.len(),
            classes: dataset.classes().iter().cloned().zip(counts).collect(),
            problems: check(&**dataset).iter().map(ToString::to_string).collect(),
        });
    }
    let broken: usize = splits.iter().map(|split| split.problems.len()).sum();
    let warnings = shared_images(paths(&*train), paths(&*val)).into_iter().collect();
    print(&CheckReport { splits, warnings }, args.format)?;
    if broken > 0 {
        bail!("{broken} samples are broken");
    }
    Ok(())
}

fn paths(dataset: &dyn ClassifyDataset) -> impl Iterator<Item = Option<&Path>> {
    (0..dataset.len()).map(|i| dataset.image_path(i))
}
