//! The space and its notation.

use nas_core::space::Architecture;
use nas_core::space::{ChoiceSpace, Graph};

/// Operators in the order of their numbers.
pub const OPS: [&str; 5] = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"];

/// (from, to) of the edges in the order of an architecture's choices.
pub const EDGES: [(usize, usize); 6] = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)];

const NODES: usize = 4;
const NONE: u16 = 0;

/// Label of the first operator in a graph.
pub(super) const FIRST_OP: u16 = 2;

/// The space of 15,625 cells: one operator for each edge, in the order 0->1, 0->2, 1->2, 0->3, 1->3, 2->3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NasBench201;

/// A text that is no cell.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no NAS-Bench-201 cell: {reason}")]
pub struct ParseCellError {
    text: String,
    reason: String,
}

impl NasBench201 {
    /// Reads `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.
    pub fn parse(text: &str) -> Result<Architecture, ParseCellError> {
        let wrong = |reason: String| ParseCellError { text: text.to_string(), reason };
        let nodes: Vec<&str> = text.trim().split('+').collect();
        if nodes.len() != NODES - 1 {
            return Err(wrong(format!("{} nodes, expected {}", nodes.len(), NODES - 1)));
        }
        let mut choices = Vec::new();
        for (i, node) in nodes.into_iter().enumerate() {
            let inner = node.strip_prefix('|').and_then(|node| node.strip_suffix('|'));
            let inner = inner.ok_or_else(|| wrong(format!("node {node:?} is not enclosed in |")))?;
            let edges: Vec<&str> = inner.split('|').collect();
            if edges.len() != i + 1 {
                return Err(wrong(format!("{} edges into node {}, expected {}", edges.len(), i + 1, i + 1)));
            }
            for (from, edge) in edges.into_iter().enumerate() {
                let (op, source) = edge.split_once('~').ok_or_else(|| wrong(format!("{edge:?} has no `~`")))?;
                let number = OPS.iter().position(|name| *name == op);
                let expected = || wrong(format!("unknown operator {op:?}, expected one of {}", OPS.join(", ")));
                if source != from.to_string() {
                    return Err(wrong(format!(
                        "edge {edge:?} into node {} comes from {source}, expected {from}",
                        i + 1
                    )));
                }
                choices.push(number.ok_or_else(expected)? as u16);
            }
        }
        Ok(Architecture::new(choices))
    }

    /// The cell in the benchmark's notation.
    pub fn notation(arch: &Architecture) -> String {
        let mut text = String::new();
        for ((from, to), choice) in EDGES.iter().zip(arch.choices()) {
            if *from == 0 && *to > 1 {
                text.push('+');
            }
            if *from == 0 {
                text.push('|');
            }
            text.push_str(&format!("{}~{from}|", OPS[usize::from(*choice)]));
        }
        text
    }
}

impl ChoiceSpace for NasBench201 {
    fn name(&self) -> &str {
        "nasbench201"
    }

    fn decisions(&self) -> Vec<u16> {
        vec![OPS.len() as u16; EDGES.len()]
    }

    /// Operators as nodes. Edges of `none` and what has no way from the input to the output are left out: they have no
    /// influence on the network's function.
    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        const OUTPUT: u16 = 1;
        let present = |edge: usize| arch.choices()[edge] != NONE;
        let (mut reached, mut leads) = ([false; NODES], [false; NODES]);
        reached[0] = true;
        leads[NODES - 1] = true;
        (0..EDGES.len()).filter(|e| present(*e)).for_each(|e| reached[EDGES[e].1] |= reached[EDGES[e].0]);
        // Backwards by source node.
        let mut order: Vec<usize> = (0..EDGES.len()).filter(|e| present(*e)).collect();
        order.sort_by_key(|edge| std::cmp::Reverse(EDGES[*edge].0));
        order.into_iter().for_each(|edge| leads[EDGES[edge].0] |= leads[EDGES[edge].1]);
        let used = |edge: &usize| present(*edge) && reached[EDGES[*edge].0] && leads[EDGES[*edge].1];
        let ops: Vec<usize> = (0..EDGES.len()).filter(used).collect();
        let mut labels = vec![0];
        labels.extend(ops.iter().map(|edge| FIRST_OP + arch.choices()[*edge]));
        labels.push(OUTPUT);
        let mut edges = Vec::new();
        for (node, edge) in ops.iter().enumerate() {
            let (from, to) = EDGES[*edge];
            if from == 0 {
                edges.push((0, node + 1));
            }
            let next = ops.iter().enumerate().filter(|(_, other)| EDGES[**other].0 == to);
            edges.extend(next.map(|(other, _)| (node + 1, other + 1)));
            if to == NODES - 1 {
                edges.push((node + 1, ops.len() + 1));
            }
        }
        Some(Graph { labels, edges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESNET: &str = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|";

    #[test]
    fn notation_round_trips() {
        let arch = NasBench201::parse(RESNET).unwrap();
        assert_eq!(arch.to_string(), "3-0-3-1-0-1");
        assert_eq!(NasBench201::notation(&arch), RESNET);
    }

    #[test]
    fn errors_say_what_was_expected() {
        let error = |text: &str| NasBench201::parse(text).unwrap_err().to_string();
        assert!(error(&RESNET.replace("nor_conv_3x3~1", "conv~1")).contains("unknown operator \"conv\""));
        assert!(error(&RESNET.replace("nor_conv_3x3~1", "none~0")).contains("comes from 0, expected 1"));
        assert!(error("|none~0|").contains("1 nodes, expected 3"));
        assert!(error(&RESNET.replace("+|none~0|", "+|")).contains("1 edges into node 2, expected 2"));
    }

    #[test]
    fn the_graph_has_what_reaches_the_output() {
        // ResNet cell: 3x3 -> 3x3 -> skip -> output, beside skip -> output.
        let graph = NasBench201.graph(&NasBench201::parse(RESNET).unwrap()).unwrap();
        assert_eq!(graph.labels, [0, 5, 5, 3, 3, 1]);
        assert_eq!(graph.edges, [(0, 1), (1, 2), (2, 4), (0, 3), (3, 5), (4, 5)]);
        // The edge 0->1 leads nowhere.
        let graph = NasBench201.graph(&"3-0-0-2-0-0".parse().unwrap()).unwrap();
        assert_eq!((graph.labels, graph.edges), (vec![0, 4, 1], vec![(0, 1), (1, 2)]));
    }
}
