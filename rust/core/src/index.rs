//! The index: rows, and what fitting adds to them.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::exact;
use crate::fitted::{Fitted, OperatingPoint};
use crate::kernels::Kernel;
use crate::rows::Rows;
use crate::search::{OnShort, Scratch, Searcher, Work};
use crate::threads;

/// An output layer that answers. Searches take `&self` and may run from many threads, also while a fit installs
/// its result: a search sees the state before or after, never between.
pub struct Index {
    rows: Rows,
    fitted: RwLock<Option<Arc<Fitted>>>,
    scratches: Mutex<Vec<Scratch>>,
}

impl Index {
    /// An index without tables.
    pub fn new(rows: Rows) -> Self {
        Index { rows, fitted: RwLock::new(None), scratches: Mutex::new(Vec::new()) }
    }

    /// The layer.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What fitting added, if it did.
    pub fn fitted(&self) -> Option<Arc<Fitted>> {
        self.fitted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Swap in the result of a fit.
    pub fn install(&self, fitted: Fitted) {
        *self.fitted.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(fitted));
    }

    /// The same rows, not fitted.
    pub fn bare(&self) -> Self {
        Index::new(self.rows.clone())
    }

    /// The same index with another operating point; it shares all memory.
    pub fn at(&self, point: OperatingPoint) -> Result<Self> {
        let (point, twin) = (point.check()?, self.bare());
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        twin.install(Fitted { point, ..(*fitted).clone() });
        Ok(twin)
    }

    /// Change what a search costs.
    pub fn set_operating_point(&self, point: OperatingPoint) -> Result<()> {
        let point = point.check()?;
        let mut current = self.fitted.write().unwrap_or_else(PoisonError::into_inner);
        let fitted = current.as_deref().ok_or(Error::NotFitted)?;
        *current = Some(Arc::new(Fitted { point, ..fitted.clone() }));
        Ok(())
    }

    /// Borrow a scratch from the pool.
    pub fn scratch(&self) -> Lease<'_> {
        let pooled = self.scratches.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Lease { index: self, scratch: Some(pooled.unwrap_or_default()) }
    }

    /// Refuse queries that are not finite, naming the first bad value.
    pub fn check_queries(&self, queries: &[f32]) -> Result<()> {
        let d = self.rows.d();
        for (row, query) in queries.chunks_exact(d).enumerate() {
            // Without a branch a value, so that it vectorises: it is on the way of every single query.
            let largest =
                query.iter().fold(0u32, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
            if largest >= f32::INFINITY.to_bits() {
                let at = query.iter().position(|value| !value.is_finite()).unwrap_or(0);
                return Err(Error::value("x", "finite", format!("NaN or infinity at [{row}, {at}]")));
            }
        }
        Ok(())
    }

    /// Answer the query loaded into the scratch, on the calling thread.
    pub fn search_one(
        &self,
        scratch: &mut Scratch,
        on_short: OnShort,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<Work> {
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        self.searcher(&fitted).search(scratch, on_short, labels, scores)
    }

    fn searcher<'a>(&'a self, fitted: &'a Fitted) -> Searcher<'a> {
        Searcher { rows: &self.rows, fitted, kernel: Kernel::active() }
    }

    /// Answer queries (n x d): labels and scores (n x k), best first. The answers do not depend on the number of
    /// threads or on what else is in the batch.
    pub fn search(&self, queries: &[f32], k: usize, how: How, out: Answers<'_>) -> Result<()> {
        if k == 0 {
            return Err(Error::value("k", "at least 1", k));
        }
        self.check_queries(queries)?;
        let d = self.rows.d();
        let Answers { labels, scores, work } = out;
        let n = work.len();
        if queries.len() != n * d || labels.len() != n * k || scores.len() != n * k {
            let got = format!("{} values, {} labels, {} scores", queries.len(), labels.len(), scores.len());
            return Err(Error::value("out", format!("{n} queries of {d} and {n} x {k} places"), got));
        }
        let fitted = if how.exact { None } else { Some(self.fitted().ok_or(Error::NotFitted)?) };
        let Some(fitted) = fitted.filter(|fitted| !fitted.point.exact) else {
            let m = self.rows.m();
            work.fill(Work { candidates: m, rescored: m, ..Work::default() });
            let (kernel, places, values) = (Kernel::active(), exact::GROUP * k, exact::GROUP * d);
            let group = |((labels, scores), queries): ((&mut [i64], &mut [f32]), &[f32])| {
                exact::search(&self.rows, kernel, queries, k, labels, scores);
            };
            if n <= 1 || how.threads() == 1 {
                let outputs = labels.chunks_mut(places).zip(scores.chunks_mut(places));
                outputs.zip(queries.chunks(values)).for_each(group);
                return Ok(());
            }
            return threads::install(how.num_threads, || {
                let outputs = labels.par_chunks_mut(places).zip(scores.par_chunks_mut(places));
                outputs.zip(queries.par_chunks(values)).for_each(group);
            });
        };
        let searcher = self.searcher(&fitted);
        let one = |scratch: &mut Scratch,
                   at: usize,
                   query: &[f32],
                   labels: &mut [i64],
                   scores: &mut [f32],
                   work: &mut Work| {
            scratch.load(query);
            *work = searcher.search(scratch, how.on_short, labels, scores).map_err(|error| match error {
                Error::Short { found, k, .. } => Error::Short { query: at, found, k },
                other => other,
            })?;
            Ok(())
        };
        if work.len() < SMALL_BATCH || how.threads() == 1 {
            let mut scratch = self.scratch();
            let outputs = labels.chunks_exact_mut(k).zip(scores.chunks_exact_mut(k)).zip(work.iter_mut());
            for (at, (((labels, scores), work), query)) in outputs.zip(queries.chunks_exact(d)).enumerate() {
                one(&mut scratch, at, query, labels, scores, work)?;
            }
            return Ok(());
        }
        threads::install(how.num_threads, || {
            let outputs =
                labels.par_chunks_exact_mut(k).zip(scores.par_chunks_exact_mut(k)).zip(work.par_iter_mut());
            let results = outputs.zip(queries.par_chunks_exact(d)).enumerate().with_min_len(4).map_init(
                || self.scratch(),
                |scratch, (at, (((labels, scores), work), query))| {
                    one(scratch, at, query, labels, scores, work)
                },
            );
            // The first error by position, whatever the order of execution.
            results.collect::<Vec<Result<()>>>().into_iter().collect::<Result<()>>()
        })?
    }

    /// Candidates of queries (n x d) in compressed sparse rows, ids rising within a query.
    pub fn candidates(&self, queries: &[f32], num_threads: usize) -> Result<(Vec<usize>, Vec<u32>)> {
        self.check_queries(queries)?;
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        if fitted.point.exact {
            let (m, n) = (self.rows.m(), queries.len() / self.rows.d());
            return Ok(((0..=n).map(|i| i * m).collect(), (0..n).flat_map(|_| 0..m as u32).collect()));
        }
        let searcher = self.searcher(&fitted);
        let lists: Vec<Vec<u32>> = threads::install(num_threads, || {
            let lists = queries.par_chunks_exact(self.rows.d()).map_init(
                || self.scratch(),
                |scratch, query| {
                    scratch.load(query);
                    searcher.candidates(scratch);
                    let mut ids = searcher.last_candidates(scratch).to_vec();
                    ids.sort_unstable();
                    ids
                },
            );
            lists.collect()
        })?;
        let mut offsets = vec![0];
        offsets.extend(lists.iter().scan(0, |end, list| {
            *end += list.len();
            Some(*end)
        }));
        Ok((offsets, lists.concat()))
    }
}

/// Batches below this many queries stay on the calling thread: waking a pool costs more.
const SMALL_BATCH: usize = 4;

/// Options of a batch search.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Score all rows.
    pub exact: bool,
    /// What to do with too few candidates.
    pub on_short: OnShort,
    /// Threads; 0 is the package's setting.
    pub num_threads: usize,
}

impl How {
    fn threads(&self) -> usize {
        if self.num_threads == 0 { threads::get_num_threads() } else { self.num_threads }
    }
}

/// Where answers go: n x k, n x k, n.
pub struct Answers<'a> {
    /// Labels, best first; -1 where there are fewer than k.
    pub labels: &'a mut [i64],
    /// Raw logits; -inf where there are fewer than k.
    pub scores: &'a mut [f32],
    /// What each query cost.
    pub work: &'a mut [Work],
}

/// A scratch on loan from the pool of its index.
pub struct Lease<'a> {
    index: &'a Index,
    scratch: Option<Scratch>,
}

impl std::ops::Deref for Lease<'_> {
    type Target = Scratch;
    fn deref(&self) -> &Scratch {
        self.scratch.as_ref().expect("held until drop")
    }
}

impl std::ops::DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Scratch {
        self.scratch.as_mut().expect("held until drop")
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut pool = self.index.scratches.lock().unwrap_or_else(PoisonError::into_inner);
        pool.extend(self.scratch.take());
    }
}
