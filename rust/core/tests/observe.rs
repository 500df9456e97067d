//! Observing: what is met while an index serves becomes exemplars, as many as there is room for.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    Built, Case, Dtype, Rng, TABLES_ALONE, Wide, any_case, assert_answers, cases, csr, how, search,
};
use lss_core::exemplars::Lists;
use lss_core::hash::{Planes, Space};
use lss_core::memory::Block;
use lss_core::observed::RECENT;
use lss_core::reference::{self, Kept};
use lss_core::{Effort, Error, Fill, How, OnShort, file};
use proptest::prelude::*;

/// All trust is 0.5: with this every query is one that tables do not suffice for.
const UNTRUSTED: f32 = 0.6;

fn case(seed: u64) -> Case {
    Case {
        seed,
        dtype: Dtype::F32,
        exact_sums: false,
        m: 90,
        d: 12,
        p: 12,
        space: Space::Aligned,
        n_tables: 2,
        n_bits: 4,
        fill: Fill::Queries,
        n_always: 0,
        sketch_bytes: 128,
        n_probes: 6,
        max_entries: 40,
        n_neighbors: 6,
        n_rescore: 20,
        exact: false,
        wide: Wide { trust: UNTRUSTED, n_scan: 16, ..TABLES_ALONE },
        n_train: 60,
        n_queries: 40,
        n_regions: 0,
    }
}

/// What an index keeps, as sets: labels by exemplar, in any order.
fn kept(built: &Built) -> Vec<BTreeSet<u32>> {
    let twin = built.reference_of_parts();
    let sets = |kept: &Kept| kept.labels.iter().map(|labels| labels.iter().copied().collect()).collect();
    let mut labels: Vec<BTreeSet<u32>> = twin.kept().map_or_else(Vec::new, sets);
    labels.sort();
    labels
}

fn observe(
    built: &Built,
    queries: &[Vec<f32>],
    labels: &[Vec<u32>],
    t: usize,
    capacity: usize,
) -> [usize; 2] {
    let (offsets, labels) = csr(labels);
    let lists = Lists { offsets: &offsets, labels: &labels };
    let fits = built.index.fits();
    let told = built.index.observe(&queries.concat(), Some(lists), t, capacity, fits).unwrap().unwrap();
    [told.added, told.exemplars]
}

fn random_labels(rng: &mut Rng, n: usize, m: usize) -> Vec<Vec<u32>> {
    (0..n).map(|_| (0..rng.below(4)).map(|_| rng.below(m) as u32).collect()).collect()
}

proptest! {
    #![proptest_config(cases(150))]

    /// Searches see the exemplars of the fit and those observed as one set, whatever part holds them.
    #[test]
    fn an_observing_index_searches_as_the_reference(mut case in any_case(), k in 1usize..=6, calls in prop::collection::vec(0usize..=150, 1..=6), seed in any::<u64>()) {
        (case.fill, case.p) = (Fill::Queries, case.p.max(1));
        case.sketch_bytes = case.sketch_bytes.max(64);
        let built = case.build();
        let mut rng = Rng(seed);
        for n in calls {
            let queries = rng.matrix(n, case.d, Rng::normal);
            let labels = random_labels(&mut rng, n, case.m);
            observe(&built, &queries, &labels, 5, usize::MAX);
            let twin = built.reference_of_parts();
            for threads in [1, 3] {
                let got = search(&built.index, &built.queries, k, How { effort: case.effort(), ..how(OnShort::Pad, threads) }).unwrap();
                let expected: Vec<_> = built.queries.iter().map(|query| twin.search(query, k, OnShort::Pad, case.effort()).unwrap()).collect();
                assert_answers(&got, &expected, "observed");
            }
            built.index.fitted().unwrap().validate(case.m, case.d).unwrap();
        }
    }

    /// A query that is not trusted becomes an exemplar: its labels, and the best of all rows by their sketches.
    #[test]
    fn what_a_wide_search_found_is_kept(seed in any::<u64>(), m in prop::sample::select(&[90usize, 600][..]), calls in prop::collection::vec(1usize..=200, 1..=4), t in 1usize..=12) {
        let built = Case { m, ..case(seed) }.build();
        // Of the larger layer a scan lists rows by columns.
        assert_eq!(built.index.fitted().unwrap().scan(t, m).listed.is_some(), m > 512);
        let mut rng = Rng(seed);
        for n in calls {
            let mut expected = kept(&built);
            let before = expected.len();
            let queries = rng.matrix(n, 12, Rng::normal);
            let labels = random_labels(&mut rng, n, m);
            let twin = built.reference_of_parts();
            for (query, labels) in queries.iter().zip(&labels) {
                let listed = twin.listed(query, t.max(16));
                // Those scored are the best by sketches; of them, and of what the tables gave, the best by logits.
                let mut scored: BTreeSet<u32> = lss_core::reference::top(&twin.sketch_scores(query, &listed).unwrap(), t.max(16)).into_iter().map(|(_, id)| id).collect();
                let by_tables = twin.sketch_scores(query, &twin.candidates(query).0).unwrap();
                let likely = lss_core::reference::top(&by_tables, 20);
                scored.extend(likely[..twin.enough(query, 2, &likely, 0, [16, 8])].iter().map(|&(_, id)| id));
                let logits: Vec<(f32, u32)> = scored.iter().map(|&id| (twin.logit(query, id), id)).collect();
                let mut needed: BTreeSet<u32> = lss_core::reference::top(&logits, t).into_iter().map(|(_, id)| id).collect();
                needed.extend(labels);
                expected.push(needed);
            }
            let [added, all] = observe(&built, &queries, &labels, t, usize::MAX);
            let found = kept(&built);
            prop_assert_eq!((found.len(), all), (before + added, before + added));
            for labels in &found {
                let at = expected.iter().position(|expected| expected == labels);
                prop_assert!(at.is_some(), "nobody needed {:?}", labels);
                expected.swap_remove(at.unwrap());
            }
            // What is not kept anew needs no more than what is: in few dimensions sketches are alike now and then.
            prop_assert!(expected.iter().all(|needed| found.iter().any(|labels| needed.is_subset(labels))));
        }
    }

    /// Nothing is kept beyond the capacity, and nothing is lost below it.
    #[test]
    fn capacity_is_kept(seed in any::<u64>(), capacity in 1usize..=120, calls in prop::collection::vec(1usize..=90, 1..=5)) {
        let built = case(seed).build();
        let mut rng = Rng(seed);
        let mut all = 60;
        for n in calls {
            let queries = rng.matrix(n, 12, Rng::normal);
            let [_, exemplars] = observe(&built, &queries, &random_labels(&mut rng, n, 90), 4, capacity);
            all += n;
            if all <= capacity {
                prop_assert_eq!(exemplars, all);
            } else {
                prop_assert!(exemplars <= capacity && exemplars >= (capacity - capacity / 16).max(1));
                all = exemplars;
            }
            prop_assert_eq!(built.reference_of_parts().kept().unwrap().labels.len(), exemplars);
            built.index.fitted().unwrap().validate(90, 12).unwrap();
        }
    }

    /// The same calls in the same order leave the same index.
    #[test]
    fn calls_decide_all(seed in any::<u64>(), capacity in 20usize..=200) {
        let files: Vec<Vec<u8>> = (0..2).map(|_| {
            let built = case(seed).build();
            let mut rng = Rng(seed);
            for n in [30, 1, 80] {
                observe(&built, &rng.matrix(n, 12, Rng::normal), &vec![vec![]; n], 4, capacity);
            }
            written(&built)
        }).collect();
        prop_assert_eq!(&files[0], &files[1]);
    }

    /// A file holds everything in one place, with the evidence; observing goes on from there as if nothing had been.
    #[test]
    fn an_observing_index_saves_and_goes_on(seed in any::<u64>(), n in 1usize..=300, capacity in 100usize..=400) {
        let built = Case { n_probes: 16, max_entries: usize::MAX, ..case(seed) }.build();
        let mut rng = Rng(seed);
        let first = rng.matrix(n, 12, Rng::normal);
        let then = rng.matrix(50, 12, Rng::normal);
        observe(&built, &first, &vec![vec![]; n], 4, capacity);
        let before = answers(&built);
        let bytes = written(&built);
        let (loaded, _) = file::parse(&lss_core::memory::Bytes::copy_of(&bytes)).unwrap();
        let twin = Built { index: std::sync::Arc::new(loaded), ..case(seed).prepare() };
        prop_assert_eq!(kept(&twin), kept(&built));
        prop_assert_eq!(&answers(&built), &before, "saving changes no answer but among equals");
        observe(&built, &then, &vec![vec![]; 50], 4, capacity);
        observe(&twin, &then, &vec![vec![]; 50], 4, capacity);
        prop_assert_eq!(written(&twin), written(&built));
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// New planes put every exemplar where its sketch says that it is, and lose none.
    #[test]
    fn planes_can_change(seed in any::<u64>(), n in 0usize..=300, n_bits in 1usize..=6) {
        let built = case(seed).build();
        let mut rng = Rng(seed);
        observe(&built, &rng.matrix(n, 12, Rng::normal), &vec![vec![]; n], 4, usize::MAX);
        let before = kept(&built);
        let matrix = rng.matrix(3 * n_bits, 5, Rng::normal);
        let thresholds = rng.vector(3 * n_bits, Rng::normal);
        let planes = Planes::new(Space::Aligned, 3, n_bits, reference::matrix(&matrix), Block::copy_of(&thresholds)).unwrap();
        built.index.rehash(planes.clone(), built.index.fits()).unwrap();
        let fitted = built.index.fitted().unwrap();
        fitted.validate(90, 12).unwrap();
        prop_assert_eq!(kept(&built), before);
        let (coordinates, weights) = built.index.exemplar_coordinates(5).unwrap();
        prop_assert_eq!(weights.len(), 5);
        let twin = built.reference_of_parts();
        for (exemplar, z) in coordinates.chunks(5).enumerate() {
            for table in 0..3 {
                let margins = reference::margins(&planes, table, z);
                let code = margins.iter().enumerate().map(|(bit, &margin)| u32::from(margin > 0.0) << bit).sum();
                prop_assert!(twin.buckets()[&(table, code)].contains(&(exemplar as u32)));
            }
        }
        // And searches go on.
        answers(&built);
        observe(&built, &rng.matrix(3, 12, Rng::normal), &vec![vec![]; 3], 4, usize::MAX);
    }
}

#[test]
fn planes_elsewhere_are_refused() {
    let built = case(3).build();
    let of = |space, dim| {
        let matrix = reference::matrix(&[vec![1.0; dim]]);
        Planes::new(space, 1, 1, matrix, Block::copy_of(&[0.0])).unwrap()
    };
    let fits = built.index.fits();
    let elsewhere = [(of(Space::Augmented, 13), fits), (of(Space::Aligned, 13), fits)];
    let of_a_fit_before = [(of(Space::Aligned, 1), fits - 1)];
    for (planes, fits) in elsewhere.into_iter().chain(of_a_fit_before) {
        assert!(matches!(built.index.rehash(planes, fits), Err(Error::Value { arg: "planes", .. })));
    }
}

fn written(built: &Built) -> Vec<u8> {
    let mut bytes = Vec::new();
    file::write(&built.index, "", &mut bytes).unwrap();
    bytes
}

/// Labels of searches that meet all exemplars, wherever these are.
fn answers(built: &Built) -> Vec<Vec<i64>> {
    let how = How { effort: Effort::FIXED, ..how(OnShort::Pad, 1) };
    search(&built.index, &built.queries, 3, how).unwrap().into_iter().map(|answer| answer.labels).collect()
}

/// Evidence decides who goes: exemplars that queries are near to stay.
#[test]
fn the_least_useful_go_first() {
    let built = case(5).build();
    // All of one kind, over and over: what is near them is needed.
    let near: Vec<Vec<f32>> = (0..20).map(|_| built.train[7].clone()).collect();
    let far = built.reference_of_parts().kept().unwrap().labels.len();
    observe(&built, &near, &vec![vec![]; 20], 4, usize::MAX);
    observe(&built, &near[..1], &[vec![]], 4, 40);
    let labels = kept(&built);
    assert!(labels.len() <= 40 && far == 60);
    let sorted: BTreeSet<u32> = built.labels[7].iter().copied().collect();
    assert!(sorted.is_empty() || labels.contains(&sorted), "the exemplar that all were near to");
}

/// Queries of one call are found beside the same snapshot, and those that are alike are kept once all the same.
#[test]
fn what_is_found_many_times_is_kept_once() {
    let built = case(4).build();
    let some = Rng(5).matrix(3, 12, Rng::normal);
    let queries: Vec<Vec<f32>> = (0..40).map(|i| some[i % 3].clone()).collect();
    let [added, all] = observe(&built, &queries, &vec![vec![]; 40], 4, usize::MAX);
    assert!((1..=3).contains(&added) && all == 60 + added, "{added} of 3 were new");
    // With a label more one of them is another.
    let labels: Vec<Vec<u32>> = (0..40).map(|i| if i == 20 { vec![88, 89] } else { vec![] }).collect();
    let again = observe(&built, &queries, &labels, 4, usize::MAX);
    assert_eq!(again, [1, all + 1]);
}

#[test]
fn evidence_fades() {
    let built = case(6).build();
    let queries = Rng(6).matrix(1, 12, Rng::normal);
    observe(&built, &queries, &[vec![]], 4, usize::MAX);
    let evidence = |built: &Built| built.index.settle().unwrap().unwrap().1;
    let most = |of: &[f32]| of.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let before = evidence(&built);
    let (nearest, high) = most(&before);
    assert!(high > 1.5, "it has been met: {high}");
    // Far from all of the others, again and again, it is they who are met.
    let far: Vec<f32> = queries[0].iter().map(|x| -30.0 * x).collect();
    let many = vec![far; 10_000];
    for _ in 0..5 {
        observe(&built, &many, &vec![vec![]; 10_000], 4, usize::MAX);
    }
    let after = evidence(&built);
    let unmet = before.iter().zip(&after).filter(|&(before, after)| after < before);
    let (least, n) = unmet.fold((f32::INFINITY, 0), |(least, n), (b, a)| (least.min(a / b), n + 1));
    assert!(n > 0 && (0.45..0.55).contains(&least), "half of what {nearest} had: {least} of {n}");
}

#[test]
fn observing_says_what_it_cannot_do() {
    let built = case(1).build();
    let query = &built.queries[0];
    let value = |result: lss_core::Result<_>| match result {
        Err(Error::Value { arg, .. }) => arg,
        other => panic!("{:?}", other.map(|_: Option<lss_core::Observing>| ())),
    };
    let lists = |offsets, labels| Some(Lists { offsets, labels });
    assert_eq!(value(built.index.observe(query, lists(&[0], &[]), 4, 99, 1)), "Y");
    assert_eq!(value(built.index.observe(query, lists(&[0, 1], &[90]), 4, 99, 1)), "Y");
    assert_eq!(value(built.index.observe(query, None, 4, 0, 1)), "capacity");
    assert_eq!(value(built.index.observe(&[f32::NAN; 12], None, 4, 9, 1)), "Q");
    // Nothing is learned by the parameters of a fit before.
    assert!(built.index.observe(query, None, 4, 1, 0).unwrap().is_none());
    assert_eq!(kept(&built).len(), 60);
    let by_rows = Case { fill: Fill::Rows, ..case(1) }.build();
    assert_eq!(value(by_rows.index.observe(query, None, 4, 99, 1)), "sketch_bytes");
    assert!(matches!(case(1).prepare().index.observe(query, None, 4, 99, 1), Err(Error::NotFitted)));
}

/// Searches run while others observe, save and settle: every answer is whole, and no exemplar gets lost.
#[test]
fn searches_do_not_wait_for_observers() {
    let built = case(9).build();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let searching: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut n = 0;
                    while !done.load(Ordering::Relaxed) || n == 0 {
                        for answer in search(&built.index, &built.queries, 5, how(OnShort::Pad, 1)).unwrap() {
                            let labels: BTreeSet<i64> = answer.labels.iter().copied().collect();
                            assert_eq!(labels.len(), 5, "an answer twice");
                        }
                        n += 1;
                    }
                })
            })
            .collect();
        let observing: Vec<_> = (0..2)
            .map(|seed| {
                let built = &built;
                scope.spawn(move || {
                    let mut rng = Rng(seed);
                    for _ in 0..20 {
                        observe(built, &rng.matrix(25, 12, Rng::normal), &vec![vec![]; 25], 4, usize::MAX);
                        written(built);
                    }
                })
            })
            .collect();
        observing.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::Relaxed);
        searching.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(kept(&built).len(), 60 + 2 * 20 * 25);
    const { assert!(RECENT < 1000, "some of them have been put into tables") };
}
