//! Planes and codes: K hyperplanes a table turn a vector into a K-bit bucket code and K margins.

use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::memory::{Block, Matrix, padded};

/// The largest number of bits a table.
pub const MAX_BITS: usize = 24;

/// The largest number of tables.
pub const MAX_TABLES: usize = 256;

/// Which vector the planes cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// `[q, 1]` for queries and `[w, b]` for rows, as in the paper (arXiv 2007.01230).
    Augmented,
    /// The leading logit-aligned coordinates; a row's are scaled to norm sqrt(r), the norm queries have.
    Aligned,
}

impl Space {
    /// The name in files and in Python.
    pub fn name(self) -> &'static str {
        match self {
            Space::Augmented => "augmented",
            Space::Aligned => "aligned",
        }
    }

    /// The inverse of [`Space::name`].
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "augmented" => Ok(Space::Augmented),
            "aligned" => Ok(Space::Aligned),
            _ => Err(Error::value("space", "'augmented' or 'aligned'", name)),
        }
    }
}

/// The hyperplanes of all tables: bit k of table t is `plane . x > threshold`.
#[derive(Clone)]
pub struct Planes {
    space: Space,
    n_tables: usize,
    n_bits: usize,
    matrix: Matrix,
    thresholds: Block<f32>,
}

impl Planes {
    /// `matrix` holds `n_tables * n_bits` planes, table by table.
    pub fn new(
        space: Space,
        n_tables: usize,
        n_bits: usize,
        matrix: Matrix,
        thresholds: Block<f32>,
    ) -> Result<Self> {
        if n_bits == 0 || n_bits > MAX_BITS {
            return Err(Error::value("n_bits", format!("in 1..={MAX_BITS}"), n_bits));
        }
        if n_tables == 0 || n_tables > MAX_TABLES {
            return Err(Error::value("n_tables", format!("in 1..={MAX_TABLES}"), n_tables));
        }
        let n = n_tables * n_bits;
        if matrix.rows() != n || matrix.cols() == 0 {
            return Err(Error::value(
                "planes",
                format!("{n} planes"),
                format!("{} x {}", matrix.rows(), matrix.cols()),
            ));
        }
        if thresholds.len() != n {
            return Err(Error::value("thresholds", format!("of length {n}"), thresholds.len()));
        }
        Ok(Planes { space, n_tables, n_bits, matrix, thresholds })
    }

    /// Which vector the planes cut.
    pub fn space(&self) -> Space {
        self.space
    }

    /// Number of tables.
    pub fn n_tables(&self) -> usize {
        self.n_tables
    }

    /// Bits a table.
    pub fn n_bits(&self) -> usize {
        self.n_bits
    }

    /// Dimension of the vector that the planes cut.
    pub fn dim(&self) -> usize {
        self.matrix.cols()
    }

    /// The planes.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// The thresholds.
    pub fn thresholds(&self) -> &Block<f32> {
        &self.thresholds
    }

    /// Signed margins of a zero-padded vector, `n_tables * n_bits`, table by table.
    pub fn margins(&self, kernel: Kernel, x: &[f32], margins: &mut Vec<f32>) {
        margins.clear();
        margins.resize(self.matrix.rows(), 0.0);
        kernel.dot_rows(self.matrix.values(), self.matrix.stride(), x, margins);
        for (margin, threshold) in margins.iter_mut().zip(&self.thresholds[..]) {
            *margin -= threshold;
        }
    }

    /// The code in each table from the margins: bit k is set where margin k is positive.
    pub fn codes<'a>(&self, margins: &'a [f32]) -> impl Iterator<Item = u32> + use<'a> {
        margins.chunks_exact(self.n_bits).map(code)
    }
}

/// The code of one table.
#[inline]
pub fn code(margins: &[f32]) -> u32 {
    margins.iter().enumerate().fold(0, |code, (bit, &margin)| code | (u32::from(margin > 0.0) << bit))
}

/// `[w, b]` or `[q, 1]`, zero-padded.
pub fn augment(vector: &[f32], last: f32, out: &mut Vec<f32>) {
    out.clear();
    out.resize(padded(vector.len() + 1), 0.0);
    out[..vector.len()].copy_from_slice(vector);
    out[vector.len()] = last;
}

/// The leading `r` coordinates, zero-padded.
pub fn lead(z: &[f32], r: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(padded(r), 0.0);
    out[..r].copy_from_slice(&z[..r]);
}

/// The leading coordinates of a row, scaled to the norm sqrt(r) that queries have on average, zero-padded.
pub fn lead_of_row(z: &[f32], r: usize, out: &mut Vec<f32>) {
    lead(z, r, out);
    let norm = out.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    if norm > 0.0 {
        let scale = ((r as f64).sqrt() / norm) as f32;
        out.iter_mut().for_each(|value| *value *= scale);
    }
}
