//! 128-bit vectors, which every aarch64 has.

use std::any::TypeId;
use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::{
    AHEAD_ROWS, AHEAD_ROWS_OF_BYTES, AHEAD_SKETCHES, LANES, ROWS_OF_BYTES, each_four, each_pair, each_step,
    prefetch, prefetch_range, two_columns,
};
use crate::certain::sieve as sieve_rows;
use crate::columns::{BLOCK, ColumnQuery, ColumnsView, Promised, tables};
use crate::rows::Element;
use crate::sketch::{GROUP, SketchQuery, SketchView};

/// Proof that this CPU has NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

/// Rows that [`multiply`] takes at a time, with two vectors of queries, so many side by side: their sums fit the registers.
pub(super) const ROWS: usize = 8;
pub(super) const BESIDE: usize = 4;

verbs!(Neon, "neon");

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn dot<T: Element>(row: &[T], query: &[f32]) -> f32 {
    let mut sums = [vdupq_n_f32(0.0); 8];
    each_step(row, query, |row, query| step(&mut sums, row, query));
    total(sums)
}

/// Sum 32 lanes pairwise: 16 apart, then 8 apart, then as eight lanes.
#[inline]
#[target_feature(enable = "neon")]
fn total([a, b, c, d, e, f, g, h]: [float32x4_t; 8]) -> f32 {
    let (a, b, c, d) = (vaddq_f32(a, e), vaddq_f32(b, f), vaddq_f32(c, g), vaddq_f32(d, h));
    tree([vaddq_f32(a, c), vaddq_f32(b, d)])
}

#[inline]
#[target_feature(enable = "neon")]
fn step<T: Element>(sums: &mut [float32x4_t; 8], row: &[T; LANES], query: &[f32; LANES]) {
    let (sums, _) = sums.as_chunks_mut::<2>();
    for (i, [low, high]) in sums.iter_mut().enumerate() {
        // SAFETY: lanes 8i..8i+8 of both arrays of 32 are read; `load8` needs eight elements.
        let ([a, b], p, q) = unsafe {
            let query = query.as_ptr().add(8 * i);
            (load8(row.as_ptr().add(8 * i)), vld1q_f32(query), vld1q_f32(query.add(4)))
        };
        *low = vfmaq_f32(*low, a, p);
        *high = vfmaq_f32(*high, b, q);
    }
}

/// Eight elements in single precision.
///
/// # Safety
/// `from` points to eight readable elements.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load8<T: Element>(from: *const T) -> [float32x4_t; 2] {
    // `T` is one of three types, so the comparison is decided at compile time.
    let element = TypeId::of::<T>();
    if element == TypeId::of::<f32>() {
        // SAFETY: eight f32, by the caller's word.
        unsafe { [vld1q_f32(from.cast()), vld1q_f32(from.cast::<f32>().add(4))] }
    } else if element == TypeId::of::<f16>() {
        // SAFETY: eight f16 are 16 bytes.
        widen(unsafe { vld1q_u16(from.cast()) })
    } else {
        debug_assert_eq!(element, TypeId::of::<bf16>());
        // SAFETY: eight bf16 are 16 bytes.
        let bits = unsafe { vld1q_u16(from.cast()) };
        let (low, high) = (vshll_n_u16::<16>(vget_low_u16(bits)), vshll_high_n_u16::<16>(bits));
        [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)]
    }
}

/// Eight halves in single precision. Assembly, because the intrinsics are younger than the oldest Rust supported.
#[inline]
#[target_feature(enable = "neon")]
fn widen(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high);
    // SAFETY: registers alone, and both instructions are part of NEON.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// Sum eight lanes pairwise: 4, 2, 1 apart.
#[inline]
#[target_feature(enable = "neon")]
fn tree([low, high]: [float32x4_t; 2]) -> f32 {
    let four = vaddq_f32(low, high);
    vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
}

#[inline]
#[target_feature(enable = "neon")]
fn dot_bytes_each<'a>(
    fours: usize,
    rows: impl Fn(usize) -> [&'a [i8]; ROWS_OF_BYTES],
    query: &[i8],
    put: impl FnMut(usize, [f32; ROWS_OF_BYTES]),
) {
    dot_bytes_with(fours, rows, query, put, |sum, row, query| add(sum, row, query));
}

/// Multiply rows of bytes by a query. `add` adds to four lanes the products of 16 bytes, four by four.
///
/// Compiled into its caller, with the caller's features.
#[inline(always)]
pub(super) fn dot_bytes_with<'a>(
    fours: usize,
    rows: impl Fn(usize) -> [&'a [i8]; ROWS_OF_BYTES],
    query: &[i8],
    put: impl FnMut(usize, [f32; ROWS_OF_BYTES]),
    add: impl Fn(int32x4_t, int8x16_t, int8x16_t) -> int32x4_t,
) {
    // SAFETY: NEON is part of aarch64.
    let zero = unsafe { vdupq_n_s32(0) };
    // SAFETY: the same, and sixteen bytes are read from an array of sixteen.
    let load = |bytes: &[i8; 16]| unsafe { vld1q_s8(bytes.as_ptr()) };
    let (steps, _) = query.as_chunks::<16>();
    each_four(fours, rows, put, |rows| {
        let rows = rows.map(|row| row.as_chunks::<16>().0);
        let mut sums = [zero; ROWS_OF_BYTES];
        for (i, step) in steps.iter().enumerate() {
            let query = load(step);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = add(*sum, load(&row[i]), query);
            }
        }
        // SAFETY: NEON is part of aarch64.
        sums.map(|sum| unsafe { vaddvq_s32(sum) } as f32)
    });
}

/// Add the products of 16 bytes, four by four.
#[inline]
#[target_feature(enable = "neon")]
fn add(sum: int32x4_t, codes: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // Sums of 16 bits are exact: two products of at most 128 * 127.
    let low = vmull_s8(vget_low_s8(codes), vget_low_s8(weights));
    vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(codes, weights)))
}

multiplies!("neon", 4, vdupq_n_f32(0.0), vdupq_n_f32, vld1q_f32, vst1q_f32, |sum, row, query| {
    vfmaq_f32(sum, row, query)
});

#[inline]
#[target_feature(enable = "neon")]
fn sketch_each(
    sketches: SketchView<'_>,
    query: &SketchQuery,
    id: impl Fn(usize) -> Option<u32>,
    out: &mut [f32],
) {
    sketch_each_with(sketches, query, id, out, |sum, codes, weights| add(sum, codes, weights));
}

/// Score the sketch of row `id(i)` for each place `i` of `out`, until there is none. `add` adds to four lanes the
/// products of 16 codes and weights, four by four.
///
/// Compiled into its caller, with the caller's features.
#[inline(always)]
pub(super) fn sketch_each_with(
    sketches: SketchView<'_>,
    query: &SketchQuery,
    id: impl Fn(usize) -> Option<u32>,
    out: &mut [f32],
    add: impl Fn(int32x4_t, int8x16_t, int8x16_t) -> int32x4_t,
) {
    let layout = sketches.layout;
    let [n8, n4, n2, n1] = layout.counts();
    let weights = query.weights();
    // What the unsafe loads below rely on, checked once a call.
    let groups = n8 + n4 + n2 + n1;
    assert_eq!(weights.len(), groups * GROUP);
    assert!(4 * (8 * n8 + 4 * n4 + 2 * n2 + n1) + 4 <= layout.bytes());

    let stride = layout.bytes();
    let codes = sketches.codes;
    // SAFETY: NEON is part of aarch64. By the assertions above the codes of all groups lie in the first `bytes() - 4`
    // bytes of a sketch, and `weights` holds 32 a group; each turn of a loop over groups reads one from both and moves
    // each pointer on by just that.
    unsafe {
        let add_group = |sums: [int32x4_t; 2], codes: [uint8x16_t; 2], weight: *const i8| {
            let ([a, b], [p, q]) = (sums, codes.map(|codes| vreinterpretq_s8_u8(codes)));
            [add(a, p, vld1q_s8(weight)), add(b, q, vld1q_s8(weight.add(16)))]
        };
        let fuse = |lanes: [float32x4_t; 2], [a, b]: [int32x4_t; 2], scale: f32| {
            let ([low, high], scale) = (lanes, vdupq_n_f32(scale));
            [vfmaq_f32(low, vcvtq_f32_s32(a), scale), vfmaq_f32(high, vcvtq_f32_s32(b), scale)]
        };
        let [scale8, scale4, scale2, scale1] = *query.scales();
        let zero = [vdupq_n_s32(0); 2];
        let top = vdupq_n_u8(0x80);
        let low4 = vdupq_n_u8(0x0f);
        let low2 = vdupq_n_u8(0x03);
        let low1 = vdupq_n_u8(0x01);
        // Shifts to the left by as many bits, a byte each.
        let bytes =
            |low: u64, high: u64| vreinterpretq_s8_u64(vcombine_u64(vcreate_u64(low), vcreate_u64(high)));
        let shift2 = [bytes(0, 0xfefe_fefe_fefe_fefe), bytes(0xfcfc_fcfc_fcfc_fcfc, 0xfafa_fafa_fafa_fafa)];
        let shift1 = [
            bytes(0xffff_ffff_0000_0000, 0xfdfd_fdfd_fefe_fefe),
            bytes(0xfbfb_fbfb_fcfc_fcfc, 0xf9f9_f9f9_fafa_fafa),
        ];
        // Codes of 8 bits are multiplied as signed numbers, 128 less than they are: what the sums lack is the same
        // for every row.
        let mut lacking = zero;
        for group in 0..n8 {
            lacking = add_group(lacking, [low1; 2], weights.as_ptr().add(group * GROUP));
        }
        let lacking = lacking.map(|lacking| vshlq_n_s32::<7>(lacking));

        for (i, score) in out.iter_mut().enumerate() {
            if let Some(next) = id(i + AHEAD_SKETCHES) {
                prefetch(codes, next as usize * stride);
                if stride > 64 {
                    prefetch(codes, next as usize * stride + 64);
                }
            }
            let Some(this) = id(i) else { break };
            let sketch = sketches.get(this);
            let mut lanes = [vdupq_n_f32(0.0); 2];
            let mut code = sketch.as_ptr();
            let mut weight = weights.as_ptr();
            let mut sums = lacking;
            for _ in 0..n8 {
                let values = [veorq_u8(vld1q_u8(code), top), veorq_u8(vld1q_u8(code.add(16)), top)];
                sums = add_group(sums, values, weight);
                (code, weight) = (code.add(32), weight.add(GROUP));
            }
            lanes = fuse(lanes, sums, scale8);
            sums = zero;
            for _ in 0..n4 {
                let packed = vld1q_u8(code);
                sums = add_group(sums, [vandq_u8(packed, low4), vshrq_n_u8::<4>(packed)], weight);
                (code, weight) = (code.add(16), weight.add(GROUP));
            }
            lanes = fuse(lanes, sums, scale4);
            sums = zero;
            for _ in 0..n2 {
                let packed = vld1_u8(code);
                let packed = vcombine_u8(packed, packed);
                sums = add_group(sums, shift2.map(|by| vandq_u8(vshlq_u8(packed, by), low2)), weight);
                (code, weight) = (code.add(8), weight.add(GROUP));
            }
            lanes = fuse(lanes, sums, scale2);
            sums = zero;
            for _ in 0..n1 {
                let packed = vreinterpretq_u8_u32(vdupq_n_u32(code.cast::<u32>().read_unaligned()));
                sums = add_group(sums, shift1.map(|by| vandq_u8(vshlq_u8(packed, by), low1)), weight);
                (code, weight) = (code.add(4), weight.add(GROUP));
            }
            lanes = fuse(lanes, sums, scale1);
            *score = tree(lanes) + layout.base(sketch) + query.offset();
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scan_blocks(
    columns: ColumnsView<'_>,
    query: &ColumnQuery,
    blocks: &[usize],
    floor: f32,
    out: &mut [Promised],
) {
    let low4 = vdupq_n_u8(0x0f);
    let low8 = vdupq_n_u16(0xff);
    let (scale, floor) = (vdupq_n_f32(query.scale()), vdupq_n_f32(floor));
    // SAFETY: four words are read from an array of four.
    let bits = unsafe { vld1q_u32([1, 2, 4, 8].as_ptr()) };
    // SAFETY: sixteen bytes are read from an array of sixteen.
    let table = |table: &[u8; 16]| unsafe { vld1q_u8(table.as_ptr()) };
    let words = |bytes| vreinterpretq_u16_u8(bytes);
    // The 16 codes of a quarter of a column.
    let load = |column: &[u8; BLOCK], quarter: usize| {
        // SAFETY: `quarter` is at most 3, and a column has 64 bytes.
        unsafe { vld1q_u8(column.as_ptr().add(16 * quarter)) }
    };
    let looked_up = |codes, [lower, upper]: [uint8x16_t; 2]| {
        vaddq_u8(vqtbl1q_u8(lower, vandq_u8(codes, low4)), vqtbl1q_u8(upper, vshrq_n_u8::<4>(codes)))
    };
    each_pair(columns, blocks, out, |pair, out| {
        // Of each word its lower byte and 256 times its upper one, modulo 2^16, and the upper bytes.
        let mut sums = [[[vdupq_n_u16(0); 2]; 4]; 2];
        for (columns, [[a, b], [c, d]]) in two_columns(pair).zip(query.tables()) {
            let (tables, further) = ([table(a), table(b)], [table(c), table(d)]);
            for ([first, second], sums) in columns.into_iter().zip(&mut sums) {
                for (quarter, [both, odd]) in sums.iter_mut().enumerate() {
                    // Four entries make a byte.
                    let added = vaddq_u8(
                        looked_up(load(first, quarter), tables),
                        looked_up(load(second, quarter), further),
                    );
                    *both = vaddq_u16(*both, words(added));
                    *odd = vsraq_n_u16::<8>(*odd, words(added));
                }
            }
        }
        for (((all, bases), sums), out) in pair.into_iter().zip(sums).zip(out) {
            let mut above = [vdupq_n_u8(0); 4];
            for (at, entries) in query.wide() {
                let entries = table(entries);
                for (quarter, above) in above.iter_mut().enumerate() {
                    let codes = load(&all[at / 2], quarter);
                    let codes = if at % 2 == 0 { vandq_u8(codes, low4) } else { vshrq_n_u8::<4>(codes) };
                    *above = vaddq_u8(*above, vqtbl1q_u8(entries, codes));
                }
            }
            out.above = 0;
            for (quarter, ([both, odd], above)) in sums.into_iter().zip(above).enumerate() {
                let even = vsubq_u16(both, vshlq_n_u16::<8>(odd));
                let above = [vandq_u16(words(above), low8), vshrq_n_u16::<8>(words(above))];
                for (parity, (sums, above)) in [even, odd].into_iter().zip(above).enumerate() {
                    let sums = vaddq_u16(sums, vshlq_n_u16::<6>(above));
                    let fours = [vmovl_u16(vget_low_u16(sums)), vmovl_high_u16(sums)];
                    for (four, sums) in fours.into_iter().enumerate() {
                        let row = 32 * parity + 8 * quarter + 4 * four;
                        // SAFETY: four elements from `row`, at most 60, are read and written in arrays of 64.
                        let scores = unsafe {
                            let base = vld1q_f32(bases.as_ptr().add(row));
                            let scores = vfmaq_f32(base, vcvtq_f32_u32(sums), scale);
                            vst1q_f32(out.scores.as_mut_ptr().add(row), scores);
                            scores
                        };
                        let above = vaddvq_u32(vbicq_u32(bits, vcleq_f32(scores, floor)));
                        out.above |= u64::from(above) << row;
                    }
                }
            }
        }
    });
}
