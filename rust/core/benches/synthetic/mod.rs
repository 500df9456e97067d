//! A layer with queries in clusters, each cluster with labels of its own, some labels common to all, so that buckets are
//! about as full as on real data. That makes costs comparable, and says nothing about quality.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::sync::Arc;

use half::f16;
use lss_core::coordinates::{Affine, Coordinates, Projection, Rounded};
use lss_core::exemplars::Lists;
use lss_core::hash::{Planes, Space};
use lss_core::kernels::Kernel;
use lss_core::memory::{Block, Matrix};
use lss_core::regions::{Centers, Plan, RegionMap};
use lss_core::rows::{Rows, Weights};
use lss_core::{Builder, Fill, Index, OperatingPoint, Recipe};

/// Numbers from a seed (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Mean zero, variance one.
    pub fn value(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1.732
    }

    /// So many values.
    pub fn vector(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Small numbers often: about as label frequencies fall.
    fn ranked(&mut self, n: usize) -> usize {
        let u = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((n as f64).powf(u) as usize).min(n) - 1
    }
}

/// Coordinates that centers of regions lie in, at most.
const LEAD: usize = 64;

/// Sizes of a layer, of its tables, and of a search.
#[derive(Clone, Copy)]
pub struct Shape {
    pub m: usize,
    pub d: usize,
    pub n_bits: usize,
    pub n_tables: usize,
    pub n_probes: usize,
    pub n_neighbors: usize,
    pub n_rescore: usize,
    /// Leading coordinates that the planes cut.
    pub lead: usize,
    pub clusters: usize,
    pub train: usize,
    pub queries: usize,
}

/// An index, what to build it from, and queries to ask.
pub struct Layer {
    pub index: Arc<Index>,
    pub recipe: Recipe,
    pub train: Vec<f32>,
    pub offsets: Vec<usize>,
    pub labels: Vec<u32>,
    pub queries: Vec<Vec<f32>>,
}

impl Layer {
    /// The same for the same shape; not fitted yet.
    pub fn new(shape: Shape) -> Self {
        let Shape { m, d, n_bits, n_tables, lead, clusters, .. } = shape;
        let mut rng = Rng(1);
        let weights: Vec<f16> = (0..m * d).map(|_| f16::from_f32(0.1 * rng.value())).collect();
        let rows =
            Rows::new(d, Weights::F16(Block::copy_of(&weights)), Block::copy_of(&vec![0.0; m])).unwrap();

        let scale = 1.0 / (d as f32).sqrt();
        let values: Vec<f32> = rng.vector(d * d).iter().map(|value| scale * value).collect();
        let none = Block::copy_of(&vec![0.0; d]);
        let coordinates = Coordinates {
            query: Projection::new(d, d, &values, &none, [&none, &vec![1.0; d]]).unwrap(),
            row: Affine::new(Matrix::new(d, d, &rng.vector(d * d)), none).unwrap(),
            variances: (0..d).map(|j| 6.0 * (-(j as f32) / 90.0).exp()).collect(),
            base: Block::copy_of(&vec![0.0; m]),
        };
        let n_planes = n_bits * n_tables;
        let matrix = Matrix::new(n_planes, lead, &rng.vector(n_planes * lead));
        let thresholds = Block::copy_of(&vec![0.0; n_planes]);
        let planes = Planes::new(Space::Aligned, n_tables, n_bits, matrix, thresholds).unwrap();

        let centres: Vec<Vec<f32>> = (0..clusters).map(|_| rng.vector(d)).collect();
        let query = |rng: &mut Rng, centre: usize| -> Vec<f32> {
            centres[centre].iter().map(|value| value + 0.45 * rng.value()).collect()
        };
        let (mut train, mut labels, mut offsets) = (Vec::with_capacity(shape.train * d), Vec::new(), vec![0]);
        for _ in 0..shape.train {
            let centre = rng.ranked(clusters);
            train.extend(query(&mut rng, centre));
            for _ in 0..50 {
                let label =
                    if rng.below(4) == 0 { rng.ranked(m) } else { centre * 7919 + rng.ranked(1500) * 31 };
                labels.push((label % m) as u32);
            }
            offsets.push(labels.len());
        }
        let queries = (0..shape.queries)
            .map(|_| {
                let centre = rng.ranked(clusters);
                query(&mut rng, centre)
            })
            .collect();
        let recipe = Recipe {
            planes,
            coordinates: Some(coordinates),
            fill: Fill::Queries,
            always_include: vec![],
            sketch_bytes: 64,
            point: OperatingPoint {
                n_probes: shape.n_probes,
                max_entries: usize::MAX,
                n_neighbors: shape.n_neighbors,
                n_rescore: shape.n_rescore,
                list: None,
                exact: false,
                reach: None,
                n_scan: shape.n_rescore,
                trust: 0.0,
                scan_trust: 0.0,
                judge: None,
            },
        };
        Layer { index: Arc::new(Index::new(rows)), recipe, train, offsets, labels, queries }
    }

    /// Build tables and sketches.
    pub fn fit(&self) {
        self.builder().finish().unwrap();
    }

    /// The same, and lists of `n` regions, around the first training queries, that are ready to be read.
    pub fn fit_regions(&self, n: usize) {
        let (mut rng, d, mut builder) = (Rng(3), self.queries[0].len(), self.builder());
        let coordinates = self.recipe.coordinates.as_ref().unwrap();
        let lead = LEAD.min(d);
        let (mut z, mut rounded, mut centers) = (vec![0.0; d], Rounded::default(), Vec::new());
        for query in self.train.chunks_exact(d).take(n) {
            coordinates.query.apply(Kernel::active(), query, &mut rounded, &mut z);
            centers.extend_from_slice(&z[..lead]);
        }
        let centers = Centers::new(&vec![1.0; lead], &centers).unwrap();
        let regions = builder.place(&centers, &self.train).unwrap();
        let lists = builder.lists(&regions, n, self.index.rows().m()).unwrap();
        let map = |rng: &mut Rng| RegionMap {
            query: rng.vector(d * d).iter().map(|value| value / (d as f32).sqrt()).collect(),
            offset: vec![0.0; d],
            row: rng.vector(d * d),
            mean: vec![0.0; d],
        };
        let maps = (0..n).map(|_| map(&mut rng)).collect();
        builder.lay_out(Plan { centers, lists, maps, variances: coordinates.variances.clone() }).unwrap();
        builder.finish().unwrap();
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::new(Arc::clone(&self.index), self.recipe.clone()).unwrap();
        builder.add(&self.train, Lists { offsets: &self.offsets, labels: &self.labels }).unwrap();
        builder
    }
}
