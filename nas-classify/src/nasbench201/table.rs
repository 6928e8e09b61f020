//! A table of trained networks: one row for each of the 15,625 cells, its columns from one file or joined from several.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nas_core::search::table;
use nas_core::space::Architecture;
use nas_core::space::ChoiceSpace;

use super::space::{NasBench201, OPS};

const ROWS: usize = 15_625;

/// Columns of numbers by architecture. A network that does not run somewhere has no value there: the file's cell is empty, or
/// its number negative.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<String>,
    /// By [`row`], then by column; NaN where there is none.
    values: Vec<Vec<f64>>,
}

/// Place of an architecture in the table: its choices as digits.
fn row(arch: &Architecture) -> usize {
    arch.choices().iter().fold(0, |row, choice| row * OPS.len() + usize::from(*choice))
}

impl Table {
    /// Reads several files, each as [`Table::read`], and joins them by architecture. A column that stands in two must have the
    /// same values in both. Negative numbers are values in the columns `signed` only.
    pub fn open(paths: &[PathBuf], signed: &[String]) -> Result<Self> {
        let (first, others) = paths.split_first().context("no table is given")?;
        let mut table = Self::read(first)?;
        for path in others {
            table.join(Self::read(path)?).with_context(|| path.display().to_string())?;
        }
        let signed: Vec<usize> = signed.iter().map(|name| table.column(name)).collect::<Result<_>>()?;
        for column in (0..table.columns.len()).filter(|column| !signed.contains(column)) {
            table
                .values
                .iter_mut()
                .map(|row| &mut row[column])
                .filter(|value| **value < 0.0)
                .for_each(|v| *v = f64::NAN);
        }
        Ok(table)
    }

    fn join(&mut self, other: Self) -> Result<()> {
        for (column, name) in other.columns.into_iter().enumerate() {
            let here = self.columns.iter().position(|known| *known == name);
            for (i, row) in self.values.iter_mut().enumerate() {
                let value = other.values[i][column];
                match here {
                    None => row.push(value),
                    Some(here) => ensure!(
                        row[here] == value || (row[here].is_nan() && value.is_nan()),
                        "column {name}: {} for {}, and {} in a table before",
                        value,
                        NasBench201::notation(&at(i)),
                        row[here]
                    ),
                }
            }
            self.columns.extend(here.is_none().then_some(name));
        }
        Ok(())
    }

    /// Reads a CSV file, gzipped where its name ends in `.gz`, with a column `arch` in the benchmark's notation. Errors name
    /// the file, the line and the column: a cell that is none, appears twice or is missing; a value that is neither a number nor empty.
    pub fn read(path: &Path) -> Result<Self> {
        let parsed = table::open(path).and_then(Self::parse);
        parsed.with_context(|| path.display().to_string())
    }

    fn parse(reader: impl Read) -> Result<Self> {
        let mut csv = csv::Reader::from_reader(reader);
        let header = csv.headers()?.clone();
        let arch_column = header.iter().position(|name| name == "arch");
        let arch_column = arch_column
            .with_context(|| format!("no column `arch`; found {}", header.iter().collect::<Vec<_>>().join(", ")))?;
        let columns: Vec<String> = header.iter().filter(|name| *name != "arch").map(str::to_string).collect();
        let mut values = vec![Vec::new(); ROWS];
        for record in csv.records() {
            let record = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let arch = NasBench201::parse(&record[arch_column]).with_context(|| format!("line {line}"))?;
            let row = &mut values[row(&arch)];
            if !row.is_empty() {
                bail!("line {line}: {} appears a second time", &record[arch_column]);
            }
            for (name, text) in header.iter().zip(&record).filter(|(name, _)| *name != "arch") {
                let number = || text.trim().parse().ok().filter(|value: &f64| value.is_finite());
                let value = if text.trim().is_empty() { Some(f64::NAN) } else { number() };
                row.push(value.with_context(|| format!("line {line}, column {name}: {text:?} is no number"))?);
            }
        }
        let missing: Vec<usize> = (0..ROWS).filter(|row| values[*row].is_empty()).collect();
        if let Some(first) = missing.first() {
            let arch = NasBench201::notation(&at(*first));
            bail!("{} of {ROWS} cells are missing, the first is {arch}", missing.len());
        }
        Ok(Self { columns, values })
    }

    /// Place of a column.
    pub fn column(&self, name: &str) -> Result<usize> {
        let found = self.columns.iter().position(|column| column == name);
        found.with_context(|| format!("no column {name:?} in the table; expected one of {}", self.columns.join(", ")))
    }

    /// The value of an architecture, where it has one. The architecture must be of the space.
    pub fn get(&self, arch: &Architecture, column: usize) -> Option<f64> {
        Some(self.values[row(arch)][column]).filter(|value| !value.is_nan())
    }

    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Fails when a column holds what is no percentage, or nothing for an architecture.
    pub fn require_percent(&self, column: usize) -> Result<()> {
        let out = self.values.iter().map(|row| row[column]).find(|value| !(0.0..=100.0).contains(value));
        let found = out
            .map_or(String::new(), |value| if value.is_nan() { "a missing value".into() } else { value.to_string() });
        ensure!(out.is_none(), "column {}: {found} is no percentage", self.columns[column]);
        Ok(())
    }

    /// All architectures.
    pub fn archs() -> impl Iterator<Item = Architecture> {
        (0..ROWS).map(at)
    }
}

fn at(mut row: usize) -> Architecture {
    let digits = NasBench201.decisions().len();
    let mut choices = vec![0; digits];
    for choice in choices.iter_mut().rev() {
        *choice = (row % OPS.len()) as u16;
        row /= OPS.len();
    }
    Architecture::new(choices)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::HashSet;

    fn text(change: impl Fn(usize, String) -> Option<String>) -> String {
        let mut text = "arch,valid\n".to_string();
        for (i, arch) in Table::archs().enumerate() {
            let line = format!("{},{}", NasBench201::notation(&arch), i % 100);
            text.extend(change(i, line).map(|line| line + "\n"));
        }
        text
    }

    #[test]
    fn every_cell_is_found() {
        let table = Table::parse(text(|_, line| Some(line)).as_bytes()).unwrap();
        let column = table.column("valid").unwrap();
        assert!(Table::archs().enumerate().all(|(i, arch)| table.get(&arch, column) == Some((i % 100) as f64)));
        assert_eq!(Table::archs().collect::<HashSet<_>>().len(), ROWS);
        assert!(table.column("x").unwrap_err().to_string().contains("expected one of valid"));
    }

    #[test]
    fn what_is_missing_or_negative_is_no_value_and_tables_are_joined() {
        let temp = tempfile::tempdir().unwrap();
        let written = |name: &str, text: String| {
            let path = temp.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let valid = written("valid.csv", text(|_, line| Some(line)));
        let other = text(|i, line| {
            let (arch, _) = line.split_once(',').unwrap();
            let latency = ["-1", "", "2.5"][i % 3];
            Some(format!("{arch},{},{latency},-3", i % 100))
        });
        let other = written("other.csv", other.replace("arch,valid\n", "arch,valid,latency,score\n"));
        let table = Table::open(&[valid.clone(), other.clone()], &["score".into()]).unwrap();
        assert_eq!(table.columns(), ["valid", "latency", "score"]);
        let get = |i: usize, name: &str| table.get(&at(i), table.column(name).unwrap());
        assert_eq!([0, 1, 2].map(|i| get(i, "latency")), [None, None, Some(2.5)]);
        assert_eq!([get(7, "valid"), get(7, "score")], [Some(7.0), Some(-3.0)]);
        assert!(table.require_percent(table.column("latency").unwrap()).is_err());
        let error =
            |paths: &[PathBuf], signed: &str| format!("{:#}", Table::open(paths, &[signed.into()]).unwrap_err());
        let changed =
            written("changed.csv", text(|i, line| Some(if i == 5 { line.replace(",5", ",6") } else { line })));
        assert!(error(&[valid, changed], "valid").contains("column valid: 6 for"));
        assert!(error(&[other], "x").contains("no column \"x\""));
    }

    #[test]
    fn broken_tables_are_refused_with_line_and_column() {
        let error = |text: String| format!("{:#}", Table::parse(text.as_bytes()).unwrap_err());
        let missing = error(text(|i, line| (i != 1).then_some(line)));
        assert!(missing.contains("1 of 15625 cells are missing") && missing.contains("|skip_connect~2|"), "{missing}");
        let twice = error(text(|i, line| Some(if i == 3 { format!("{line}\n{line}") } else { line })));
        assert!(twice.contains("line 6") && twice.contains("second time"), "{twice}");
        let number = error(text(|i, line| Some(if i == 3 { line.replace(",3", ",x") } else { line })));
        assert!(number.contains("line 5, column valid: \"x\" is no number"), "{number}");
        let operator = error(text(|i, line| Some(if i == 2 { line.replace("none", "nothing") } else { line })));
        assert!(operator.contains("line 4") && operator.contains("unknown operator \"nothing\""), "{operator}");
        assert!(error("a,b\n1,2\n".into()).contains("no column `arch`; found a, b"));
    }
}
