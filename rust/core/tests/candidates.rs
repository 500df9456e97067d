//! Candidates are the union of the head and the buckets, each id once, however long the scratch has served.

mod common;

use std::collections::BTreeSet;

use common::{Rng, cases, csr};
use lss_core::candidates::Candidates;
use lss_core::memory::Block;
use lss_core::tables::{Lists, Tables};
use proptest::prelude::*;

fn tables(rng: &mut Rng, m: usize, n_tables: usize, n_bits: usize, n: usize) -> Tables {
    let codes: Vec<u32> = (0..n * n_tables).map(|_| rng.below(1 << n_bits) as u32).collect();
    let labels: Vec<Vec<u32>> =
        (0..n).map(|_| (0..rng.below(6)).map(|_| rng.below(m) as u32).collect()).collect();
    let (offsets, labels) = csr(&labels);
    Tables::build(n_tables, n_bits, &codes, Lists { offsets: &offsets, labels: &labels }).unwrap()
}

#[track_caller]
fn assert_union(candidates: &Candidates, read: usize, head: &[u32], tables: &Tables, buckets: &[usize]) {
    let mut union: BTreeSet<u32> = head.iter().copied().collect();
    let mut entries = head.len();
    for &bucket in buckets {
        union.extend(tables.bucket(bucket));
        entries += tables.bucket(bucket).len();
    }
    let mut got = candidates.ids().to_vec();
    got.sort_unstable();
    assert_eq!(got, union.into_iter().collect::<Vec<_>>());
    assert_eq!(read, entries);
}

proptest! {
    #![proptest_config(cases(60))]

    /// One scratch, more queries than an epoch byte can count, buckets and heads at random, repeats included.
    #[test]
    fn union_of_buckets_and_head(seed: u64, m in 1usize..=80, n_tables in 1usize..=3, n_bits in 1usize..=6, n in 0usize..=60, turns in 1usize..=700) {
        let mut rng = Rng(seed);
        let tables = tables(&mut rng, m, n_tables, n_bits, n);
        let all = n_tables << n_bits;
        let mut candidates = Candidates::default();
        for _ in 0..turns {
            let mut head: Vec<u32> = (0..rng.below(4)).map(|_| rng.below(m) as u32).collect();
            head.sort_unstable();
            head.dedup();
            // More than the fetch runs ahead of the reading, now and then.
            let buckets: Vec<usize> = (0..rng.below(24)).map(|_| rng.below(all)).collect();
            let read = candidates.gather(m, &head, &tables, &buckets);
            assert_union(&candidates, read, &head, &tables, &buckets);
        }
    }

    /// Labels seen seldom: a mark from the epoch's last lap would hide them.
    #[test]
    fn old_marks_hide_nothing(seed: u64) {
        let mut rng = Rng(seed);
        let tables = tables(&mut rng, 300, 1, 8, 300);
        let mut candidates = Candidates::default();
        for _ in 0..1500 {
            let buckets = [rng.below(256)];
            let read = candidates.gather(300, &[], &tables, &buckets);
            assert_union(&candidates, read, &[], &tables, &buckets);
        }
    }

    /// The same scratch for layers of different width.
    #[test]
    fn widths_may_change(seed: u64, widths in prop::collection::vec(1usize..=50, 2..=20)) {
        let mut rng = Rng(seed);
        let mut candidates = Candidates::default();
        for m in widths {
            let tables = tables(&mut rng, m, 1, 3, 20);
            for _ in 0..rng.below(300) {
                let buckets: Vec<usize> = (0..rng.below(9)).map(|_| rng.below(8)).collect();
                let read = candidates.gather(m, &[m as u32 - 1], &tables, &buckets);
                assert_union(&candidates, read, &[m as u32 - 1], &tables, &buckets);
            }
        }
    }
}

/// What `validate` would refuse must not be read outside of its bounds either: a mapped file can change later.
#[test]
fn damaged_tables_are_survived() {
    let entries = Block::copy_of(&[0u32, 1, 9, u32::MAX, 2]);
    let offsets = Block::copy_of(&[0u32, 4, 2, 5, 99, 3, 5, u32::MAX, 5]);
    let damaged = Tables::from_parts(1, 3, offsets, entries).unwrap();
    let mut candidates = Candidates::default();
    for _ in 0..600 {
        candidates.gather(5, &[3, 77], &damaged, &[0, 1, 2, 3, 4, 5, 6, 7, 0]);
        let mut ids = candidates.ids().to_vec();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3], "ids below five from the buckets that can be read");
    }
}
