//! A table of operators: what every choice of every decision costs on a device. The cost of an architecture is their sum, as in
//! ProxylessNAS (Cai et al., ICLR 2019, arXiv:1812.00332) and FBNet (Wu et al., CVPR 2019, arXiv:1812.03443), which measure
//! every operator once: what operators cost each other is not seen.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::analysis::vocabulary::Decision;
use super::table::open;
use crate::space::Architecture;

/// A cost for every choice of every decision of a space, and that of what is not decided.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorTable {
    constant: f64,
    /// By decision and choice; none where the operator does not run.
    costs: Vec<Vec<Option<f64>>>,
}

/// Columns of the file.
const COLUMNS: [&str; 3] = ["decision", "choice", "millis"];

impl OperatorTable {
    /// Reads a CSV file with the columns `decision`, `choice` and `millis`, one row for every choice of every decision, by the names
    /// of the space or by numbers from 0. A row without decision and choice is the network's fixed part. An empty or negative number
    /// means that the operator does not run there. Errors name the file and the line, or what is missing.
    pub fn read(path: &Path, decisions: &[Decision]) -> Result<Self> {
        Self::read_csv(path, decisions).with_context(|| path.display().to_string())
    }

    fn read_csv(path: &Path, decisions: &[Decision]) -> Result<Self> {
        let mut csv = csv::Reader::from_reader(open(path)?);
        let names: Vec<String> = csv.headers()?.iter().map(|name| name.trim().to_string()).collect();
        let place = |column: &str| {
            let found = names.iter().position(|name| name == column);
            found.with_context(|| format!("no column {column:?}; expected {}", COLUMNS.join(", ")))
        };
        let [decision, choice, millis] = COLUMNS.map(place);
        let (decision, choice, millis) = (decision?, choice?, millis?);
        let mut rows: HashMap<Option<(usize, usize)>, Option<f64>> = HashMap::new();
        for record in csv.records() {
            let record = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let cell = |i: usize| record[i].trim();
            let mut read = || -> Result<()> {
                let place = match (cell(decision), cell(choice)) {
                    ("", "") => None,
                    (decision, choice) => Some(place_of(decision, choice, decisions)?),
                };
                let value = number(cell(millis))?;
                ensure!(place.is_some() || value.is_some(), "the fixed part has no number");
                ensure!(rows.insert(place, value).is_none(), "the choice appears a second time");
                Ok(())
            };
            read().with_context(|| format!("line {line}"))?;
        }
        let all =
            decisions.iter().enumerate().flat_map(|(i, decision)| (0..decision.choices.len()).map(move |j| (i, j)));
        let missing: Vec<String> = all
            .filter(|place| !rows.contains_key(&Some(*place)))
            .map(|(i, j)| format!("{},{}", decisions[i].name, decisions[i].choices[j]))
            .collect();
        ensure!(
            missing.is_empty(),
            "no row of {} choices, such as {}",
            missing.len(),
            missing[..missing.len().min(3)].join(" and ")
        );
        let of = |(i, decision): (usize, &Decision)| (0..decision.choices.len()).map(|j| rows[&Some((i, j))]).collect();
        Ok(Self {
            constant: rows.get(&None).copied().flatten().unwrap_or(0.0),
            costs: decisions.iter().enumerate().map(of).collect(),
        })
    }

    /// The fixed part, and the cost of every choice of every decision.
    pub fn parts(&self) -> (f64, &[Vec<Option<f64>>]) {
        (self.constant, &self.costs)
    }

    /// The cost of an architecture of the space; none where an operator of it does not run.
    pub fn cost(&self, arch: &Architecture) -> Option<f64> {
        let of = |(costs, choice): (&Vec<Option<f64>>, &u16)| *costs.get(usize::from(*choice))?;
        self.costs.iter().zip(arch.choices()).map(of).try_fold(self.constant, |sum, cost| Some(sum + cost?))
    }
}

/// Numbers of a decision and a choice by name or number.
fn place_of(decision: &str, choice: &str, decisions: &[Decision]) -> Result<(usize, usize)> {
    let find = |what: &str, text: &str, names: &[&str]| {
        let named = names.iter().position(|name| *name == text);
        let found = named.or_else(|| text.parse().ok().filter(|number: &usize| *number < names.len()));
        found.with_context(|| {
            format!("{what} {text:?}; expected one of {}, or a number below {}", names.join(", "), names.len())
        })
    };
    let names: Vec<&str> = decisions.iter().map(|decision| decision.name.as_str()).collect();
    let i = find("decision", decision, &names)?;
    let names: Vec<&str> = decisions[i].choices.iter().map(String::as_str).collect();
    Ok((i, find("choice", choice, &names)?))
}

fn number(text: &str) -> Result<Option<f64>> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Some(value).filter(|value| *value >= 0.0)),
        _ => bail!("millis: {text:?} is no number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions() -> Vec<Decision> {
        let decision = |name: &str, choices: [&str; 2]| Decision {
            name: name.into(),
            choices: choices.map(String::from).to_vec(),
        };
        vec![decision("layer 1", ["k3", "k5"]), decision("layer 2", ["k3", "skip"])]
    }

    fn read(rows: &str) -> Result<OperatorTable> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("millis,decision,choice\n{rows}")).unwrap();
        OperatorTable::read(file.path(), &decisions())
    }

    const ROWS: &str = "0.5,,\n1,layer 1,k3\n2,layer 1,k5\n4,1,k3\n0,layer 2,1\n";

    #[test]
    fn an_architecture_costs_what_its_operators_and_the_fixed_part_cost() {
        let table = read(ROWS).unwrap();
        let cost = |table: &OperatorTable, arch: &str| table.cost(&arch.parse().unwrap());
        assert_eq!(["0-0", "0-1", "1-0", "1-1"].map(|arch| cost(&table, arch)), [5.5, 1.5, 6.5, 2.5].map(Some));
        let table = read(&ROWS.replace("4,", "-1,").replace("0.5,,\n", "")).unwrap();
        assert_eq!(["0-0", "0-1"].map(|arch| cost(&table, arch)), [None, Some(1.0)]);
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let error = |rows: &str| format!("{:#}", read(rows).unwrap_err());
        assert!(
            error("1,layer 1,k3\n").contains("no row of 3 choices, such as layer 1,k5 and layer 2,k3 and layer 2,skip")
        );
        assert!(error("1,layer 3,k3\n").contains("line 2: decision \"layer 3\"; expected one of layer 1, layer 2"));
        assert!(
            error("1,layer 1,skip\n").contains("line 2: choice \"skip\"; expected one of k3, k5, or a number below 2")
        );
        assert!(error(&format!("{ROWS}1,0,0\n")).contains("line 7: the choice appears a second time"));
        assert!(error("fast,0,0\n").contains("\"fast\" is no number") && error("nan,0,0\n").contains("is no number"));
        assert!(error(",,\n").contains("the fixed part has no number"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "decision,choice\n").unwrap();
        let error = format!("{:#}", OperatorTable::read(file.path(), &decisions()).unwrap_err());
        assert!(error.contains("no column \"millis\""), "{error}");
    }
}
