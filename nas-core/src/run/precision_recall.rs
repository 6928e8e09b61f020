//! Precision over recall of every class of a detector, as table and as picture.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::run::plot::{Series, lines};
use crate::run::run_dir::{read_text, write_atomic};
use crate::run::words;

/// The best precision at a recall or a higher one (Lin et al. 2014), at an overlap of 0.5.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrecisionRecall {
    /// Names of the classes that have something to find.
    pub classes: Vec<String>,
    /// Recalls, from 0 to 1.
    pub recalls: Vec<f64>,
    /// By class, a precision for each recall; 0 where it is never reached.
    pub precisions: Vec<Vec<f64>>,
}

const TABLE: &str = "precision_recall.csv";
/// Most classes whose curves have room in the picture.
const DRAWN: usize = 10;

impl PrecisionRecall {
    /// Whether no class has anything to find.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Writes `precision_recall.csv` and `precision_recall.svg` into a folder; nothing where there is nothing to find.
    pub fn write(&self, folder: &Path) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        write_atomic(&folder.join(TABLE), &self.csv()?)?;
        let curve = |name: &str, precisions: &[f64]| {
            Series::new(words::name(name), self.recalls.iter().copied().zip(precisions.iter().copied()).collect())
        };
        let named = self.classes.iter().zip(&self.precisions).take(if self.classes.len() > DRAWN { 0 } else { DRAWN });
        let mut series: Vec<Series> = named.map(|(name, precisions)| curve(name, precisions)).collect();
        if self.classes.len() > 1 {
            series.push(curve("mean", &self.mean()));
        }
        let title = "Precision over recall, overlap 0.5";
        lines(&folder.join("precision_recall.svg"), title, "recall", "precision", &series)
    }

    /// What [`PrecisionRecall::write`] has written into a folder; none where it has not.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(TABLE);
        if !path.exists() {
            return Ok(None);
        }
        let read = Self::parse(&read_text(&path)?);
        read.with_context(|| format!("{}: no table of precisions", path.display())).map(Some)
    }

    /// Mean over the classes.
    fn mean(&self) -> Vec<f64> {
        let at = |i: usize| self.precisions.iter().map(|precisions| precisions[i]).sum::<f64>();
        (0..self.recalls.len()).map(|i| at(i) / self.classes.len() as f64).collect()
    }

    /// A row for each recall, a column for each class.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["recall"].into_iter().chain(self.classes.iter().map(String::as_str)))?;
        for (i, recall) in self.recalls.iter().enumerate() {
            let row = self.precisions.iter().map(|precisions| format!("{:.5}", precisions[i]));
            csv.write_record(std::iter::once(format!("{recall:.2}")).chain(row))?;
        }
        csv.into_inner().map_err(|error| error.into_error().into())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut csv = csv::Reader::from_reader(text.as_bytes());
        let classes: Vec<String> = csv.headers()?.iter().skip(1).map(String::from).collect();
        let mut read = Self { precisions: vec![Vec::new(); classes.len()], classes, recalls: Vec::new() };
        for record in csv.records() {
            let row: Vec<f64> = record?.iter().map(str::parse).collect::<Result<_, _>>()?;
            let sound = row.len() == read.classes.len() + 1 && row.iter().all(|value| (0.0..=1.0).contains(value));
            ensure!(sound, "{row:?}: expected a recall and {} precisions, each of 0 to 1", read.classes.len());
            read.recalls.push(row[0]);
            read.precisions.iter_mut().zip(&row[1..]).for_each(|(precisions, value)| precisions.push(*value));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_read_as_they_were_written_and_drawn_while_there_is_room() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(PrecisionRecall::read(temp.path()).unwrap(), None);
        PrecisionRecall::default().write(temp.path()).unwrap();
        assert_eq!(PrecisionRecall::read(temp.path()).unwrap(), None);
        for classes in [1, 3, 12] {
            let names: Vec<String> = (0..classes).map(|i| format!("<kind, {i}>")).collect();
            let precisions = (0..classes).map(|i| vec![1.0, 0.25 * (i % 4) as f64, 0.0]).collect();
            let written = PrecisionRecall { classes: names, recalls: vec![0.0, 0.5, 1.0], precisions };
            written.write(temp.path()).unwrap();
            assert_eq!(PrecisionRecall::read(temp.path()).unwrap(), Some(written));
            let svg = read_text(&temp.path().join("precision_recall.svg")).unwrap();
            assert_eq!(svg.contains("kind, 0"), classes <= DRAWN);
            assert_eq!(svg.contains("mean"), classes > 1);
        }
        std::fs::write(temp.path().join(TABLE), "recall,a\n0.0,1.5\n").unwrap();
        let error = format!("{:#}", PrecisionRecall::read(temp.path()).unwrap_err());
        assert!(error.contains("1.5") && error.contains(TABLE), "{error}");
    }
}
