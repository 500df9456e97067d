//! Building: the recipe is checked, slices do not show, threads do not show, rows of any values are sketched well.

mod common;

use std::sync::Arc;

use common::{Case, any_case, cases, csr, point};
use lss_core::Fill;
use lss_core::exemplars::Lists;
use lss_core::hash::Space;
use lss_core::memory::Block;
use lss_core::{Builder, Error, Recipe, file, reference, threads};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn bytes(index: &lss_core::Index) -> Vec<u8> {
    let mut bytes = Vec::new();
    file::write(index, "", &mut bytes).unwrap();
    bytes
}

/// Coordinates of a row in double precision, and a bound on the rounding of a single-precision product.
fn coordinates_of_row(map: &lss_core::coordinates::Affine, w: &[f32]) -> Vec<(f64, f64)> {
    (0..map.matrix().rows())
        .map(|i| {
            let terms = reference::matrix_row(map.matrix(), i)
                .iter()
                .zip(w)
                .map(|(a, b)| f64::from(*a) * f64::from(*b));
            let offset = f64::from(map.offset()[i]);
            let size: f64 = terms.clone().map(f64::abs).sum::<f64>() + offset.abs();
            (terms.sum::<f64>() + offset, 1e-5 * size)
        })
        .collect()
}

proptest! {
    #![proptest_config(cases(100))]

    /// All at once, or query by query: the same index, byte for byte; and fitting again replaces it.
    #[test]
    fn slices_do_not_show(case in any_case()) {
        let built = case.build();
        let expected = bytes(&built.index);
        let (offsets, labels) = csr(&built.labels);
        let mut at_once = Builder::new(Arc::clone(&built.index), built.recipe.clone()).unwrap();
        at_once.add(&built.train.concat(), Lists { offsets: &offsets, labels: &labels }).unwrap();
        at_once.finish().unwrap();
        prop_assert!(bytes(&built.index) == expected);

        let mut singly = Builder::new(Arc::clone(&built.index), built.recipe.clone()).unwrap();
        singly.add(&[], Lists { offsets: &[0], labels: &[] }).unwrap();
        for (query, labels) in built.train.iter().zip(&built.labels) {
            singly.add(query, Lists { offsets: &[0, labels.len()], labels }).unwrap();
        }
        // Until it is done nothing has changed.
        built.index.set_operating_point(point(77, 77, 77, 77)).unwrap();
        let before = bytes(&built.index);
        prop_assert!(before != expected || case.n_probes == 77);
        singly.finish().unwrap();
        prop_assert!(bytes(&built.index) == expected);
    }

    /// Sketches of rows of any values: each code is the nearest level, but for what rounding of the product can move.
    #[test]
    fn sketches_are_of_the_rows(mut case in any_case(), sketch_bytes in prop::sample::select(&[64usize, 128][..])) {
        (case.exact_sums, case.sketch_bytes, case.p) = (false, sketch_bytes, case.p.max(1));
        let built = case.build();
        let twin = built.reference_of_parts();
        let sketched = twin.sketched().unwrap();
        let coordinates = built.recipe.coordinates.as_ref().unwrap();
        prop_assert_eq!(&sketched.base, &coordinates.base.to_vec());
        let widths = reference::widths(sketched.counts);
        for (w, codes) in reference::widen(built.index.rows()).iter().zip(&sketched.codes) {
            let z = coordinates_of_row(&coordinates.row, w);
            for (i, (&code, &half_step)) in codes.iter().zip(&sketched.half_steps).enumerate() {
                let (value, slack) = z.get(i).copied().unwrap_or((0.0, 0.0));
                let distance = |code: u8| (value - reference::level(code, widths[i], half_step)).abs();
                let nearest = (0..1u32 << widths[i]).map(|code| distance(code as u8)).fold(f64::INFINITY, f64::min);
                prop_assert!(distance(code) <= nearest + 2.0 * slack + 1e-5 * f64::from(half_step), "coordinate {i}");
            }
        }
    }

    /// Codes of rows of any values: each bit is the sign of its margin, but for margins that rounding can move.
    #[test]
    fn rows_stand_in_their_buckets(mut case in any_case()) {
        (case.exact_sums, case.fill, case.n_always) = (false, Fill::Rows, 0);
        let built = case.build();
        let twin = built.reference_of_parts();
        let planes = &built.recipe.planes;
        for table in 0..case.n_tables {
            let buckets: Vec<_> = twin.buckets().iter().filter(|((t, _), _)| *t == table).collect();
            let total: usize = buckets.iter().map(|(_, ids)| ids.len()).sum();
            prop_assert_eq!(total, case.m, "each row stands in one bucket of each table");
            for ((_, code), ids) in buckets {
                for &id in ids {
                    let w = &reference::widen(built.index.rows())[id as usize];
                    let z = built.recipe.coordinates.as_ref().map_or(vec![], |c| reference::affine_of_row(&c.row, w));
                    let x = reference::hashed_row(planes, w, built.index.rows().bias()[id as usize], &z);
                    for (bit, margin) in reference::margins(planes, table, &x).into_iter().enumerate() {
                        prop_assert!((code >> bit & 1 == 1) == (margin > 0.0) || margin.abs() < 1e-2, "row {id}: {margin}");
                    }
                }
            }
        }
    }
}

/// One after the other, because the number of threads is the process's.
#[test]
fn threads_do_not_show() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for turn in 0..30 {
        let mut case = any_case().new_tree(&mut runner).unwrap().current();
        if turn % 5 == 0 {
            case.m += 1500;
        }
        let built = case.prepare();
        let files: Vec<Vec<u8>> = [1, 2, 5]
            .map(|n| {
                threads::set_num_threads(n).unwrap();
                built.fit();
                bytes(&built.index)
            })
            .to_vec();
        threads::set_num_threads(0).unwrap();
        assert!(files[0] == files[1] && files[0] == files[2], "{case:?}");
    }
}

fn case() -> Case {
    Case {
        seed: 8,
        dtype: common::Dtype::F32,
        exact_sums: true,
        m: 20,
        d: 4,
        p: 4,
        space: Space::Aligned,
        n_tables: 2,
        n_bits: 3,
        fill: Fill::Queries,
        n_always: 0,
        sketch_bytes: 64,
        n_probes: 1,
        max_entries: usize::MAX,
        n_neighbors: 4,
        n_rescore: 5,
        exact: false,
        wide: common::TABLES_ALONE,
        n_train: 10,
        n_queries: 1,
        n_regions: 0,
    }
}

/// Each of these recipes is refused, by the name of what is wrong.
#[test]
fn recipes_are_checked() {
    let built = case().prepare();
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = built.recipe.clone();
        change(&mut recipe);
        match Builder::new(Arc::clone(&built.index), recipe) {
            Err(Error::Value { arg, .. }) => arg,
            Err(other) => panic!("{other}"),
            Ok(_) => "nothing",
        }
    };
    let other = Case { d: 5, p: 3, ..case() }.prepare().recipe;
    let augmented = Case { space: Space::Augmented, ..case() }.prepare().recipe.planes;
    let augmented_5 = Case { space: Space::Augmented, d: 5, ..case() }.prepare().recipe.planes;
    let wide = lss_core::hash::Planes::new(
        Space::Aligned,
        2,
        3,
        lss_core::memory::Matrix::new(6, 5, &[1.0; 30]),
        Block::copy_of(&[0.0; 6]),
    )
    .unwrap();
    assert_eq!(refused(&|_| {}), "nothing");
    assert_eq!(refused(&|recipe| recipe.planes = augmented.clone()), "nothing");
    for (wrong, arg) in [
        (point(0, 1, 1, 1), "n_probes"),
        (point(1, 0, 1, 1), "max_entries"),
        (point(1, 1, 0, 1), "n_neighbors"),
        (point(1, 1, 1, 0), "n_rescore"),
    ] {
        assert_eq!(refused(&|recipe| recipe.point = wrong), arg);
    }
    assert_eq!(refused(&|recipe| recipe.coordinates = None), "planes");
    assert_eq!(refused(&|recipe| recipe.planes = wide.clone()), "planes");
    assert_eq!(refused(&|recipe| recipe.planes = augmented_5.clone()), "planes");
    assert_eq!(
        refused(&|recipe| (recipe.planes, recipe.coordinates) = (augmented.clone(), None)),
        "coordinates",
        "sketches need coordinates"
    );
    assert_eq!(
        refused(&|recipe| {
            (recipe.planes, recipe.coordinates, recipe.sketch_bytes) = (augmented.clone(), None, 0);
        }),
        "coordinates",
        "exemplars need coordinates"
    );
    assert_eq!(refused(&|recipe| recipe.always_include = vec![19, 20]), "always_include");
    assert_eq!(refused(&|recipe| recipe.coordinates = other.coordinates.clone()), "query_map");
    let coordinates = built.recipe.coordinates.as_ref().unwrap();
    let with = |change: &dyn Fn(&mut lss_core::coordinates::Coordinates)| {
        let mut changed = coordinates.clone();
        change(&mut changed);
        refused(&|recipe| recipe.coordinates = Some(changed.clone()))
    };
    assert_eq!(with(&|c| c.base = Block::copy_of(&[0.0; 19])), "base");
    assert_eq!(with(&|c| c.row = other.coordinates.as_ref().unwrap().row.clone()), "row_map");
    assert_eq!(with(&|c| c.variances.clear()), "query_map");
    assert_eq!(with(&|c| c.variances.push(0.1)), "query_map");
    let mut odd = built.recipe.clone();
    odd.sketch_bytes = 32;
    // Found at the latest when building, and then nothing changes.
    if let Ok(builder) = Builder::new(Arc::clone(&built.index), odd) {
        assert!(matches!(builder.finish(), Err(Error::Value { arg: "sketch_bytes", .. })));
        assert!(built.index.fitted().is_none());
    }
}

#[test]
fn training_data_is_checked() {
    for fill in [Fill::Queries, Fill::Rows] {
        let built = Case { fill, ..case() }.prepare();
        let mut builder = Builder::new(Arc::clone(&built.index), built.recipe.clone()).unwrap();
        let queries = [0.5; 8];
        for (offsets, labels) in [
            (&[0, 1][..], &[0][..]),
            (&[0, 1, 2, 3], &[0, 0, 0]),
            (&[1, 1, 2], &[0, 0]),
            (&[0, 1, 3], &[0, 0]),
            (&[0, 2, 1], &[0]),
            (&[0, 3, 2], &[0, 0]),
            (&[0, 1, 2], &[0, 20]),
            (&[0, 1, 2], &[u32::MAX, 0]),
            (&[], &[]),
        ] {
            let result = builder.add(&queries, Lists { offsets, labels });
            assert!(matches!(result, Err(Error::Value { arg: "Y", .. })), "{offsets:?} {labels:?}");
        }
        // What was refused left nothing behind.
        builder.add(&queries, Lists { offsets: &[0, 1, 2], labels: &[4, 19] }).unwrap();
        builder.finish().unwrap();
        let fitted = built.index.fitted().unwrap();
        fitted.validate(20, 4).unwrap();
        if fill == Fill::Queries {
            assert_eq!(fitted.tables.len(), 4, "two queries in two tables");
            assert_eq!(fitted.exemplars.as_ref().unwrap().labels().len(), 2);
        }
    }
}

/// A fit from no queries at all: searches find what is always included.
#[test]
fn nothing_to_learn_from() {
    let built = Case { n_train: 0, n_always: 2, ..case() }.build();
    let fitted = built.index.fitted().unwrap();
    assert!(fitted.tables.entries().is_empty());
    let (offsets, ids) = built.index.candidates(&built.queries.concat(), 1).unwrap();
    assert_eq!((offsets[1], ids), (fitted.always_include.len(), fitted.always_include.to_vec()));
}
