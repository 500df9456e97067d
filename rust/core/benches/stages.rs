//! What each stage of a search costs at the shape of a language model's head: m = 49,152, d = 576, K = 14, L = 4,
//! P = 32, N = 50, R = 128, 64-byte sketches, f16 rows.
//!
//! The data are synthetic (queries in clusters, each cluster with labels of its own, some labels common to all), so
//! that buckets are about as full as on real data. That makes costs comparable, and says nothing about quality.
//!
//! `cargo bench -p lss-core`; `LSS_SIMD=scalar cargo bench -p lss-core` for the portable kernel;
//! `cargo bench -p lss-core -- --test` runs everything once.
#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use lss_core::candidates::Union;
use lss_core::coordinates::{Affine, Coordinates, Projection};
use lss_core::exemplars::Lists;
use lss_core::hash::{Planes, Space, lead};
use lss_core::kernels::Kernel;
use lss_core::memory::{Block, Matrix, padded};
use lss_core::probe::Probes;
use lss_core::rows::{Rows, Weights};
use lss_core::sketch::{SketchQuery, SketchView};
use lss_core::topk::TopK;
use lss_core::{Answers, Builder, Effort, Fill, Fitted, How, Index, OnShort, OperatingPoint, Recipe, Work};

const M: usize = 49_152;
const D: usize = 576;
const K: usize = 14;
const L: usize = 4;
const P: usize = 32;
const N: usize = 50;
const R: usize = 128;
/// Leading coordinates that the planes cut.
const LEAD: usize = 64;
const CLUSTERS: usize = 600;
const TRAIN: usize = 24_000;
const QUERIES: usize = 256;

/// Numbers from a seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Mean zero, variance one.
    fn value(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) * 1.732
    }

    fn vector(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// Small numbers often: about as label frequencies fall.
    fn ranked(&mut self, n: usize) -> usize {
        let u = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((n as f64).powf(u) as usize).min(n) - 1
    }
}

struct Bench {
    index: Arc<Index>,
    fitted: Arc<Fitted>,
    queries: Vec<Vec<f32>>,
    kernel: Kernel,
}

impl Bench {
    fn new() -> Self {
        let mut rng = Rng(1);
        let weights: Vec<f16> = (0..M * D).map(|_| f16::from_f32(0.1 * rng.value())).collect();
        let rows =
            Rows::new(D, Weights::F16(Block::copy_of(&weights)), Block::copy_of(&vec![0.0; M])).unwrap();
        let index = Arc::new(Index::new(rows));

        let scale = 1.0 / (D as f32).sqrt();
        let values: Vec<f32> = rng.vector(D * D).iter().map(|value| scale * value).collect();
        let none = Block::copy_of(&vec![0.0; D]);
        let coordinates = Coordinates {
            query: Projection::new(D, D, &values, none.clone()).unwrap(),
            row: Affine::new(Matrix::new(D, D, &rng.vector(D * D)), none).unwrap(),
            variances: (0..D).map(|j| 6.0 * (-(j as f32) / 90.0).exp()).collect(),
            base: Block::copy_of(&vec![0.0; M]),
        };
        let matrix = Matrix::new(K * L, LEAD, &rng.vector(K * L * LEAD));
        let planes = Planes::new(Space::Aligned, L, K, matrix, Block::copy_of(&[0.0; K * L])).unwrap();

        let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| rng.vector(D)).collect();
        let query = |rng: &mut Rng, centre: usize| -> Vec<f32> {
            centres[centre].iter().map(|value| value + 0.45 * rng.value()).collect()
        };
        let (mut train, mut labels, mut offsets) = (Vec::with_capacity(TRAIN * D), Vec::new(), vec![0]);
        for _ in 0..TRAIN {
            let centre = rng.ranked(CLUSTERS);
            train.extend(query(&mut rng, centre));
            for _ in 0..50 {
                let label =
                    if rng.below(4) == 0 { rng.ranked(M) } else { centre * 7919 + rng.ranked(1500) * 31 };
                labels.push((label % M) as u32);
            }
            offsets.push(labels.len());
        }
        let recipe = Recipe {
            planes,
            coordinates: Some(coordinates),
            fill: Fill::Queries,
            always_include: vec![],
            sketch_bytes: 64,
            point: OperatingPoint {
                n_probes: P,
                max_entries: usize::MAX,
                n_neighbors: N,
                n_rescore: R,
                exact: false,
                n_scan: R,
                trust: 0.0,
                scan_trust: 0.0,
                judge: None,
            },
        };
        let mut builder = Builder::new(Arc::clone(&index), recipe).unwrap();
        builder.add(&train, Lists { offsets: &offsets, labels: &labels }).unwrap();
        builder.finish().unwrap();
        let queries = (0..QUERIES)
            .map(|_| {
                let centre = rng.ranked(CLUSTERS);
                query(&mut rng, centre)
            })
            .collect();
        let fitted = index.fitted().unwrap();
        Bench { index, fitted, queries, kernel: Kernel::active() }
    }

    fn padded(&self) -> Vec<Vec<f32>> {
        self.queries
            .iter()
            .map(|query| {
                let mut query = query.clone();
                query.resize(padded(D), 0.0);
                query
            })
            .collect()
    }

    /// Coordinates, and margins, of each query.
    fn projected(&self) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let project = |query: Vec<f32>| {
            let (mut z, mut x, mut margins) = (vec![], vec![], vec![]);
            self.fitted.coordinates.as_ref().unwrap().apply(self.kernel, &query, &mut z);
            lead(&z, LEAD, &mut x);
            self.fitted.planes.margins(self.kernel, &x, &mut margins);
            (z, margins)
        };
        self.padded().into_iter().map(project).unzip()
    }

    fn buckets(&self, margins: &[f32]) -> Vec<usize> {
        let mut probes = Probes::default();
        probes.start(margins, K);
        probes.take(P * L).map(|(table, code)| (table << K) | code as usize).collect()
    }
}

/// The next of several inputs, so that no input stays in the cache.
fn turn<'a, T>(all: &'a [Vec<T>], at: &mut usize) -> &'a [T] {
    *at = (*at + 1) % all.len();
    &all[*at]
}

fn stages(criterion: &mut Criterion) {
    let bench = Bench::new();
    let Bench { index, fitted, kernel, queries } = &bench;
    let (rows, kernel) = (index.rows(), *kernel);
    let mut at = 0;

    let padded = bench.padded();
    criterion.bench_function("project", |b| {
        let (mut z, mut x, mut margins) = (vec![], vec![], vec![]);
        b.iter(|| {
            fitted.coordinates.as_ref().unwrap().apply(kernel, turn(&padded, &mut at), &mut z);
            lead(&z, LEAD, &mut x);
            fitted.planes.margins(kernel, &x, &mut margins);
            black_box(&margins);
        });
    });

    let (zs, all_margins) = bench.projected();
    criterion.bench_function("probe", |b| {
        let (mut probes, mut buckets) = (Probes::default(), vec![]);
        b.iter(|| {
            buckets.clear();
            probes.start(turn(&all_margins, &mut at), K);
            buckets.extend(probes.by_ref().take(P * L));
            black_box(&buckets);
        });
    });

    let buckets: Vec<Vec<usize>> = all_margins.iter().map(|margins| bench.buckets(margins)).collect();
    let (tables, exemplars) = (fitted.tables.view(), fitted.exemplars.as_ref().unwrap());
    let mut met = Union::default();
    let mut gather = |buckets: &[usize]| {
        met.start(exemplars.len());
        buckets.iter().for_each(|&bucket| met.add(tables.bucket(bucket)));
        met.ids().len()
    };
    let entries: usize = buckets.iter().flatten().map(|&bucket| tables.bucket(bucket).len()).sum();
    let mut group = criterion.benchmark_group("gather");
    group.throughput(Throughput::Elements((entries / QUERIES) as u64));
    group.bench_function("entries", |b| {
        b.iter(|| black_box(gather(turn(&buckets, &mut at))));
    });
    group.finish();

    let mut rng = Rng(2);
    let lists: Vec<Vec<u32>> =
        (0..QUERIES).map(|_| (0..2000).map(|_| rng.below(M) as u32).collect()).collect();
    let (sketcher, sketches) = fitted.sketches.as_ref().unwrap();
    let view = SketchView { layout: sketches.layout(), codes: sketches.codes() };
    let mut group = criterion.benchmark_group("sketch");
    group.bench_function("prepare", |b| {
        let mut query = SketchQuery::default();
        b.iter(|| {
            query.prepare(sketcher, turn(&zs, &mut at));
            black_box(&query);
        });
    });
    group.throughput(Throughput::Elements(2000));
    let mut query = SketchQuery::default();
    query.prepare(sketcher, &zs[0]);
    for kernel in Kernel::available() {
        group.bench_function(format!("2000 ids, {}", kernel.name()), |b| {
            let mut scores = vec![0.0; 2000];
            b.iter(|| {
                kernel.sketch_ids(view, &query, turn(&lists, &mut at), &mut scores);
                black_box(&scores);
            });
        });
    }
    group.finish();

    let scores: Vec<Vec<f32>> = lists
        .iter()
        .map(|ids| {
            let mut scores = vec![0.0; ids.len()];
            kernel.sketch_ids(view, &query, ids, &mut scores);
            scores
        })
        .collect();
    criterion.bench_function("cut 2000 to 128", |b| {
        let (mut best, mut finalists, mut estimates) = (TopK::default(), vec![], vec![]);
        b.iter(|| {
            best.reset(R);
            best.extend(turn(&scores, &mut at), &lists[0]);
            best.unordered(&mut finalists, &mut estimates);
            black_box(&finalists);
        });
    });

    let mut group = criterion.benchmark_group("logits");
    group.throughput(Throughput::Elements(R as u64));
    for kernel in Kernel::available() {
        group.bench_function(format!("128 rows, {}", kernel.name()), |b| {
            let mut out = vec![];
            b.iter(|| {
                rows.logits(kernel, &padded[0], &turn(&lists, &mut at)[..R], &mut out);
                black_box(&out);
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("search");
    group.bench_function("one", |b| {
        let (mut labels, mut scores) = ([0i64; 5], [0.0f32; 5]);
        let mut scratch = index.scratch();
        b.iter(|| {
            scratch.load(turn(queries, &mut at));
            black_box(
                index
                    .search_one(&mut scratch, OnShort::Pad, Effort::FIXED, &mut labels, &mut scores)
                    .unwrap(),
            );
        });
    });
    let batch = queries.concat();
    group.throughput(Throughput::Elements(QUERIES as u64));
    for (name, exact, num_threads, n) in [
        ("256, one thread", false, 1, QUERIES),
        ("256, all threads", false, 0, QUERIES),
        ("16 exact, all threads", true, 0, 16),
    ] {
        let how = How { effort: Effort::FIXED, exact, on_short: OnShort::Pad, num_threads };
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || (vec![0i64; n * 5], vec![0.0f32; n * 5], vec![Work::default(); n]),
                |(labels, scores, work)| {
                    index.search(&batch[..n * D], 5, how, Answers { labels, scores, work }).unwrap()
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(2));
    targets = stages
}
criterion_main!(benches);
