//! 512-bit vectors for rows, and dot products of bytes (VNNI) for the query's map and for sketches: lane l of a group of
//! 32 codes is just what one instruction sums.

use std::any::TypeId;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::avx2::{four_totals, sketch_each_with, tables, tree};
use super::{
    AHEAD_ROWS, AHEAD_ROWS_OF_BYTES, LANES, ROWS_OF_BYTES, each_four, each_pair, each_step, prefetch_range,
    two_columns,
};
use crate::byte_rows::{self, SomeRows};
use crate::certain::{self, Room, Sought};
use crate::columns::{BLOCK, ColumnQuery, ColumnsView, Promised};
use crate::memory::Line;
use crate::rows::Element;
use crate::sketch::{SketchQuery, SketchView};

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

/// Rows that [`multiply`] takes at a time, with two vectors of queries, so many side by side: their sums fit the registers.
pub(super) const ROWS: usize = 12;
pub(super) const BESIDE: usize = 16;

verbs!(Avx512, "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c");

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn dot<T: Element>(row: &[T], query: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 2];
    each_step(row, query, |row, query| step(&mut sums, row, query));
    total(sums)
}

/// Sum 32 lanes pairwise: 16 apart, then 8 apart, then as eight lanes.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn total(sums: [__m512; 2]) -> f32 {
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

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn dot_bytes_each<'a>(
    fours: usize,
    rows: impl Fn(usize) -> [&'a [i8]; ROWS_OF_BYTES],
    query: &[i8],
    put: impl FnMut(usize, [f32; ROWS_OF_BYTES]),
) {
    const STEP: usize = 2 * LANES;
    // One of the factors is without sign: 128 is added to bytes of rows, and to each sum 128 times that of the query.
    let top = _mm512_set1_epi8(i8::MIN);
    let load = |bytes: &[i8; STEP]| {
        // SAFETY: a step has 64 bytes.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    };
    let half = |bytes: &[i8; LANES]| {
        // SAFETY: half a step has 32 bytes.
        _mm512_zextsi256_si512(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
    };
    let add = |sum, row, query| _mm512_dpbusd_epi32(sum, _mm512_xor_si512(row, top), query);
    let (steps, tail) = query.as_chunks::<STEP>();
    let tail = tail.first_chunk::<LANES>();
    let above = 128 * query.iter().map(|&byte| i32::from(byte)).sum::<i32>();
    let below = _mm512_zextsi128_si512(_mm_cvtsi32_si128(above.wrapping_neg()));
    each_four(fours, rows, put, |rows| {
        let mut sums = [below; ROWS_OF_BYTES];
        let parts = rows.map(|row| row.as_chunks::<STEP>());
        for (i, step) in steps.iter().enumerate() {
            let query = load(step);
            for (sum, (steps, _)) in sums.iter_mut().zip(&parts) {
                *sum = add(*sum, load(&steps[i]), query);
            }
        }
        if let Some(tail) = tail {
            let query = half(tail);
            for (sum, (_, tail)) in sums.iter_mut().zip(&parts) {
                *sum = add(*sum, tail.first_chunk().map_or(top, half), query);
            }
        }
        four_totals(
            sums.map(|sum| {
                _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum))
            }),
        )
    });
}

/// Rows that are multiplied at once, and bytes of each.
const TILE: usize = 16;
const STEP: usize = 4;

/// Vectors of [`TILE`] rows beside each other, and so many of their bytes: a place of each bit of a word.
const TILES: usize = 4;
const WORD: usize = TILE * TILES;

/// Queries that share a pass over the rows. Of fewer than twice as many it is quicker to multiply rows by one after the other.
const TOGETHER: usize = 4;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn sieve_rows(
    some: SomeRows<'_>,
    sought: &mut [Sought],
    room: &mut Room,
    dot: impl Fn(&[i8], usize, &[i8], &mut [f32]),
) {
    if sought.len() < 2 * TOGETHER {
        return certain::sieve(some, sought, room, dot);
    }
    let SomeRows { stride, scales, offsets, .. } = some;
    let steps = stride / STEP;
    lay_side_by_side(some, &mut room.lines);
    for Sought { places, dots, .. } in &mut *sought {
        places.clear();
        dots.clear();
    }
    let words = scales.chunks(WORD).zip(offsets.chunks(WORD));
    for ((word, (scales, offsets)), lines) in words.enumerate().zip(room.lines.chunks_exact(TILES * steps)) {
        let there = u64::MAX >> (WORD - scales.len());
        let (mut all_scales, mut all_offsets) = ([0.0; WORD], [0.0; WORD]);
        all_scales[..scales.len()].copy_from_slice(scales);
        all_offsets.iter_mut().zip(offsets).for_each(|(raised, &offset)| *raised = byte_rows::raised(offset));
        let each: [&[Line]; TILES] = std::array::from_fn(|tile| &lines[tile * steps..][..steps]);
        for four in sought.chunks_mut(TOGETHER) {
            // The first stands for those that there are not.
            let queries: [_; TOGETHER] = std::array::from_fn(|i| &four.get(i).unwrap_or(&four[0]).query);
            let bytes = queries.map(|query| &query.bytes.as_chunks::<STEP>().0[..steps]);
            // 128 has been added to each byte of the rows.
            let mut sums = queries.map(|query| [_mm512_set1_epi32(-128 * query.sum); TILES]);
            for i in 0..steps {
                // SAFETY: a line has 64 bytes, and lies at a multiple of them.
                let rows = each.map(|lines| unsafe { _mm512_load_si512(lines[i].0.as_ptr().cast()) });
                for (sums, bytes) in sums.iter_mut().zip(bytes) {
                    let query = _mm512_set1_epi32(i32::from_le_bytes(bytes[i].map(|byte| byte as u8)));
                    for (sum, row) in sums.iter_mut().zip(rows) {
                        *sum = _mm512_dpbusd_epi32(*sum, row, query);
                    }
                }
            }
            for (Sought { query, bar, places, dots, .. }, sums) in four.iter_mut().zip(sums) {
                let (step, reach) = (_mm512_set1_ps(query.step), _mm512_set1_ps(query.reach[0]));
                let sums = sums.map(|sum| _mm512_cvtepi32_ps(sum));
                let mut above = 0;
                for (tile, sum) in sums.into_iter().enumerate() {
                    // SAFETY: lanes 16i..16i+16, i < 4, of arrays of 64 are read.
                    let (scale, offset) = unsafe {
                        let from = [&all_scales, &all_offsets].map(|all| all.as_ptr().add(TILE * tile));
                        (_mm512_loadu_ps(from[0]), _mm512_loadu_ps(from[1]))
                    };
                    // As `at_most`, without fusing.
                    let most = _mm512_add_ps(_mm512_mul_ps(sum, step), reach);
                    let most = _mm512_add_ps(_mm512_mul_ps(scale, most), offset);
                    let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(most, _mm512_set1_ps(*bar));
                    above |= u64::from(mask) << (TILE * tile);
                }
                above &= there;
                if above == 0 {
                    continue;
                }
                let mut all = [0.0f32; WORD];
                for (tile, sum) in sums.into_iter().enumerate() {
                    // SAFETY: lanes 16i..16i+16, i < 4, of an array of 64 are written.
                    unsafe { _mm512_storeu_ps(all.as_mut_ptr().add(TILE * tile), sum) };
                }
                while above != 0 {
                    let at = above.trailing_zeros() as usize;
                    places.push((WORD * word + at) as u32);
                    dots.push(all[at]);
                    above &= above - 1;
                }
            }
        }
    }
}

/// Lay the bytes of rows side by side, 128 added to each: a line has four of each of sixteen rows, the next line the next four. There are as
/// many lines as whole words of rows have; those of rows that there are not hold anything.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn lay_side_by_side(some: SomeRows<'_>, lines: &mut Vec<Line>) {
    let SomeRows { bytes, stride, .. } = some;
    let top = _mm512_set1_epi8(i8::MIN);
    let steps = stride / STEP;
    let tiles = (bytes.len() / stride).next_multiple_of(WORD) / TILE;
    lines.resize(tiles * steps, Line([0; 64]));
    for (rows, lines) in bytes.chunks(TILE * stride).zip(lines.chunks_exact_mut(steps)) {
        let n = rows.len() / stride;
        for (part, lines) in lines.chunks_mut(TILE).enumerate() {
            let from = part * TILE * STEP;
            let load = |row: usize| {
                let bytes = if row < n { &rows[row * stride..][..stride][from..] } else { &[][..] };
                let loaded = match (bytes.first_chunk::<64>(), bytes.first_chunk::<32>()) {
                    // SAFETY: 64 bytes are read from an array of as many.
                    (Some(bytes), _) => unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) },
                    (_, Some(bytes)) => {
                        // SAFETY: 32 bytes are read from an array of as many.
                        _mm512_zextsi256_si512(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
                    }
                    _ => _mm512_setzero_si512(),
                };
                _mm512_xor_si512(loaded, top)
            };
            let fours: [[__m512i; 4]; 4] = std::array::from_fn(|four| {
                let [a, b, c, d] = std::array::from_fn(|i| load(4 * four + i));
                let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                let (further_low, further_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
                // Quarter l of the i-th holds step 4l + i of four rows.
                [
                    _mm512_unpacklo_epi64(low, further_low),
                    _mm512_unpackhi_epi64(low, further_low),
                    _mm512_unpacklo_epi64(high, further_high),
                    _mm512_unpackhi_epi64(high, further_high),
                ]
            });
            for i in 0..4 {
                let [a, b, c, d] = fours.map(|four| four[i]);
                let even = |a, b| _mm512_shuffle_i32x4::<0b1000_1000>(a, b);
                let odd = |a, b| _mm512_shuffle_i32x4::<0b1101_1101>(a, b);
                let (evens, odds) = ([even(a, b), even(c, d)], [odd(a, b), odd(c, d)]);
                let quarters = [
                    even(evens[0], evens[1]),
                    even(odds[0], odds[1]),
                    odd(evens[0], evens[1]),
                    odd(odds[0], odds[1]),
                ];
                for (quarter, value) in quarters.into_iter().enumerate() {
                    if let Some(line) = lines.get_mut(4 * quarter + i) {
                        // SAFETY: a line has 64 bytes, and lies at a multiple of them.
                        unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), value) };
                    }
                }
            }
        }
    }
}

multiplies!(
    "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c",
    16,
    _mm512_setzero_ps(),
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    |sum, row, query| _mm512_fmadd_ps(row, query, sum)
);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn sketch_each(
    sketches: SketchView<'_>,
    query: &SketchQuery,
    id: impl Fn(usize) -> Option<u32>,
    out: &mut [f32],
) {
    let add = |sum, codes, weights| _mm256_dpbusd_epi32(sum, codes, weights);
    let total = |sum| sum;
    // SAFETY: AVX2 and FMA are among this function's features.
    unsafe { sketch_each_with(sketches, query, id, out, (_mm256_setzero_si256(), add, total), (add, total)) }
}

/// The module's `scan_blocks`, compiled for `$features`. Each quarter of a vector holds a copy of a table; `$look_up` gives the entries
/// that the lower half of each byte asks for, whatever its upper half is.
macro_rules! scans {
    ($features:literal, $look_up:expr) => {
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) fn scan_blocks(
            columns: ColumnsView<'_>,
            query: &ColumnQuery,
            blocks: &[usize],
            floor: f32,
            out: &mut [Promised],
        ) {
            let low8 = _mm512_set1_epi16(0xff);
            let (scale, floor) = (_mm512_set1_ps(query.scale()), _mm512_set1_ps(floor));
            let table = |table: &[u8; 16]| {
                // SAFETY: sixteen bytes are read from an array of sixteen.
                _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
            };
            let load = |column: &[u8; BLOCK]| {
                // SAFETY: a column has 64 bytes.
                unsafe { _mm512_loadu_si512(column.as_ptr().cast()) }
            };
            // Of the bytes of a word, what is below the upper one comes to the upper half of the lower one.
            let upper_half = |codes| _mm512_srli_epi16::<4>(codes);
            let look_up = $look_up;
            let looked_up = |column: &[u8; BLOCK], [lower, upper]: [__m512i; 2]| {
                let codes = load(column);
                _mm512_add_epi8(look_up(lower, codes), look_up(upper, upper_half(codes)))
            };
            each_pair(columns, blocks, out, |pair, out| {
                // Of each word its lower byte and 256 times its upper one, modulo 2^16, and the upper bytes.
                let mut sums = [[_mm512_setzero_si512(); 2]; 2];
                for (columns, [[a, b], [c, d]]) in two_columns(pair).zip(query.tables()) {
                    let (tables, further) = ([table(a), table(b)], [table(c), table(d)]);
                    for ([first, second], [both, odd]) in columns.into_iter().zip(&mut sums) {
                        // Four entries make a byte.
                        let added = _mm512_add_epi8(looked_up(first, tables), looked_up(second, further));
                        *both = _mm512_add_epi16(*both, added);
                        *odd = _mm512_add_epi16(*odd, _mm512_srli_epi16::<8>(added));
                    }
                }
                for (((all, bases), [both, odd]), out) in pair.into_iter().zip(sums).zip(out) {
                    let mut above = _mm512_setzero_si512();
                    for (at, entries) in query.wide() {
                        let codes = load(&all[at / 2]);
                        let codes = if at % 2 == 0 { codes } else { upper_half(codes) };
                        above = _mm512_add_epi8(above, look_up(table(entries), codes));
                    }
                    let even = _mm512_sub_epi16(both, _mm512_slli_epi16::<8>(odd));
                    let above = [_mm512_and_si512(above, low8), _mm512_srli_epi16::<8>(above)];
                    out.above = 0;
                    for (parity, (sums, above)) in [even, odd].into_iter().zip(above).enumerate() {
                        let sums = _mm512_add_epi16(sums, _mm512_slli_epi16::<6>(above));
                        let halves = [_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)];
                        for (half, sums) in halves.into_iter().enumerate() {
                            let row = 32 * parity + 16 * half;
                            let sums = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sums));
                            // SAFETY: sixteen elements from `row`, at most 48, are read and written in arrays of 64.
                            let scores = unsafe {
                                let base = _mm512_loadu_ps(bases.as_ptr().add(row));
                                let scores = _mm512_fmadd_ps(sums, scale, base);
                                _mm512_storeu_ps(out.scores.as_mut_ptr().add(row), scores);
                                scores
                            };
                            let mask = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(scores, floor);
                            out.above |= u64::from(mask) << row;
                        }
                    }
                }
            });
        }
    };
}
pub(super) use scans;

scans!("avx512f,avx512bw", |table, codes| {
    _mm512_shuffle_epi8(table, _mm512_and_si512(codes, _mm512_set1_epi8(0x0f)))
});
