//! Unions hold each id once, in the order of their first coming, however long the scratch has served.

mod common;

use common::{Rng, cases};
use lss_core::candidates::{Meeting, Union};
use lss_core::memory::Block;
use lss_core::tables::Tables;
use proptest::prelude::*;

/// Add lists one by one, and compare with a slow union of the ids below `n`.
#[track_caller]
fn assert_union(union: &mut Union, n: usize, lists: &[Vec<u32>]) {
    union.start(n);
    let mut expected = Vec::new();
    for list in lists {
        union.add(list);
        for &id in list {
            if (id as usize) < n && !expected.contains(&id) {
                expected.push(id);
            }
        }
        assert_eq!(union.ids(), expected);
    }
}

fn lists(rng: &mut Rng, n: usize) -> Vec<Vec<u32>> {
    (0..rng.below(6)).map(|_| (0..rng.below(20)).map(|_| rng.below(n) as u32).collect()).collect()
}

proptest! {
    #![proptest_config(cases(60))]

    /// One scratch, more queries than an epoch byte can count, repeats and ids that are none included.
    #[test]
    fn unions_of_lists(seed: u64, n in 1usize..=80, beyond in 0usize..=5, turns in 1usize..=700) {
        let mut rng = Rng(seed);
        let mut union = Union::default();
        for _ in 0..turns {
            let lists = lists(&mut rng, n + beyond);
            assert_union(&mut union, n, &lists);
        }
    }

    /// Ids seen seldom: a mark from the epoch's last lap would hide them.
    #[test]
    fn old_marks_hide_nothing(seed: u64) {
        let mut rng = Rng(seed);
        let mut union = Union::default();
        for _ in 0..1500 {
            // Now fewer than one of 64, whose marks are wiped one by one, now more, which a new epoch hides.
            let lists = [(0..rng.below(10)).map(|_| rng.below(300) as u32).collect()];
            assert_union(&mut union, 300, &lists);
        }
    }

    /// The same scratch for ids of different ranges.
    #[test]
    fn ranges_may_change(seed: u64, ranges in prop::collection::vec(1usize..=50, 2..=20)) {
        let mut rng = Rng(seed);
        let mut union = Union::default();
        for n in ranges {
            for _ in 0..rng.below(300) {
                let lists = lists(&mut rng, n);
                assert_union(&mut union, n, &lists);
            }
        }
    }
}

#[test]
fn ids_that_are_none_are_left_out() {
    let mut union = Union::default();
    for _ in 0..600 {
        union.start(5);
        union.add(&[3, 77, u32::MAX, 5]);
        union.add(&[0, 3]);
        assert_eq!(union.ids(), [3, 0]);
    }
}

/// Exemplars of buckets, some of which a damaged file has filled with ids that are too large, of one table or several.
#[test]
fn exemplars_are_met_once() {
    let mut meeting = Meeting::default();
    // Two buckets a table.
    let one =
        Tables::from_parts(1, 1, Block::copy_of(&[0, 3, 6]), Block::copy_of(&[0, 2, 9, 1, 3, u32::MAX]));
    let two = Tables::from_parts(
        2,
        1,
        Block::copy_of(&[0, 3, 6, 8, 12]),
        Block::copy_of(&[0, 2, 9, 1, 3, u32::MAX, 0, 1, 2, 3, 4, 9]),
    );
    for _ in 0..300 {
        let tables = one.as_ref().unwrap();
        meeting.start(4, tables);
        assert_eq!(meeting.meet(tables, &[1]), [1, 3]);
        assert!(meeting.meet(tables, &[]).is_empty());
        assert_eq!(meeting.meet(tables, &[0]), [0, 2]);
        let tables = two.as_ref().unwrap();
        meeting.start(5, tables);
        assert_eq!(meeting.meet(tables, &[2, 0]), [0, 1, 2]);
        assert_eq!(meeting.meet(tables, &[3, 1]), [3, 4]);
        assert!(meeting.meet(tables, &[1]).is_empty());
    }
}
