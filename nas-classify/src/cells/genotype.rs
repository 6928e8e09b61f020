//! Cells in the notation of DARTS (arXiv 1806.09055): `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=[2, 3, 4,
//! 5], reduce=[...], reduce_concat=[...])`. States 0 and 1 are the outputs of the two cells before, state `2 + n` is node `n`.

use std::fmt;
use std::str::FromStr;

use nas_core::nn::Op;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::frame::Place;
use super::notation;

/// One input of a node: which state, through which operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// 0: output of the cell before the last; 1: output of the last cell; `2 + n`: node `n` of the same cell.
    pub state: usize,
    /// What is applied to it.
    pub op: Op,
}

/// A cell: every node is the sum of two edges, the output is the concatenation of some states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The two inputs of each node.
    pub nodes: Vec<[Edge; 2]>,
    /// States that the output is made of.
    pub concat: Vec<usize>,
}

impl Cell {
    /// A cell whose output has all nodes, DARTS' choice.
    pub fn dense(nodes: Vec<[Edge; 2]>) -> Self {
        let concat = (2..2 + nodes.len()).collect();
        Self { nodes, concat }
    }

    /// A cell whose output has the nodes that no other takes, NASNet's choice.
    pub fn loose_ends(nodes: Vec<[Edge; 2]>) -> Self {
        let taken = |state: &usize| nodes.iter().flatten().any(|edge| edge.state == *state);
        let concat = (2..2 + nodes.len()).filter(|state| !taken(state)).collect();
        Self { nodes, concat }
    }

    /// Says what keeps the parts from being a cell.
    fn check(&self) -> Result<(), String> {
        if self.nodes.is_empty() || self.concat.is_empty() {
            return Err("a cell needs a node and a state in its concatenation".to_string());
        }
        for (node, edge) in self.nodes.iter().enumerate().flat_map(|(i, edges)| edges.iter().map(move |e| (i, e))) {
            if edge.state >= 2 + node {
                return Err(format!("node {node} takes state {}; expected 0 to {}", edge.state, 1 + node));
            }
        }
        let states = 2..2 + self.nodes.len();
        match self.concat.iter().find(|state| !states.contains(state)) {
            Some(state) => {
                Err(format!("state {state} in a concatenation; expected {} to {}", states.start, states.end - 1))
            }
            None => Ok(()),
        }
    }
}

/// The cells of a network by name: `normal` and `reduce` when one structure serves everywhere; `normal_1`, `reduce_1`, … when
/// each stage has its own; `cell_0`, `cell_1`, … when each cell has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
pub struct Genotype {
    /// Names and cells.
    pub cells: Vec<(String, Cell)>,
}

impl Genotype {
    /// The cell at `place`, or the names one of which was expected.
    pub fn cell(&self, place: Place) -> Result<&Cell, String> {
        let kind = if place.reduction { "reduce" } else { "normal" };
        let names = [format!("cell_{}", place.layer), format!("{kind}_{}", place.number()), kind.to_string()];
        let found = names.iter().find_map(|name| self.cells.iter().find(|(known, _)| known == name));
        found
            .map(|(_, cell)| cell)
            .ok_or_else(|| format!("no cell for layer {}: expected {}", place.layer, names.join(" or ")))
    }
}

impl fmt::Display for Genotype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let cell = |(name, cell): &(String, Cell)| {
            let edges = cell.nodes.iter().flatten().map(|edge| format!("('{}', {})", edge.op, edge.state));
            let edges = edges.collect::<Vec<_>>().join(", ");
            format!("{name}=[{edges}], {name}_concat={:?}", cell.concat)
        };
        let cells: Vec<String> = self.cells.iter().map(cell).collect();
        write!(f, "Genotype({})", cells.join(", "))
    }
}

/// A text that is no genotype.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no genotype: {reason}")]
pub struct ParseGenotypeError {
    text: String,
    reason: String,
}

impl FromStr for Genotype {
    type Err = ParseGenotypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| ParseGenotypeError { text: text.to_string(), reason };
        let cells = notation::parse(text).map_err(wrong)?;
        for (name, cell) in &cells {
            cell.check().map_err(|reason| wrong(format!("{name}: {reason}")))?;
        }
        Ok(Self { cells })
    }
}

impl TryFrom<String> for Genotype {
    type Error = ParseGenotypeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Genotype> for String {
    fn from(genotype: Genotype) -> String {
        genotype.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::published;

    #[test]
    fn the_notation_of_the_literature_round_trips() {
        for (name, text) in published::ALL {
            let genotype: Genotype = text.parse().unwrap();
            assert_eq!(genotype.to_string().parse::<Genotype>().unwrap(), genotype, "{name}");
        }
        let text = "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=[2])";
        assert_eq!(text.parse::<Genotype>().unwrap().to_string(), text);
        let range = text.replace("[2]", "range(2, 3)").replace(' ', "\n ");
        assert_eq!(range.parse::<Genotype>().unwrap().to_string(), text);
    }

    #[test]
    fn mistakes_are_named() {
        let text = "Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=[2])";
        for (from, to, expected) in [
            ("skip_connect", "skip", "unknown operator \"skip\""),
            ("3', 1", "3', 2", "takes state 2; expected 0 to 1"),
            ("[2]", "[1]", "state 1 in a concatenation"),
            ("Genotype(", "(", "expected \"Genotype\""),
            (", ('sep_conv_3x3', 1)", "", "1 edges, expected two for each node"),
            ("normal_concat", "reduce_concat", "no normal_concat"),
            ("[2])", "[2]", "expected \")\""),
            ("[2])", "[2]) x", "after the end"),
            ("1)", "1000000000000000000000)", "not a number"),
        ] {
            let error = text.replace(from, to).parse::<Genotype>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn loose_ends_are_the_nodes_that_nothing_takes() {
        let edge = |state| Edge { state, op: Op::SkipConnect };
        let nodes = vec![[edge(0), edge(1)], [edge(2), edge(0)], [edge(0), edge(0)]];
        assert_eq!(Cell::loose_ends(nodes).concat, [3, 4]);
    }
}
