//! A search in its steady state allocates nothing. Alone in its process, because it counts what the allocator does.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Case, Dtype, Wide};
use lss_core::hash::Space;
use lss_core::{Effort, Fill, OnShort};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator; a counter without a destructor is all that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: by the caller's word.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the caller's word.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: by the caller's word.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_search_allocates_nothing() {
    for (space, sketch_bytes, fill) in [
        (Space::Aligned, 64, Fill::Rows),
        (Space::Augmented, 128, Fill::Rows),
        (Space::Augmented, 0, Fill::Rows),
        (Space::Aligned, 128, Fill::Queries),
    ] {
        let built = Case {
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
            // Where there are exemplars and sketches, searches end with a scan.
            wide: Wide { trust: 0.6, scan_trust: 0.4, n_scan: 30, max_cost: f64::INFINITY },
            n_train: 100,
            n_queries: 40,
        }
        .build();
        let (mut labels, mut scores) = ([0; 5], [0.0; 5]);
        let mut pass = || {
            for query in &built.queries {
                let mut scratch = built.index.scratch();
                scratch.load(query);
                built.index.check_queries(query).unwrap();
                built
                    .index
                    .search_one(&mut scratch, OnShort::Pad, Effort::ADAPTIVE, &mut labels, &mut scores)
                    .unwrap();
            }
        };
        pass();
        let before = COUNT.with(Cell::get);
        pass();
        assert_eq!(COUNT.with(Cell::get) - before, 0, "{space:?}, {sketch_bytes} bytes, {fill:?}");
        assert!(before > 0, "the counter counts");
    }
}
