//! What the benchmark calls its decisions and choices.

use nas_core::search::analysis::vocabulary::Decision;

use super::space::{EDGES, FIRST_OP, NasBench201, OPS};

impl NasBench201 {
    /// Edges by `child<-parent`, operators by their published names.
    pub fn names() -> Vec<Decision> {
        EDGES.iter().map(|(from, to)| Decision::new(format!("{to}<-{from}"), OPS)).collect()
    }

    /// Operator of a node of a cell's graph.
    pub fn label(label: u16) -> &'static str {
        OPS[usize::from(label - FIRST_OP)]
    }
}
