//! What fitting adds to the rows: everything a search reads besides them.

use crate::coordinates::Affine;
use crate::error::{Error, Result};
use crate::exemplars::Exemplars;
use crate::hash::{Planes, Space};
use crate::memory::Block;
use crate::sketch::{Sketcher, Sketches};
use crate::tables::Tables;

/// What stands in the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The rows that hash there, as in the paper.
    Rows,
    /// The training queries that hash there, each with the labels that it needed.
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

/// How much a search does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatingPoint {
    /// Buckets probed at most, on average over the tables.
    pub n_probes: usize,
    /// No further bucket is probed once so many entries have been met.
    pub max_entries: usize,
    /// Exemplars, the nearest of those met, whose labels are candidates.
    pub n_neighbors: usize,
    /// Candidates scored in full precision.
    pub n_rescore: usize,
    /// Score all rows instead, where nothing less is good enough.
    pub exact: bool,
}

impl OperatingPoint {
    /// Refuse what cannot answer.
    pub fn check(self) -> Result<Self> {
        let OperatingPoint { n_probes, max_entries, n_neighbors, n_rescore, exact: _ } = self;
        let all = [
            ("n_probes", n_probes),
            ("max_entries", max_entries),
            ("n_neighbors", n_neighbors),
            ("n_rescore", n_rescore),
        ];
        match all.into_iter().find(|&(_, value)| value == 0) {
            Some((arg, value)) => Err(Error::value(arg, "at least 1", value)),
            None => Ok(self),
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
    /// The buckets: of exemplars if there are any, else of rows.
    pub tables: Tables,
    /// The training queries, with [`Fill::Queries`].
    pub exemplars: Option<Exemplars>,
    /// Labels that are candidates of every query, rising.
    pub always_include: Block<u32>,
    /// Codes of the rows and how to read them.
    pub sketches: Option<(Sketcher, Sketches)>,
    /// How much a search does.
    pub point: OperatingPoint,
}

impl Fitted {
    /// What stands in the buckets.
    pub fn fill(&self) -> Fill {
        if self.exemplars.is_some() { Fill::Queries } else { Fill::Rows }
    }

    /// Prove that the parts fit each other and a layer of `m` rows of dimension `d`.
    pub fn validate(&self, m: usize, d: usize) -> Result<()> {
        let bad = |expected: String, got: String| Err(Error::Format { expected, got });
        self.tables.validate(self.exemplars.as_ref().map_or(m, Exemplars::len))?;
        if let Some(exemplars) = &self.exemplars {
            exemplars.validate(m)?;
        }
        if (self.tables.n_tables(), self.tables.n_bits()) != (self.planes.n_tables(), self.planes.n_bits()) {
            return bad(
                "tables and planes of one shape".into(),
                format!("{} tables", self.tables.n_tables()),
            );
        }
        if self.always_include.windows(2).any(|pair| pair[0] >= pair[1])
            || self.always_include.last().is_some_and(|&id| id as usize >= m)
        {
            return bad("'always_include' of rising labels".into(), "others".into());
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
        if (self.sketches.is_some() || self.exemplars.is_some()) && p == 0 {
            return bad("coordinates beside sketches".into(), "none".into());
        }
        if self.point.check().is_err() {
            return bad("an operating point".into(), format!("{:?}", self.point));
        }
        Ok(())
    }
}
