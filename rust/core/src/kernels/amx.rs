//! As `vbmi`, but for exact search of many queries by rows in bytes: AMX multiplies tiles of 16 rows and 16 queries, 64 bytes of each, in one instruction.
//! Rows are read where they lie.

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2::tables;
use super::avx512::{self, BESIDE, ROWS, dot, dot_bytes_each, multiply, sketch_each};
use super::vbmi::scan_blocks;
use super::{AHEAD_ROWS, AHEAD_ROWS_OF_BYTES, ROWS_OF_BYTES, prefetch_range};
use crate::byte_rows::{self, SomeRows};
use crate::certain::{Room, Sought};
use crate::columns::{ColumnQuery, ColumnsView, Promised};
use crate::memory::{LINE, Line};
use crate::rows::Element;
use crate::sketch::{SketchQuery, SketchView};

/// Proof that this CPU has AMX for bytes, and what the VBMI kernel needs, and that this process may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(());

impl Amx {
    pub(super) fn detect() -> Option<Self> {
        super::vbmi::Vbmi::detect()?;
        (super::has_tiles_of_bytes() && permitted()).then_some(Amx(()))
    }
}

/// Ask the system for tiles: their state is large, so that Linux saves it for those alone who asked.
fn permitted() -> bool {
    const REQUEST: libc::c_int = 0x1023;
    const TILES: libc::c_ulong = 18;
    // SAFETY: this request reads and writes no memory; where it is not known, or refused, an error comes back.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILES) == 0 }
}

verbs!(Amx, "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c");

/// Rows, or queries, of a tile, and bytes of each.
const TILE: usize = 16;
const STEP: usize = LINE;

/// Tiles of rows, and of queries, that are multiplied together, and how many rows, or queries, these are.
const PAIR: usize = 2;
const MANY: usize = PAIR * TILE;

/// Of fewer queries it is quicker to multiply in vectors.
const FEW: usize = TILE;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn sieve_rows(
    some: SomeRows<'_>,
    sought: &mut [Sought],
    room: &mut Room,
    dot: impl Fn(&[i8], usize, &[i8], &mut [f32]),
) {
    if sought.len() < FEW {
        return avx512::sieve_rows(some, sought, room, dot);
    }
    let SomeRows { bytes, stride, scales, offsets } = some;
    let (n, steps) = (scales.len(), stride.div_ceil(STEP));
    let Room { lines, dots: told } = room;
    let of_pair = MANY * steps;
    let pairs = sought.len().div_ceil(MANY);
    if lines.is_empty() {
        lay_side_by_side(sought, steps, lines);
    }
    // For each two tiles of queries their steps, reaches and bars. What is not a number reaches none.
    told.clear();
    told.resize(3 * pairs * MANY, f32::NAN);
    for (at, one) in sought.iter_mut().enumerate() {
        one.places.clear();
        one.dots.clear();
        let from = at / MANY * 3 * MANY + at % MANY;
        for (i, value) in [one.query.step, one.query.reach[0], one.bar].into_iter().enumerate() {
            told[from + i * MANY] = value;
        }
    }
    let (queries, spare) = lines.split_at_mut(pairs * of_pair);
    // SAFETY: the features that `Amx` proves.
    let tiles = unsafe { Tiles::configure() };
    let mut sums = [[[[0i32; TILE]; TILE]; PAIR]; PAIR];
    for first in (0..n).step_by(MANY) {
        let count = MANY.min(n - first);
        let rows = &bytes[first * stride..];
        prefetch_range(bytes, (first + MANY) * stride, MANY * stride);
        let (rows, apart) = if rows.len() >= (MANY - 1) * stride + steps * STEP {
            (rows, stride)
        } else {
            // The last ones would be read beyond their end.
            let spare: &mut [u8] = bytemuck::cast_slice_mut(spare);
            for (row, spare) in rows.chunks(stride).zip(spare.chunks_mut(steps * STEP)) {
                spare[..stride].copy_from_slice(bytemuck::cast_slice(row));
            }
            (bytemuck::cast_slice(&*spare), steps * STEP)
        };
        for ((queries, told), sought) in
            queries.chunks_exact(of_pair).zip(told.chunks_exact(3 * MANY)).zip(sought.chunks_mut(MANY))
        {
            multiply_tiles(&tiles, rows, apart, queries, steps, &mut sums);
            for (place, (scale, offset)) in
                scales[first..].iter().zip(&offsets[first..]).take(count).enumerate()
            {
                let (scale, offset) = (_mm512_set1_ps(*scale), _mm512_set1_ps(byte_rows::raised(*offset)));
                let mut above = 0;
                for (half, sums) in sums[place / TILE].iter().enumerate() {
                    // SAFETY: sixteen sums are read of sixteen, and of three times 32 numbers sixteen of a half.
                    let (sum, step, reach, bar) = unsafe {
                        let at = |i: usize| _mm512_loadu_ps(told.as_ptr().add((PAIR * i + half) * TILE));
                        (_mm512_loadu_si512(sums[place % TILE].as_ptr().cast()), at(0), at(1), at(2))
                    };
                    // As `at_most`, without fusing.
                    let most = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), step), reach);
                    let most = _mm512_add_ps(_mm512_mul_ps(scale, most), offset);
                    above |= u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(most, bar)) << (half * TILE);
                }
                while above != 0 {
                    let at = above.trailing_zeros() as usize;
                    let sum = sums[place / TILE][at / TILE][place % TILE][at % TILE];
                    sought[at].places.push((first + place) as u32);
                    sought[at].dots.push(sum as f32);
                    above &= above - 1;
                }
            }
        }
    }
}

/// Lay the bytes of queries side by side, zeros where there are none: for each two tiles of queries, and each step of their bytes, a tile after the
/// other, of which a line has four bytes of each of sixteen queries. After them there is room for as many rows.
fn lay_side_by_side(sought: &[Sought], steps: usize, lines: &mut Vec<Line>) {
    let of_pair = MANY * steps;
    let pairs = sought.len().div_ceil(MANY);
    lines.resize((pairs + 1) * of_pair, Line([0; LINE]));
    for (at, one) in sought.iter().enumerate() {
        let (pair, tile, column) = (at / MANY, at / TILE % PAIR, at % TILE);
        for (four, bytes) in one.query.bytes.as_chunks::<4>().0.iter().enumerate() {
            let line = pair * of_pair + (four / TILE * PAIR + tile) * TILE + four % TILE;
            lines[line].0[4 * column..][..4].copy_from_slice(bytemuck::cast_slice(bytes));
        }
    }
}

/// All tiles, of sixteen lines each, for as long as this lives.
struct Tiles;

impl Tiles {
    /// # Safety
    /// This CPU has AMX, and the process may use it.
    unsafe fn configure() -> Self {
        // Palette 1; from byte 16 on bytes a line, two each, and from byte 48 on lines, of eight tiles.
        let mut config = Line([0; LINE]);
        config.0[0] = 1;
        for tile in 0..8 {
            (config.0[16 + 2 * tile], config.0[48 + tile]) = (STEP as u8, TILE as u8);
        }
        // SAFETY: a configuration of 64 bytes is read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags)) };
        Tiles
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there are tiles while this lives.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Products of two tiles of rows, which lie so far `apart`, with two of queries, as [`lay_side_by_side`] lays them: for each tile of rows, and each
/// tile of queries, and each row, sixteen.
#[inline(always)]
fn multiply_tiles(
    _: &Tiles,
    rows: &[i8],
    apart: usize,
    queries: &[Line],
    steps: usize,
    sums: &mut [[[[i32; TILE]; TILE]; PAIR]; PAIR],
) {
    assert!(rows.len() >= (MANY - 1) * apart + steps * STEP, "two tiles of rows");
    assert!(queries.len() == MANY * steps && steps > 0, "two tiles of queries a step");
    // SAFETY: by the assertions there are 64 bytes of each row and two tiles of queries for each of the steps, and `sums` has room for
    // four tiles of 16 lines of 64 bytes. Tiles are there, as whoever made them promised, and used by nothing else.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{rows} + {apart}*1]",
            "tileloadd tmm6, [{queries} + {line}*1]",
            "tileloadd tmm7, [{queries} + {line}*1 + 1024]",
            "tileloadd tmm5, [{further} + {apart}*1]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "add {rows}, 64",
            "add {further}, 64",
            "add {queries}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {line}*1], tmm0",
            "tilestored [{sums} + {line}*1 + 1024], tmm1",
            "tilestored [{sums} + {line}*1 + 2048], tmm2",
            "tilestored [{sums} + {line}*1 + 3072], tmm3",
            rows = inout(reg) rows.as_ptr() => _,
            further = inout(reg) rows.as_ptr().add(TILE * apart) => _,
            queries = inout(reg) queries.as_ptr() => _,
            steps = inout(reg) steps => _,
            apart = in(reg) apart,
            line = in(reg) LINE,
            sums = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
