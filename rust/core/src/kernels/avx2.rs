//! 256-bit vectors with FMA and F16C.

use std::any::TypeId;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{AHEAD_ROWS, AHEAD_SKETCHES, LANES, prefetch, prefetch_range};
use crate::rows::Element;
use crate::sketch::{GROUP, SketchQuery, SketchView};

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }
}

verbs!(Avx2, "avx2,fma,f16c");

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<T: Element>(row: &[T], query: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
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
    let [a, b, c, d] = sums;
    tree(_mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn step<T: Element>(sums: &mut [__m256; 4], row: &[T; LANES], query: &[f32; LANES]) {
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: lanes 8i..8i+8 of both arrays of 32 are read; `load8` needs eight elements.
        let (value, q) =
            unsafe { (load8(row.as_ptr().add(8 * i)), _mm256_loadu_ps(query.as_ptr().add(8 * i))) };
        *sum = _mm256_fmadd_ps(value, q, *sum);
    }
}

/// Eight elements in single precision.
///
/// # Safety
/// `from` points to eight readable elements.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load8<T: Element>(from: *const T) -> __m256 {
    // `T` is one of three types, so the comparison is decided at compile time.
    let element = TypeId::of::<T>();
    if element == TypeId::of::<f32>() {
        // SAFETY: eight f32, by the caller's word.
        unsafe { _mm256_loadu_ps(from.cast()) }
    } else if element == TypeId::of::<f16>() {
        // SAFETY: eight f16 are 16 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    } else {
        debug_assert_eq!(element, TypeId::of::<bf16>());
        // SAFETY: eight bf16 are 16 bytes.
        let bits = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }
}

/// Sum eight lanes pairwise: 4, 2, 1 apart.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn tree(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Score the sketch of row `id(i)` for each place `i` of `out`, until there is none.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
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
    let ones = _mm256_set1_epi16(1);
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
        // Sums of 16 bits are exact: a group adds at most 2 * 15 * 127 to each, and a sketch of 128 bytes holds
        // at most 3 groups of 8 bits, 7 of 4, 15 of 2 and 31 of 1.
        // SAFETY: by the assertions above the codes of all groups lie in the first `bytes() - 4` bytes of
        // `sketch`, and `weights` holds 32 a group; each turn of a loop reads one group from both and moves each
        // pointer on by just that.
        unsafe {
            if n8 > 0 {
                // maddubs saturates at 16 bits: multiply nibbles, then put them together exactly.
                let (mut low, mut high) = (zero, zero);
                for _ in 0..n8 {
                    let both = _mm256_loadu_si256(code.cast());
                    let w = _mm256_loadu_si256(weight.cast());
                    low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_and_si256(both, low4), w));
                    let shifted = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low4);
                    high = _mm256_add_epi16(high, _mm256_maddubs_epi16(shifted, w));
                    (code, weight) = (code.add(32), weight.add(GROUP));
                }
                let high = _mm256_slli_epi32::<4>(_mm256_madd_epi16(high, ones));
                let sum = _mm256_add_epi32(_mm256_madd_epi16(low, ones), high);
                lanes = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale8, lanes);
            }
            let mut sum = zero;
            for _ in 0..n4 {
                let packed = _mm256_broadcastsi128_si256(_mm_loadu_si128(code.cast()));
                let values = _mm256_and_si256(_mm256_srlv_epi64(packed, shift4), low4);
                sum = add_group(sum, values, weight);
                (code, weight) = (code.add(16), weight.add(GROUP));
            }
            lanes = fuse(lanes, sum, scale4);
            sum = zero;
            for _ in 0..n2 {
                let packed = _mm256_set1_epi64x(code.cast::<i64>().read_unaligned());
                let values = _mm256_and_si256(_mm256_srlv_epi64(packed, shift2), low2);
                sum = add_group(sum, values, weight);
                (code, weight) = (code.add(8), weight.add(GROUP));
            }
            lanes = fuse(lanes, sum, scale2);
            sum = zero;
            for _ in 0..n1 {
                let packed = _mm256_set1_epi32(code.cast::<i32>().read_unaligned());
                let values = _mm256_and_si256(_mm256_srlv_epi32(packed, shift1), low1);
                sum = add_group(sum, values, weight);
                (code, weight) = (code.add(4), weight.add(GROUP));
            }
            lanes = fuse(lanes, sum, scale1);
        }
        *score = tree(lanes) + layout.base(sketch) + query.offset();
    }
}

/// Add the products of a group of 32 codes of at most 4 bits, two by two.
///
/// # Safety
/// `weight` points to 32 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_group(sum: __m256i, codes: __m256i, weight: *const i8) -> __m256i {
    // SAFETY: by the caller's word.
    let weights = unsafe { _mm256_loadu_si256(weight.cast()) };
    _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, weights))
}

/// Fuse the sums of all groups of a width into the lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fuse(lanes: __m256, sum: __m256i, scale: __m256) -> __m256 {
    let sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, lanes)
}
