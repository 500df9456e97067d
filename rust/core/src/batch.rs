//! Batches: queries are projected one after the other, so that their map stays in the caches, and searched in the order
//! of their regions or first buckets, so that what a query has read is there for the next.

use crate::coordinates::Projection;
use crate::error::Error;
use crate::index::{Answers, How};
use crate::search::{Scratch, Searcher};

/// Queries that are projected and ordered before any is searched, at most: their coordinates take a megabyte or two.
pub const TOGETHER: usize = 1024;

/// What a batch writes to beside its answers and a search's scratch. Reused.
#[derive(Default)]
pub struct Workspace {
    z: Vec<f32>,
    order: Vec<(u32, u32)>,
}

/// Answer up to [`TOGETHER`] queries (n x d), k labels each, on the calling thread; returns the place of the
/// first query without an answer, and why it has none.
pub fn search(
    searcher: Searcher<'_>,
    scratch: &mut Scratch,
    queries: &[f32],
    k: usize,
    how: How,
    out: Answers<'_>,
) -> Option<(usize, Error)> {
    let mut workspace = std::mem::take(&mut scratch.workspace);
    let Workspace { z, order } = &mut workspace;
    let (d, Answers { labels, scores, work }) = (searcher.rows.d(), out);
    let p = searcher.fitted.coordinates.as_ref().map_or(0, Projection::rows);
    z.clear();
    z.resize(work.len() * p, 0.0);
    if let Some(map) = &searcher.fitted.coordinates {
        for (query, z) in queries.chunks_exact(d).zip(z.chunks_exact_mut(p)) {
            map.apply(searcher.kernel, query, &mut scratch.rounded, z);
        }
    }
    let of = |at: u32| (&queries[at as usize * d..][..d], &z[at as usize * p..][..p]);
    order.clear();
    for at in 0..work.len() as u32 {
        scratch.load_projected(of(at).0, of(at).1);
        order.push((searcher.first_place(scratch, how.effort), at));
    }
    order.sort_unstable();
    let mut failed: Option<(usize, Error)> = None;
    for &(_, at) in &*order {
        scratch.load_projected(of(at).0, of(at).1);
        let at = at as usize;
        let (labels, scores) = (&mut labels[at * k..][..k], &mut scores[at * k..][..k]);
        match searcher.search(scratch, how.on_short, how.effort, labels, scores) {
            Ok(done) => work[at] = done,
            Err(error) if failed.as_ref().is_none_or(|&(first, _)| at < first) => failed = Some((at, error)),
            Err(_) => {}
        }
    }
    scratch.workspace = workspace;
    failed
}
