//! The index: rows, and what fitting adds to them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::coordinates::Projection;
use crate::error::{Error, Result};
use crate::exact;
use crate::exemplars::{Exemplars, Lists, concat, decode};
use crate::fitted::{FirstRead, Fitted, ListPoint, OperatingPoint};
use crate::hash::{Planes, Space};
use crate::kernels::Kernel;
use crate::observed::{Observation, Observer};
use crate::rows::Rows;
use crate::search::{Effort, OnShort, STAGES, Scratch, Searcher, Work};
use crate::sketch::SketchView;
use crate::threads::{self, Team, lock};
use crate::trust::{Features, LISTED, SCAN, TABLES, Trust};

/// An output layer that answers. Searches take `&self` and may run from many threads, also while a fit installs
/// its result: a search sees the state before or after, never between.
pub struct Index {
    rows: Rows,
    fitted: RwLock<Option<Arc<Fitted>>>,
    observer: Mutex<Option<Observer>>,
    /// Bytes of the observer, for those who would not wait for it.
    observer_nbytes: AtomicUsize,
    fits: AtomicU64,
    #[allow(clippy::vec_box, reason = "a loan moves no more than a pointer")]
    scratches: Mutex<Vec<Box<Scratch>>>,
}

impl Index {
    /// An index without tables.
    pub fn new(rows: Rows) -> Self {
        Index {
            rows,
            fitted: RwLock::new(None),
            observer: Mutex::new(None),
            observer_nbytes: AtomicUsize::new(0),
            fits: AtomicU64::new(0),
            scratches: Mutex::new(Vec::new()),
        }
    }

    /// The layer.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What fitting added, if it did.
    pub fn fitted(&self) -> Option<Arc<Fitted>> {
        self.fitted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Swap in the result of a fit. What has been observed before is gone with the fit before.
    pub fn install(&self, fitted: Fitted) {
        self.renew(Arc::new(fitted), None);
    }

    fn renew(&self, fitted: Arc<Fitted>, evidence: Option<Observer>) {
        let mut observer = lock(&self.observer);
        self.observer_nbytes.store(evidence.as_ref().map_or(0, Observer::nbytes), Ordering::Relaxed);
        *observer = evidence;
        // What it takes the place of is dropped when others can read again.
        let _before = self.fitted.write().unwrap_or_else(PoisonError::into_inner).replace(fitted);
        self.fits.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a fit was installed.
    pub fn fits(&self) -> u64 {
        self.fits.load(Ordering::Relaxed)
    }

    /// Take what a fit of the same rows has found, and the evidence with it.
    pub fn adopt(&self, other: &Index) -> Result<()> {
        let (fitted, evidence) = other.settle()?.ok_or(Error::NotFitted)?;
        self.renew(fitted, (!evidence.is_empty()).then(|| Observer::with_evidence(&evidence)));
        Ok(())
    }

    /// Swap in what an observer has made of the state; an operating point that was set meanwhile stays.
    fn replace(&self, next: Fitted, observer: &Observer) -> Arc<Fitted> {
        self.observer_nbytes.store(observer.nbytes(), Ordering::Relaxed);
        let mut current = self.fitted.write().unwrap_or_else(PoisonError::into_inner);
        let point = current.as_deref().map_or(next.point, |now| now.point);
        let next = Arc::new(Fitted { point, ..next });
        let before = current.replace(Arc::clone(&next));
        // Others can read before that is dropped.
        drop(current);
        drop(before);
        next
    }

    /// The same rows, not fitted.
    pub fn bare(&self) -> Self {
        Index::new(self.rows.clone())
    }

    /// The same index with another operating point; it shares all memory.
    pub fn at(&self, point: OperatingPoint) -> Result<Self> {
        let twin = self.bare();
        let observer = lock(&self.observer);
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        let point = fitted.suits(point)?;
        twin.renew(Arc::new(Fitted { point, ..(*fitted).clone() }), observer.clone());
        Ok(twin)
    }

    /// Change what a search costs.
    pub fn set_operating_point(&self, point: OperatingPoint) -> Result<()> {
        let mut current = self.fitted.write().unwrap_or_else(PoisonError::into_inner);
        let fitted = current.as_deref().ok_or(Error::NotFitted)?;
        let point = fitted.suits(point)?;
        *current = Some(Arc::new(Fitted { point, ..fitted.clone() }));
        Ok(())
    }

    /// Learn from queries (n x d) that are served, and from their true labels where these are known. Where the answer
    /// by tables is not trusted, the query becomes an exemplar with the `t` best labels of a scan. There are never
    /// more than `capacity` exemplars. Calls take their turn; searches do not wait. None, and nothing learned, if there
    /// have been other than `fits` [`Index::fits`]: `t` and `capacity` are of another one then.
    pub fn observe(
        &self,
        queries: &[f32],
        lists: Option<Lists<'_>>,
        t: usize,
        capacity: usize,
        fits: u64,
    ) -> Result<Option<Observing>> {
        self.check_queries(queries).map_err(|error| error.named("Q"))?;
        let d = self.rows.d();
        let n = queries.len() / d;
        if let Some(lists) = lists {
            lists.check(n, self.rows.m())?;
        }
        if capacity == 0 {
            return Err(Error::value("capacity", "at least 1", capacity));
        }
        let mut observer = lock(&self.observer);
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        if fits != self.fits() {
            return Ok(None);
        }
        let (Some(exemplars), Some(_)) = (&fitted.exemplars, &fitted.sketches) else {
            return Err(Error::value("sketch_bytes", "at least 64, and fill='queries'", "others"));
        };
        let observer = observer.get_or_insert_with(|| Observer::new(exemplars.len()));
        let (sketcher, searcher) = (exemplars.sketcher(), self.searcher(&fitted));
        let observations: Vec<Observation> = threads::install(0, || {
            let each = queries.par_chunks_exact(d).enumerate().map_init(
                || self.scratch(),
                |scratch, (at, query)| {
                    scratch.load(query);
                    let true_labels = lists.map_or(&[][..], |lists| lists.get(at));
                    searcher.observe(scratch, &sketcher, true_labels, t)
                },
            );
            each.collect()
        })?;
        let (next, added) = observer.take(&fitted, &observations, capacity)?;
        self.replace(next, observer);
        Ok(Some(Observing { added, exemplars: observer.len() }))
    }

    /// What has been fitted and observed, all in one place, and the evidence for each exemplar where any has been
    /// gathered: what a file holds.
    pub fn settle(&self) -> Result<Option<(Arc<Fitted>, Vec<f32>)>> {
        let mut observer = lock(&self.observer);
        let Some(fitted) = self.fitted() else { return Ok(None) };
        let Some(observer) = observer.as_mut() else { return Ok(Some((fitted, Vec::new()))) };
        let next = observer.settle(&fitted)?;
        let settled = self.replace(next, observer);
        Ok(Some((settled, observer.evidence())))
    }

    /// Swap in a fit and the evidence that [`Index::settle`] gave with it.
    pub fn restore(&self, fitted: Fitted, evidence: &[f32]) -> Result<()> {
        let n = fitted.exemplars.as_ref().map_or(0, Exemplars::len);
        let sound = evidence.iter().all(|evidence| evidence.is_finite() && *evidence >= 0.0);
        if evidence.len() != n || !sound {
            return Err(Error::format(format!("evidence for {n} exemplars"), evidence.len()));
        }
        self.renew(Arc::new(fitted), Some(Observer::with_evidence(evidence)));
        Ok(())
    }

    /// Bytes that observing keeps beside what searches read.
    pub fn observer_nbytes(&self) -> usize {
        self.observer_nbytes.load(Ordering::Relaxed)
    }

    /// The leading `p` coordinates of all exemplars, as far as sketches know them, and what each weighs.
    pub fn exemplar_coordinates(&self, p: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let (fitted, _) = self.settle()?.ok_or(Error::NotFitted)?;
        let Some(exemplars) = &fitted.exemplars else {
            return Err(Error::value("fill", "'queries'", "'rows'"));
        };
        let p = p.min(known_coordinates(&fitted));
        let mut all = vec![0.0; exemplars.len() * p];
        for (exemplar, out) in all.chunks_exact_mut(p.max(1)).enumerate() {
            exemplars.coordinates(exemplar, out);
        }
        Ok((all, exemplars.weights()[..p].to_vec()))
    }

    /// The leading `p` coordinates of all rows, as far as sketches know them, and their base logits.
    pub fn row_coordinates(&self, p: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        let (Some((sketcher, sketches)), Some(map)) = (&fitted.sketches, &fitted.coordinates) else {
            return Err(Error::value("sketch_bytes", "64 or 128", 0));
        };
        let m = self.rows.m();
        let p = p.min(sketcher.half_steps().len()).min(map.rows());
        let view = SketchView { layout: sketches.layout(), codes: sketches.codes() };
        let (mut all, mut bases) = (vec![0.0; m * p], vec![0.0; m]);
        let outputs = all.par_chunks_exact_mut(p.max(1)).zip(bases.par_iter_mut());
        threads::install(0, || {
            outputs.enumerate().for_each(|(row, (out, base))| {
                let sketch = view.get(row as u32);
                decode(sketcher, sketch, out);
                *base = view.layout.base(sketch);
            });
        })?;
        Ok((all, bases))
    }

    /// The query's map as its bytes know it, p x d, and what it adds, p. A search rounds the query besides.
    pub fn query_map(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        let Some(map) = &fitted.coordinates else {
            return Err(Error::value("sketch_bytes", "64 or 128", 0));
        };
        let d = self.rows.d();
        let (mut all, mut offset) = (Vec::with_capacity(map.rows() * d), map.offset().to_vec());
        let rows = map.matrix().values().chunks_exact(map.matrix().stride()).zip(&map.scales()[..]);
        for ((row, scale), offset) in rows.zip(&mut offset) {
            let of = |(&byte, weight): (&i8, &f32)| f32::from(byte) * scale * weight;
            let row = row[..d].iter().zip(&map.weights()[..]).map(of);
            let of_mean: f64 =
                row.clone().zip(&map.center()[..]).map(|(a, b)| f64::from(a) * f64::from(*b)).sum();
            *offset = (f64::from(*offset) - of_mean) as f32;
            all.extend(row);
        }
        Ok((all, offset))
    }

    /// Hash the exemplars anew, with planes over the leading coordinates. They were learned when there had been so
    /// many [`Index::fits`]: those of another fit are refused.
    pub fn rehash(&self, planes: Planes, fits: u64) -> Result<()> {
        let mut observer = lock(&self.observer);
        if fits != self.fits() {
            return Err(Error::value("planes", "of the present fit", "those of a fit before"));
        }
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        let Some(exemplars) = &fitted.exemplars else {
            return Err(Error::value("fill", "'queries'", "'rows'"));
        };
        let most = known_coordinates(&fitted);
        if planes.space() != Space::Aligned || planes.dim() > most {
            return Err(Error::value(
                "planes",
                format!("over at most {most} aligned coordinates"),
                planes.dim(),
            ));
        }
        let observer = observer.get_or_insert_with(|| Observer::new(exemplars.len()));
        let next = observer.rehash(&fitted, planes)?;
        self.replace(next, observer);
        Ok(())
    }

    /// Answer queries (n x d), whose best labels are `full` (n x k), by tables and by a scan, both n x k, and say
    /// what the answers show of themselves: what trust is learned from.
    pub fn compare(
        &self,
        queries: &[f32],
        k: usize,
        full: &[i64],
        [by_tables, by_scan]: [&mut [i64]; 2],
        features: &mut [Features],
    ) -> Result<()> {
        self.check_queries(queries)?;
        let (d, n) = (self.rows.d(), features.len());
        let lengths = [full.len(), by_tables.len(), by_scan.len()];
        if k == 0 || queries.len() != n * d || lengths != [n * k; 3] {
            return Err(Error::value("out", format!("{n} queries of {d} and {n} x {k} places"), "others"));
        }
        let mut fitted = (*self.fitted().ok_or(Error::NotFitted)?).clone();
        if fitted.sketches.is_none() || fitted.exemplars.is_none() {
            return Err(Error::value("sketch_bytes", "at least 64, and fill='queries'", "others"));
        }
        // Any trust makes a search keep what features are made from.
        fitted.point.judge.get_or_insert(Trust { k, tables: [0.0; TABLES], scan: [0.0; SCAN] });
        let searcher = self.searcher(&fitted);
        threads::install(0, || {
            let outputs = by_tables.par_chunks_exact_mut(k).zip(by_scan.par_chunks_exact_mut(k));
            let inputs = queries.par_chunks_exact(d).zip(full.par_chunks_exact(k));
            outputs.zip(features.par_iter_mut()).zip(inputs).for_each_init(
                || self.scratch(),
                |scratch, (((by_tables, by_scan), features), (query, full))| {
                    scratch.load(query);
                    *features = searcher.compare(scratch, full, [by_tables, by_scan]);
                },
            );
        })
    }

    /// Answer queries (n x d) from the lists of their regions, of which `n_listed` labels are read on average, `n_first` of them
    /// at first, and `n_rescore` rescored, and say what the answers (n x k) show of themselves.
    pub fn read_lists(
        &self,
        queries: &[f32],
        k: usize,
        [n_listed, n_rescore]: [usize; 2],
        n_first: Option<usize>,
        labels: &mut [i64],
        features: &mut [[f32; LISTED]],
    ) -> Result<()> {
        self.check_queries(queries)?;
        let (d, n) = (self.rows.d(), features.len());
        if k == 0 || queries.len() != n * d || labels.len() != n * k {
            return Err(Error::value("out", format!("{n} queries of {d} and {n} x {k} places"), "others"));
        }
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        let Some(regions) = fitted.regions.as_deref() else {
            return Err(Error::value("n_regions", "above 0", 0));
        };
        let judge = [0.0; LISTED];
        let first = n_first.map(|n_listed| FirstRead { n_listed, trust: 1.0, judge });
        let list = ListPoint { n_listed, n_rescore, trust: 0.0, judge, first };
        let searcher = self.searcher(&fitted);
        threads::install(0, || {
            let outputs = labels.par_chunks_exact_mut(k).zip(features.par_iter_mut());
            outputs.zip(queries.par_chunks_exact(d)).for_each_init(
                || self.scratch(),
                |scratch, ((labels, features), query)| {
                    scratch.load(query);
                    *features = searcher.read_list(scratch, regions, &list, labels);
                },
            );
        })
    }

    /// Borrow a scratch from the pool.
    pub fn scratch(&self) -> Lease<'_> {
        let pooled = lock(&self.scratches).pop();
        Lease { index: self, scratch: Some(pooled.unwrap_or_default()) }
    }

    /// Refuse queries that are not finite, naming the first bad value.
    pub fn check_queries(&self, queries: &[f32]) -> Result<()> {
        let mut rows = queries.chunks_exact(self.rows.d()).enumerate();
        rows.try_for_each(|(row, query)| check_finite(query, row))
    }

    /// Answer the query loaded into the scratch, on the calling thread.
    pub fn search_one(
        &self,
        scratch: &mut Scratch,
        on_short: OnShort,
        effort: Effort,
        labels: &mut [i64],
        scores: &mut [f32],
    ) -> Result<Work> {
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        self.searcher(&fitted).search(scratch, on_short, effort, labels, scores)
    }

    /// How long each of the [`STAGES`] of a search's first step takes, and how long the whole search, in seconds, for queries (n x d)
    /// one after the other.
    pub fn profile(&self, queries: &[f32], k: usize) -> Result<(Vec<[f64; STAGES.len()]>, Vec<f64>)> {
        if k == 0 || k > self.rows.m() {
            return Err(Error::value("k", format!("in 1..={}", self.rows.m()), k));
        }
        self.check_queries(queries)?;
        let fitted = self.fitted().ok_or(Error::NotFitted)?;
        let (searcher, mut scratch) = (self.searcher(&fitted), self.scratch());
        let queries = queries.chunks_exact(self.rows.d());
        let stages = |query| {
            scratch.load(query);
            searcher.profile(&mut scratch, k)
        };
        let of_stages = queries.clone().map(stages).collect();
        let (mut labels, mut scores) = (vec![0; k], vec![0.0; k]);
        let whole = |query| {
            let begin = Instant::now();
            scratch.load(query);
            searcher.search(&mut scratch, OnShort::Pad, Effort::ADAPTIVE, &mut labels, &mut scores)?;
            Ok(begin.elapsed().as_secs_f64())
        };
        Ok((of_stages, queries.map(whole).collect::<Result<_>>()?))
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
        let d = self.rows.d();
        let Answers { labels, scores, work } = out;
        let n = work.len();
        if queries.len() != n * d || labels.len() != n * k || scores.len() != n * k {
            let got = format!("{} values, {} labels, {} scores", queries.len(), labels.len(), scores.len());
            return Err(Error::value("out", format!("{n} queries of {d} and {n} x {k} places"), got));
        }
        let fitted = if how.exact { None } else { Some(self.fitted().ok_or(Error::NotFitted)?) };
        let m = self.rows.m();
        let affords_all = m as f64 <= how.effort.max_cost;
        let Some(fitted) = fitted.filter(|fitted| !(fitted.point.exact && affords_all)) else {
            self.check_queries(queries)?;
            let kernel = Kernel::active();
            let now = self.fitted();
            let bytes = now.as_deref().and_then(Fitted::byte_rows);
            let alone = n <= 1 || n * m * d < SMALL_PRODUCT;
            let team = Team::new(if alone { 1 } else { how.num_threads })?;
            let together = exact::together(bytes, kernel, d, n.div_ceil(team.threads()));
            let (places, values) = (together * k, together * d);
            let outputs = labels.chunks_mut(places).zip(scores.chunks_mut(places));
            let groups = outputs.zip(work.chunks_mut(together)).zip(queries.chunks(values));
            team.share_out(groups, |(((labels, scores), work), queries)| {
                exact::search(&self.rows, bytes, kernel, queries, Answers { labels, scores, work });
            });
            return Ok(());
        };
        let searcher = self.searcher(&fitted);
        if n < SMALL_BATCH {
            self.check_queries(queries)?;
            let mut scratch = self.scratch();
            let outputs = labels.chunks_exact_mut(k).zip(scores.chunks_exact_mut(k)).zip(work);
            for (at, (((labels, scores), work), query)) in outputs.zip(queries.chunks_exact(d)).enumerate() {
                scratch.load(query);
                let found = searcher.search(&mut scratch, how.on_short, how.effort, labels, scores);
                *work = found.map_err(|error| error.at(at))?;
            }
            return Ok(());
        }
        let batch = Batch { searcher, scratch: || self.scratch(), k, how, team: Team::new(how.num_threads)? };
        batch.search(queries, Answers { labels, scores, work })
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
        Ok(concat(&lists))
    }
}

/// How many leading coordinates the sketches of exemplars know.
fn known_coordinates(fitted: &Fitted) -> usize {
    let covered = fitted.exemplars.as_ref().map_or(0, |exemplars| exemplars.weights().len());
    covered.min(fitted.coordinates.as_ref().map_or(0, Projection::rows))
}

/// Batches below this many queries stay on the calling thread: waking a pool costs more.
const SMALL_BATCH: usize = 4;

/// Multiplications, of all rows with all queries, of which no other thread is asked to do a part, for the same reason.
const SMALL_PRODUCT: usize = 1 << 20;

/// What searches write to is kept for the next ones, but for those of more answers.
pub(crate) const KEPT: usize = 1 << 10;

/// What observing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observing {
    /// Queries that became exemplars.
    pub added: usize,
    /// How many exemplars there are.
    pub exemplars: usize,
}

/// Options of a batch search.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// How far a search goes.
    pub effort: Effort,
    /// Score all rows.
    pub exact: bool,
    /// What to do with too few candidates.
    pub on_short: OnShort,
    /// Threads; 0 is the package's setting.
    pub num_threads: usize,
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
    scratch: Option<Box<Scratch>>,
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
        let mut pool = lock(&self.index.scratches);
        pool.extend(self.scratch.take().filter(|scratch| scratch.answers() <= KEPT));
    }
}

/// Refuse query number `row` if it is not finite, naming its first bad value.
pub(crate) fn check_finite(query: &[f32], row: usize) -> Result<()> {
    // Without a branch a value, by what vectors of any processor do: it is on the way of every single query.
    let exponent = f32::INFINITY.to_bits();
    let bad = |value: &f32| value.to_bits() & exponent == exponent;
    if query.iter().fold(false, |any, value| any | bad(value)) {
        let at = query.iter().position(|value| !value.is_finite()).unwrap_or(0);
        return Err(Error::value("x", "finite", format!("NaN or infinity at [{row}, {at}]")));
    }
    Ok(())
}
