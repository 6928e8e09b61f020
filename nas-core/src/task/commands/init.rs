//! `init`: looks at people's own data and writes the experiment files of a first search, training and comparison.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_datasets::{SampleSet, Split};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::Serialize;

use crate::run::cli::{Format, print};
use crate::run::config::to_toml;
use crate::run::run_dir::write_atomic;
use crate::task::experiment::absolute;
use crate::task::schema::DIRECTIVE;
use crate::task::{Task, schema};

/// Look at a folder of data and write search.toml, train.toml and compare.toml for it, and schema.json for editors
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The data
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder for the experiment files, none of which may be there yet
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What samples of a set look like.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Height and width of the images.
    pub sizes: Vec<(u32, u32)>,
    /// Pixels, boxes or images by class.
    pub counts: Vec<u64>,
}

impl Survey {
    /// Both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.sizes.extend(other.sizes);
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self
    }
}

/// What is known of the data.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Name of the layout.
    pub layout: String,
    /// The section `data` of an experiment file, its heading included.
    #[serde(skip)]
    pub section: String,
    /// Training samples.
    pub train: usize,
    /// Validation samples.
    pub val: usize,
    /// Median height of the training images, in pixels.
    pub height: u32,
    /// Median width.
    pub width: u32,
    /// Classes, with their pixels, boxes or images among the training samples that were looked at.
    pub classes: Vec<(String, u64)>,
    /// Training samples that were looked at.
    pub looked_at: usize,
}

impl Facts {
    /// Epochs in which a training sees about `samples` samples, within limits.
    pub fn epochs(&self, samples: usize, (least, most): (usize, usize)) -> usize {
        (samples / self.train.max(1)).clamp(least, most)
    }

    /// The median size reduced so that the image has at most `pixels`, each side a multiple of `unit`.
    pub fn reduced(&self, pixels: f64, unit: u32) -> (u32, u32) {
        let factor = (pixels / (f64::from(self.height) * f64::from(self.width))).sqrt().min(1.0);
        let side = |side: u32| (((f64::from(side) * factor / f64::from(unit)).round() as u32) * unit).max(unit);
        (side(self.height), side(self.width))
    }
}

/// Names of the files that are written, in the order of [`Task::starters`].
const FILES: [&str; 3] = ["search.toml", "train.toml", "compare.toml"];

/// Most samples that are looked at.
const MOST: usize = 400;

#[derive(Serialize)]
struct Report {
    data: Facts,
    files: Vec<PathBuf>,
    #[serde(skip)]
    program: &'static str,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Facts { layout, train, val, height, width, classes, looked_at, .. } = &self.data;
        writeln!(f, "{layout}: {train} training and {val} validation samples, {height}x{width} pixels (median)")?;
        let total: u64 = classes.iter().map(|(_, count)| count).sum();
        for (name, count) in classes {
            let part = 100.0 * *count as f64 / total.max(1) as f64;
            writeln!(f, "  {name:<24} {part:6.2} %{}", if *count == 0 { "  in none of them" } else { "" })?;
        }
        writeln!(f, "counted in {looked_at} training samples\nnext:")?;
        for (path, command) in self.files.iter().zip(["search", "train", "compare"]) {
            writeln!(f, "  {} {command} --config {} --out runs/{command} --resume", self.program, path.display())?;
        }
        write!(f, "(compare.toml takes the network that the search has found in runs/search)")
    }
}

/// Runs the command.
pub fn run<T: Task>(args: &InitArgs) -> Result<()> {
    ensure!(args.data.is_dir(), "{}: no folder", args.data.display());
    let files = FILES.map(|name| args.out.join(name));
    let schema = args.out.join("schema.json");
    if let Some(there) = files.iter().chain([&schema]).find(|file| file.exists()) {
        bail!("{}: is there already; expected a folder without it (--out DIR)", there.display());
    }
    let facts = look::<T>(&args.data)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}: cannot create", args.out.display()))?;
    for (file, text) in files.iter().zip(T::starters(&facts)) {
        write_atomic(file, format!("{DIRECTIVE}{text}\n{}", facts.section).as_bytes())?;
    }
    write_atomic(&schema, schema::text::<T>().as_bytes())?;
    print(&Report { data: facts, files: files.into(), program: T::PROGRAM }, args.format)
}

/// Takes the first layout in which both splits open, and looks at samples spread over the train split.
fn look<T: Task>(root: &Path) -> Result<Facts> {
    let root = absolute(root.to_str().with_context(|| format!("{root:?} is not UTF-8"))?)?;
    let mut reasons = Vec::new();
    for (layout, data) in T::layouts(Path::new(&root)) {
        let opened = T::open(&data, Split::Train).and_then(|train| Ok((train, T::open(&data, Split::Val)?)));
        let (train, val) = match opened {
            Ok(sets) => sets,
            Err(error) => {
                reasons.push(format!("{layout}: {error:#}"));
                continue;
            }
        };
        let len = train.len();
        let looked_at = len.min(MOST);
        let indices = (0..looked_at).map(|i| i * len / looked_at);
        let survey = indices.collect::<Vec<_>>().into_par_iter().map(|i| T::survey(&train, i));
        let Survey { mut sizes, mut counts } = survey.try_reduce(Survey::default, |a, b| Ok(a.and(b)))?;
        let names = T::classes(&train);
        counts.resize(names.len(), 0);
        let mut median = |side: fn(&(u32, u32)) -> u32| {
            sizes.sort_by_key(side);
            side(&sizes[sizes.len() / 2])
        };
        let (height, width) = (median(|size| size.0), median(|size| size.1));
        let section = to_toml(&BTreeMap::from([("data", &data)]));
        let classes = names.into_iter().zip(counts).collect();
        let val = val.len();
        return Ok(Facts { layout: layout.into(), section, train: len, val, height, width, classes, looked_at });
    }
    bail!("{root}: no layout that is known. What was expected, and what was found:\n  {}", reasons.join("\n  "))
}
