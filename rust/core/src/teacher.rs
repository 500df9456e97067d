//! The teacher: top-t of the full layer for many queries, by a blocked product with the selection fused in.
//! No more than the logits of some rows and a few queries exist at any time; each thread has a copy of its queries, and what is
//! best of each.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::rows::Rows;
use crate::threads;
use crate::topk::TopK;

/// Bytes of rows that stay in the second-level cache while all queries of a thread are multiplied with them.
const BLOCK_BYTES: usize = 256 * 1024;

/// Coordinates that are laid side by side at a time.
const PART: usize = 16;

/// For each of the queries (n x d) the `t` labels with the largest logits, best first, and those logits: sums in the order of
/// coordinates, whose last bits may differ from a search's. Outputs are n x t.
pub fn top(
    rows: &Rows,
    kernel: Kernel,
    queries: &[f32],
    t: usize,
    labels: &mut [i64],
    scores: &mut [f32],
) -> Result<()> {
    let (m, d) = (rows.m(), rows.d());
    if t == 0 {
        return Err(Error::value("t", "at least 1", t));
    }
    let [rows_beside, queries_beside] = kernel.tile();
    let block = (BLOCK_BYTES / (rows_beside * d * size_of::<f32>())).max(1) * rows_beside;
    let n = (queries.len() / d).div_ceil(threads::get_num_threads()).max(1).next_multiple_of(queries_beside);
    threads::install(0, || {
        let outputs = labels.par_chunks_mut(n * t).zip(scores.par_chunks_mut(n * t));
        outputs.zip(queries.par_chunks(n * d)).for_each(|((labels, scores), queries)| {
            let mut best = vec![TopK::default(); queries.len() / d];
            best.iter_mut().for_each(|best| best.reset(t));
            let (mut wide, mut some, mut all) = (Vec::new(), Vec::new(), Vec::new());
            side_by_side(queries, d, queries_beside, &mut all);
            for first in (0..m).step_by(block) {
                let count = block.min(m - first);
                rows.widen_into(first, count, &mut wide);
                side_by_side(&wide, d, rows_beside, &mut some);
                kernel.take_best([&some, &all], d, (first, &rows.bias()[first..][..count]), &mut best);
            }
            for ((best, labels), scores) in
                best.iter_mut().zip(labels.chunks_mut(t)).zip(scores.chunks_mut(t))
            {
                best.write(labels, scores);
            }
        });
    })
}

/// Lay vectors of `d` coordinates side by side, so many of them: their first coordinates, their second ones, and so on; then the next.
fn side_by_side(vectors: &[f32], d: usize, beside: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize((vectors.len() / d).next_multiple_of(beside) * d, 0.0);
    for (some, out) in vectors.chunks(beside * d).zip(out.chunks_exact_mut(beside * d)) {
        for from in (0..d).step_by(PART) {
            let part = from..d.min(from + PART);
            for (place, vector) in some.chunks_exact(d).enumerate() {
                for (at, value) in part.clone().zip(&vector[part.clone()]) {
                    out[at * beside + place] = *value;
                }
            }
        }
    }
}

/// Offer logits of rows, `ROWS` side by side, the first of them and their biases given, to what is best of each query, `QUERIES` side by
/// side: [`Kernel::take_best`]. `multiply` makes of as many coordinates of both the sums of products, fused, in the order of coordinates.
/// Compiled into its caller, with the caller's features.
#[inline(always)]
pub(crate) fn take_best<const ROWS: usize, const QUERIES: usize>(
    [rows, queries]: [&[f32]; 2],
    d: usize,
    (first, bias): (usize, &[f32]),
    best: &mut [TopK],
    multiply: impl Fn(&[[f32; ROWS]], &[[f32; QUERIES]]) -> [[f32; ROWS]; QUERIES],
) {
    for (queries, best) in queries.chunks_exact(QUERIES * d).zip(best.chunks_mut(QUERIES)) {
        let parts = rows.chunks_exact(ROWS * d).zip(bias.chunks(ROWS));
        for (part, (rows, bias)) in parts.enumerate() {
            let mut sums = multiply(rows.as_chunks().0, queries.as_chunks().0);
            for (best, sums) in best.iter_mut().zip(&mut sums) {
                for (sum, bias) in sums.iter_mut().zip(bias) {
                    *sum += bias;
                }
                best.extend_range(&sums[..bias.len()], (first + part * ROWS) as u32);
            }
        }
    }
}
