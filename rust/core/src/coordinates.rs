//! Logit-aligned coordinates: the query's and the rows' affine maps into a space where a logit is a plain inner
//! product and a few leading coordinates carry most of it.

use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::memory::{Block, Matrix};

/// `z(q) = query_map q + query_offset`; for rows `Z_w = row_map w + row_offset` and `base = w . mu + b`, so that
/// `w . q + b = base_w + Z_w . z(q) + (a term equal for all rows)` when all coordinates are kept.
#[derive(Clone)]
pub struct Coordinates {
    /// The query's map; all that a search needs.
    pub query: Affine,
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

    /// Apply to a zero-padded vector.
    pub fn apply(&self, kernel: Kernel, x: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.matrix.rows(), 0.0);
        kernel.dot_rows(self.matrix.values(), self.matrix.stride(), x, out);
        for (value, offset) in out.iter_mut().zip(&self.offset[..]) {
            *value += offset;
        }
    }
}

impl Coordinates {
    /// Check that the parts fit each other and a layer of `m` rows of dimension `d`.
    pub fn check(&self, m: usize, d: usize) -> Result<()> {
        let p = self.variances.len();
        for (arg, map) in [("query_map", &self.query), ("row_map", &self.row)] {
            let shape = (map.matrix.rows(), map.matrix.cols());
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
