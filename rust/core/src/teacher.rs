//! The teacher: top-t of the full layer for many queries, by a blocked product with the selection fused in.
//! No more than a block of logits exists at any time.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::gemm::{View, product};
use crate::rows::{Rows, Weights};
use crate::threads;
use crate::topk::TopK;

/// Queries and rows of a block: its logits (1 MiB) stay in the second-level cache.
const QUERIES: usize = 128;
const ROWS: usize = 2048;

/// For each of the queries (n x d) the `t` labels with the largest logits, best first, and those logits (as the
/// product gave them: the last bits may differ from a search's). Outputs are n x t.
pub fn top(rows: &Rows, queries: &[f32], t: usize, labels: &mut [i64], scores: &mut [f32]) -> Result<()> {
    let (m, d) = (rows.m(), rows.d());
    if t == 0 {
        return Err(Error::value("t", "at least 1", t));
    }
    threads::install(0, || {
        let blocks = labels.par_chunks_mut(QUERIES * t).zip(scores.par_chunks_mut(QUERIES * t));
        blocks.zip(queries.par_chunks(QUERIES * d)).for_each(|((labels, scores), queries)| {
            let n = queries.len() / d;
            let mut best = vec![TopK::default(); n];
            best.iter_mut().for_each(|best| best.reset(t));
            let mut wide = Vec::new();
            let mut logits = vec![0.0f32; n * ROWS];
            for first in (0..m).step_by(ROWS) {
                let count = ROWS.min(m - first);
                let values = match rows.weights() {
                    Weights::F32(block) => &block[first * d..(first + count) * d],
                    _ => {
                        rows.widen_into(first, count, &mut wide);
                        &wide[..]
                    }
                };
                let logits = &mut logits[..n * count];
                product(
                    View { values: queries, rows: n, cols: d, stride: d },
                    View { values, rows: count, cols: d, stride: d },
                    logits,
                );
                let bias = &rows.bias()[first..first + count];
                for (logits, best) in logits.chunks_exact_mut(count).zip(&mut best) {
                    for (logit, bias) in logits.iter_mut().zip(bias) {
                        *logit += bias;
                    }
                    best.extend_range(logits, first as u32);
                }
            }
            for ((best, labels), scores) in
                best.iter_mut().zip(labels.chunks_mut(t)).zip(scores.chunks_mut(t))
            {
                best.write(labels, scores);
            }
        });
    })
}
