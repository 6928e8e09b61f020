//! `data check`: every broken sample of a data set, and what else is worth knowing of it.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_datasets::{SampleSet, Split, shared_images};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::Serialize;

use super::init::Survey;
use crate::run::cli::{Format, print};
use crate::run::{config, words};
use crate::task::{Task, experiment};

/// Read every sample of a data set, list the broken ones and count what was left out
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  PROGRAM data check --config experiment.toml --set data.root=/data/photos
  PROGRAM data check --set data.kind=voc --set data.root=/data/VOC2012 --format json")]
pub struct CheckArgs {
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
    /// Samples of each class, where a sample has one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples_of_classes: Vec<usize>,
    /// Samples that cannot be used.
    problems: Vec<String>,
    /// What was left out of samples that can, or looks like a mistake.
    warnings: Vec<String>,
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let classes: Vec<_> = self.classes.iter().map(|name| words::name(name)).collect();
        write!(f, "{} classes: {}", classes.len(), classes.join(", "))?;
        for SplitReport { split, samples, samples_of_classes: counts, problems, warnings } in &self.splits {
            write!(f, "\n{split}: {samples} samples, {} broken", problems.len())?;
            if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
                write!(f, ", {least} to {most} of each class")?;
            }
            problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))?;
            warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

/// Runs the command.
pub fn check<T: Task>(args: &CheckArgs) -> Result<()> {
    let data: T::Data = match &args.config {
        Some(path) => experiment::load_section(path, &args.sets, "data")?,
        None => {
            ensure!(!args.sets.is_empty(), "no data set named: expected --config, or --set data.kind");
            let mut table = Default::default();
            config::apply_all(&mut table, &args.sets)?;
            config::section(table, "data", "--set")?
        }
    };
    let [train, val] = T::open_both(&data)?;
    let splits = [(Split::Train, &train), (Split::Val, &val)].map(|(split, set)| SplitReport {
        split: split.to_string(),
        samples: set.len(),
        samples_of_classes: T::samples_of_classes(set),
        problems: set.problems().iter().map(ToString::to_string).collect(),
        warnings: set.warnings(),
    });
    let unlearnable = T::require_trainable(&train).context("the train split");
    let broken: usize = splits.iter().map(|split| split.problems.len()).sum();
    let shared = shared_images(paths::<T>(&train), paths::<T>(&val));
    // What is broken cannot be counted.
    let missing = if broken == 0 { missing::<T>(&train)? } else { None };
    let warnings = shared.into_iter().chain(missing).collect();
    let report = CheckReport { classes: T::classes(&train), splits: splits.into(), warnings };
    print(&report, args.format)?;
    if broken > 0 {
        bail!("{broken} samples are broken");
    }
    unlearnable
}

/// What is said of the classes that no training sample has.
fn missing<T: Task>(train: &T::Set) -> Result<Option<String>> {
    let surveys = (0..train.len()).into_par_iter().map(|i| T::survey(train, i));
    let Survey { counts, .. } = surveys.try_reduce(Survey::default, |a, b| Ok(a.and(b)))?;
    let classes = T::classes(train);
    let is_missing = |(i, _): &(usize, &String)| counts.get(*i).is_none_or(|count| *count == 0);
    let missing: Vec<_> = classes.iter().enumerate().filter(is_missing).map(|(_, name)| words::name(name)).collect();
    Ok((!missing.is_empty()).then(|| format!("no training sample has {}", missing.join(", "))))
}

fn paths<T: Task>(set: &T::Set) -> impl Iterator<Item = Option<&Path>> {
    (0..set.len()).map(|i| set.image_path(i))
}
