//! A table of trained networks: numbers by architecture, from CSV files or from the logs of finished searches.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use nas_datasets::open_regular;

use super::log;
use crate::space::Architecture;
use crate::space::trial::{Outcome, Values};

/// Largest table, unpacked. The published numbers of all data sets of NAS-Bench-201 take a tenth of it.
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

/// The bytes of a table, unpacked where the file's name ends in `.gz`; an error beyond 64 MiB of them.
pub(super) fn open(path: &Path) -> Result<impl Read + use<>> {
    let file = open_regular(path).context("cannot open")?;
    let reader: Box<dyn Read> = match path.extension().is_some_and(|extension| extension == "gz") {
        true => Box::new(MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    Ok(Limited { reader, left: MAX_BYTES })
}

/// A row of a CSV table.
#[derive(Clone, Debug)]
pub struct CsvRow {
    /// Its line, from 1.
    pub line: u64,
    /// What stands in the column `arch`.
    pub arch: String,
    /// The numbers of the columns that were read; a cell may be empty.
    pub cells: Vec<Option<f64>>,
}

/// The columns of a CSV table but `arch`, and its rows. Of `wanted` columns only, where these are given, the others being
/// empty in every row: they may hold what is no number. Errors name the line and the column.
pub fn csv_rows(path: &Path, wanted: Option<&[&str]>) -> Result<(Vec<String>, Vec<CsvRow>)> {
    let mut csv = csv::Reader::from_reader(open(path)?);
    let names: Vec<String> = csv.headers()?.iter().map(|name| name.trim().to_string()).collect();
    let arch = names.iter().position(|name| name == "arch");
    let arch = arch.with_context(|| format!("no column `arch`; found {}", names.join(", ")))?;
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.contains(&name));
    let mut rows = Vec::new();
    for record in csv.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let number = |(name, text): (&String, &str)| match text.trim() {
            text if text.is_empty() || !is_wanted(name) => Ok(None),
            text => match text.parse::<f64>().ok().filter(|value| value.is_finite()) {
                None => bail!("line {line}, column {name}: {text:?} is no number"),
                number => Ok(number),
            },
        };
        let cells = names.iter().zip(&record).filter(|(name, _)| *name != "arch");
        rows.push(CsvRow {
            line,
            arch: record[arch].trim().to_string(),
            cells: cells.map(number).collect::<Result<_>>()?,
        });
    }
    Ok((names.into_iter().filter(|name| name != "arch").collect(), rows))
}

/// Columns of numbers by architecture. A number may be missing.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<String>,
    rows: HashMap<Architecture, Vec<Option<f64>>>,
    /// Architectures in the order in which they were read.
    archs: Vec<Architecture>,
}

impl Table {
    /// Reads files and joins them by architecture; the first says which architectures there are. A name that ends in `.jsonl`
    /// is a trial log, of whose trials of one architecture the last one that did not fail counts; any other is CSV, gzipped
    /// where it ends in `.gz`, with a column `arch` that `parse` reads. Errors name the file, the line and the column.
    pub fn read<P: AsRef<Path>>(paths: &[P], parse: &dyn Fn(&str) -> Result<Architecture>) -> Result<Self> {
        let mut table = Self::default();
        for (i, path) in paths.iter().enumerate() {
            let path = path.as_ref();
            let part = Self::read_one(path, parse).with_context(|| path.display().to_string())?;
            ensure!(!part.archs.is_empty(), "{}: no architecture", path.display());
            match i {
                0 => table = part,
                _ => table.join(part).with_context(|| path.display().to_string())?,
            }
        }
        Ok(table)
    }

    fn read_one(path: &Path, parse: &dyn Fn(&str) -> Result<Architecture>) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            return Self::of_log(path);
        }
        Self::of_csv(path, parse)
    }

    fn of_csv(path: &Path, parse: &dyn Fn(&str) -> Result<Architecture>) -> Result<Self> {
        let (columns, rows) = csv_rows(path, None)?;
        let mut table = Self::new(columns);
        for CsvRow { line, arch: text, cells } in rows {
            let arch = parse(&text).with_context(|| format!("line {line}"))?;
            ensure!(table.insert(arch, cells), "line {line}: {text} appears a second time");
        }
        Ok(table)
    }

    fn of_log(path: &Path) -> Result<Self> {
        let mut rows: Vec<(Architecture, Values)> = Vec::new();
        for record in log::read(path)? {
            let Outcome::Metrics(values) = record.outcome else { continue };
            rows.retain(|(arch, _)| *arch != record.trial.arch);
            rows.push((record.trial.arch, values));
        }
        let mut columns: Vec<String> = rows.iter().flat_map(|(_, values)| values.keys().cloned()).collect();
        columns.sort();
        columns.dedup();
        let mut table = Self::new(columns);
        for (arch, values) in rows {
            let row = table.columns.iter().map(|column| values.get(column).copied()).collect();
            table.insert(arch, row);
        }
        Ok(table)
    }

    fn new(columns: Vec<String>) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Whether the architecture is new.
    fn insert(&mut self, arch: Architecture, row: Vec<Option<f64>>) -> bool {
        let is_new = self.rows.insert(arch.clone(), row).is_none();
        if is_new {
            self.archs.push(arch);
        }
        is_new
    }

    fn join(&mut self, other: Self) -> Result<()> {
        let missing = vec![None; other.columns.len()];
        let places: Vec<Option<usize>> =
            other.columns.iter().map(|name| self.columns.iter().position(|known| known == name)).collect();
        for (arch, row) in &mut self.rows {
            let cells = other.rows.get(arch).unwrap_or(&missing);
            for ((place, name), cell) in places.iter().zip(&other.columns).zip(cells) {
                match place {
                    None => row.push(*cell),
                    Some(place) => ensure!(
                        row[*place] == *cell,
                        "column {name:?} stands in another file too, and differs for {arch}"
                    ),
                }
            }
        }
        let new = other.columns.into_iter().zip(places).filter(|(_, place)| place.is_none());
        self.columns.extend(new.map(|(name, _)| name));
        Ok(())
    }

    /// Takes negative numbers for missing ones, but for those of the columns `signed`: a network with a latency of -1 does not
    /// run there.
    pub fn without_negatives(mut self, signed: &[String]) -> Result<Self> {
        let signed: Vec<usize> = signed.iter().map(|name| self.column(name)).collect::<Result<_>>()?;
        for row in self.rows.values_mut() {
            let cells = row.iter_mut().enumerate().filter(|(column, _)| !signed.contains(column));
            cells.for_each(|(_, cell)| *cell = cell.filter(|value| *value >= 0.0));
        }
        Ok(self)
    }

    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Place of a column.
    pub fn column(&self, name: &str) -> Result<usize> {
        let found = self.columns.iter().position(|column| column == name);
        found.with_context(|| format!("no column {name:?} in the table; expected one of {}", self.columns.join(", ")))
    }

    /// All architectures, in the order in which they were read.
    pub fn archs(&self) -> &[Architecture] {
        &self.archs
    }

    /// A number of an architecture, where it is there.
    pub fn get(&self, arch: &Architecture, column: usize) -> Option<f64> {
        *self.rows.get(arch)?.get(column)?
    }

    /// All numbers of an architecture; an error where it is not in the table.
    pub fn values(&self, arch: &Architecture) -> Result<Values> {
        let row = self.rows.get(arch).with_context(|| format!("{arch} is not in the table"))?;
        let named = self.columns.iter().zip(row).filter_map(|(name, value)| Some((name.clone(), (*value)?)));
        Ok(named.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Architecture> {
        Ok(text.parse()?)
    }

    fn read(files: &[(&str, &str)]) -> Result<Table> {
        let temp = tempfile::tempdir().unwrap();
        let paths: Vec<_> = files.iter().map(|(name, _)| temp.path().join(name)).collect();
        paths.iter().zip(files).for_each(|(path, (_, text))| std::fs::write(path, text).unwrap());
        Table::read(&paths, &parse)
    }

    #[test]
    fn files_are_joined_by_architecture_and_a_number_may_be_missing() {
        let table = read(&[("a.csv", "arch,acc\n0-1,90\n1-1,80\n"), ("b.csv", "latency,arch\n,1-1\n3.5,0-1\n9,0-0\n")])
            .unwrap();
        let [acc, latency] = ["acc", "latency"].map(|name| table.column(name).unwrap());
        let [a, b] = ["0-1", "1-1"].map(|arch| arch.parse().unwrap());
        assert_eq!((table.get(&a, acc), table.get(&a, latency)), (Some(90.0), Some(3.5)));
        assert_eq!((table.get(&b, acc), table.get(&b, latency)), (Some(80.0), None));
        assert_eq!(table.archs(), [a, b]);
        assert!(table.values(&"0-0".parse().unwrap()).unwrap_err().to_string().contains("0-0 is not in the table"));
    }

    #[test]
    fn a_negative_number_is_missing_and_a_column_in_two_files_must_be_the_same() {
        let a = ("a.csv", "arch,index,acc\n0-1,0,90\n1-1,1,80\n");
        let table = read(&[a, ("b.csv", "arch,index,latency,score\n0-1,0,-1,-2\n1-1,1,2,3\n")]).unwrap();
        assert_eq!(table.columns(), ["index", "acc", "latency", "score"]);
        let table = table.without_negatives(&["score".into()]).unwrap();
        let get = |arch: &str, name: &str| table.get(&arch.parse().unwrap(), table.column(name).unwrap());
        assert_eq!([get("0-1", "latency"), get("0-1", "score"), get("1-1", "latency")], [None, Some(-2.0), Some(2.0)]);
        let error = format!("{:#}", read(&[a, ("b.csv", "arch,index\n0-1,0\n1-1,7\n")]).unwrap_err());
        assert!(error.contains("column \"index\" stands in another file too, and differs for 1-1"), "{error}");
        assert!(table.without_negatives(&["x".into()]).is_err());
    }

    #[test]
    fn a_trial_log_is_a_table() {
        let line =
            |id: u64, arch: &str, outcome: &str| format!("{{\"id\":{id},\"arch\":\"{arch}\",\"outcome\":{outcome}}}\n");
        let log = [
            line(0, "0-1", r#"{"metrics":{"miou":0.5}}"#),
            line(1, "1-1", r#"{"failed":"no memory"}"#),
            line(2, "0-1", r#"{"metrics":{"miou":0.6}}"#),
        ];
        let table = read(&[("trials.jsonl", &log.concat())]).unwrap();
        assert_eq!(table.archs().len(), 1);
        assert_eq!(table.get(&"0-1".parse().unwrap(), table.column("miou").unwrap()), Some(0.6));
    }

    #[test]
    fn broken_tables_are_refused_with_line_and_column() {
        let error = |text: &str| format!("{:#}", read(&[("x.csv", text)]).unwrap_err());
        assert!(error("arch,acc\n0-1,1\n0-1,2\n").contains("line 3: 0-1 appears a second time"));
        assert!(error("arch,acc\n0-1,x\n").contains("line 2, column acc: \"x\" is no number"));
        assert!(error("arch,acc\n0-y,1\n").contains("line 2"));
        assert!(error("a,b\n1,2\n").contains("no column `arch`; found a, b"));
        assert!(error("arch,acc\n").contains("no architecture"));
    }
}
