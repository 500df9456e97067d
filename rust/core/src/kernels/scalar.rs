//! The portable kernel: the definition that the others must match.
//!
//! The same source is compiled a second time with FMA, because `mul_add` without it is a library call.

use super::{AHEAD_ROWS, LANES, each_step, prefetch_range};
use crate::byte_rows::SomeRows;
use crate::certain::{self, Room, Sought};
use crate::columns::{BLOCK, ColumnQuery, Columns, ColumnsView, Promised, place, tables};
use crate::coordinates::{Projection, Rounded};
use crate::regions::{Centers, Nearest, Place};
use crate::rows::Element;
use crate::sketch::{GROUP, Layout, SketchQuery, SketchView, WIDTHS, unpack};
use crate::topk::TopK;

/// Portable code, with FMA where the CPU has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalar {
    fma: bool,
}

/// Call `$name` compiled with FMA if this CPU has it.
macro_rules! with_fma {
    ($self:expr, $name:ident ( $($arg:ident : $type:ty),* ) where $($generic:ident)?) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "fma")]
            fn compiled_with_fma $(<$generic: Element>)? ($($arg: $type),*) {
                $name($($arg),*)
            }
            if $self.fma {
                // SAFETY: `fma` is set only where the CPU reported the feature.
                unsafe { compiled_with_fma($($arg),*) }
                return;
            }
        }
        $name($($arg),*)
    }};
}

impl Scalar {
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Scalar { fma: is_x86_feature_detected!("fma") };
        #[cfg(not(target_arch = "x86_64"))]
        Scalar { fma: false }
    }

    pub(super) fn dot_ids<T: Element>(
        self,
        rows: &[T],
        d: usize,
        query: &[f32],
        ids: &[u32],
        out: &mut [f32],
    ) {
        with_fma!(self, dot_ids(rows: &[T], d: usize, query: &[f32], ids: &[u32], out: &mut [f32]) where T)
    }

    pub(super) fn dot_rows<T: Element>(self, rows: &[T], d: usize, query: &[f32], out: &mut [f32]) {
        with_fma!(self, dot_rows(rows: &[T], d: usize, query: &[f32], out: &mut [f32]) where T)
    }

    pub(super) fn dot_bytes(self, rows: &[i8], d: usize, query: &[i8], out: &mut [f32]) {
        for (row, score) in rows.chunks_exact(d).zip(out) {
            let products = row.iter().zip(query).map(|(&a, &b)| i32::from(a) * i32::from(b));
            *score = products.sum::<i32>() as f32;
        }
    }

    pub(super) fn dot_bytes_ids(self, rows: &[i8], d: usize, query: &[i8], ids: &[u32], out: &mut [f32]) {
        for (&id, score) in ids.iter().zip(out.chunks_mut(1)) {
            self.dot_bytes(&rows[id as usize * d..][..d], d, query, score);
        }
    }

    pub(super) fn sketch_ids(
        self,
        sketches: SketchView<'_>,
        query: &SketchQuery,
        ids: &[u32],
        out: &mut [f32],
    ) {
        with_fma!(self, sketch_ids(sketches: SketchView<'_>, query: &SketchQuery, ids: &[u32], out: &mut [f32]) where)
    }

    pub(super) fn sketch_rows(
        self,
        sketches: SketchView<'_>,
        query: &SketchQuery,
        first: usize,
        out: &mut [f32],
    ) {
        with_fma!(self, sketch_rows(sketches: SketchView<'_>, query: &SketchQuery, first: usize, out: &mut [f32]) where)
    }

    pub(super) fn prepare_columns(self, query: &mut ColumnQuery, columns: &Columns, z: &[f32]) {
        query.prepare(columns, z, tables);
    }

    pub(super) fn tile(self) -> [usize; 2] {
        [ROWS, BESIDE]
    }

    pub(super) fn take_best(
        self,
        rows_and_queries: [&[f32]; 2],
        d: usize,
        of_rows: (usize, &[f32]),
        best: &mut [TopK],
    ) {
        with_fma!(self, take_best(rows_and_queries: [&[f32]; 2], d: usize, of_rows: (usize, &[f32]), best: &mut [TopK]) where)
    }

    pub(super) fn sieve(self, some: SomeRows<'_>, sought: &mut [Sought], room: &mut Room) {
        certain::sieve(some, sought, room, |rows, d, query, out| self.dot_bytes(rows, d, query, out));
    }

    pub(super) fn nth(self, scores: &[f32], rank: usize, keys: &mut Vec<i32>) -> f32 {
        crate::topk::nth(scores, rank, keys)
    }

    pub(super) fn order(self, scores: &mut [f32], ids: &mut [u32], keys: &mut Vec<u64>) {
        crate::topk::order(scores, ids, keys);
    }

    pub(super) fn round(self, map: &Projection, query: &[f32], rounded: &mut Rounded) {
        map.round_plainly(query, rounded);
    }

    pub(super) fn nearest(self, centers: &Centers, z: &[f32], place: &mut Place) -> Nearest {
        centers.nearest_plainly(z, place, |rows, d, query, out| self.dot_bytes(rows, d, query, out))
    }

    pub(super) fn scan_blocks(
        self,
        columns: ColumnsView<'_>,
        query: &ColumnQuery,
        blocks: &[usize],
        floor: f32,
        out: &mut [Promised],
    ) {
        with_fma!(self, scan_blocks(columns: ColumnsView<'_>, query: &ColumnQuery, blocks: &[usize], floor: f32, out: &mut [Promised]) where)
    }
}

/// Rows that are multiplied at a time, and queries that lie side by side.
const ROWS: usize = 2;
const BESIDE: usize = 8;

#[inline(always)]
fn take_best(rows_and_queries: [&[f32]; 2], d: usize, of_rows: (usize, &[f32]), best: &mut [TopK]) {
    crate::product::take_best(rows_and_queries, d, of_rows, best, multiply::<2>, multiply::<1>);
}

#[inline(always)]
fn multiply<const GROUPS: usize>(
    rows: [&[f32]; ROWS],
    queries: [&[[f32; BESIDE]]; GROUPS],
) -> [[[f32; BESIDE]; GROUPS]; ROWS] {
    let mut sums = [[[0.0f32; BESIDE]; GROUPS]; ROWS];
    for (sums, row) in sums.iter_mut().zip(rows) {
        for (sums, queries) in sums.iter_mut().zip(queries) {
            for (value, query) in row.iter().zip(queries) {
                for (sum, query) in sums.iter_mut().zip(query) {
                    *sum = query.mul_add(*value, *sum);
                }
            }
        }
    }
    sums
}

#[inline(always)]
fn dot_ids<T: Element>(rows: &[T], d: usize, query: &[f32], ids: &[u32], out: &mut [f32]) {
    for (i, (&id, score)) in ids.iter().zip(out).enumerate() {
        if let Some(&next) = ids.get(i + AHEAD_ROWS) {
            prefetch_range(rows, next as usize * d, d);
        }
        *score = dot(&rows[id as usize * d..][..d], query);
    }
}

#[inline(always)]
fn dot_rows<T: Element>(rows: &[T], d: usize, query: &[f32], out: &mut [f32]) {
    for (row, score) in rows.chunks_exact(d).zip(out) {
        *score = dot(row, query);
    }
}

#[inline(always)]
fn dot<T: Element>(row: &[T], query: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    each_step(row, query, |row, query| step(&mut sums, row, query));
    tree(&mut sums)
}

#[inline(always)]
fn step<T: Element>(sums: &mut [f32; LANES], row: &[T; LANES], query: &[f32; LANES]) {
    for ((sum, value), q) in sums.iter_mut().zip(row).zip(query) {
        *sum = value.widen().mul_add(*q, *sum);
    }
}

/// Sum pairwise, halves onto each other.
#[inline(always)]
fn tree(sums: &mut [f32]) -> f32 {
    let mut half = sums.len() / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

#[inline(always)]
fn sketch_ids(sketches: SketchView<'_>, query: &SketchQuery, ids: &[u32], out: &mut [f32]) {
    for (&id, score) in ids.iter().zip(out) {
        *score = sketch(sketches.layout, sketches.get(id), query);
    }
}

#[inline(always)]
fn sketch_rows(sketches: SketchView<'_>, query: &SketchQuery, first: usize, out: &mut [f32]) {
    for (row, score) in (first..).zip(out) {
        *score = sketch(sketches.layout, sketches.get(row as u32), query);
    }
}

#[inline(always)]
fn scan_blocks(
    columns: ColumnsView<'_>,
    query: &ColumnQuery,
    blocks: &[usize],
    floor: f32,
    out: &mut [Promised],
) {
    for (&block, out) in blocks.iter().zip(out) {
        let (codes, bases) = columns.block(block);
        let mut sums = [0u16; BLOCK];
        let half = |code: u8, half: usize| usize::from(code >> (4 * half) & 0x0f);
        for (codes, [lower, upper]) in codes.iter().zip(query.tables().as_flattened()) {
            for (sum, &code) in sums.iter_mut().zip(codes) {
                *sum += u16::from(lower[half(code, 0)] + upper[half(code, 1)]);
            }
        }
        for &(at, table) in query.wide() {
            for (sum, &code) in sums.iter_mut().zip(&codes[at / 2]) {
                *sum += u16::from(table[half(code, at % 2)]) << 6;
            }
        }
        out.above = 0;
        for (row, (score, &base)) in out.scores.iter_mut().zip(bases).enumerate() {
            *score = f32::from(sums[place(row)]).mul_add(query.scale(), base);
            let below = *score <= floor;
            out.above |= u64::from(!below) << row;
        }
    }
}

#[inline(always)]
fn sketch(layout: &Layout, sketch: &[u8], query: &SketchQuery) -> f32 {
    let (mut codes, mut weights) = (sketch, query.weights());
    let mut lanes = [0.0f32; 8];
    for ((&groups, width), &scale) in layout.counts().iter().zip(WIDTHS).zip(query.scales()) {
        let mut sums = [0i32; 8];
        for _ in 0..groups {
            let group;
            (group, codes) = codes.split_at(width * GROUP / 8);
            let mine;
            (mine, weights) = weights.split_at(GROUP);
            match width {
                8 => add_group::<8>(&mut sums, group, mine),
                4 => add_group::<4>(&mut sums, group, mine),
                2 => add_group::<2>(&mut sums, group, mine),
                _ => add_group::<1>(&mut sums, group, mine),
            }
        }
        for (lane, sum) in lanes.iter_mut().zip(sums) {
            *lane = (sum as f32).mul_add(scale, *lane);
        }
    }
    tree(&mut lanes) + layout.base(sketch) + query.offset()
}

/// The width is a constant, so that the compiler can unroll and vectorise.
#[inline(always)]
fn add_group<const WIDTH: usize>(sums: &mut [i32; 8], packed: &[u8], weights: &[i8]) {
    let codes: [u8; GROUP] = unpack::<WIDTH>(packed);
    for (sum, (codes, weights)) in sums.iter_mut().zip(codes.chunks_exact(4).zip(weights.chunks_exact(4))) {
        for (&code, &weight) in codes.iter().zip(weights) {
            *sum += i32::from(code) * i32::from(weight);
        }
    }
}
