//! Logit-aligned coordinates: the query's and the rows' affine maps into a space where a logit is a plain inner
//! product and a few leading coordinates carry most of it.

use half::f16;

use crate::error::{Error, Result};
use crate::kernels::{FOLD, Folded, Kernel};
use crate::memory::{Block, Matrix};

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

/// The query's map in half precision, a scale a row: `z = scales * (matrix x) + offset`. What projecting costs is
/// reading the map, and the sketches that read z are far coarser.
#[derive(Clone)]
pub struct Projection {
    matrix: Matrix<f16>,
    scales: Block<f32>,
    offset: Block<f32>,
}

impl Projection {
    /// Round `rows` x `cols` row-major values. Scales are powers of two, so that values which are halves already
    /// stay what they are.
    pub fn new(rows: usize, cols: usize, values: &[f32], offset: Block<f32>) -> Result<Self> {
        let (mut halves, mut scales) = (Vec::with_capacity(values.len()), Vec::with_capacity(rows));
        for row in values.chunks(cols.max(1)) {
            let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let scale = f32::from_bits(largest.to_bits() & f32::INFINITY.to_bits()).max(f32::MIN_POSITIVE);
            halves.extend(row.iter().map(|value| f16::from_f32(value / scale)));
            scales.push(scale);
        }
        Self::from_parts(Matrix::new(rows, cols, &halves), Block::copy_of(&scales), offset)
    }

    /// As a file holds it.
    pub fn from_parts(matrix: Matrix<f16>, scales: Block<f32>, offset: Block<f32>) -> Result<Self> {
        for (arg, values) in [("query_scales", &scales), ("query_offset", &offset)] {
            if values.len() != matrix.rows() {
                return Err(Error::value(arg, format!("of length {}", matrix.rows()), values.len()));
            }
        }
        Ok(Projection { matrix, scales, offset })
    }

    /// The matrix.
    pub fn matrix(&self) -> &Matrix<f16> {
        &self.matrix
    }

    /// What each row is multiplied by.
    pub fn scales(&self) -> &Block<f32> {
        &self.scales
    }

    /// What is added.
    pub fn offset(&self) -> &Block<f32> {
        &self.offset
    }

    /// Apply to a zero-padded vector.
    pub fn apply(&self, kernel: Kernel, x: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.matrix.rows(), 0.0);
        kernel.dot_rows(self.matrix.values(), self.matrix.stride(), x, out);
        self.finish(out);
    }

    /// Apply to queries laid side by side, the same for each; `out` has room for so many of them.
    pub fn apply_folded(&self, kernel: Kernel, queries: &[Folded], out: &mut [f32]) {
        const ROWS: usize = 64;
        let (stride, mut part) = (self.matrix.stride(), [[0.0; ROWS]; FOLD]);
        for (i, rows) in self.matrix.values().chunks(ROWS * stride).enumerate() {
            let n = rows.len() / stride;
            kernel.dot_rows_folded(rows, stride, queries, part.each_mut().map(|part| &mut part[..n]));
            for (out, part) in out.chunks_exact_mut(self.matrix.rows()).zip(&part) {
                out[i * ROWS..][..n].copy_from_slice(&part[..n]);
            }
        }
        out.chunks_exact_mut(self.matrix.rows()).for_each(|out| self.finish(out));
    }

    fn finish(&self, out: &mut [f32]) {
        for ((value, scale), offset) in out.iter_mut().zip(&self.scales[..]).zip(&self.offset[..]) {
            *value = *value * scale + offset;
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
