//! Selection equals a full sort: highest score first, equal scores by the lowest id.

mod common;

use common::{Rng, cases};
use lss_core::kernels::Kernel;
use lss_core::reference;
use lss_core::topk::{Few, TopK};
use proptest::prelude::*;

/// Scores with many ties, both zeros, infinities, subnormals and the ends of the range.
fn score() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => (-2i8..=2).prop_map(f32::from),
        3 => -1e3f32..1e3,
        2 => prop::sample::select(&[0.0f32, -0.0][..]),
        1 => prop::sample::select(&[f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, -1e-45][..]),
    ]
}

fn written(best: &mut TopK, k: usize) -> (usize, Vec<i64>, Vec<u32>) {
    let (mut labels, mut scores) = (vec![i64::MIN; k], vec![f32::NAN; k]);
    let found = best.write(&mut labels, &mut scores);
    (found, labels, scores.iter().map(|score| score.to_bits()).collect())
}

fn expected(scored: &[(f32, u32)], k: usize) -> (usize, Vec<i64>, Vec<u32>) {
    let best = reference::top(scored, k);
    let missing = k - best.len();
    let labels = best.iter().map(|&(_, id)| i64::from(id)).chain(vec![-1; missing]).collect();
    let scores = best
        .iter()
        .map(|&(score, _)| score.to_bits())
        .chain(vec![f32::NEG_INFINITY.to_bits(); missing])
        .collect();
    (best.len(), labels, scores)
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn the_score_of_a_rank_is_that_of_a_full_sort(
        mut scores in prop::collection::vec(score(), 1..=300),
        nans in prop::collection::vec(0usize..300, 0..=60),
        rank in 0usize..300,
    ) {
        let n = scores.len();
        nans.into_iter().for_each(|at| scores[at % n] = f32::NAN);
        let mut keys = vec![7];  // what was there before does not show
        let got = Kernel::scalar().nth(&scores, rank % n, &mut keys);
        for kernel in Kernel::available() {
            prop_assert_eq!(kernel.nth(&scores, rank % n, &mut keys).to_bits(), got.to_bits(), "{}", kernel.name());
        }
        let mut sorted: Vec<f32> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        match sorted.get(rank % n) {
            Some(&expected) => prop_assert_eq!(got, expected),
            None => prop_assert!(got.is_nan()),
        }
    }

    #[test]
    fn what_is_above_a_floor_is_found(
        scores in prop::collection::vec(prop_oneof![9 => score(), 1 => Just(f32::NAN)], 1..=300),
        rank in 0usize..300,
    ) {
        let (rank, mut few) = (rank % scores.len(), Few::default());
        few.floor(Kernel::scalar(), 0, &mut vec![1.0; 500]);  // what was there before does not show
        for kernel in Kernel::available() {
            let mut padded = scores.clone();
            let floor = few.floor(kernel, rank, &mut padded);
            let mut above = few.above(&padded, floor).to_vec();
            above.sort_unstable();
            let expected: Vec<usize> = (0..scores.len()).filter(|&at| scores[at] > floor).collect();
            prop_assert_eq!(&above, &expected, "{}", kernel.name());
            let best = reference::bests(&scores);
            let sorted = reference::top(&best.iter().map(|&score| (score, 0)).collect::<Vec<_>>(), best.len());
            prop_assert_eq!(floor, sorted[rank.min(best.len() - 1)].0);
        }
    }

    #[test]
    fn an_order_is_that_of_a_full_sort(
        scores in prop::collection::vec(prop_oneof![9 => score(), 1 => Just(f32::NAN)], 0..=150),
        seed: u64,
    ) {
        let (mut rng, mut few) = (Rng(seed), Few::default());
        let mut ids: Vec<u32> = (0..scores.len() as u32).map(|id| u32::MAX - id * 7).collect();
        rng.shuffle(&mut ids);
        // One NaN is as good as another.
        let bits = |score: f32| if score.is_nan() { None } else { Some((score + 0.0).to_bits()) };
        let mut expected: Vec<_> = scores.iter().copied().zip(ids.iter().copied()).collect();
        expected.sort_by(|(a, x), (b, y)| (a.is_nan(), b + 0.0, x).partial_cmp(&(b.is_nan(), a + 0.0, y)).unwrap_or(x.cmp(y)));
        let expected: Vec<_> = expected.into_iter().map(|(score, id)| (bits(score), id)).collect();
        for kernel in Kernel::available() {
            let (mut scores, mut ids) = (scores.clone(), ids.clone());
            few.order(kernel, &mut scores, &mut ids);
            let got: Vec<_> = scores.iter().copied().map(bits).zip(ids).collect();
            prop_assert_eq!(&got, &expected, "{}", kernel.name());
        }
    }

    #[test]
    fn the_best_are_left(scores in prop::collection::vec(score(), 1..=300), n in 0usize..300, seed: u64) {
        let (n, mut rng, mut few) = (1 + n % scores.len(), Rng(seed), Few::default());
        let mut ids: Vec<u32> = (0..scores.len() as u32).map(|id| id * 7).collect();
        rng.shuffle(&mut ids);
        let all: Vec<(f32, u32)> = scores.iter().copied().zip(ids.iter().copied()).collect();
        for kernel in Kernel::available() {
            let (mut scores, mut ids) = (scores.clone(), ids.clone());
            let least = few.leave(kernel, n, &mut scores, &mut ids);
            let left: Vec<(f32, u32)> = scores.iter().copied().zip(ids).collect();
            prop_assert_eq!(least, reference::top(&left, n)[n - 1].0);
            prop_assert_eq!(reference::top(&left, left.len()), reference::top(&all, n), "{}", kernel.name());
        }
    }

    #[test]
    fn selection_equals_a_full_sort(
        scores in prop::collection::vec(score(), 0..=300),
        k in prop_oneof![0usize..=8, 0usize..=320],
        first in prop::sample::select(&[0u32, 5, 1 << 31, u32::MAX - 400][..]),
        seed: u64,
    ) {
        let in_order: Vec<(f32, u32)> = scores.iter().zip(first..).map(|(&score, id)| (score, id)).collect();
        let mut shuffled = in_order.clone();
        let mut rng = Rng(seed);
        rng.shuffle(&mut shuffled);
        let expected = expected(&in_order, k);

        // One selector for all, so that it must forget.
        let mut best = TopK::default();
        best.reset(1 + rng.below(40));
        best.extend(&[1e30; 50], &(0..50).collect::<Vec<u32>>());

        best.reset(k);
        shuffled.iter().for_each(|&(score, id)| best.push(score, id));
        prop_assert_eq!(&written(&mut best, k), &expected, "push");

        best.reset(k);
        let (some, ids): (Vec<f32>, Vec<u32>) = shuffled.iter().copied().unzip();
        let half = rng.below(some.len() + 1);
        best.extend(&some[..half], &ids[..half]);
        best.extend(&some[half..], &ids[half..]);
        let (mut selected, mut kept) = (Vec::new(), Vec::new());
        best.unordered(&mut selected, &mut kept);
        let pairs: Vec<(f32, u32)> = kept.iter().copied().zip(selected.iter().copied()).collect();
        prop_assert_eq!(reference::top(&pairs, k).len(), pairs.len());
        for (score, id) in reference::top(&pairs, k) {
            prop_assert!(shuffled.iter().any(|&(s, i)| i == id && s + 0.0 == score));
        }
        prop_assert_eq!(&written(&mut best, k), &expected, "extend");
        selected.sort_unstable();
        let mut labels: Vec<u32> = expected.1.iter().filter(|&&label| label >= 0).map(|&label| label as u32).collect();
        labels.sort_unstable();
        prop_assert_eq!(selected, labels, "ids");

        best.reset(k);
        let mut cuts: Vec<usize> = (0..rng.below(6)).map(|_| rng.below(scores.len() + 1)).chain([0, scores.len()]).collect();
        cuts.sort_unstable();
        let mut ranges: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        // In any order: a lower id that comes later wins a tie.
        if rng.below(2) == 0 {
            ranges.reverse();
        }
        for range in ranges {
            best.extend_range(&scores[range.clone()], first + range.start as u32);
        }
        prop_assert_eq!(&written(&mut best, k), &expected, "extend_range");
    }
}

#[test]
fn zeros_of_both_signs_are_one_score() {
    let mut best = TopK::default();
    best.reset(3);
    best.extend(&[-0.0, 0.0, -0.0], &[2, 1, 0]);
    assert_eq!(written(&mut best, 3), (3, vec![0, 1, 2], vec![0; 3]));
}

#[test]
fn outputs_longer_than_k_are_padded() {
    let mut best = TopK::default();
    best.reset(2);
    best.extend(&[1.0, 2.0, 3.0], &[0, 1, 2]);
    let bits = [3.0, 2.0, f32::NEG_INFINITY, f32::NEG_INFINITY].map(f32::to_bits).to_vec();
    assert_eq!(written(&mut best, 4), (2, vec![2, 1, -1, -1], bits));
}

/// Rising scores cut as often as can be, falling ones never after the first time.
#[test]
fn long_streams() {
    let n = 10_000u32;
    for k in [1, 5, 16, 17, 999] {
        for rising in [true, false] {
            let score = |id: u32| if rising { (id / 3) as f32 } else { -((id / 3) as f32) };
            let scored: Vec<_> = (0..n).map(|id| (score(id), id)).collect();
            let mut best = TopK::default();
            best.reset(k);
            best.extend_range(&scored.iter().map(|&(score, _)| score).collect::<Vec<_>>(), 0);
            assert_eq!(written(&mut best, k), expected(&scored, k));
        }
    }
}

#[test]
fn what_is_not_a_number_is_left_last() {
    for kernel in Kernel::available() {
        let (mut scores, mut ids) = (vec![f32::NAN, 1.0, -f32::NAN, 0.5], vec![5, 9, 3, 7]);
        assert!(Few::default().leave(kernel, 3, &mut scores, &mut ids).is_nan());
        ids.sort_unstable();
        assert_eq!(ids, [3, 7, 9], "of two that are none the lowest id");
    }
}

/// Sums that overflow can end as NaN, of either sign, by the CPU. It is no score to be found by.
#[test]
fn what_is_not_a_number_counts_as_below_everything() {
    for nan in [f32::NAN, -f32::NAN] {
        for other in [f32::INFINITY, 1.0, f32::NEG_INFINITY] {
            let scores = [nan, other, nan];
            let mut best = TopK::default();
            let mut first = |offer: &dyn Fn(&mut TopK)| {
                best.reset(1);
                offer(&mut best);
                written(&mut best, 1).1[0]
            };
            assert_eq!(
                first(&|best| best.extend(&scores, &[0, 1, 2])),
                1,
                "extend: {other} with {:#x}",
                nan.to_bits()
            );
            assert_eq!(
                first(&|best| best.extend_range(&scores, 0)),
                1,
                "extend_range: {other} with {:#x}",
                nan.to_bits()
            );
        }
    }
}
