//! 256-bit vectors with FMA and F16C.

use std::any::TypeId;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{
    AHEAD_ROWS, AHEAD_ROWS_OF_BYTES, AHEAD_SKETCHES, LANES, ROWS_OF_BYTES, each_four, each_pair, each_step,
    prefetch, prefetch_range, two_columns,
};
use crate::byte_rows::SomeRows;
use crate::certain::{self, Room, Sought};
use crate::columns::{BLOCK, ColumnQuery, ColumnsView, MOST, Promised, TOGETHER};
use crate::rows::Element;
use crate::sketch::{GROUP, SHIFT, SketchQuery, SketchView};

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

/// Rows that [`multiply`] takes at a time, with two vectors of queries, so many side by side: their sums fit the registers.
const ROWS: usize = 6;
const BESIDE: usize = 8;

verbs!(Avx2, "avx2,fma,f16c");

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<T: Element>(row: &[T], query: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
    each_step(row, query, |row, query| step(&mut sums, row, query));
    let [a, b, c, d] = sums;
    total(a, b, c, d)
}

/// Sum 32 lanes pairwise: 16 apart, then 8 apart, then as eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn total(a: __m256, b: __m256, c: __m256, d: __m256) -> f32 {
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

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_bytes_each<'a>(
    fours: usize,
    rows: impl Fn(usize) -> [&'a [i8]; ROWS_OF_BYTES],
    query: &[i8],
    put: impl FnMut(usize, [f32; ROWS_OF_BYTES]),
) {
    let load = |bytes: &[i8; LANES]| {
        // SAFETY: a step has 32 bytes.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    };
    let (steps, _) = query.as_chunks::<LANES>();
    each_four(fours, rows, put, |rows| {
        // One by one, and as long as the query: what an array's `map` is told is not compiled into this.
        let [first, second, third, fourth] = rows;
        let part = |row: &[i8], i: usize| load(&row.as_chunks::<LANES>().0[..steps.len()][i]);
        let mut sums = [_mm256_setzero_si256(); ROWS_OF_BYTES];
        for (i, step) in steps.iter().enumerate() {
            let query = load(step);
            for (sum, row) in
                sums.iter_mut().zip([part(first, i), part(second, i), part(third, i), part(fourth, i)])
            {
                *sum = add_products(*sum, row, _mm256_abs_epi8(row), query);
            }
        }
        four_totals(sums)
    });
}

/// Add the products of the bytes of a row, whose sizes without sign are given, with a query's, none of which is -128.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(sum: __m256i, row: __m256i, sizes: __m256i, query: __m256i) -> __m256i {
    // Sums of 16 bits are exact: two products of at most 128 * 127.
    let products = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(query, row));
    _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
}

/// Queries, and rows, of which bytes are multiplied together: so many sums fit the registers.
const FOUR: usize = 4;
const PAIR: usize = 2;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sieve_rows(
    some: SomeRows<'_>,
    sought: &mut [Sought],
    room: &mut Room,
    dot: impl Fn(&[i8], usize, &[i8], &mut [f32]),
) {
    let (fours, others) = sought.as_chunks_mut::<FOUR>();
    let SomeRows { bytes, stride, scales, .. } = some;
    let n = scales.len();
    room.dots.resize(FOUR * n, 0.0);
    for four in fours {
        let queries = four.each_ref().map(|one| &one.query.bytes.as_chunks::<LANES>().0[..stride / LANES]);
        let pairs = bytes.chunks(PAIR * stride);
        for (pair, rows) in pairs.enumerate() {
            let (first, second) = rows.split_at(stride);
            // The first of the last one stands for a second that there is not.
            let sums = multiply_bytes([first, if second.is_empty() { first } else { second }], queries);
            for (row, sums) in (PAIR * pair..n).zip(sums) {
                for (query, sum) in four_totals(sums).into_iter().enumerate() {
                    room.dots[query * n + row] = sum;
                }
            }
        }
        for (one, dots) in four.iter_mut().zip(room.dots.chunks_exact(n)) {
            one.meet(some, dots);
        }
    }
    certain::sieve(some, others, room, dot);
}

/// Sums of products of rows of bytes with queries, eight for each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_bytes(rows: [&[i8]; PAIR], queries: [&[[i8; LANES]]; FOUR]) -> [[__m256i; FOUR]; PAIR] {
    // SAFETY: a step has 32 bytes.
    let load = |bytes: &[i8; LANES]| unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
    // One by one, and as long as the first: what an array's `map` is told is not compiled into this.
    let steps = queries[0].len();
    let rows = [&rows[0].as_chunks::<LANES>().0[..steps], &rows[1].as_chunks::<LANES>().0[..steps]];
    let [first, second, third, fourth] = queries;
    let queries = [first, &second[..steps], &third[..steps], &fourth[..steps]];
    let mut sums = [[_mm256_setzero_si256(); FOUR]; PAIR];
    for at in 0..steps {
        let rows = [load(&rows[0][at]), load(&rows[1][at])];
        let sizes = [_mm256_abs_epi8(rows[0]), _mm256_abs_epi8(rows[1])];
        for (query, bytes) in queries.iter().enumerate() {
            let bytes = load(&bytes[at]);
            for ((sums, row), size) in sums.iter_mut().zip(rows).zip(sizes) {
                sums[query] = add_products(sums[query], row, size, bytes);
            }
        }
    }
    sums
}

/// The sum of each vector's lanes, as a float.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn four_totals([a, b, c, d]: [__m256i; ROWS_OF_BYTES]) -> [f32; ROWS_OF_BYTES] {
    let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let all = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
    let mut out = [0.0; ROWS_OF_BYTES];
    // SAFETY: four floats are written to an array of four.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), _mm_cvtepi32_ps(all)) };
    out
}

multiplies!(
    "avx2,fma,f16c",
    8,
    _mm256_setzero_ps(),
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    |sum, row, query| { _mm256_fmadd_ps(row, query, sum) }
);

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sketch_each(
    sketches: SketchView<'_>,
    query: &SketchQuery,
    id: impl Fn(usize) -> Option<u32>,
    out: &mut [f32],
) {
    // Sums of 16 bits are exact: a group adds at most 2 * 15 * 127 to each, and a sketch of 128 bytes holds at most
    // 3 groups of 8 bits, 7 of 4, 15 of 2 and 31 of 1.
    let add = |sum, codes, weights| _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, weights));
    let total = |sum| _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    // maddubs saturates at 16 bits: of codes of 8, multiply nibbles, then put them together exactly.
    let add8 = |[low, high]: [__m256i; 2], codes, weights| {
        let nibble = _mm256_set1_epi8(0x0f);
        let shifted = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
        [add(low, _mm256_and_si256(codes, nibble), weights), add(high, shifted, weights)]
    };
    let total8 =
        |[low, high]: [__m256i; 2]| _mm256_add_epi32(total(low), _mm256_slli_epi32::<4>(total(high)));
    let zero = _mm256_setzero_si256();
    // SAFETY: AVX2 and FMA are among this function's features.
    unsafe { sketch_each_with(sketches, query, id, out, ([zero; 2], add8, total8), (add, total)) }
}

/// Score the sketch of row `id(i)` for each place `i` of `out`; there may be none beyond these. For codes of 8 bits, and for
/// others, a function adds the products of a group of 32 codes and weights to sums, and another makes eight of 32 bits
/// of these, one a lane.
///
/// Compiled into its caller, with the caller's features.
///
/// # Safety
/// The caller is compiled with AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn sketch_each_with<S: Copy>(
    sketches: SketchView<'_>,
    query: &SketchQuery,
    id: impl Fn(usize) -> Option<u32>,
    out: &mut [f32],
    (zero8, add8, total8): (S, impl Fn(S, __m256i, __m256i) -> S, impl Fn(S) -> __m256i),
    (add, total): (impl Fn(__m256i, __m256i, __m256i) -> __m256i, impl Fn(__m256i) -> __m256i),
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
    // SAFETY: the features are there by the caller's word. By the assertions above the codes of all groups lie in the first
    // `bytes() - 4` bytes of a sketch, and `weights` holds 32 a group; groups are read one after the other, of
    // each of four sketches, which have `bytes()` each, and of `weights`. Four floats are written to an array of four.
    unsafe {
        let zero = _mm256_setzero_si256();
        let low4 = _mm256_set1_epi8(0x0f);
        let low2 = _mm256_set1_epi8(0x03);
        let low1 = _mm256_set1_epi8(0x01);
        let shift4 = _mm256_setr_epi64x(0, 0, 4, 4);
        let shift2 = _mm256_setr_epi64x(0, 2, 4, 6);
        let shift1 = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let [scale8, scale4, scale2, scale1] = query.scales().map(|scale| _mm256_set1_ps(scale));
        let offset = _mm_set1_ps(query.offset());
        let fuse = |lanes: &mut [__m256; SKETCHES], sums: [__m256i; SKETCHES], scale| {
            for (lanes, sum) in lanes.iter_mut().zip(sums) {
                *lanes = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, *lanes);
            }
        };
        for (at, scores) in out.chunks_mut(SKETCHES).enumerate() {
            let at = at * SKETCHES;
            for i in at..at + scores.len() {
                if let Some(next) = id(i + AHEAD_SKETCHES) {
                    prefetch(codes, next as usize * stride);
                    if stride > 64 {
                        prefetch(codes, next as usize * stride + 64);
                    }
                }
            }
            // Of fewer than four the first stands for those that there are not.
            let Some(first) = id(at) else { break };
            let each: [&[u8]; SKETCHES] = std::array::from_fn(|i| {
                sketches.get(if i < scores.len() { id(at + i).unwrap_or(first) } else { first })
            });
            let mut lanes = [_mm256_setzero_ps(); SKETCHES];
            let mut codes = each.map(<[u8]>::as_ptr);
            let mut weight = weights.as_ptr();
            let (codes, weight) = (&mut codes, &mut weight);
            if n8 > 0 {
                let sums =
                    add_groups(n8, 32, codes, weight, zero8, &add8, |code| _mm256_loadu_si256(code.cast()));
                fuse(&mut lanes, sums.map(&total8), scale8);
            }
            let sums = add_groups(n4, 16, codes, weight, zero, &add, |code| {
                let packed = _mm256_broadcastsi128_si256(_mm_loadu_si128(code.cast()));
                _mm256_and_si256(_mm256_srlv_epi64(packed, shift4), low4)
            });
            fuse(&mut lanes, sums.map(&total), scale4);
            let sums = add_groups(n2, 8, codes, weight, zero, &add, |code| {
                let packed = _mm256_set1_epi64x(code.cast::<i64>().read_unaligned());
                _mm256_and_si256(_mm256_srlv_epi64(packed, shift2), low2)
            });
            fuse(&mut lanes, sums.map(&total), scale2);
            let sums = add_groups(n1, 4, codes, weight, zero, &add, |code| {
                let packed = _mm256_set1_epi32(code.cast::<i32>().read_unaligned());
                _mm256_and_si256(_mm256_srlv_epi32(packed, shift1), low1)
            });
            fuse(&mut lanes, sums.map(&total), scale1);
            let [a, b, c, d] = each.map(|sketch| layout.base(sketch));
            let totals = _mm_add_ps(_mm_add_ps(trees(lanes), _mm_setr_ps(a, b, c, d)), offset);
            let mut four = [0.0; SKETCHES];
            _mm_storeu_ps(four.as_mut_ptr(), totals);
            scores.copy_from_slice(&four[..scores.len()]);
        }
    }
}

/// Sketches that are scored at a time: weights are loaded once for all of them.
const SKETCHES: usize = 4;

/// Of each of four sketches the sum, from `zero` on, of what `add` makes of the codes of `n` groups, which lie in `bytes` each, and their weights.
/// Pointers move on behind these.
///
/// Compiled into its caller, with the caller's features.
///
/// # Safety
/// The caller is compiled with AVX2. So many groups lie where `codes` point, and 32 weights a group where `weight` does; `unpack` reads
/// no more than a group.
#[inline(always)]
unsafe fn add_groups<S: Copy>(
    n: usize,
    bytes: usize,
    codes: &mut [*const u8; SKETCHES],
    weight: &mut *const i8,
    zero: S,
    add: impl Fn(S, __m256i, __m256i) -> S,
    unpack: impl Fn(*const u8) -> __m256i,
) -> [S; SKETCHES] {
    let mut sums = [zero; SKETCHES];
    for _ in 0..n {
        // SAFETY: there is another group, by the caller's word.
        unsafe {
            let weights = _mm256_loadu_si256(weight.cast());
            for (sum, code) in sums.iter_mut().zip(&mut *codes) {
                *sum = add(*sum, unpack(*code), weights);
                *code = code.add(bytes);
            }
            *weight = weight.add(GROUP);
        }
    }
    sums
}

/// Of each of four what [`tree`] makes.
#[inline]
#[target_feature(enable = "avx2")]
fn trees(lanes: [__m256; SKETCHES]) -> __m128 {
    let [a, b, c, d] =
        lanes.map(|lanes| _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes)));
    let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
    let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    _mm_add_ps(_mm_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm_shuffle_ps::<0b11_01_11_01>(ab, cd))
}

/// As [`crate::columns::tables`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn tables(bits: [&[f32; TOGETHER]; 4], inverse: f32) -> [[u8; 16]; TOGETHER] {
    let (zero, inverse) = (_mm256_setzero_ps(), _mm256_set1_ps(inverse));
    let steps = |value, least| {
        // Where this is not a number the second is taken.
        let steps = _mm256_min_ps(_mm256_mul_ps(_mm256_sub_ps(value, least), inverse), _mm256_set1_ps(MOST));
        let rounded = _mm256_castps_si256(_mm256_add_ps(steps, _mm256_set1_ps(SHIFT)));
        _mm256_and_si256(rounded, _mm256_set1_epi32(0xff))
    };
    // SAFETY: eight floats are read from arrays of eight.
    let load = |values: &[f32; TOGETHER]| unsafe { _mm256_loadu_ps(values.as_ptr()) };
    let [a, b, c, d] = [load(bits[0]), load(bits[1]), load(bits[2]), load(bits[3])];
    let four = |a, b| {
        let least = _mm256_add_ps(_mm256_min_ps(a, zero), _mm256_min_ps(b, zero));
        [steps(zero, least), steps(a, least), steps(b, least), steps(_mm256_add_ps(a, b), least)]
    };
    // Four bytes at a time; of larger sums the lower six bits are kept.
    let [none, first, second, both] = four(a, b);
    let low = _mm256_or_si256(
        _mm256_or_si256(none, _mm256_slli_epi32::<8>(first)),
        _mm256_or_si256(_mm256_slli_epi32::<16>(second), _mm256_slli_epi32::<24>(both)),
    );
    let word = |high| {
        let high = _mm256_or_si256(high, _mm256_slli_epi32::<8>(high));
        let high = _mm256_or_si256(high, _mm256_slli_epi32::<16>(high));
        _mm256_and_si256(_mm256_add_epi8(low, high), _mm256_set1_epi8(0x3f))
    };
    let [none, first, second, both] = four(c, d);
    let (none, first, second, both) = (word(none), word(first), word(second), word(both));
    let pairs = [
        [_mm256_unpacklo_epi32(none, first), _mm256_unpacklo_epi32(second, both)],
        [_mm256_unpackhi_epi32(none, first), _mm256_unpackhi_epi32(second, both)],
    ];
    let mut tables = [[0; 16]; TOGETHER];
    for (i, [low, high]) in pairs.into_iter().enumerate() {
        let two = [_mm256_unpacklo_epi64(low, high), _mm256_unpackhi_epi64(low, high)];
        for (j, two) in two.into_iter().enumerate() {
            let at = 2 * i + j;
            // SAFETY: sixteen bytes are written to each of two arrays of sixteen, the last of which is the eighth.
            unsafe {
                _mm_storeu_si128(tables[at].as_mut_ptr().cast(), _mm256_castsi256_si128(two));
                _mm_storeu_si128(tables[at + 4].as_mut_ptr().cast(), _mm256_extracti128_si256::<1>(two));
            }
        }
    }
    tables
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn scan_blocks(
    columns: ColumnsView<'_>,
    query: &ColumnQuery,
    blocks: &[usize],
    floor: f32,
    out: &mut [Promised],
) {
    let low4 = _mm256_set1_epi8(0x0f);
    let low8 = _mm256_set1_epi16(0xff);
    let (scale, floor) = (_mm256_set1_ps(query.scale()), _mm256_set1_ps(floor));
    let table = |table: &[u8; 16]| {
        // SAFETY: sixteen bytes are read from an array of sixteen.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
    };
    let upper_half = |codes| _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low4);
    // The 32 codes of a half of a column.
    let load = |column: &[u8; BLOCK], half: usize| {
        // SAFETY: `half` is 0 or 1, and a column has 64 bytes.
        unsafe { _mm256_loadu_si256(column.as_ptr().add(32 * half).cast()) }
    };
    let looked_up = |codes, [lower, upper]: [__m256i; 2]| {
        _mm256_add_epi8(
            _mm256_shuffle_epi8(lower, _mm256_and_si256(codes, low4)),
            _mm256_shuffle_epi8(upper, upper_half(codes)),
        )
    };
    each_pair(columns, blocks, out, |pair, out| {
        // Of each word its lower byte and 256 times its upper one, modulo 2^16, and the upper bytes.
        let mut sums = [[[_mm256_setzero_si256(); 2]; 2]; 2];
        for (columns, [[a, b], [c, d]]) in two_columns(pair).zip(query.tables()) {
            let (tables, further) = ([table(a), table(b)], [table(c), table(d)]);
            for ([first, second], sums) in columns.into_iter().zip(&mut sums) {
                for (half, [both, odd]) in sums.iter_mut().enumerate() {
                    // Four entries make a byte.
                    let added = _mm256_add_epi8(
                        looked_up(load(first, half), tables),
                        looked_up(load(second, half), further),
                    );
                    *both = _mm256_add_epi16(*both, added);
                    *odd = _mm256_add_epi16(*odd, _mm256_srli_epi16::<8>(added));
                }
            }
        }
        for (((all, bases), sums), out) in pair.into_iter().zip(sums).zip(out) {
            let mut above = [_mm256_setzero_si256(); 2];
            for (at, entries) in query.wide() {
                let entries = table(entries);
                for (half, above) in above.iter_mut().enumerate() {
                    let codes = load(&all[at / 2], half);
                    let codes = if at % 2 == 0 { _mm256_and_si256(codes, low4) } else { upper_half(codes) };
                    *above = _mm256_add_epi8(*above, _mm256_shuffle_epi8(entries, codes));
                }
            }
            out.above = 0;
            for (half, ([both, odd], above)) in sums.into_iter().zip(above).enumerate() {
                let even = _mm256_sub_epi16(both, _mm256_slli_epi16::<8>(odd));
                let above = [_mm256_and_si256(above, low8), _mm256_srli_epi16::<8>(above)];
                for (parity, (sums, above)) in [even, odd].into_iter().zip(above).enumerate() {
                    let sums = _mm256_add_epi16(sums, _mm256_slli_epi16::<6>(above));
                    let eights = [_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums)];
                    for (eight, sums) in eights.into_iter().enumerate() {
                        let row = 32 * parity + 16 * half + 8 * eight;
                        let sums = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sums));
                        // SAFETY: eight elements from `row`, at most 56, are read and written in arrays of 64.
                        let scores = unsafe {
                            let base = _mm256_loadu_ps(bases.as_ptr().add(row));
                            let scores = _mm256_fmadd_ps(sums, scale, base);
                            _mm256_storeu_ps(out.scores.as_mut_ptr().add(row), scores);
                            scores
                        };
                        let above = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(scores, floor));
                        out.above |= (above as u64) << row;
                    }
                }
            }
        }
    });
}
