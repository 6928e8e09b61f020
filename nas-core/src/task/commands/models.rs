//! The command `models`: what is known of the networks that have a name.

use std::fmt;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::cost::MacsUnit;
use super::trainings::table;
use crate::nn::Cost;
use crate::run::cli::{Format, print};

/// List the networks that have a name: counts, scores, where weights come from
#[derive(Clone, Debug, Args)]
pub struct ModelsArgs {
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What others and we have said of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Where the network was published.
    pub paper: &'static str,
    /// Its published score, on what; empty where there is none.
    pub published: &'static str,
    /// The score of a training by this program, and where it is described; empty where there is none.
    pub own: &'static str,
    /// Whose weights load, and under which licence; empty where there are none.
    pub weights: &'static str,
}

impl Facts {
    /// A network of a paper with a published score.
    pub const fn new(paper: &'static str, published: &'static str) -> Self {
        Self { paper, published, own: "", weights: "" }
    }

    /// The same with the score of a training by this program.
    pub const fn own(self, own: &'static str) -> Self {
        Self { own, ..self }
    }

    /// The same with weights that load.
    pub const fn weights(self, weights: &'static str) -> Self {
        Self { weights, ..self }
    }
}

/// A line of the list.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// As configs and commands take it.
    pub name: String,
    /// Height and width of the image of the counts.
    pub size: (i64, i64),
    /// Classes of the counts.
    pub num_classes: i64,
    /// Parameters and multiply-adds.
    #[serde(flatten)]
    pub cost: Cost,
    /// What is said of it.
    #[serde(flatten)]
    pub facts: Facts,
}

#[derive(Serialize)]
#[serde(transparent)]
struct List(Vec<Model>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut rows =
            vec![["name", "params", "multiply-adds", "at", "classes", "published"].map(String::from).to_vec()];
        let unit = MacsUnit::of(self.0.iter().map(|model| model.cost.macs));
        rows.extend(self.0.iter().map(|Model { name, size: (h, w), num_classes, cost, facts }| {
            let params = format!("{:.3} M", cost.params as f64 / 1e6);
            let (macs, size) = (unit.text(cost.macs), format!("{h}x{w}"));
            vec![name.clone(), params, macs, size, num_classes.to_string(), facts.published.to_string()]
        }));
        writeln!(f, "{}\n", table(&rows, false))?;
        for Model { name, facts: Facts { paper, own, weights, .. }, .. } in &self.0 {
            write!(f, "{name}: {paper}")?;
            if !own.is_empty() {
                write!(f, "; here {own}")?;
            }
            if !weights.is_empty() {
                write!(f, "; weights: {weights}")?;
            }
            writeln!(f)?;
        }
        write!(f, "Scores are of other people's trainings unless it says \"here\".")
    }
}

/// Prints the list.
pub fn run(args: &ModelsArgs, models: Vec<Model>) -> Result<()> {
    print(&List(models), args.format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_counts_in_one_unit_and_says_what_is_whose() {
        let model = |name: &str, macs, facts| Model {
            name: name.into(),
            size: (32, 64),
            num_classes: 10,
            cost: Cost { params: 1_500_000, macs },
            facts,
        };
        let facts = Facts::new("A (2020)", "70 % of X").own("60 % of Y (docs/y.md)").weights("the authors', MIT");
        let list = List(vec![model("a", 2_000_000_000, facts), model("b", 1_000_000, Facts::new("B (2021)", ""))]);
        let text = list.to_string();
        assert!(text.contains("1.500 M") && text.contains("2.000 G") && text.contains("0.001 G"), "{text}");
        assert!(text.contains("a: A (2020); here 60 % of Y (docs/y.md); weights: the authors', MIT\nb: B (2021)\n"));
        let json = serde_json::to_value(&list).unwrap();
        assert_eq!((&json[0]["params"], &json[1]["published"]), (&1_500_000.into(), &"".into()));
    }
}
