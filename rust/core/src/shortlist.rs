//! Shortlists: the rows of which their columns promise most, of all rows for a scan, or of the labels of a region's list.
//!
//! Several queries can go through the rows in turns, a few blocks at a time, so that these come from memory once for all
//! (but for the few that say beforehand what is worth keeping).

use crate::columns::{BLOCK, ColumnQuery, Columns, ColumnsView, Promised};
use crate::kernels::{Kernel, prefetch};
use crate::regions::Region;
use crate::topk::{Few, TopK};

/// Blocks scored at a time: they and their scores stay in the first-level cache.
const BLOCKS: usize = 4;

const NOTHING: [Promised; BLOCKS] = [Promised::NOTHING; BLOCKS];

/// One block of columns of so many is asked beforehand what scores are worth keeping.
const SAMPLED: usize = 16;

/// Blocks of a list that are asked beforehand, at least.
const GATHERED: usize = 8;

/// Columns of a block that is asked beforehand that come from memory together.
const BEGUN: usize = 4;

/// A score that at least so many of these reach is known well enough.
const LEAST_RANK: usize = 8;

/// What one query has listed.
#[derive(Default)]
pub struct Shortlist {
    tables: ColumnQuery,
    sampled: Vec<f32>,
    others: Vec<usize>,
    few: Few,
    best: TopK,
    ids: Vec<u32>,
    scores: Vec<f32>,
}

/// List for each query, prepared before, the `n` of `m` rows of which their columns promise most.
pub fn list_best(kernel: Kernel, columns: &Columns, m: usize, n: usize, each: &mut [Shortlist]) {
    let view = columns.view();
    for one in &mut *each {
        let floor = one.sampled(kernel, view, m, n);
        one.best.reset(n);
        one.best.raise(floor);
    }
    offer(kernel, view, m, each);
    for one in each {
        if !one.best.full() {
            // The sample was of better rows than others are.
            one.best.reset(n);
            offer(kernel, view, m, std::slice::from_mut(one));
        }
        one.best.unordered(&mut one.ids, &mut one.scores);
    }
}

/// Offer all of `m` rows by what their columns promise, to each query in its turn.
fn offer(kernel: Kernel, view: ColumnsView<'_>, m: usize, each: &mut [Shortlist]) {
    let mut promised = NOTHING;
    each_group(
        m.div_ceil(BLOCK),
        |i| i,
        |blocks| {
            for Shortlist { tables, best, .. } in &mut *each {
                // Of equal scores the lowest id is best, and may come last.
                let floor = best.floor().next_down();
                each_above(kernel, view, tables, blocks, m, floor, &mut promised, |score, id| {
                    best.push(score, id)
                });
            }
        },
    );
}

impl Shortlist {
    /// Take a query with coordinates `z`.
    pub fn prepare(&mut self, kernel: Kernel, columns: &Columns, z: &[f32]) {
        kernel.prepare_columns(&mut self.tables, columns, z);
    }

    /// Take over what another has listed.
    pub fn copy(&mut self, other: &Shortlist) {
        self.ids.clone_from(&other.ids);
    }

    /// What was listed last.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What the columns of these promise, but for what is the same for all.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// List those of the labels `from..m`, too, whose columns promise more than `floor`. Where that makes more than four times
    /// `n`, the best `n` of all are listed instead, and a score is returned that no other is above.
    pub fn gather_on(
        &mut self,
        kernel: Kernel,
        region: &Region,
        [from, m]: [usize; 2],
        floor: f32,
        n: usize,
    ) -> Option<f32> {
        let Region { columns, labels, .. } = region;
        self.others.clear();
        self.others.extend(from / BLOCK..m.div_ceil(BLOCK));
        self.gather_others(kernel, columns.view(), labels, [from, m], floor);
        (self.ids.len() > 4 * n).then(|| self.gather_best(kernel, columns, m, n))
    }

    /// List the best `n` of the first `m` labels of a region, by their places there, where there are more, and some are asked for. Of
    /// many blocks it may be half as many: those above a score that a few more of some blocks reach. Returns a score that no
    /// other is above.
    pub fn gather(&mut self, kernel: Kernel, region: &Region, z: &[f32], m: usize, n: usize) -> f32 {
        let Region { columns, labels, .. } = region;
        self.prepare(kernel, columns, z);
        let view = columns.view();
        let blocks = m.div_ceil(BLOCK);
        let apart = (blocks / GATHERED).clamp(1, SAMPLED);
        let first = apart / 2;
        self.sample(kernel, view, m, first, apart);
        let Shortlist { sampled, others, few, ids, scores, .. } = self;
        if apart == 1 {
            // All have been asked.
            ids.clear();
            ids.extend(0..m as u32);
            std::mem::swap(sampled, scores);
            return few.leave(kernel, n, scores, ids);
        }
        // Blocks in the middle promise less than the first ones: few queries list fewer than `n`.
        let rank = (n * sampled.len() / m).max(LEAST_RANK).min(sampled.len() - 1);
        let floor = few.floor(kernel, rank, sampled);
        ids.clear();
        scores.clear();
        for &at in few.above(sampled, floor) {
            let place = (first + at / BLOCK * apart) * BLOCK + at % BLOCK;
            prefetch(labels, place);
            ids.push(place as u32);
            scores.push(sampled[at]);
        }
        others.clear();
        for from in (0..blocks).step_by(apart) {
            others.extend((from..blocks.min(from + apart)).filter(|&block| block != from + first));
        }
        self.gather_others(kernel, view, labels, [0, m], floor);
        if self.ids.len() < n / 2 {
            return self.gather_best(kernel, columns, m, n);
        }
        if self.ids.len() <= n {
            return floor;
        }
        self.few.leave(kernel, n, &mut self.scores, &mut self.ids)
    }

    /// List those of the labels `first..m` of the other blocks, too, whose columns promise more than a floor.
    fn gather_others(
        &mut self,
        kernel: Kernel,
        view: ColumnsView<'_>,
        labels: &[u32],
        [first, m]: [usize; 2],
        floor: f32,
    ) {
        let Shortlist { tables, others, scores, ids, .. } = self;
        let mut promised = NOTHING;
        each_group(
            others.len(),
            |i| others[i],
            |blocks| {
                each_above(kernel, view, tables, blocks, m, floor, &mut promised, |score, at| {
                    if at as usize >= first && score > floor {
                        prefetch(labels, at as usize);
                        ids.push(at);
                        scores.push(score);
                    }
                });
            },
        );
    }

    /// List the best `n` of the first `m` labels; returns a score that no other is above.
    fn gather_best(&mut self, kernel: Kernel, columns: &Columns, m: usize, n: usize) -> f32 {
        list_best(kernel, columns, m, n, std::slice::from_mut(self));
        self.least()
    }

    /// The least of the scores listed.
    fn least(&self) -> f32 {
        self.scores.iter().copied().fold(f32::INFINITY, f32::min)
    }

    /// Find a score that a few more than `n` of `m` rows are likely to reach, by some blocks; -inf if these are few.
    fn sampled(&mut self, kernel: Kernel, view: ColumnsView<'_>, m: usize, n: usize) -> f32 {
        self.sample(kernel, view, m, 0, SAMPLED);
        // Blocks differ: a quarter more, and what chance does to a few.
        let rank = n / SAMPLED + n / (4 * SAMPLED) + 32;
        if rank >= self.sampled.len() {
            return f32::NEG_INFINITY;
        }
        self.few.nth(kernel, rank, &self.sampled)
    }

    /// Ask some blocks of `m` rows, so many `apart`, for their scores.
    fn sample(&mut self, kernel: Kernel, view: ColumnsView<'_>, m: usize, first: usize, apart: usize) {
        self.sampled.clear();
        let mut promised = NOTHING;
        let n = (m.div_ceil(BLOCK) - first).div_ceil(apart);
        // What processors read ahead by themselves does not reach the next.
        let begin = |i: usize| (0..BEGUN).for_each(|at| prefetch(view.block(first + i * apart).0, at));
        (0..n.min(BLOCKS)).for_each(begin);
        for from in (0..n).step_by(BLOCKS) {
            let to = n.min(from + BLOCKS);
            (to..n.min(to + BLOCKS)).for_each(begin);
            let some: [usize; BLOCKS] = std::array::from_fn(|i| first + (from + i) * apart);
            let (some, promised) = (&some[..to - from], &mut promised[..to - from]);
            kernel.scan_blocks(view, &self.tables, some, f32::NAN, promised);
            for (block, promised) in some.iter().zip(promised) {
                self.sampled.extend_from_slice(&promised.scores[..BLOCK.min(m - block * BLOCK)]);
            }
        }
    }
}

/// Tell `scan` of `n` blocks, [`BLOCKS`] at a time, of both halves in turns: the next of each come from memory meanwhile.
#[inline(always)]
fn each_group(n: usize, block: impl Fn(usize) -> usize, mut scan: impl FnMut(&[usize])) {
    let half = n / 2;
    let place = |i: usize| if i < 2 * half { i % 2 * half + i / 2 } else { i };
    for from in (0..n).step_by(BLOCKS) {
        let mut some = [0; BLOCKS];
        let some = &mut some[..BLOCKS.min(n - from)];
        some.iter_mut().zip(from..).for_each(|(some, i)| *some = block(place(i)));
        scan(some);
    }
}

/// Tell `met` of the rows of these blocks, of the first `m`, but for those whose columns promise no more than a floor.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "what a scan is of, spelled out once")]
fn each_above(
    kernel: Kernel,
    view: ColumnsView<'_>,
    query: &ColumnQuery,
    blocks: &[usize],
    m: usize,
    floor: f32,
    promised: &mut [Promised; BLOCKS],
    mut met: impl FnMut(f32, u32),
) {
    let promised = &mut promised[..blocks.len()];
    kernel.scan_blocks(view, query, blocks, floor, promised);
    for (block, promised) in blocks.iter().zip(promised) {
        let first = block * BLOCK;
        let mut above = promised.above & (u64::MAX >> (BLOCK - BLOCK.min(m - first)));
        while above != 0 {
            let row = above.trailing_zeros();
            met(promised.scores[row as usize], first as u32 + row);
            above &= above - 1;
        }
    }
}
