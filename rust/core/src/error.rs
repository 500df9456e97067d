//! Errors by cause. The binding maps each variant to one Python exception.

use std::fmt;

/// What went wrong, with enough to tell the caller how to mend it.
#[derive(Debug)]
pub enum Error {
    /// An argument has a value outside its domain.
    Value {
        /// The argument's name as the caller knows it.
        arg: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// A search that needs tables was asked of an index without them.
    NotFitted,
    /// Fewer candidates than answers wanted, and the caller asked to be told.
    Short {
        /// Position of the first such query.
        query: usize,
        /// Its number of candidates.
        found: usize,
        /// Answers wanted.
        k: usize,
    },
    /// A file or buffer is not an index this version can read.
    Format {
        /// What would have been accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// The operating system refused.
    Io(std::io::Error),
}

/// Result of the core.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The same, of the query at this place of a batch.
    pub(crate) fn at(self, query: usize) -> Self {
        match self {
            Error::Short { found, k, .. } => Error::Short { query, found, k },
            other => other,
        }
    }

    /// The same of an argument that has another name.
    pub(crate) fn named(self, arg: &'static str) -> Self {
        match self {
            Error::Value { expected, got, .. } => Error::Value { arg, expected, got },
            other => other,
        }
    }

    pub(crate) fn value(arg: &'static str, expected: impl Into<String>, got: impl fmt::Display) -> Self {
        Error::Value { arg, expected: expected.into(), got: got.to_string() }
    }

    pub(crate) fn format(expected: impl Into<String>, got: impl fmt::Display) -> Self {
        Error::Format { expected: expected.into(), got: got.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Value { arg, expected, got } => {
                write!(f, "'{arg}' must be {expected}. Got {got} instead.")
            }
            Error::NotFitted => {
                write!(f, "This index has no tables yet: call fit first, or search with exact=True.")
            }
            Error::Short { query, found, k } => {
                write!(
                    f,
                    "Query {query} has {found} candidates, fewer than k={k}: search wider (n_probes), or use on_short='exact' or 'pad'."
                )
            }
            Error::Format { expected, got } => {
                write!(f, "Not a readable lss-rs index: expected {expected}, got {got}.")
            }
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io(error)
    }
}
