//! Tables hold exactly the pairs they were given, whoever builds them, and notice damage.

mod common;

use std::collections::BTreeSet;

use common::{Rng, cases, csr};
use lss_core::memory::Block;
use lss_core::reference::{self, Buckets};
use lss_core::tables::{Lists, Tables};
use lss_core::{Error, threads};
use proptest::prelude::*;

/// Codes a item, labels an item.
#[derive(Debug, Clone)]
struct Pairs {
    n_tables: usize,
    n_bits: usize,
    m: usize,
    codes: Vec<Vec<u32>>,
    labels: Vec<Vec<u32>>,
}

fn pairs() -> impl Strategy<Value = Pairs> {
    (1usize..=4, 1usize..=9, 1usize..=60, 0usize..=150, any::<u64>()).prop_map(
        |(n_tables, n_bits, m, n, seed)| {
            let mut rng = Rng(seed);
            // Few codes make full buckets, all codes make empty ones.
            let codes = if rng.below(2) == 0 { 1 << n_bits } else { 2 };
            Pairs {
                n_tables,
                n_bits,
                m,
                codes: (0..n).map(|_| (0..n_tables).map(|_| rng.below(codes) as u32).collect()).collect(),
                labels: (0..n).map(|_| (0..rng.below(8)).map(|_| rng.below(m) as u32).collect()).collect(),
            }
        },
    )
}

impl Pairs {
    fn build(&self) -> Tables {
        let (offsets, labels) = csr(&self.labels);
        Tables::build(
            self.n_tables,
            self.n_bits,
            &self.codes.concat(),
            Lists { offsets: &offsets, labels: &labels },
        )
        .unwrap()
    }

    fn naive(&self) -> Buckets {
        reference::tables(&self.codes, &self.labels)
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
            assert_eq!(tables.bucket(table * buckets + code), expected, "table {table}, code {code}");
        }
    }
    assert_eq!(tables.entries().len(), expected.values().map(BTreeSet::len).sum::<usize>());
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn tables_hold_the_pairs_given(pairs in pairs()) {
        let tables = pairs.build();
        prop_assert_eq!((tables.n_tables(), tables.n_bits()), (pairs.n_tables, pairs.n_bits));
        assert_holds(&tables, &pairs.naive());
        tables.validate(pairs.m).unwrap();
    }

    #[test]
    fn any_pool_builds_the_same(pairs in pairs()) {
        let alone = pairs.build();
        for n in [1, 2, 5] {
            let pooled = threads::install(n, || pairs.build()).unwrap();
            prop_assert_eq!(&pooled.offsets()[..], &alone.offsets()[..], "{} threads", n);
            prop_assert_eq!(&pooled.entries()[..], &alone.entries()[..], "{} threads", n);
        }
    }

    /// Only the set of pairs matters: not the order of items, not repeats.
    #[test]
    fn order_and_repeats_do_not_matter(pairs in pairs()) {
        let mut other = pairs.clone();
        other.codes.reverse();
        other.labels.reverse();
        for labels in &mut other.labels {
            labels.extend(labels.clone());
        }
        assert_holds(&other.build(), &pairs.naive());
    }

    #[test]
    fn heads(pairs in pairs(), n in 0usize..=70, extra in prop::collection::btree_set(0u32..200, 0..=10)) {
        let (tables, naive) = (pairs.build(), pairs.naive());
        let head = tables.most_spread(n, pairs.m);
        prop_assert_eq!(&head, &reference::most_spread(&naive, n).into_iter().collect::<Vec<_>>());

        // Labels that stand nowhere may be left out too.
        let out: BTreeSet<u32> = head.into_iter().chain(extra).collect();
        let without = tables.without(&out.iter().copied().collect::<Vec<_>>());
        assert_holds(&without, &reference::without(&naive, &out));
        without.validate(pairs.m).unwrap();
        assert_holds(&tables, &naive);
    }

    /// Each kind of damage is noticed.
    #[test]
    fn damage_is_noticed(pairs in pairs(), at: prop::sample::Index, by in 1u32..=1000) {
        let tables = pairs.build();
        let (n_tables, n_bits, m) = (pairs.n_tables, pairs.n_bits, pairs.m);
        let check = |offsets: &[u32], entries: &[u32]| {
            Tables::from_parts(n_tables, n_bits, Block::copy_of(offsets), Block::copy_of(entries)).and_then(|t| t.validate(m))
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
        wrong[i] = m as u32 + by - 1;
        prop_assert!(check(&offsets, &wrong).is_err(), "a label that is no row");
        // Within one bucket: a repeat, a fall.
        if let Some(bucket) = (0..offsets.len() - 1).find(|&b| offsets[b + 1] - offsets[b] >= 2) {
            let from = offsets[bucket] as usize;
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
        Err(Error::Format { got, .. }) => assert!(got.contains("label 7 of 7 in bucket 0"), "{got}"),
        _ => panic!("label 7 is no row"),
    }
}

#[test]
fn codes_must_be_as_many_as_items() {
    let lists = Lists { offsets: &[0, 1, 2], labels: &[0, 0] };
    for codes in [&[][..], &[0], &[0, 0, 0], &[0; 5]] {
        assert!(matches!(Tables::build(2, 3, codes, lists), Err(Error::Value { arg: "codes", .. })));
    }
    assert!(Tables::build(2, 3, &[0; 4], lists).is_ok());
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
