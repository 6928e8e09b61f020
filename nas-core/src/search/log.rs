//! The trial log: one line of JSON per trial that has ended, in the order of their ends. It is the whole state of a search.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nas_datasets::read_bytes;

use crate::run::run_dir::JsonLines;
use crate::space::ChoiceSpace;
use crate::space::trial::Record;

/// An open trial log. Every record is written through.
#[derive(Debug)]
pub struct TrialStore {
    path: PathBuf,
    lines: JsonLines,
    /// Line of each record that was there when the log was opened, from 1.
    numbers: Vec<usize>,
}

impl TrialStore {
    /// Opens or creates the log and returns what it holds. A last line that a killed process did not finish is cut off; any
    /// other line that is no record, or a trial that appears twice, is an error that names the line.
    pub fn open(path: PathBuf) -> Result<(Self, Vec<Record>)> {
        let bytes = match path.exists() {
            true => read_log(&path)?,
            false => Vec::new(),
        };
        let (whole, numbered) = parse(&path, &bytes)?;
        let (numbers, records) = numbered.into_iter().unzip();
        Ok((Self { lines: JsonLines::open(path.clone(), whole as u64)?, path, numbers }, records))
    }

    /// File and line of a record that was there when the log was opened.
    pub fn place(&self, record: usize) -> String {
        place(&self.path, self.numbers[record])
    }

    /// Appends a record.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        self.lines.append(record).map(|_| ())
    }
}

/// The records of a log that nobody writes.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = read_log(path)?;
    parse(path, &bytes).map(|(_, numbered)| numbered.into_iter().map(|(_, record)| record).collect())
}

/// The records of a log that nobody writes, each of which must be of `space`.
pub fn read_of(path: &Path, space: &dyn ChoiceSpace) -> Result<Vec<Record>> {
    let bytes = read_log(path)?;
    let (_, numbered) = parse(path, &bytes)?;
    let of_space = |(line, record): (usize, Record)| {
        space.validate(&record.trial.arch).with_context(|| place(path, line))?;
        Ok(record)
    };
    numbered.into_iter().map(of_space).collect()
}

/// Largest log: about a million trials.
const MAX_BYTES: u64 = 1 << 30;

fn read_log(path: &Path) -> Result<Vec<u8>> {
    read_bytes(path, MAX_BYTES).with_context(|| format!("{}: cannot read", path.display()))
}

fn place(path: &Path, line: usize) -> String {
    format!("{}: line {line}", path.display())
}

/// Length of the whole lines, and their records by the line's number.
fn parse(path: &Path, bytes: &[u8]) -> Result<(usize, Vec<(usize, Record)>)> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut seen = HashSet::new();
    let lines = bytes[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let records = lines
        .map(|(i, line)| {
            let place = || place(path, i + 1);
            let record: Record =
                serde_json::from_slice(line).with_context(|| format!("{}: no trial record", place()))?;
            ensure!(seen.insert(record.trial.id), "{}: trial {} appears a second time", place(), record.trial.id);
            Ok((i + 1, record))
        })
        .collect::<Result<_>>()?;
    Ok((whole, records))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::space::Architecture;
    use crate::space::trial::{Budget, Outcome, Trial, Values};

    fn record(id: u64, outcome: Outcome) -> Record {
        let trial = Trial { id, arch: Architecture::new(vec![1, 2]), budget: Budget::default(), parent: None };
        Record { trial, outcome }
    }

    fn metrics(value: f64) -> Outcome {
        Outcome::of(Values::from([("valid".to_string(), value)]))
    }

    #[test]
    fn records_survive_and_a_torn_line_is_cut() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("trials.jsonl");
        let expected = vec![record(0, metrics(0.1 + 0.2)), record(1, metrics(f64::NAN))];
        assert_eq!(expected[1].outcome, Outcome::Failed("valid is NaN".into()));
        let (mut store, _) = TrialStore::open(path.clone()).unwrap();
        expected.iter().for_each(|record| store.append(record).unwrap());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"id\":2,\"ar"].concat()).unwrap();
        let (mut store, records) = TrialStore::open(path.clone()).unwrap();
        assert_eq!(records, expected);
        assert_eq!(fs::read(&path).unwrap(), whole);
        store.append(&record(2, metrics(1.0))).unwrap();
        assert_eq!(read(&path).unwrap().len(), 3);
    }

    #[test]
    fn damage_is_reported_with_its_line() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("trials.jsonl");
        let line = serde_json::to_string(&record(0, metrics(0.5))).unwrap();
        let error = |text: String| {
            fs::write(&path, text).unwrap();
            format!("{:#}", TrialStore::open(path.clone()).unwrap_err())
        };
        assert!(error(format!("{line}\n{{\"id\":1}}\n{line}\n")).contains("line 2: no trial record"));
        assert!(error(format!("{line}\n{line}\n")).contains("line 2: trial 0 appears a second time"));
    }
}
