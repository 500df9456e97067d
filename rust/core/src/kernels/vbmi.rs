//! As `avx512`, but for columns: VBMI looks bytes up in 64 of them at once. These are four copies of a table of sixteen, so that the
//! lower half of a byte finds its entry whatever the upper half is.

use std::arch::x86_64::*;

use super::avx2::tables;
use super::avx512::{BESIDE, ROWS, dot, dot_bytes_each, multiply, scans, sieve_rows, sketch_each};
use super::{AHEAD_ROWS, AHEAD_ROWS_OF_BYTES, ROWS_OF_BYTES, each_pair, prefetch_range, two_columns};
use crate::columns::{BLOCK, ColumnQuery, ColumnsView, Promised};
use crate::rows::Element;
use crate::sketch::{SketchQuery, SketchView};

/// Proof that this CPU has AVX-512 VBMI, and what the AVX-512 kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vbmi(());

impl Vbmi {
    pub(super) fn detect() -> Option<Self> {
        let has = super::avx512::Avx512::detect().is_some() && is_x86_feature_detected!("avx512vbmi");
        has.then_some(Vbmi(()))
    }
}

verbs!(Vbmi, "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c");

scans!("avx512f,avx512bw,avx512vbmi", |table, codes| _mm512_permutexvar_epi8(codes, table));
