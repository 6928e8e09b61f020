//! Architectures with their metrics, joined from tables and trial logs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use super::vocabulary::Vocabulary;
use crate::search::log;
use crate::search::table::{CsvRow, csv_rows};
use crate::space::Architecture;
use crate::space::trial::{Budget, Outcome, Record};

/// A table or a log as it was read; architectures are still texts.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Metrics that the file has.
    pub columns: Vec<String>,
    rows: Vec<Row>,
    /// Trials that failed or had a smaller budget than others.
    pub left_out: usize,
}

#[derive(Clone, Debug)]
struct Row {
    line: u64,
    arch: String,
    /// The wanted metrics, as far as this row has them.
    values: BTreeMap<String, f64>,
}

impl Source {
    /// Reads the metrics `wanted` of a log (`.jsonl`, or a run folder) or of a table: CSV, gzipped where its name ends in `.gz`,
    /// with a column `arch`. A wanted value that is no number is an error that names the line; none at all is none.
    pub fn read(path: &Path, wanted: &[&str]) -> Result<Self> {
        let path = if path.is_dir() { path.join("trials.jsonl") } else { path.to_path_buf() };
        match path.extension().is_some_and(|extension| extension == "jsonl") {
            true => Ok(Self::of_log(path.clone(), log::read(&path)?, wanted)),
            false => Self::of_table(&path, wanted).with_context(|| path.display().to_string()),
        }
    }

    fn of_log(path: PathBuf, records: Vec<Record>, wanted: &[&str]) -> Self {
        let all = records.len();
        let full = records.iter().map(|record| extent(&record.trial.budget)).fold((0, [0.0; 4]), larger);
        let mut columns: Vec<String> = Vec::new();
        let mut rows = Vec::new();
        for (i, record) in records.into_iter().enumerate() {
            let Outcome::Metrics(metrics) = record.outcome else { continue };
            columns.extend(metrics.keys().filter(|name| !columns.contains(*name)).cloned().collect::<Vec<_>>());
            if extent(&record.trial.budget) == full {
                let values = metrics.into_iter().filter(|(name, _)| wanted.contains(&name.as_str())).collect();
                rows.push(Row { line: i as u64 + 1, arch: record.trial.arch.to_string(), values });
            }
        }
        Self { path, columns, left_out: all - rows.len(), rows }
    }

    fn of_table(path: &Path, wanted: &[&str]) -> Result<Self> {
        let (columns, rows) = csv_rows(path, Some(wanted))?;
        let row = |CsvRow { line, arch, cells }| {
            let named = columns.iter().zip(cells).filter_map(|(name, cell)| Some((name.clone(), cell?)));
            Row { line, arch, values: named.collect() }
        };
        let rows = rows.into_iter().map(row).collect();
        Ok(Self { path: path.to_path_buf(), columns, rows, left_out: 0 })
    }

    /// The first architecture as it is written.
    pub fn first(&self) -> Option<&str> {
        self.rows.first().map(|row| row.arch.as_str())
    }

    /// The architectures, for files that write them as lists of choices.
    pub fn archs(&self) -> Result<Vec<Architecture>> {
        let parse = |row: &Row| row.arch.trim().parse().with_context(|| self.place(row));
        self.rows.iter().map(parse).collect()
    }

    fn place(&self, row: &Row) -> String {
        format!("{}: line {}", self.path.display(), row.line)
    }
}

/// What makes a budget larger than another.
fn extent(budget: &Budget) -> (u32, [f64; 4]) {
    let Budget { epochs, data, image, channels, cells } = *budget;
    (epochs.unwrap_or(u32::MAX), [data, image, channels, cells])
}

fn larger(a: (u32, [f64; 4]), b: (u32, [f64; 4])) -> (u32, [f64; 4]) {
    let greater = b.0 > a.0 || (b.0 == a.0 && b.1.iter().product::<f64>() > a.1.iter().product::<f64>());
    if greater { b } else { a }
}

/// Architectures with their metrics: what several sources say of one is joined, and several values of one metric are averaged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(BTreeMap<Architecture, BTreeMap<String, (f64, u32)>>);

impl Samples {
    /// Joins the sources, whose architectures are those of `vocabulary`.
    pub fn join(sources: &[Source], vocabulary: &dyn Vocabulary) -> Result<Self> {
        let decisions = vocabulary.decisions();
        let mut samples: BTreeMap<Architecture, BTreeMap<String, (f64, u32)>> = BTreeMap::new();
        for source in sources {
            for row in &source.rows {
                let arch = vocabulary.parse(&row.arch).with_context(|| source.place(row))?;
                let fits = arch.choices().len() == decisions.len()
                    && arch.choices().iter().zip(&decisions).all(|(choice, d)| usize::from(*choice) < d.choices.len());
                ensure!(
                    fits,
                    "{}: {arch} is not of the space of {} decisions that the other architectures are of",
                    source.place(row),
                    decisions.len()
                );
                let metrics = samples.entry(arch).or_default();
                for (name, value) in &row.values {
                    let (sum, count) = metrics.entry(name.clone()).or_default();
                    *sum += value;
                    *count += 1;
                }
            }
        }
        Ok(Self(samples))
    }

    /// Architectures that have all of `metrics`, each with their values, in the order of architectures.
    pub fn columns(&self, metrics: &[&str]) -> Vec<(&Architecture, Vec<f64>)> {
        let mean = |of: &BTreeMap<String, (f64, u32)>, name: &&str| {
            of.get(*name).map(|(sum, count)| if *count == 1 { *sum } else { sum / f64::from(*count) })
        };
        let values = |of| metrics.iter().map(|name| mean(of, name)).collect::<Option<Vec<f64>>>();
        self.0.iter().filter_map(|(arch, of)| Some((arch, values(of)?))).collect()
    }

    /// Architectures.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Which architectures take part.
#[derive(Clone, Debug, PartialEq)]
pub enum Where {
    /// Those with a way from the input to the output.
    Connected,
    /// Those whose metric is above a value.
    Above(String, f64),
    /// Those whose metric is below a value.
    Below(String, f64),
}

impl Where {
    /// The metric that it needs.
    pub fn metric(&self) -> Option<&str> {
        match self {
            Self::Connected => None,
            Self::Above(metric, _) | Self::Below(metric, _) => Some(metric),
        }
    }

    /// Whether an architecture takes part; `metric` is the value of [`Where::metric`].
    pub fn holds(&self, vocabulary: &dyn Vocabulary, arch: &Architecture, metric: Option<f64>) -> Result<bool> {
        match self {
            Self::Connected => vocabulary.is_connected(arch).with_context(|| {
                "--where connected: the architectures have no graph by their names; expected a table of cells, or a log \
                 beside the config.toml of a space of cells"
            }),
            Self::Above(_, bound) => Ok(metric.is_some_and(|value| value > *bound)),
            Self::Below(_, bound) => Ok(metric.is_some_and(|value| value < *bound)),
        }
    }
}

impl FromStr for Where {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bound = |number: &str| number.trim().parse().ok().filter(|bound: &f64| bound.is_finite());
        let named = |name: &str| Some(name.trim().to_string()).filter(|name| !name.is_empty());
        let above = text.split_once('>').and_then(|(name, b)| Some(Self::Above(named(name)?, bound(b)?)));
        let below = text.split_once('<').and_then(|(name, b)| Some(Self::Below(named(name)?, bound(b)?)));
        match (text, above.or(below)) {
            ("connected", _) => Ok(Self::Connected),
            (_, Some(condition)) => Ok(condition),
            _ => bail!("{text:?}: expected `connected`, METRIC>NUMBER or METRIC<NUMBER"),
        }
    }
}
