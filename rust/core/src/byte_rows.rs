//! All rows of the layer in bytes: what they say of a query's logits, and how far from that these can lie.
//!
//! Lists read rows so that columns promise most of. Exact search reads all of them, a quarter of what rows in single precision take, and
//! in full precision only those that can be among the best, whatever rounding has made of the others.

use rayon::prelude::*;

use crate::coordinates::{Projection, round_to_bytes, take_away};
use crate::error::{Error, Result};
use crate::kernels::LANES;
use crate::rows::Rows;
use crate::sums::{LARGE, NOTHING, UNIT};

/// Rows whose sum, and whose bounds, are made at a time.
const TOGETHER: usize = 1024;

/// What is known of all rows together: [`Bounds`] as a file holds them.
pub const BOUNDS: usize = 4;

/// Of so many operations, at most, rounding counts as a share of a logit: two make a coordinate of a query and one of a row, six what bytes
/// leave and their step, nine an estimate, two an offset, two a bar, and one adds a bias.
const OPERATIONS: f64 = 32.0;

/// The same of an offset, in a bound of its row: what others have does not matter.
const SHARE: f32 = (OPERATIONS * UNIT) as f32;

/// What a row can have, a coordinate, whose step is too small.
const NO_STEP: f64 = 127.0 * f32::MIN_POSITIVE as f64;

/// So much more than computed: for the rounding of these bounds, and of their products with the steps of rows.
const UP: f64 = 1.0 + 1e-5;

/// Rows in bytes, and after them their mean.
#[derive(Clone)]
pub struct ByteRows {
    map: Projection,
    bounds: Bounds,
}

/// Of all rows the largest of each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Length of what bytes leave of a weighted row, in its steps.
    pub rest: f32,
    /// Length of its bytes.
    pub bytes: f32,
    /// Length of the weighted row.
    pub weighted: f32,
    /// Length of the row.
    pub length: f32,
}

impl Bounds {
    /// As a file holds them.
    pub fn to_array(self) -> [f32; BOUNDS] {
        let Bounds { rest, bytes, weighted, length } = self;
        [rest, bytes, weighted, length]
    }

    /// What [`Bounds::to_array`] made.
    pub fn from_array([rest, bytes, weighted, length]: [f32; BOUNDS]) -> Self {
        Bounds { rest, bytes, weighted, length }
    }

    fn max(self, other: Self) -> Self {
        let (a, b) = (self.to_array(), other.to_array());
        Self::from_array(std::array::from_fn(|i| a[i].max(b[i])))
    }
}

/// Consecutive rows in bytes.
#[derive(Clone, Copy)]
pub struct SomeRows<'a> {
    /// The bytes, `stride` a row.
    pub bytes: &'a [i8],
    /// A multiple of [`LANES`].
    pub stride: usize,
    /// What products with each row are multiplied by.
    pub scales: &'a [f32],
    /// What is added.
    pub offsets: &'a [f32],
}

/// A query as rows in bytes read it: in bytes, and what these leave in bytes of a finer step.
#[derive(Debug, Default)]
pub struct ByteQuery {
    values: Vec<f32>,
    /// The bytes, as many as rows have.
    pub bytes: Vec<i8>,
    /// What they leave.
    pub rest: Vec<i8>,
    /// The sum of the bytes.
    pub sum: i32,
    /// Their step.
    pub step: f32,
    /// The step of the rest, as a share of it.
    pub share: f32,
    /// How far a logit lies at most from what the bytes say, and from what both say, in steps of the row; beside [`ByteQuery::slack`].
    pub reach: [f32; 2],
    /// What rounding of floats adds to that, for any row.
    pub slack: f32,
}

impl ByteRows {
    /// Round the rows, and after them their mean, for queries that are rounded as `all` does.
    pub fn new(rows: &Rows, all: &Projection) -> Result<Self> {
        let (m, d) = (rows.m(), rows.d());
        // Parts of one size, and their sums in one order, whatever the threads.
        let part = |from: usize| {
            let (mut sums, mut some) = (vec![0.0f64; d], Vec::new());
            rows.widen_into(from, TOGETHER.min(m - from), &mut some);
            for row in some.chunks_exact(d) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            sums
        };
        let parts: Vec<Vec<f64>> = (0..m).into_par_iter().step_by(TOGETHER).map(part).collect();
        let mean = |i: usize| (parts.iter().map(|sums| sums[i]).sum::<f64>() / m as f64) as f32;
        let mean: Vec<f32> = (0..d).map(mean).collect();
        let of_bias: f64 = rows.bias().iter().map(|&bias| f64::from(bias)).sum();
        let map = all.beside(m + 1, |label, out| match rows.bias().get(label) {
            Some(&bias) => {
                rows.widen_into(label, 1, out);
                bias
            }
            None => {
                out.extend_from_slice(&mean);
                (of_bias / m as f64) as f32
            }
        })?;
        let bounds = bounds(rows, &map);
        Ok(ByteRows { map, bounds })
    }

    /// As a file holds them.
    pub fn from_parts(map: Projection, bounds: Bounds) -> Result<Self> {
        if let Some(bad) = bounds.to_array().iter().find(|bound| !(bound.is_finite() && **bound >= 0.0)) {
            return Err(Error::format("bounds of rows that are finite and not negative", bad));
        }
        if let Some(bad) = map.scales().iter().find(|scale| !scale.is_finite() || **scale < 0.0) {
            return Err(Error::format("scales of rows that are finite and not negative", bad));
        }
        if let Some(bad) = map.offset().iter().find(|offset| !offset.is_finite()) {
            return Err(Error::format("offsets of rows that are finite", bad));
        }
        Ok(ByteRows { map, bounds })
    }

    /// A query's logits, and that of the mean of all rows, but for what rounding makes of them.
    pub fn map(&self) -> &Projection {
        &self.map
    }

    /// What is known of all rows together.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Rows `first..first + n`.
    pub fn rows(&self, first: usize, n: usize) -> SomeRows<'_> {
        let (matrix, stride) = (self.map.matrix(), self.map.matrix().stride());
        SomeRows {
            bytes: &matrix.values()[first * stride..][..n * stride],
            stride,
            scales: &self.map.scales()[first..][..n],
            offsets: &self.map.offset()[first..][..n],
        }
    }

    /// Round a query; false where nothing can be said of its logits, because numbers are too large or too small.
    ///
    /// Of a weighted query x, its bytes a, and what these leave, and of a weighted row y = s b + f (steps s, bytes b), x y differs from
    /// s a b by what a leaves times s b, and by x f (Cauchy and Schwarz).
    pub fn read(&self, query: &[f32], out: &mut ByteQuery) -> bool {
        let ByteQuery { values, bytes, rest, sum, step, share, reach, slack } = out;
        let stride = self.map.matrix().stride();
        self.map.weigh(query, values);
        let weighted = length(values);
        *step = round_to_bytes(values, stride, bytes);
        *sum = bytes.iter().map(|&byte| i32::from(byte)).sum();
        take_away(values, bytes, *step);
        let left = length(values);
        let finer = round_to_bytes(values, stride, rest);
        *share = if finer > 0.0 { finer / *step } else { 0.0 };
        take_away(values, rest, finer);
        let bounds = self.bounds.to_array();
        let [of_rest, of_bytes, of_weighted, of_row] = bounds.map(f64::from);
        *reach = [left, length(values)].map(|left| ((weighted * of_rest + left * of_bytes) * UP) as f32);
        let estimate = weighted * of_weighted;
        let logit = length(query) * of_row;
        // Products are added up in lanes, and these then. Offsets are sums in double precision.
        let added = 2.0 * (query.len().div_ceil(LANES) + LANES) as f64;
        let of_center = length(&self.map.center()[..]);
        let of_floats = OPERATIONS * estimate + added * logit + of_center * of_row;
        let d = query.len() as f64;
        let factors = of_weighted + of_row + length(query) + of_center;
        let too_small = d.sqrt() * (NO_STEP * weighted + NOTHING * factors) + d * NOTHING;
        *slack = ((of_floats * UNIT + too_small) * UP) as f32;
        let large = weighted.max(weighted * of_bytes).max(estimate).max(logit);
        let known = bounds.iter().all(|&bound| bound < f32::MAX);
        let stepped = *step > 0.0 || weighted == 0.0;
        known && stepped && large < LARGE && reach.iter().chain([&*slack]).all(|bound| bound.is_finite())
    }
}

/// What the logit of a row with this scale and offset is at most, but for [`ByteQuery::slack`]: `dot` is the product of its bytes with
/// those of a query of this step and this reach.
#[inline(always)]
pub(crate) fn at_most(dot: f32, [scale, offset]: [f32; 2], [step, reach]: [f32; 2]) -> f32 {
    scale * (dot * step + reach) + raised(offset)
}

/// The same, at least.
#[inline(always)]
pub(crate) fn at_least(dot: f32, [scale, offset]: [f32; 2], [step, reach]: [f32; 2]) -> f32 {
    scale * (dot * step - reach) + (offset - SHARE * offset.abs())
}

/// What an offset is at most, whatever rounding has made of it.
#[inline(always)]
pub(crate) fn raised(offset: f32) -> f32 {
    offset + SHARE * offset.abs()
}

/// The length of a vector.
fn length(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// Of all rows but their mean.
fn bounds(rows: &Rows, map: &Projection) -> Bounds {
    let (m, d, stride) = (rows.m(), rows.d(), map.matrix().stride());
    let part = |from: usize| {
        let mut some = Vec::new();
        let mut largest = Bounds::default();
        rows.widen_into(from, TOGETHER.min(m - from), &mut some);
        for (label, row) in (from..).zip(some.chunks_exact(d)) {
            let scale = f64::from(map.scales()[label]);
            let (mut rest, mut bytes, mut weighted, mut all) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
            let codes = &map.matrix().values()[label * stride..];
            for ((&value, &code), &weight) in row.iter().zip(codes).zip(&map.weights()[..]) {
                let (value, code) = (f64::from(value), f64::from(code));
                let own = value / f64::from(weight);
                rest += (own - scale * code).powi(2);
                bytes += code * code;
                weighted += own * own;
                all += value * value;
            }
            // A row without steps is of zeros, or of numbers that are as good as none.
            let rest = if scale > 0.0 { rest.sqrt() / scale } else { 0.0 };
            let own = [rest, bytes.sqrt(), weighted.sqrt(), all.sqrt()];
            // What single precision has no number for is not known; nor is anything where an offset is none.
            let own = own.map(|bound| (bound * UP).min(f64::from(f32::MAX)) as f32);
            let own = if map.offset()[label].is_finite() { own } else { [f32::MAX; BOUNDS] };
            largest = largest.max(Bounds::from_array(own));
        }
        largest
    };
    (0..m).into_par_iter().step_by(TOGETHER).map(part).reduce(Bounds::default, Bounds::max)
}
