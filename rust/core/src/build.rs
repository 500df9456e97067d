//! Building: from queries, labels and a hash to everything that a search reads.

use std::sync::Arc;

use rayon::prelude::*;

use crate::columns::Columns;
use crate::coordinates::{Coordinates, Rounded};
use crate::error::{Error, Result};
use crate::exemplars::{ExemplarSketcher, Exemplars, Lists, SKETCH_BYTES};
use crate::fitted::{Fill, Fitted, OperatingPoint};
use crate::hash::{Planes, Space, augment, lead, lead_of_row};
use crate::index::Index;
use crate::kernels::Kernel;
use crate::kernels::gemm::{View, product};
use crate::memory::Block;
use crate::need::{self, Need};
use crate::regions::{self, Centers, Place, Plan, RegionLists, Regions};
use crate::rows::Rows;
use crate::sketch::{Sketcher, Sketches};
use crate::tables::Tables;
use crate::threads;

/// Rows whose coordinates are computed at a time.
const ROWS: usize = 1024;

/// What to build.
#[derive(Clone)]
pub struct Recipe {
    /// The hash.
    pub planes: Planes,
    /// Aligned coordinates, where planes, sketches or exemplars need them.
    pub coordinates: Option<Coordinates>,
    /// What stands in the buckets.
    pub fill: Fill,
    /// Labels that are candidates of every query.
    pub always_include: Vec<u32>,
    /// Bytes of a sketch: 0 (none), 64 or 128.
    pub sketch_bytes: usize,
    /// How much a search does.
    pub point: OperatingPoint,
}

/// Gathers training queries slice by slice, then builds. Nothing of the index changes before it is done.
pub struct Builder {
    index: Arc<Index>,
    recipe: Recipe,
    /// Of exemplars, with [`Fill::Queries`].
    sketcher: Option<ExemplarSketcher>,
    sketches: Vec<u8>,
    codes: Vec<u32>,
    offsets: Vec<usize>,
    labels: Vec<u32>,
    /// Those that are laid out.
    regions: Option<Regions>,
}

impl Builder {
    /// Check the recipe against the layer.
    pub fn new(index: Arc<Index>, recipe: Recipe) -> Result<Self> {
        let (m, d) = (index.rows().m(), index.rows().d());
        recipe.point.check()?;
        let p = match &recipe.coordinates {
            Some(coordinates) => {
                coordinates.check(m, d)?;
                coordinates.variances.len()
            }
            None => 0,
        };
        let dim = recipe.planes.dim();
        match recipe.planes.space() {
            Space::Augmented if dim != d + 1 => {
                return Err(Error::value("planes", format!("of dimension {} (d + 1)", d + 1), dim));
            }
            Space::Aligned if dim > p => {
                return Err(Error::value(
                    "planes",
                    format!("of at most {p} dimensions (the coordinates)"),
                    dim,
                ));
            }
            _ => {}
        }
        let sketcher = match (&recipe.coordinates, recipe.fill) {
            (Some(coordinates), Fill::Queries) => Some(ExemplarSketcher::new(&coordinates.variances)?),
            _ => None,
        };
        if !matches!(recipe.sketch_bytes, 0 | 64 | 128) {
            return Err(Error::value("sketch_bytes", "0, 64 or 128", recipe.sketch_bytes));
        }
        if (recipe.sketch_bytes > 0 || recipe.fill == Fill::Queries) && p == 0 {
            return Err(Error::value("coordinates", "given, because sketches need them", "None"));
        }
        if let Some(&id) = recipe.always_include.iter().find(|&&id| id as usize >= m) {
            return Err(Error::value("always_include", format!("labels in 0..{m}"), id));
        }
        Ok(Builder {
            index,
            recipe,
            sketcher,
            sketches: Vec::new(),
            codes: Vec::new(),
            offsets: vec![0],
            labels: Vec::new(),
            regions: None,
        })
    }

    /// Add training queries (n x d) and the labels that each needs, most of all the first.
    pub fn add(&mut self, queries: &[f32], lists: Lists<'_>) -> Result<()> {
        let rows = self.index.rows();
        let (m, d) = (rows.m(), rows.d());
        let n = queries.len() / d;
        lists.check(n, m)?;
        let Some(sketcher) = &self.sketcher else { return Ok(()) };
        let n_tables = self.recipe.planes.n_tables();
        let done = self.offsets.len() - 1;
        self.codes.resize((done + n) * n_tables, 0);
        self.sketches.resize((done + n) * SKETCH_BYTES, 0);
        let (codes, sketches) =
            (&mut self.codes[done * n_tables..], &mut self.sketches[done * SKETCH_BYTES..]);
        read_queries(&self.recipe, sketcher, queries, d, codes, sketches)?;
        let end = self.labels.len();
        self.offsets.extend(lists.offsets[1..].iter().map(|&offset| offset + end));
        self.labels.extend_from_slice(lists.labels);
        Ok(())
    }

    /// The region of each of these queries (n x d), as a search finds it.
    pub fn place(&self, centers: &Centers, queries: &[f32]) -> Result<Vec<u32>> {
        let query = &self.check_centers(centers)?.query;
        let (kernel, r) = (Kernel::active(), centers.weights().len());
        let place = |(rounded, place, z): &mut (Rounded, Place, Vec<f32>), one: &[f32]| {
            z.resize(r, 0.0);
            query.round(kernel, one, rounded);
            query.apply_first(kernel, rounded, z);
            centers.nearest(kernel, z, place).region as u32
        };
        let each = queries.par_chunks_exact(self.index.rows().d());
        threads::install(0, || each.map_init(<(Rounded, Place, Vec<f32>)>::default, place).collect())
    }

    /// The labels that the queries added have needed in each of `n` regions, `most` at most, and how far they are read. A query
    /// whose region is `n` is in none.
    pub fn lists(&self, regions: &[u32], n: usize, most: usize) -> Result<RegionLists> {
        let added = self.offsets.len() - 1;
        if regions.len() != added {
            return Err(Error::value("regions", format!("one of each of {added} queries"), regions.len()));
        }
        if let Some(region) = regions.iter().find(|&&region| region as usize > n) {
            return Err(Error::value("regions", format!("in 0..={n}"), region));
        }
        let without = self.always_include();
        let lists = Lists { offsets: &self.offsets, labels: &self.labels };
        let m = self.index.rows().m();
        threads::install(0, || regions::lists(n, regions, lists, m, most, &without))
    }

    /// Have lists laid out.
    pub fn lay_out(&mut self, plan: Plan) -> Result<()> {
        let Coordinates { query, variances, base, .. } = self.check_centers(&plan.centers)?;
        let rows = self.index.rows();
        let regions = threads::install(0, || Regions::build(rows, base, query, plan))??;
        regions.validate(rows.m(), variances.len(), &self.always_include())?;
        self.regions = Some(regions);
        Ok(())
    }

    /// What a search of these queries (n x d) knows before it reads their lists: what [`need::known`] says, and the coordinates that
    /// centers lie in.
    pub fn known(&self, queries: &[f32]) -> Result<Vec<f32>> {
        let regions = self.regions.as_ref().ok_or_else(not_laid_out)?;
        let query = &self.check_centers(regions.centers())?.query;
        let (kernel, r, d) = (Kernel::active(), regions.centers().weights().len(), self.index.rows().d());
        let one = |(rounded, place, [z, local]): &mut (Rounded, Place, [Vec<f32>; 2]), one: &[f32]| {
            z.resize(r, 0.0);
            query.round(kernel, one, rounded);
            query.apply_first(kernel, rounded, z);
            let near = regions.centers().nearest(kernel, z, place);
            regions.place(kernel, near.region, rounded, local);
            [&need::known(near.distances, local), &z[..]].concat()
        };
        let known = || queries.par_chunks_exact(d).map_init(Default::default, one).collect::<Vec<_>>();
        Ok(threads::install(0, known)?.concat())
    }

    /// Have queries read as far as they need.
    pub fn set_need(&mut self, need: Need) -> Result<()> {
        self.regions.as_mut().ok_or_else(not_laid_out)?.set_need(need)
    }

    /// Labels that are candidates of every query, rising.
    fn always_include(&self) -> Vec<u32> {
        let mut labels = self.recipe.always_include.clone();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// The coordinates that centers lie in.
    fn check_centers(&self, centers: &Centers) -> Result<&Coordinates> {
        let Recipe { coordinates: Some(coordinates), fill: Fill::Queries, sketch_bytes: 1.., .. } =
            &self.recipe
        else {
            return Err(Error::value("centers", "of an index with sketches and exemplars", "others"));
        };
        let (r, p) = (centers.weights().len(), coordinates.variances.len());
        if r > p {
            return Err(Error::value("centers", format!("of at most {p} coordinates"), r));
        }
        Ok(coordinates)
    }

    /// Build tables and sketches and swap them in.
    pub fn finish(self) -> Result<()> {
        let always_include = self.always_include();
        let Builder {
            index,
            recipe,
            sketcher: of_exemplars,
            sketches: taught,
            codes,
            offsets,
            labels,
            regions,
        } = self;
        let rows = index.rows();
        let m = rows.m();
        let mut sketcher = match (&recipe.coordinates, recipe.sketch_bytes) {
            (_, 0) | (None, _) => None,
            (Some(coordinates), bytes) => Some(Sketcher::new(&coordinates.variances, bytes)?),
        };
        let (n_tables, n_bits) = (recipe.planes.n_tables(), recipe.planes.n_bits());
        let fitted = threads::install(0, || -> Result<Fitted> {
            if let (Some(sketcher), Some(coordinates)) = (&mut sketcher, &recipe.coordinates) {
                sketcher.cover(&reach(rows, coordinates, sketcher.covering()));
            }
            let (row_codes, sketches) = read_rows(rows, &recipe, sketcher.as_ref());
            let (tables, exemplars) = match of_exemplars {
                Some(sketcher) => {
                    // By bucket of the first table: what a probe there finds lies together.
                    let n = u32::try_from(codes.len() / n_tables)
                        .map_err(|_| Error::value("Q", "fewer than 2**32 queries", codes.len() / n_tables))?;
                    let mut order: Vec<u32> = (0..n).collect();
                    order.sort_by_key(|&item| codes[item as usize * n_tables]);
                    let codes: Vec<u32> = order
                        .iter()
                        .flat_map(|&item| &codes[item as usize * n_tables..][..n_tables])
                        .copied()
                        .collect();
                    let lists = Lists { offsets: &offsets, labels: &labels };
                    let exemplars = Exemplars::build(&sketcher, &taught, lists, &order)?;
                    (Tables::build(n_tables, n_bits, &codes)?, Some(exemplars))
                }
                None => (Tables::build(n_tables, n_bits, &row_codes)?, None),
            };
            let sketches = match (sketcher, sketches) {
                (Some(sketcher), Some(codes)) => {
                    let sketches = Sketches::new(*sketcher.layout(), codes, m)?;
                    Some((sketcher, sketches))
                }
                _ => None,
            };
            let columns = match (&sketches, &exemplars) {
                (Some((sketcher, sketches)), Some(_)) => Some(Columns::build(sketcher, sketches)?),
                _ => None,
            };
            let base = recipe.coordinates.as_ref().map_or(&[][..], |coordinates| &coordinates.base[..]);
            let level = base.iter().map(|&base| f64::from(base)).sum::<f64>() / m as f64;
            Ok(Fitted {
                level: level as f32,
                regions: regions.map(Arc::new),
                observed: None,
                fitted_from: exemplars.as_ref().map_or(0, Exemplars::len),
                tables,
                exemplars,
                always_include: Block::copy_of(&always_include),
                sketches,
                columns,
                coordinates: recipe.coordinates.map(|coordinates| coordinates.query),
                planes: recipe.planes,
                point: recipe.point,
            })
        })??;
        index.install(fitted);
        Ok(())
    }
}

fn not_laid_out() -> Error {
    Error::value("regions", "laid out", "none")
}

/// One pass over training queries (n x d): codes, `n_tables` a query, and sketches.
fn read_queries(
    recipe: &Recipe,
    sketcher: &ExemplarSketcher,
    queries: &[f32],
    d: usize,
    codes: &mut [u32],
    sketches: &mut [u8],
) -> Result<()> {
    let kernel = Kernel::active();
    let planes = &recipe.planes;
    let outputs =
        (codes.par_chunks_exact_mut(planes.n_tables()), sketches.par_chunks_exact_mut(SKETCH_BYTES));
    threads::install(0, || {
        outputs.into_par_iter().zip(queries.par_chunks_exact(d)).for_each_init(
            <(Rounded, [Vec<f32>; 3])>::default,
            |(rounded, [z, x, margins]), ((codes, sketch), query)| {
                // The same steps as a search: one code path, one rounding.
                if let Some(coordinates) = &recipe.coordinates {
                    z.resize(coordinates.query.rows(), 0.0);
                    coordinates.query.apply(kernel, query, rounded, z);
                }
                match planes.space() {
                    Space::Augmented => augment(query, 1.0, x),
                    Space::Aligned => lead(z, planes.dim(), x),
                }
                planes.margins(kernel, x, margins);
                for (code, value) in codes.iter_mut().zip(planes.codes(margins)) {
                    *code = value;
                }
                sketcher.encode(z, sketch);
            },
        );
    })
}

/// One pass over the rows: their codes, if buckets are filled from them, and their sketches.
fn read_rows(rows: &Rows, recipe: &Recipe, sketcher: Option<&Sketcher>) -> (Vec<u32>, Option<Block<u8>>) {
    let kernel = Kernel::active();
    let (m, d) = (rows.m(), rows.d());
    let planes = &recipe.planes;
    let n_tables = planes.n_tables();
    let hashed = recipe.fill == Fill::Rows;
    let mut codes = vec![0u32; if hashed { m * n_tables } else { 0 }];
    let stride = sketcher.map_or(0, |sketcher| sketcher.layout().bytes());
    let mut sketches = sketcher.map(|sketcher| Sketches::buffer(sketcher.layout(), m));

    // Blocks of rows, each with its own part of both outputs; an output that is not wanted has empty parts.
    let mut code_parts: Vec<&mut [u32]> = parts(&mut codes, ROWS * n_tables, m.div_ceil(ROWS));
    let empty: &mut [u8] = &mut [];
    let sketch_parts: Vec<&mut [u8]> =
        parts(sketches.as_deref_mut().unwrap_or(empty), ROWS * stride, m.div_ceil(ROWS));
    code_parts.par_iter_mut().zip(sketch_parts).enumerate().for_each_init(
        <[Vec<f32>; 4]>::default,
        |[wide, zs, x, margins], (block, (codes, sketches))| {
            let first = block * ROWS;
            let n = ROWS.min(m - first);
            rows.widen_into(first, n, wide);
            let p = match &recipe.coordinates {
                Some(coordinates) => {
                    let p = coordinates.variances.len();
                    place(wide, coordinates, p, zs);
                    p
                }
                None => 0,
            };
            for (row, codes) in codes.chunks_exact_mut(n_tables).enumerate() {
                match planes.space() {
                    Space::Augmented => augment(&wide[row * d..(row + 1) * d], rows.bias()[first + row], x),
                    Space::Aligned => lead_of_row(&zs[row * p..(row + 1) * p], planes.dim(), x),
                }
                planes.margins(kernel, x, margins);
                for (code, value) in codes.iter_mut().zip(planes.codes(margins)) {
                    *code = value;
                }
            }
            if let (Some(sketcher), Some(coordinates)) = (sketcher, &recipe.coordinates) {
                for (row, sketch) in sketches.chunks_exact_mut(stride).enumerate() {
                    sketcher.encode(&zs[row * p..(row + 1) * p], coordinates.base[first + row], sketch);
                }
            }
        },
    );
    (codes, sketches.map(|buffer| buffer.freeze()))
}

/// The largest absolute value that any row has in each of the leading `p` coordinates.
fn reach(rows: &Rows, coordinates: &Coordinates, p: usize) -> Vec<f32> {
    if p == 0 {
        return Vec::new();
    }
    let p = p.min(coordinates.variances.len());
    let larger = |mut a: Vec<f32>, b: Vec<f32>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a = a.max(b));
        a
    };
    let blocks = (0..rows.m()).into_par_iter().step_by(ROWS);
    let of_blocks = blocks.map_init(<[Vec<f32>; 2]>::default, |[wide, zs], first| {
        rows.widen_into(first, ROWS.min(rows.m() - first), wide);
        place(wide, coordinates, p, zs);
        let mut reach = vec![0.0f32; p];
        for z in zs.chunks_exact(p) {
            reach.iter_mut().zip(z).for_each(|(reach, z)| *reach = reach.max(z.abs()));
        }
        reach
    });
    of_blocks.reduce(|| vec![0.0; p], larger)
}

/// The leading `p` coordinates of rows `wide` (n x d) into `zs` (n x p).
fn place(wide: &[f32], coordinates: &Coordinates, p: usize, zs: &mut Vec<f32>) {
    let map = coordinates.row.matrix();
    let d = map.cols();
    let n = wide.len() / d;
    zs.resize(n * p, 0.0);
    product(
        View { values: wide, rows: n, cols: d, stride: d },
        View { values: map.values(), rows: p, cols: d, stride: map.stride() },
        zs,
    );
    for z in zs.chunks_exact_mut(p) {
        for (z, offset) in z.iter_mut().zip(&coordinates.row.offset()[..]) {
            *z += offset;
        }
    }
}

/// `n` consecutive parts of `size` (the last may be shorter); all empty where `all` is.
fn parts<T>(all: &mut [T], size: usize, n: usize) -> Vec<&mut [T]> {
    if all.is_empty() {
        return (0..n).map(|_| Default::default()).collect();
    }
    all.chunks_mut(size).collect()
}
