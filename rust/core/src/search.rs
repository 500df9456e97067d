//! One query's way: project, probe, candidates, sketch, rescore, top-k.

use crate::candidates::Union;
use crate::error::{Error, Result};
use crate::exact;
use crate::exemplars::Exemplars;
use crate::fitted::Fitted;
use crate::hash::{Space, augment, lead};
use crate::kernels::Kernel;
use crate::memory::padded;
use crate::probe::Probes;
use crate::rows::Rows;
use crate::sketch::{SketchQuery, SketchView, Sketcher, Sketches};
use crate::topk::TopK;

/// What to do when a query has fewer candidates than answers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShort {
    /// Fill up with label -1 and score -inf.
    Pad,
    /// Score all rows.
    Exact,
    /// Report [`Error::Short`].
    Raise,
}

impl OnShort {
    /// From the name that the API uses.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "pad" => Ok(OnShort::Pad),
            "exact" => Ok(OnShort::Exact),
            "raise" => Ok(OnShort::Raise),
            _ => Err(Error::value("on_short", "'pad', 'exact' or 'raise'", format!("'{name}'"))),
        }
    }
}

/// What a search cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Buckets visited.
    pub probes: usize,
    /// Ids read from them, repeats included.
    pub entries: usize,
    /// Exemplars whose labels became candidates.
    pub neighbors: usize,
    /// Labels that were looked at, each once.
    pub candidates: usize,
    /// Rows scored in full precision.
    pub rescored: usize,
}

/// Everything that one search writes to. Reused, so that the steady state allocates nothing.
#[derive(Default)]
pub struct Scratch {
    query: Vec<f32>,
    z: Vec<f32>,
    x: Vec<f32>,
    margins: Vec<f32>,
    probes: Probes,
    buckets: Vec<usize>,
    exemplars: Union,
    neighbors: Vec<u32>,
    candidates: Union,
    finalists: Vec<u32>,
    cut: Cut,
    scores: Vec<f32>,
    best: TopK,
}

impl Scratch {
    /// Take a copy of the query.
    pub fn load(&mut self, query: &[f32]) {
        self.query.clear();
        self.query.extend_from_slice(query);
        self.query.resize(padded(query.len()), 0.0);
    }
}

/// The parts of an index that a search reads.
#[derive(Clone, Copy)]
pub struct Searcher<'a> {
    pub(crate) rows: &'a Rows,
    pub(crate) fitted: &'a Fitted,
    pub(crate) kernel: Kernel,
}

impl Searcher<'_> {
    /// Answer the loaded query. `labels` and `scores` hold k places.
    pub fn search(
        &self,
        scratch: &mut Scratch,
        on_short: OnShort,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<Work> {
        let k = labels.len();
        if self.fitted.point.exact {
            return Ok(self.exact(scratch, labels, scores));
        }
        let mut work = self.candidates(scratch);
        let found = work.candidates;
        if found < k && on_short != OnShort::Pad {
            if on_short == OnShort::Raise {
                return Err(Error::Short { query: 0, found, k });
            }
            work.rescored = self.exact(scratch, labels, scores).rescored;
            return Ok(work);
        }
        let Scratch { z, candidates, finalists, cut, .. } = scratch;
        match &self.fitted.sketches {
            Some(sketched) => {
                let r = self.fitted.point.n_rescore.max(k);
                cut.best(self.kernel, sketched, z, candidates.ids(), r, finalists);
            }
            None => {
                finalists.clear();
                finalists.extend_from_slice(candidates.ids());
            }
        }
        work.rescored = scratch.finalists.len();
        self.rows.logits(self.kernel, &scratch.query, &scratch.finalists, &mut scratch.scores);
        scratch.best.reset(k);
        scratch.best.extend(&scratch.scores, &scratch.finalists);
        scratch.best.write(labels, scores);
        Ok(work)
    }

    /// Score every row.
    fn exact(&self, scratch: &Scratch, labels: &mut [i64], scores: &mut [f32]) -> Work {
        let (m, query) = (self.rows.m(), &scratch.query[..self.rows.d()]);
        exact::search(self.rows, self.kernel, query, labels.len(), labels, scores);
        Work { candidates: m, rescored: m, ..Work::default() }
    }

    /// Find the candidates: project, probe, and where buckets hold exemplars look up what the nearest needed.
    pub fn candidates(&self, scratch: &mut Scratch) -> Work {
        self.project(scratch);
        let entries = self.probe(scratch);
        let Scratch { z, buckets, exemplars: met, neighbors, candidates, cut, .. } = scratch;
        let Fitted { tables, exemplars, always_include, point, .. } = self.fitted;
        let view = tables.view();
        let mut work = Work { probes: buckets.len(), entries, ..Work::default() };
        candidates.start(self.rows.m());
        candidates.add(always_include);
        match exemplars {
            Some(exemplars) => {
                met.start(exemplars.len());
                buckets.iter().for_each(|&bucket| met.add(view.bucket(bucket)));
                cut.best(self.kernel, exemplars.sketched(), z, met.ids(), point.n_neighbors, neighbors);
                add_labels(exemplars, neighbors, candidates);
                work.neighbors = neighbors.len();
            }
            None => buckets.iter().for_each(|&bucket| candidates.add(view.bucket(bucket))),
        }
        work.candidates = candidates.ids().len();
        work
    }

    /// The candidates of the last query, each once, in no order.
    pub fn last_candidates<'s>(&self, scratch: &'s Scratch) -> &'s [u32] {
        scratch.candidates.ids()
    }

    /// Compute the query's coordinates and its margins.
    fn project(&self, scratch: &mut Scratch) {
        let Fitted { planes, coordinates, .. } = self.fitted;
        if let Some(coordinates) = coordinates {
            coordinates.apply(self.kernel, &scratch.query, &mut scratch.z);
        }
        match planes.space() {
            Space::Augmented => augment(&scratch.query[..self.rows.d()], 1.0, &mut scratch.x),
            Space::Aligned => lead(&scratch.z, planes.dim(), &mut scratch.x),
        }
        planes.margins(self.kernel, &scratch.x, &mut scratch.margins);
    }

    /// Choose the buckets, the most promising first; returns how many entries they have.
    fn probe(&self, scratch: &mut Scratch) -> usize {
        // Where a bucket begins takes a trip to memory: ask for it some probes before the answer is needed.
        const LAG: usize = 16;
        let Fitted { planes, tables, point, .. } = self.fitted;
        let view = tables.view();
        let most = point.n_probes.saturating_mul(planes.n_tables());
        scratch.buckets.clear();
        scratch.probes.start(&scratch.margins, planes.n_bits());
        let (mut entries, mut taken, mut left) = (0, 0, true);
        while taken < most && entries < point.max_entries {
            while left && scratch.buckets.len() < most.min(taken + LAG) {
                match scratch.probes.next() {
                    Some((table, code)) => {
                        let bucket = (table << planes.n_bits()) | code as usize;
                        view.prefetch_offset(bucket);
                        scratch.buckets.push(bucket);
                    }
                    None => left = false,
                }
            }
            let Some(&bucket) = scratch.buckets.get(taken) else { break };
            entries += view.prefetch_bucket(bucket);
            taken += 1;
        }
        scratch.buckets.truncate(taken);
        entries
    }
}

/// Add the labels of these exemplars to the candidates.
fn add_labels(exemplars: &Exemplars, neighbors: &[u32], candidates: &mut Union) {
    // Where labels begin, then the labels: both trips to memory begin while those of earlier exemplars are added.
    const LAG: usize = 4;
    let view = exemplars.view();
    neighbors.iter().take(2 * LAG).for_each(|&exemplar| view.prefetch_offset(exemplar));
    neighbors.iter().take(LAG).for_each(|&exemplar| view.prefetch_labels(exemplar));
    for (at, &exemplar) in neighbors.iter().enumerate() {
        neighbors.get(at + 2 * LAG).into_iter().for_each(|&later| view.prefetch_offset(later));
        neighbors.get(at + LAG).into_iter().for_each(|&later| view.prefetch_labels(later));
        candidates.add(view.labels(exemplar));
    }
}

/// Scratch of a choice by sketches: of exemplars, then of candidates.
#[derive(Default)]
struct Cut {
    query: SketchQuery,
    scores: Vec<f32>,
    best: TopK,
}

impl Cut {
    /// Keep the `r` ids with the best sketch scores for a query with coordinates `z`, in no order.
    fn best(
        &mut self,
        kernel: Kernel,
        (sketcher, sketches): &(Sketcher, Sketches),
        z: &[f32],
        ids: &[u32],
        r: usize,
        kept: &mut Vec<u32>,
    ) {
        if ids.len() <= r {
            kept.clear();
            kept.extend_from_slice(ids);
            return;
        }
        self.query.prepare(sketcher, z);
        self.scores.clear();
        self.scores.resize(ids.len(), 0.0);
        let view = SketchView { layout: sketches.layout(), codes: sketches.codes() };
        kernel.sketch_ids(view, &self.query, ids, &mut self.scores);
        self.best.reset(r);
        self.best.extend(&self.scores, ids);
        self.best.ids(kept);
    }
}
