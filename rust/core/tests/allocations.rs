//! A search in its steady state allocates nothing. Alone in its process, because it counts what the allocator does.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Built, Case, Dtype, Wide};
use lss_core::hash::Space;
use lss_core::trust::LISTED;
use lss_core::{
    Answers, Effort, Fill, FirstRead, How, Index, ListPoint, OnShort, OperatingPoint, Step, Work,
};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// By all threads.
static BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

impl Counting {
    fn count(size: usize) {
        COUNT.with(|count| count.set(count.get() + 1));
        BYTES.fetch_add(size, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator; counters without destructors are all that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: by the caller's word.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the caller's word.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        // SAFETY: by the caller's word.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const K: usize = 5;

fn build(space: Space, sketch_bytes: usize, fill: Fill) -> Built {
    Case {
        seed: 3,
        dtype: Dtype::Bf16,
        exact_sums: false,
        m: 400,
        d: 40,
        p: 40,
        space,
        n_tables: 4,
        n_bits: 5,
        fill,
        n_always: 2,
        sketch_bytes,
        n_probes: 8,
        max_entries: usize::MAX,
        n_neighbors: 4,
        n_rescore: 20,
        exact: false,
        // Where there are exemplars and sketches, an answer by tables is trusted to 0.5, and so is one by a scan.
        wide: Wide { reach: Some(0.4), trust: 0.6, scan_trust: 0.4, n_scan: 4, max_cost: f64::INFINITY },
        n_train: 100,
        n_queries: 40,
        n_regions: 2,
    }
    .build()
}

/// Allocations of this thread while `work` is done for the second time.
fn when_warm(mut work: impl FnMut()) -> usize {
    work();
    let before = COUNT.with(Cell::get);
    assert!(before > 0, "the counter counts");
    work();
    COUNT.with(Cell::get) - before
}

#[test]
fn a_warm_search_allocates_nothing() {
    for (space, sketch_bytes, fill) in [
        (Space::Aligned, 64, Fill::Rows),
        (Space::Augmented, 128, Fill::Rows),
        (Space::Augmented, 0, Fill::Rows),
        (Space::Aligned, 128, Fill::Queries),
    ] {
        let built = build(space, sketch_bytes, fill);
        let listing = built.index.fitted().unwrap().point;
        let point = OperatingPoint { list: None, ..listing };
        built.index.set_operating_point(point).unwrap();
        let judged = point.judge.is_some();
        let one = |index: &Index, effort: Effort, step: Step| {
            let n = when_warm(|| {
                for query in &built.queries {
                    // As the binding does for one query of Python's.
                    let mut scratch = index.scratch();
                    scratch.load(query);
                    index.check_queries(query).unwrap();
                    let (mut labels, mut scores) = std::mem::take(&mut scratch.room);
                    labels.resize(K, 0);
                    scores.resize(K, 0.0);
                    let work = index
                        .search_one(&mut scratch, OnShort::Pad, effort, &mut labels, &mut scores)
                        .unwrap();
                    scratch.room = (labels, scores);
                    assert_eq!(work.step, step, "the way that is to be counted");
                }
            });
            assert_eq!(n, 0, "{space:?}, {sketch_bytes} bytes, {fill:?}, {step:?}");
        };
        one(&built.index, Effort::FIXED, Step::Tables);
        one(&built.index, Effort::ADAPTIVE, if judged { Step::Scan } else { Step::Tables });
        let exact = built.index.at(OperatingPoint { exact: true, ..point }).unwrap();
        one(&exact, Effort::ADAPTIVE, Step::Exact);
        if let Some(list) = listing.list {
            // Nothing is trusted more than by a half: the second list is read on.
            for first in [None, Some(FirstRead { n_listed: 8, trust: 0.6, judge: [0.0; LISTED] })] {
                let list = Some(ListPoint { n_listed: usize::MAX, n_rescore: 5, trust: 0.4, first, ..list });
                let listing = built.index.at(OperatingPoint { list, ..point }).unwrap();
                one(&listing, Effort::ADAPTIVE, Step::List);
            }
        }
        assert_eq!(listing.list.is_some(), judged);
        if judged {
            let doubting = built.index.at(OperatingPoint { scan_trust: 0.6, ..point }).unwrap();
            one(&doubting, Effort::ADAPTIVE, Step::Exact);
        }
    }
}

/// A batch of all queries, many times over.
struct Batch {
    queries: Vec<f32>,
    labels: Vec<i64>,
    scores: Vec<f32>,
    work: Vec<Work>,
}

impl Batch {
    fn new(built: &Built) -> Self {
        let queries = built.queries.concat().repeat(10);
        let n = queries.len() / built.case.d;
        Batch { queries, labels: vec![0; n * K], scores: vec![0.0; n * K], work: vec![Work::default(); n] }
    }

    fn search(&mut self, index: &Index, effort: Effort, exact: bool, num_threads: usize) {
        let how = How { effort, exact, on_short: OnShort::Pad, num_threads };
        let out = Answers { labels: &mut self.labels, scores: &mut self.scores, work: &mut self.work };
        index.search(&self.queries, K, how, out).unwrap();
    }
}

/// How batches go: effort, and whether all rows are scored.
const WAYS: [(Effort, bool); 3] = [(Effort::FIXED, false), (Effort::ADAPTIVE, false), (Effort::FIXED, true)];

#[test]
fn a_warm_batch_on_the_calling_thread_allocates_nothing() {
    let built = build(Space::Aligned, 64, Fill::Queries);
    let mut batch = Batch::new(&built);
    for (effort, exact) in WAYS {
        let n = when_warm(|| batch.search(&built.index, effort, exact, 1));
        assert_eq!(n, 0, "{effort:?}, exact: {exact}");
    }
}

/// The pool may allocate for its own queues now and then, but nothing that grows with the number of queries.
#[test]
fn a_warm_batch_on_many_threads_allocates_nothing_a_query() {
    let built = build(Space::Aligned, 64, Fill::Queries);
    let mut batch = Batch::new(&built);
    for (effort, exact) in WAYS {
        let bytes = (0..30).map(|_| {
            let before = BYTES.load(Ordering::Relaxed);
            batch.search(&built.index, effort, exact, 3);
            BYTES.load(Ordering::Relaxed) - before
        });
        // Of several, because the other tests and the harness allocate meanwhile.
        let least = bytes.min().unwrap();
        assert!(least < batch.work.len(), "{effort:?}, exact: {exact}: {least} bytes");
    }
}
