//! Logit-aligned coordinates: the query's and the rows' affine maps into a space where a logit is a plain inner
//! product and a few leading coordinates carry most of it.

use crate::error::{Error, Result};
use crate::kernels::{Kernel, MOST_BYTES, prefetch};
use crate::memory::{Block, Buffer, Matrix, padded};
use crate::sketch::{LARGEST_BYTE, byte_step, round_to_byte};
use crate::sums::largest;
use crate::threads;
use rayon::prelude::*;

/// `z(q) = query_map q + query_offset`; for rows `Z_w = row_map w + row_offset` and `base = w . mu + b`, so that
/// `w . q + b = base_w + Z_w . z(q) + (a term equal for all rows)` when all coordinates are kept.
#[derive(Clone)]
pub struct Coordinates {
    /// The query's map; all that a search needs.
    pub query: Projection,
    /// The rows' map, (p, d).
    pub row: Affine,
    /// Logit variance that each coordinate carries, falling.
    pub variances: Vec<f32>,
    /// Logit of each row for the mean query, (m,).
    pub base: Block<f32>,
}

/// `x -> matrix x + offset`.
#[derive(Clone)]
pub struct Affine {
    matrix: Matrix,
    offset: Block<f32>,
}

impl Affine {
    /// One offset a row of the matrix.
    pub fn new(matrix: Matrix, offset: Block<f32>) -> Result<Self> {
        if matrix.rows() != offset.len() {
            return Err(Error::value("offset", format!("of length {}", matrix.rows()), offset.len()));
        }
        Ok(Affine { matrix, offset })
    }

    /// The matrix.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// The offset.
    pub fn offset(&self) -> &Block<f32> {
        &self.offset
    }
}

/// The query's map in bytes: `z = scales * (matrix x) + offset`, where x is what a query differs by from the mean query,
/// a weight a coordinate, rounded to bytes too. What projecting costs is reading the map, and the sketches that read z are
/// far coarser.
///
/// A weight is one over the root of the deviation of queries in its coordinate: so are outlying coordinates shared between
/// the rounding of the map and that of the query (G. Xiao et al., "SmoothQuant", ICML 2023, with exponent 1/2).
#[derive(Clone)]
pub struct Projection {
    matrix: Matrix<i8>,
    scales: Block<f32>,
    offset: Block<f32>,
    center: Block<f32>,
    weights: Block<f32>,
}

/// A query as a [`Projection`] reads it, and all others that round as it does.
#[derive(Default)]
pub struct Rounded {
    values: Vec<f32>,
    bytes: Vec<i8>,
    step: f32,
    /// What bytes of this step leave, where they are coarse, in bytes of a step that is this share of it; 0 where not.
    rest: Vec<i8>,
    share: f32,
    sums: Vec<f32>,
}

impl Rounded {
    /// Round the values to bytes, `len` with zeros at the end.
    #[inline(always)]
    fn round(&mut self, len: usize) {
        self.step = round_to_bytes(&self.values, len, &mut self.bytes);
        self.share = 0.0;
        if self.step > 0.0 && self.coarse() {
            take_away(&mut self.values, &self.bytes, self.step);
            self.share = round_to_bytes(&self.values, len, &mut self.rest) / self.step;
        }
    }

    /// Multiply rows by the bytes, and by those of the rest; returns the step.
    fn multiply(&mut self, dot: impl Fn(&[i8], &mut [f32]), out: &mut [f32]) -> f32 {
        dot(&self.bytes, out);
        if self.share > 0.0 {
            self.sums.resize(out.len(), 0.0);
            dot(&self.rest, &mut self.sums);
            for (value, rest) in out.iter_mut().zip(&self.sums) {
                *value += rest * self.share;
            }
        }
        self.step
    }

    /// Whether bytes are coarse: where few numbers are far larger than all others, as in queries of another kind than
    /// those that weights are made from.
    #[inline(always)]
    fn coarse(&self) -> bool {
        let sum: i32 = self.bytes.iter().map(|&byte| i32::from(byte).abs()).sum();
        i64::from(sum) - (LARGEST_BYTE as i64) < COARSE * (self.values.len() as i64 - 1)
    }
}

/// Round values to bytes, `len` with zeros at the end; returns the step.
#[inline(always)]
pub(crate) fn round_to_bytes(values: &[f32], len: usize, bytes: &mut Vec<i8>) -> f32 {
    let (step, inverse) = byte_step(values);
    bytes.clear();
    bytes.extend(values.iter().map(|value| round_to_byte(value * inverse)));
    bytes.resize(len, 0);
    step
}

/// Take bytes of this step away from what they were rounded from.
#[inline(always)]
pub(crate) fn take_away(values: &mut [f32], bytes: &[i8], step: f32) {
    for (value, &byte) in values.iter_mut().zip(bytes) {
        *value -= f32::from(byte) * step;
    }
}

/// What bytes must come to on average, without sign and but for the largest, or what they leave is rounded, too.
const COARSE: i64 = 8;

/// Deviations count as this share of the largest at least.
const LEAST_DEVIATION: f32 = 1e-3;

impl Projection {
    /// Round the map `z = values x + offset` (`rows` x `cols`, row-major), for queries of this mean and these
    /// deviations, one a column.
    pub fn new(
        rows: usize,
        cols: usize,
        values: &[f32],
        offset: &[f32],
        [mean, deviations]: [&[f32]; 2],
    ) -> Result<Self> {
        for (arg, given) in [("query_mean", mean), ("query_deviations", deviations)] {
            if given.len() != cols {
                return Err(Error::value(arg, format!("of length {cols}"), given.len()));
            }
        }
        if offset.len() != rows {
            return Err(Error::value("query_offset", format!("of length {rows}"), offset.len()));
        }
        let largest = deviations.iter().copied().fold(0.0, f32::max);
        let floor = if largest > 0.0 { LEAST_DEVIATION * largest } else { 1.0 };
        let weights: Vec<f32> = deviations.iter().map(|value| value.max(floor).sqrt().recip()).collect();
        let row = |at: usize, out: &mut Vec<f32>| {
            out.extend_from_slice(&values[at * cols..][..cols]);
            offset[at]
        };
        threads::install(0, || Self::made([Block::copy_of(mean), Block::copy_of(&weights)], rows, row))?
    }

    /// Another map `x -> values x + offset`, of `rows` coordinates, of queries that are rounded as for this one: `row` appends
    /// the values of one and returns its offset.
    pub fn beside(&self, rows: usize, row: impl Fn(usize, &mut Vec<f32>) -> f32 + Sync) -> Result<Self> {
        Self::made([self.center.clone(), self.weights.clone()], rows, row)
    }

    /// The same, as a file holds it.
    pub fn with(&self, matrix: Matrix<i8>, scales: Block<f32>, offset: Block<f32>) -> Result<Self> {
        Self::from_parts(matrix, [scales, offset, self.center.clone(), self.weights.clone()])
    }

    fn made(
        [center, weights]: [Block<f32>; 2],
        rows: usize,
        row: impl Fn(usize, &mut Vec<f32>) -> f32 + Sync,
    ) -> Result<Self> {
        let cols = center.len();
        let mut bytes = Buffer::zeroed(rows * padded(cols));
        let (mut scales, mut offset) = (vec![0.0f32; rows], vec![0.0f32; rows]);
        let outputs = bytes.par_chunks_mut(padded(cols).max(1)).zip(&mut scales).zip(&mut offset);
        outputs.enumerate().for_each_init(Vec::new, |values, (at, ((bytes, scale), offset))| {
            values.clear();
            let given = row(at, values);
            let of_mean: f64 =
                values.iter().zip(&center[..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            *offset = (f64::from(given) + of_mean) as f32;
            values.iter_mut().zip(&weights[..]).for_each(|(value, weight)| *value /= weight);
            *scale = largest(values) / LARGEST_BYTE;
            // Of a smaller step bytes would not be near to what they stand for.
            if *scale < f32::MIN_POSITIVE {
                *scale = 0.0;
            }
            if *scale > 0.0 {
                for (byte, value) in bytes.iter_mut().zip(values) {
                    *byte = round_to_byte(*value / *scale);
                }
            }
        });
        let matrix = Matrix::from_padded(rows, cols, bytes.freeze())?;
        Self::from_parts(matrix, [Block::copy_of(&scales), Block::copy_of(&offset), center, weights])
    }

    /// As a file holds it: the matrix, scales, offset, center and weights.
    pub fn from_parts(
        matrix: Matrix<i8>,
        [scales, offset, center, weights]: [Block<f32>; 4],
    ) -> Result<Self> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let lengths = [
            ("query_scales", &scales, rows),
            ("query_offset", &offset, rows),
            ("query_center", &center, cols),
            ("query_weights", &weights, cols),
        ];
        for (arg, values, len) in lengths {
            if values.len() != len {
                return Err(Error::value(arg, format!("of length {len}"), values.len()));
            }
        }
        if matrix.stride() > MOST_BYTES {
            return Err(Error::value("query_map", format!("of at most {MOST_BYTES} columns"), cols));
        }
        Ok(Projection { matrix, scales, offset, center, weights })
    }

    /// The matrix.
    pub fn matrix(&self) -> &Matrix<i8> {
        &self.matrix
    }

    /// What each row is multiplied by.
    pub fn scales(&self) -> &Block<f32> {
        &self.scales
    }

    /// What is added: the coordinates of the mean query.
    pub fn offset(&self) -> &Block<f32> {
        &self.offset
    }

    /// The mean query.
    pub fn center(&self) -> &Block<f32> {
        &self.center
    }

    /// What each coordinate of a query is multiplied by, before it is rounded.
    pub fn weights(&self) -> &Block<f32> {
        &self.weights
    }

    /// Number of coordinates.
    pub fn rows(&self) -> usize {
        self.matrix.rows()
    }

    /// Bytes of it all.
    pub fn nbytes(&self) -> usize {
        let parts = [&self.scales, &self.offset, &self.center, &self.weights];
        self.matrix.values().nbytes() + parts.map(Block::nbytes).iter().sum::<usize>()
    }

    /// Bytes of a row, with what is multiplied and added.
    pub fn nbytes_of_row(&self) -> usize {
        self.matrix.stride() + 2 * size_of::<f32>()
    }

    /// Bytes that rounding a query and applying the first rows reads.
    pub fn nbytes_of_first(&self, rows: usize) -> usize {
        self.center.nbytes() + self.weights.nbytes() + rows * self.nbytes_of_row()
    }

    /// Apply to a query, which may be padded; `out` has a place a row.
    pub fn apply(&self, kernel: Kernel, query: &[f32], rounded: &mut Rounded, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows(), "a place a row");
        self.round(kernel, query, rounded);
        self.apply_first(kernel, rounded, out);
    }

    /// Round a query, which may be padded, for this map and all beside it.
    pub fn round(&self, kernel: Kernel, query: &[f32], rounded: &mut Rounded) {
        kernel.round(self, query, rounded);
    }

    /// The same, compiled into a kernel, and so of plain loops.
    #[inline(always)]
    pub(crate) fn round_plainly(&self, query: &[f32], rounded: &mut Rounded) {
        self.weigh(query, &mut rounded.values);
        rounded.round(self.matrix.stride());
    }

    /// What a query, which may be padded, differs by from the mean query, a weight a coordinate.
    #[inline(always)]
    pub(crate) fn weigh(&self, query: &[f32], values: &mut Vec<f32>) {
        assert!(query.len() >= self.matrix.cols(), "a query as long as rows");
        values.clear();
        let shifted = query.iter().zip(&self.center[..]).map(|(value, center)| value - center);
        // Infinite ones would make the others nothing, and themselves NaN.
        let weighted = |(value, weight): (f32, &f32)| (value * weight).clamp(f32::MIN, f32::MAX);
        values.extend(shifted.zip(&self.weights[..]).map(weighted));
    }

    /// Apply the first rows, as many as there are places.
    pub fn apply_first(&self, kernel: Kernel, rounded: &mut Rounded, out: &mut [f32]) {
        let stride = self.matrix.stride();
        let rows = &self.matrix.values()[..out.len() * stride];
        let step = rounded.multiply(|bytes, out| kernel.dot_bytes(rows, stride, bytes, out), out);
        for ((value, row), offset) in out.iter_mut().zip(&self.scales[..]).zip(&self.offset[..]) {
            // In this order a row of zeros makes nothing of any query.
            *value = *value * row * step + offset;
        }
    }

    /// Apply the rows `ids`, a place each. Panics on one that does not exist.
    pub fn apply_ids(&self, kernel: Kernel, rounded: &mut Rounded, ids: &[u32], out: &mut [f32]) {
        let (rows, stride) = (&self.matrix.values()[..], self.matrix.stride());
        let (scales, offset) = (&self.scales[..], &self.offset[..]);
        for &id in ids {
            prefetch(scales, id as usize);
            prefetch(offset, id as usize);
        }
        let step = rounded.multiply(|bytes, out| kernel.dot_bytes_ids(rows, stride, bytes, ids, out), out);
        for (value, &id) in out.iter_mut().zip(ids) {
            *value = *value * scales[id as usize] * step + offset[id as usize];
        }
    }
}

impl Coordinates {
    /// Check that the parts fit each other and a layer of `m` rows of dimension `d`.
    pub fn check(&self, m: usize, d: usize) -> Result<()> {
        let p = self.variances.len();
        let (query, row) = (&self.query.matrix, &self.row.matrix);
        let shapes = [("query_map", (query.rows(), query.cols())), ("row_map", (row.rows(), row.cols()))];
        for (arg, shape) in shapes {
            if p == 0 || shape != (p, d) {
                return Err(Error::value(arg, format!("of shape ({p}, {d}), p > 0"), format!("{shape:?}")));
            }
        }
        if self.base.len() != m {
            return Err(Error::value("base", format!("of length {m}"), self.base.len()));
        }
        Ok(())
    }
}
