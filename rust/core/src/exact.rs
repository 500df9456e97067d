//! Exact search: the best of all rows. Rows are read in blocks, once for a group of queries: those in bytes where there are such
//! ([`crate::certain`]), and else all in full precision, for many queries by their product ([`crate::product`]). Of finite rows answers are the
//! same, bit for bit.

use std::cell::Cell;

use crate::byte_rows::ByteRows;
use crate::certain::{self, Certain, MOST};
use crate::index::Answers;
use crate::kernels::Kernel;
use crate::memory::{BLOCK_BYTES, pad, padded};
use crate::product::{self, Product};
use crate::rows::Rows;
use crate::search::Work;
use crate::topk::TopK;

/// Rows that are scored as any search scores them, beside k, so that no others are among the best: their sums are too far below.
const SPARE: usize = 16;

/// So few queries are as quick one after the other.
const FEW: usize = 2;

/// Queries whose bytes share a pass over the rows, at most.
const GROUP: usize = 256;

/// Queries of dimension `d`, of `n` for each thread, that are answered together.
pub fn together(bytes: Option<&ByteRows>, kernel: Kernel, d: usize, n: usize) -> usize {
    if bytes.is_some() { n.clamp(1, GROUP) } else { product::together(kernel, d, n) }
}

/// Up to so many answers a query, a thread keeps the memory of its last search for the next.
const KEPT: usize = MOST;

/// What a group of queries (n x d) asks for: the best `k` of all rows for each.
#[derive(Clone, Copy)]
struct Asked<'a> {
    rows: &'a Rows,
    kernel: Kernel,
    queries: &'a [f32],
    k: usize,
}

/// Where labels and scores go, n x k each.
type Places<'a> = (&'a mut [i64], &'a mut [f32]);

/// What a search writes to beside its answers.
#[derive(Default)]
struct Scratch {
    certain: Certain,
    /// Queries of which bytes say too little.
    aside: Aside,
    in_full: InFull,
}

/// What scoring all rows in full precision writes to.
#[derive(Default)]
struct InFull {
    multiplied: Multiplied,
    /// Queries of which their product with all rows says too little.
    aside: Aside,
    one_by_one: OneByOne,
}

/// Some queries of a group, and their answers.
#[derive(Default)]
struct Aside {
    queries: Vec<f32>,
    found: Vec<i64>,
    theirs: Vec<f32>,
}

/// What multiplying queries with all rows writes to.
#[derive(Default)]
struct Multiplied {
    product: Product,
    each: Vec<TopK>,
    untold: Vec<usize>,
    query: Vec<f32>,
    ids: Vec<u32>,
    sums: Vec<f32>,
    logits: Vec<f32>,
    best: TopK,
}

/// What scoring all rows for one query after the other writes to.
#[derive(Default)]
struct OneByOne {
    /// Zero-padded queries.
    padded: Vec<f32>,
    best: Vec<TopK>,
    logits: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Answer a group of queries (n x d).
pub fn search(rows: &Rows, bytes: Option<&ByteRows>, kernel: Kernel, queries: &[f32], out: Answers<'_>) {
    let m = rows.m();
    let Answers { labels, scores, work } = out;
    if work.is_empty() {
        return;
    }
    let k = labels.len() / work.len();
    work.fill(Work::exact(m, m));
    let asked = Asked { rows, kernel, queries, k };
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let Scratch { certain, aside, in_full } = &mut *scratch;
    if let Some(bytes) = bytes.filter(|_| certain::pays(k, m)) {
        let out = Answers { labels: &mut *labels, scores: &mut *scores, work };
        let untold = certain.search(rows, bytes, kernel, queries, k, out);
        aside.answer(untold, asked, (labels, scores), |asked, out| in_full.search(asked, out));
    } else {
        in_full.search(asked, (labels, scores));
    }
    if k.min(m) <= KEPT {
        SCRATCH.set(Some(scratch));
    }
}

impl Aside {
    /// Have some of the queries answered otherwise.
    fn answer(
        &mut self,
        some: &[usize],
        group: Asked<'_>,
        (labels, scores): Places<'_>,
        answer: impl FnOnce(Asked<'_>, Places<'_>),
    ) {
        if some.is_empty() {
            return;
        }
        let Aside { queries: own, found, theirs } = self;
        let Asked { rows, queries, k, .. } = group;
        let d = rows.d();
        own.clear();
        own.extend(some.iter().flat_map(|at| &queries[at * d..][..d]));
        found.resize(some.len() * k, 0);
        theirs.resize(some.len() * k, 0.0);
        answer(Asked { queries: own, ..group }, (found, theirs));
        for ((at, found), theirs) in some.iter().zip(found.chunks(k)).zip(theirs.chunks(k)) {
            labels[at * k..][..k].copy_from_slice(found);
            scores[at * k..][..k].copy_from_slice(theirs);
        }
    }
}

impl InFull {
    /// Answer a group of queries, k of them each.
    fn search(&mut self, asked: Asked<'_>, (labels, scores): Places<'_>) {
        let Asked { rows, queries, k, .. } = asked;
        let InFull { multiplied, aside, one_by_one } = self;
        if queries.len() <= FEW * rows.d() || k > MOST || k + SPARE >= rows.m() {
            return one_by_one.search(asked, (labels, scores));
        }
        let untold = multiplied.search(asked, (&mut *labels, &mut *scores));
        aside.answer(untold, asked, (labels, scores), |asked, out| one_by_one.search(asked, out));
    }
}

impl Multiplied {
    /// Answer a group of queries, k of them each, but those of which their product with all rows says too little: these are returned.
    fn search(&mut self, asked: Asked<'_>, (labels, scores): Places<'_>) -> &[usize] {
        let Asked { rows, kernel, queries, k } = asked;
        let d = rows.d();
        let n = queries.len() / d;
        let Multiplied { product, each, untold, query, ids, sums, logits, best } = self;
        each.resize_with(each.len().max(n), TopK::default);
        let each = &mut each[..n];
        each.iter_mut().for_each(|best| best.reset(k + SPARE));
        product.take_best(rows, kernel, queries, each);
        untold.clear();
        for (at, (own, each)) in queries.chunks_exact(d).zip(each).enumerate() {
            each.unordered(ids, sums);
            pad(own, query);
            logits.resize(ids.len(), 0.0);
            rows.logits(kernel, query, ids, logits);
            best.reset(k);
            best.extend(logits, ids);
            let least = sums.iter().copied().fold(f32::INFINITY, f32::min);
            let most = product::at_most(least, own, rows.most_squares());
            if best.kth().is_some_and(|kth| f64::from(kth) > most) {
                best.write(&mut labels[at * k..][..k], &mut scores[at * k..][..k]);
            } else {
                untold.push(at);
            }
        }
        untold
    }
}

impl OneByOne {
    /// Answer a group of queries, k of them each.
    fn search(&mut self, asked: Asked<'_>, (labels, scores): Places<'_>) {
        let Asked { rows, kernel, queries, k } = asked;
        let (m, d) = (rows.m(), rows.d());
        let (n, stride) = (queries.len() / d, padded(d));
        let OneByOne { padded, best, logits } = self;
        padded.clear();
        for query in queries.chunks_exact(d) {
            padded.extend_from_slice(query);
            padded.resize(padded.len().next_multiple_of(stride), 0.0);
        }
        best.resize_with(best.len().max(n), TopK::default);
        let best = &mut best[..n];
        best.iter_mut().for_each(|best| best.reset(k.min(m)));
        let block = (BLOCK_BYTES / (rows.weights().nbytes() / m)).clamp(1, m);
        for first in (0..m).step_by(block) {
            logits.resize(block.min(m - first), 0.0);
            for (query, best) in padded.chunks_exact(stride).zip(&mut *best) {
                rows.logits_range(kernel, query, first, logits);
                best.extend_range(logits, first as u32);
            }
        }
        for ((best, labels), scores) in best.iter_mut().zip(labels.chunks_mut(k)).zip(scores.chunks_mut(k)) {
            best.write(labels, scores);
        }
    }
}
