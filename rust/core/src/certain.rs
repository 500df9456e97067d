//! Exact search by rows in bytes: what these and bounds say of a logit rules out nearly all rows, the others are scored in full precision.
//!
//! The bytes of a query tell most rows from the best. Of rows that they do not rule out what they leave of the query is read, too. The
//! k-th largest of what logits are at least is a bar for what others are at most.

use crate::byte_rows::{ByteQuery, ByteRows, bound};
use crate::index::Answers;
use crate::kernels::{FOLD, Kernel};
use crate::memory::padded;
use crate::rows::Rows;
use crate::search::Work;
use crate::topk::{Few, TopK};

/// Bytes of rows that stay in the second-level cache while queries are multiplied with them.
const BLOCK_BYTES: usize = 256 * 1024;

/// Where as large a part of all rows is asked for, too few are ruled out.
const PART: usize = 16;

/// Rows scored in full precision before it is asked whether others can be among the best.
const TURN: usize = 16;

/// Rows that may be among the best are looked through again once they are twice as many as the last time, and so many more.
const MORE: usize = 1024;

/// What such searches write to beside their answers.
#[derive(Default)]
pub struct Certain {
    sought: Vec<Sought>,
    dots: [Vec<f32>; FOLD],
    sieve: Sieve,
    query: Vec<f32>,
    best: TopK,
    few: Few,
}

/// A query on its way through the rows.
#[derive(Default)]
struct Sought {
    /// Which of the group it is.
    at: usize,
    query: ByteQuery,
    /// What logits are at least.
    least: TopK,
    /// What a logit is at most that is not among the best; -inf while fewer than k are known.
    bar: f32,
    /// Rows that may be among the best, and what their logits are at most.
    ids: Vec<u32>,
    most: Vec<f32>,
    kept: usize,
}

/// Rows of a block that are not ruled out by a query's bytes.
#[derive(Default)]
struct Sieve {
    places: Vec<u32>,
    rests: Vec<f32>,
}

/// Whether bytes are worth reading for the best `k` of `m` rows.
pub fn pays(k: usize, m: usize) -> bool {
    k.saturating_mul(PART) <= m
}

impl Certain {
    /// Answer a group of queries (n x d); returns those of which bytes say nothing, which have no answer.
    pub fn search(
        &mut self,
        rows: &Rows,
        bytes: &ByteRows,
        kernel: Kernel,
        queries: &[f32],
        out: Answers<'_>,
    ) -> Vec<usize> {
        let (m, d) = (rows.m(), rows.d());
        let Answers { labels, scores, work } = out;
        let k = labels.len() / work.len();
        let Certain { sought, dots, sieve, query, best, few } = self;
        sought.resize_with(sought.len().max(queries.len() / d), Sought::default);
        let (mut n, mut untold) = (0, Vec::new());
        for (at, query) in queries.chunks_exact(d).enumerate() {
            let next = &mut sought[n];
            next.at = at;
            next.least.reset(k);
            (next.bar, next.kept) = (f32::NEG_INFINITY, 0);
            next.ids.clear();
            next.most.clear();
            if bytes.read(query, &mut next.query) {
                n += 1;
            } else {
                untold.push(at);
            }
        }
        let sought = &mut sought[..n];
        let stride = bytes.map().matrix().stride();
        let block = (BLOCK_BYTES / stride).clamp(1, m);
        dots.iter_mut().for_each(|dots| dots.resize(block, 0.0));
        for first in (0..m).step_by(block) {
            let count = block.min(m - first);
            let part = bytes.rows(first, count);
            for some in sought.chunks_mut(FOLD) {
                if let [one] = some {
                    kernel.dot_bytes(part, stride, &one.query.bytes, &mut dots[0][..count]);
                } else {
                    // The first stands for those that there are not.
                    let each = std::array::from_fn(|i| &some.get(i).unwrap_or(&some[0]).query.bytes[..]);
                    kernel.dot_bytes_folded(
                        part,
                        stride,
                        each,
                        dots.each_mut().map(|dots| &mut dots[..count]),
                    );
                }
                for (one, dots) in some.iter_mut().zip(&*dots) {
                    one.sift(bytes, kernel, first, &dots[..count], sieve);
                }
            }
        }
        for one in sought {
            query.clear();
            query.extend_from_slice(&queries[one.at * d..][..d]);
            query.resize(padded(d), 0.0);
            let rescored = one.rescore(rows, kernel, query, k, best, (&mut sieve.rests, few));
            work[one.at] = Work::exact(m, rescored);
            best.write(&mut labels[one.at * k..][..k], &mut scores[one.at * k..][..k]);
        }
        untold
    }
}

impl Sought {
    /// Keep those of the rows from `first` on that may be among the best; `dots` are their products with the query's bytes.
    fn sift(&mut self, bytes: &ByteRows, kernel: Kernel, first: usize, dots: &[f32], sieve: &mut Sieve) {
        let Sieve { places, rests } = sieve;
        let ByteQuery { rest, step, share, reach: [coarse, fine], slack, .. } = &self.query;
        let map = bytes.map();
        let [scales, offsets] = [map.scales(), map.offset()].map(|each| &each[first..][..dots.len()]);
        kernel.not_below([dots, scales, offsets], [*step, *coarse], self.bar, places);
        if places.is_empty() {
            return;
        }
        rests.resize(places.len(), 0.0);
        kernel.dot_bytes_ids(bytes.rows(first, dots.len()), map.matrix().stride(), rest, places, rests);
        let (before, ids, most) = (self.ids.len(), &mut self.ids, &mut self.most);
        for (&place, rest) in places.iter().zip(&*rests) {
            let at = place as usize;
            let (dot, row, id) = (dots[at], [scales[at], offsets[at]], first as u32 + place);
            let both = dot + share * rest;
            self.least.push(bound(both, row, [*step, -fine]), id);
            ids.push(id);
            most.push(bound(dot, row, [*step, *coarse]).min(bound(both, row, [*step, *fine])));
        }
        if let Some(kth) = self.least.kth() {
            self.bar = kth - 2.0 * slack;
        }
        let all = self.ids.len() > 2 * self.kept + MORE;
        self.leave(if all { 0 } else { before });
        if all {
            self.kept = self.ids.len();
        }
    }

    /// Score them in full precision, the most promising first, until no other can be among the best; returns how many.
    fn rescore(
        &mut self,
        rows: &Rows,
        kernel: Kernel,
        query: &[f32],
        k: usize,
        best: &mut TopK,
        (logits, few): (&mut Vec<f32>, &mut Few),
    ) -> usize {
        self.leave(0);
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
        n
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
}

/// List where logits are not below the bar, as far as dot products, scales, offsets, step and reach ([`bound`]) tell. Compiled into a
/// kernel, and so of plain loops: [`Kernel::not_below`].
#[inline(always)]
pub(crate) fn not_below(
    [dots, scales, offsets]: [&[f32]; 3],
    of_query: [f32; 2],
    bar: f32,
    places: &mut Vec<u32>,
) {
    const RUN: usize = 32;
    places.clear();
    let runs = dots.chunks(RUN).zip(scales.chunks(RUN)).zip(offsets.chunks(RUN));
    for (run, ((dots, scales), offsets)) in runs.enumerate() {
        let mut most = [f32::NEG_INFINITY; RUN];
        let mut any = false;
        for (most, ((&dot, &scale), &offset)) in most.iter_mut().zip(dots.iter().zip(scales).zip(offsets)) {
            *most = bound(dot, [scale, offset], of_query);
            any |= *most >= bar;
        }
        if any {
            let there = most[..dots.len()].iter().zip(0..).filter(|(most, _)| **most >= bar);
            places.extend(there.map(|(_, at)| (run * RUN) as u32 + at));
        }
    }
}
