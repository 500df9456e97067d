//! What each stage of a search costs at the shape of a language model's head: m = 49,152, d = 576, K = 14, L = 4,
//! P = 32, N = 50, R = 128, 64-byte sketches, f16 rows. Data as in `synthetic`.
//!
//! `cargo bench -p lss-core`; `LSS_SIMD=scalar cargo bench -p lss-core` for the portable kernel;
//! `cargo test -p lss-core --benches` runs everything once.
#![allow(missing_docs, reason = "criterion's macros make functions without")]

mod synthetic;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lss_core::candidates::Meeting;
use lss_core::coordinates::Rounded;
use lss_core::hash::lead;
use lss_core::kernels::Kernel;
use lss_core::memory::padded;
use lss_core::probe::Probes;
use lss_core::sketch::{SketchQuery, SketchView};
use lss_core::topk::TopK;
use lss_core::{Answers, Effort, Fitted, How, Index, OnShort, Work};
use synthetic::{Layer, Rng, Shape};

const M: usize = 49_152;
const D: usize = 576;
const K: usize = 14;
const L: usize = 4;
const P: usize = 32;
const R: usize = 128;
/// Leading coordinates that the planes cut.
const LEAD: usize = 64;
const QUERIES: usize = 256;

struct Bench {
    index: Arc<Index>,
    fitted: Arc<Fitted>,
    queries: Vec<Vec<f32>>,
    kernel: Kernel,
}

impl Bench {
    fn new() -> Self {
        let layer = Layer::new(Shape {
            m: M,
            d: D,
            n_bits: K,
            n_tables: L,
            n_probes: P,
            n_neighbors: 50,
            n_rescore: R,
            lead: LEAD,
            clusters: 600,
            train: 24_000,
            queries: QUERIES,
        });
        layer.fit();
        let Layer { index, queries, .. } = layer;
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
            let map = self.fitted.coordinates.as_ref().unwrap();
            let (mut z, mut x, mut margins) = (vec![0.0; map.rows()], vec![], vec![]);
            map.apply(self.kernel, &query, &mut Rounded::default(), &mut z);
            lead(&z, LEAD, &mut x);
            self.fitted.planes.margins(self.kernel, &x, &mut margins);
            (z, margins)
        };
        self.padded().into_iter().map(project).unzip()
    }

    fn buckets(&self, margins: &[f32]) -> Vec<usize> {
        let mut probes = Probes::default();
        probes.start(margins, K);
        probes.take(P * L).map(|(table, code, _)| (table << K) | code as usize).collect()
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
        let map = fitted.coordinates.as_ref().unwrap();
        let (mut rounded, mut z) = (Rounded::default(), vec![0.0; map.rows()]);
        let (mut x, mut margins) = (vec![], vec![]);
        b.iter(|| {
            map.apply(kernel, turn(&padded, &mut at), &mut rounded, &mut z);
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
    let (tables, exemplars) = (&fitted.tables, fitted.exemplars.as_ref().unwrap());
    let mut met = Meeting::default();
    let mut gather = |buckets: &[usize]| {
        met.start(exemplars.len(), tables);
        met.meet(tables, buckets).len()
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
            let mut out = vec![0.0; R];
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
