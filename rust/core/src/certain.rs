//! Exact search by rows in bytes: what these and bounds say of a logit rules out nearly all rows, the others are scored in full precision.
//!
//! The bytes of a query tell most rows from the best. Of rows that they do not rule out what they leave of the query is read, too. The
//! k-th largest of what logits are at least is a bar for what others are at most.

use crate::byte_rows::{ByteQuery, ByteRows, SomeRows, at_least, at_most};
use crate::index::Answers;
use crate::kernels::Kernel;
use crate::memory::{BLOCK_BYTES, Line, pad};
use crate::rows::Rows;
use crate::search::Work;
use crate::topk::{Few, TopK};

/// So many rows are read at first, and then as many as before, up to a block: while few are known, few can be ruled out.
const BEGIN: usize = 64;

/// Where as large a part of all rows is asked for, or as many answers, bounds rule out too few rows; and they have ruled out too few where a
/// larger part than the last is left.
pub(crate) const ASKED: usize = 16;
pub(crate) const MOST: usize = 1024;
pub(crate) const LEFT: usize = 8;

/// Rows scored in full precision before it is asked whether others can be among the best.
pub(crate) const TURN: usize = 16;

/// So many rows may be left whatever part of all they are, while not all have been read.
const ENOUGH: usize = 4096;

/// Room for so many rows a query is kept for the next search.
const KEPT: usize = 1 << 14;

/// Rows that may be among the best are looked through again once they are twice as many as the last time, and so many more.
const MORE: usize = 1024;

/// What such searches write to beside their answers.
#[derive(Default)]
pub struct Certain {
    sought: Vec<Sought>,
    untold: Vec<usize>,
    room: Room,
    logits: Vec<f32>,
    query: Vec<f32>,
    best: TopK,
    few: Few,
}

/// What multiplying some rows by some queries writes to.
#[derive(Default)]
pub(crate) struct Room {
    /// Products of all rows with a query, or with several.
    pub dots: Vec<f32>,
    /// The rows, or the queries, as a kernel would have them; none before the first rows.
    pub lines: Vec<Line>,
}

/// A query on its way through the rows.
#[derive(Default)]
pub(crate) struct Sought {
    /// Which of the group it is.
    at: usize,
    pub query: ByteQuery,
    /// What logits are at least.
    least: TopK,
    /// What a logit is at most that is not among the best; -inf while fewer than k are known.
    pub bar: f32,
    /// Of the rows at hand those that the query's bytes do not rule out, rising, and their products with these.
    pub places: Vec<u32>,
    pub dots: Vec<f32>,
    /// Products of these rows with what the bytes leave.
    rests: Vec<f32>,
    /// Rows that may be among the best, what their logits are at most, and how many they were when they were looked through last.
    ids: Vec<u32>,
    most: Vec<f32>,
    kept: usize,
    /// Whether these are so many that it does not pay.
    lost: bool,
}

/// Whether bytes are worth reading for the best `k` of `m` rows.
pub fn pays(k: usize, m: usize) -> bool {
    k <= MOST && k * ASKED <= m
}

impl Certain {
    /// Answer a group of queries (n x d), k of them each, but those of which bytes say too little: these are returned.
    pub fn search(
        &mut self,
        rows: &Rows,
        bytes: &ByteRows,
        kernel: Kernel,
        queries: &[f32],
        k: usize,
        out: Answers<'_>,
    ) -> &[usize] {
        let (m, d) = (rows.m(), rows.d());
        let Answers { labels, scores, work } = out;
        let Certain { sought, untold, room, logits, query, best, few } = self;
        sought.resize_with(sought.len().max(queries.len() / d), Sought::default);
        untold.clear();
        let mut n = 0;
        for (at, query) in queries.chunks_exact(d).enumerate() {
            let next = &mut sought[n];
            next.at = at;
            next.least.reset(k);
            (next.bar, next.kept, next.lost) = (f32::NEG_INFINITY, 0, false);
            next.ids.clear();
            next.most.clear();
            if bytes.read(query, &mut next.query) {
                n += 1;
            } else {
                untold.push(at);
            }
        }
        let sought = &mut sought[..n];
        room.lines.clear();
        let stride = bytes.map().matrix().stride();
        let block = (BLOCK_BYTES / stride).clamp(1, m);
        let enough = (m / LEFT).max(ENOUGH);
        let mut first = 0;
        while first < m {
            let some = bytes.rows(first, block.min(first.max(BEGIN)).min(m - first));
            kernel.sieve(some, sought, room);
            sought.iter_mut().for_each(|one| one.sift(some, kernel, first, enough));
            first += some.scales.len();
        }
        for one in sought {
            pad(&queries[one.at * d..][..d], query);
            match one.rescore(rows, kernel, query, k, best, (logits, few)) {
                Some(rescored) => {
                    work[one.at] = Work::exact(m, rescored);
                    best.write(&mut labels[one.at * k..][..k], &mut scores[one.at * k..][..k]);
                }
                None => untold.push(one.at),
            }
            one.ids.shrink_to(KEPT);
            one.most.shrink_to(KEPT);
        }
        untold
    }
}

impl Sought {
    /// Of these rows, the first of which is `first`, keep those that may be among the best. Where more than `enough` are left of all so
    /// far, the query is lost.
    fn sift(&mut self, some: SomeRows<'_>, kernel: Kernel, first: usize, enough: usize) {
        let Sought { query, least, places, dots, rests, ids, most, lost, .. } = self;
        if *lost || places.is_empty() {
            return;
        }
        let &mut ByteQuery { ref rest, step, share, reach: [coarse, fine], slack, .. } = query;
        let SomeRows { bytes, stride, scales, offsets } = some;
        rests.resize(places.len(), 0.0);
        kernel.dot_bytes_ids(bytes, stride, rest, places, rests);
        let before = ids.len();
        for ((&place, &dot), rest) in places.iter().zip(&*dots).zip(&*rests) {
            let at = place as usize;
            let (row, id) = ([scales[at], offsets[at]], first as u32 + place);
            let both = dot + share * rest;
            least.push(at_least(both, row, [step, fine]), id);
            ids.push(id);
            most.push(at_most(dot, row, [step, coarse]).min(at_most(both, row, [step, fine])));
        }
        if let Some(kth) = self.least.kth() {
            self.bar = kth.min(f32::MAX) - 2.0 * slack;
        }
        let all = self.ids.len() > 2 * self.kept + MORE;
        self.leave(if all { 0 } else { before });
        if all {
            self.kept = self.ids.len();
            self.lost = self.kept > enough;
            if self.lost {
                self.bar = f32::INFINITY;
            }
        }
    }

    /// Score them in full precision, the most promising first, until no other can be among the best; returns how many. None where too many
    /// are left.
    fn rescore(
        &mut self,
        rows: &Rows,
        kernel: Kernel,
        query: &[f32],
        k: usize,
        best: &mut TopK,
        (logits, few): (&mut Vec<f32>, &mut Few),
    ) -> Option<usize> {
        self.leave(0);
        if self.lost || self.ids.len() * LEFT > rows.m() {
            return None;
        }
        let Sought { ids, most, query: ByteQuery { slack, .. }, .. } = self;
        few.order(kernel, most, ids);
        best.reset(k);
        let mut n = 0;
        while n < ids.len() && best.kth().is_none_or(|kth| kth <= most[n] + *slack) {
            let some = &ids[n..ids.len().min(n + TURN)];
            logits.resize(some.len(), 0.0);
            rows.logits(kernel, query, some, logits);
            best.extend(logits, some);
            n += some.len();
        }
        Some(n)
    }

    /// Of the rows from `from` on, leave those that the bar does not rule out.
    fn leave(&mut self, from: usize) {
        let Sought { ids, most, bar, .. } = self;
        let mut to = from;
        for at in from..ids.len() {
            (ids[to], most[to]) = (ids[at], most[at]);
            to += usize::from(most[at] >= *bar);
        }
        ids.truncate(to);
        most.truncate(to);
    }

    /// Note which of these rows the query's bytes do not rule out, whose products with them are `dots`. Compiled into a kernel, and so of plain
    /// loops.
    #[inline(always)]
    pub(crate) fn meet(&mut self, some: SomeRows<'_>, dots: &[f32]) {
        const RUN: usize = 32;
        let SomeRows { scales, offsets, .. } = some;
        let Sought { query, bar, places, dots: found, .. } = self;
        places.clear();
        found.clear();
        let of_query = [query.step, query.reach[0]];
        let runs = dots.chunks(RUN).zip(scales.chunks(RUN)).zip(offsets.chunks(RUN));
        for (run, ((dots, scales), offsets)) in runs.enumerate() {
            let mut most = [f32::NEG_INFINITY; RUN];
            let mut any = false;
            for (most, ((&dot, &scale), &offset)) in most.iter_mut().zip(dots.iter().zip(scales).zip(offsets))
            {
                *most = at_most(dot, [scale, offset], of_query);
                any |= *most >= *bar;
            }
            if any {
                for (at, (&dot, most)) in dots.iter().zip(most).enumerate() {
                    if most >= *bar {
                        places.push((run * RUN + at) as u32);
                        found.push(dot);
                    }
                }
            }
        }
    }
}

/// Tell each query which of these rows its bytes do not rule out. Compiled into a kernel, whose product of rows of bytes is `dot`, and so
/// of plain loops: [`Kernel::sieve`].
#[inline(always)]
pub(crate) fn sieve(
    some: SomeRows<'_>,
    sought: &mut [Sought],
    Room { dots, .. }: &mut Room,
    dot: impl Fn(&[i8], usize, &[i8], &mut [f32]),
) {
    dots.resize(some.scales.len(), 0.0);
    for one in sought {
        dot(some.bytes, some.stride, &one.query.bytes, dots);
        one.meet(some, dots);
    }
}
