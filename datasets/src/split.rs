//! The parts of a data set.

use std::fmt;
use std::str::FromStr;

/// Part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is scored.
    Val,
    /// What is predicted for a benchmark server; mostly unlabelled.
    Test,
}

impl Split {
    /// Name in folder and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = [Self::Train, Self::Val, Self::Test].into_iter().find(|split| split.as_str() == text);
        split.ok_or_else(|| format!("{text:?} is no split; expected train, val or test"))
    }
}
