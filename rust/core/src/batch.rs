//! Batches: queries are projected one after the other, so that their map stays in the caches, and searched in the order
//! of their regions or first buckets, so that what a query has read is there for the next. The order is that of all which
//! are searched together, whatever the number of threads: each takes a stretch of it. Those that need a scan are scanned after
//! all others, several together.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::index::{Answers, How, KEPT, Lease, check_finite};
use crate::search::{Aside, Begin, Doubt, Reached, Searcher, Work};
use crate::threads::{Team, lock};

/// Queries that are ordered before any is searched, at most: their coordinates and answers take a few megabytes.
pub const TOGETHER: usize = 2048;

/// Queries that a thread takes at a time: some take longer than others, and none should wait for the last.
const STRETCH: RangeInclusive<usize> = 4..=16;

/// Stretches, where there are few queries.
const STRETCHES: usize = 32;

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
        let mut failed = lock(&self.0);
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
    /// Who searches.
    pub team: Team,
}

impl<'s, S: Fn() -> Lease<'s> + Sync> Batch<'_, S> {
    /// Answer queries (n x d). Where some have no answer, the first one's error is told, and outputs can hold anything.
    pub fn search(&self, queries: &[f32], out: Answers<'_>) -> Result<()> {
        let (d, k) = (self.searcher.rows.d(), self.k);
        let mut lease = (self.scratch)();
        let mut workspace = std::mem::take(&mut lease.workspace);
        let outputs = out.labels.chunks_mut(TOGETHER * k).zip(out.scores.chunks_mut(TOGETHER * k));
        let outputs = outputs.zip(out.work.chunks_mut(TOGETHER));
        let mut parts = queries.chunks(TOGETHER * d).zip(outputs).enumerate();
        let done = parts.try_for_each(|(part, (queries, ((labels, scores), work)))| {
            self.place(&mut workspace, queries, part * TOGETHER)?;
            let done = self.answer(&mut workspace, queries, Answers { labels, scores, work });
            done.map_err(|(at, error)| error.at(part * TOGETHER + at))
        });
        if k <= KEPT {
            lease.workspace = workspace;
        }
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
        self.each((begins, z, order), |from, (begins, z, order)| {
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
        self.each((work, labels, scores), |first, (work, labels, scores)| {
            let mut scratch = (self.scratch)();
            let outputs = labels.chunks_exact_mut(k).zip(scores.chunks_exact_mut(k)).zip(work);
            for (place, ((labels, scores), work)) in (first..).zip(outputs) {
                let at = order[place].query();
                scratch.load_placed(&queries[at * d..][..d], &z[at * p..][..p], begins[at]);
                match searcher.until_scan(&mut scratch, how.on_short, how.effort, labels, scores) {
                    Ok(Reached::Answer(done)) => *work = done,
                    Ok(Reached::Scan(doubt)) => {
                        let room = lock(&spare).pop();
                        let mut one = room.unwrap_or_default();
                        (one.place, one.doubt) = (place, doubt);
                        scratch.put_aside(&mut one.aside);
                        lock(&doubted).push(one);
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
        self.team.share_out(doubted.chunks_mut(self.stretch(doubted.len())), |doubted| {
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

    /// Do `job` for all places, a stretch of them at a time, of which it is told the first.
    fn each<A: Send, B: Send, C: Send>(
        &self,
        slices: (&mut [A], &mut [B], &mut [C]),
        job: impl Fn(usize, (&mut [A], &mut [B], &mut [C])) + Sync,
    ) {
        let job = |(first, slices): Stretch<'_, A, B, C>| job(first, slices);
        let mut stretches = Stretches { first: 0, size: self.stretch(slices.0.len()), slices };
        self.team.begin_alone(&mut stretches, job);
        self.team.share_out(stretches, job);
    }

    /// How many of `n` queries are taken at a time.
    fn stretch(&self, n: usize) -> usize {
        match self.team.threads() {
            1 => n.max(1),
            _ => n.div_ceil(STRETCHES).clamp(*STRETCH.start(), *STRETCH.end()),
        }
    }
}

/// Slices that hold as much for each place, in stretches of so many places, each with its first place.
struct Stretches<'a, A, B, C> {
    first: usize,
    size: usize,
    slices: (&'a mut [A], &'a mut [B], &'a mut [C]),
}

/// One of them.
type Stretch<'a, A, B, C> = (usize, (&'a mut [A], &'a mut [B], &'a mut [C]));

impl<'a, A, B, C> Stretches<'a, A, B, C> {
    /// Take the first `n` places off.
    fn split(&mut self, n: usize) -> Stretch<'a, A, B, C> {
        let (a, b, c) = std::mem::take(&mut self.slices);
        let (per_b, per_c) = (b.len() / a.len(), c.len() / a.len());
        let (a, a_left) = a.split_at_mut(n);
        let (b, b_left) = b.split_at_mut(n * per_b);
        let (c, c_left) = c.split_at_mut(n * per_c);
        self.slices = (a_left, b_left, c_left);
        self.first += n;
        (self.first - n, (a, b, c))
    }
}

impl<'a, A, B, C> Iterator for Stretches<'a, A, B, C> {
    type Item = Stretch<'a, A, B, C>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.slices.0.len();
        (left > 0).then(|| self.split(self.size.min(left)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let n = self.slices.0.len().div_ceil(self.size);
        (n, Some(n))
    }
}

impl<A, B, C> ExactSizeIterator for Stretches<'_, A, B, C> {}

impl<A, B, C> DoubleEndedIterator for Stretches<'_, A, B, C> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let before = self.len().checked_sub(1)? * self.size;
        let first = self.first;
        let (_, others) = self.split(before);
        let last = std::mem::replace(&mut self.slices, others);
        self.first = first;
        Some((first + before, last))
    }
}
