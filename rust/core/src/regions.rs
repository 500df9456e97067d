//! Regions: where a query lies says which labels queries like it needed, and in what order to look at them.
//!
//! Training queries are put together around centers, by the distance that exemplars are met by: near each other are
//! queries for which all rows' logits are alike. Each region lists the labels that its queries needed, those needed most
//! first, and lays them out as columns of their own. A search reads the beginning of one list in order, which costs a
//! tenth of what it costs to find labels one by one.
//!
//! Within a region queries differ by less than everywhere and along other directions, so a region has coordinates of its
//! own, aligned for its queries and its labels, and base logits of its mean query: half as many bytes of them tell rows
//! apart as well. A query in bytes, as its own map reads it, is what the maps into regions read, and what the rows are read
//! with that columns promise most of, in bytes, too: so a search needs few of the coordinates that all queries have, and rows
//! in full precision for hardly more labels than it answers with.

use crate::byte_rows::{BOUNDS, Bounds, ByteRows};
use crate::columns::{self, Columns};
use crate::coordinates::{Projection, Rounded, round_to_bytes};
use crate::error::{Error, Result};
use crate::exemplars::{Lists, concat};
use crate::kernels::gemm::{View, product};
use crate::kernels::{Kernel, MOST_BYTES};
use crate::memory::{Block, Buffer, Matrix, padded};
use crate::need::{Need, SHOWN, part_of};
use crate::rows::Rows;
use crate::sketch::{GROUP, Layout, Sketcher};
use crate::sums::sum;
use crate::topk::{from_signed, signed};
use rayon::prelude::*;

/// Bytes of a label's sketch in the columns of a region, of which four are the base logit.
pub const SKETCH_BYTES: usize = 36;

/// Labels whose coordinates are computed at a time.
const LABELS: usize = 1024;

/// Queries in a region, on average, have so many labels whose logits reach what [`needed`] says: about as many as
/// answers are asked for.
const ANSWERS: f64 = 5.0;

/// No logit is so many deviations above its base.
const FAR: f64 = 10.0;

/// After so many halvings of where that logit may be it is known well enough.
const HALVINGS: usize = 30;

/// Where reading ends in each list is known for so many averages: none, and multiples of a part of what whole lists are.
pub const ENDS: usize = 129;

/// Of the labels that lists are read for on average, the share that is read of each: few queries tell little.
const LEAST_READ: f64 = 0.25;

/// A label counts for a query as one over this and its rank among those that the query needed.
const RANKS: f32 = 5.0;

/// Where regions are.
#[derive(Clone)]
pub struct Centers {
    /// What a coordinate is multiplied by, for distances.
    weights: Block<f32>,
    /// Weighted coordinates, a row each.
    matrix: Matrix,
    /// The same in bytes, all that a search reads: what these make of distances matters less than what regions leave out.
    bytes: Block<i8>,
    /// For each row, what its bytes are multiplied by, and half of its square.
    scales: Vec<[f32; 2]>,
}

/// Scratch of the choice of a region.
#[derive(Default)]
pub struct Place {
    weighted: Vec<f32>,
    bytes: Vec<i8>,
    scores: Vec<f32>,
    keys: Vec<i32>,
}

/// How a query lies among centers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// The nearest center.
    pub region: usize,
    /// Distances to the nearest and to the second nearest center, and to the mean query.
    pub distances: [f32; 3],
}

impl Centers {
    /// Centers in the leading coordinates, weighted.
    pub fn new(weights: &[f32], centers: &[f32]) -> Result<Self> {
        let cols = weights.len();
        if cols == 0 || centers.is_empty() || !centers.len().is_multiple_of(cols) {
            let got = format!("{} values", centers.len());
            return Err(Error::value("centers", format!("rows of {cols} coordinates"), got));
        }
        let matrix = Matrix::new(centers.len() / cols, cols, centers);
        Self::from_parts(Block::copy_of(weights), matrix)
    }

    /// As a file holds them.
    pub fn from_parts(weights: Block<f32>, matrix: Matrix) -> Result<Self> {
        if weights.is_empty() || matrix.rows() == 0 || weights.len() != matrix.cols() {
            let got = format!("{} of {}", matrix.rows(), matrix.cols());
            return Err(Error::value("centers", format!("some, of {} coordinates", weights.len()), got));
        }
        if matrix.stride() > MOST_BYTES {
            let got = matrix.cols();
            return Err(Error::value("centers", format!("of at most {MOST_BYTES} coordinates"), got));
        }
        let (mut bytes, mut scales, mut rounded) = (Vec::new(), Vec::new(), Vec::new());
        for row in matrix.values().chunks_exact(matrix.stride()) {
            let step = round_to_bytes(row, row.len(), &mut rounded);
            bytes.extend_from_slice(&rounded);
            scales.push([step, row.iter().map(|value| value * value).sum::<f32>() / 2.0]);
        }
        Ok(Centers { weights, matrix, bytes: Block::copy_of(&bytes), scales })
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// What coordinates are multiplied by.
    pub fn weights(&self) -> &Block<f32> {
        &self.weights
    }

    /// Weighted coordinates, a row each.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// Bytes that finding the nearest reads.
    fn nbytes_read(&self) -> usize {
        self.bytes.nbytes() + size_of_val(&self.scales[..])
    }

    /// How a query with coordinates `z` lies; of equally near centers the first is nearest.
    pub fn nearest(&self, kernel: Kernel, z: &[f32], place: &mut Place) -> Nearest {
        kernel.nearest(self, z, place)
    }

    /// The same, compiled into a kernel, whose product of rows of bytes is `dot`, and so of plain loops.
    #[inline(always)]
    pub(crate) fn nearest_plainly(
        &self,
        z: &[f32],
        place: &mut Place,
        dot: impl Fn(&[i8], usize, &[i8], &mut [f32]),
    ) -> Nearest {
        let Place { weighted, bytes, scores, keys } = place;
        weighted.clear();
        weighted.extend(z.iter().zip(&self.weights[..]).map(|(z, weight)| z * weight));
        let own = sum(weighted, weighted, |a, b| a * b);
        let step = round_to_bytes(weighted, self.matrix.stride(), bytes);
        scores.resize(self.len(), 0.0);
        keys.resize(self.len(), 0);
        dot(&self.bytes, self.matrix.stride(), bytes, scores);
        for ((key, score), [scale, half]) in keys.iter_mut().zip(&*scores).zip(&self.scales) {
            *key = signed(score * scale * step - half);
        }
        let best = max(keys);
        let region = keys.iter().position(|&key| key == best).unwrap_or(0);
        keys[region] = i32::MIN;
        // Where products are NaN, or there is one center, there is none.
        let [best, second] = [best, max(keys)].map(|key| from_signed(key).max(f32::NEG_INFINITY));
        let distance = |score: f32| (own - 2.0 * score).max(0.0).sqrt();
        Nearest { region, distances: [distance(best), distance(second), own.sqrt()] }
    }
}

/// The largest; without a branch.
#[inline(always)]
fn max(keys: &[i32]) -> i32 {
    keys.iter().fold(i32::MIN, |max, &key| max.max(key))
}

/// What learning has found for a region.
#[derive(Clone)]
pub struct RegionMap {
    /// From a query to the coordinates of the region, one row-major row each.
    pub query: Vec<f32>,
    /// What is added: the region's mean query comes to zero.
    pub offset: Vec<f32>,
    /// From rows to them, one row-major row a coordinate.
    pub row: Vec<f32>,
    /// By what the region's mean query differs from that of all, on the scale of base logits.
    pub mean: Vec<f32>,
}

/// What regions are laid out from.
#[derive(Clone)]
pub struct Plan {
    /// Where they are.
    pub centers: Centers,
    /// The labels of each region.
    pub lists: RegionLists,
    /// The map into each.
    pub maps: Vec<RegionMap>,
    /// Logit variances along the regions' coordinates, falling.
    pub variances: Vec<f32>,
}

/// The labels that regions list.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionLists {
    /// Those of each, those needed most first.
    pub labels: Vec<Vec<u32>>,
    /// Where reading ends, [`ENDS`] places a region.
    pub ends: Vec<u32>,
    /// Labels of a list, on average: where as many are to be read, all are.
    pub whole: usize,
}

/// One region.
#[derive(Clone)]
pub struct Region {
    /// From a query to the coordinates of the region.
    pub map: Projection,
    /// The labels, those needed most first.
    pub labels: Block<u32>,
    /// Their columns, in this order.
    pub columns: Columns,
}

/// All regions.
#[derive(Clone)]
pub struct Regions {
    centers: Centers,
    layout: Layout,
    each: Vec<Region>,
    rows: ByteRows,
    parts: Parts,
}

/// What the regions consist of, region after region, as a file holds it.
#[derive(Clone)]
pub struct Parts {
    /// Where the labels of each region begin, and where the last ones end.
    pub offsets: Block<u32>,
    /// All labels.
    pub labels: Block<u32>,
    /// Where reading ends, [`ENDS`] places a region.
    pub ends: Block<u32>,
    /// Labels of a list, on average.
    pub whole: usize,
    /// How far queries read, beside others.
    pub need: Need,
    /// All columns.
    pub columns: Block<u8>,
    /// Half steps of the columns' codes.
    pub half_steps: Block<f32>,
    /// Maps of queries, padded rows.
    pub maps: Block<i8>,
    /// What each row of these is multiplied by.
    pub scales: Block<f32>,
    /// What is added.
    pub map_offset: Block<f32>,
    /// All rows of the layer in bytes, padded, and after them their mean.
    pub rows: Block<i8>,
    /// What each of these is multiplied by.
    pub row_scales: Block<f32>,
    /// What is added: its logit for the mean query.
    pub row_offset: Block<f32>,
    /// What is known of all of these together: [`Bounds`].
    pub row_bounds: Block<f32>,
}

impl Regions {
    /// Lay out the labels of each region, which all queries read as far. `base` are the logits of the mean query of all, and maps round queries as `all`
    /// does.
    pub fn build(rows: &Rows, base: &[f32], all: &Projection, plan: Plan) -> Result<Self> {
        let Plan { centers, lists: RegionLists { labels: lists, ends, whole }, maps, variances } = plan;
        let layout = Layout::allocate(&variances, SKETCH_BYTES)?;
        let (p, d) = (variances.len().min(layout.groups() * GROUP), rows.d());
        let fits = |map: &RegionMap| {
            [map.query.len(), map.offset.len(), map.row.len(), map.mean.len()] == [p * d, p, p * d, d]
        };
        if maps.len() != centers.len() || lists.len() != centers.len() || !maps.iter().all(fits) {
            let got = format!("{} maps and {} lists", maps.len(), lists.len());
            return Err(Error::value("maps", format!("{} of {p} coordinates", centers.len()), got));
        }
        if ends.len() != lists.len() * ENDS {
            return Err(Error::value(
                "ends",
                format!("{ENDS} of each of {} regions", lists.len()),
                ends.len(),
            ));
        }
        let m = rows.m();
        if let Some(&label) = lists.iter().flatten().find(|&&label| label as usize >= m) {
            return Err(Error::value("lists", format!("of labels in 0..{m}"), label));
        }
        let (offsets, labels) = concat(&lists);
        let narrow = |&offset: &usize| u32::try_from(offset);
        let offsets = offsets.iter().map(narrow).collect::<std::result::Result<Vec<u32>, _>>();
        let offsets = offsets.map_err(|_| Error::value("lists", "of fewer labels", labels.len()))?;
        let sizes: Vec<usize> = lists.iter().map(|list| columns::bytes_of(&layout, list.len())).collect();
        let mut columns = Buffer::zeroed(sizes.iter().sum());
        let mut rest: &mut [u8] = &mut columns;
        let mut outputs = Vec::new();
        for &size in &sizes {
            let part;
            (part, rest) = rest.split_at_mut(size);
            outputs.push(part);
        }
        let steps = outputs.into_par_iter().zip(&lists).zip(&maps).map(|((out, list), map)| {
            let sketcher = lay_region(rows, base, list, map, &layout, p, out);
            sketcher.half_steps().to_vec()
        });
        let half_steps = steps.collect::<Vec<_>>().concat();
        let maps = all.beside(maps.len() * p, |at, out| {
            let (RegionMap { query, offset, .. }, at) = (&maps[at / p], at % p);
            out.extend_from_slice(&query[at * d..][..d]);
            offset[at]
        })?;
        let in_bytes = ByteRows::new(rows, all)?;
        let parts = Parts {
            offsets: Block::copy_of(&offsets),
            labels: Block::copy_of(&labels),
            ends: Block::copy_of(&ends),
            whole,
            need: Need::none(centers.weights.len()),
            columns: columns.freeze(),
            half_steps: Block::copy_of(&half_steps),
            maps: maps.matrix().values().clone(),
            scales: maps.scales().clone(),
            map_offset: maps.offset().clone(),
            rows: in_bytes.map().matrix().values().clone(),
            row_scales: in_bytes.map().scales().clone(),
            row_offset: in_bytes.map().offset().clone(),
            row_bounds: Block::copy_of(&in_bytes.bounds().to_array()),
        };
        Self::from_parts(centers, layout, all, parts)
    }

    /// As a file holds them; [`Regions::validate`] checks the contents. Maps round queries as `all` does.
    pub fn from_parts(centers: Centers, layout: Layout, all: &Projection, parts: Parts) -> Result<Self> {
        let n = centers.len();
        let bad = |what: &str| Err(Error::format("regions whose parts fit each other", what));
        let Parts { offsets, labels, ends: reads, columns, half_steps, maps, scales, map_offset, .. } =
            &parts;
        if layout.bytes() != SKETCH_BYTES {
            return bad("sketches of another size");
        }
        if parts.need.weights().len() != SHOWN + centers.weights.len() {
            return bad("need of other coordinates");
        }
        let steps = layout.groups() * GROUP;
        let (p, d) = (scales.len() / n, all.matrix().cols());
        let stride = padded(d);
        if offsets.len() != n + 1
            || offsets[0] != 0
            || offsets[n] as usize != labels.len()
            || Some(reads.len()) != n.checked_mul(ENDS)
            || half_steps.len() != n * steps
            || (p == 0 || p > steps || scales.len() != n * p)
            || map_offset.len() != n * p
            || Some(maps.len()) != p.checked_mul(stride).and_then(|each| each.checked_mul(n))
        {
            return bad("other sizes");
        }
        let (mut each, mut at) = (Vec::with_capacity(n), 0);
        for (region, ends) in offsets.windows(2).enumerate() {
            let Some(size) = ends[1].checked_sub(ends[0]).filter(|_| ends[1] as usize <= labels.len()) else {
                return bad("falling offsets");
            };
            let bytes = columns::bytes_of(&layout, size as usize);
            if columns.len() - at < bytes {
                return bad("fewer columns");
            }
            let reads = &reads[region * ENDS..][..ENDS];
            if reads.windows(2).any(|pair| pair[0] > pair[1]) || reads[ENDS - 1] > size {
                return bad("reading that goes back, or beyond a list");
            }
            let matrix = Matrix::from_padded(p, d, maps.part(region * p * stride, p * stride))?;
            let [scales, offset] = [scales, map_offset].map(|each| each.part(region * p, p));
            let sketcher = Sketcher::from_parts(layout, half_steps[region * steps..][..steps].to_vec())?;
            each.push(Region {
                map: all.with(matrix, scales, offset)?,
                labels: labels.part(ends[0] as usize, size as usize),
                columns: Columns::from_parts(sketcher, columns.part(at, bytes), size as usize)?,
            });
            at += bytes;
        }
        if at != columns.len() {
            return bad("more columns");
        }
        let matrix = Matrix::from_padded(parts.row_scales.len(), d, parts.rows.clone())?;
        let map = all.with(matrix, parts.row_scales.clone(), parts.row_offset.clone())?;
        let Ok(bounds) = <[f32; BOUNDS]>::try_from(&parts.row_bounds[..]) else {
            return bad("other bounds of rows");
        };
        let rows = ByteRows::from_parts(map, Bounds::from_array(bounds))?;
        if each.iter().map(|region| region.labels.len()).max().is_some_and(|longest| longest < parts.whole) {
            return bad("lists all shorter than they are on average");
        }
        Ok(Regions { centers, layout, each, rows, parts })
    }

    /// Prove that each list has different labels below `m`, none of `without`, that there are so many rows in bytes, and as
    /// many of the `p` coordinates of queries as centers have.
    pub fn validate(&self, m: usize, p: usize, without: &[u32]) -> Result<()> {
        let bad = |what: String| Err(Error::format("valid regions", what));
        if self.centers.weights.len() > p {
            return bad(format!("more coordinates than {p}"));
        }
        if self.rows.map().rows() != m + 1 {
            return bad(format!("{} rows in bytes", self.rows.map().rows()));
        }
        let mut seen = vec![usize::MAX; m];
        for (region, Region { labels, .. }) in self.each.iter().enumerate() {
            for &label in &labels[..] {
                if without.binary_search(&label).is_ok() {
                    return bad(format!("label {label}, of all queries, in region {region}"));
                }
                match seen.get_mut(label as usize) {
                    Some(last) if *last != region => *last = region,
                    Some(_) => return bad(format!("label {label} twice in region {region}")),
                    None => return bad(format!("label {label} of {m} in region {region}")),
                }
            }
        }
        Ok(())
    }

    /// Where they are.
    pub fn centers(&self) -> &Centers {
        &self.centers
    }

    /// Have queries read as far as they need.
    pub fn set_need(&mut self, need: Need) -> Result<()> {
        let (expected, got) = (SHOWN + self.centers.weights.len(), need.weights().len());
        if got != expected {
            return Err(Error::value("need", format!("of {expected} values"), got));
        }
        self.parts.need = need;
        Ok(())
    }

    /// How a query with coordinates `z` lies, and what that says of how far it reads ([`Need::begin`]).
    pub fn nearest(&self, kernel: Kernel, z: &[f32], place: &mut Place) -> (Nearest, f32) {
        let near = self.centers.nearest(kernel, z, place);
        (near, self.parts.need.begin(z, near.distances))
    }

    /// The query's coordinates in a region.
    pub fn place(&self, kernel: Kernel, region: usize, rounded: &mut Rounded, local: &mut Vec<f32>) {
        let map = &self.each[region].map;
        local.resize(map.rows(), 0.0);
        map.apply_first(kernel, rounded, local);
    }

    /// How far a query reads its list, as a multiple of the average, of what its place has said and its coordinates there.
    pub fn share(&self, begun: f32, local: &[f32]) -> f32 {
        self.parts.need.factor(begun, local)
    }

    /// The same of what lists hold, where `n` labels are read on average: whoever reads all cannot read more, or less.
    pub fn share_read(&self, n: usize, share: f32) -> f32 {
        let whole = self.parts.whole;
        if n >= whole { 1.0 } else { share.min(whole as f32 / n as f32) }
    }

    /// What the columns' codes are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Each of them.
    pub fn each(&self) -> &[Region] {
        &self.each
    }

    /// All rows of the layer in bytes, and after them their mean.
    pub fn rows(&self) -> &ByteRows {
        &self.rows
    }

    /// What they consist of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Bytes that finding a query's region, and its coordinates there, reads.
    pub fn nbytes_of_map(&self) -> usize {
        let map = &self.each[0].map;
        self.centers.nbytes_read() + map.rows() * map.nbytes_of_row()
    }

    /// Labels of a list, on average.
    pub fn whole(&self) -> usize {
        self.parts.whole
    }

    /// Labels of a region's list that a query reads where it is `n` on average: of each list as far as labels are needed as often,
    /// for `share` times as many of the average, but `least` or `n`, where there are as many.
    pub fn reads(&self, region: usize, n: usize, share: f32, least: usize) -> usize {
        let (all, whole) = (self.each[region].labels.len(), self.parts.whole);
        let average = part_of(n, share);
        if n >= whole || average >= whole {
            return all;
        }
        let (place, further) = (average * (ENDS - 1) / whole, average * (ENDS - 1) % whole);
        let [from, to] = [0, 1].map(|next| self.parts.ends[region * ENDS + place + next] as usize);
        (from + (to - from) * further / whole).max(n.min(least)).min(all)
    }

    /// Bytes of it all.
    pub fn nbytes(&self) -> usize {
        let Parts {
            offsets,
            labels,
            ends,
            whole: _,
            need,
            columns,
            half_steps,
            maps,
            scales,
            map_offset,
            rows,
            row_scales,
            row_offset,
            row_bounds,
        } = &self.parts;
        let of_query = [self.centers.weights(), need.weights()];
        let floats =
            [half_steps, scales, map_offset, row_scales, row_offset, row_bounds].into_iter().chain(of_query);
        let floats = floats.map(Block::nbytes).sum::<usize>()
            + self.centers.matrix.values().nbytes()
            + self.centers.nbytes_read();
        let ids = offsets.nbytes() + labels.nbytes() + ends.nbytes();
        ids + columns.nbytes() + maps.nbytes() + rows.nbytes() + floats
    }
}

/// Sketch the labels of one region into its columns; returns how they are read.
fn lay_region(
    rows: &Rows,
    base: &[f32],
    list: &[u32],
    map: &RegionMap,
    layout: &Layout,
    p: usize,
    out: &mut [u8],
) -> Sketcher {
    let (d, n) = (rows.d(), list.len());
    let (mut zs, mut bases) = (vec![0.0; n * p], vec![0.0f32; n]);
    let (mut wide, mut row) = (Vec::new(), Vec::new());
    let outputs = zs.chunks_mut(LABELS * p).zip(bases.chunks_mut(LABELS));
    for (labels, (zs, bases)) in list.chunks(LABELS).zip(outputs) {
        wide.clear();
        for (&label, base_here) in labels.iter().zip(bases) {
            rows.widen_into(label as usize, 1, &mut row);
            let further: f64 = row.iter().zip(&map.mean).map(|(w, q)| f64::from(*w) * f64::from(*q)).sum();
            *base_here = (f64::from(base[label as usize]) + further) as f32;
            wide.extend_from_slice(&row);
        }
        product(
            View { values: &wide, rows: labels.len(), cols: d, stride: d },
            View { values: &map.row, rows: p, cols: d, stride: d },
            zs,
        );
    }
    // What all labels have in common changes no order.
    let mut moments = vec![[0.0f64; 2]; p];
    for z in zs.chunks_exact(p) {
        for ([sum, squares], &z) in moments.iter_mut().zip(z) {
            *sum += f64::from(z);
            *squares += f64::from(z) * f64::from(z);
        }
    }
    let count = n.max(1) as f64;
    let means: Vec<f32> = moments.iter().map(|[sum, _]| (sum / count) as f32).collect();
    let variances: Vec<f32> = moments
        .iter()
        .map(|[sum, squares]| (squares / count - (sum / count) * (sum / count)).max(0.0) as f32)
        .collect();
    for z in zs.chunks_exact_mut(p) {
        z.iter_mut().zip(&means).for_each(|(z, mean)| *z -= mean);
    }
    let mut sketcher = Sketcher::with_layout(*layout, &variances);
    let mut reach = vec![0.0f32; sketcher.covering().min(p)];
    for z in zs.chunks_exact(p) {
        reach.iter_mut().zip(z).for_each(|(reach, z)| *reach = reach.max(z.abs()));
    }
    sketcher.cover(&reach);
    let square = |z: &[f32]| z.iter().map(|z| f64::from(*z) * f64::from(*z)).sum::<f64>();
    let squares: Vec<f64> = zs.chunks_exact(p).map(square).collect();
    let reached = needed(&bases, &squares);
    columns::lay(layout, n, out, |at, sketch| {
        let z = &zs[at * p..][..p];
        let base = f64::from(bases[at]);
        // Queries that need a label lie along its coordinates, and its codes do not reach as far as these.
        let along: f64 = z.iter().zip(sketcher.values(z)).map(|(z, value)| f64::from(*z) * value).sum();
        // At most all of the difference is given, or taken: of coordinates near zero codes say nothing.
        let lost = if squares[at] > 0.0 { (1.0 - along / squares[at]).clamp(-1.0, 1.0) } else { 0.0 };
        let raised = (base + lost * (reached - base).max(0.0)) as f32;
        let base = if raised.is_finite() { raised } else { bases[at] };
        sketcher.encode(z, base, sketch);
        base
    });
    sketcher
}

/// The logit that [`ANSWERS`] labels reach for a query of the region, on average: each is normal about its base, with the
/// variance that is its coordinates' square. Where there are fewer labels, their least base.
fn needed(bases: &[f32], squares: &[f64]) -> f64 {
    let labels = || bases.iter().zip(squares).map(|(&base, square)| (f64::from(base), square.sqrt()));
    // A logistic function is near enough to that of a normal distribution.
    let reach = |logit: f64| {
        let share = |(base, deviation): (f64, f64)| {
            1.0 / (1.0 + (1.702 * (logit - base) / deviation.max(f64::MIN_POSITIVE)).exp())
        };
        labels().map(share).sum::<f64>()
    };
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (base, deviation) in labels() {
        (low, high) = (low.min(base), high.max(base + FAR * deviation));
    }
    for _ in 0..HALVINGS {
        let middle = low + (high - low) / 2.0;
        if reach(middle) > ANSWERS {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The labels that the queries of each of `n` regions needed, those needed most first, `most` at most, and where reading ends:
/// where labels are needed by as few queries in all regions. Query i lies in `regions[i]`, or in none, which is `n`, and needed
/// the first of its labels most of all. Labels in `without` (rising) are left out.
pub fn lists(
    n: usize,
    regions: &[u32],
    lists: Lists<'_>,
    m: usize,
    most: usize,
    without: &[u32],
) -> RegionLists {
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (query, &region) in regions.iter().enumerate() {
        if let Some(members) = members.get_mut(region as usize) {
            members.push(query);
        }
    }
    let of_region = |used: &mut Vec<f32>, members: &Vec<usize>| {
        used.resize(m, 0.0);
        let mut touched = Vec::new();
        for &query in members {
            for (rank, &label) in lists.get(query).iter().enumerate() {
                let used = &mut used[label as usize];
                if *used == 0.0 {
                    touched.push(label);
                }
                *used += 1.0 / (RANKS + 1.0 + rank as f32);
            }
        }
        let mut order: Vec<(f32, u32)> =
            touched.iter().map(|&label| (std::mem::take(&mut used[label as usize]), label)).collect();
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.retain(|(_, label)| without.binary_search(label).is_err());
        order.truncate(most);
        order.into_iter().map(|(used, label)| (used / members.len() as f32, label)).unzip()
    };
    let (uses, labels): (Vec<Vec<f32>>, Vec<Vec<u32>>) =
        members.par_iter().map_init(Vec::new, of_region).unzip();
    let queries: Vec<usize> = members.iter().map(Vec::len).collect();
    let sizes: usize = labels.iter().zip(&queries).map(|(labels, queries)| labels.len() * queries).sum();
    let whole = sizes.div_ceil(queries.iter().sum::<usize>().max(1));
    RegionLists { ends: ends(&uses, &queries, whole), labels, whole }
}

/// Where reading ends in lists whose labels are used so much (falling) by each of so many queries, [`ENDS`] places a region.
fn ends(uses: &[Vec<f32>], queries: &[usize], whole: usize) -> Vec<u32> {
    let all = queries.iter().sum::<usize>().max(1) as f64;
    // Labels of which more is used than that, or as much.
    let above = |used: &[f32], bar: f32| used.partition_point(|&used| used > bar);
    let reaching = |used: &[f32], bar: f32| used.partition_point(|&used| used >= bar);
    let mean = |size: &dyn Fn(&[f32]) -> usize| {
        let of_all = uses.iter().zip(queries).map(|(used, &queries)| size(used) as f64 * queries as f64);
        of_all.sum::<f64>() / all
    };
    let of_average = |at: usize| {
        let n = (at * whole) as f64 / (ENDS - 1) as f64;
        // Positive floats are in the order of their bits.
        let (mut low, mut high) = (0u32, f32::MAX.to_bits());
        while low < high {
            let middle = low + (high - low) / 2;
            if mean(&|used| above(used, f32::from_bits(middle))) > n {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let bar = f32::from_bits(low);
        let (from, to) = (mean(&|used| above(used, bar)), mean(&|used| reaching(used, bar)));
        let share = if to > from { ((n - from) / (to - from)).clamp(0.0, 1.0) } else { 1.0 };
        let size = |used: &Vec<f32>| {
            let fewer = above(used, bar);
            let end = fewer + ((reaching(used, bar) - fewer) as f64 * share) as usize;
            end.max((LEAST_READ * n) as usize).min(used.len()) as u32
        };
        uses.iter().map(size).collect::<Vec<u32>>()
    };
    let of_averages: Vec<Vec<u32>> = (0..ENDS).into_par_iter().map(of_average).collect();
    (0..uses.len()).flat_map(|region| of_averages.iter().map(move |ends| ends[region])).collect()
}
