//! Probes come in the order of their costs, whatever the margins.

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

fn cheapest(probes: &mut Probes, margins: &[f32], n: usize) -> Vec<u32> {
    let mut codes = Vec::new();
    probes.cheapest(margins, n, &mut codes);
    codes
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn order_is_that_of_all_sets_sorted(margins in prop::collection::vec(margin(), 1..=10), n in 0usize..=1100) {
        let mut probes = Probes::default();
        let codes = cheapest(&mut probes, &margins, n);
        prop_assert_eq!(&codes, &reference::probes(&margins, n));

        let buckets = 1 << margins.len();
        prop_assert_eq!(codes.len(), n.min(buckets));
        let distinct: BTreeSet<u32> = codes.iter().copied().collect();
        prop_assert_eq!(distinct.len(), codes.len(), "no repeats");
        prop_assert!(codes.iter().all(|&code| (code as usize) < buckets));
        if n > 0 {
            prop_assert_eq!(codes[0], code(&margins), "the query's own bucket comes first");
        }
    }

    /// By its definition: no bucket left out costs less than one that was probed, and costs never fall.
    #[test]
    fn nothing_cheaper_is_left_out(margins in prop::collection::vec(-2.0f32..2.0, 1..=12), n in 1usize..=64) {
        let own = code(&margins);
        let cost = |code: u32| -> f64 {
            (0..margins.len()).filter(|&k| (code ^ own) >> k & 1 == 1).map(|k| f64::from(margins[k] * margins[k])).sum()
        };
        let codes = cheapest(&mut Probes::default(), &margins, n);
        let costs: Vec<f64> = codes.iter().map(|&code| cost(code)).collect();
        prop_assert!(costs.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 1e-6) + 1e-12), "{:?}", costs);
        let probed: BTreeSet<u32> = codes.iter().copied().collect();
        let dearest = costs[costs.len() - 1];
        for other in (0..1u32 << margins.len()).filter(|code| !probed.contains(code)) {
            prop_assert!(cost(other) >= dearest * (1.0 - 1e-6) - 1e-12);
        }
    }

    /// The scratch remembers nothing, and codes are appended.
    #[test]
    fn scratch_is_reusable(seed: u64) {
        let mut rng = Rng(seed);
        let mut probes = Probes::default();
        let mut codes = vec![77];
        let mut expected = vec![77];
        for _ in 0..8 {
            let k = 1 + rng.below(8);
            let margins = rng.vector(k, |rng| rng.dyadic(0.5, 3));
            let n = rng.below(40);
            probes.cheapest(&margins, n, &mut codes);
            expected.extend(reference::probes(&margins, n));
        }
        prop_assert_eq!(codes, expected);
    }
}

#[test]
fn the_largest_codes_can_be_probed() {
    let margins: Vec<f32> = (0..24).map(|i| 1.0 + i as f32).collect();
    let codes = cheapest(&mut Probes::default(), &margins, 4);
    let own = (1 << 24) - 1;
    // Costs 0, 1, 4, and 5 (both of the first two) before 9.
    assert_eq!(codes, [own, own ^ 1, own ^ 2, own ^ 3]);
}

#[test]
fn all_probes_of_zero_margins_come_in_order_of_masks() {
    assert_eq!(cheapest(&mut Probes::default(), &[0.0; 4], 99), (0..16).collect::<Vec<_>>());
}
