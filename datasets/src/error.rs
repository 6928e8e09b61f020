//! What can be wrong with a data set. Every message names the file or the key.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong with one file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// What was found there.
    pub found: String,
    /// What was expected instead.
    pub expected: String,
}

impl Problem {
    pub(crate) fn new(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { path: path.to_owned(), found: found.into(), expected: expected.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}, expected {}", self.path.display(), self.found, self.expected)
    }
}

impl std::error::Error for Problem {}

/// Why a data set, a sample or a batch cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder is not what its format says.
    #[error(transparent)]
    Invalid(#[from] Problem),
    /// The operating system refused to write.
    #[error("cannot write {}", path.display())]
    Write {
        /// File or folder that was to be written.
        path: PathBuf,
        /// The system's or the encoder's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting has a value that makes no sense.
    #[error("{key} = {found}, expected {expected}")]
    Setting {
        /// Name of the setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is possible.
        expected: &'static str,
    },
    /// Two lists of classes are not the same.
    #[error(transparent)]
    Classes(#[from] crate::classes::ClassesDiffer),
    /// There are not enough samples for a single batch.
    #[error("{samples} training samples do not fill one batch of {batch_size}: lower the batch size or add images")]
    SmallerThanBatch {
        /// Samples to draw from.
        samples: usize,
        /// Samples of a batch.
        batch_size: usize,
    },
    /// A sample without label where one is needed.
    #[error("sample {name} has no label to train on")]
    Unlabelled {
        /// Name of the sample.
        name: String,
    },
    /// A loader thread panicked: a bug, not a broken file.
    #[error("reading sample {name} panicked: {message}")]
    Panic {
        /// Name of the sample.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// The loader's threads could not be started.
    #[error("cannot start the loader's threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl DataError {
    pub(crate) fn write(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Write { path: path.to_owned(), source: source.into() }
    }
}
