//! What fitting adds to the rows: everything a search reads besides them.

use crate::coordinates::Affine;
use crate::error::{Error, Result};
use crate::hash::{Planes, Space};
use crate::memory::Block;
use crate::sketch::{Sketcher, Sketches};
use crate::tables::Tables;

/// What stands in the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The rows that hash there, as in the paper.
    Rows,
    /// The labels that training queries which hash there needed.
    Queries,
}

impl Fill {
    /// The name in files and in Python.
    pub fn name(self) -> &'static str {
        match self {
            Fill::Rows => "rows",
            Fill::Queries => "queries",
        }
    }

    /// The inverse of [`Fill::name`].
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "rows" => Ok(Fill::Rows),
            "queries" => Ok(Fill::Queries),
            _ => Err(Error::value("fill", "'queries' or 'rows'", format!("'{name}'"))),
        }
    }
}

/// What fitting adds to the rows. Clones share memory.
#[derive(Clone)]
pub struct Fitted {
    /// The hash.
    pub planes: Planes,
    /// The query's map into aligned coordinates, where planes or sketches need it.
    pub coordinates: Option<Affine>,
    /// The buckets.
    pub tables: Tables,
    /// Labels that are candidates of every query, rising.
    pub head: Block<u32>,
    /// Codes of the rows and how to read them.
    pub sketches: Option<(Sketcher, Sketches)>,
    /// What stands in the buckets.
    pub fill: Fill,
    /// Buckets probed at most, on average over the tables.
    pub n_probes: usize,
    /// No further bucket is probed once so many entries have been met.
    pub max_entries: usize,
    /// Candidates scored in full precision.
    pub n_rescore: usize,
}

impl Fitted {
    /// Prove that the parts fit each other and a layer of `m` rows of dimension `d`.
    pub fn validate(&self, m: usize, d: usize) -> Result<()> {
        let bad = |expected: String, got: String| Err(Error::Format { expected, got });
        self.tables.validate(m)?;
        if (self.tables.n_tables(), self.tables.n_bits()) != (self.planes.n_tables(), self.planes.n_bits()) {
            return bad(
                "tables and planes of one shape".into(),
                format!("{} tables", self.tables.n_tables()),
            );
        }
        if self.head.windows(2).any(|pair| pair[0] >= pair[1])
            || self.head.last().is_some_and(|&id| id as usize >= m)
        {
            return bad("a head of rising labels".into(), "another".into());
        }
        let p = self.coordinates.as_ref().map_or(0, |map| map.matrix().rows());
        if self.coordinates.as_ref().is_some_and(|map| map.matrix().cols() != d) {
            return bad(format!("coordinates of queries of dimension {d}"), "another dimension".into());
        }
        let dim = self.planes.dim();
        let fits = match self.planes.space() {
            Space::Augmented => dim == d + 1,
            Space::Aligned => dim <= p,
        };
        if !fits {
            return bad("planes that fit the dimension".into(), format!("planes of dimension {dim}"));
        }
        if self.sketches.is_some() && p == 0 {
            return bad("coordinates beside sketches".into(), "none".into());
        }
        if self.n_probes == 0 || self.max_entries == 0 || self.n_rescore == 0 {
            return bad("an operating point".into(), "zero probes, entries or rescored rows".into());
        }
        Ok(())
    }
}

/// Refuse operating points that cannot answer.
pub fn check_operating_point(n_probes: usize, max_entries: usize, n_rescore: usize) -> Result<()> {
    if n_probes == 0 {
        return Err(Error::value("n_probes", "at least 1", n_probes));
    }
    if max_entries == 0 {
        return Err(Error::value("max_entries", "at least 1", max_entries));
    }
    if n_rescore == 0 {
        return Err(Error::value("n_rescore", "at least 1", n_rescore));
    }
    Ok(())
}
