//! 512-bit vectors for rows, and dot products of bytes (VNNI) for sketches: lane l of a group of 32 codes is just what
//! one instruction sums.

use std::any::TypeId;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::avx2::tree;
use super::{AHEAD_ROWS, AHEAD_SKETCHES, LANES, prefetch, prefetch_range};
use crate::rows::Element;
use crate::sketch::{GROUP, SketchQuery, SketchView};

/// Proof that this CPU has AVX-512 F, BW, VL and VNNI, and what the AVX2 kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let has = super::avx2::Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Avx512(()))
    }
}

verbs!(Avx512, "avx512f,avx512bw,avx512vl,avx2,fma,f16c");

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn dot<T: Element>(row: &[T], query: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 2];
    let (rows, tail) = row.as_chunks::<LANES>();
    let (queries, _) = query.as_chunks::<LANES>();
    for (row, query) in rows.iter().zip(queries) {
        step(&mut sums, row, query);
    }
    if !tail.is_empty() {
        let mut last = [T::zeroed(); LANES];
        last[..tail.len()].copy_from_slice(tail);
        step(&mut sums, &last, &queries[rows.len()]);
    }
    // 16 apart, then 8 apart, then as eight lanes.
    let both = _mm512_add_ps(sums[0], sums[1]);
    let high =
        _mm512_castpd_ps(_mm512_shuffle_f64x2::<0b0000_1110>(_mm512_castps_pd(both), _mm512_castps_pd(both)));
    tree(_mm256_add_ps(_mm512_castps512_ps256(both), _mm512_castps512_ps256(high)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn step<T: Element>(sums: &mut [__m512; 2], row: &[T; LANES], query: &[f32; LANES]) {
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: lanes 16i..16i+16 of both arrays of 32 are read; `load16` needs sixteen elements.
        let (value, q) =
            unsafe { (load16(row.as_ptr().add(16 * i)), _mm512_loadu_ps(query.as_ptr().add(16 * i))) };
        *sum = _mm512_fmadd_ps(value, q, *sum);
    }
}

/// Sixteen elements in single precision.
///
/// # Safety
/// `from` points to sixteen readable elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
unsafe fn load16<T: Element>(from: *const T) -> __m512 {
    // `T` is one of three types, so the comparison is decided at compile time.
    let element = TypeId::of::<T>();
    if element == TypeId::of::<f32>() {
        // SAFETY: sixteen f32, by the caller's word.
        unsafe { _mm512_loadu_ps(from.cast()) }
    } else if element == TypeId::of::<f16>() {
        // SAFETY: sixteen f16 are 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    } else {
        debug_assert_eq!(element, TypeId::of::<bf16>());
        // SAFETY: sixteen bf16 are 32 bytes.
        let bits = unsafe { _mm256_loadu_si256(from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}

/// Score the sketch of row `id(i)` for each place `i` of `out`, until there is none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn sketch_each(
    sketches: SketchView<'_>,
    query: &SketchQuery,
    id: impl Fn(usize) -> Option<u32>,
    out: &mut [f32],
) {
    let layout = sketches.layout;
    let [n8, n4, n2, n1] = layout.counts();
    let weights = query.weights();
    let [scale8, scale4, scale2, scale1] = query.scales().map(|scale| _mm256_set1_ps(scale));
    // What the unsafe loads below rely on, checked once a call.
    let groups = n8 + n4 + n2 + n1;
    assert_eq!(weights.len(), groups * GROUP);
    assert!(4 * (8 * n8 + 4 * n4 + 2 * n2 + n1) + 4 <= layout.bytes());

    let zero = _mm256_setzero_si256();
    let low4 = _mm256_set1_epi8(0x0f);
    let low2 = _mm256_set1_epi8(0x03);
    let low1 = _mm256_set1_epi8(0x01);
    let shift4 = _mm256_setr_epi64x(0, 0, 4, 4);
    let shift2 = _mm256_setr_epi64x(0, 2, 4, 6);
    let shift1 = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let stride = layout.bytes();
    let codes = sketches.codes;
    for (i, score) in out.iter_mut().enumerate() {
        if let Some(next) = id(i + AHEAD_SKETCHES) {
            prefetch(codes, next as usize * stride);
            if stride > 64 {
                prefetch(codes, next as usize * stride + 64);
            }
        }
        let Some(this) = id(i) else { break };
        let sketch = sketches.get(this);
        let mut lanes = _mm256_setzero_ps();
        let mut code = sketch.as_ptr();
        let mut weight = weights.as_ptr();
        // SAFETY: by the assertions above the codes of all groups lie in the first `bytes() - 4` bytes of
        // `sketch`, and `weights` holds 32 a group; each turn of a loop reads one group from both and moves each
        // pointer on by just that.
        unsafe {
            let mut sum = zero;
            for _ in 0..n8 {
                sum = add_group(sum, _mm256_loadu_si256(code.cast()), weight);
                (code, weight) = (code.add(32), weight.add(GROUP));
            }
            lanes = fuse(lanes, sum, scale8);
            sum = zero;
            for _ in 0..n4 {
                let packed = _mm256_broadcastsi128_si256(_mm_loadu_si128(code.cast()));
                sum = add_group(sum, _mm256_and_si256(_mm256_srlv_epi64(packed, shift4), low4), weight);
                (code, weight) = (code.add(16), weight.add(GROUP));
            }
            lanes = fuse(lanes, sum, scale4);
            sum = zero;
            for _ in 0..n2 {
                let packed = _mm256_set1_epi64x(code.cast::<i64>().read_unaligned());
                sum = add_group(sum, _mm256_and_si256(_mm256_srlv_epi64(packed, shift2), low2), weight);
                (code, weight) = (code.add(8), weight.add(GROUP));
            }
            lanes = fuse(lanes, sum, scale2);
            sum = zero;
            for _ in 0..n1 {
                let packed = _mm256_set1_epi32(code.cast::<i32>().read_unaligned());
                sum = add_group(sum, _mm256_and_si256(_mm256_srlv_epi32(packed, shift1), low1), weight);
                (code, weight) = (code.add(4), weight.add(GROUP));
            }
            lanes = fuse(lanes, sum, scale1);
        }
        *score = tree(lanes) + layout.base(sketch) + query.offset();
    }
}

/// Add the products of a group of 32 codes, four by four.
///
/// # Safety
/// `weight` points to 32 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2")]
unsafe fn add_group(sum: __m256i, codes: __m256i, weight: *const i8) -> __m256i {
    // SAFETY: by the caller's word.
    let weights = unsafe { _mm256_loadu_si256(weight.cast()) };
    _mm256_dpbusd_epi32(sum, codes, weights)
}

/// Fuse the sums of all groups of a width into the lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fuse(lanes: __m256, sum: __m256i, scale: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, lanes)
}
