//! The query's map in bytes, against the map itself and against the reference.

mod common;

use common::{Rng, assert_same, cases};
use lss_core::coordinates::{Projection, Rounded};
use lss_core::kernels::{Kernel, MOST_BYTES};
use lss_core::memory::{Block, Matrix};
use lss_core::reference;
use proptest::prelude::*;

/// A map of `p` coordinates for queries of dimension `d`, some of whose coordinates vary far more than others, or not at
/// all.
struct Made {
    map: Projection,
    values: Vec<f32>,
    offset: Vec<f32>,
    mean: Vec<f32>,
    deviations: Vec<f32>,
}

fn made(rng: &mut Rng, p: usize, d: usize) -> Made {
    let deviations = rng.vector(d, |rng| [0.0, 0.01, 1.0, 1.0, 1.0, 30.0][rng.below(6)]);
    let (mean, offset) = (rng.vector(d, |rng| 3.0 * rng.normal()), rng.vector(p, Rng::normal));
    let values: Vec<f32> =
        (0..p * d).map(|at| rng.normal() / deviations[at % d].max(0.1)).map(|value| value / 8.0).collect();
    let map = Projection::new(p, d, &values, &offset, [&mean, &deviations]).unwrap();
    Made { map, values, offset, mean, deviations }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Coordinates differ from those of the map itself by no more than half a step of a row for each coordinate of the
    /// query, and half a step of the query for each number of a row; and every kernel has the reference's.
    #[test]
    fn coordinates_are_those_of_the_map(seed: u64, p in 1usize..40, d in 1usize..200, size in -3i32..4) {
        let rng = &mut Rng(seed);
        let Made { map, values, offset, mean, deviations } = made(rng, p, d);
        let spread = 10f32.powi(size);
        let query: Vec<f32> =
            (0..d).map(|i| mean[i] + spread * deviations[i].max(0.01) * rng.normal()).collect();
        let weighted: Vec<f64> =
            (0..d).map(|i| f64::from((query[i] - mean[i]) * map.weights()[i])).collect();
        let step = weighted.iter().fold(0.0, |a: f64, b| a.max(b.abs())) / 127.0;
        let expected = reference::project(&map, &query);
        for (j, row) in values.chunks(d).enumerate() {
            let exact: f64 = row.iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                + f64::from(offset[j]);
            let scale = f64::from(map.scales()[j]);
            let of_row: f64 = weighted.iter().map(|value| 0.5 * scale * value.abs()).sum();
            let of_query: f64 =
                row.iter().zip(&map.weights()[..]).map(|(a, w)| 0.5 * step * f64::from((a / w).abs())).sum();
            let both = d as f64 * 0.25 * scale * step;
            let size: f64 = row.iter().zip(&query).map(|(a, b)| f64::from((a * b).abs())).sum();
            let most = of_row + of_query + both + 1e-5 * (size + exact.abs() + 1.0);
            prop_assert!((f64::from(expected[j]) - exact).abs() <= most, "{} for {exact}", expected[j]);
        }
        for kernel in Kernel::available() {
            let mut out = vec![f32::NAN; p];
            let mut rounded = Rounded::default();
            map.apply(kernel, &query, &mut rounded, &mut out);
            assert_same(&out, &expected, kernel.name());
            // The first rows, and any others, of what has been rounded already.
            let first = &mut out[..p / 2];
            first.fill(f32::NAN);
            map.apply_first(kernel, &mut rounded, first);
            assert_same(first, &expected[..p / 2], kernel.name());
            let ids: Vec<u32> = (0..5).map(|_| rng.below(p) as u32).collect();
            let mut of_ids = [f32::NAN; 5];
            map.apply_ids(kernel, &mut rounded, &ids, &mut of_ids);
            assert_same(&of_ids, &ids.iter().map(|&id| expected[id as usize]).collect::<Vec<_>>(), kernel.name());
        }
    }

    /// A map beside another is the map that would have been made of the same values, and rounds queries alike.
    #[test]
    fn a_map_beside_another_is_made_like_it(seed: u64, p in 1usize..40, more in 1usize..40, d in 1usize..100) {
        let rng = &mut Rng(seed);
        let Made { map, mean, deviations, .. } = made(rng, p, d);
        let (values, offset) = (rng.vector(more * d, Rng::normal), rng.vector(more, Rng::normal));
        let beside = map.beside(more, |at, out| {
            out.extend_from_slice(&values[at * d..][..d]);
            offset[at]
        });
        let (beside, alone) = (beside.unwrap(), Projection::new(more, d, &values, &offset, [&mean, &deviations]).unwrap());
        let parts = |map: &Projection| [map.scales(), map.offset(), map.center(), map.weights()].map(|part| part.to_vec());
        prop_assert_eq!(&beside.matrix().values()[..], &alone.matrix().values()[..]);
        prop_assert_eq!(parts(&beside), parts(&alone));
    }
}

/// A coordinate that varies by far the most does not cost the others their precision.
#[test]
fn outlying_coordinates_leave_room_for_others() {
    let rng = &mut Rng(3);
    let (p, d) = (32, 64);
    let deviations: Vec<f32> = (0..d).map(|i| if i == 5 { 100.0 } else { 1.0 }).collect();
    // Each coordinate of the query brings as much to the result.
    let values: Vec<f32> =
        (0..p * d).map(|at| rng.normal() / deviations[at % d] / (d as f32).sqrt()).collect();
    let map = Projection::new(p, d, &values, &vec![0.0; p], [&vec![0.0; d], &deviations]).unwrap();
    let (mut squares, n) = (0.0, 200);
    for _ in 0..n {
        let query: Vec<f32> = deviations.iter().map(|deviation| deviation * rng.normal()).collect();
        for (row, z) in values.chunks(d).zip(reference::project(&map, &query)) {
            let exact: f32 = row.iter().zip(&query).map(|(a, b)| a * b).sum();
            squares += (z - exact).powi(2);
        }
    }
    let error = (squares / (n * p) as f32).sqrt();
    assert!(error < 0.06, "{error}");
}

/// Nor does one in which the training queries hardly varied, where a query of another kind is far out in it.
#[test]
fn queries_of_another_kind_keep_their_precision() {
    let rng = &mut Rng(6);
    let (p, d) = (32, 64);
    let deviations: Vec<f32> = (0..d).map(|i| if i == 5 { 0.0 } else { 1.0 }).collect();
    let values: Vec<f32> = (0..p * d).map(|at| if at % d == 5 { 0.0 } else { rng.normal() / 8.0 }).collect();
    let map = Projection::new(p, d, &values, &vec![0.0; p], [&vec![0.0; d], &deviations]).unwrap();
    for far in [1.0, 30.0, 1000.0] {
        let mut query = rng.vector(d, Rng::normal);
        query[5] = far;
        for (row, z) in values.chunks(d).zip(reference::project(&map, &query)) {
            let exact: f32 = row.iter().zip(&query).map(|(a, b)| a * b).sum();
            assert!((z - exact).abs() < 0.1 + 1e-3 * far, "{z} for {exact}, {far}");
        }
    }
}

/// The largest numbers there are stay numbers, and a query at the mean lies where the mean does.
#[test]
fn extremes() {
    let rng = &mut Rng(4);
    let Made { values, offset, mean, deviations, .. } = made(rng, 9, 20);
    let values: Vec<f32> =
        values.iter().enumerate().map(|(at, x)| if at < 20 { 0.0 } else { 1e6 * x }).collect();
    let map = Projection::new(9, 20, &values, &offset, [&mean, &deviations]).unwrap();
    for kernel in Kernel::available() {
        let of = |query: &[f32]| {
            let mut out = vec![f32::NAN; 9];
            map.apply(kernel, query, &mut Rounded::default(), &mut out);
            out
        };
        assert_same(&of(&mean), map.offset(), "the mean");
        for value in [f32::MAX, f32::MIN, 1e-25, f32::MIN_POSITIVE, 0.0] {
            let query: Vec<f32> = (0..20).map(|i| if i % 2 == 0 { value } else { -value }).collect();
            assert_same(&of(&query), &reference::project(&map, &query), "extremes");
            assert!(of(&query).iter().all(|z| !z.is_nan()), "{value}");
        }
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let rng = &mut Rng(5);
    let refused = |made: lss_core::error::Result<Projection>| made.err().unwrap().to_string();
    let (values, two, three) = (rng.vector(6, Rng::normal), vec![1.0; 2], vec![1.0; 3]);
    assert!(Projection::new(2, 3, &values, &two, [&three, &three]).is_ok());
    assert!(refused(Projection::new(2, 3, &values, &two, [&two, &three])).contains("query_mean"));
    assert!(refused(Projection::new(2, 3, &values, &two, [&three, &two])).contains("query_deviations"));
    for offset in [&three, &vec![1.0]] {
        assert!(refused(Projection::new(2, 3, &values, offset, [&three, &three])).contains("query_offset"));
    }
    let matrix = || Matrix::new(2, 3, &[1i8; 6]);
    let names = ["query_scales", "query_offset", "query_center", "query_weights"];
    for (at, name) in names.into_iter().enumerate() {
        let mut parts = [&two, &two, &three, &three].map(|part| Block::copy_of(part));
        parts[at] = Block::copy_of(&[1.0; 4]);
        assert!(refused(Projection::from_parts(matrix(), parts)).contains(name), "{name}");
    }
    let long = vec![0.0; MOST_BYTES + 1];
    let refusal = refused(Projection::new(1, long.len(), &long, &[0.0], [&long, &long]));
    assert!(refusal.contains("query_map"), "{refusal}");
}
