//! A set of architectures as a search strategy sees it: lists of choices that can be drawn, changed and compared.

use std::fmt;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Architecture;

/// A set of architectures, each a list of choices: all that a search strategy sees of a space.
pub trait ChoiceSpace: fmt::Debug + Send + Sync {
    /// The space's name, as configs spell it.
    fn name(&self) -> &str;

    /// Number of choices of each decision.
    fn decisions(&self) -> Vec<u16>;

    /// Says what is wrong with an architecture that is not of this space. Where a space has no further rules, every list with one
    /// choice of each decision is of it.
    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        self.check_choices(arch)
    }

    /// Says which choice there is none of.
    fn check_choices(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        let (choices, decisions) = (arch.choices(), self.decisions());
        if choices.len() != decisions.len() {
            return Err(self.invalid(arch, format!("{} choices, expected {}", choices.len(), decisions.len())));
        }
        let outside = (0..choices.len()).find(|i| choices[*i] >= decisions[*i]);
        outside.map_or(Ok(()), |i| {
            let reason = format!("choice {i} is {}, expected 0 to {}", choices[i], i32::from(decisions[i]) - 1);
            Err(self.invalid(arch, reason))
        })
    }

    /// The error of an architecture that is not of this space.
    fn invalid(&self, arch: &Architecture, reason: String) -> InvalidArchitecture {
        InvalidArchitecture { space: self.name().into(), arch: arch.to_string(), reason }
    }

    /// An architecture drawn uniformly from the decisions that [`ChoiceSpace::validate`] accepts.
    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture {
        let decisions = self.decisions();
        loop {
            let arch = Architecture::new(decisions.iter().map(|options| rng.random_range(0..*options)).collect());
            if self.validate(&arch).is_ok() {
                return arch;
            }
        }
    }

    /// The architecture that stands for `choices`, one of each decision; none where they make no network.
    fn standing_for(&self, choices: Vec<u16>) -> Option<Architecture> {
        Some(Architecture::new(choices)).filter(|arch| self.validate(arch).is_ok())
    }

    /// A valid architecture that differs from `parent` by one elementary change; `parent` where no decision has two choices.
    fn mutate(&self, parent: &Architecture, rng: &mut ChaCha8Rng) -> Architecture {
        let decisions = self.decisions();
        let open: Vec<usize> = (0..decisions.len()).filter(|i| decisions[*i] > 1).collect();
        if open.is_empty() {
            return parent.clone();
        }
        loop {
            let i = open[rng.random_range(0..open.len())];
            let mut choices = parent.choices().to_vec();
            choices[i] = (choices[i] + rng.random_range(1..decisions[i])) % decisions[i];
            let child = Architecture::new(choices);
            if self.validate(&child).is_ok() {
                return child;
            }
        }
    }

    /// All valid architectures that differ from `arch` in one decision, in the order of decisions and choices.
    fn neighbors(&self, arch: &Architecture) -> Vec<Architecture> {
        let mut neighbors = Vec::new();
        for (i, options) in self.decisions().into_iter().enumerate() {
            for choice in (0..options).filter(|choice| *choice != arch.choices()[i]) {
                let mut choices = arch.choices().to_vec();
                choices[i] = choice;
                neighbors.push(Architecture::new(choices));
            }
        }
        neighbors.retain(|neighbor| self.validate(neighbor).is_ok());
        neighbors
    }

    /// What surrogates compare of an architecture without a graph, as many numbers for each: its choices. Where a choice is a
    /// combination, such as kernel and expansion of a block, its parts, so that what one block says is said of those like it.
    fn traits(&self, arch: &Architecture) -> Vec<u16> {
        arch.choices().to_vec()
    }

    /// The architecture's cell as a graph with operators on its nodes, where the space has one. Kernels and encodings that
    /// compare graphs use it; without one they compare [`ChoiceSpace::traits`].
    fn graph(&self, _arch: &Architecture) -> Option<Graph> {
        None
    }
}

/// A directed acyclic graph with a label on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Labels; the first node is the input, the last the output.
    pub labels: Vec<u16>,
    /// (from, to), `from < to`.
    pub edges: Vec<(usize, usize)>,
}

/// An architecture that is not of the space.
#[derive(Debug, thiserror::Error)]
#[error("architecture {arch} is not of the space {space}: {reason}")]
pub struct InvalidArchitecture {
    /// The space's name.
    pub space: String,
    /// The architecture's text form.
    pub arch: String,
    /// What was found and what was expected.
    pub reason: String,
}
