//! What the `cost` commands print: parameters and multiply-adds of a network, part by part.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::nn::Cost;
use crate::task::commands::trainings::table;

/// Counts of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostReport {
    /// The preset or the experiment file.
    pub name: String,
    /// Height and width of the image.
    pub size: (i64, i64),
    /// Classes of the network.
    pub num_classes: i64,
    /// Parameters and multiply-adds of the network.
    #[serde(flatten)]
    pub total: Cost,
    /// Counts of the parts, from input to output.
    pub parts: Vec<Part>,
}

/// Counts of one part of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The part's name.
    pub name: String,
    /// Its parameters and multiply-adds.
    #[serde(flatten)]
    pub cost: Cost,
}

impl CostReport {
    /// The report of a network that consists of `parts`.
    pub fn new(name: &str, size: (i64, i64), num_classes: i64, parts: Vec<(String, Cost)>) -> Self {
        let mut total = Cost::default();
        parts.iter().for_each(|(_, cost)| total += *cost);
        let parts = parts.into_iter().map(|(name, cost)| Part { name, cost }).collect();
        Self { name: name.to_string(), size, num_classes, total, parts }
    }
}

impl fmt::Display for CostReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (h, w) = self.size;
        writeln!(f, "{} at {h}x{w}, {} classes", self.name, self.num_classes)?;
        let unit = MacsUnit::of([self.total.macs]);
        let row = |name: &str, cost: Cost| {
            let params = format!("{:.3} M", cost.params as f64 / 1e6);
            vec![name.to_string(), params, cost.params.to_string(), unit.text(cost.macs), cost.macs.to_string()]
        };
        let mut rows = vec![["part", "params", "", "multiply-adds", ""].map(String::from).to_vec()];
        rows.extend(self.parts.iter().map(|part| row(&part.name, part.cost)));
        rows.push(row("total", self.total));
        f.write_str(&table(&rows, false))
    }
}

/// The unit in which a table shows multiply-adds: that of its largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacsUnit {
    /// Millions.
    Mega,
    /// Billions.
    Giga,
}

impl MacsUnit {
    /// The unit for a table of these numbers.
    pub fn of(macs: impl IntoIterator<Item = u64>) -> Self {
        if macs.into_iter().any(|macs| macs >= 1_000_000_000) { Self::Giga } else { Self::Mega }
    }

    /// A number with the unit.
    pub fn text(self, macs: u64) -> String {
        match self {
            Self::Mega => format!("{:.3} M", macs as f64 / 1e6),
            Self::Giga => format!("{:.3} G", macs as f64 / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_share_a_unit() {
        let parts = [("stem", 1_000, 2_000_000), ("head", 500, 1_000_000_000)];
        let parts = parts.map(|(name, params, macs)| (name.to_string(), Cost { params, macs })).to_vec();
        let report = CostReport::new("x", (32, 64), 10, parts);
        assert_eq!(report.total, Cost { params: 1_500, macs: 1_002_000_000 });
        let text = report.to_string();
        assert!(
            text.starts_with("x at 32x64, 10 classes") && text.contains("0.002 G") && text.contains("1.002 G"),
            "{text}"
        );
    }
}
