//! Exact search: every row is rescored. Rows are read in blocks, once for a group of queries.

use std::cell::Cell;

use crate::kernels::Kernel;
use crate::memory::padded;
use crate::rows::Rows;
use crate::topk::TopK;

/// Bytes of rows that stay in the second-level cache while a group of queries is scored against them.
const BLOCK_BYTES: usize = 256 * 1024;

/// Queries that share a pass over the rows.
pub const GROUP: usize = 16;

/// Up to so many answers a query, a thread keeps the memory of its last search for the next.
const KEPT: usize = 1024;

/// What a search writes to beside its answers.
struct Scratch {
    aligned: Vec<f32>,
    best: Vec<TopK>,
    logits: Vec<f32>,
}

impl Scratch {
    const EMPTY: Scratch = Scratch { aligned: Vec::new(), best: Vec::new(), logits: Vec::new() };
}

thread_local! {
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::EMPTY) };
}

/// Answer a group of queries (n x d) by scoring all rows with the rescore kernel.
pub fn search(
    rows: &Rows,
    kernel: Kernel,
    queries: &[f32],
    k: usize,
    labels: &mut [i64],
    scores: &mut [f32],
) {
    let (m, d) = (rows.m(), rows.d());
    let stride = padded(d);
    let n = queries.len() / d;
    let mut scratch = SCRATCH.replace(Scratch::EMPTY);
    let Scratch { aligned, best, logits } = &mut scratch;
    aligned.clear();
    aligned.resize(n * stride, 0.0);
    for (to, from) in aligned.chunks_exact_mut(stride).zip(queries.chunks_exact(d)) {
        to[..d].copy_from_slice(from);
    }
    best.resize_with(best.len().max(n), TopK::default);
    let best = &mut best[..n];
    best.iter_mut().for_each(|best| best.reset(k.min(m)));
    let block = (BLOCK_BYTES / (rows.weights().nbytes() / m)).clamp(1, m);
    logits.resize(block, 0.0);
    for first in (0..m).step_by(block) {
        let logits = &mut logits[..block.min(m - first)];
        for (query, best) in aligned.chunks_exact(stride).zip(&mut *best) {
            rows.logits_range(kernel, query, first, logits);
            best.extend_range(logits, first as u32);
        }
    }
    for ((best, labels), scores) in best.iter_mut().zip(labels.chunks_mut(k)).zip(scores.chunks_mut(k)) {
        best.write(labels, scores);
    }
    if k.min(m) <= KEPT {
        SCRATCH.set(scratch);
    }
}
