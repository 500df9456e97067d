//! Tables hold exactly the items they were given, whoever builds them, and notice damage.

mod common;

use std::collections::BTreeSet;

use common::{Rng, cases};
use lss_core::candidates::{Meeting, Union};
use lss_core::memory::Block;
use lss_core::reference::{self, Buckets};
use lss_core::tables::Tables;
use lss_core::{Error, threads};
use proptest::prelude::*;

/// Codes of items.
#[derive(Debug, Clone)]
struct Items {
    n_tables: usize,
    n_bits: usize,
    codes: Vec<Vec<u32>>,
}

fn items() -> impl Strategy<Value = Items> {
    (1usize..=4, 1usize..=9, 0usize..=150, any::<u64>()).prop_map(|(n_tables, n_bits, n, seed)| {
        let mut rng = Rng(seed);
        // Few codes make full buckets, all codes make empty ones.
        let codes = if rng.below(2) == 0 { 1 << n_bits } else { 2 };
        let code = |_| rng.below(codes) as u32;
        let flat: Vec<u32> = (0..n * n_tables).map(code).collect();
        let mut codes: Vec<Vec<u32>> = flat.chunks(n_tables).map(<[u32]>::to_vec).collect();
        if rng.below(2) == 0 {
            codes.sort();
        }
        Items { n_tables, n_bits, codes }
    })
}

impl Items {
    fn build(&self) -> Tables {
        Tables::build(self.n_tables, self.n_bits, &self.codes.concat()).unwrap()
    }
}

/// Bucket by bucket, empty ones too.
fn assert_holds(tables: &Tables, expected: &Buckets) {
    let buckets = 1 << tables.n_bits();
    assert_eq!(tables.offsets().len(), tables.n_tables() * buckets + 1);
    for table in 0..tables.n_tables() {
        for code in 0..buckets {
            let expected: Vec<u32> =
                expected.get(&(table, code as u32)).into_iter().flatten().copied().collect();
            let bucket = tables.bucket(table * buckets + code);
            let mut found = Vec::new();
            bucket.each(|id| found.push(id));
            assert_eq!(found, expected, "table {table}, code {code}");
            assert_eq!((bucket.len(), bucket.is_empty()), (expected.len(), expected.is_empty()));
        }
    }
    assert_eq!(tables.len(), expected.values().map(BTreeSet::len).sum::<usize>());
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn tables_hold_the_items_given(items in items()) {
        let tables = items.build();
        prop_assert_eq!((tables.n_tables(), tables.n_bits()), (items.n_tables, items.n_bits));
        assert_holds(&tables, &reference::tables(&items.codes));
        tables.validate(items.codes.len()).unwrap();

        // Of items in the order of the first table's buckets its entries are not kept.
        let implied = if items.codes.is_sorted_by_key(|codes| codes[0]) { items.codes.len() } else { 0 };
        prop_assert_eq!(tables.entries().len(), tables.len() - implied);
        let [offsets, entries] = [tables.offsets(), tables.entries()].map(|part| Block::copy_of(part));
        let again = Tables::from_parts(items.n_tables, items.n_bits, offsets, entries).unwrap();
        assert_holds(&again, &reference::tables(&items.codes));
    }

    #[test]
    fn any_pool_builds_the_same(items in items()) {
        let alone = items.build();
        for n in [1, 2, 5] {
            let pooled = threads::install(n, || items.build()).unwrap();
            prop_assert_eq!(&pooled.offsets()[..], &alone.offsets()[..], "{} threads", n);
            prop_assert_eq!(&pooled.entries()[..], &alone.entries()[..], "{} threads", n);
        }
    }

    /// Each kind of damage is noticed.
    #[test]
    fn damage_is_noticed(items in items(), at: prop::sample::Index, by in 1u32..=1000) {
        let tables = items.build();
        let (n_tables, n_bits, n) = (items.n_tables, items.n_bits, items.codes.len());
        let check = |offsets: &[u32], entries: &[u32]| {
            Tables::from_parts(n_tables, n_bits, Block::copy_of(offsets), Block::copy_of(entries)).and_then(|t| t.validate(n))
        };
        let (offsets, entries) = (tables.offsets().to_vec(), tables.entries().to_vec());
        prop_assert!(check(&offsets, &entries).is_ok());

        // Shapes.
        prop_assert!(check(&offsets[1..], &entries).is_err(), "an offset short");
        prop_assert!(check(&[&offsets[..], &offsets[offsets.len() - 1..]].concat(), &entries).is_err(), "one too many");
        prop_assert!(check(&[], &entries).is_err(), "no offsets");
        prop_assert!(check(&offsets, &[&entries[..], &[0]].concat()).is_err(), "an entry in no bucket");

        // The ends of the offsets.
        let mut wrong = offsets.clone();
        wrong[0] = by;
        prop_assert!(check(&wrong, &entries).is_err(), "a first offset of {}", by);
        let mut wrong = offsets.clone();
        *wrong.last_mut().unwrap() += by;
        prop_assert!(check(&wrong, &entries).is_err(), "offsets past the end");

        // An offset past the next: falling.
        let i = at.index(offsets.len() - 2 + 1);
        if i > 0 {
            let mut wrong = offsets.clone();
            wrong[i] = offsets[i + 1] + by;
            prop_assert!(check(&wrong, &entries).is_err(), "offset {} beyond the next", i);
        }

        if entries.is_empty() {
            return Ok(());
        }
        prop_assert!(check(&offsets, &entries[1..]).is_err(), "an entry short");
        let i = at.index(entries.len());
        let mut wrong = entries.clone();
        wrong[i] = n as u32 + by - 1;
        prop_assert!(check(&offsets, &wrong).is_err(), "an id that is no item");
        // Within one bucket that has a list: a repeat, a fall.
        let implied = tables.len() - entries.len();
        let listed = |&b: &usize| offsets[b] as usize >= implied && offsets[b + 1] - offsets[b] >= 2;
        if let Some(bucket) = (0..offsets.len() - 1).find(listed) {
            let from = offsets[bucket] as usize - implied;
            let mut wrong = entries.clone();
            wrong[from + 1] = wrong[from];
            prop_assert!(check(&offsets, &wrong).is_err(), "a repeat");
            let mut wrong = entries.clone();
            wrong.swap(from, from + 1);
            prop_assert!(check(&offsets, &wrong).is_err(), "a fall");
        }
    }
}

#[test]
fn damage_is_a_format_error() {
    let tables = Tables::from_parts(1, 1, Block::copy_of(&[0, 1, 2]), Block::copy_of(&[7, 7])).unwrap();
    tables.validate(8).unwrap();
    match tables.validate(7) {
        Err(Error::Format { got, .. }) => assert!(got.contains("id 7 of 7 in bucket 0"), "{got}"),
        _ => panic!("item 7 is none"),
    }
}

#[test]
fn items_have_a_code_in_each_table() {
    for n in [1, 3, 5] {
        assert!(matches!(Tables::build(2, 3, &vec![0; n]), Err(Error::Value { arg: "codes", .. })));
    }
    assert_eq!(Tables::build(2, 3, &[0; 4]).unwrap().entries()[..], [0, 1]);
    assert_eq!(Tables::build(2, 3, &[1, 0, 0, 1]).unwrap().entries()[..], [1, 0, 0, 1]);
}

/// Two entries more than there are must not be taken for those of a first table that are implied.
#[test]
fn offsets_past_the_end_imply_nothing() {
    let tables = Tables::build(2, 2, &[1, 0, 0, 1]).unwrap();
    let mut offsets = tables.offsets().to_vec();
    *offsets.last_mut().unwrap() += 2;
    let [offsets, entries] = [&offsets[..], tables.entries()].map(Block::copy_of);
    assert!(Tables::from_parts(2, 2, offsets, entries).unwrap().validate(2).is_err());
}

/// Files have one way of saying what tables hold.
#[test]
fn entries_that_say_nothing_are_refused() {
    let [offsets, entries] = [[0, 2, 3], [0, 1, 2]].map(|values| Block::copy_of(&values));
    assert!(Tables::from_parts(1, 1, offsets, entries).unwrap().validate(3).is_err());
}

/// Of a damaged file no more is read than there are items.
#[test]
fn ranges_end_where_items_do() {
    let damaged =
        Tables::from_parts(1, 1, Block::copy_of(&[0, u32::MAX, 9]), Block::copy_of(&[0; 0])).unwrap();
    assert!(damaged.validate(4).is_err());
    let mut meeting = Meeting::default();
    meeting.start(4, &damaged);
    assert_eq!(meeting.meet(&damaged, &[0, 1]), [0, 1, 2, 3]);
    let mut union = Union::default();
    union.start(3);
    union.add_bucket(damaged.bucket(0));
    assert_eq!(union.ids(), [0, 1, 2]);
}

#[test]
fn shapes_outside_the_limits_are_refused() {
    for (n_tables, n_bits) in
        [(0, 3), (1, 0), (1, 25), (1, 63), (1, 64), (1, usize::MAX), (usize::MAX, 1), (usize::MAX, 24)]
    {
        let parts =
            Tables::from_parts(n_tables, n_bits, Block::copy_of(&[0u32; 9]), Block::copy_of(&[0u32; 0]));
        assert!(parts.is_err(), "{n_tables} tables of {n_bits} bits");
    }
}

/// More tables than memory can address must not be taken for none.
#[test]
fn overflowing_shapes_are_refused() {
    assert!(
        Tables::from_parts(usize::MAX, 24, Block::copy_of(&[0u32; 0]), Block::copy_of(&[0u32; 0])).is_err()
    );
}
