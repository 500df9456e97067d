//! Fixed work, of which `make instructions` counts the instructions: unlike times, counts can be compared between
//! runs on a busy machine.
//!
//! valgrind collects inside [`counted`] alone, and writes a file whenever it is entered; a line of the output names what
//! was counted, in the same order. `cargo test -p lss-core --benches` runs everything without valgrind. With a saved index, a
//! file of queries (f32) and a number of answers, their searches are counted in place of that.

mod synthetic;

use std::hint::black_box;
use std::io::Write;
use std::path::Path;

use lss_core::kernels::Kernel;
use lss_core::kernels::gemm::{View, product};
use lss_core::trust::{LISTED, SCAN, TABLES};
use lss_core::{
    Answers, Effort, How, Index, ListPoint, OnShort, OperatingPoint, Step, Trust, Work, file, teacher,
    threads,
};
use synthetic::{Layer, Rng, Shape};

const K: usize = 5;
const SHAPE: Shape = Shape {
    m: 8192,
    d: 128,
    n_bits: 9,
    n_tables: 4,
    n_probes: 16,
    n_neighbors: 40,
    n_rescore: 64,
    lead: 64,
    clusters: 100,
    train: 4000,
    queries: 64,
};

/// What is counted of an index that is given.
const SEARCHES: &str = "searches";

/// What valgrind is told to count. A function of its own in the program, whatever the compiler inlines.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

/// Do it once to get memory and caches of the program ready, then once more to be counted.
fn workload(name: &str, mut work: impl FnMut()) {
    work();
    counted(&mut work);
    writeln!(std::io::stdout(), "{name}").expect("an open output");
}

fn one_by_one(index: &Index, queries: &[Vec<f32>], effort: Effort, step: Step) {
    let (mut labels, mut scores) = ([0; K], [0.0; K]);
    let mut scratch = index.scratch();
    for query in queries {
        scratch.load(query);
        let work = index.search_one(&mut scratch, OnShort::Pad, effort, &mut labels, &mut scores);
        assert_eq!(work.expect("an answer").step, step, "the way that is to be counted");
        black_box(&labels);
    }
}

fn batch(index: &Index, queries: &[f32], exact: bool, effort: Effort) {
    let n = queries.len() / SHAPE.d;
    let (mut labels, mut scores, mut work) = (vec![0; n * K], vec![0.0; n * K], vec![Work::default(); n]);
    let how = How { effort, exact, on_short: OnShort::Pad, num_threads: 1 };
    let out = Answers { labels: &mut labels, scores: &mut scores, work: &mut work };
    index.search(queries, K, how, out).expect("answers");
    black_box(&labels);
}

fn workloads() {
    let layer = Layer::new(SHAPE);
    workload("build", || layer.fit());

    let index = &layer.index;
    let queries = &layer.queries;
    workload("search_tables", || one_by_one(index, queries, Effort::FIXED, Step::Tables));

    // As fits have it: one table, and buckets within reach.
    let one = Layer::new(Shape { n_bits: 9, n_tables: 1, n_probes: 64, ..SHAPE });
    one.fit();
    let point = OperatingPoint { reach: Some(0.375), ..one.recipe.point };
    let near = one.index.at(point).expect("a point that suits");
    workload("search_reach", || one_by_one(&near, &one.queries, Effort::FIXED, Step::Tables));

    // An index that trusts no answer by tables, and every answer by a scan.
    let judge = Some(Trust { k: K, tables: [0.0; TABLES], scan: [0.0; SCAN] });
    let scanning = index
        .at(OperatingPoint { trust: 1.0, scan_trust: 0.0, judge, ..layer.recipe.point })
        .expect("a point that suits");
    workload("search_scan", || one_by_one(&scanning, &queries[..8], Effort::ADAPTIVE, Step::Scan));

    // Where regions have lists: short ones, and longer ones.
    let listing = Layer::new(SHAPE);
    workload("build_lists", || listing.fit_regions(16));
    let at = |n_listed, n_rescore| {
        let list = ListPoint { n_listed, n_rescore, trust: 0.0, judge: [0.0; LISTED], first: None };
        let point = OperatingPoint { list: Some(list), judge, ..listing.recipe.point };
        listing.index.at(point).expect("a point that suits")
    };
    let (short, long) = (at(192, 16), at(1536, 40));
    workload("search_short_lists", || one_by_one(&short, &listing.queries, Effort::ADAPTIVE, Step::List));
    workload("search_lists", || one_by_one(&long, &listing.queries, Effort::ADAPTIVE, Step::List));

    let all = queries.concat();
    workload("batch_lists", || batch(&long, &all, false, Effort::ADAPTIVE));
    workload("search_exact", || batch(index, &queries[0], true, Effort::FIXED));
    workload("batch_tables", || batch(index, &all, false, Effort::FIXED));
    let some = &all[..16 * SHAPE.d];
    workload("batch_exact", || batch(index, some, true, Effort::FIXED));
    workload("search_exact_bytes", || batch(&listing.index, &queries[0], true, Effort::FIXED));
    workload("batch_exact_bytes", || batch(&listing.index, some, true, Effort::FIXED));

    let (mut labels, mut scores) = (vec![0; 16 * K], vec![0.0; 16 * K]);
    workload("teacher", || {
        teacher::top(index.rows(), Kernel::active(), some, K, &mut labels, &mut scores).expect("answers");
        black_box(&labels);
    });

    let (n, m, d) = (200, 300, 250);
    let mut rng = Rng(2);
    let (a, b, mut out) = (rng.vector(n * d), rng.vector(m * d), vec![0.0; n * m]);
    workload("product", || {
        let view = |values, rows| View { values, rows, cols: d, stride: d };
        product(view(&a, n), view(&b, m), &mut out);
        black_box(&out);
    });
}

/// Search a saved index for these queries, one by one.
fn searches(index: &str, queries: &str, k: usize) {
    let (index, _) = file::load(Path::new(index), false, false).expect("a saved index");
    let queries = std::fs::read(queries).expect("a file of queries");
    let queries: Vec<f32> = queries.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let (mut labels, mut scores) = (vec![0; k], vec![0.0; k]);
    let mut scratch = index.scratch();
    workload(SEARCHES, || {
        for query in queries.chunks_exact(index.rows().d()) {
            scratch.load(query);
            let work =
                index.search_one(&mut scratch, OnShort::Pad, Effort::ADAPTIVE, &mut labels, &mut scores);
            work.expect("an answer");
            black_box(&labels);
        }
    });
}

fn main() {
    Kernel::from_env().expect("the kernel that is to be counted");
    // Everything on the only thread of one pool: that thread is the one inside `counted`.
    threads::set_num_threads(1).expect("a number of threads");
    let given: Vec<String> = std::env::args().skip(1).collect();
    let work = || match &given[..] {
        [index, queries, k] => searches(index, queries, k.parse().expect("a number of answers")),
        _ => workloads(),
    };
    threads::install(1, work).expect("a pool");
}
