//! The one representation of an architecture that strategies, stores and executors pass around.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One choice per decision of a search space. Prints and parses as `3-0-1`.
///
/// ```
/// let arch: nas_core::space::Architecture = "3-0-1".parse().unwrap();
/// assert_eq!(arch.choices(), [3, 0, 1]);
/// assert_eq!(arch.to_string(), "3-0-1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
pub struct Architecture(Vec<u16>);

impl Architecture {
    /// An architecture from its choices, in the order of the space's decisions.
    pub fn new(choices: Vec<u16>) -> Self {
        Self(choices)
    }

    /// The choices, one per decision.
    pub fn choices(&self) -> &[u16] {
        &self.0
    }

    /// How many choices differ from another architecture's of the space (Hamming).
    pub fn differing(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(a, b)| a != b).count()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, choice) in self.0.iter().enumerate() {
            let dash = if i == 0 { "" } else { "-" };
            write!(f, "{dash}{choice}")?;
        }
        Ok(())
    }
}

/// A text that is no list of choices.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no architecture: {part:?} is not a choice; expected numbers joined by dashes, such as 3-0-1")]
pub struct ParseArchitectureError {
    text: String,
    part: String,
}

impl FromStr for Architecture {
    type Err = ParseArchitectureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let choice = |part: &str| {
            part.parse().map_err(|_| ParseArchitectureError { text: text.to_string(), part: part.to_string() })
        };
        text.split('-').map(choice).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<String> for Architecture {
    type Error = ParseArchitectureError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Architecture> for String {
    fn from(arch: Architecture) -> String {
        arch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_through_json() {
        let arch = Architecture::new(vec![3, 0, 11]);
        let json = serde_json::to_string(&arch).unwrap();
        assert_eq!(json, "\"3-0-11\"");
        assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), arch);
    }

    #[test]
    fn a_bad_choice_is_named() {
        let error = "3-x-1".parse::<Architecture>().unwrap_err().to_string();
        assert!(error.contains("\"x\""), "{error}");
    }
}
