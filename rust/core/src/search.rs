//! One query's way: project, probe, candidates, sketch, rescore, top-k.

use crate::candidates::Candidates;
use crate::error::{Error, Result};
use crate::exact;
use crate::fitted::Fitted;
use crate::hash::{Space, augment, lead};
use crate::kernels::Kernel;
use crate::memory::padded;
use crate::probe::Probes;
use crate::rows::Rows;
use crate::sketch::{SketchQuery, SketchView};
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
    /// Labels read from buckets and head, repeats included.
    pub entries: usize,
    /// Labels after deduplication.
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
    candidates: Candidates,
    sketch: SketchQuery,
    scores: Vec<f32>,
    finalists: Vec<u32>,
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
        let entries = self.candidates(scratch);
        let found = scratch.candidates.ids().len();
        let probes = scratch.buckets.len();
        let mut work = Work { probes, entries, candidates: found, rescored: 0 };
        if found < k && on_short != OnShort::Pad {
            if on_short == OnShort::Raise {
                return Err(Error::Short { query: 0, found, k });
            }
            let query = &scratch.query[..self.rows.d()];
            exact::search(self.rows, self.kernel, query, k, labels, scores);
            work.rescored = self.rows.m();
            return Ok(work);
        }
        self.cut(scratch, self.fitted.n_rescore.max(k));
        work.rescored = scratch.finalists.len();
        self.rows.logits(self.kernel, &scratch.query, &scratch.finalists, &mut scratch.scores);
        scratch.best.reset(k);
        scratch.best.extend(&scratch.scores, &scratch.finalists);
        scratch.best.write(labels, scores);
        Ok(work)
    }

    /// Project, probe and gather; returns the number of entries read.
    pub fn candidates(&self, scratch: &mut Scratch) -> usize {
        let Fitted { planes, coordinates, tables, head, n_probes, max_entries, .. } = self.fitted;
        if let Some(coordinates) = coordinates {
            coordinates.apply(self.kernel, &scratch.query, &mut scratch.z);
        }
        match planes.space() {
            Space::Augmented => augment(&scratch.query[..self.rows.d()], 1.0, &mut scratch.x),
            Space::Aligned => lead(&scratch.z, planes.dim(), &mut scratch.x),
        }
        planes.margins(self.kernel, &scratch.x, &mut scratch.margins);

        // Where a bucket begins takes a trip to memory: ask for it some probes before the answer is needed.
        const LAG: usize = 16;
        let view = tables.view();
        let most = n_probes.saturating_mul(planes.n_tables());
        scratch.buckets.clear();
        scratch.probes.start(&scratch.margins, planes.n_bits());
        let (mut entries, mut taken, mut left) = (0, 0, true);
        while taken < most && entries < *max_entries {
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
        scratch.candidates.gather(self.rows.m(), head, tables, &scratch.buckets)
    }

    /// The candidates of the last query, each once, in no order.
    pub fn last_candidates<'s>(&self, scratch: &'s Scratch) -> &'s [u32] {
        scratch.candidates.ids()
    }

    /// Keep the `r` candidates with the best sketch scores, or all where there are no sketches to tell.
    fn cut(&self, scratch: &mut Scratch, r: usize) {
        let ids = scratch.candidates.ids();
        match &self.fitted.sketches {
            Some((sketcher, sketches)) if ids.len() > r => {
                scratch.sketch.prepare(sketcher, &scratch.z);
                scratch.scores.clear();
                scratch.scores.resize(ids.len(), 0.0);
                let view = SketchView { layout: sketches.layout(), codes: sketches.codes() };
                self.kernel.sketch_ids(view, &scratch.sketch, ids, &mut scratch.scores);
                scratch.best.reset(r);
                scratch.best.extend(&scratch.scores, ids);
                scratch.best.ids(&mut scratch.finalists);
            }
            _ => {
                scratch.finalists.clear();
                scratch.finalists.extend_from_slice(ids);
            }
        }
    }
}
