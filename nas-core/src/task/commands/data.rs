//! `data check`: every broken sample of a data set, and what else is worth knowing of it.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use nas_datasets::{SampleSet, Split, shared_images};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::Serialize;

use super::init::Survey;
use crate::run::cli::{Format, job, print};
use crate::run::picture::write_png;
use crate::run::run_dir::open_output;
use crate::run::{config, plot, words};
use crate::task::{Task, experiment};

/// Check a data set, or write a synthetic one
#[derive(Clone, Debug, Args)]
pub struct DataArgs<S: Args> {
    #[command(subcommand)]
    command: DataCommand<S>,
}

#[derive(Clone, Debug, Subcommand)]
enum DataCommand<S: Args> {
    Check(CheckArgs),
    Synth(S),
}

impl<S: Args> DataArgs<S> {
    /// Runs the command; `synth` writes a data set.
    pub fn run<T: Task>(&self, synth: impl FnOnce(&S) -> Result<()>) -> Result<()> {
        match &self.command {
            DataCommand::Check(args) => check::<T>(args),
            DataCommand::Synth(args) => synth(args),
        }
    }
}

/// Read every sample of a data set, list the broken ones and count what was left out
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  PROGRAM data check --config experiment.toml --set data.root=/data/photos
  PROGRAM data check --set data.kind=voc --set data.root=/data/VOC2012 --pictures out --format json")]
pub struct CheckArgs {
    /// Experiment file; only its [data] section is used
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace a key of the experiment file, or do without one; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Also draw samples of each split with their truth, and how often each class occurs, into a folder
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
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
    /// Of samples that are all sound.
    #[serde(flatten)]
    contents: Option<Contents>,
}

/// What the samples of a split look like.
#[derive(Serialize)]
struct Contents {
    /// Pixels, boxes or images of each class, in the order of the classes.
    counts: Vec<u64>,
    /// Heights and widths of the images: the smallest, the median and the largest of each.
    heights: [u32; 3],
    widths: [u32; 3],
}

impl Contents {
    /// Looks at every sample, on all cores.
    fn of<T: Task>(set: &T::Set, num_classes: usize) -> Result<Self> {
        let surveys = (0..set.len()).into_par_iter().map(|i| T::survey(set, i));
        let Survey { sizes, mut counts } = surveys.try_reduce(Survey::default, |a, b| Ok(a.and(b)))?;
        counts.resize(num_classes, 0);
        let three = |side: fn(&(u32, u32)) -> u32| {
            let mut sides: Vec<u32> = sizes.iter().map(side).collect();
            sides.sort_unstable();
            [0, sides.len() / 2, sides.len().saturating_sub(1)].map(|i| sides.get(i).copied().unwrap_or(0))
        };
        Ok(Self { counts, heights: three(|size| size.0), widths: three(|size| size.1) })
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let classes: Vec<_> = self.classes.iter().map(|name| words::name(name)).collect();
        write!(f, "{} classes: {}", classes.len(), classes.join(", "))?;
        for SplitReport { split, samples, samples_of_classes: counts, problems, warnings, contents } in &self.splits {
            write!(f, "\n{split}: {samples} samples, {} broken", problems.len())?;
            if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
                write!(f, ", {least} to {most} of each class")?;
            }
            if let Some(Contents { counts, heights, widths }) = contents {
                let [low, middle, high] = [0, 1, 2].map(|i| format!("{}x{}", heights[i], widths[i]));
                write!(f, "\n  heights and widths {low} to {high}, median {middle}; by class:")?;
                let total = counts.iter().sum::<u64>().max(1);
                for (name, count) in self.classes.iter().zip(counts) {
                    write!(f, "\n  {:<24} {:6.2} %", words::name(name), 100.0 * *count as f64 / total as f64)?;
                }
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
    let sets = T::open_both(&data)?;
    let classes = T::classes(&sets[0]);
    let mut splits = Vec::new();
    for (split, set) in [Split::Train, Split::Val].into_iter().zip(&sets) {
        let problems: Vec<String> = set.problems().iter().map(ToString::to_string).collect();
        // What is broken cannot be counted.
        let contents = problems.is_empty().then(|| Contents::of::<T>(set, classes.len())).transpose()?;
        splits.push(SplitReport {
            split: split.to_string(),
            samples: set.len(),
            samples_of_classes: T::samples_of_classes(set),
            problems,
            warnings: set.warnings(),
            contents,
        });
    }
    let unlearnable = T::require_trainable(&sets[0]).context("the train split");
    let broken: usize = splits.iter().map(|split| split.problems.len()).sum();
    let shared = shared_images(paths::<T>(&sets[0]), paths::<T>(&sets[1]));
    let missing = splits[0].contents.as_ref().and_then(|contents| missing(&classes, &contents.counts));
    let warnings = shared.into_iter().chain(missing).collect();
    if let Some(out) = &args.pictures {
        open_output(out, &job())?;
        sets.iter()
            .zip(&splits)
            .try_for_each(|(set, split)| draw::<T>(&out.join(&split.split), set, split, &classes))?;
    }
    let report = CheckReport { classes, splits, warnings };
    print(&report, args.format)?;
    if broken > 0 {
        bail!("{broken} samples are broken");
    }
    unlearnable
}

/// Draws samples spread over a sound split, and how often each class occurs in it.
fn draw<T: Task>(folder: &Path, set: &T::Set, split: &SplitReport, classes: &[String]) -> Result<()> {
    const DRAWN: usize = 24;
    let Some(Contents { counts, .. }) = &split.contents else { return Ok(()) };
    let bars: Vec<(String, f64)> = classes.iter().cloned().zip(counts.iter().map(|count| *count as f64)).collect();
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    plot::bars(&folder.join("classes.svg"), &format!("{}: classes", split.split), &bars)?;
    let count = DRAWN.min(set.len());
    (0..count).into_par_iter().try_for_each(|i| {
        let index = i * set.len() / count;
        write_png(&folder.join(format!("{}.png", set.sample_name(index))), &T::picture(set, index)?)
    })
}

/// What is said of the classes that no training sample has.
fn missing(classes: &[String], counts: &[u64]) -> Option<String> {
    let missing: Vec<_> =
        classes.iter().zip(counts).filter(|(_, count)| **count == 0).map(|(name, _)| words::name(name)).collect();
    (!missing.is_empty()).then(|| format!("no training sample has {}", missing.join(", ")))
}

fn paths<T: Task>(set: &T::Set) -> impl Iterator<Item = Option<&Path>> {
    (0..set.len()).map(|i| set.image_path(i))
}
