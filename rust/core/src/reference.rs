//! The whole pipeline in obvious loops: what the fast modules must agree with, bit for bit.
//!
//! Nothing here is clever, shared with a fast module or meant to be called outside of tests. Types that only
//! carry data are shared; every algorithm is written a second time, from its documentation:
//! sums in the documented order, sets as ordered sets, selections as full sorts.
//!
//! One file although it is long, so that the method can be read from top to bottom in its plainest form.
//!
//! One thing has no documented order of sums: the rows' coordinates, which come from a library's matrix product.
//! [`Reference::build`] takes them in double precision, so it agrees exactly where sums are exact (small dyadic
//! numbers), and [`Reference::of`] takes an index's own sketches and buckets where they are not.
#![doc(hidden)]

use std::collections::{BTreeMap, BTreeSet};

use bytemuck::Pod;

use crate::build::Recipe;
use crate::byte_rows::{ByteQuery, ByteRows, SomeRows, at_least, at_most};
use crate::certain::{ASKED, LEFT, MOST, TURN};
use crate::columns::Columns;
use crate::coordinates::{Affine, Coordinates, Projection};
use crate::error::{Error, Result};
use crate::exemplars::Exemplars;
use crate::fitted::{Fill, Fitted, ListPoint, OperatingPoint};
use crate::hash::{Planes, Space};
use crate::memory::{Block, Matrix};
use crate::need::{self, SHOWN};
use crate::regions::{ENDS, Region, Regions};
use crate::rows::{Rows, Weights};
use crate::search::{Effort, OnShort, Step, Work};
use crate::sketch::{Layout, Sketcher, Sketches};
use crate::tables::Tables;
use crate::trust::{LISTED, TABLES};

// ---------------------------------------------------------------------------------------------------- project

/// A dot product in the documented order: element i into sum i mod 32, a tail of zeros, a pairwise tree.
pub fn dot(row: &[f32], query: &[f32]) -> f32 {
    assert_eq!(row.len(), query.len(), "vectors of one length");
    let mut sums = [0.0f32; 32];
    for i in 0..row.len().div_ceil(32) * 32 {
        let (w, q) = if i < row.len() { (row[i], query[i]) } else { (0.0, 0.0) };
        sums[i % 32] = w.mul_add(q, sums[i % 32]);
    }
    for apart in [16, 8, 4, 2, 1] {
        for i in 0..apart {
            sums[i] += sums[i + apart];
        }
    }
    sums[0]
}

/// Row `i` of a matrix, without padding.
pub fn matrix_row<T: Pod>(matrix: &Matrix<T>, i: usize) -> &[T] {
    &matrix.values()[i * matrix.stride()..][..matrix.cols()]
}

/// `scales * (matrix x) + offset`, x being the weighted distance from the mean, in whole parts of its largest number: the
/// map of a query.
pub fn project(map: &Projection, query: &[f32]) -> Vec<f32> {
    let mut x = Vec::new();
    for (i, value) in query.iter().enumerate() {
        x.push(((value - map.center()[i]) * map.weights()[i]).clamp(f32::MIN, f32::MAX));
    }
    let (scale, bytes) = in_bytes(&x);
    let others = bytes.iter().map(|byte| byte.abs()).sum::<i64>() - 127;
    for (value, byte) in x.iter_mut().zip(&bytes) {
        *value -= *byte as f32 * scale;
    }
    // Where bytes are coarse, what they leave is rounded, too.
    let rest = (scale > 0.0 && others < 8 * (x.len() as i64 - 1)).then(|| in_bytes(&x));
    let mut z = Vec::new();
    for i in 0..map.matrix().rows() {
        let dot = |bytes: &[i64]| -> f32 {
            let row = matrix_row(map.matrix(), i);
            row.iter().zip(bytes).map(|(&a, b)| i64::from(a) * b).sum::<i64>() as f32
        };
        let mut sum = dot(&bytes);
        if let Some((step, bytes)) = &rest {
            sum += dot(bytes) * (step / scale);
        }
        z.push(sum * map.scales()[i] * scale + map.offset()[i]);
    }
    z
}

/// Whole parts of the 127th of the largest number, and that 127th.
fn in_bytes(x: &[f32]) -> (f32, Vec<i64>) {
    let largest = x.iter().map(|value| value.abs()).fold(0.0, f32::max);
    let (scale, inverse) = if largest > 1e-30 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
    (scale, x.iter().map(|value| (value * inverse).round_ties_even() as i64).collect())
}

/// `matrix x` in double precision, then rounded, then the offset: the map of a row.
pub fn affine_of_row(map: &Affine, w: &[f32]) -> Vec<f32> {
    let mut z = Vec::new();
    for i in 0..map.matrix().rows() {
        let mut sum = 0.0f64;
        for (a, b) in matrix_row(map.matrix(), i).iter().zip(w) {
            sum += f64::from(*a) * f64::from(*b);
        }
        z.push(sum as f32 + map.offset()[i]);
    }
    z
}

/// The vector that the planes cut, for a query.
pub fn hashed_query(planes: &Planes, coordinates: Option<&Projection>, query: &[f32]) -> Vec<f32> {
    match (planes.space(), coordinates) {
        (Space::Aligned, Some(map)) => project(map, query)[..planes.dim()].to_vec(),
        (Space::Aligned, None) => panic!("aligned planes need coordinates"),
        (Space::Augmented, _) => {
            let mut x = query.to_vec();
            x.push(1.0);
            x
        }
    }
}

/// The vector that the planes cut, for a row with weights `w`, bias `b` and coordinates `z`.
pub fn hashed_row(planes: &Planes, w: &[f32], b: f32, z: &[f32]) -> Vec<f32> {
    match planes.space() {
        Space::Augmented => {
            let mut x = w.to_vec();
            x.push(b);
            x
        }
        Space::Aligned => {
            let r = planes.dim();
            let mut squares = 0.0f64;
            for &value in &z[..r] {
                squares += f64::from(value) * f64::from(value);
            }
            if squares == 0.0 {
                return z[..r].to_vec();
            }
            let scale = ((r as f64).sqrt() / squares.sqrt()) as f32;
            z[..r].iter().map(|&value| value * scale).collect()
        }
    }
}

// ------------------------------------------------------------------------------------------------------- hash

/// Margins of table `table`: plane . x - threshold.
pub fn margins(planes: &Planes, table: usize, x: &[f32]) -> Vec<f32> {
    let of = |bit: usize| {
        let plane = table * planes.n_bits() + bit;
        dot(matrix_row(planes.matrix(), plane), x) - planes.thresholds()[plane]
    };
    (0..planes.n_bits()).map(of).collect()
}

/// Bit k is set where margin k is above zero.
pub fn code(margins: &[f32]) -> u32 {
    let mut code = 0;
    for (bit, &margin) in margins.iter().enumerate() {
        if margin > 0.0 {
            code += 1 << bit;
        }
    }
    code
}

// ------------------------------------------------------------------------------------------------------ probe

/// All 2^K codes of every table as (table, code, cost), by the cost of what they flip: squared margins added from the
/// smallest up. Equal costs go by the table, then by the set of ranks, read as a number. `margins[table][bit]`.
pub fn probes(margins: &[Vec<f32>]) -> Vec<(usize, u32, f32)> {
    let mut all: Vec<(f32, usize, u32, u32)> = Vec::new();
    for (table, margins) in margins.iter().enumerate() {
        let k = margins.len();
        let mut ranked: Vec<usize> = (0..k).collect();
        ranked.sort_by(|&a, &b| {
            (margins[a] * margins[a]).total_cmp(&(margins[b] * margins[b])).then(a.cmp(&b))
        });
        for set in 0..1u32 << k {
            let mut cost = 0.0f32;
            let mut flipped = code(margins);
            for (rank, &bit) in ranked.iter().enumerate() {
                if set >> rank & 1 == 1 {
                    cost += margins[bit] * margins[bit];
                    flipped ^= 1 << bit;
                }
            }
            all.push((cost, table, set, flipped));
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    all.into_iter().map(|(cost, table, _, code)| (table, code, cost)).collect()
}

// ----------------------------------------------------------------------------------------------------- tables

/// What stands in each bucket (table, code) that is not empty.
pub type Buckets = BTreeMap<(usize, u32), BTreeSet<u32>>;

/// Put each item into its bucket of each table. `codes[item][table]`.
pub fn tables(codes: &[Vec<u32>]) -> Buckets {
    let mut buckets = Buckets::new();
    for (item, codes) in codes.iter().enumerate() {
        for (table, &code) in codes.iter().enumerate() {
            buckets.entry((table, code)).or_default().insert(item as u32);
        }
    }
    buckets
}

// ----------------------------------------------------------------------------------------------------- sketch

/// Widths in bits, in the order in which they stand in a sketch, and for each the step of the best uniform
/// quantiser of a unit Gaussian and its squared error.
pub const QUANTISERS: [(usize, f64, f64); 4] =
    [(8, 0.030_80, 0.000_087_7), (4, 0.335_2, 0.011_54), (2, 0.995_7, 0.118_8), (1, 1.596, 0.363_4)];

/// Expected squared error of a logit: each coordinate's variance times the error of its quantiser, and all of it
/// for coordinates that have none.
pub fn expected_error(variances: &[f32], counts: [usize; 4]) -> f64 {
    let errors = counts.iter().zip(QUANTISERS).flat_map(|(&n, (_, _, error))| vec![error; n * 32]);
    variances.iter().zip(errors.chain(std::iter::repeat(1.0))).map(|(&v, error)| f64::from(v) * error).sum()
}

/// All numbers of groups of 8, 4, 2 and 1 bits that fit a sketch of so many bytes.
pub fn all_counts(bytes: usize) -> Vec<[usize; 4]> {
    let bits = (bytes - 4) * 8;
    let mut all = Vec::new();
    for n8 in 0..=bits / 256 {
        for n4 in 0..=bits / 128 {
            for n2 in 0..=bits / 64 {
                for n1 in 0..=bits / 32 {
                    if (8 * n8 + 4 * n4 + 2 * n2 + n1) * 32 <= bits && n8 + n4 + n2 + n1 > 0 {
                        all.push([n8, n4, n2, n1]);
                    }
                }
            }
        }
    }
    all
}

/// The layout of the least expected error for coordinates of these variances.
pub fn best_counts(variances: &[f32], bytes: usize) -> [usize; 4] {
    let mut best = [0; 4];
    // The most groups first: of equal errors the layout that leaves nothing unused.
    for counts in all_counts(bytes) {
        let groups = groups_of(counts);
        let (error, least) = (expected_error(variances, counts), expected_error(variances, best));
        let better = error < least || (error == least && groups > groups_of(best));
        if groups <= variances.len().div_ceil(32) && (groups_of(best) == 0 || better) {
            best = counts;
        }
    }
    best
}

/// The width of each coordinate.
pub fn widths(counts: [usize; 4]) -> Vec<usize> {
    counts.iter().zip(QUANTISERS).flat_map(|(&n, (width, _, _))| vec![width; n * 32]).collect()
}

/// Half a quantiser step of each coordinate; zero where there is none.
pub fn half_steps(variances: &[f32], counts: [usize; 4]) -> Vec<f32> {
    let steps = counts.iter().zip(QUANTISERS).flat_map(|(&n, (_, step, _))| vec![step; n * 32]);
    let variances = variances.iter().copied().chain(std::iter::repeat(0.0));
    steps
        .zip(variances)
        .map(|(step, variance)| {
            (0.5 * step * f64::from(variance.max(0.0)).min(f64::from(f32::MAX)).sqrt()) as f32
        })
        .collect()
}

/// Half steps of 8 bits widened until every vector is between the outermost levels, but to no more than 4 bits have.
pub fn covering(mut half_steps: Vec<f32>, counts: [usize; 4], vectors: &[Vec<f32>]) -> Vec<f32> {
    let most = (QUANTISERS[1].1 / QUANTISERS[0].1) as f32;
    for (i, half_step) in half_steps.iter_mut().enumerate().take(32 * counts[0]) {
        let values = vectors.iter().filter_map(|vector| vector.get(i));
        let largest = values.fold(0.0f32, |largest, value| largest.max(value.abs()));
        *half_step = half_step.max((largest / 256.0).min(most * *half_step));
    }
    half_steps
}

/// The level that a code stands for.
pub fn level(code: u8, width: usize, half_step: f32) -> f64 {
    (2.0 * f64::from(code) + 1.0 - f64::from(1u32 << width)) * f64::from(half_step)
}

/// The code of a value: how many of the thresholds between levels it reaches.
pub fn encode(value: f32, half_step: f32, width: usize) -> u8 {
    if half_step <= 0.0 {
        return 0;
    }
    let levels = 1i32 << width;
    let mut code = 0;
    for threshold in 1 - levels / 2..levels / 2 {
        if value / (2.0 * half_step) >= threshold as f32 {
            code += 1;
        }
    }
    code
}

/// Read the codes of a packed sketch: position p of a group of width w lies in byte p mod 4w, p / 4w fields up.
pub fn unpack(counts: [usize; 4], sketch: &[u8]) -> Vec<u8> {
    let mut codes = Vec::new();
    let mut from = 0;
    for group in widths(counts).chunks(32) {
        let width = group[0];
        for p in 0..32 {
            let (byte, field) = (p % (4 * width), p / (4 * width));
            let mut code = 0;
            for bit in 0..width {
                code |= (sketch[from + byte] >> (field * width + bit) & 1) << bit;
            }
            codes.push(code);
        }
        from += 4 * width;
    }
    codes
}

/// The base logit in the last four bytes of a sketch.
pub fn base(sketch: &[u8]) -> f32 {
    let end = &sketch[sketch.len() - 4..];
    f32::from_le_bytes([end[0], end[1], end[2], end[3]])
}

/// A query for scoring sketches: an integer weight a coordinate, a scale for each of the four widths, an offset.
#[derive(Clone, Debug)]
pub struct QuantisedQuery {
    /// Within -127..=127.
    pub weights: Vec<i32>,
    /// Twice the size of a weight's unit.
    pub scales: [f32; 4],
    /// What is added to every row's score.
    pub offset: f32,
}

/// Quantise the coordinates of a query, in units of half steps. All groups of a width share a scale.
pub fn quantise(counts: [usize; 4], half_steps: &[f32], z: &[f32]) -> QuantisedQuery {
    let mut query = QuantisedQuery { weights: Vec::new(), scales: [0.0; 4], offset: 0.0 };
    let mut from = 0;
    for (class, (width, _, _)) in QUANTISERS.into_iter().enumerate() {
        let mut values = vec![0.0f32; counts[class] * 32];
        for (i, value) in values.iter_mut().enumerate() {
            let coordinate = from + i;
            if coordinate < z.len() {
                *value = z[coordinate] * half_steps[coordinate];
            }
        }
        from += values.len();
        let mut largest = 0.0f32;
        for &value in &values {
            if value.abs() > largest {
                largest = value.abs();
            }
        }
        if largest <= 1e-30 {
            query.weights.extend(vec![0; values.len()]);
            continue;
        }
        let mut sum = 0;
        for value in values {
            let weight = (value * (127.0 / largest)).round_ties_even() as i32;
            query.weights.push(weight);
            sum += weight;
        }
        query.scales[class] = 2.0 * (largest / 127.0);
        query.offset += (largest / 127.0) * ((1 - (1 << width)) * sum) as f32;
    }
    query
}

/// The score of a sketch in the documented order: eight lanes, widths in order, a pairwise tree, base, offset.
pub fn sketch_score(counts: [usize; 4], query: &QuantisedQuery, codes: &[u8], base: f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let mut from = 0;
    for (&groups, scale) in counts.iter().zip(query.scales) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            let mut sum = 0i32;
            for group in 0..groups {
                for i in 0..4 {
                    let coordinate = from + group * 32 + 4 * lane + i;
                    sum += i32::from(codes[coordinate]) * query.weights[coordinate];
                }
            }
            *total = (sum as f32).mul_add(scale, *total);
        }
        from += groups * 32;
    }
    for apart in [4, 2, 1] {
        for lane in 0..apart {
            lanes[lane] += lanes[lane + apart];
        }
    }
    lanes[0] + base + query.offset
}

// ---------------------------------------------------------------------------------------------------- columns

/// How rows of sketches with this layout and these half steps are sketched once more, in 64 bytes: with the best
/// layout for the variances that the steps suit.
pub fn shorter(counts: [usize; 4], of_rows: &[f32]) -> ([usize; 4], Vec<f32>) {
    let steps = counts.iter().zip(QUANTISERS).flat_map(|(&n, (_, step, _))| vec![step; n * 32]);
    let variance = |(&half_step, step): (&f32, f64)| (2.0 * f64::from(half_step) / step).powi(2) as f32;
    let variances: Vec<f32> = of_rows.iter().zip(steps).map(variance).collect();
    let counts = best_counts(&variances, 64);
    (counts, half_steps(&variances, counts))
}

/// Scores of rows in columns. Half a byte of code has bits of one coordinate (of the widths 8 and 4), of two or of
/// four. What its lower and its upper two bits add above their least is rounded to steps; a step is as coarse as it takes for
/// halves that vary by four times the root mean square to add 62 of them, and for none to add more than 2046.
pub fn column_scores(columns: &Sketched, z: &[f32]) -> Vec<f32> {
    let mut halves: Vec<[[f32; 4]; 2]> = Vec::new();
    let value = |i: usize| 2.0 * (z.get(i).copied().unwrap_or(0.0) * columns.half_steps[i]);
    let all = widths(columns.counts);
    let mut places: Vec<(usize, usize, usize)> = Vec::new();
    for (group, width) in all.chunks(32).map(|group| group[0]).enumerate() {
        for byte in 0..4 * width {
            for half in 0..2 {
                // What the lower two bits add and what the upper two do, each above its least.
                let part = |part: usize| -> [f32; 4] {
                    let field = |field: usize| value(32 * group + byte + 4 * width * field);
                    let added = |bits: usize| match width {
                        8 => field(0) * (4usize.pow((2 * half + part) as u32) * bits) as f32,
                        4 => field(half) * (4usize.pow(part as u32) * bits) as f32,
                        2 => field(2 * half + part) * bits as f32,
                        _ => {
                            let first = 4 * half + 2 * part;
                            field(first) * (bits & 1) as f32 + field(first + 1) * (bits >> 1) as f32
                        }
                    };
                    let all: [f32; 4] = std::array::from_fn(added);
                    all.map(|value| value - all.iter().copied().fold(f32::INFINITY, f32::min))
                };
                halves.push([part(0), part(1)]);
                places.push((group, byte, half));
            }
        }
    }
    let most = |part: &[f32; 4]| part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let ranges: Vec<f32> = halves.iter().map(|[lower, upper]| most(lower) + most(upper)).collect();
    let largest = ranges.iter().copied().fold(0.0, f32::max);
    // In eight sums, of lower halves and then of upper ones.
    let squares = |of: usize| {
        let halves = [0, 1].map(|half| ranges.iter().skip(half + 2 * of).step_by(16));
        halves.into_iter().flatten().map(|&range| f64::from(range).powi(2)).sum::<f64>()
    };
    let squares: f64 = (0..8).map(squares).sum();
    let usual = (4.0 * (squares / ranges.len() as f64).sqrt()) as f32;
    let step = usual.min(largest).max(largest * (62.0 / 2046.0)) / 62.0;
    let (step, inverse) = if step > 1e-30 { (step, 1.0 / step) } else { (0.0, 0.0) };
    let score = |codes: &Vec<u8>, base: f32| {
        let mut sum = 0u32;
        for (half, &(group, byte, upper)) in halves.iter().zip(&places) {
            let width = all[32 * group];
            let field = |field: usize| usize::from(codes[32 * group + byte + 4 * width * field]);
            let bits = match width {
                8 => field(0) >> (4 * upper) & 15,
                4 => field(upper),
                2 => field(2 * upper) | field(2 * upper + 1) << 2,
                _ => (0..4).map(|bit| field(4 * upper + bit) << bit).sum(),
            };
            let [lower, upper] = half;
            let steps = |value: f32| (value * inverse).round_ties_even() as u32;
            sum += steps(lower[bits % 4]) + steps(upper[bits / 4]);
        }
        (sum as f32).mul_add(step, base)
    };
    columns.codes.iter().zip(&columns.base).map(|(codes, &base)| score(codes, base)).collect()
}

/// The base logits of a region's labels in its columns, of their base logits, coordinates, and what their codes stand for.
/// Queries that need a label lie along its coordinates, and are answered by logits that five labels reach, on average: there a
/// label's score is to be its logit. At most all of the difference is given, or taken.
pub fn raised(bases: &[f64], zs: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    let reach = |logit: f64| {
        let share = |(base, z): (&f64, &Vec<f64>)| logistic(1.702 * (base - logit) / dot(z, z).sqrt());
        bases.iter().zip(zs).map(share).filter(|share| !share.is_nan()).sum::<f64>()
    };
    let mut low = bases.iter().copied().fold(f64::INFINITY, f64::min);
    let mut high = low + 1e6;
    while high - low > 1e-9 {
        let middle = (low + high) / 2.0;
        *(if reach(middle) > 5.0 { &mut low } else { &mut high }) = middle;
    }
    let lost = |z: &Vec<f64>, value: &Vec<f64>| {
        let length = dot(z, z);
        if length > 0.0 { (1.0 - dot(z, value) / length).clamp(-1.0, 1.0) } else { 0.0 }
    };
    let raise = |((base, z), value): ((&f64, _), _)| base + lost(z, value) * (low - base).max(0.0);
    bases.iter().zip(zs).zip(values).map(raise).collect()
}

/// The best of each eight scores: of 64, those as far from a multiple of eight. NaN is below all.
pub fn bests(scores: &[f32]) -> Vec<f32> {
    let best =
        |run: &[f32], at: usize| run.iter().skip(at).step_by(8).copied().fold(f32::NEG_INFINITY, f32::max);
    scores.chunks(64).flat_map(|run| (0..8).map(move |at| best(run, at))).collect()
}

/// The places, rising, of the `most` best scores, or of half as many: all above the one of a certain rank among the best of each
/// eight scores of some blocks of 64. These are every sixteenth block at least, and at least eight if there are so many more;
/// the rank is that that `most` has among all, and at least 8. Of fewer blocks the best are known. And a score that no other is
/// above.
pub fn gather(scores: &[f32], most: usize) -> (Vec<u32>, f32) {
    let blocks = scores.len().div_ceil(64);
    let apart = (blocks / 8).clamp(1, 16);
    if apart == 1 {
        return best_places(scores, most);
    }
    let seen = (apart / 2..blocks).step_by(apart);
    let seen: Vec<f32> =
        seen.flat_map(|block| scores.chunks(64).nth(block).unwrap_or_default()).copied().collect();
    let rank = (most * seen.len() / scores.len()).max(8).min(seen.len() - 1);
    let bests: Vec<(f32, u32)> = bests(&seen).into_iter().map(|score| (score, 0)).collect();
    let floor = top(&bests, bests.len())[rank.min(bests.len() - 1)].0;
    let places: Vec<u32> = (0..scores.len() as u32).filter(|&place| scores[place as usize] > floor).collect();
    if (most / 2..=most).contains(&places.len()) {
        return (places, floor);
    }
    best_places(scores, most)
}

/// The places of the best scores, rising, and the least of these.
fn best_places(scores: &[f32], most: usize) -> (Vec<u32>, f32) {
    let best = top(&scores.iter().copied().zip(0..).collect::<Vec<_>>(), most);
    let mut places: Vec<u32> = best.iter().map(|&(_, place)| place).collect();
    places.sort_unstable();
    (places, best.last().map_or(f32::INFINITY, |&(score, _)| score))
}

// ------------------------------------------------------------------------------------------------------ top-k

/// The best `n` of (score, id): highest score first, equal scores by the lowest id. Negative zero is zero.
pub fn top(scored: &[(f32, u32)], n: usize) -> Vec<(f32, u32)> {
    let mut sorted: Vec<(f32, u32)> = scored.iter().map(|&(score, id)| (score + 0.0, id)).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    sorted.truncate(n);
    sorted
}

// --------------------------------------------------------------------------------------------------- together

/// One answer: labels and scores of length k, and what they cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Labels, best first; -1 where there are fewer than k.
    pub labels: Vec<i64>,
    /// Logits; -inf where there are fewer than k.
    pub scores: Vec<f32>,
    /// What the answer cost.
    pub work: Work,
}

/// The sketches of all rows or exemplars, unpacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketched {
    /// Groups of 8, 4, 2 and 1 bits.
    pub counts: [usize; 4],
    /// Half a quantiser step of each coordinate.
    pub half_steps: Vec<f32>,
    /// The code of each in each coordinate.
    pub codes: Vec<Vec<u8>>,
    /// The base logit of each.
    pub base: Vec<f32>,
}

impl Sketched {
    /// Sketch vectors with this layout and these half steps, with a base each.
    pub fn new(counts: [usize; 4], half_steps: Vec<f32>, vectors: &[Vec<f32>], base: Vec<f32>) -> Self {
        let widths = widths(counts);
        let codes = |vector: &Vec<f32>| {
            let value = |i: usize| vector.get(i).copied().unwrap_or(0.0);
            (0..widths.len()).map(|i| encode(value(i), half_steps[i], widths[i])).collect()
        };
        Sketched { counts, codes: vectors.iter().map(codes).collect(), half_steps, base }
    }

    /// Read the sketches of an index.
    pub fn of((sketcher, sketches): &(Sketcher, Sketches)) -> Self {
        let counts = sketcher.layout().counts();
        let all = sketches.codes().chunks(sketcher.layout().bytes());
        Sketched {
            counts,
            half_steps: sketcher.half_steps().to_vec(),
            codes: all.clone().map(|sketch| unpack(counts, sketch)).collect(),
            base: all.map(base).collect(),
        }
    }

    /// Sketch the rows of these sketches once more, for columns.
    pub fn columns(&self) -> Self {
        let widths = widths(self.counts);
        let value = |(i, &code): (usize, &u8)| {
            let half_step = self.half_steps[i];
            if half_step > 0.0 { level(code, widths[i], half_step) as f32 } else { 0.0 }
        };
        let vectors: Vec<Vec<f32>> =
            self.codes.iter().map(|codes| codes.iter().enumerate().map(value).collect()).collect();
        let (counts, half_steps) = shorter(self.counts, &self.half_steps);
        Sketched::new(counts, half_steps, &vectors, self.base.clone())
    }

    /// Read the columns of an index of `m` rows: 64 rows a block, byte by byte, those of the first and the second half
    /// in turns; then their base logits.
    pub fn of_columns(columns: &Columns, m: usize) -> Self {
        let counts = columns.sketcher().layout().counts();
        let n: usize = widths(counts).iter().sum::<usize>() / 8;
        let mut sketched = Sketched {
            counts,
            half_steps: columns.sketcher().half_steps().to_vec(),
            codes: Vec::new(),
            base: Vec::new(),
        };
        for id in 0..m {
            let block = &columns.codes()[id / 64 * 64 * (n + 4)..][..64 * (n + 4)];
            let row = id % 64;
            let place = if row < 32 { 2 * row } else { 2 * (row - 32) + 1 };
            let packed: Vec<u8> = (0..n).map(|byte| block[64 * byte + place]).collect();
            sketched.codes.push(unpack(counts, &packed));
            sketched.base.push(base(&block[64 * n + 4 * row..][..4]));
        }
        sketched
    }

    /// The scores of these ids for a query with coordinates `z`.
    pub fn scores(&self, z: &[f32], ids: &BTreeSet<u32>) -> Vec<(f32, u32)> {
        let query = quantise(self.counts, &self.half_steps, z);
        let score = |id: usize| sketch_score(self.counts, &query, &self.codes[id], self.base[id]);
        ids.iter().map(|&id| (score(id as usize), id)).collect()
    }
}

/// The training queries that an index keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What a coordinate weighs in a distance.
    pub weights: Vec<f32>,
    /// Their sketches.
    pub sketched: Sketched,
    /// What each needed, rising; a damaged file can hold repeats.
    pub labels: Vec<Vec<u32>>,
}

impl Kept {
    /// Keep queries with these coordinates, and what each needed. Coordinate j of a query weighs e_j / e_0, the
    /// logit variances; the base is minus half the weighted sum of squares of what the codes stand for.
    pub fn new(variances: &[f32], zs: &[Vec<f32>], labels: &[Vec<u32>]) -> Self {
        let weight = |e: f32| if variances[0] > 0.0 { e.max(0.0) / variances[0] } else { 1.0 };
        let weights: Vec<f32> = variances.iter().map(|&e| weight(e)).collect();
        let squares: Vec<f32> = weights.iter().map(|weight| weight * weight).collect();
        let vector = |z: &Vec<f32>| z.iter().zip(&weights).map(|(z, weight)| weight * z).collect();
        let vectors: Vec<Vec<f32>> = zs.iter().map(vector).collect();
        let counts = best_counts(&weights, 64);
        let mut sketched = Sketched::new(counts, half_steps(&squares, counts), &vectors, vec![0.0; zs.len()]);
        let widths = widths(counts);
        for (base, codes) in sketched.base.iter_mut().zip(&sketched.codes) {
            let mut sum = 0.0f64;
            for (i, weight) in weights.iter().enumerate().take(widths.len()) {
                if sketched.half_steps[i] > 0.0 {
                    let value = level(codes[i], widths[i], sketched.half_steps[i]);
                    sum -= value * value / (2.0 * f64::from(*weight));
                }
            }
            *base = sum as f32;
        }
        let mut weights = weights;
        weights.resize(widths.len(), 0.0);
        let rising =
            |labels: &Vec<u32>| labels.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        Kept { weights, sketched, labels: labels.iter().map(rising).collect() }
    }

    /// Read the exemplars of an index.
    pub fn of(exemplars: &Exemplars) -> Self {
        let ends = exemplars.offsets().windows(2);
        let labels = ends.map(|pair| &exemplars.labels()[pair[0] as usize..pair[1] as usize]);
        Kept {
            weights: exemplars.weights().to_vec(),
            sketched: Sketched::of(exemplars.sketched()),
            labels: labels.map(<[u32]>::to_vec).collect(),
        }
    }

    /// Number the exemplars of another after these.
    pub fn append(&mut self, other: Kept) {
        self.sketched.codes.extend(other.sketched.codes);
        self.sketched.base.extend(other.sketched.base);
        self.labels.extend(other.labels);
    }
}

/// A region of an index, and its list.
#[derive(Clone)]
struct Listing {
    /// Weighted coordinates of its center.
    center: Vec<f32>,
    /// From a query to the coordinates of the region.
    map: Projection,
    /// Labels, those needed most first, and their columns.
    labels: Vec<u32>,
    columns: Sketched,
    /// How many of them are read where it is so many 128ths of whole lists on average.
    ends: Vec<u32>,
}

impl Listing {
    /// Labels that a query reads where it is `n` on average, and `whole` in all: in proportion between two places, for `share` times
    /// as many, `least` at least.
    fn reads(&self, n: usize, share: f32, whole: usize, least: usize) -> usize {
        let all = self.labels.len();
        let average = (n as f64 * f64::from(share)).floor() as usize;
        if n >= whole || average >= whole {
            return all;
        }
        let place = (average * (ENDS - 1)) as f64 / whole as f64;
        let [from, to] = [place.floor(), place.floor() + 1.0].map(|at| f64::from(self.ends[at as usize]));
        let end = (from + (to - from) * (place - place.floor()) + 1e-9) as usize;
        end.max(least.min(n)).min(all)
    }
}

/// An index in ordered sets, which answers slowly.
#[derive(Clone)]
pub struct Reference {
    weights: Vec<Vec<f32>>,
    bias: Vec<f32>,
    planes: Planes,
    coordinates: Option<Projection>,
    buckets: Buckets,
    kept: Option<Kept>,
    /// How many exemplars budgets are meant for.
    fitted_from: usize,
    /// Exemplars that every query meets.
    always_met: BTreeSet<u32>,
    always_include: BTreeSet<u32>,
    sketched: Option<Sketched>,
    columns: Option<Sketched>,
    /// What a coordinate is multiplied by for the distance to a center, the regions, and the rows in bytes.
    regions: Option<(Vec<f32>, Vec<Listing>, Projection)>,
    /// All rows in bytes, where there are regions.
    byte_rows: Option<ByteRows>,
    /// What says how far a query reads its list.
    need: Vec<f32>,
    /// Labels of a list, on average.
    whole_list: usize,
    /// Bytes of a row's sketch, of all columns, and of a row.
    sketch_bytes: usize,
    column_bytes: usize,
    row_bytes: f64,
    level: f32,
    point: OperatingPoint,
}

/// All weights in single precision, row by row.
pub fn widen(rows: &Rows) -> Vec<Vec<f32>> {
    let all: Vec<f32> = match rows.weights() {
        Weights::F32(block) => block.to_vec(),
        Weights::F16(block) => block.iter().map(|&value| f32::from(value)).collect(),
        Weights::Bf16(block) => block.iter().map(|&value| f32::from(value)).collect(),
    };
    all.chunks(rows.d()).map(<[f32]>::to_vec).collect()
}

impl Reference {
    /// Build from what a [`crate::Builder`] is given: a recipe, the rows, the training queries and the labels
    /// that each of them needs.
    pub fn build(recipe: &Recipe, rows: &Rows, queries: &[Vec<f32>], labels: &[Vec<u32>]) -> Self {
        let weights = widen(rows);
        let bias = rows.bias().to_vec();
        let planes = &recipe.planes;
        let of_query = recipe.coordinates.as_ref().map(|coordinates| &coordinates.query);
        let z: Vec<Vec<f32>> = match &recipe.coordinates {
            Some(coordinates) => weights.iter().map(|w| affine_of_row(&coordinates.row, w)).collect(),
            None => vec![Vec::new(); rows.m()],
        };
        let hash =
            |x: &[f32]| (0..planes.n_tables()).map(|t| code(&margins(planes, t, x))).collect::<Vec<u32>>();
        let (buckets, kept) = match (recipe.fill, &recipe.coordinates) {
            (Fill::Queries, Some(coordinates)) => {
                let code = |query: &Vec<f32>| hash(&hashed_query(planes, of_query, query));
                // By the first table's code; equal ones stay in their order.
                let mut order: Vec<usize> = (0..queries.len()).collect();
                order.sort_by_key(|&item| code(&queries[item])[0]);
                let queries: Vec<Vec<f32>> = order.iter().map(|&item| queries[item].clone()).collect();
                let labels: Vec<Vec<u32>> = order.iter().map(|&item| labels[item].clone()).collect();
                let zs: Vec<_> = queries.iter().map(|query| project(&coordinates.query, query)).collect();
                let kept = Kept::new(&coordinates.variances, &zs, &labels);
                (tables(&queries.iter().map(code).collect::<Vec<_>>()), Some(kept))
            }
            (Fill::Queries, None) => panic!("exemplars need coordinates"),
            (Fill::Rows, _) => {
                let row = |i: usize| hash(&hashed_row(planes, &weights[i], bias[i], &z[i]));
                (tables(&(0..rows.m()).map(row).collect::<Vec<_>>()), None)
            }
        };
        let sketched = match &recipe.coordinates {
            Some(Coordinates { variances, base, .. }) if recipe.sketch_bytes > 0 => {
                let counts = best_counts(variances, recipe.sketch_bytes);
                let half_steps = covering(half_steps(variances, counts), counts, &z);
                Some(Sketched::new(counts, half_steps, &z, base.to_vec()))
            }
            _ => None,
        };
        let columns = sketched.as_ref().filter(|_| kept.is_some()).map(Sketched::columns);
        Reference {
            weights,
            bias,
            column_bytes: columns.as_ref().map_or(0, column_bytes),
            columns,
            regions: None,
            byte_rows: None,
            need: Vec::new(),
            whole_list: 0,
            planes: planes.clone(),
            coordinates: of_query.cloned(),
            buckets,
            kept,
            fitted_from: queries.len(),
            always_met: BTreeSet::new(),
            always_include: recipe.always_include.iter().copied().collect(),
            sketch_bytes: recipe.sketch_bytes,
            row_bytes: rows.weights().nbytes() as f64 / rows.m() as f64,
            sketched,
            level: recipe.coordinates.as_ref().map_or(0.0, |coordinates| mean(&coordinates.base)),
            point: recipe.point,
        }
    }

    /// Take the parts of an index that exists: its search is checked, not its building.
    pub fn of(rows: &Rows, fitted: &Fitted) -> Self {
        let mut buckets = Buckets::new();
        add_buckets(&mut buckets, &fitted.tables, 0);
        let mut kept = fitted.exemplars.as_ref().map(Kept::of);
        let mut always_met = BTreeSet::new();
        if let (Some(kept), Some(observed)) = (&mut kept, &fitted.observed) {
            if let Some((tables, exemplars)) = observed.hashed() {
                add_buckets(&mut buckets, tables, kept.labels.len() as u32);
                kept.append(Kept::of(exemplars));
            }
            if let Some(exemplars) = observed.recent() {
                let first = kept.labels.len();
                kept.append(Kept::of(exemplars));
                always_met.extend(first as u32..kept.labels.len() as u32);
            }
        }
        let regions = fitted.regions.as_deref().map(|regions| {
            let listing = |(at, region): (usize, &Region)| Listing {
                center: matrix_row(regions.centers().matrix(), at).to_vec(),
                map: region.map.clone(),
                labels: region.labels.to_vec(),
                columns: Sketched::of_columns(&region.columns, region.labels.len()),
                ends: regions.parts().ends[at * ENDS..][..ENDS].to_vec(),
            };
            let all = regions.each().iter().enumerate().map(listing).collect();
            (regions.centers().weights().to_vec(), all, regions.rows().map().clone())
        });
        Reference {
            weights: widen(rows),
            bias: rows.bias().to_vec(),
            regions,
            byte_rows: fitted.byte_rows().cloned(),
            whole_list: fitted.regions.as_deref().map_or(0, Regions::whole),
            need: fitted
                .regions
                .as_deref()
                .map_or_else(Vec::new, |regions| regions.parts().need.weights().to_vec()),
            planes: fitted.planes.clone(),
            coordinates: fitted.coordinates.clone(),
            buckets,
            kept,
            fitted_from: fitted.fitted_from,
            always_met,
            always_include: fitted.always_include.iter().copied().collect(),
            sketch_bytes: fitted.sketches.as_ref().map_or(0, |(_, sketches)| sketches.layout().bytes()),
            column_bytes: fitted.columns.as_ref().map_or(0, |columns| columns.codes().len()),
            columns: fitted.columns.as_ref().map(|columns| Sketched::of_columns(columns, rows.m())),
            row_bytes: rows.weights().nbytes() as f64 / rows.m() as f64,
            level: fitted.level,
            sketched: fitted.sketches.as_ref().map(Sketched::of),
            point: fitted.point,
        }
    }

    /// What stands in the buckets.
    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// The training queries kept, if buckets hold them.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// The labels that are candidates of every query.
    pub fn always_include(&self) -> &BTreeSet<u32> {
        &self.always_include
    }

    /// The sketches, if there are any.
    pub fn sketched(&self) -> Option<&Sketched> {
        self.sketched.as_ref()
    }

    /// The columns, if there are any.
    pub fn columns(&self) -> Option<&Sketched> {
        self.columns.as_ref()
    }

    /// The logit of one row.
    pub fn logit(&self, query: &[f32], id: u32) -> f32 {
        dot(&self.weights[id as usize], query) + self.bias[id as usize]
    }

    /// The exemplars or rows that a query meets, rising, and what meeting them cost.
    fn met(&self, query: &[f32]) -> (BTreeSet<u32>, Work) {
        let x = hashed_query(&self.planes, self.coordinates.as_ref(), query);
        let n_tables = self.planes.n_tables();
        let margins: Vec<Vec<f32>> = (0..n_tables).map(|table| margins(&self.planes, table, &x)).collect();
        let mut work = Work::default();
        let mut met = self.always_met.clone();
        let grown = |budget: usize| {
            let now = self.kept.as_ref().map_or(0, |kept| kept.labels.len());
            if now > self.fitted_from {
                (budget as f64 * now as f64 / self.fitted_from.max(1) as f64) as usize
            } else {
                budget
            }
        };
        let mut round = 64;
        for &(table, code, cost) in probes(&margins).iter().take(grown(self.point.n_probes * n_tables)) {
            if work.entries >= grown(self.point.max_entries) {
                break;
            }
            if work.entries >= round {
                if self.is_beyond(query, cost, &met) {
                    break;
                }
                round = work.entries + (work.entries / 4).max(64);
            }
            work.probes += 1;
            if let Some(bucket) = self.buckets.get(&(table, code)) {
                met.extend(bucket);
                work.entries += bucket.len();
            }
        }
        (met, work)
    }

    /// Whether a bucket of such a cost, and all after it, are too far away for any exemplar in them to be nearer than those met.
    fn is_beyond(&self, query: &[f32], cost: f32, met: &BTreeSet<u32>) -> bool {
        let (Some(kept), Some(reach)) = (&self.kept, self.point.reach) else { return false };
        let n = self.point.n_neighbors.min(kept.labels.len());
        let near = self.nearest(query, met);
        self.planes.space() == Space::Aligned
            && near.len() == n
            && near.last().is_some_and(|&(kth, _)| cost > reach * (self.square(query) - 2.0 * kth).max(0.0))
    }

    /// The candidates of a query, rising, and what finding them cost.
    pub fn candidates(&self, query: &[f32]) -> (BTreeSet<u32>, Work) {
        if self.point.exact {
            let m = self.bias.len();
            return ((0..m as u32).collect(), Work { candidates: m, step: Step::Exact, ..Work::default() });
        }
        self.few_candidates(query)
    }

    /// The same of tables, whatever the operating point.
    fn few_candidates(&self, query: &[f32]) -> (BTreeSet<u32>, Work) {
        let (met, mut work) = self.met(query);
        let mut candidates = self.always_include.clone();
        match &self.kept {
            Some(kept) => {
                let near = self.nearest(query, &met);
                work.neighbors = near.len();
                for (_, exemplar) in near {
                    candidates.extend(&kept.labels[exemplar as usize]);
                }
            }
            None => candidates.extend(&met),
        }
        work.candidates = candidates.len();
        (candidates, work)
    }

    /// The sketch scores of these rows; nothing if there are no sketches.
    pub fn sketch_scores(&self, query: &[f32], ids: &BTreeSet<u32>) -> Option<Vec<(f32, u32)>> {
        let (sketched, map) = (self.sketched.as_ref()?, self.coordinates.as_ref()?);
        Some(sketched.scores(&project(map, query), ids))
    }

    /// Of how many rows an exact search computes logits: of all, or of those that bounds do not rule out, sixteen at a time.
    fn rescored(&self, query: &[f32], k: usize) -> usize {
        let m = self.bias.len();
        let mut read = ByteQuery::default();
        let pays = k <= MOST && ASKED * k <= m;
        let Some(bytes) = self.byte_rows.as_ref().filter(|bytes| pays && bytes.read(query, &mut read)) else {
            return m;
        };
        let SomeRows { bytes, stride, scales, offsets } = bytes.rows(0, m);
        let mut rows: Vec<(f32, f32, u32)> = (0..m)
            .map(|at| {
                let row = &bytes[at * stride..][..stride];
                let dot = |query: &[i8]| {
                    row.iter().zip(query).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum::<i64>() as f32
                };
                let (coarse, fine) = (dot(&read.bytes), dot(&read.bytes) + read.share * dot(&read.rest));
                let (row, [wide, narrow]) =
                    ([scales[at], offsets[at]], read.reach.map(|reach| [read.step, reach]));
                let most = at_most(coarse, row, wide).min(at_most(fine, row, narrow));
                (at_least(fine, row, narrow), most + 0.0, at as u32)
            })
            .collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let bar = rows[k - 1].0.min(f32::MAX) - 2.0 * read.slack;
        rows.retain(|&(_, most, _)| most >= bar);
        if rows.len() * LEFT > m {
            return m;
        }
        rows.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.2.cmp(&b.2)));
        let (mut logits, mut n) = (Vec::new(), 0);
        for turn in rows.chunks(TURN) {
            if logits.len() >= k && logits[k - 1] > turn[0].1 + read.slack {
                break;
            }
            logits.extend(turn.iter().map(|&(_, _, id)| self.logit(query, id)));
            logits.sort_by(|a: &f32, b| b.total_cmp(a));
            n += turn.len();
        }
        n
    }

    /// All logits, sorted.
    pub fn exact(&self, query: &[f32], k: usize) -> Answer {
        let m = self.bias.len();
        let rescored = self.rescored(query, k);
        let work = Work { candidates: m, rescored, step: Step::Exact, trust: 1.0, ..Work::default() };
        answer(&(0..m as u32).map(|id| (self.logit(query, id), id)).collect::<Vec<_>>(), k, work)
    }

    /// Answer one query.
    pub fn search(&self, query: &[f32], k: usize, on_short: OnShort, effort: Effort) -> Result<Answer> {
        let affords_all = self.bias.len() as f64 <= effort.max_cost;
        if self.point.exact && affords_all {
            return Ok(self.exact(query, k));
        }
        let answers = k.max(self.point.judge.map_or(0, |trust| trust.k));
        let (mut before, mut scored) = (0.0, 0);
        if let (true, Some(list), Some(judge)) = (effort.adaptive, self.point.list, self.point.judge)
            && self.regions.is_some()
        {
            let trusted = |listed: &Listed, weights: &[f32], least: f32| {
                let features = self.list_features(&first(&listed.best, judge.k), listed);
                let few = listed.finalists.len() < answers;
                let trusted = if few { 0.0 } else { logistic(weights, &features) };
                (trusted, trusted >= least && least < 1.0)
            };
            let mut listed = self.by_list(query, answers, list, false);
            let (mut trust, mut enough) = (0.0, false);
            if let Some(part) = list.first.filter(|_| listed.more) {
                (trust, enough) = trusted(&listed, &part.judge, part.trust);
            }
            if !enough {
                listed = self.by_list(query, answers, list, true);
                (trust, enough) = trusted(&listed, &list.judge, list.trust);
            }
            let read = 36 * listed.n + self.weights[0].len().div_ceil(32) * 32 * listed.in_bytes;
            scored = listed.in_full;
            before = read as f64 / self.row_bytes + scored as f64;
            if listed.finalists.len() >= k && enough {
                let work = Work {
                    candidates: listed.n + self.always_include.len(),
                    rescored: listed.in_full,
                    step: Step::List,
                    trust,
                    ..Work::default()
                };
                return Ok(Answer { work, ..first(&listed.best, k) });
            }
        }
        let (candidates, work) = self.few_candidates(query);
        let found = candidates.len();
        let (best, finalists) = self.by_tables(query, answers, &candidates);
        let m = self.bias.len();
        let exemplars = if self.kept.is_some() { 64 * work.entries } else { 0 };
        let cost = before
            + ((exemplars + found * self.sketch_bytes) as f64 / self.row_bytes + finalists.len() as f64);
        let too_short = |work: Work, best: &Answer| match on_short {
            _ if found >= k => Ok(Answer { work, ..first(best, k) }),
            OnShort::Raise => Err(Error::Short { query: 0, found, k }),
            OnShort::Exact if cost + m as f64 <= effort.max_cost => {
                let exact = self.exact(query, k);
                Ok(Answer { work: after(work, exact.work), ..exact })
            }
            _ => Ok(Answer { work, ..first(best, k) }),
        };
        let Some(trust) = self.point.judge else {
            let work = Work { rescored: scored + finalists.len(), trust: f32::NAN, ..work };
            return too_short(work, &best);
        };
        let features = self.features(query, &first(&best, trust.k), &finalists);
        let trusted = if found < trust.k.max(k) { 0.0 } else { logistic(&trust.tables, &features) };
        let work = Work { rescored: scored + finalists.len(), trust: trusted, ..work };
        let r = self.point.n_scan.max(answers).min(m);
        let read =
            if 32 * r < m { self.column_bytes + 8 * r * self.sketch_bytes } else { m * self.sketch_bytes };
        let scan = read as f64 / self.row_bytes + r as f64;
        let cost = cost + scan;
        let enough = |trusted, least| trusted >= least && least < 1.0;
        if !effort.adaptive || enough(trusted, self.point.trust) || cost > effort.max_cost {
            return too_short(work, &best);
        }
        let (best, finalists, cut) = self.by_scan(query, answers, &finalists);
        let margin = margin(&first(&best, trust.k), self.errors(query, &finalists), cut);
        let trusted = logistic(&trust.scan, &[1.0, margin]);
        let work = Work {
            candidates: m,
            rescored: scored + finalists.len(),
            step: Step::Scan,
            trust: trusted,
            ..work
        };
        let doubted = !enough(trusted, self.point.scan_trust) || (m < k && on_short == OnShort::Exact);
        if doubted && cost + m as f64 <= effort.max_cost {
            let exact = self.exact(query, k);
            return Ok(Answer { work: after(work, exact.work), ..exact });
        }
        if m < k && on_short == OnShort::Raise {
            return Err(Error::Short { query: 0, found: m, k });
        }
        Ok(Answer { work, ..first(&best, k) })
    }

    /// The answer from these candidates, and the rows scored for it with their estimates.
    fn by_tables(&self, query: &[f32], k: usize, candidates: &BTreeSet<u32>) -> (Answer, Estimates) {
        let r = self.point.n_rescore.max(k);
        // Where nothing is to be chosen and nobody asks for trust, estimates are not made.
        let needed = self.point.judge.is_some() || candidates.len() > r;
        let finalists = match self.sketch_scores(query, candidates).filter(|_| needed) {
            Some(scores) => {
                let likely = top(&scores, r);
                let n = self.enough(query, k, &likely, 0, [16, 8]);
                likely[..n].to_vec()
            }
            None => candidates.iter().map(|&id| (f32::NAN, id)).collect(),
        };
        (self.answer_from(query, k, &finalists), finalists)
    }

    /// How many of these, of which the first have been scored before, are scored in full: the first of `pace` (or k) at
    /// first, then the second at a time, until the next estimate, corrected by the mean error of those before, is 3.5 of
    /// their deviations below the k-th logit.
    pub fn enough(
        &self,
        query: &[f32],
        k: usize,
        likely: &[(f32, u32)],
        before: usize,
        pace: [usize; 2],
    ) -> usize {
        let (mut n, mut step) = (before, k.max(pace[0]));
        while n < likely.len() {
            n = likely.len().min(n + step);
            step = pace[1];
            if n == likely.len() {
                break;
            }
            let logits: Vec<(f32, u32)> =
                likely[..n].iter().map(|&(_, id)| (self.logit(query, id), id)).collect();
            let pairs = || likely.iter().zip(&logits).map(|(&(estimate, _), &(logit, _))| logit - estimate);
            let shift = eight_sums(pairs()) / n as f32;
            let error =
                (eight_sums(pairs().map(|error| (error - shift) * (error - shift))) / n as f32).sqrt();
            let best = top(&logits, k);
            if best.len() == k && likely[n].0 + shift + 3.5 * error < best[k - 1].0 {
                break;
            }
        }
        n
    }

    /// How far a query reads its list, as a multiple of the average.
    fn share(&self, z: &[f32], distances: [f32; 3], local: &[f32]) -> f32 {
        let log = |distance: f32| (bounded_distance(distance) as f32).ln();
        let [near, second, mean] = distances.map(log);
        let length = log(eight_sums(local.iter().map(|value| value * value)).sqrt());
        let shown = &self.need[..SHOWN];
        let along = eight_sums(z.iter().zip(&self.need[SHOWN..]).map(|(z, weight)| z * weight));
        let of_place = shown[0] + shown[1] * near + shown[2] * second + shown[3] * mean + along;
        let factor = (of_place + shown[4] * length).exp();
        if factor.is_nan() { 1.0 } else { factor.clamp(1.0 / need::MOST_SHARE, need::MOST_SHARE) }
    }

    /// The answer from the list of the query's region: from the first of it, or from all that is to be read.
    fn by_list(&self, query: &[f32], k: usize, list: ListPoint, all: bool) -> Listed {
        let (Some((weights, regions, rows)), Some(map)) = (&self.regions, &self.coordinates) else {
            panic!("lists need regions")
        };
        let z = project(map, query);
        let weighted: Vec<f32> = z.iter().zip(weights).map(|(z, weight)| z * weight).collect();
        let own = eight_sums(weighted.iter().map(|value| value * value));
        // Both in bytes.
        let (step, bytes) = in_bytes(&weighted);
        let along = |center: &[f32]| {
            let (scale, center) = in_bytes(center);
            center.iter().zip(&bytes).map(|(a, b)| a * b).sum::<i64>() as f32 * scale * step
        };
        let half = |center: &[f32]| center.iter().map(|value| value * value).sum::<f32>() / 2.0;
        let scores: Vec<f32> =
            regions.iter().map(|region| along(&region.center) - half(&region.center)).collect();
        let mut order: Vec<usize> = (0..regions.len()).collect();
        order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(std::cmp::Ordering::Equal));
        let distance = |score: f32| (own - 2.0 * score).max(0.0).sqrt();
        let second = order.get(1).map_or(f32::NEG_INFINITY, |&at| scores[at]);
        let region = &regions[order[0]];
        let average = self.whole_list;
        let distances = [distance(scores[order[0]]), distance(second), own.sqrt()];
        let local = project(&region.map, query);
        let share = self.share(&z, distances, &local);
        let begun = list.first.map(|first| first.n_listed).filter(|&n| n > list.n_rescore.max(k));
        let n = begun.unwrap_or(list.n_listed);
        let read = if n >= average { 1.0 } else { share.min(average as f32 / n as f32) };
        let r = ((list.n_rescore as f64 * f64::from(read)).floor() as usize).max(k);
        let whole = region.reads(list.n_listed, share, average, k);
        let part = begun.map_or(whole, |n| region.reads(n, share, average, k).max(r + 1).min(whole));
        let promised = column_scores(&region.columns, &local)[..whole].to_vec();
        let (mut likely, mut least) = if r < part {
            gather(&promised[..part], r)
        } else {
            ((0..part as u32).collect(), f32::NEG_INFINITY)
        };
        // The mean of all rows is one more, each time.
        let (mut in_bytes, mut in_full) = (likely.len() + self.always_include.len() + 1, 0);
        if all && part < whole {
            in_full = self.by_list(query, k, list, false).in_full;
            let known = likely.len();
            likely.extend((part as u32..whole as u32).filter(|&at| promised[at as usize] > least));
            in_bytes += likely.len() - known + 1;
            if likely.len() > 4 * r {
                in_bytes -= likely.len() - known;
                (likely, least) = best_places(&promised, r);
                in_bytes += likely.len();
            }
        }
        let n = if all { whole } else { part };
        let mut positions: BTreeMap<u32, u32> =
            likely.iter().map(|&at| (region.labels[at as usize], at)).collect();
        positions.extend(self.always_include.iter().map(|&label| (label, 0)));
        let logits = project(rows, query);
        let reread: Estimates = positions.keys().map(|&label| (logits[label as usize], label)).collect();
        let errors = likely.iter().filter(|_| r < part).map(|&at| {
            let label = region.labels[at as usize];
            f64::from(logits[label as usize]) - f64::from(promised[at as usize])
        });
        let errors = errors.collect();
        let likely = top(&reread, (2 * k).max(24));
        let enough = self.enough(query, k, &likely, 0, [8, 4]);
        let finalists = likely[..enough].to_vec();
        in_full += finalists.len();
        let best = self.answer_from(query, k, &finalists);
        let mean = logits[self.bias.len()];
        Listed {
            best,
            finalists,
            n,
            more: part < whole,
            positions,
            distances,
            in_bytes,
            in_full,
            mean,
            errors,
            least,
        }
    }

    /// What an answer from a list shows of itself, in the order that [`crate::trust::LISTED`] documents.
    fn list_features(&self, best: &Answer, listed: &Listed) -> [f64; LISTED] {
        let [near, second, mean] = listed.distances.map(bounded_distance);
        let [first, kth] = [best.scores[0], best.scores[best.scores.len() - 1]].map(f64::from);
        let rank = |&label: &i64| {
            let at = u32::try_from(label).ok().and_then(|label| listed.positions.get(&label));
            at.map_or(0.0, |&at| (1.0 + f64::from(at)).ln())
        };
        [
            1.0,
            near.ln(),
            second.ln(),
            mean.ln(),
            bounded((kth - f64::from(listed.mean)) / near),
            bounded((first - kth) / near),
            rank(&best.labels[0]),
            best.labels.iter().map(rank).sum::<f64>() / best.labels.len() as f64,
            margin(best, spread(&listed.errors), listed.least),
        ]
    }

    /// The rows whose sketches a scan reads to score `r`: eight times as many, whose columns promise most, where that is
    /// less than a quarter of all.
    pub fn listed(&self, query: &[f32], r: usize) -> BTreeSet<u32> {
        let m = self.bias.len();
        match (&self.columns, &self.coordinates) {
            (Some(columns), Some(map)) if 32 * r < m => {
                let promised = column_scores(columns, &project(map, query)).into_iter().zip(0..);
                top(&promised.collect::<Vec<_>>(), 8 * r).into_iter().map(|(_, id)| id).collect()
            }
            _ => (0..m as u32).collect(),
        }
    }

    /// The same from all rows, with those that have been scored before, and the largest estimate of those
    /// that were left out.
    fn by_scan(&self, query: &[f32], k: usize, before: &Estimates) -> (Answer, Estimates, f32) {
        let r = self.point.n_scan.max(k);
        let scores = self.sketch_scores(query, &self.listed(query, r)).unwrap_or_default();
        let kept = top(&scores, r);
        let known: BTreeSet<u32> = before.iter().map(|&(_, id)| id).collect();
        let mut likely = before.clone();
        likely.extend(kept.iter().filter(|(_, id)| !known.contains(id)));
        let enough = self.enough(query, k, &likely, before.len(), [16, 8]);
        let least = left_out(&likely, enough, &kept, scores.len());
        likely.truncate(enough);
        (self.answer_from(query, k, &likely), likely, least)
    }

    fn answer_from(&self, query: &[f32], k: usize, finalists: &Estimates) -> Answer {
        let scored: Vec<_> = finalists.iter().map(|&(_, id)| (self.logit(query, id), id)).collect();
        answer(&scored, k, Work::default())
    }

    /// What a search by tables shows of itself, in the order that [`crate::trust::TABLES`] documents.
    pub fn features(&self, query: &[f32], best: &Answer, finalists: &Estimates) -> [f64; TABLES] {
        let (shift, _) = self.errors(query, finalists);
        let distances = self.distances(query);
        let near = distances.iter().copied().fold(f64::INFINITY, f64::min);
        let far = distances.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = bounded_distance(self.square(query).sqrt());
        let [first, kth] = [best.scores[0], best.scores[best.scores.len() - 1]].map(f64::from);
        let needed: Vec<f64> = best.labels.iter().map(|&label| self.share_needed(query, label)).collect();
        [
            1.0,
            near.ln(),
            far.ln(),
            mean.ln(),
            bounded((kth - shift - f64::from(self.level)) / far),
            bounded((first - kth) / far),
            needed[0],
            needed.iter().sum::<f64>() / needed.len() as f64,
        ]
    }

    /// What logits are above estimates on average, and their deviation around that.
    fn errors(&self, query: &[f32], finalists: &Estimates) -> (f64, f64) {
        let error = |&(estimate, id): &(f32, u32)| f64::from(self.logit(query, id)) - f64::from(estimate);
        spread(&finalists.iter().map(error).collect::<Vec<_>>())
    }

    /// Logarithm of the share of the neighbours that needed a label; being always a candidate counts as one.
    fn share_needed(&self, query: &[f32], label: i64) -> f64 {
        let near = self.near(query);
        let Some(kept) = &self.kept else { return 0.0 };
        let times = |&(_, exemplar): &(f32, u32)| {
            kept.labels[exemplar as usize].iter().filter(|&&needed| i64::from(needed) == label).count()
        };
        let always = usize::from(label >= 0 && self.always_include.contains(&(label as u32)));
        let count = near.iter().map(times).sum::<usize>() + always;
        ((count.min(255) as f64 + 0.5) / (near.len() as f64 + 1.0)).ln()
    }

    /// Square of a query's distance to the mean query. In single precision and in this order: near an exemplar
    /// distances are all rounding.
    fn square(&self, query: &[f32]) -> f32 {
        let (Some(kept), Some(map)) = (&self.kept, &self.coordinates) else { return 0.0 };
        let mut own = 0.0f32;
        for (weight, z) in kept.weights.iter().zip(&project(map, query)) {
            own += weight * z * z;
        }
        own
    }

    /// The neighbours of a query, with their scores.
    fn near(&self, query: &[f32]) -> Estimates {
        self.nearest(query, &self.met(query).0)
    }

    /// The nearest of the exemplars met, with their scores.
    fn nearest(&self, query: &[f32], met: &BTreeSet<u32>) -> Estimates {
        let (Some(kept), Some(map)) = (&self.kept, &self.coordinates) else { return Vec::new() };
        top(&kept.sketched.scores(&project(map, query), met), self.point.n_neighbors)
    }

    /// How far the neighbours of a query are from it.
    fn distances(&self, query: &[f32]) -> Vec<f64> {
        let (own, near) = (self.square(query), self.near(query));
        if near.is_empty() {
            return vec![1e3];
        }
        let distance = |&(score, _): &(f32, u32)| f64::from((own - 2.0 * score).max(0.0).sqrt());
        near.iter().map(distance).map(|distance| distance.clamp(1e-3, 1e3)).collect()
    }
}

/// An answer from a list.
struct Listed {
    best: Answer,
    /// Rows scored.
    finalists: Estimates,
    /// Rows read in bytes and in full so far.
    in_bytes: usize,
    in_full: usize,
    /// Labels read, and whether there are more than are read at first.
    n: usize,
    more: bool,
    /// Where the labels whose rows were read in bytes stand in the list.
    positions: BTreeMap<u32, u32>,
    /// Logit of the mean of all rows.
    mean: f32,
    /// What these are above what columns promised.
    errors: Vec<f64>,
    /// To the region's center, to the second nearest one, and to the mean query.
    distances: [f32; 3],
    /// What no column of others promises more than.
    least: f32,
}

/// How far the k-th logit is above the largest estimate left out, in units of the deviation of estimates' errors, of which
/// the mean is known, too.
fn margin(best: &Answer, (shift, error): (f64, f64), least: f32) -> f64 {
    let kth = f64::from(best.scores[best.scores.len() - 1]);
    let above = kth - shift - f64::from(least);
    let exact_to = 1e-5 * (kth.abs() + shift.abs() + f64::from(least).abs());
    if least == f32::NEG_INFINITY && kth > f64::NEG_INFINITY {
        30.0
    } else if above > exact_to {
        ((above - exact_to) / error.max(exact_to)).min(30.0)
    } else {
        0.0
    }
}

/// Mean and deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// The sum of some values: of every eighth, and then of these eight.
fn eight_sums(values: impl Iterator<Item = f32>) -> f32 {
    let mut sums = [0.0f32; 8];
    for (at, value) in values.enumerate() {
        sums[at % 8] += value;
    }
    sums.iter().sum()
}

/// Estimates and ids.
type Estimates = Vec<(f32, u32)>;

/// The first k of an answer.
fn first(answer: &Answer, k: usize) -> Answer {
    Answer { labels: answer.labels[..k].to_vec(), scores: answer.scores[..k].to_vec(), work: answer.work }
}

/// The work of an exact search after that of another.
fn after(work: Work, exact: Work) -> Work {
    let Work { candidates, rescored, step, trust, .. } = exact;
    Work { candidates, rescored: work.rescored + rescored, step, trust, ..work }
}

/// The largest estimate that was not scored, where the first `enough` of these were; else the least of those that were `kept`
/// of so many `offered`, or -inf if that is all.
fn left_out(likely: &Estimates, enough: usize, kept: &Estimates, offered: usize) -> f32 {
    match (likely.get(enough), kept.last()) {
        (Some(&(estimate, _)), _) => estimate,
        (None, Some(&(least, _))) if offered > kept.len() => least,
        _ => f32::NEG_INFINITY,
    }
}

fn bounded(x: f64) -> f64 {
    if x.is_nan() { -30.0 } else { x.clamp(-30.0, 30.0) }
}

fn bounded_distance(distance: f32) -> f64 {
    if distance.is_nan() { 1e3 } else { f64::from(distance).clamp(1e-3, 1e3) }
}

fn logistic(weights: &[f32], features: &[f64]) -> f32 {
    let sum: f64 = weights.iter().zip(features).map(|(w, x)| f64::from(*w) * x).sum();
    (1.0 / (1.0 + (-sum).exp())) as f32
}

fn mean(values: &[f32]) -> f32 {
    (values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64) as f32
}

/// Put the entries of tables into buckets, as `first` more than they are.
fn add_buckets(buckets: &mut Buckets, tables: &Tables, first: u32) {
    let (offsets, entries) = (tables.offsets(), tables.entries());
    let all = offsets[offsets.len() - 1] as usize;
    // Entries of the first table that are not kept are the numbers from 0 on.
    let entries = [&(0..(all - entries.len()) as u32).collect::<Vec<u32>>()[..], entries].concat();
    for bucket in 0..offsets.len() - 1 {
        let ids = &entries[offsets[bucket] as usize..offsets[bucket + 1] as usize];
        let (table, code) = (bucket >> tables.n_bits(), bucket & ((1 << tables.n_bits()) - 1));
        if !ids.is_empty() {
            buckets.entry((table, code as u32)).or_default().extend(ids.iter().map(|id| id + first));
        }
    }
}

/// Bytes of the columns of these rows: whole blocks of 64, codes and base logits.
fn column_bytes(columns: &Sketched) -> usize {
    let codes: usize = widths(columns.counts).iter().sum::<usize>() / 8;
    columns.codes.len().div_ceil(64) * 64 * (codes + 4)
}

fn groups_of(counts: [usize; 4]) -> usize {
    counts.iter().sum()
}

/// The best k, padded with -1 and -inf.
fn answer(scored: &[(f32, u32)], k: usize, work: Work) -> Answer {
    let best = top(scored, k);
    let mut answer = Answer { labels: vec![-1; k], scores: vec![f32::NEG_INFINITY; k], work };
    for (place, (score, id)) in best.into_iter().enumerate() {
        answer.labels[place] = i64::from(id);
        answer.scores[place] = score;
    }
    answer
}

/// A matrix from rows of one length.
pub fn matrix(rows: &[Vec<f32>]) -> Matrix {
    let cols = rows.first().map_or(0, Vec::len);
    Matrix::new(rows.len(), cols, &rows.concat())
}

/// An affine map from rows and offsets.
pub fn map(rows: &[Vec<f32>], offset: &[f32]) -> Result<Affine> {
    Affine::new(matrix(rows), Block::copy_of(offset))
}

/// A query's map from rows and offsets, for queries of this mean and these deviations.
pub fn projection(rows: &[Vec<f32>], offset: &[f32], spread: [&[f32]; 2]) -> Result<Projection> {
    let cols = rows.first().map_or(0, Vec::len);
    Projection::new(rows.len(), cols, &rows.concat(), offset, spread)
}

/// A sketcher of any layout, with the half steps that the variances ask for.
pub fn sketcher(bytes: usize, counts: [usize; 4], variances: &[f32]) -> Result<Sketcher> {
    Sketcher::from_parts(Layout::new(bytes, counts)?, half_steps(variances, counts))
}
