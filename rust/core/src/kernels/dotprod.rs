//! NEON, and dot products of bytes for the query's map and for sketches: a lane of a group of 32 codes is just what one instruction sums.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{BESIDE, ROWS, dot, dot_bytes_with, multiply, scan_blocks, sketch_each_with};
use super::{AHEAD_ROWS, AHEAD_ROWS_OF_BYTES, ROWS_OF_BYTES, prefetch_range};
use crate::certain::sieve as sieve_rows;
use crate::columns::{ColumnQuery, ColumnsView, Promised, tables};
use crate::rows::Element;
use crate::sketch::{SketchQuery, SketchView};

/// Proof that this CPU has NEON and its dot products of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dotprod(());

impl Dotprod {
    pub(super) fn detect() -> Option<Self> {
        let has = super::neon::Neon::detect().is_some() && std::arch::is_aarch64_feature_detected!("dotprod");
        has.then_some(Dotprod(()))
    }
}

verbs!(Dotprod, "neon,dotprod");

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_bytes_each<'a>(
    fours: usize,
    rows: impl Fn(usize) -> [&'a [i8]; ROWS_OF_BYTES],
    query: &[i8],
    put: impl FnMut(usize, [f32; ROWS_OF_BYTES]),
) {
    dot_bytes_with(fours, rows, query, put, |sum, row, query| add(sum, row, query));
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sketch_each(
    sketches: SketchView<'_>,
    query: &SketchQuery,
    id: impl Fn(usize) -> Option<u32>,
    out: &mut [f32],
) {
    sketch_each_with(sketches, query, id, out, |sum, codes, weights| add(sum, codes, weights));
}

/// Add the products of 16 bytes, four by four. Assembly, because the intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add(mut sum: int32x4_t, codes: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone, and the caller has the feature.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {weights:v}.16b",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
