//! The product of all rows with many queries, in full precision, with the selection fused in: no more than the logits of some rows and a
//! few queries exist at any time.

use crate::kernels::{Kernel, LANES, prefetch_range};
use crate::memory::BLOCK_BYTES;
use crate::rows::Rows;
use crate::sums::{LARGE, NOTHING, UNIT};
use crate::topk::TopK;

/// Bytes of queries that share a pass over the rows, at most, and how many they are.
const GROUP_BYTES: usize = 1 << 20;
const GROUP: usize = 512;

/// Queries of dimension `d`, of `n` for each thread, that are multiplied with all rows together.
pub fn together(kernel: Kernel, d: usize, n: usize) -> usize {
    let most = (GROUP_BYTES / (d * size_of::<f32>())).clamp(1, GROUP);
    n.clamp(1, most).next_multiple_of(kernel.tile()[1])
}

/// Coordinates that are laid side by side at a time.
const PART: usize = 16;

/// What a product writes to beside what it finds.
#[derive(Default)]
pub struct Product {
    /// Some rows, in single precision.
    wide: Vec<f32>,
    /// All queries side by side.
    queries: Vec<f32>,
}

impl Product {
    /// Offer all logits of each of the queries (n x d) to what is best of it: sums of products, fused, in the order of coordinates, and then
    /// the bias; on every kernel the same.
    pub fn take_best(&mut self, rows: &Rows, kernel: Kernel, queries: &[f32], best: &mut [TopK]) {
        let (m, d) = (rows.m(), rows.d());
        let Product { wide, queries: all } = self;
        let [rows_together, beside] = kernel.tile();
        side_by_side(queries, d, beside, all);
        let block = (BLOCK_BYTES / (d * size_of::<f32>())).max(1).next_multiple_of(rows_together);
        for first in (0..m).step_by(block) {
            let count = block.min(m - first);
            let some = rows.widened(first, count, wide);
            kernel.take_best([some, all], d, (first, &rows.bias()[first..][..count]), best);
        }
    }
}

/// The length of a vector of `d` coordinates whose squares, added up in single precision, are `squares`; at most.
fn length_at_most(squares: f64, d: usize) -> f64 {
    (squares * (1.0 + rounding(d)) + d as f64 * NOTHING).sqrt()
}

/// What rounding makes of a sum of so many terms, as a share of the sum of their sizes; at most.
fn rounding(operations: usize) -> f64 {
    let share = operations as f64 * UNIT;
    if share < 0.5 { share / (1.0 - share) } else { f64::INFINITY }
}

/// What a logit of a search can be, at most, whose sum by [`Product::take_best`] is no more than `sum`: for a query, and rows
/// whose squares, added up in single precision, are no more than `squares`. Infinite where that is not known.
pub fn at_most(sum: f32, query: &[f32], squares: f32) -> f64 {
    let d = query.len();
    let longest = length_at_most(f64::from(squares), d);
    let squares: f64 = query.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    let length = length_at_most(squares, d);
    let size = length * longest;
    // A search adds up in lanes, and these then.
    let too_small = d as f64 * NOTHING * (1.0 + length + longest);
    let apart = (rounding(d + 1) + rounding(d.div_ceil(LANES) + LANES)) * size + too_small;
    let logit = f64::from(sum.max(f32::MIN)) + apart;
    // The sum and the logit are rounded once more, where the bias is added.
    let most = logit + 4.0 * UNIT * logit.abs() + NOTHING;
    if size < LARGE && most < f64::from(f32::MAX) { most } else { f64::INFINITY }
}

/// Lay vectors of `d` coordinates side by side, so many of them: their first coordinates, their second ones, and so on; then the next.
fn side_by_side(vectors: &[f32], d: usize, beside: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize((vectors.len() / d).next_multiple_of(beside) * d, 0.0);
    for (some, out) in vectors.chunks(beside * d).zip(out.chunks_exact_mut(beside * d)) {
        for from in (0..d).step_by(PART) {
            let part = from..d.min(from + PART);
            for (place, vector) in some.chunks_exact(d).enumerate() {
                for (at, value) in part.clone().zip(&vector[part.clone()]) {
                    out[at * beside + place] = *value;
                }
            }
        }
    }
}

/// Offer logits of rows, the first of them and their biases given, to what is best of each query, `BESIDE` of which lie side by side:
/// [`Kernel::take_best`]. What is made of as many rows and two such groups of queries, or one, are sums of products, fused, in the order of
/// coordinates. Compiled into its caller, with the caller's features.
#[inline(always)]
pub(crate) fn take_best<const ROWS: usize, const BESIDE: usize>(
    [rows, queries]: [&[f32]; 2],
    d: usize,
    of_rows: (usize, &[f32]),
    best: &mut [TopK],
    multiply_two: impl Fn([&[f32]; ROWS], [&[[f32; BESIDE]]; 2]) -> [[[f32; BESIDE]; 2]; ROWS],
    multiply_one: impl Fn([&[f32]; ROWS], [&[[f32; BESIDE]]; 1]) -> [[[f32; BESIDE]; 1]; ROWS],
) {
    let groups = queries.as_chunks().0;
    let twos = groups.chunks(2 * d).zip(best.chunks_mut(2 * BESIDE));
    for (i, (groups, best)) in twos.enumerate() {
        let (one, other) = groups.split_at(d);
        if other.is_empty() {
            offer(rows, [one], of_rows, best, i == 0, &multiply_one);
        } else {
            offer(rows, [one, other], of_rows, best, i == 0, &multiply_two);
        }
    }
}

/// The same for so many groups; rows may be far yet.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "what is not a number is not below a floor")]
fn offer<const ROWS: usize, const BESIDE: usize, const GROUPS: usize>(
    rows: &[f32],
    queries: [&[[f32; BESIDE]]; GROUPS],
    (first, bias): (usize, &[f32]),
    best: &mut [TopK],
    far: bool,
    multiply: impl Fn([&[f32]; ROWS], [&[[f32; BESIDE]]; GROUPS]) -> [[[f32; BESIDE]; GROUPS]; ROWS],
) {
    let d = queries[0].len();
    // Where there is no query all sums are below the floor.
    let mut floors = [[f32::INFINITY; BESIDE]; GROUPS];
    let each = floors.as_flattened_mut().iter_mut().zip(&*best);
    each.for_each(|(floor, best)| *floor = best.floor());
    for (part, (some, bias)) in rows.chunks(ROWS * d).zip(bias.chunks(ROWS)).enumerate() {
        if far {
            prefetch_range(rows, (part + 1) * ROWS * d, ROWS * d);
        }
        // The last stands for those that there are not.
        let each = std::array::from_fn(|i| &some[i.min(bias.len() - 1) * d..][..d]);
        let sums = multiply(each, queries);
        for (at, (&bias, mut sums)) in bias.iter().zip(sums).enumerate() {
            let mut any = false;
            for (sums, floors) in sums.iter_mut().zip(&floors) {
                for (sum, floor) in sums.iter_mut().zip(floors) {
                    *sum += bias;
                    any |= !(*sum < *floor);
                }
            }
            if any {
                let id = (first + part * ROWS + at) as u32;
                let each = best.iter_mut().zip(sums.as_flattened()).zip(floors.as_flattened_mut());
                for ((best, &sum), floor) in each {
                    if !(sum < *floor) {
                        best.push(sum, id);
                        *floor = best.floor();
                    }
                }
            }
        }
    }
}
