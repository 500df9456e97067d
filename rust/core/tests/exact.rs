//! Exact search, by rows in bytes, by the product of many queries, or row by row: bounds hold, and answers are the same, bit for bit.

mod common;

use common::{DTYPES, Dtype, Rng, assert_same, cases};
use lss_core::byte_rows::{BOUNDS, Bounds, ByteQuery, ByteRows, SomeRows};
use lss_core::coordinates::Projection;
use lss_core::kernels::Kernel;
use lss_core::memory::Block;
use lss_core::rows::Rows;
use lss_core::{Answers, Error, Step, Work, exact};
use proptest::prelude::*;

/// A layer, what rounds queries for it, and queries near and far.
struct Made {
    rows: Rows,
    bytes: ByteRows,
    queries: Vec<Vec<f32>>,
}

/// How much rows are like each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Alike {
    /// Not at all.
    Not,
    /// So much that many logits are the same; their sums are exact.
    Often,
    /// So much that logits differ by what sums of another order do.
    Nearly,
}

fn made(rng: &mut Rng, [m, d, n]: [usize; 3], dtype: Dtype, alike: Alike) -> Made {
    let size = 10f32.powi(rng.below(5) as i32 - 2);
    let deviations = rng.vector(d, |rng| [0.0, 0.01, 1.0, 1.0, 1.0, 30.0][rng.below(6)]);
    let mean = rng.vector(d, |rng| 3.0 * rng.normal());
    let weight = |rng: &mut Rng| {
        let outlier = if rng.below(50) == 0 { 20.0 } else { 1.0 };
        dtype.round(if alike == Alike::Often { rng.dyadic(0.5, 2) } else { size * outlier * rng.normal() })
    };
    let mut weights = rng.matrix(m, d, weight);
    if alike == Alike::Nearly {
        let first = weights[0].clone();
        for value in weights.iter_mut().flat_map(|row| row.iter_mut().zip(&first)) {
            *value.0 = dtype.round(value.1 * (1.0 + 2.0 * f32::EPSILON * rng.normal()));
        }
    }
    for row in &mut weights {
        match rng.below(12) {
            0 => row.fill(0.0),
            1 => row.iter_mut().for_each(|value| *value = dtype.round(*value * 1e-3)),
            _ => {}
        }
    }
    if m > 3 {
        weights[m - 1] = weights[0].clone();
    }
    // Some labels are masked.
    let mask = [0.0, 0.0, -1e4, -1e9, f32::MIN][rng.below(5)];
    let bias = |rng: &mut Rng| match rng.below(8) {
        0 if mask < 0.0 => mask,
        _ if alike != Alike::Not => 0.0,
        _ => size * rng.normal(),
    };
    let bias = rng.vector(m, bias);
    let rows = Rows::new(d, dtype.store(&weights.concat()), Block::copy_of(&bias)).unwrap();
    let map = Projection::new(0, d, &[], &[], [&mean, &deviations]).unwrap();
    let bytes = ByteRows::new(&rows, &map).unwrap();
    let mut query = |_| -> Vec<f32> {
        let spread = [0.0, 1e-3, 1.0, 1.0, 1.0, 1e3][rng.below(6)];
        (0..d).map(|i| mean[i] + spread * deviations[i].max(0.01) * rng.normal()).collect()
    };
    let mut queries: Vec<Vec<f32>> = (0..n).map(&mut query).collect();
    for query in &mut queries {
        match rng.below(12) {
            0 => query[rng.below(d)] = 1e4,
            1 => query.iter_mut().for_each(|value| *value *= 1e30),
            2 => query.iter_mut().for_each(|value| *value = value.signum() * f32::MAX),
            3 => query.iter_mut().for_each(|value| *value *= 1e-38),
            4 => query.fill(0.0),
            _ => {}
        }
    }
    Made { rows, bytes, queries }
}

/// What each query is answered that scores all rows in full, one after the other.
fn full(rows: &Rows, queries: &[Vec<f32>], k: usize) -> Found {
    let each =
        queries.iter().map(|query| search(rows, None, Kernel::scalar(), std::slice::from_ref(query), k));
    each.fold(Found::default(), |mut all, one| {
        all.labels.extend(one.labels);
        all.scores.extend(one.scores);
        all.work.extend(one.work);
        all
    })
}

/// What a group of queries is answered: labels, scores and work.
fn search(rows: &Rows, bytes: Option<&ByteRows>, kernel: Kernel, queries: &[Vec<f32>], k: usize) -> Found {
    let n = queries.len();
    let mut found = Found {
        labels: vec![i64::MIN; n * k],
        scores: vec![f32::NAN; n * k],
        work: vec![Work::default(); n],
    };
    let Found { labels, scores, work } = &mut found;
    exact::search(rows, bytes, kernel, &queries.concat(), Answers { labels, scores, work });
    found
}

#[derive(Default)]
struct Found {
    labels: Vec<i64>,
    scores: Vec<f32>,
    work: Vec<Work>,
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn answers_are_those_of_all_rows_in_full_precision(
        seed: u64,
        m in prop_oneof![1 => 1usize..40, 4 => 16usize..300, 1 => 2000usize..4500],
        d in prop_oneof![4 => 1usize..100, 1 => 100usize..300],
        n in prop_oneof![4 => 1usize..20, 1 => 30usize..70],
        k in prop_oneof![4 => 1usize..8, 1 => 1usize..40],
        dtype in prop::sample::select(&DTYPES[..]),
        alike in prop::sample::select(&[Alike::Not, Alike::Often, Alike::Nearly][..]),
    ) {
        let rng = &mut Rng(seed);
        let Made { rows, bytes, queries } = made(rng, [m, d, n], dtype, alike);
        let full = full(&rows, &queries, k);
        let alone: Vec<Found> =
            queries.iter().map(|query| search(&rows, Some(&bytes), Kernel::scalar(), std::slice::from_ref(query), k)).collect();
        for kernel in Kernel::available() {
            let found = search(&rows, Some(&bytes), kernel, &queries, k);
            prop_assert_eq!(&found.labels, &full.labels, "{}", kernel.name());
            assert_same(&found.scores, &full.scores, kernel.name());
            let multiplied = search(&rows, None, kernel, &queries, k);
            prop_assert_eq!(&multiplied.labels, &full.labels, "{} by their product", kernel.name());
            assert_same(&multiplied.scores, &full.scores, kernel.name());
            prop_assert_eq!(&multiplied.work, &full.work);
            for (at, (work, alone)) in found.work.iter().zip(&alone).enumerate() {
                // What a query takes does not depend on the others, or on the kernel.
                prop_assert_eq!(*work, alone.work[0], "{} query {}", kernel.name(), at);
                prop_assert!((k.min(m)..=m).contains(&work.rescored));
                prop_assert_eq!((work.candidates, work.step, work.trust), (m, Step::Exact, 1.0));
            }
        }
    }

    /// No logit, in double precision or as the rescore kernel has it, lies farther from what bytes say than is said.
    #[test]
    fn bounds_hold(seed: u64, m in 1usize..60, d in 1usize..200, dtype in prop::sample::select(&DTYPES[..])) {
        let rng = &mut Rng(seed);
        let Made { rows, bytes, queries } = made(rng, [m, d, 12], dtype, Alike::Not);
        let (mut read, mut told) = (ByteQuery::default(), 0);
        for query in &queries {
            if !bytes.read(query, &mut read) {
                continue;
            }
            told += 1;
            let ByteQuery { bytes: of_query, rest, step, share, reach, slack, .. } = &read;
            let SomeRows { bytes: of_rows, stride, scales, offsets } = bytes.rows(0, m);
            let full = search(&rows, None, Kernel::scalar(), std::slice::from_ref(query), m);
            for (&label, &score) in full.labels.iter().zip(&full.scores) {
                let at = usize::try_from(label).unwrap();
                let row = &of_rows[at * stride..][..stride];
                let dot = |query: &[i8]| row.iter().zip(query).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>() as f32;
                let (coarse, fine) = (dot(of_query), dot(of_query) + share * dot(rest));
                let mut wide = Vec::new();
                rows.widen_into(at, 1, &mut wide);
                let logit = wide.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                    + f64::from(rows.bias()[at]);
                for (dot, reach) in [coarse, fine].into_iter().zip(reach) {
                    let [least, most] = [-reach, *reach].map(|reach| {
                        f64::from(scales[at]) * f64::from(dot * step + reach) + f64::from(offsets[at])
                    });
                    // Sums of masked labels can be infinite.
                    for logit in [logit, f64::from(score)].into_iter().filter(|logit| logit.is_finite()) {
                        let slack = f64::from(*slack) + f64::from(offsets[at].abs()) * 16.0 * f64::from(f32::EPSILON);
                        prop_assert!(least - slack <= logit && logit <= most + slack, "{least} {logit} {most} {slack}");
                    }
                }
            }
        }
        // Not all of so many queries are too large.
        prop_assert!(told > 0);
    }
}

/// Of many rows few are scored in full.
#[test]
fn bounds_rule_out_nearly_all_rows() {
    let rng = &mut Rng(1);
    let (m, d, k) = (3000, 128, 5);
    let weights = rng.vector(m * d, Rng::normal);
    let rows = Rows::new(d, Dtype::F32.store(&weights), Block::copy_of(&vec![0.0; m])).unwrap();
    let map = Projection::new(0, d, &[], &[], [&vec![0.0; d], &vec![1.0; d]]).unwrap();
    let bytes = ByteRows::new(&rows, &map).unwrap();
    let queries = rng.matrix(30, d, Rng::normal);
    let found = search(&rows, Some(&bytes), Kernel::active(), &queries, k);
    let rescored = found.work.iter().map(|work| work.rescored).sum::<usize>() / queries.len();
    assert!((k..60).contains(&rescored), "{rescored}");
    // Where a large part of all rows is asked for, they are all scored.
    let all = search(&rows, Some(&bytes), Kernel::active(), &queries, m / 15);
    assert!(all.work.iter().all(|work| work.rescored == m));
}

#[test]
fn bounds_of_a_file_are_checked() {
    let map = Projection::new(0, 1, &[], &[], [&[0.0], &[1.0]]).unwrap();
    let rows = Rows::new(1, Dtype::F32.store(&[1.0, 2.0]), Block::copy_of(&[0.0, 0.0])).unwrap();
    let bytes = ByteRows::new(&rows, &map).unwrap();
    let array = bytes.bounds().to_array();
    assert_eq!(Bounds::from_array(array), bytes.bounds());
    assert!(ByteRows::from_parts(bytes.map().clone(), bytes.bounds()).is_ok());
    for at in 0..BOUNDS {
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            let mut array = array;
            array[at] = bad;
            let refused = ByteRows::from_parts(bytes.map().clone(), Bounds::from_array(array));
            assert!(matches!(refused, Err(Error::Format { .. })), "{at} {bad}");
        }
    }
    let scales = Block::copy_of(&[1.0, -1.0, 1.0]);
    let map = map.with(bytes.map().matrix().clone(), scales, bytes.map().offset().clone()).unwrap();
    assert!(matches!(ByteRows::from_parts(map, bytes.bounds()), Err(Error::Format { .. })));
}

/// Rows and queries so small, or so large, that single precision has no number for what is made of them.
#[test]
fn numbers_at_the_ends_of_single_precision() {
    let layer = |deviation: f32, first: (f32, f32), second: (f32, f32), others: f32| {
        let weights: Vec<f32> = [first.0, second.0].into_iter().chain([0.0; 30]).collect();
        let bias: Vec<f32> = [first.1, second.1].into_iter().chain([others; 30]).collect();
        let rows = Rows::new(1, Dtype::F32.store(&weights), Block::copy_of(&bias)).unwrap();
        let map = Projection::new(0, 1, &[], &[], [&[0.0], &[deviation]]).unwrap();
        let bytes = ByteRows::new(&rows, &map).unwrap();
        (rows, bytes)
    };
    let of_small = layer(16.0, (1e37, 0.0), (-1e37, 1e-9), -1e-6);
    let of_large = layer(16.0, (3e38, 5.0), (0.0, 0.0), 0.0);
    let masked = layer(1.0, (1.0, f32::MIN), (2.0, 0.0), f32::MIN);
    for ((rows, bytes), query) in [(of_small, 1e-45), (of_large, 0.0), (masked, 1.0)] {
        let queries = [vec![query], vec![1.0], vec![-1.0]];
        let full = full(&rows, &queries, 1);
        for kernel in Kernel::available() {
            let found = search(&rows, Some(&bytes), kernel, &queries, 1);
            assert_eq!(found.labels, full.labels, "{} {query}", kernel.name());
            assert_same(&found.scores, &full.scores, kernel.name());
        }
    }
}

/// Masked labels do not have more of the others scored.
#[test]
fn masked_labels_cost_nothing() {
    let rng = &mut Rng(1);
    let (m, d, k) = (3000, 128, 5);
    let weights = rng.vector(m * d, Rng::normal);
    let map = Projection::new(0, d, &[], &[], [&vec![0.0; d], &vec![1.0; d]]).unwrap();
    let queries = rng.matrix(30, d, Rng::normal);
    for mask in [-1e4, -1e9, f32::MIN] {
        let bias: Vec<f32> = (0..m).map(|at| if at % 3 == 0 { mask } else { 0.0 }).collect();
        let rows = Rows::new(d, Dtype::F32.store(&weights), Block::copy_of(&bias)).unwrap();
        let bytes = ByteRows::new(&rows, &map).unwrap();
        let found = search(&rows, Some(&bytes), Kernel::active(), &queries, k);
        let rescored = found.work.iter().map(|work| work.rescored).sum::<usize>() / queries.len();
        assert!((k..60).contains(&rescored), "{mask}: {rescored}");
    }
}

/// Where all logits are alike nothing is ruled out, also where this shows before all rows are read.
#[test]
fn what_cannot_be_ruled_out_is_scored() {
    let (d, k) = (40, 5);
    for m in [3000, 20_000] {
        let rows = Rows::new(d, Dtype::F32.store(&vec![1.0; m * d]), Block::copy_of(&vec![0.0; m])).unwrap();
        let map = Projection::new(0, d, &[], &[], [&vec![0.0; d], &vec![1.0; d]]).unwrap();
        let bytes = ByteRows::new(&rows, &map).unwrap();
        let queries = vec![vec![0.5; d]; 11];
        for kernel in Kernel::available() {
            let found = search(&rows, Some(&bytes), kernel, &queries, k);
            assert!(found.work.iter().all(|work| work.rescored == m));
            assert_eq!(found.labels, [0, 1, 2, 3, 4].repeat(11));
        }
        assert!(search(&rows, Some(&bytes), Kernel::active(), &[], 1).labels.is_empty());
    }
}
