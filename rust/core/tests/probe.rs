//! Probes come in the order of their costs over all tables, whatever the margins.

mod common;

use std::collections::BTreeSet;

use common::{Rng, cases};
use lss_core::hash::code;
use lss_core::probe::Probes;
use lss_core::reference;
use proptest::prelude::*;

/// Margins with ties, zeros of both signs, equal sizes of opposite sign, and squares that vanish or overflow.
fn margin() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => (-3i8..=3).prop_map(f32::from),
        4 => -2.0f32..2.0,
        1 => prop::sample::select(&[0.0f32, -0.0, 1e-30, -1e-30, 1e30, -1e30, f32::MAX, f32::MIN_POSITIVE, 1e-20, 1e15][..]),
    ]
}

/// Margins of 1 to 5 tables of 1 to 8 bits.
fn tables(margin: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = Vec<Vec<f32>>> {
    (1usize..=5, 1usize..=8).prop_flat_map(move |(n_tables, n_bits)| {
        prop::collection::vec(prop::collection::vec(margin.clone(), n_bits), n_tables)
    })
}

fn all(probes: &mut Probes, margins: &[Vec<f32>]) -> Vec<(usize, u32, f32)> {
    probes.start(&margins.concat(), margins[0].len());
    probes.by_ref().collect()
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn order_is_that_of_all_sets_sorted(margins in tables(margin().boxed())) {
        let got = all(&mut Probes::default(), &margins);
        prop_assert_eq!(&got, &reference::probes(&margins));

        // Every bucket of every table, each once; each table's own bucket before its others.
        let distinct: BTreeSet<(usize, u32)> = got.iter().map(|&(table, code, _)| (table, code)).collect();
        prop_assert_eq!(distinct.len(), margins.len() << margins[0].len());
        for (table, margins) in margins.iter().enumerate() {
            let first = got.iter().find(|probe| probe.0 == table).unwrap();
            prop_assert_eq!(first.1, code(margins));
        }
    }

    /// By its definition: costs never fall.
    #[test]
    fn costs_never_fall(margins in tables((-2.0f32..2.0).boxed())) {
        let all = all(&mut Probes::default(), &margins);
        for &(table, other, cost) in &all {
            let margins = &margins[table];
            let flipped = other ^ code(margins);
            let of = |k: usize| f64::from(margins[k] * margins[k]);
            let sum: f64 = (0..margins.len()).filter(|&k| flipped >> k & 1 == 1).map(of).sum();
            prop_assert!((f64::from(cost) - sum).abs() <= 1e-6 * sum + 1e-12, "{} for {}", cost, sum);
        }
        prop_assert!(all.windows(2).all(|pair| pair[0].2 <= pair[1].2), "{:?}", all);
    }

    /// The scratch remembers nothing, also of an enumeration that was left half-way.
    #[test]
    fn scratch_is_reusable(seed: u64) {
        let mut rng = Rng(seed);
        let mut probes = Probes::default();
        for _ in 0..8 {
            let k = 1 + rng.below(7);
            let margins: Vec<Vec<f32>> = (0..1 + rng.below(4)).map(|_| rng.vector(k, |rng| rng.dyadic(0.5, 3))).collect();
            let n = rng.below(40);
            probes.start(&margins.concat(), k);
            let got: Vec<_> = probes.by_ref().take(n).collect();
            let expected: Vec<_> = reference::probes(&margins).into_iter().take(n).collect();
            prop_assert_eq!(got, expected);
        }
    }
}

#[test]
fn the_largest_codes_of_the_last_table_can_be_probed() {
    let margins: Vec<f32> = (0..256).flat_map(|_| (0..24).map(|i| 1.0 + i as f32)).collect();
    let mut probes = Probes::default();
    probes.start(&margins, 24);
    let got: Vec<_> = probes.take(3 * 256).collect();
    let own = (1 << 24) - 1;
    assert_eq!(got[255], (255, own, 0.0));
    // Costs 0 in all tables, then 1, then 4.
    assert_eq!(got[256], (0, own ^ 1, 1.0));
    assert_eq!(got[767], (255, own ^ 2, 4.0));
}

#[test]
fn all_probes_of_zero_margins_come_in_order_of_tables_and_masks() {
    let got = all(&mut Probes::default(), &[vec![0.0; 4], vec![0.0; 4]]);
    let expected: Vec<_> = (0..2).flat_map(|table| (0..16).map(move |mask| (table, mask, 0.0))).collect();
    assert_eq!(got, expected);
}
