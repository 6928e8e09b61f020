//! A confusion matrix with the names of its classes, as table and as picture.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::run::run_dir::{read_text, write_atomic};
use crate::run::words;

/// Samples by true and predicted class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// One row per true class, one column per predicted class.
    pub counts: Vec<Vec<u64>>,
}

/// Corner of the table in a file.
const CORNER: &str = "true\\predicted";

impl Confusion {
    /// Writes `confusion.csv` and `confusion.svg` into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomic(&folder.join("confusion.csv"), &self.csv()?)?;
        write_atomic(&folder.join("confusion.svg"), self.svg().as_bytes())
    }

    /// What [`Confusion::write`] has written into a folder; none where it has not.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("confusion.csv");
        if !path.exists() {
            return Ok(None);
        }
        Self::parse(&read_text(&path)?).with_context(|| format!("{}: no confusion matrix", path.display())).map(Some)
    }

    /// A table: true classes down, predicted ones across.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record([CORNER].into_iter().chain(self.classes.iter().map(String::as_str)))?;
        for (name, counts) in self.classes.iter().zip(&self.counts) {
            csv.write_record(std::iter::once(name.clone()).chain(counts.iter().map(u64::to_string)))?;
        }
        csv.into_inner().map_err(|error| error.into_error().into())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut csv = csv::Reader::from_reader(text.as_bytes());
        let classes: Vec<String> = csv.headers()?.iter().skip(1).map(String::from).collect();
        let mut counts = Vec::new();
        for record in csv.records() {
            let row: Vec<u64> = record?.iter().skip(1).map(str::parse).collect::<Result<_, _>>()?;
            ensure!(row.len() == classes.len(), "{} counts, expected {}", row.len(), classes.len());
            counts.push(row);
        }
        ensure!(counts.len() == classes.len(), "{} rows, expected {}", counts.len(), classes.len());
        Ok(Self { classes, counts })
    }

    /// A picture, true classes down, predicted ones across: the darker, the larger the share of the true class. Up to
    /// 40 classes have their names, and their counts in the cells, or parts in a hundred where counts have many digits.
    pub fn svg(&self) -> String {
        let classes = self.classes.len();
        let is_named = classes <= NAMED;
        let side = if is_named { 34.0 } else { (680.0 / classes as f64).max(1.0) };
        let longest = self.classes.iter().map(|name| shown(name).chars().count()).max().unwrap_or(0);
        let room = if is_named { 34.0 + 6.6 * longest as f64 } else { 34.0 };
        let full = side * classes as f64;
        let (width, height) = (room + full + 20.0, room + full + 16.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let middle = room + full / 2.0;
        // Counts of pixels have no room.
        let is_large = self.counts.iter().flatten().any(|count| *count >= 10_000);
        let unit = if is_large { " (% of the true class)" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"16\" text-anchor=\"middle\" font-weight=\"bold\">predicted{unit}</text>"
        );
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{middle:.1}\" text-anchor=\"middle\" font-weight=\"bold\" transform=\"rotate(-90 16 {middle:.1})\">true</text>"
        );
        for (i, name) in self.classes.iter().enumerate().filter(|_| is_named) {
            let (at, name) = (room + side * (i as f64 + 0.5) + 4.0, words::markup(&shown(name)));
            let left = room - 6.0;
            let _ = writeln!(svg, "<text x=\"{left:.1}\" y=\"{at:.1}\" text-anchor=\"end\">{name}</text>");
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{left:.1}\" transform=\"rotate(-90 {at:.1} {left:.1})\">{name}</text>"
            );
        }
        for (truth, row) in self.counts.iter().enumerate() {
            let total = row.iter().sum::<u64>().max(1) as f64;
            for (predicted, count) in row.iter().enumerate() {
                let share = *count as f64 / total;
                let (x, y) = (room + side * predicted as f64, room + side * truth as f64);
                let fade = |strength: f64| (255.0 * (1.0 - strength * share.sqrt())) as u8;
                let (red, green, blue) = (fade(0.9), fade(0.65), fade(0.3));
                let names = (&self.classes[truth], &self.classes[predicted]);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{side:.1}\" fill=\"rgb({red},{green},{blue})\" \
                     stroke=\"#ddd\" stroke-width=\"0.5\"><title>true {}, predicted {}: {count} ({:.1} %)</title></rect>",
                    words::markup(names.0),
                    words::markup(names.1),
                    100.0 * share
                );
                let label = if is_large { format!("{:.0}", 100.0 * share) } else { count.to_string() };
                if is_named && label != "0" {
                    let ink = if share > 0.4 { "white" } else { "black" };
                    let (x, y) = (x + side / 2.0, y + side / 2.0 + 4.0);
                    let _ = writeln!(
                        svg,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"{ink}\">{label}</text>"
                    );
                }
            }
        }
        svg + "</svg>\n"
    }
}

/// Most classes whose names have room in the picture.
const NAMED: usize = 40;

/// A name short enough for a label.
fn shown(name: &str) -> String {
    const LONGEST: usize = 24;
    let name = words::name(name);
    match name.chars().count() > LONGEST {
        true => name.chars().take(LONGEST - 1).chain(['…']).collect(),
        false => name.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Confusion {
        let classes = ["cat & <dog>", "a, \"b\""].map(String::from).to_vec();
        Confusion { classes, counts: vec![vec![3, 1], vec![0, 2]] }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(Confusion::read(temp.path()).unwrap(), None);
        two().write(temp.path()).unwrap();
        assert_eq!(Confusion::read(temp.path()).unwrap(), Some(two()));
        std::fs::write(temp.path().join("confusion.csv"), "x,a\na,1\nb,2\n").unwrap();
        assert!(format!("{:#}", Confusion::read(temp.path()).unwrap_err()).contains("2 rows, expected 1"));
    }

    #[test]
    fn the_picture_names_its_classes_and_axes_and_counts() {
        let svg = two().svg();
        let labels = [
            ">true<",
            ">predicted<",
            ">cat &amp; &lt;dog&gt;<",
            ">3<",
            "true cat &amp; &lt;dog&gt;, predicted a, &quot;b&quot;: 1 (25.0 %)",
        ];
        for label in labels {
            assert!(svg.contains(label), "{label} in {svg}");
        }
        assert_eq!(svg.matches("<rect").count(), 1 + 4);
        assert!(!svg.contains(">0<"));
    }
}
