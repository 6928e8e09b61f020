//! The `analyse` commands: what finished trials or a table of trained networks say about their space.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;

use crate::run::cli::{Format, count, print};
use crate::run::run_dir::write_atomic;
use crate::search::analysis::page::{page, pairs};
use crate::search::analysis::samples::{Samples, Source, Where};
use crate::search::analysis::vocabulary::{Decision, Numbers, Vocabulary};
use crate::search::analysis::{Analysis, Question, Transform};
use crate::space::{Architecture, ChoiceSpace, Graph};
use crate::task::experiment::load_section;
use crate::task::searched::SearchedSpace;
use crate::task::{Task, TaskSpace};

/// Say which decisions matter, what the best architectures have in common, and what each choice is worth
#[derive(Clone, Debug, Args)]
pub struct AnalyseArgs {
    /// Tables (CSV with a column `arch`), trial logs (`trials.jsonl`) or run folders of one space; joined by architecture
    #[arg(value_name = "LOG|TABLE", required = true)]
    sources: Vec<PathBuf>,
    /// The metric
    #[arg(long, value_name = "METRIC")]
    metric: String,
    /// Another metric to compare with
    #[arg(long, value_name = "METRIC")]
    transfer: Option<String>,
    /// Where the other metric is [default: the same files]
    #[arg(long, value_name = "LOG|TABLE", requires = "transfer")]
    transfer_in: Vec<PathBuf>,
    /// A metric of which less is better; may be repeated
    #[arg(long, value_name = "METRIC")]
    minimize: Vec<String>,
    /// Which architectures take part: connected, METRIC>NUMBER or METRIC<NUMBER; may be repeated
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<Where>,
    /// none, or ln-error: minus the logarithm of the error, so that networks that fail to learn do not decide
    #[arg(long, default_value = "none", value_name = "TRANSFORM")]
    transform: Transform,
    /// Experiment file that names the space of a log [default: the config.toml beside it]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Motifs of the best that swaps are also computed within
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = count(0, 10_000))]
    contexts: usize,
    /// Seed of the forest
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
    /// Also write a page with drawings
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A space of a task as an analysis knows it.
#[derive(Debug)]
pub struct Named<T: Task> {
    space: SearchedSpace<T>,
    choices: Box<dyn ChoiceSpace>,
    decisions: Vec<Decision>,
}

impl<T: Task> Named<T> {
    /// One that an experiment file names.
    pub fn new(space: SearchedSpace<T>) -> Result<Self> {
        Ok(Self { choices: space.choices()?, decisions: space.names()?, space })
    }

    /// One without choices of a recipe.
    pub fn of(space: T::Space) -> Result<Self> {
        Self::new(SearchedSpace::of_task(space))
    }
}

impl<T: Task> Vocabulary for Named<T> {
    fn decisions(&self) -> Vec<Decision> {
        self.decisions.clone()
    }

    fn parse(&self, text: &str) -> Result<Architecture> {
        self.space.parse(text.trim())
    }

    fn notation(&self, arch: &Architecture) -> String {
        self.space.notation(arch).unwrap_or_else(|_| arch.to_string())
    }

    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        self.choices.graph(arch)
    }

    fn label(&self, label: u16) -> String {
        self.space.label(label)
    }

    fn drawing(&self, arch: &Architecture) -> Option<String> {
        self.space.drawing(arch).ok().flatten()
    }
}

/// Runs the command.
pub fn run<T: Task>(args: &AnalyseArgs) -> Result<()> {
    let AnalyseArgs { metric, transfer, transfer_in, conditions, .. } = args;
    let mut wanted = vec![metric.as_str()];
    wanted.extend(conditions.iter().filter_map(Where::metric));
    let here = transfer.as_deref().filter(|_| transfer_in.is_empty());
    wanted.extend(here);
    let sources = read(&args.sources, &wanted)?;
    let vocabulary = vocabulary::<T>(args, &sources)?;
    let samples = Samples::join(&sources, &*vocabulary)?;
    let other = match (transfer, transfer_in.is_empty()) {
        (Some(to), false) => Some(Samples::join(&read(transfer_in, &[to])?, &*vocabulary)?),
        _ => None,
    };
    let question = Question {
        metric: metric.clone(),
        transfer: transfer.clone(),
        minimize: args.minimize.clone(),
        conditions: conditions.clone(),
        transform: args.transform,
        contexts: args.contexts,
        seed: args.seed,
    };
    let mut analysis = Analysis::new(&question, &*vocabulary, &samples, other.as_ref())?;
    analysis.left_out += sources.iter().map(|source| source.left_out).sum::<usize>();
    if let Some(path) = &args.html {
        let pairs = transfer.as_ref().map(|to| pairs(&samples, metric, other.as_ref().unwrap_or(&samples), to));
        let text = page(&analysis, &*vocabulary, &pairs.unwrap_or_default());
        write_atomic(path, text.as_bytes())?;
    }
    print(&analysis, args.format)
}

/// Reads files that have each of `wanted` in at least one of them.
fn read(paths: &[PathBuf], wanted: &[&str]) -> Result<Vec<Source>> {
    let sources: Vec<Source> = paths.iter().map(|path| Source::read(path, wanted)).collect::<Result<_>>()?;
    for name in wanted {
        let known: Vec<&str> = sources.iter().flat_map(|source| &source.columns).map(String::as_str).collect();
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        ensure!(known.contains(name), "{}: no metric {name:?}; expected one of {}", names.join(", "), known.join(", "));
    }
    Ok(sources)
}

/// By `--config`, the notation of a table, the experiment file beside a log; numbers where nothing is known.
fn vocabulary<T: Task>(args: &AnalyseArgs, sources: &[Source]) -> Result<Box<dyn Vocabulary>> {
    let of_file = |path: &Path| -> Result<Box<dyn Vocabulary>> {
        Ok(Box::new(Named::<T>::new(load_section(path, &[], "space")?)?))
    };
    if let Some(config) = &args.config {
        return of_file(config);
    }
    for source in sources {
        if let Some(space) = source.first().and_then(T::Space::of_notation) {
            return Ok(Box::new(Named::<T>::of(space)?));
        }
        let beside = source.path.with_file_name("config.toml");
        if source.path.extension().is_some_and(|extension| extension == "jsonl") && beside.exists() {
            return of_file(&beside);
        }
    }
    let archs = sources.iter().map(Source::archs).collect::<Result<Vec<_>>>()?.concat();
    Ok(Box::new(Numbers::of(&archs)))
}
