//! What fitting adds to the rows: everything a search reads besides them.

use std::sync::Arc;

use crate::byte_rows::ByteRows;
use crate::columns::Columns;
use crate::coordinates::Projection;
use crate::error::{Error, Result};
use crate::exemplars::{Exemplars, SKETCH_BYTES};
use crate::hash::{Planes, Space};
use crate::memory::Block;
use crate::need::part_of;
use crate::observed::Observed;
use crate::regions::Regions;
use crate::sketch::{Sketcher, Sketches};
use crate::tables::Tables;
use crate::trust::{LISTED, Trust};

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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// Buckets probed at most, on average over the tables.
    pub n_probes: usize,
    /// No further bucket is probed once so many entries have been met.
    pub max_entries: usize,
    /// Exemplars, the nearest of those met, whose labels are candidates.
    pub n_neighbors: usize,
    /// Candidates scored in full precision, at most.
    pub n_rescore: usize,
    /// Score all rows instead, where nothing less is good enough.
    pub exact: bool,
    /// No further bucket is probed once the cost of the next, the sum of the squared margins of what it flips, is above so
    /// many times the squared distance to the farthest of the `n_neighbors` nearest exemplars that have been met. Planes
    /// in aligned coordinates tell such distances; others go without. None: no matter how far.
    pub reach: Option<f32>,
    /// Rows scored in full precision after a scan of all rows, at most.
    pub n_scan: usize,
    /// Candidates of tables that are trusted less are not enough: all rows are scanned. At 1 always.
    pub trust: f32,
    /// An answer by a scan that is trusted less is not enough: all rows are scored. At 1 always.
    pub scan_trust: f32,
    /// How trust is made from what a search shows, where that has been learned.
    pub judge: Option<Trust>,
    /// Whether the list of the query's region is read first, where there are regions.
    pub list: Option<ListPoint>,
}

/// How much of a list is read before it is asked whether that is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstRead {
    /// Labels read, from the first, on average: in each region down to those that as few of its queries need, and by each query
    /// as much more or less as it is foreseen to need.
    pub n_listed: usize,
    /// Answers that are trusted less are not enough: the list is read on. At 1 always.
    pub trust: f32,
    /// How trust is made from what a search shows.
    pub judge: [f32; LISTED],
}

/// How much a search does in the list of a region, and when that is enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListPoint {
    /// Labels read, from the first, on average: in each region down to those that as few of its queries need, and by each query
    /// as much more or less as it is foreseen to need.
    pub n_listed: usize,
    /// So many of these, or of those read at first, are rescored at most, on average, whose columns promise most: all from their rows
    /// in bytes, and those in full precision that may be among the best.
    pub n_rescore: usize,
    /// Answers that are trusted less are not enough: the tables are searched. At 1 always.
    pub trust: f32,
    /// How trust is made from what a search shows: probability that the answer is the full layer's.
    pub judge: [f32; LISTED],
    /// What is read of this at first; all where there is no such thing, or no more labels than are rescored.
    pub first: Option<FirstRead>,
}

/// How much one query reads of its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Labels at first.
    pub first: usize,
    /// Labels in all.
    pub all: usize,
    /// Of these so many are rescored at most.
    pub rescored: usize,
}

impl ListPoint {
    /// How much is read for `k` answers, by a query that reads `share` times what is read on average.
    pub fn reads(&self, regions: &Regions, region: usize, share: f32, k: usize) -> Reads {
        let all = regions.reads(region, self.n_listed, share, k);
        let first = self.first.map(|first| first.n_listed).filter(|&n| n > self.n_rescore.max(k));
        let of_these = regions.share_read(first.unwrap_or(self.n_listed), share);
        let rescored = part_of(self.n_rescore, of_these).min(all).max(k);
        let first = first.map(|n| regions.reads(region, n, share, k));
        Reads { first: first.map_or(all, |n| n.max(rescored + 1).min(all)), all, rescored }
    }
}

impl OperatingPoint {
    /// Refuse what cannot answer.
    pub fn check(self) -> Result<Self> {
        let OperatingPoint { n_probes, max_entries, n_neighbors, n_rescore, n_scan, .. } = self;
        let list_trust = self.list.map_or(0.0, |list| list.trust);
        let first = self.list.and_then(|list| list.first);
        for (arg, trust) in [
            ("trust", self.trust),
            ("scan_trust", self.scan_trust),
            ("list.trust", list_trust),
            ("list.first.trust", first.map_or(0.0, |first| first.trust)),
        ] {
            if !(0.0..=1.0).contains(&trust) {
                return Err(Error::value(arg, "in 0..=1", trust));
            }
        }
        if let Some(reach) = self.reach.filter(|reach| !(reach.is_finite() && *reach >= 0.0)) {
            return Err(Error::value("reach", "finite and at least 0, or None", reach));
        }
        if let Some(judge) = self.judge {
            judge.check()?;
        }
        let judges = [
            ("list.judge", self.list.map(|list| list.judge)),
            ("list.first.judge", first.map(|first| first.judge)),
        ];
        for (arg, judge) in judges {
            if let Some(value) = judge.into_iter().flatten().find(|value| !value.is_finite()) {
                return Err(Error::value(arg, "finite", value));
            }
        }
        if self.list.is_some() && self.judge.is_none() {
            return Err(Error::value("list", "None without a judge", "given"));
        }
        let all = [
            ("list.n_listed", self.list.map_or(1, |list| list.n_listed)),
            ("list.n_rescore", self.list.map_or(1, |list| list.n_rescore)),
            ("list.first.n_listed", first.map_or(1, |first| first.n_listed)),
            ("n_probes", n_probes),
            ("max_entries", max_entries),
            ("n_neighbors", n_neighbors),
            ("n_rescore", n_rescore),
            ("n_scan", n_scan),
        ];
        match all.into_iter().find(|&(_, value)| value == 0) {
            Some((arg, value)) => Err(Error::value(arg, "at least 1", value)),
            None => Ok(self),
        }
    }
}

/// So many rows for each that a scan scores in full are listed by columns, and read again in their sketches.
const SHORTLIST: usize = 8;

/// What a scan comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Rows scored in full, at most.
    pub rescored: usize,
    /// Rows whose sketches are read: those of which columns promise most; all where there is no such list.
    pub listed: Option<usize>,
    /// Bytes of columns and sketches that it reads.
    pub nbytes: usize,
}

/// What fitting adds to the rows. Clones share memory.
#[derive(Clone)]
pub struct Fitted {
    /// The hash.
    pub planes: Planes,
    /// The query's map into aligned coordinates, where planes or sketches need it.
    pub coordinates: Option<Projection>,
    /// The buckets: of exemplars if there are any, else of rows.
    pub tables: Tables,
    /// The training queries, with [`Fill::Queries`].
    pub exemplars: Option<Exemplars>,
    /// Queries met since then.
    pub observed: Option<Arc<Observed>>,
    /// How many exemplars there were at the fit.
    pub fitted_from: usize,
    /// Labels that are candidates of every query, rising.
    pub always_include: Block<u32>,
    /// Codes of the rows and how to read them.
    pub sketches: Option<(Sketcher, Sketches)>,
    /// The same once more, shorter and for reading all of them, where searches can go on to a scan.
    pub columns: Option<Columns>,
    /// Lists of labels by region, where these have been learned.
    pub regions: Option<Arc<Regions>>,
    /// Mean base logit of the rows; 0 without coordinates.
    pub level: f32,
    /// How much a search does.
    pub point: OperatingPoint,
}

impl Fitted {
    /// All rows in bytes, where there are regions.
    pub fn byte_rows(&self) -> Option<&ByteRows> {
        self.regions.as_deref().map(Regions::rows)
    }

    /// What a scan of `m` rows for so many answers comes to.
    pub fn scan(&self, answers: usize, m: usize) -> Scan {
        let sketch = self.sketches.as_ref().map_or(0, |(_, sketches)| sketches.layout().bytes());
        let rescored = self.point.n_scan.max(answers).min(m);
        let listed = SHORTLIST * rescored;
        match &self.columns {
            // For more, sketches are as well read in order.
            Some(columns) if 4 * listed < m => {
                let nbytes = columns.codes().len() + listed * sketch;
                Scan { rescored, listed: Some(listed), nbytes }
            }
            _ => Scan { rescored, listed: None, nbytes: m * sketch },
        }
    }

    /// What stands in the buckets.
    pub fn fill(&self) -> Fill {
        if self.exemplars.is_some() { Fill::Queries } else { Fill::Rows }
    }

    /// A budget of probes or entries that was meant for the exemplars of the fit, for those that there are now: who
    /// was met then is met still, unless others have come that are nearer.
    pub fn grown(&self, budget: usize) -> usize {
        let now: usize = self.parts().into_iter().flatten().map(Exemplars::len).sum();
        if now <= self.fitted_from {
            return budget;
        }
        let grown = budget as u128 * now as u128 / self.fitted_from.max(1) as u128;
        usize::try_from(grown).unwrap_or(usize::MAX)
    }

    /// The tables of the fit, and those of what has been observed since.
    pub fn all_tables(&self) -> Vec<&Tables> {
        let since = self.observed.as_deref().and_then(Observed::hashed);
        std::iter::once(&self.tables).chain(since.map(|(tables, _)| tables)).collect()
    }

    /// The exemplars of the fit, those observed since that are in tables, and the latest, numbered in this order.
    #[inline(always)]
    pub fn parts(&self) -> [Option<&Exemplars>; 3] {
        let observed = self.observed.as_deref();
        let since = observed.and_then(Observed::hashed).map(|(_, exemplars)| exemplars);
        [self.exemplars.as_ref(), since, observed.and_then(Observed::recent)]
    }

    /// The sketch of the exemplar of this number, and what it needed; they are numbered through all parts.
    pub fn exemplar(&self, number: u32) -> Option<(&[u8], &[u32])> {
        let mut number = number as usize;
        for exemplars in self.parts().into_iter().flatten() {
            if number < exemplars.len() {
                let sketch =
                    exemplars.sketched().1.codes().get(number * SKETCH_BYTES..)?.get(..SKETCH_BYTES)?;
                return Some((sketch, exemplars.view().labels(number as u32)));
            }
            number -= exemplars.len();
        }
        None
    }

    /// Refuse an operating point that cannot answer from these parts.
    pub fn suits(&self, point: OperatingPoint) -> Result<OperatingPoint> {
        if point.judge.is_some() && (self.sketches.is_none() || self.exemplars.is_none()) {
            return Err(Error::value("judge", "None without sketches and exemplars", "given"));
        }
        if point.list.is_some() && self.regions.is_none() {
            return Err(Error::value("list", "None without regions", "given"));
        }
        point.check()
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
        let p = self.coordinates.as_ref().map_or(0, Projection::rows);
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
        let needed = self.coordinates.is_some() || self.sketches.is_some() || self.exemplars.is_some();
        if needed && p == 0 {
            return bad("coordinates beside sketches".into(), "none".into());
        }
        if self.columns.is_some() != (self.sketches.is_some() && self.exemplars.is_some()) {
            return bad("columns where a scan may follow".into(), "none, or where none may".into());
        }
        if let Some(regions) = &self.regions {
            if self.sketches.is_none() || self.exemplars.is_none() {
                return bad("regions beside sketches and exemplars".into(), "none of these".into());
            }
            regions.validate(m, p, &self.always_include)?;
        }
        if !self.level.is_finite() {
            return bad("a finite level".into(), format!("{}", self.level));
        }
        if self.suits(self.point).is_err() {
            return bad("an operating point".into(), format!("{:?}", self.point));
        }
        Ok(())
    }
}
