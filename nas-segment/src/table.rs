//! The table of a comparison, as text, Markdown and JSON.

use std::fmt;

use nas_core::space::Cost;
use serde::{Deserialize, Serialize};

/// Models compared on one recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Height and width of the images at validation; multiply-adds and images/s are for these.
    pub eval_size: (u32, u32),
    /// One row per model.
    pub rows: Vec<Row>,
    /// The run folder.
    pub run: String,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The model's name.
    pub name: String,
    /// mIOU of each seed, a fraction.
    pub mious: Vec<f64>,
    /// Parameters and multiply-adds.
    pub cost: Cost,
    /// Images per second of the forward pass at batch 1.
    pub images_per_sec: f64,
    /// Mean seconds of a training's optimisation steps.
    pub train_secs: f64,
}

impl Row {
    /// Mean mIOU over seeds.
    pub fn mean(&self) -> f64 {
        self.mious.iter().sum::<f64>() / self.mious.len() as f64
    }

    /// Sample standard deviation of mIOU over seeds; 0 for one seed.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.mious.iter().map(|miou| (miou - mean).powi(2)).sum();
        (squares / (self.mious.len() as f64 - 1.0).max(1.0)).sqrt()
    }

    fn cells(&self) -> [String; 7] {
        [
            self.name.clone(),
            format!("{:.2} ± {:.2}", 100.0 * self.mean(), 100.0 * self.deviation()),
            self.mious.len().to_string(),
            format!("{:.3} M", self.cost.params as f64 / 1e6),
            format!("{:.3} G", self.cost.macs as f64 / 1e9),
            format!("{:.1}", self.images_per_sec),
            format!("{:.0}", self.train_secs),
        ]
    }
}

const HEADER: [&str; 7] = ["model", "mIOU %", "seeds", "params", "multiply-adds", "images/s", "train s"];

impl Comparison {
    fn lines(&self, markdown: bool) -> Vec<String> {
        let mut rows = vec![HEADER.map(str::to_string)];
        rows.extend(self.rows.iter().map(Row::cells));
        let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let line = |row: &[String; 7]| {
            let pad = |(i, cell): (usize, &String)| match i {
                0 => format!("{cell:<0$}", width(i)),
                _ => format!("{cell:>0$}", width(i)),
            };
            let cells: Vec<String> = row.iter().enumerate().map(pad).collect();
            if markdown { format!("| {} |", cells.join(" | ")) } else { cells.join("  ") }
        };
        let mut lines: Vec<String> = rows.iter().map(line).collect();
        if markdown {
            lines.insert(1, format!("|---{}|", "|---:".repeat(HEADER.len() - 1)));
        }
        lines
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        self.lines(true).join("\n") + "\n"
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.lines(false).join("\n"))?;
        let (h, w) = self.eval_size;
        write!(f, "multiply-adds and images/s (batch 1) at {h}x{w}; everything is in {}", self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_mean_and_sample_deviation() {
        let cost = Cost { params: 600_000, macs: 1_500_000_000 };
        let row = Row { name: "x".into(), mious: vec![0.5, 0.6, 0.7], cost, images_per_sec: 8.0, train_secs: 90.0 };
        assert!((row.mean() - 0.6).abs() < 1e-12 && (row.deviation() - 0.1).abs() < 1e-12);
        let table = Comparison { eval_size: (360, 480), rows: vec![row], run: "runs/x".into() };
        assert!(table.markdown().contains("| x     | 60.00 ± 10.00 |     3 | 0.600 M |"), "{}", table.markdown());
    }
}
