//! Observed queries: exemplars that an index has met while it served, beside those that it was fitted from.
//!
//! A search reads a snapshot: the fit's exemplars, observed ones in tables of their own, and the latest few, which
//! every query meets. Observing makes the next snapshot. Searches that run meanwhile go on with theirs, so that
//! nothing waits and nothing is seen half done.
//!
//! Which exemplars are worth their memory is counted: each time one is among the nearest of an observed query, that
//! is evidence for it, and evidence fades with the number of queries observed since. To begin with, everyone has that
//! of one query. Where there is no room left the exemplars of least evidence go, of the fit's as of the observed ones;
//! of equal ones a few of everywhere.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Result;
use crate::exemplars::{ExemplarSketcher, Exemplars, Lists, SKETCH_BYTES};
use crate::fitted::Fitted;
use crate::hash::{Planes, lead};
use crate::kernels::Kernel;
use crate::tables::Tables;

/// So many of the latest are met by every query before they are put into tables: their sketches stay in the
/// first-level cache.
pub const RECENT: usize = 256;

/// What a query's evidence is worth more than that of the query before: twice as much after 50,000 queries.
const GROWTH: f64 = 1.000_013_863_04;

/// Exemplars beside those of the fit.
#[derive(Clone)]
pub struct Observed {
    hashed: Option<(Tables, Exemplars)>,
    recent: Option<Exemplars>,
}

impl Observed {
    /// Those in tables.
    pub fn hashed(&self) -> Option<&(Tables, Exemplars)> {
        self.hashed.as_ref()
    }

    /// Those that every query meets.
    pub fn recent(&self) -> Option<&Exemplars> {
        self.recent.as_ref()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let hashed = self.hashed.as_ref().map_or(0, |(_, exemplars)| exemplars.len());
        hashed + self.recent.as_ref().map_or(0, Exemplars::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An exemplar as it is found: what buckets it is in, its sketch, what it needed.
#[derive(Clone, Debug)]
pub struct Found {
    /// A code a table.
    pub codes: Vec<u32>,
    /// Its sketch.
    pub sketch: [u8; SKETCH_BYTES],
    /// Labels, rising.
    pub labels: Vec<u32>,
}

impl Found {
    /// Whether an exemplar with this sketch, which needed these labels (rising), says all that this one would.
    pub fn is_told_by(&self, sketch: &[u8], labels: &[u32]) -> bool {
        self.sketch == sketch && self.labels.iter().all(|label| labels.binary_search(label).is_ok())
    }
}

/// What observing a query says.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Exemplars that were nearest: of the fit first, then of the observed.
    pub neighbors: Vec<u32>,
    /// A new exemplar, where those do not suffice.
    pub found: Option<Found>,
}

/// Exemplars in plain lists.
#[derive(Clone, Default)]
struct Kept {
    codes: Vec<u32>,
    sketches: Vec<u8>,
    offsets: Vec<usize>,
    labels: Vec<u32>,
}

impl Kept {
    fn new() -> Self {
        Kept { offsets: vec![0], ..Kept::default() }
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Exemplars of a fit.
    fn of_fit(tables: &Tables, exemplars: &Exemplars) -> Self {
        let (n_tables, n_bits, n) = (tables.n_tables(), tables.n_bits(), exemplars.len());
        let mut codes = vec![0; n * n_tables];
        for table in 0..n_tables {
            for code in 0..1usize << n_bits {
                tables.bucket((table << n_bits) | code).below(n).each(|item| {
                    if let Some(place) = codes.get_mut(item as usize * n_tables + table) {
                        *place = code as u32;
                    }
                });
            }
        }
        Kept {
            codes,
            sketches: exemplars.sketched().1.codes().to_vec(),
            offsets: exemplars.offsets().iter().map(|&offset| offset as usize).collect(),
            labels: exemplars.labels().to_vec(),
        }
    }

    fn nbytes(&self) -> usize {
        let ids = size_of_val(&self.codes[..]) + size_of_val(&self.labels[..]);
        ids + self.sketches.len() + size_of_val(&self.offsets[..])
    }

    fn append(&mut self, other: &Kept) {
        self.codes.extend_from_slice(&other.codes);
        self.sketches.extend_from_slice(&other.sketches);
        self.offsets.extend(other.offsets[1..].iter().map(|offset| offset + self.labels.len()));
        self.labels.extend_from_slice(&other.labels);
    }

    fn push(&mut self, codes: &[u32], sketch: &[u8], labels: &[u32]) {
        self.codes.extend_from_slice(codes);
        self.sketches.extend_from_slice(sketch);
        self.labels.extend_from_slice(labels);
        self.offsets.push(self.labels.len());
    }

    /// Exemplars in this order.
    fn exemplars(&self, sketcher: &ExemplarSketcher, order: &[u32]) -> Result<Exemplars> {
        let lists = Lists { offsets: &self.offsets, labels: &self.labels };
        Exemplars::build(sketcher, &self.sketches, lists, order)
    }
}

/// What observing keeps in mind: everything of the observed exemplars, and the evidence for all.
#[derive(Clone)]
pub struct Observer {
    of_fit: usize,
    hashed: Kept,
    recent: Kept,
    evidence: Vec<f64>,
    weight: f64,
}

impl Observer {
    /// Nothing has been observed since a fit of `of_fit` exemplars.
    pub fn new(of_fit: usize) -> Self {
        let (hashed, recent) = (Kept::new(), Kept::new());
        Observer { of_fit, hashed, recent, evidence: vec![1.0; of_fit], weight: 1.0 }
    }

    /// How many exemplars there are.
    pub fn len(&self) -> usize {
        self.evidence.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all this.
    pub fn nbytes(&self) -> usize {
        self.hashed.nbytes() + self.recent.nbytes() + size_of_val(&self.evidence[..])
    }

    /// Evidence of the exemplars, those of the fit first, a query of now counting 1.
    pub fn evidence(&self) -> Vec<f32> {
        self.evidence.iter().map(|evidence| (evidence / self.weight) as f32).collect()
    }

    /// Go on with the evidence that a file holds.
    pub fn with_evidence(evidence: &[f32]) -> Self {
        let evidence: Vec<f64> = evidence.iter().map(|&evidence| f64::from(evidence)).collect();
        Observer { of_fit: evidence.len(), evidence, ..Observer::new(0) }
    }

    /// Take in what queries have shown, in their order; returns what searches read from now on, and how many
    /// exemplars are new. They were all found beside the same snapshot: one that needs no more than another of its
    /// sketch among them is not kept twice.
    pub fn take(
        &mut self,
        fitted: &Fitted,
        observations: &[Observation],
        capacity: usize,
    ) -> Result<(Fitted, usize)> {
        let before = self.len();
        let mut new: HashMap<[u8; SKETCH_BYTES], Vec<(usize, &Found)>> = HashMap::new();
        for observation in observations {
            self.weight *= GROWTH;
            for &neighbor in &observation.neighbors {
                if let Some(evidence) = self.evidence.get_mut(neighbor as usize) {
                    *evidence += self.weight;
                }
            }
            // New ones go to the end, so that the numbers of the others stay what they are.
            if let Some(found) = &observation.found {
                let alike = new.entry(found.sketch).or_default();
                let tells = |known: &Found| found.is_told_by(&known.sketch, &known.labels);
                if let Some(&(known, _)) = alike.iter().find(|(_, known)| tells(known)) {
                    self.evidence[known] += self.weight;
                    continue;
                }
                alike.push((self.len(), found));
                self.recent.push(&found.codes, &found.sketch, &found.labels);
                self.evidence.push(self.weight);
            }
        }
        let added = self.len() - before;
        if self.weight > 1e100 {
            self.evidence.iter_mut().for_each(|evidence| *evidence /= self.weight);
            self.weight = 1.0;
        }
        if self.len() > capacity {
            return Ok((self.evict(fitted, capacity)?, added));
        }
        if added == 0 {
            return Ok((fitted.clone(), 0));
        }
        if self.recent.len() >= RECENT {
            let recent = std::mem::replace(&mut self.recent, Kept::new());
            self.hashed.append(&recent);
            if self.hashed.len() > self.of_fit / 4 {
                return Ok((self.merge(fitted, self.everything())?, added));
            }
        }
        Ok((self.snapshot(fitted)?, added))
    }

    /// Everything in one place, and evidence as a file holds it, so that who reads the file goes on from the same.
    pub fn settle(&mut self, fitted: &Fitted) -> Result<Fitted> {
        self.evidence = self.evidence().into_iter().map(f64::from).collect();
        self.weight = 1.0;
        if self.len() == self.of_fit { Ok(fitted.clone()) } else { self.merge(fitted, self.everything()) }
    }

    /// Everything in one place, and in buckets of other planes, by the coordinates that sketches know.
    pub fn rehash(&mut self, fitted: &Fitted, planes: Planes) -> Result<Fitted> {
        let settled = self.settle(fitted)?;
        let Some(exemplars) = &settled.exemplars else { return Ok(settled) };
        let mut all = Kept::of_fit(&settled.tables, exemplars);
        let (mut z, mut x, mut margins) = (vec![0.0; planes.dim()], Vec::new(), Vec::new());
        all.codes.clear();
        for exemplar in 0..exemplars.len() {
            exemplars.coordinates(exemplar, &mut z);
            lead(&z, planes.dim(), &mut x);
            planes.margins(Kernel::active(), &x, &mut margins);
            all.codes.extend(planes.codes(&margins));
        }
        self.arrange(&Fitted { planes, ..settled.clone() }, &all, self.everything())
    }

    /// Let the exemplars of least evidence go, somewhat more than must, so that it is not to be done all the time.
    fn evict(&mut self, fitted: &Fitted, capacity: usize) -> Result<Fitted> {
        let kept = (capacity - capacity / 16).max(1);
        let mut order = self.everything();
        // Most evidence first. Numbers are in the order of buckets: among equals they would empty whole regions.
        order.sort_unstable_by(|&a, &b| {
            let of = |id: u32| self.evidence[id as usize];
            of(b).total_cmp(&of(a)).then(scattered(a).cmp(&scattered(b)))
        });
        order.truncate(kept);
        order.sort_unstable();
        self.merge(fitted, order)
    }

    /// The numbers of all exemplars.
    fn everything(&self) -> Vec<u32> {
        (0..self.len() as u32).collect()
    }

    /// Put exemplars, those of rising numbers `kept`, into one place.
    fn merge(&mut self, fitted: &Fitted, kept: Vec<u32>) -> Result<Fitted> {
        let Some(exemplars) = &fitted.exemplars else { return Ok(fitted.clone()) };
        let mut all = Kept::of_fit(&fitted.tables, exemplars);
        all.append(&self.hashed);
        all.append(&self.recent);
        self.arrange(fitted, &all, kept)
    }

    /// Put these exemplars into tables, in the order of the first table's buckets.
    fn arrange(&mut self, fitted: &Fitted, all: &Kept, mut order: Vec<u32>) -> Result<Fitted> {
        let Some(exemplars) = &fitted.exemplars else { return Ok(fitted.clone()) };
        let n_tables = fitted.planes.n_tables();
        order.sort_by_key(|&item| all.codes[item as usize * n_tables]);
        let codes: Vec<u32> = order
            .iter()
            .flat_map(|&item| &all.codes[item as usize * n_tables..][..n_tables])
            .copied()
            .collect();
        let merged = Fitted {
            tables: Tables::build(n_tables, fitted.planes.n_bits(), &codes)?,
            exemplars: Some(all.exemplars(&exemplars.sketcher(), &order)?),
            observed: None,
            ..fitted.clone()
        };
        self.evidence = order.iter().map(|&item| self.evidence[item as usize]).collect();
        (self.of_fit, self.hashed, self.recent) = (order.len(), Kept::new(), Kept::new());
        Ok(merged)
    }

    fn snapshot(&self, fitted: &Fitted) -> Result<Fitted> {
        let Some(exemplars) = &fitted.exemplars else { return Ok(fitted.clone()) };
        let sketcher = exemplars.sketcher();
        let all = |kept: &Kept| (0..kept.len() as u32).collect::<Vec<u32>>();
        let before = fitted.observed.as_deref().and_then(Observed::hashed);
        let hashed = match before {
            _ if self.hashed.len() == 0 => None,
            // Only the latest are new.
            Some(before) if before.1.len() == self.hashed.len() => Some(before.clone()),
            _ => Some((
                Tables::build(fitted.tables.n_tables(), fitted.tables.n_bits(), &self.hashed.codes)?,
                self.hashed.exemplars(&sketcher, &all(&self.hashed))?,
            )),
        };
        let recent = match self.recent.len() {
            0 => None,
            _ => Some(self.recent.exemplars(&sketcher, &all(&self.recent))?),
        };
        Ok(Fitted { observed: Some(Arc::new(Observed { hashed, recent })), ..fitted.clone() })
    }
}

/// A number for another that tells nothing of it: that times an odd constant, its bits mixed.
fn scattered(number: u32) -> u32 {
    let mixed = (number ^ (number >> 16)).wrapping_mul(0x9e37_79b1);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b)
}
