//! What people call the decisions, choices and operators of a space.

use std::fmt;

use anyhow::Result;

use crate::space::{Architecture, Graph};

/// A decision of a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Name, unique in the space.
    pub name: String,
    /// Names of its choices, in the order of their numbers. Decisions between the same things have the same names.
    pub choices: Vec<String>,
}

impl Decision {
    /// One by what its choices are.
    pub fn new<C: fmt::Display>(name: impl Into<String>, choices: impl IntoIterator<Item = C>) -> Self {
        Self { name: name.into(), choices: choices.into_iter().map(|choice| choice.to_string()).collect() }
    }
}

/// The names of a space, all that an analysis knows of it.
pub trait Vocabulary: fmt::Debug {
    /// The decisions in the order of an architecture's choices.
    fn decisions(&self) -> Vec<Decision>;

    /// Reads an architecture as tables of the space write it.
    fn parse(&self, text: &str) -> Result<Architecture> {
        Ok(text.trim().parse()?)
    }

    /// An architecture as people write it.
    fn notation(&self, arch: &Architecture) -> String {
        arch.to_string()
    }

    /// As [`crate::space::ChoiceSpace::graph`].
    fn graph(&self, _arch: &Architecture) -> Option<Graph> {
        None
    }

    /// Name of a label of the graph's nodes between the first and the last.
    fn label(&self, label: u16) -> String {
        label.to_string()
    }

    /// A picture of an architecture as SVG.
    fn drawing(&self, _arch: &Architecture) -> Option<String> {
        None
    }

    /// Whether anything leads from the input to the output; none where the space has no graph.
    fn is_connected(&self, arch: &Architecture) -> Option<bool> {
        let Graph { labels, edges } = self.graph(arch)?;
        let mut reached = vec![false; labels.len()];
        reached[0] = true;
        // A node comes after all that lead to it.
        for to in 1..labels.len() {
            reached[to] = edges.iter().any(|edge| edge.1 == to && reached[edge.0]);
        }
        reached.last().copied()
    }
}

/// Names for a space of which nothing is known but the architectures that were seen: `d0`, `d1`, .. and the choices' numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    options: Vec<u16>,
}

impl Numbers {
    /// The smallest space that has all of `archs`.
    pub fn of<'a>(archs: impl IntoIterator<Item = &'a Architecture>) -> Self {
        let mut options = Vec::new();
        for arch in archs {
            options.resize(options.len().max(arch.choices().len()), 0);
            options
                .iter_mut()
                .zip(arch.choices())
                .for_each(|(most, choice)| *most = (*most).max(choice.saturating_add(1)));
        }
        Self { options }
    }
}

impl Vocabulary for Numbers {
    fn decisions(&self) -> Vec<Decision> {
        numbered(&self.options)
    }
}

/// Decisions without names, by their numbers of choices.
pub fn numbered(options: &[u16]) -> Vec<Decision> {
    let decision = |(i, options): (usize, &u16)| Decision {
        name: format!("d{i}"),
        choices: (0..*options).map(|choice| choice.to_string()).collect(),
    };
    options.iter().enumerate().map(decision).collect()
}
