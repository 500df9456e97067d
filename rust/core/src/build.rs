//! Building: from queries, labels and a hash to everything that a search reads.

use std::sync::Arc;

use rayon::prelude::*;

use crate::coordinates::Coordinates;
use crate::error::{Error, Result};
use crate::fitted::{Fill, Fitted, check_operating_point};
use crate::hash::{Planes, Space, augment, lead, lead_of_row};
use crate::index::Index;
use crate::kernels::Kernel;
use crate::kernels::gemm::{View, product};
use crate::memory::Block;
use crate::rows::Rows;
use crate::sketch::{Sketcher, Sketches};
use crate::tables::{Lists, Tables};
use crate::threads;

/// Rows whose coordinates are computed at a time.
const ROWS: usize = 1024;

/// What to build.
#[derive(Clone)]
pub struct Recipe {
    /// The hash.
    pub planes: Planes,
    /// Aligned coordinates, where planes or sketches need them.
    pub coordinates: Option<Coordinates>,
    /// What stands in the buckets.
    pub fill: Fill,
    /// Labels taken out of the buckets because they are in most of them anyway: at most so many.
    pub n_head: usize,
    /// Labels that are candidates of every query.
    pub always_include: Vec<u32>,
    /// Bytes of a sketch: 0 (none), 64 or 128.
    pub sketch_bytes: usize,
    /// Buckets probed at most, on average over the tables.
    pub n_probes: usize,
    /// No further bucket is probed once so many entries have been met.
    pub max_entries: usize,
    /// Candidates scored in full precision.
    pub n_rescore: usize,
}

/// Gathers training queries slice by slice, then builds. Nothing of the index changes before it is done.
pub struct Builder {
    index: Arc<Index>,
    recipe: Recipe,
    codes: Vec<u32>,
    offsets: Vec<usize>,
    labels: Vec<u32>,
}

impl Builder {
    /// Check the recipe against the layer.
    pub fn new(index: Arc<Index>, recipe: Recipe) -> Result<Self> {
        let (m, d) = (index.rows().m(), index.rows().d());
        check_operating_point(recipe.n_probes, recipe.max_entries, recipe.n_rescore)?;
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
        if recipe.sketch_bytes > 0 && p == 0 {
            return Err(Error::value("coordinates", "given, because sketches need them", "None"));
        }
        if let Some(&id) = recipe.always_include.iter().find(|&&id| id as usize >= m) {
            return Err(Error::value("always_include", format!("labels in 0..{m}"), id));
        }
        Ok(Builder { index, recipe, codes: Vec::new(), offsets: vec![0], labels: Vec::new() })
    }

    /// Add training queries (n x d) and the labels that each needs.
    pub fn add(&mut self, queries: &[f32], lists: Lists<'_>) -> Result<()> {
        let rows = self.index.rows();
        let (m, d) = (rows.m(), rows.d());
        let n = queries.len() / d;
        let offsets = lists.offsets;
        if offsets.len() != n + 1 || offsets[0] != 0 || offsets[n] != lists.labels.len() {
            return Err(Error::value(
                "Y",
                format!("a list for each of {n} queries"),
                offsets.len().saturating_sub(1),
            ));
        }
        if offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::value("Y", "rising offsets", "falling ones"));
        }
        if let Some(&id) = lists.labels.iter().find(|&&id| id as usize >= m) {
            return Err(Error::value("Y", format!("labels in 0..{m}"), id));
        }
        if self.recipe.fill == Fill::Rows {
            return Ok(());
        }
        self.codes.extend(query_codes(&self.recipe, queries, d)?);
        let end = self.labels.len();
        self.offsets.extend(offsets[1..].iter().map(|&offset| offset + end));
        self.labels.extend_from_slice(lists.labels);
        Ok(())
    }

    /// Build tables and sketches and swap them in.
    pub fn finish(self) -> Result<()> {
        let Builder { index, recipe, codes, offsets, labels } = self;
        let rows = index.rows();
        let m = rows.m();
        let sketcher = match (&recipe.coordinates, recipe.sketch_bytes) {
            (_, 0) | (None, _) => None,
            (Some(coordinates), bytes) => Some(Sketcher::new(&coordinates.variances, bytes)?),
        };
        let (n_tables, n_bits) = (recipe.planes.n_tables(), recipe.planes.n_bits());
        let fitted = threads::install(0, || -> Result<Fitted> {
            let (row_codes, sketches) = read_rows(rows, &recipe, sketcher.as_ref());
            let tables = match recipe.fill {
                Fill::Queries => {
                    Tables::build(n_tables, n_bits, &codes, Lists { offsets: &offsets, labels: &labels })?
                }
                Fill::Rows => {
                    let (offsets, labels): (Vec<usize>, Vec<u32>) =
                        ((0..=m).collect(), (0..m as u32).collect());
                    Tables::build(n_tables, n_bits, &row_codes, Lists { offsets: &offsets, labels: &labels })?
                }
            };
            let mut head = tables.most_spread(recipe.n_head, m);
            head.extend(&recipe.always_include);
            head.sort_unstable();
            head.dedup();
            let sketches = match (sketcher, sketches) {
                (Some(sketcher), Some(codes)) => {
                    let sketches = Sketches::new(*sketcher.layout(), codes, m)?;
                    Some((sketcher, sketches))
                }
                _ => None,
            };
            Ok(Fitted {
                tables: tables.without(&head),
                head: Block::copy_of(&head),
                sketches,
                coordinates: recipe.coordinates.map(|coordinates| coordinates.query),
                planes: recipe.planes,
                fill: recipe.fill,
                n_probes: recipe.n_probes,
                max_entries: recipe.max_entries,
                n_rescore: recipe.n_rescore,
            })
        })??;
        index.install(fitted);
        Ok(())
    }
}

/// Codes of queries (n x d), `n_tables` a query.
fn query_codes(recipe: &Recipe, queries: &[f32], d: usize) -> Result<Vec<u32>> {
    let kernel = Kernel::active();
    let planes = &recipe.planes;
    let n_tables = planes.n_tables();
    let mut codes = vec![0u32; queries.len() / d * n_tables];
    threads::install(0, || {
        codes.par_chunks_exact_mut(n_tables).zip(queries.par_chunks_exact(d)).for_each_init(
            <(Vec<f32>, Vec<f32>, Vec<f32>)>::default,
            |(z, x, margins), (codes, query)| {
                match (planes.space(), &recipe.coordinates) {
                    (Space::Aligned, Some(coordinates)) => {
                        // The same steps as a search: one code path, one rounding.
                        lead(query, d, x);
                        coordinates.query.apply(kernel, x, z);
                        lead(z, planes.dim(), x);
                    }
                    _ => augment(query, 1.0, x),
                }
                planes.margins(kernel, x, margins);
                for (code, value) in codes.iter_mut().zip(planes.codes(margins)) {
                    *code = value;
                }
            },
        );
    })?;
    Ok(codes)
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
                    let map = coordinates.row.matrix();
                    zs.resize(n * map.rows(), 0.0);
                    product(
                        View { values: wide, rows: n, cols: d, stride: d },
                        View { values: map.values(), rows: map.rows(), cols: d, stride: map.stride() },
                        zs,
                    );
                    for z in zs.chunks_exact_mut(map.rows()) {
                        for (z, offset) in z.iter_mut().zip(&coordinates.row.offset()[..]) {
                            *z += offset;
                        }
                    }
                    map.rows()
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

/// `n` consecutive parts of `size` (the last may be shorter); all empty where `all` is.
fn parts<T>(all: &mut [T], size: usize, n: usize) -> Vec<&mut [T]> {
    if all.is_empty() {
        return (0..n).map(|_| Default::default()).collect();
    }
    all.chunks_mut(size).collect()
}
