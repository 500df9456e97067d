//! The teacher's top-t is that of the full layer.

mod common;

use common::{DTYPES, Rng, assert_same, cases};
use lss_core::kernels::Kernel;
use lss_core::memory::Block;
use lss_core::rows::Rows;
use lss_core::{Error, teacher};
use proptest::prelude::*;

/// Exact logits in double precision and the tolerance of a single-precision sum, per row.
fn exact(weights: &[Vec<f32>], bias: &[f32], query: &[f32]) -> Vec<(f64, f64)> {
    let of = |(w, b): (&Vec<f32>, &f32)| {
        let terms = w.iter().zip(query).map(|(w, q)| f64::from(*w) * f64::from(*q));
        let size: f64 = terms.clone().map(f64::abs).sum::<f64>() + f64::from(b.abs());
        (terms.sum::<f64>() + f64::from(*b), 1e-5 * size + 1e-30)
    };
    weights.iter().zip(bias).map(of).collect()
}

fn check(
    weights: &[Vec<f32>],
    bias: &[f32],
    rows: &Rows,
    queries: &[Vec<f32>],
    t: usize,
) -> Result<(), TestCaseError> {
    let n = queries.len();
    let m = rows.m();
    let (mut labels, mut scores) = (vec![i64::MIN; n * t], vec![f32::NAN; n * t]);
    teacher::top(rows, Kernel::scalar(), &queries.concat(), t, &mut labels, &mut scores).unwrap();
    for kernel in Kernel::available() {
        let (mut same, mut as_well) = (vec![i64::MIN; n * t], vec![f32::NAN; n * t]);
        teacher::top(rows, kernel, &queries.concat(), t, &mut same, &mut as_well).unwrap();
        prop_assert_eq!(&same, &labels, "{}", kernel.name());
        assert_same(&as_well, &scores, kernel.name());
    }
    for (i, query) in queries.iter().enumerate() {
        let (labels, scores) = (&labels[i * t..][..t], &scores[i * t..][..t]);
        let exact = exact(weights, bias, query);
        let found = t.min(m);
        prop_assert!(labels[found..].iter().all(|&label| label == -1));
        prop_assert!(scores[found..].iter().all(|&score| score == f32::NEG_INFINITY));
        for (place, (&label, &score)) in labels[..found].iter().zip(scores).enumerate() {
            let (logit, tolerance) = exact[usize::try_from(label).unwrap()];
            prop_assert!((f64::from(score) - logit).abs() <= tolerance, "query {i}: {score} for {logit}");
            if place > 0 {
                let before = (scores[place - 1], labels[place - 1]);
                prop_assert!(
                    before.0 > score || (before.0 == score && before.1 < label),
                    "query {i}: order at {place}"
                );
            }
        }
        // A row whose logit is clearly above the last one returned must have been returned, and none twice.
        let chosen: std::collections::BTreeSet<i64> = labels[..found].iter().copied().collect();
        prop_assert_eq!(chosen.len(), found);
        if let Some(&last) = labels[..found].last() {
            let (least, slack) = exact[last as usize];
            for (id, (logit, tolerance)) in exact.iter().enumerate() {
                let clear = *logit > least + slack + tolerance;
                prop_assert!(!clear || chosen.contains(&(id as i64)), "query {i}: {id} is missing");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn top_of_the_full_layer(
        seed: u64,
        m in prop_oneof![4 => 1usize..=120, 1 => 2040usize..=2060],
        d in 1usize..=50,
        n in prop_oneof![4 => 0usize..=20, 1 => 125usize..=260],
        t in prop_oneof![4 => 1usize..=12, 1 => 1usize..=150],
        dtype in prop::sample::select(&DTYPES[..]),
        exact_sums: bool,
    ) {
        let mut rng = Rng(seed);
        let mut weights = rng.matrix(m, d, |rng| if exact_sums { rng.dyadic(0.25, 4) } else { dtype.round(rng.normal()) });
        let bias = rng.vector(m, |rng| rng.dyadic(0.25, 4));
        if m > 3 {
            weights[m - 1] = weights[0].clone();
        }
        let rows = Rows::new(d, dtype.store(&weights.concat()), Block::copy_of(&bias)).unwrap();
        let queries = rng.matrix(n, d, |rng| if exact_sums { rng.dyadic(0.5, 4) } else { rng.normal() });
        check(&weights, &bias, &rows, &queries, t)?;

        if exact_sums {
            // Sums have no rounding, so labels and scores are those of the reference, ties and all.
            let (mut labels, mut scores) = (vec![0i64; n * t], vec![0.0f32; n * t]);
            teacher::top(&rows, Kernel::active(), &queries.concat(), t, &mut labels, &mut scores).unwrap();
            for (i, query) in queries.iter().enumerate() {
                let logits = exact(&weights, &bias, query);
                let scored: Vec<(f32, u32)> = logits.iter().zip(0..).map(|(&(logit, _), id)| (logit as f32, id)).collect();
                let best = lss_core::reference::top(&scored, t);
                for (place, (score, id)) in best.into_iter().enumerate() {
                    prop_assert_eq!((labels[i * t + place], scores[i * t + place]), (i64::from(id), score));
                }
            }
        }
    }
}

#[test]
fn no_labels_wanted_is_an_error() {
    let rows = Rows::new(1, DTYPES[0].store(&[1.0]), Block::copy_of(&[0.0])).unwrap();
    assert!(matches!(
        teacher::top(&rows, Kernel::active(), &[1.0], 0, &mut [], &mut []),
        Err(Error::Value { arg: "t", .. })
    ));
}
