//! Rows: shapes, dtypes, finiteness, and logits by both doors.

mod common;

use common::{DTYPES, Dtype, Rng, assert_same, cases, pad};
use lss_core::kernels::Kernel;
use lss_core::memory::Block;
use lss_core::rows::Rows;
use lss_core::{Error, reference};
use proptest::prelude::*;

fn rows(dtype: Dtype, d: usize, weights: &[f32], bias: &[f32]) -> lss_core::Result<Rows> {
    Rows::new(d, dtype.store(weights), Block::copy_of(bias))
}

#[test]
fn shapes_are_checked() {
    for (d, n, m) in
        [(0, 0, 1), (3, 0, 0), (3, 6, 0), (3, 6, 3), (3, 7, 2), (3, 5, 2), (0, 6, 2), (usize::MAX, 6, 2)]
    {
        assert!(
            matches!(rows(Dtype::F32, d, &vec![0.0; n], &vec![0.0; m]), Err(Error::Value { .. })),
            "{d} {n} {m}"
        );
    }
    let rows = rows(Dtype::F16, 3, &[0.0; 6], &[0.0; 2]).unwrap();
    assert_eq!((rows.m(), rows.d(), rows.weights().dtype(), rows.weights().nbytes()), (2, 3, "float16", 12));
}

#[test]
fn dtypes_have_the_names_of_numpy() {
    let names = DTYPES.map(|dtype| rows(dtype, 1, &[1.0], &[0.0]).unwrap().weights().dtype());
    assert_eq!(names, ["float32", "float16", "bfloat16"]);
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn logits_by_both_doors(seed: u64, m in 1usize..=60, d in 1usize..=90, dtype in prop::sample::select(&DTYPES[..]), odd: bool) {
        let mut rng = Rng(seed);
        let weight = |rng: &mut Rng| {
            let value = if odd { rng.wild() } else { rng.normal() };
            let value = dtype.round(value);
            if value.is_finite() { value } else { 1.0 }
        };
        let weights = rng.matrix(m, d, weight);
        let bias = rng.vector(m, Rng::normal);
        let query = rng.vector(d, Rng::normal);
        let rows = rows(dtype, d, &weights.concat(), &bias).unwrap();
        rows.check_finite().unwrap();
        prop_assert_eq!(&reference::widen(&rows), &weights);
        let expected: Vec<f32> = weights.iter().zip(&bias).map(|(w, b)| reference::dot(w, &query) + b).collect();

        let ids: Vec<u32> = (0..rng.below(80)).map(|_| rng.below(m) as u32).collect();
        let (first, last) = (rng.below(m), rng.below(m) + 1);
        let range = first.min(last)..first.max(last);
        let mut wide = vec![f32::NAN; 3];
        rows.widen_into(range.start, range.len(), &mut wide);
        assert_same(&wide, &weights[range.clone()].concat(), "widened");
        for kernel in Kernel::available() {
            let mut out = vec![f32::NAN; ids.len()];
            rows.logits(kernel, &pad(&query), &ids, &mut out);
            assert_same(&out, &ids.iter().map(|&id| expected[id as usize]).collect::<Vec<_>>(), "logits");
            let mut out = vec![f32::NAN; range.len()];
            rows.logits_range(kernel, &pad(&query), range.start, &mut out);
            assert_same(&out, &expected[range.clone()], "logits_range");
        }
    }

    /// The first of several is named, beyond the first chunk too.
    #[test]
    fn the_first_bad_value_is_named(
        at in prop::collection::btree_set(0usize..3 * 5000, 1..=3),
        bad in prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..]),
        dtype in prop::sample::select(&DTYPES[..]),
    ) {
        let mut weights = vec![1.0f32; 3 * 5000];
        for &i in &at {
            weights[i] = bad;
        }
        let first = at.first().unwrap();
        match rows(dtype, 3, &weights, &vec![0.0; 5000]).unwrap().check_finite() {
            Err(Error::Value { arg: "weights", got, .. }) => {
                let expected = format!("[{}, {}]", first / 3, first % 3);
                prop_assert!(got.contains(&expected), "{} in {}", expected, got);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

#[test]
fn a_bad_bias_is_named() {
    let mut bias = vec![0.0; 9000];
    bias[8191] = f32::NAN;
    let error = rows(Dtype::F32, 1, &vec![1.0; 9000], &bias).unwrap().check_finite().unwrap_err();
    assert!(matches!(&error, Error::Value { arg: "bias", got, .. } if got.contains("[8191]")), "{error}");
}
