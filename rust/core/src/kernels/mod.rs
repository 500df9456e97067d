//! Kernels: the loops in which a search spends its time, once in scalar code and once for each CPU family.
//!
//! A verb works on a whole list (of ids, of rows, of a query's values), so that the choice of kernel is made above the loop. Some are
//! plain loops of other modules, compiled for each CPU family. All kernels agree bit for bit, because the order of every float sum is
//! part of the contract:
//!
//! * **dot**: [`LANES`] partial sums, element i fused into sum i mod 32, a tail padded with zeros, then a
//!   pairwise tree (16, 8, 4, 2, 1 apart).
//! * **dot of bytes**: one exact integer a row, then a float.
//! * **sketch**: eight lanes; for each of the four widths lane l sums, as one exact integer, coordinates
//!   4l..4l+4 of every group of that width, and fuses the sum into the lane with the width's scale, the widest
//!   first; a pairwise tree (4, 2, 1 apart); then `+ base`, then `+ offset`.
//! * **multiply**: one sum, element after element, each fused into it; then `+ bias`.
//! * **sieve**: one exact integer a row, then a float, of which a bound is made without fusing.
//! * **scan**: one exact integer a row, the sum of entries of tables, fused with the step into the base logit.

/// A verb of plain loops of another module, compiled for `$features`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! plain {
    ($features:literal, $verb:ident($($arg:ident: $kind:ty),*) $(-> $out:ty)? $body:block) => {
        pub(super) fn $verb(self, $($arg: $kind),*) $(-> $out)? {
            #[target_feature(enable = $features)]
            fn compiled($($arg: $kind),*) $(-> $out)? $body
            // SAFETY: `self` exists only on CPUs with these features.
            unsafe { compiled($($arg),*) }
        }
    };
}

/// The verbs of a kernel of one CPU family, over the `dot`, `dot_bytes_each`, `multiply`, `sieve_rows`, `sketch_each`, `tables` and `scan_blocks` of
/// the module, all compiled for `$features`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! verbs {
    ($kernel:ident, $features:literal) => {
        impl $kernel {
            pub(super) fn dot_ids<T: Element>(
                self,
                rows: &[T],
                d: usize,
                query: &[f32],
                ids: &[u32],
                out: &mut [f32],
            ) {
                // SAFETY: `self` exists only on CPUs with these features.
                unsafe { dot_ids(rows, d, query, ids, out) }
            }

            pub(super) fn dot_rows<T: Element>(self, rows: &[T], d: usize, query: &[f32], out: &mut [f32]) {
                // SAFETY: `self` exists only on CPUs with these features.
                unsafe { dot_rows(rows, d, query, out) }
            }

            pub(super) fn dot_bytes(self, rows: &[i8], d: usize, query: &[i8], out: &mut [f32]) {
                // SAFETY: `self` exists only on CPUs with these features.
                unsafe { dot_bytes(rows, d, query, out) }
            }

            pub(super) fn dot_bytes_ids(
                self,
                rows: &[i8],
                d: usize,
                query: &[i8],
                ids: &[u32],
                out: &mut [f32],
            ) {
                // SAFETY: `self` exists only on CPUs with these features.
                unsafe { dot_bytes_ids(rows, d, query, ids, out) }
            }

            pub(super) fn sketch_ids(
                self,
                sketches: SketchView<'_>,
                query: &SketchQuery,
                ids: &[u32],
                out: &mut [f32],
            ) {
                // SAFETY: `self` exists only on CPUs with these features.
                unsafe { sketch_each(sketches, query, |i| ids.get(i).copied(), out) }
            }

            pub(super) fn sketch_rows(
                self,
                sketches: SketchView<'_>,
                query: &SketchQuery,
                first: usize,
                out: &mut [f32],
            ) {
                // SAFETY: `self` exists only on CPUs with these features.
                unsafe { sketch_each(sketches, query, |i| Some((first + i) as u32), out) }
            }

            plain!($features, prepare_columns(query: &mut ColumnQuery, columns: &$crate::columns::Columns, z: &[f32]) {
                query.prepare(columns, z, |bits, inverse| tables(bits, inverse))
            });
            plain!($features, nth(scores: &[f32], rank: usize, keys: &mut Vec<i32>) -> f32 {
                $crate::topk::nth(scores, rank, keys)
            });
            plain!($features, order(scores: &mut [f32], ids: &mut [u32], keys: &mut Vec<u64>) {
                $crate::topk::order(scores, ids, keys)
            });
            pub(super) fn tile(self) -> [usize; 2] {
                [ROWS, BESIDE]
            }

            plain!($features, take_best(
                rows_and_queries: [&[f32]; 2],
                d: usize,
                of_rows: (usize, &[f32]),
                best: &mut [$crate::topk::TopK]
            ) {
                $crate::product::take_best(
                    rows_and_queries,
                    d,
                    of_rows,
                    best,
                    |rows: [&[f32]; ROWS], queries| multiply::<2>(rows, queries),
                    |rows: [&[f32]; ROWS], queries| multiply::<1>(rows, queries),
                )
            });
            plain!($features, sieve(
                some: $crate::byte_rows::SomeRows<'_>,
                sought: &mut [$crate::certain::Sought],
                room: &mut $crate::certain::Room
            ) {
                sieve_rows(some, sought, room, |rows, d, query, out| dot_bytes(rows, d, query, out))
            });
            plain!($features, round(
                map: &$crate::coordinates::Projection,
                query: &[f32],
                rounded: &mut $crate::coordinates::Rounded
            ) {
                map.round_plainly(query, rounded)
            });
            plain!($features, nearest(
                centers: &$crate::regions::Centers,
                z: &[f32],
                place: &mut $crate::regions::Place
            ) -> $crate::regions::Nearest {
                centers.nearest_plainly(z, place, |rows, d, query, out| dot_bytes(rows, d, query, out))
            });

            pub(super) fn scan_blocks(
                self,
                columns: ColumnsView<'_>,
                query: &ColumnQuery,
                blocks: &[usize],
                floor: f32,
                out: &mut [Promised],
            ) {
                // SAFETY: `self` exists only on CPUs with these features.
                unsafe { scan_blocks(columns, query, blocks, floor, out) }
            }
        }

        #[target_feature(enable = $features)]
        fn dot_ids<T: Element>(rows: &[T], d: usize, query: &[f32], ids: &[u32], out: &mut [f32]) {
            for &id in ids.iter().take(AHEAD_ROWS) {
                prefetch_range(rows, id as usize * d, d);
            }
            for (i, (&id, score)) in ids.iter().zip(out).enumerate() {
                if let Some(&next) = ids.get(i + AHEAD_ROWS) {
                    prefetch_range(rows, next as usize * d, d);
                }
                *score = dot(&rows[id as usize * d..][..d], query);
            }
        }

        #[target_feature(enable = $features)]
        fn dot_rows<T: Element>(rows: &[T], d: usize, query: &[f32], out: &mut [f32]) {
            for (row, score) in rows.chunks_exact(d).zip(out) {
                *score = dot(row, query);
            }
        }

        #[target_feature(enable = $features)]
        fn dot_bytes(rows: &[i8], d: usize, query: &[i8], out: &mut [f32]) {
            let n = out.len();
            let each = if rows.len() > super::NEAR { n / ROWS_OF_BYTES } else { 0 };
            let row = |i: usize| &rows[i * d..][..d];
            let four = |i: usize| {
                if i < each {
                    [row(i), row(each + i), row(2 * each + i), row(3 * each + i)]
                } else {
                    super::four_in_order(row, i, n)
                }
            };
            dot_bytes_each(n.div_ceil(ROWS_OF_BYTES), four, query, |i, sums| {
                if i < each {
                    for (part, sum) in sums.into_iter().enumerate() {
                        out[part * each + i] = sum;
                    }
                } else {
                    super::put_in_order(out, i, sums);
                }
            });
        }

        #[target_feature(enable = $features)]
        fn dot_bytes_ids(rows: &[i8], d: usize, query: &[i8], ids: &[u32], out: &mut [f32]) {
            for &id in ids.iter().take(AHEAD_ROWS_OF_BYTES) {
                prefetch_range(rows, id as usize * d, d);
            }
            let row = |i: usize| {
                if let Some(&next) = ids.get(i + AHEAD_ROWS_OF_BYTES) {
                    prefetch_range(rows, next as usize * d, d);
                }
                &rows[ids[i] as usize * d..][..d]
            };
            let n = out.len();
            dot_bytes_each(
                n.div_ceil(ROWS_OF_BYTES),
                |i| super::four_in_order(row, i, n),
                query,
                |i, sums| super::put_in_order(out, i, sums),
            );
        }
    };
}

/// The module's `multiply`, compiled for `$features`: vectors of so many lanes, how they are made, filled with one number, read, written and
/// fused into a sum.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! multiplies {
    ($features:literal, $lanes:literal, $zero:expr, $fill:ident, $load:ident, $store:ident, $fuse:expr) => {
        /// Sums of products of rows with queries, groups of which lie side by side, in the order of coordinates.
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) fn multiply<const GROUPS: usize>(
            rows: [&[f32]; ROWS],
            queries: [&[[f32; BESIDE]]; GROUPS],
        ) -> [[[f32; BESIDE]; GROUPS]; ROWS] {
            const {
                assert!(BESIDE == $lanes, "a vector of queries");
            }
            let d = queries[0].len();
            assert!(queries.iter().all(|group| group.len() == d), "queries of one length");
            assert!(rows.iter().all(|row| row.len() == d), "rows as long as queries");
            let fuse = $fuse;
            let mut sums = [[$zero; GROUPS]; ROWS];
            for at in 0..d {
                // SAFETY: there are `d` coordinates of each group, as was asserted, each of as many lanes as a vector has.
                let query = queries.map(|group| unsafe { $load(group.get_unchecked(at).as_ptr()) });
                for (sums, row) in sums.iter_mut().zip(rows) {
                    // SAFETY: there are `d` coordinates of each row, as was asserted.
                    let value = $fill(unsafe { *row.get_unchecked(at) });
                    for (sum, query) in sums.iter_mut().zip(query) {
                        *sum = fuse(*sum, query, value);
                    }
                }
            }
            let mut out = [[[0.0; BESIDE]; GROUPS]; ROWS];
            for (out, sum) in out.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                // SAFETY: the lanes of a vector are written, as many as `out` has.
                unsafe { $store(out.as_mut_ptr(), *sum) };
            }
            out
        }
    };
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod dotprod;
pub mod gemm;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vbmi;

use std::sync::OnceLock;

use crate::byte_rows::SomeRows;
use crate::certain::{Room, Sought};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::columns::BLOCK;
use crate::columns::{ColumnQuery, Columns, ColumnsView, Promised};
use crate::coordinates::{Projection, Rounded};
use crate::error::{Error, Result};
use crate::regions::{Centers, Nearest, Place};
use crate::rows::Element;
use crate::sketch::{SketchQuery, SketchView};
use crate::topk::TopK;

/// Partial sums of a dot product.
pub const LANES: usize = 32;

/// The longest rows of bytes: the sum of their products with a query's, none of which is -128, is an i32.
pub const MOST_BYTES: usize = 1 << 17;

/// Rows of bytes that share a pass over the query.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const ROWS_OF_BYTES: usize = 4;

/// Rows of bytes are fetched this many list elements before they are used.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const AHEAD_ROWS_OF_BYTES: usize = 8;

/// So many bytes are near enough to be read in order. Others are read from several places in turns: processors read ahead in each
/// page that is being read, and more of them at once than of one.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const NEAR: usize = 32 << 10;

/// Rows are fetched this many list elements before they are used.
const AHEAD_ROWS: usize = 2;

/// Columns are fetched this many before they are used.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const AHEAD_COLUMNS: usize = 12;

/// Sketches are fetched this many list elements before they are used.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const AHEAD_SKETCHES: usize = 20;

/// A kernel that this CPU can run. Holding one is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Portable code.
    Scalar(scalar::Scalar),
    /// 256-bit vectors with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    /// 512-bit vectors, and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    /// The same, and look-ups in 64 bytes.
    #[cfg(target_arch = "x86_64")]
    Vbmi(vbmi::Vbmi),
    /// The same, and tiles of bytes.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(amx::Amx),
    /// 128-bit vectors of aarch64.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    /// The same, and dot products of bytes.
    #[cfg(target_arch = "aarch64")]
    Dotprod(dotprod::Dotprod),
}

macro_rules! dispatch {
    ($kernel:expr, $k:ident => $body:expr) => {
        match $kernel {
            Kernel::Scalar($k) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2($k) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512($k) => $body,
            #[cfg(target_arch = "x86_64")]
            Kernel::Vbmi($k) => $body,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx($k) => $body,
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon($k) => $body,
            #[cfg(target_arch = "aarch64")]
            Kernel::Dotprod($k) => $body,
        }
    };
}

impl Kernel {
    /// The portable kernel.
    pub fn scalar() -> Self {
        Kernel::Scalar(scalar::Scalar::detect())
    }

    /// Every kernel that this CPU can run, the best last. For that of AMX the system is asked whether this process may run it.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "other architectures have no more")]
        let mut kernels = Self::available_unasked();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        kernels.extend(amx::Amx::detect().map(Kernel::Amx));
        kernels
    }

    /// The same, but for those that a process has to ask for.
    fn available_unasked() -> Vec<Self> {
        #[allow(unused_mut, reason = "other architectures have the scalar kernel alone")]
        let mut kernels = vec![Kernel::scalar()];
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(avx2::Avx2::detect().map(Kernel::Avx2));
            kernels.extend(avx512::Avx512::detect().map(Kernel::Avx512));
            kernels.extend(vbmi::Vbmi::detect().map(Kernel::Vbmi));
        }
        #[cfg(target_arch = "aarch64")]
        {
            kernels.extend(neon::Neon::detect().map(Kernel::Neon));
            kernels.extend(dotprod::Dotprod::detect().map(Kernel::Dotprod));
        }
        kernels
    }

    /// The kernel's name, as `LSS_SIMD` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kernel::Vbmi(_) => "vbmi",
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Kernel::Amx(_) => "amx",
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Kernel::Dotprod(_) => "dotprod",
        }
    }

    /// The best kernel, or the one that `LSS_SIMD` names.
    pub fn from_env() -> Result<Self> {
        let name = std::env::var("LSS_SIMD").unwrap_or_default();
        let named = |kernels: &[Self]| kernels.iter().copied().find(|kernel| kernel.name() == name);
        if let Some(kernel) = named(&Self::available_unasked()) {
            return Ok(kernel);
        }
        let available = Self::available();
        if name.is_empty() {
            return Ok(available[available.len() - 1]);
        }
        named(&available).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|kernel| kernel.name()).collect();
            Error::value("LSS_SIMD", format!("one of {} on this CPU", names.join(", ")), &name)
        })
    }

    /// The kernel of this process, chosen once. A bad `LSS_SIMD` is reported by [`Kernel::from_env`]; here it
    /// means the best kernel.
    pub fn active() -> Self {
        static ACTIVE: OnceLock<Kernel> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            Self::from_env().unwrap_or_else(|_| {
                let available = Self::available();
                available[available.len() - 1]
            })
        })
    }

    /// `out[i] = rows[ids[i]] . query`. The query is zero-padded to a multiple of [`LANES`]. Panics on an id
    /// outside `rows`. Rows of ids beyond `out` are fetched ahead.
    #[inline]
    pub fn dot_ids<T: Element>(self, rows: &[T], d: usize, query: &[f32], ids: &[u32], out: &mut [f32]) {
        check_dot(rows.len(), d, query);
        assert!(ids.len() >= out.len(), "no more scores than ids");
        dispatch!(self, k => k.dot_ids(rows, d, query, ids, out));
    }

    /// `out[i] = rows[i] . query` for consecutive rows.
    #[inline]
    pub fn dot_rows<T: Element>(self, rows: &[T], d: usize, query: &[f32], out: &mut [f32]) {
        check_dot(rows.len(), d, query);
        assert_eq!(rows.len(), out.len() * d, "one score a row");
        dispatch!(self, k => k.dot_rows(rows, d, query, out));
    }

    /// `out[i] = rows[i] . query` for consecutive rows of bytes, whose length `d` is a multiple of [`LANES`] and at most
    /// [`MOST_BYTES`]; those of the query lie within -127..=127.
    #[inline]
    pub fn dot_bytes(self, rows: &[i8], d: usize, query: &[i8], out: &mut [f32]) {
        check_dot_bytes(d, query);
        assert_eq!(rows.len(), out.len() * d, "one score a row");
        dispatch!(self, k => k.dot_bytes(rows, d, query, out));
    }

    /// `out[i] = rows[ids[i]] . query`, for such rows and queries. Panics on an id outside `rows`.
    #[inline]
    pub fn dot_bytes_ids(self, rows: &[i8], d: usize, query: &[i8], ids: &[u32], out: &mut [f32]) {
        check_dot_bytes(d, query);
        assert_eq!(ids.len(), out.len(), "one score an id");
        dispatch!(self, k => k.dot_bytes_ids(rows, d, query, ids, out));
    }

    /// `out[i]` = approximate logit of row `ids[i]` from its sketch. Panics on an id without a sketch.
    #[inline]
    pub fn sketch_ids(self, sketches: SketchView<'_>, query: &SketchQuery, ids: &[u32], out: &mut [f32]) {
        assert_eq!(ids.len(), out.len(), "one score an id");
        assert!(query.fits(sketches.layout), "a query prepared for this layout");
        dispatch!(self, k => k.sketch_ids(sketches, query, ids, out));
    }

    /// `out[i]` = approximate logit of row `first + i`. Panics where there is no such sketch.
    #[inline]
    pub fn sketch_rows(self, sketches: SketchView<'_>, query: &SketchQuery, first: usize, out: &mut [f32]) {
        assert!(query.fits(sketches.layout), "a query prepared for this layout");
        dispatch!(self, k => k.sketch_rows(sketches, query, first, out));
    }

    /// Make tables for a query with coordinates `z`; missing ones count as zero.
    #[inline]
    pub fn prepare_columns(self, query: &mut ColumnQuery, columns: &Columns, z: &[f32]) {
        dispatch!(self, k => k.prepare_columns(query, columns, z));
    }

    /// The score that `rank` others of these exceed or equal; NaN counts as below all. Panics if there are no more than `rank`.
    #[inline]
    pub fn nth(self, scores: &[f32], rank: usize, keys: &mut Vec<i32>) -> f32 {
        dispatch!(self, k => k.nth(scores, rank, keys))
    }

    /// Put scores and ids, no two alike, in order, the best first, ties to the lowest id; NaN counts as below all.
    #[inline]
    pub fn order(self, scores: &mut [f32], ids: &mut [u32], keys: &mut Vec<u64>) {
        dispatch!(self, k => k.order(scores, ids, keys))
    }

    /// How many rows [`Kernel::take_best`] multiplies at a time, and how many queries it would have side by side.
    pub(crate) fn tile(self) -> [usize; 2] {
        dispatch!(self, k => k.tile())
    }

    /// Offer logits of rows, the first of them and their biases given, to what is best of each query; so many queries lie side by side
    /// ([`crate::product`]).
    #[inline]
    pub(crate) fn take_best(
        self,
        rows_and_queries: [&[f32]; 2],
        d: usize,
        of_rows: (usize, &[f32]),
        best: &mut [TopK],
    ) {
        dispatch!(self, k => k.take_best(rows_and_queries, d, of_rows, best))
    }

    /// Tell each query which of these rows its bytes do not rule out ([`crate::certain`]).
    #[inline]
    pub(crate) fn sieve(self, some: SomeRows<'_>, sought: &mut [Sought], room: &mut Room) {
        let SomeRows { bytes, stride, scales, offsets } = some;
        sought.iter().for_each(|one| check_dot_bytes(stride, &one.query.bytes));
        assert!(
            [scales.len(), offsets.len()].map(|n| n * stride) == [bytes.len(); 2],
            "a scale and an offset a row"
        );
        dispatch!(self, k => k.sieve(some, sought, room))
    }

    /// Round a query to bytes, as a map reads it ([`Projection::round`]).
    #[inline]
    pub fn round(self, map: &Projection, query: &[f32], rounded: &mut Rounded) {
        dispatch!(self, k => k.round(map, query, rounded))
    }

    /// How a query with coordinates `z` lies ([`Centers::nearest`]).
    #[inline]
    pub fn nearest(self, centers: &Centers, z: &[f32], place: &mut Place) -> Nearest {
        dispatch!(self, k => k.nearest(centers, z, place))
    }

    /// `out[i]` = what the columns of block `blocks[i]` promise of its rows, but for what is the same for all rows, and
    /// of which of them it is not `floor` or less. Panics where there is no such block, or no place for one.
    #[inline]
    pub fn scan_blocks(
        self,
        columns: ColumnsView<'_>,
        query: &ColumnQuery,
        blocks: &[usize],
        floor: f32,
        out: &mut [Promised],
    ) {
        assert!(query.fits(&columns), "a query prepared for these columns");
        assert_eq!(blocks.len(), out.len(), "a place for each block");
        dispatch!(self, k => k.scan_blocks(columns, query, blocks, floor, out));
    }
}

/// The steps of a dot product: [`LANES`] elements of a row and of the padded query at a time, zeros where the row has ended. Compiled into its caller, with the caller's features.
#[inline(always)]
fn each_step<T: Element>(row: &[T], query: &[f32], mut step: impl FnMut(&[T; LANES], &[f32; LANES])) {
    let (rows, tail) = row.as_chunks::<LANES>();
    let (queries, _) = query.as_chunks::<LANES>();
    for (row, query) in rows.iter().zip(queries) {
        step(row, query);
    }
    if !tail.is_empty() {
        let mut last = [T::zeroed(); LANES];
        last[..tail.len()].copy_from_slice(tail);
        step(&last, &queries[rows.len()]);
    }
}

/// Tell `put` the scores of each of so many fours of rows of bytes. Compiled into its caller, with the caller's features.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn each_four<'a>(
    fours: usize,
    rows: impl Fn(usize) -> [&'a [i8]; ROWS_OF_BYTES],
    mut put: impl FnMut(usize, [f32; ROWS_OF_BYTES]),
    mut sum: impl FnMut([&[i8]; ROWS_OF_BYTES]) -> [f32; ROWS_OF_BYTES],
) {
    for four in 0..fours {
        put(four, sum(rows(four)));
    }
}

/// The `i`-th four of `n` rows; where fewer are left, its first stands for those that there are not.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn four_in_order<'a>(row: impl Fn(usize) -> &'a [i8], i: usize, n: usize) -> [&'a [i8]; ROWS_OF_BYTES] {
    let from = ROWS_OF_BYTES * i;
    let first = row(from);
    let other = |i: usize| if from + i < n { row(from + i) } else { first };
    [first, other(1), other(2), other(3)]
}

/// Write the scores of the `i`-th four, or as many as there are.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn put_in_order(out: &mut [f32], i: usize, sums: [f32; ROWS_OF_BYTES]) {
    let out = &mut out[ROWS_OF_BYTES * i..];
    // A copy of any length is a call.
    match out.first_chunk_mut() {
        Some(out) => *out = sums,
        None => out.copy_from_slice(&sums[..out.len()]),
    }
}

/// A block as [`ColumnsView::block`] gives it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
type Columnar<'a> = (&'a [[u8; BLOCK]], &'a [f32; BLOCK]);

/// Pairs of these blocks, and where what they promise goes: two are read in turns, with tables loaded once for both. The last of
/// an odd number makes a pair with itself. Compiled into its caller, with the caller's features.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn each_pair<'a>(
    columns: ColumnsView<'a>,
    blocks: &[usize],
    out: &mut [Promised],
    mut scan: impl FnMut([Columnar<'a>; 2], &mut [Promised; 2]),
) {
    let ((pairs, last), (outs, out)) = (blocks.as_chunks(), out.as_chunks_mut());
    for (pair, out) in pairs.iter().zip(outs) {
        scan(pair.map(|block| columns.block(block)), out);
    }
    if let ([block], [out]) = (last, out) {
        let mut both = [Promised::NOTHING; 2];
        scan([columns.block(*block); 2], &mut both);
        [*out, _] = both;
    }
}

/// Of a pair of blocks, two columns of each at a time; those [`AHEAD_COLUMNS`] further on, of this block or the next, are asked for.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn two_columns<'a>(
    [(one, _), (other, _)]: [Columnar<'a>; 2],
) -> impl Iterator<Item = [&'a [[u8; BLOCK]; 2]; 2]> {
    one.as_chunks().0.iter().zip(other.as_chunks().0).map(|(one, other)| {
        for columns in [one, other] {
            prefetch(columns, AHEAD_COLUMNS);
            prefetch(columns, AHEAD_COLUMNS + 1);
        }
        [one, other]
    })
}

fn check_dot_bytes(d: usize, query: &[i8]) {
    assert!(d > 0 && d.is_multiple_of(LANES) && d <= MOST_BYTES, "rows of whole steps, not too long");
    assert_eq!(query.len(), d, "a query as long as rows");
    debug_assert!(!query.contains(&i8::MIN), "bytes of a query in -127..=127");
}

fn check_dot(len: usize, d: usize, query: &[f32]) {
    assert!(d > 0 && len.is_multiple_of(d), "whole rows");
    assert_eq!(query.len(), d.next_multiple_of(LANES), "a padded query");
}

/// Whether this CPU has AMX for bytes; not whether a process may use it.
#[cfg(target_arch = "x86_64")]
fn has_tiles_of_bytes() -> bool {
    const TILES_AND_BYTES: u32 = 0b11 << 24;
    #[allow(unused_unsafe, reason = "younger compilers than the oldest supported know that this is safe")]
    // SAFETY: every CPU of this family has the instruction. Of leaves that it does not have it tells something else.
    let (leaves, features) =
        unsafe { (std::arch::x86_64::__get_cpuid_max(0).0, std::arch::x86_64::__cpuid_count(7, 0)) };
    leaves >= 7 && features.edx & TILES_AND_BYTES == TILES_AND_BYTES
}

/// CPU features that kernels look for, and whether this CPU has them.
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    return vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
        ("amx-int8", has_tiles_of_bytes()),
    ];
    #[cfg(target_arch = "aarch64")]
    return vec![
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

/// Makes functions that ask for cache lines.
macro_rules! asks {
    ($(#[$about:meta])* $name:ident, $hint:ident, $prfm:literal) => {
        $(#[$about])*
        #[inline(always)]
        pub fn $name<T>(slice: &[T], at: usize) {
            let line = slice.as_ptr().wrapping_add(at);
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::{$hint, _mm_prefetch};
                // SAFETY: SSE is part of x86-64, and a prefetch reads nothing: of an address without memory nothing comes.
                unsafe { _mm_prefetch::<$hint>(line.cast()) };
            }
            #[cfg(target_arch = "aarch64")]
            {
                // SAFETY: a prefetch reads nothing: of an address without memory nothing comes. Assembly, because the
                // intrinsic is not stable.
                unsafe {
                    std::arch::asm!(
                        concat!("prfm ", $prfm, ", [{line}]"),
                        line = in(reg) line,
                        options(readonly, nostack, preserves_flags),
                    );
                }
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            let _ = line;
        }
    };
}

asks!(
    /// Ask the memory system for the cache line that holds `slice[at]`, or would. Whether it exists is not asked: that costs more.
    prefetch,
    _MM_HINT_T0,
    "pldl1keep"
);
asks!(
    /// The same, into the second-level cache: for what is needed after more else than the nearest one can wait for.
    prefetch_far,
    _MM_HINT_T1,
    "pldl2keep"
);

/// Ask for every cache line of `slice[from..from + len]`.
#[inline(always)]
pub(crate) fn prefetch_range<T>(slice: &[T], from: usize, len: usize) {
    let step = (crate::memory::LINE / size_of::<T>()).max(1);
    let mut at = from;
    while at < from + len {
        prefetch(slice, at);
        at += step;
    }
}
