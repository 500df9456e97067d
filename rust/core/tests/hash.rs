//! Codes and buckets: one to one, every bucket reachable, bits by the sign of margins.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{Case, Dtype, Rng, any_case, assert_same, cases, pad, point};
use lss_core::Fill;
use lss_core::hash::{MAX_BITS, Planes, Space, augment, code, lead, lead_of_row};
use lss_core::kernels::Kernel;
use lss_core::memory::{Block, Matrix};
use lss_core::rows::Rows;
use lss_core::{Builder, Error, Index, Recipe, reference};
use proptest::prelude::*;

/// Planes that read the sign of one coordinate each: bit k of table t is coordinate (k + t) mod K.
fn signs(n_tables: usize, n_bits: usize, dim: usize) -> Planes {
    let plane = |table: usize, bit: usize| {
        let mut plane = vec![0.0; dim];
        plane[(bit + table) % n_bits] = 1.0;
        plane
    };
    let planes: Vec<_> =
        (0..n_tables).flat_map(|table| (0..n_bits).map(move |bit| plane(table, bit))).collect();
    let thresholds = Block::copy_of(&vec![0.0; n_tables * n_bits]);
    Planes::new(Space::Augmented, n_tables, n_bits, reference::matrix(&planes), thresholds).unwrap()
}

/// The vector whose code in table 0 is `code`.
fn corner(code: usize, n_bits: usize) -> Vec<f32> {
    (0..n_bits).map(|bit| if code >> bit & 1 == 1 { 1.0 } else { -1.0 }).collect()
}

#[test]
fn every_code_is_reached_once() {
    for n_bits in 1..=10 {
        let planes = signs(1, n_bits, n_bits);
        let mut margins = Vec::new();
        let codes: Vec<u32> = (0..1 << n_bits)
            .map(|expected| {
                planes.margins(Kernel::active(), &pad(&corner(expected, n_bits)), &mut margins);
                planes.codes(&margins).next().unwrap()
            })
            .collect();
        assert_eq!(codes, (0..1 << n_bits).collect::<Vec<u32>>());
    }
}

/// A row for each code is found by the query of that code alone: through building, tables and search.
#[test]
fn every_bucket_of_every_table_is_its_own() {
    for (n_tables, n_bits) in [(1, 1), (1, 4), (2, 3), (3, 6), (1, 10), (4, 8)] {
        let m = 1 << n_bits;
        let corners: Vec<f32> = (0..m).flat_map(|code| corner(code, n_bits)).collect();
        let rows = Rows::new(n_bits, Dtype::F32.store(&corners), Block::copy_of(&vec![0.0; m])).unwrap();
        let index = Arc::new(Index::new(rows));
        let recipe = Recipe {
            planes: signs(n_tables, n_bits, n_bits + 1),
            coordinates: None,
            fill: Fill::Rows,
            always_include: vec![],
            sketch_bytes: 0,
            point: point(1, usize::MAX, 1, 1),
        };
        Builder::new(Arc::clone(&index), recipe).unwrap().finish().unwrap();
        let tables = index.fitted().unwrap().tables.clone();
        assert!(
            tables.offsets().windows(2).all(|pair| pair[1] - pair[0] == 1),
            "one row in each bucket of each table"
        );
        let own: (Vec<usize>, Vec<u32>) = ((0..=m).collect(), (0..m as u32).collect());
        assert_eq!(index.candidates(&corners, 0).unwrap(), own, "K={n_bits} L={n_tables}");
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn bits_are_signs_of_margins(margins in prop::collection::vec(prop_oneof![-1f32..1.0, prop::sample::select(&[0.0f32, -0.0, 1e-45, -1e-45, f32::INFINITY, f32::NEG_INFINITY][..])], 1..=MAX_BITS)) {
        let code = code(&margins);
        for (k, &margin) in margins.iter().enumerate() {
            prop_assert_eq!(code >> k & 1 == 1, margin > 0.0);
        }
        prop_assert_eq!(u64::from(code) >> margins.len(), 0);
        prop_assert_eq!(code, reference::code(&margins));
    }

    #[test]
    fn margins_and_codes_of_every_table(case in any_case(), seed: u64) {
        let built = case.prepare();
        let planes = &built.recipe.planes;
        let x = Rng(seed).vector(planes.dim(), Rng::normal);
        let expected: Vec<Vec<f32>> = (0..planes.n_tables()).map(|table| reference::margins(planes, table, &x)).collect();
        for kernel in Kernel::available() {
            let mut margins = vec![f32::NAN; 3];
            planes.margins(kernel, &pad(&x), &mut margins);
            assert_same(&margins, &expected.concat(), kernel.name());
            let codes: Vec<u32> = planes.codes(&margins).collect();
            prop_assert_eq!(codes, expected.iter().map(|margins| reference::code(margins)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn hashed_vectors(seed: u64, d in 1usize..=80, r in 1usize..=80, n_zeros in 0usize..=80) {
        let mut rng = Rng(seed);
        let mut z = rng.vector(d, Rng::normal);
        z[..n_zeros.min(d)].fill(0.0);
        let mut out = vec![f32::NAN; 7];
        augment(&z, 0.5, &mut out);
        assert_same(&out, &pad(&[z.clone(), vec![0.5]].concat()), "augmented");

        let r = 1 + (r - 1) % d;
        lead(&z, r, &mut out);
        assert_same(&out, &pad(&z[..r]), "the leading coordinates");

        lead_of_row(&z, r, &mut out);
        let norm = |x: &[f32]| x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        if z[..r].iter().all(|&value| value == 0.0) {
            assert_same(&out, &pad(&z[..r]), "a zero row");
        } else {
            prop_assert!((norm(&out) - (r as f64).sqrt()).abs() < 1e-5 * (r as f64).sqrt());
            let scale = (r as f64).sqrt() / norm(&z[..r]);
            for (&out, &z) in out.iter().zip(&pad(&z[..r])) {
                prop_assert!((f64::from(out) - scale * f64::from(z)).abs() <= 1e-6 * f64::from(out).abs());
            }
        }
    }
}

#[test]
fn planes_check_their_shape() {
    let (zeros, matrix) =
        (|n: usize| Block::copy_of(&vec![0.0f32; n]), |n: usize| Matrix::new(n, 3, &vec![0.0; n * 3]));
    let new = |tables, bits, rows, thresholds| {
        Planes::new(Space::Aligned, tables, bits, matrix(rows), zeros(thresholds))
    };
    assert!(new(2, 3, 6, 6).is_ok());
    for (tables, bits, rows, thresholds, expected) in [
        (2, 3, 5, 6, "planes"),
        (2, 3, 6, 5, "thresholds"),
        (2, 0, 0, 0, "n_bits"),
        (1, MAX_BITS + 1, MAX_BITS + 1, MAX_BITS + 1, "n_bits"),
        (0, 3, 0, 0, "n_tables"),
        (257, 1, 257, 257, "n_tables"),
    ] {
        match new(tables, bits, rows, thresholds) {
            Err(Error::Value { arg, .. }) => assert_eq!(arg, expected),
            _ => panic!("{expected} must be refused"),
        }
    }
    assert!(
        Planes::new(Space::Aligned, 1, 1, Matrix::new(1, 0, &[]), zeros(1)).is_err(),
        "planes of no dimension"
    );
}

#[test]
fn names_of_spaces() {
    for space in [Space::Aligned, Space::Augmented] {
        assert_eq!(Space::from_name(space.name()).unwrap(), space);
    }
    assert!(Space::from_name("Aligned").is_err());
}

/// Different planes give different codes: tables are not copies of each other.
#[test]
fn tables_have_planes_of_their_own() {
    let case = Case {
        seed: 1,
        dtype: Dtype::F32,
        exact_sums: false,
        m: 10,
        d: 20,
        p: 0,
        space: Space::Augmented,
        n_tables: 4,
        n_bits: 6,
        fill: Fill::Rows,
        n_always: 0,
        sketch_bytes: 0,
        n_probes: 1,
        max_entries: usize::MAX,
        n_neighbors: 4,
        n_rescore: 1,
        exact: false,
        wide: common::TABLES_ALONE,
        n_train: 0,
        n_queries: 1,
        n_regions: 0,
    };
    let planes = case.prepare().recipe.planes;
    let mut margins = Vec::new();
    planes.margins(Kernel::active(), &pad(&Rng(2).vector(21, Rng::normal)), &mut margins);
    assert_eq!(planes.codes(&margins).collect::<BTreeSet<_>>().len(), 4);
}
