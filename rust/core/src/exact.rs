//! Exact search: the best of all rows. Rows are read in blocks, once for a group of queries: those in bytes where there are such
//! ([`crate::certain`]), and else all in full precision. Of finite rows answers are the same, bit for bit.

use std::cell::Cell;

use crate::byte_rows::ByteRows;
use crate::certain::{self, Certain, MOST};
use crate::index::Answers;
use crate::kernels::{FOLD, Folded, Kernel, fold};
use crate::memory::padded;
use crate::rows::Rows;
use crate::search::Work;
use crate::topk::TopK;

/// Bytes of rows that stay in the second-level cache while a group of queries is scored against them.
const BLOCK_BYTES: usize = 256 * 1024;

/// Bytes of queries that share a pass over the rows, at most, and how many they are: they stay in the second-level
/// cache, too.
const GROUP_BYTES: usize = 512 * 1024;
const GROUP: usize = 128;

/// Queries of dimension `d`, of `n` for each thread, that are answered together.
pub fn together(d: usize, n: usize) -> usize {
    let most = (GROUP_BYTES / (padded(d) * size_of::<f32>())).clamp(1, GROUP);
    n.clamp(1, most).next_multiple_of(FOLD)
}

/// Up to so many answers a query, a thread keeps the memory of its last search for the next.
const KEPT: usize = MOST;

/// What a search writes to beside its answers.
#[derive(Default)]
struct Scratch {
    certain: Certain,
    floats: Floats,
    /// Queries of which bytes say too little, and their answers.
    aside: (Vec<f32>, Vec<i64>, Vec<f32>),
}

/// The same, where rows are scored in full precision.
#[derive(Default)]
struct Floats {
    folded: Vec<Vec<Folded>>,
    alone: Vec<f32>,
    best: Vec<TopK>,
    logits: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Answer a group of queries (n x d).
pub fn search(rows: &Rows, bytes: Option<&ByteRows>, kernel: Kernel, queries: &[f32], out: Answers<'_>) {
    let (m, d) = (rows.m(), rows.d());
    let Answers { labels, scores, work } = out;
    if work.is_empty() {
        return;
    }
    let k = labels.len() / work.len();
    work.fill(Work::exact(m, m));
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let Scratch { certain, floats, aside: (asked, found, theirs) } = &mut *scratch;
    let all = work.len();
    let untold = bytes.filter(|_| certain::pays(k, m)).map(|bytes| {
        let out = Answers { labels: &mut *labels, scores: &mut *scores, work };
        certain.search(rows, bytes, kernel, queries, k, out)
    });
    match untold {
        Some([]) => {}
        Some(untold) if untold.len() < all => {
            asked.clear();
            asked.extend(untold.iter().flat_map(|at| &queries[at * d..][..d]));
            found.resize(untold.len() * k, 0);
            theirs.resize(untold.len() * k, 0.0);
            by_floats(rows, kernel, asked, k, (found, theirs), floats);
            for ((at, found), theirs) in untold.iter().zip(found.chunks(k)).zip(theirs.chunks(k)) {
                labels[at * k..][..k].copy_from_slice(found);
                scores[at * k..][..k].copy_from_slice(theirs);
            }
        }
        _ => by_floats(rows, kernel, queries, k, (labels, scores), floats),
    }
    if k.min(m) <= KEPT {
        SCRATCH.set(Some(scratch));
    }
}

/// The same, by scoring all rows in full precision.
fn by_floats(
    rows: &Rows,
    kernel: Kernel,
    queries: &[f32],
    k: usize,
    (labels, scores): (&mut [i64], &mut [f32]),
    scratch: &mut Floats,
) {
    let (m, d) = (rows.m(), rows.d());
    let n = queries.len() / d;
    let Floats { folded, alone, best, logits } = scratch;
    if n == 1 {
        alone.clear();
        alone.extend_from_slice(queries);
        alone.resize(padded(d), 0.0);
    } else {
        let folds = queries.chunks(FOLD * d);
        folded.resize_with(folded.len().max(folds.len()), Vec::new);
        for (some, folded) in folds.zip(&mut *folded) {
            fold(some, d, folded);
        }
    }
    best.resize_with(best.len().max(n), TopK::default);
    let best = &mut best[..n];
    best.iter_mut().for_each(|best| best.reset(k.min(m)));
    let block = (BLOCK_BYTES / (rows.weights().nbytes() / m)).clamp(1, m);
    logits.resize(FOLD * block, 0.0);
    for first in (0..m).step_by(block) {
        let count = block.min(m - first);
        if let [best] = best {
            rows.logits_range(kernel, alone, first, &mut logits[..count]);
            best.extend_range(&logits[..count], first as u32);
            continue;
        }
        for (queries, best) in folded.iter().zip(best.chunks_mut(FOLD)) {
            let mut each = logits.chunks_exact_mut(block);
            let each = std::array::from_fn(|_| each.next().map(|all| &mut all[..count]).unwrap_or_default());
            rows.logits_folded(kernel, queries, first, each);
            for (best, logits) in best.iter_mut().zip(logits.chunks_exact(block)) {
                best.extend_range(&logits[..count], first as u32);
            }
        }
    }
    for ((best, labels), scores) in best.iter_mut().zip(labels.chunks_mut(k)).zip(scores.chunks_mut(k)) {
        best.write(labels, scores);
    }
}
