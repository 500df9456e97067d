//! Logit-aligned coordinates: the query's and the rows' affine maps into a space where a logit is a plain inner
//! product and a few leading coordinates carry most of it.

use crate::error::{Error, Result};
use crate::kernels::{Kernel, MOST_BYTES};
use crate::memory::{Block, Matrix};
use crate::sketch::{LARGEST_BYTE, byte_step, round_to_byte};

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

/// A query as a [`Projection`] reads it, and what is left of it.
#[derive(Default)]
pub struct Rounded {
    values: Vec<f32>,
    bytes: Vec<i8>,
    rest: Vec<f32>,
}

impl Rounded {
    /// Round the values to bytes, `len` with zeros at the end; returns the step.
    fn round(&mut self, len: usize) -> f32 {
        let (scale, inverse) = byte_step(&self.values);
        self.bytes.clear();
        self.bytes.extend(self.values.iter().map(|value| round_to_byte(value * inverse)));
        self.bytes.resize(len, 0);
        scale
    }

    /// Keep what bytes of this step leave of the values.
    fn subtract(&mut self, scale: f32) {
        for (value, &byte) in self.values.iter_mut().zip(&self.bytes) {
            *value -= f32::from(byte) * scale;
        }
    }

    /// Whether bytes are coarse: where few numbers are far larger than all others, as in queries of another kind than
    /// those that weights are made from.
    fn coarse(&self) -> bool {
        let sum: i32 = self.bytes.iter().map(|&byte| i32::from(byte).abs()).sum();
        i64::from(sum) - (LARGEST_BYTE as i64) < COARSE * (self.values.len() as i64 - 1)
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
        let (mut bytes, mut scales) = (Vec::with_capacity(values.len()), Vec::with_capacity(rows));
        let mut offset = offset.to_vec();
        let weighted = |(value, weight): (&f32, &f32)| value / weight;
        for (row, offset) in values.chunks(cols.max(1)).zip(&mut offset) {
            let largest = row.iter().zip(&weights).map(weighted).fold(0.0f32, |a, b| a.max(b.abs()));
            let scale = largest / LARGEST_BYTE;
            let code = |value: f32| if scale > 0.0 { round_to_byte(value / scale) } else { 0 };
            bytes.extend(row.iter().zip(&weights).map(weighted).map(code));
            scales.push(scale);
            let of_mean: f64 = row.iter().zip(mean).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            *offset = (f64::from(*offset) + of_mean) as f32;
        }
        let each = [&scales, &offset, mean, &weights].map(Block::copy_of);
        Self::from_parts(Matrix::new(rows, cols, &bytes), each)
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

    /// Apply to a query, which may be padded; `out` has a place a row.
    pub fn apply(&self, kernel: Kernel, query: &[f32], rounded: &mut Rounded, out: &mut [f32]) {
        assert!(query.len() >= self.matrix.cols(), "a query as long as rows");
        let (rows, stride) = (self.matrix.values(), self.matrix.stride());
        rounded.values.clear();
        let shifted = query.iter().zip(&self.center[..]).map(|(value, center)| value - center);
        // Infinite ones would make the others nothing, and themselves NaN.
        let weighted = |(value, weight): (f32, &f32)| (value * weight).clamp(f32::MIN, f32::MAX);
        rounded.values.extend(shifted.zip(&self.weights[..]).map(weighted));
        let scale = rounded.round(stride);
        kernel.dot_bytes(rows, stride, &rounded.bytes, out);
        if scale > 0.0 && rounded.coarse() {
            rounded.subtract(scale);
            let share = rounded.round(stride) / scale;
            rounded.rest.resize(out.len(), 0.0);
            kernel.dot_bytes(rows, stride, &rounded.bytes, &mut rounded.rest);
            for (value, rest) in out.iter_mut().zip(&rounded.rest) {
                *value += rest * share;
            }
        }
        for ((value, row), offset) in out.iter_mut().zip(&self.scales[..]).zip(&self.offset[..]) {
            // In this order a row of zeros makes nothing of any query.
            *value = *value * row * scale + offset;
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
