//! A table of trained networks: one row for each of the 15,625 cells.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use nas_core::space::Architecture;
use nas_core::space::ChoiceSpace;
use nas_datasets::open_regular;

use super::space::{NasBench201, OPS};

const ROWS: usize = 15_625;

/// Largest table, unpacked. The published numbers of all data sets take a tenth of it.
const MAX_BYTES: u64 = 64 << 20;

/// A reader that fails beyond a number of bytes.
struct Limited<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_BYTES} bytes"));
        self.left = self.left.checked_sub(length as u64).ok_or_else(too_large)?;
        Ok(length)
    }
}

/// Columns of numbers by architecture.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<String>,
    /// By [`row`], then by column.
    values: Vec<Vec<f64>>,
}

/// Place of an architecture in the table: its choices as digits.
fn row(arch: &Architecture) -> usize {
    arch.choices().iter().fold(0, |row, choice| row * OPS.len() + usize::from(*choice))
}

impl Table {
    /// Reads a CSV file, gzipped where its name ends in `.gz`, with a column `arch` in the benchmark's notation. Errors name
    /// the file, the line and the column: a cell that is none, appears twice or is missing; a value that is no number.
    pub fn read(path: &Path) -> Result<Self> {
        let file = open_regular(path).with_context(|| format!("{}: cannot open", path.display()))?;
        let reader: Box<dyn Read> = match path.extension().is_some_and(|extension| extension == "gz") {
            true => Box::new(MultiGzDecoder::new(file)),
            false => Box::new(file),
        };
        Self::parse(Limited { reader, left: MAX_BYTES }).with_context(|| path.display().to_string())
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
                let value: Option<f64> = text.trim().parse().ok().filter(|value: &f64| value.is_finite());
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

    /// The value of an architecture. The architecture must be of the space.
    pub fn get(&self, arch: &Architecture, column: usize) -> f64 {
        self.values[row(arch)][column]
    }

    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The architecture with the largest value of a column.
    pub fn best(&self, column: usize) -> Architecture {
        let best = (0..ROWS).max_by(|a, b| self.values[*a][column].total_cmp(&self.values[*b][column]));
        at(best.expect("the table has rows"))
    }

    /// Fails when a column holds what is no percentage.
    pub fn require_percent(&self, column: usize) -> Result<()> {
        let out = self.values.iter().map(|row| row[column]).find(|value| !(0.0..=100.0).contains(value));
        ensure!(out.is_none(), "column {}: {} is no percentage", self.columns[column], out.unwrap_or_default());
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
        assert!(Table::archs().enumerate().all(|(i, arch)| table.get(&arch, column) == (i % 100) as f64));
        assert_eq!(Table::archs().collect::<HashSet<_>>().len(), ROWS);
        assert!(table.column("x").unwrap_err().to_string().contains("expected one of valid"));
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
