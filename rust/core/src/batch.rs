//! Batches: queries are projected one after the other, so that their map stays in the caches, and searched in the order
//! of their regions or first buckets, so that what a query has read is there for the next. The order is that of all which
//! are searched together, whatever the number of threads: each takes a stretch of it. Those that need a scan are scanned after
//! all others, several together.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::index::{Answers, How, Lease, check_finite};
use crate::search::{Aside, Begin, Doubt, Reached, Searcher, Work};
use crate::threads;

/// Queries that are ordered before any is searched, at most: their coordinates and answers take a few megabytes.
pub const TOGETHER: usize = 2048;

/// Queries that one of several threads takes at a time: some take longer than others, and none should wait for the last.
const SHARES: RangeInclusive<usize> = 4..=16;

/// Shares for each thread, where there are few queries.
const SHARES_EACH: usize = 4;

/// Queries that are scanned together, at most: their tables and the blocks of columns that they ask are about what a
/// first-level cache holds.
const TURNS: usize = 8;

/// What a batch writes to beside its answers. Reused.
#[derive(Default)]
pub struct Workspace {
    z: Vec<f32>,
    begins: Vec<Begin>,
    order: Vec<Turn>,
    labels: Vec<i64>,
    scores: Vec<f32>,
    work: Vec<Work>,
    doubted: Vec<Doubted>,
    /// Room for others.
    spare: Vec<Doubted>,
}

/// A query in the order in which queries are searched: where it begins, and then which it is.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(u64);

impl Turn {
    fn new(begin: Begin, query: usize) -> Self {
        Turn(u64::from(begin.place) << 32 | query as u64)
    }

    fn query(self) -> usize {
        self.0 as u32 as usize
    }
}

/// A query that tables have not answered well enough, until it is scanned with others.
#[derive(Default)]
struct Doubted {
    /// Its place in the order.
    place: usize,
    doubt: Doubt,
    aside: Aside,
    labels: Vec<i64>,
    scores: Vec<f32>,
    work: Work,
}

/// The error of the first query that has no answer, and which that is.
#[derive(Default)]
struct Failed(Mutex<Option<(usize, Error)>>);

impl Failed {
    fn note(&self, at: usize, error: Error) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.as_ref().is_none_or(|&(first, _)| at < first) {
            *failed = Some((at, error));
        }
    }

    fn first(self) -> std::result::Result<(), (usize, Error)> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// A batch and how it is searched.
pub struct Batch<'a, S> {
    /// Of the index.
    pub searcher: Searcher<'a>,
    /// Lends what a thread searches with.
    pub scratch: S,
    /// Answers a query.
    pub k: usize,
    /// Options.
    pub how: How,
    /// Threads, asked for once: their number may change meanwhile.
    pub threads: usize,
}

impl<'s, S: Fn() -> Lease<'s> + Sync> Batch<'_, S> {
    /// Answer queries (n x d). Where some have no answer, the first one's error is told, and outputs can hold anything.
    pub fn search(&self, queries: &[f32], out: Answers<'_>) -> Result<()> {
        let (d, k) = (self.searcher.rows.d(), self.k);
        let mut lease = (self.scratch)();
        let mut workspace = std::mem::take(&mut lease.workspace);
        let mut parts = || {
            let outputs = out.labels.chunks_mut(TOGETHER * k).zip(out.scores.chunks_mut(TOGETHER * k));
            let outputs = outputs.zip(out.work.chunks_mut(TOGETHER));
            let mut parts = queries.chunks(TOGETHER * d).zip(outputs).enumerate();
            parts.try_for_each(|(part, (queries, ((labels, scores), work)))| {
                self.place(&mut workspace, queries, part * TOGETHER)?;
                let done = self.answer(&mut workspace, queries, Answers { labels, scores, work });
                done.map_err(|(at, error)| error.at(part * TOGETHER + at))
            })
        };
        let done = if self.threads == 1 { parts() } else { threads::install(self.threads, parts)? };
        lease.workspace = workspace;
        done
    }

    /// Find the coordinates of queries, and order these by where they begin to search. Refuse those that are not finite, of which
    /// the first is number `first`.
    fn place(&self, workspace: &mut Workspace, queries: &[f32], first: usize) -> Result<()> {
        let (searcher, d) = (self.searcher, self.searcher.rows.d());
        let n = queries.len() / d;
        // Lists are found by a few, and few go on from them.
        let p = match (&searcher.fitted.coordinates, searcher.lists(self.how.effort)) {
            (Some(map), None) => map.rows(),
            _ => 0,
        };
        let Workspace { z, begins, order, .. } = workspace;
        z.resize(n * p, 0.0);
        begins.resize(n, Begin::default());
        order.resize(n, Turn::default());
        let failed = Failed::default();
        each(self.share(n), 0, (begins, z, &mut *order), &|from, (begins, z, order)| {
            let mut scratch = (self.scratch)();
            for (i, (begin, turn)) in begins.iter_mut().zip(order).enumerate() {
                let at = from + i;
                let query = &queries[at * d..][..d];
                if let Err(error) = check_finite(query, first + at) {
                    return failed.note(at, error);
                }
                scratch.load(query);
                *begin = searcher.begin(&mut scratch, self.how.effort);
                *turn = Turn::new(*begin, at);
                z[i * p..][..p].copy_from_slice(&scratch.coordinates()[..p]);
            }
        });
        order.sort_unstable();
        failed.first().map_err(|(_, error)| error)
    }

    /// Answer the queries in their order; an error comes with the place of its query.
    fn answer(
        &self,
        workspace: &mut Workspace,
        queries: &[f32],
        out: Answers<'_>,
    ) -> std::result::Result<(), (usize, Error)> {
        let (searcher, how, d, k) = (self.searcher, self.how, self.searcher.rows.d(), self.k);
        let Workspace { z, begins, order, labels, scores, work, doubted, spare } = workspace;
        let n = order.len();
        let p = z.len() / n;
        labels.resize(n * k, 0);
        scores.resize(n * k, 0.0);
        work.resize(n, Work::default());
        let failed = Failed::default();
        let (doubted, spare) = (Mutex::new(doubted), Mutex::new(spare));
        each(self.share(n), 0, (&mut *work, &mut *labels, &mut *scores), &|first, (work, labels, scores)| {
            let mut scratch = (self.scratch)();
            let outputs = labels.chunks_exact_mut(k).zip(scores.chunks_exact_mut(k)).zip(work);
            for (place, ((labels, scores), work)) in (first..).zip(outputs) {
                let at = order[place].query();
                scratch.load_placed(&queries[at * d..][..d], &z[at * p..][..p], begins[at]);
                match searcher.until_scan(&mut scratch, how.on_short, how.effort, labels, scores) {
                    Ok(Reached::Answer(done)) => *work = done,
                    Ok(Reached::Scan(doubt)) => {
                        let room = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
                        let mut one = room.unwrap_or_default();
                        (one.place, one.doubt) = (place, doubt);
                        scratch.put_aside(&mut one.aside);
                        doubted.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                    }
                    Err(error) => failed.note(at, error),
                }
            }
        });
        let doubted = doubted.into_inner().unwrap_or_else(PoisonError::into_inner);
        let spare = spare.into_inner().unwrap_or_else(PoisonError::into_inner);
        doubted.sort_unstable_by_key(|one| one.place);
        self.scan(doubted, order, begins, queries, &failed);
        for one in doubted.drain(..) {
            work[one.place] = one.work;
            labels[one.place * k..][..k].copy_from_slice(&one.labels);
            scores[one.place * k..][..k].copy_from_slice(&one.scores);
            spare.push(one);
        }
        failed.first()?;
        let answers = labels.chunks_exact(k).zip(scores.chunks_exact(k)).zip(work);
        for (turn, ((labels, scores), work)) in order.iter().zip(answers) {
            let at = turn.query();
            out.labels[at * k..][..k].copy_from_slice(labels);
            out.scores[at * k..][..k].copy_from_slice(scores);
            out.work[at] = *work;
        }
        Ok(())
    }

    /// Scan for all of these, some at a time, so that columns come from memory once for several.
    fn scan(
        &self,
        doubted: &mut [Doubted],
        order: &[Turn],
        begins: &[Begin],
        queries: &[f32],
        failed: &Failed,
    ) {
        let (searcher, how, d) = (self.searcher, self.how, self.searcher.rows.d());
        let empty = || &mut [(); 0][..];
        each(self.share(doubted.len()), 0, (doubted, empty(), empty()), &|_, (doubted, _, _)| {
            let mut scratch = (self.scratch)();
            for turns in doubted.chunks_mut(TURNS) {
                searcher.shortlist_together(
                    &mut scratch,
                    turns.iter().map(|one| one.aside.coordinates()),
                    self.k,
                );
                for (turn, one) in turns.iter_mut().enumerate() {
                    let at = order[one.place].query();
                    scratch.load_placed(&queries[at * d..][..d], one.aside.coordinates(), begins[at]);
                    scratch.take_up(&one.aside, turn);
                    let Doubted { doubt, labels, scores, work, .. } = one;
                    labels.resize(self.k, 0);
                    scores.resize(self.k, 0.0);
                    match searcher.scan(&mut scratch, *doubt, how.on_short, how.effort, labels, scores) {
                        Ok(done) => *work = done,
                        Err(error) => failed.note(at, error),
                    }
                }
            }
        });
    }

    /// How many of `n` queries are taken at a time.
    fn share(&self, n: usize) -> usize {
        match self.threads {
            1 => n,
            threads => n.div_ceil(SHARES_EACH * threads).clamp(*SHARES.start(), *SHARES.end()),
        }
    }
}

/// Do `job` for at most `share` of n places at a time, on all threads of the pool that this one is of. Slices hold as
/// much for each place.
fn each<A: Send, B: Send, C: Send>(
    share: usize,
    first: usize,
    (a, b, c): (&mut [A], &mut [B], &mut [C]),
    job: &(impl Fn(usize, (&mut [A], &mut [B], &mut [C])) + Sync),
) {
    let n = a.len();
    if n <= share {
        return job(first, (a, b, c));
    }
    let half = n / 2;
    let (per_b, per_c) = (b.len() / n, c.len() / n);
    let (a, a_last) = a.split_at_mut(half);
    let (b, b_last) = b.split_at_mut(half * per_b);
    let (c, c_last) = c.split_at_mut(half * per_c);
    rayon::join(
        || each(share, first, (a, b, c), job),
        || each(share, first + half, (a_last, b_last, c_last), job),
    );
}
