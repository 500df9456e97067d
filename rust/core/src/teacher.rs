//! The teacher: top-t of the full layer for many queries, by their product with all rows ([`crate::product`]).

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::product::{self, Product};
use crate::rows::Rows;
use crate::threads;
use crate::topk::TopK;

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
    let d = rows.d();
    if t == 0 {
        return Err(Error::value("t", "at least 1", t));
    }
    let n = product::together(kernel, d, (queries.len() / d).div_ceil(threads::get_num_threads()));
    threads::install(0, || {
        let outputs = labels.par_chunks_mut(n * t).zip(scores.par_chunks_mut(n * t));
        let groups = outputs.zip(queries.par_chunks(n * d));
        groups.for_each_init(
            <(Product, Vec<TopK>)>::default,
            |(product, best), ((labels, scores), queries)| {
                best.resize_with(queries.len() / d, TopK::default);
                best.iter_mut().for_each(|best| best.reset(t));
                product.take_best(rows, kernel, queries, best);
                for ((best, labels), scores) in
                    best.iter_mut().zip(labels.chunks_mut(t)).zip(scores.chunks_mut(t))
                {
                    best.write(labels, scores);
                }
            },
        );
    })
}
