//! A search answers as the reference does: labels, scores bit for bit, and work; by any door, on any number of
//! threads.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{
    Case, DTYPES, Dtype, Rng, TABLES_ALONE, Wide, any_case, assert_answers, assert_same, cases, how, point,
    search, search_one,
};
use lss_core::batch::TOGETHER;
use lss_core::hash::Space;
use lss_core::memory::Block;
use lss_core::reference::{self, Answer, Reference};
use lss_core::rows::Rows;
use lss_core::{Answers, Effort, Error, Fill, How, Index, OnShort, OperatingPoint, Step, Work};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const ON_SHORT: [OnShort; 3] = [OnShort::Pad, OnShort::Exact, OnShort::Raise];

/// What a batch must give: all answers, or the position of the first short query, what it found and k.
fn expected(
    reference: &Reference,
    queries: &[Vec<f32>],
    k: usize,
    on_short: OnShort,
    effort: Effort,
) -> Result<Vec<Answer>, [usize; 3]> {
    let answer = |(at, query): (usize, &Vec<f32>)| match reference.search(query, k, on_short, effort) {
        Ok(answer) => Ok(answer),
        Err(Error::Short { found, k, .. }) => Err([at, found, k]),
        Err(other) => panic!("{other}"),
    };
    queries.iter().enumerate().map(answer).collect()
}

#[track_caller]
fn assert_result(got: lss_core::Result<Vec<Answer>>, expected: &Result<Vec<Answer>, [usize; 3]>, what: &str) {
    match (got, expected) {
        (Ok(got), Ok(expected)) => assert_answers(&got, expected, what),
        (Err(Error::Short { query, found, k }), Err(expected)) => {
            assert_eq!(&[query, found, k], expected, "{what}")
        }
        (got, expected) => panic!("{what}: {:?} and not {expected:?}", got.map(|answers| answers.len())),
    }
}

/// The index against its twin, by every door.
fn assert_agrees(index: &Index, reference: &Reference, queries: &[Vec<f32>], k: usize, effort: Effort) {
    for on_short in ON_SHORT {
        let all = expected(reference, queries, k, on_short, effort);
        for threads in 1..=3 {
            let got = search(index, queries, k, How { effort, ..how(on_short, threads) });
            assert_result(got, &all, &format!("k={k} {on_short:?} {threads} threads"));
        }
        for query in queries {
            let alone = std::slice::from_ref(query);
            let expected = expected(reference, alone, k, on_short, effort);
            let got = search_one(index, query, k, on_short, effort).map(|answer| vec![answer]);
            assert_result(got, &expected, &format!("k={k} {on_short:?} alone"));
            assert_result(
                search(index, alone, k, How { effort, ..how(on_short, 2) }),
                &expected,
                &format!("k={k} {on_short:?} batch of one"),
            );
        }
    }
}

fn rows_matter(case: &Case) -> bool {
    case.sketch_bytes > 0 || (case.fill == Fill::Rows && case.space == Space::Aligned)
}

proptest! {
    #![proptest_config(cases(300))]

    /// Building and searching, against a twin that shares neither.
    #[test]
    fn search_answers_as_the_reference(mut case in any_case(), k in prop_oneof![2 => 1usize..=12, 1 => 1usize..=230]) {
        case.exact_sums |= rows_matter(&case);
        let built = case.build();
        let reference = built.reference();
        let parts = built.reference_of_parts();
        prop_assert_eq!(reference.buckets(), parts.buckets());
        prop_assert_eq!(reference.kept(), parts.kept());
        prop_assert_eq!(reference.always_include(), parts.always_include());
        prop_assert_eq!(reference.sketched(), parts.sketched());
        assert_agrees(&built.index, &reference, &built.queries, k, case.effort());
    }

    /// Searching alone, with rows of any values: sketches and buckets are the index's own.
    #[test]
    fn search_answers_as_its_parts_do(mut case in any_case(), n_regions in 0usize..=5, k in 1usize..=12, n_probes in 1usize..=70, max_entries in 1usize..=200, n_neighbors in 1usize..=130, n_rescore in 1usize..=60) {
        (case.exact_sums, case.n_regions) = (false, n_regions);
        let built = case.build();
        assert_agrees(&built.index, &built.reference_of_parts(), &built.queries, k, case.effort());
        built.index.set_operating_point(point(n_probes, max_entries, n_neighbors, n_rescore)).unwrap();
        assert_agrees(&built.index, &built.reference_of_parts(), &built.queries, k, case.effort());
    }

    #[test]
    fn candidates_are_those_of_the_reference(mut case in any_case()) {
        case.exact_sums |= rows_matter(&case);
        let built = case.build();
        let reference = built.reference();
        let lists: Vec<Vec<u32>> = built.queries.iter().map(|query| reference.candidates(query).0.into_iter().collect()).collect();
        for threads in 0..=3 {
            let got = built.index.candidates(&built.queries.concat(), threads).unwrap();
            prop_assert_eq!(got, common::csr(&lists));
        }
    }

    /// The answer to a query does not depend on the batch around it.
    #[test]
    fn any_split_of_a_batch_answers_alike(mut case in any_case(), n_regions in 0usize..=3, k in 1usize..=8, cuts in prop::collection::vec(1usize..=20, 1..=6), threads in 1usize..=3) {
        (case.n_queries, case.n_regions) = (cuts.iter().sum(), n_regions);
        let built = case.build();
        let whole = search(&built.index, &built.queries, k, how(OnShort::Pad, threads)).unwrap();
        let mut parts = Vec::new();
        for n in cuts {
            let part = &built.queries[parts.len()..][..n];
            parts.extend(search(&built.index, part, k, how(OnShort::Pad, 1 + n % 3)).unwrap());
        }
        assert_answers(&parts, &whole, "parts");
    }

    /// Where all candidates are rescored, the sketch decides nothing: the answer is the best of the exact logits.
    #[test]
    fn enough_rescored_rows_make_answers_exact(mut case in any_case(), k in 1usize..=12) {
        case.n_rescore = case.m;
        let built = case.build();
        // Who is asked for trust stops early where estimates say so.
        built.index.set_operating_point(OperatingPoint { judge: None, ..built.recipe.point }).unwrap();
        let reference = built.reference_of_parts();
        let answers = search(&built.index, &built.queries, k, How { effort: Effort::FIXED, ..how(OnShort::Pad, 1) }).unwrap();
        for (query, answer) in built.queries.iter().zip(answers) {
            let logits: Vec<_> = reference.candidates(query).0.into_iter().map(|id| (reference.logit(query, id), id)).collect();
            let best = lss_core::reference::top(&logits, k);
            prop_assert_eq!(answer.work.rescored, logits.len());
            let found = best.len();
            prop_assert_eq!(&answer.labels[..found], best.iter().map(|&(_, id)| i64::from(id)).collect::<Vec<_>>());
            assert_same(&answer.scores[..found], &best.iter().map(|&(score, _)| score).collect::<Vec<_>>(), "scores");
        }
    }

    /// All buckets of tables filled with rows are the full layer.
    #[test]
    fn all_probes_over_rows_are_the_full_layer(mut case in any_case(), k in 1usize..=12) {
        case.fill = Fill::Rows;
        case.n_probes = 1 << case.n_bits;
        case.max_entries = usize::MAX;
        case.n_rescore = case.m;
        let built = case.build();
        let exact = How { exact: true, ..how(OnShort::Pad, 1) };
        let full = search(&built.index, &built.queries, k, exact).unwrap();
        let answers = search(&built.index, &built.queries, k, how(OnShort::Pad, 1)).unwrap();
        for (answer, full) in answers.iter().zip(&full) {
            prop_assert_eq!(answer.work.candidates, case.m);
            prop_assert_eq!((&answer.labels, &answer.scores), (&full.labels, &full.scores));
        }
    }

    /// Exact answers are a full sort of the reference's logits: blocks of rows and groups of queries do not show.
    #[test]
    fn exact_is_a_full_sort(
        seed: u64,
        dtype in prop::sample::select(&DTYPES[..]),
        m in 1usize..=300,
        d in prop_oneof![3 => 1usize..=60, 1 => 400usize..=700],
        n in 0usize..=40,
        k in prop_oneof![3 => 1usize..=12, 1 => 1usize..=320],
    ) {
        let mut rng = Rng(seed);
        let mut weights = rng.matrix(m, d, Rng::normal);
        for i in 1..m {
            if rng.below(5) == 0 {
                weights[i] = weights[rng.below(i)].clone();
            }
        }
        let bias = vec![0.25; m];
        let index = Index::new(Rows::new(d, dtype.store(&weights.concat()), Block::copy_of(&bias)).unwrap());
        let queries = rng.matrix(n, d, Rng::normal);
        let rows: Vec<Vec<f32>> = weights.iter().map(|row| row.iter().map(|&value| dtype.round(value)).collect()).collect();
        let expected: Vec<Answer> = queries.iter().map(|query| {
            let logits: Vec<_> = rows.iter().zip(0..).map(|(w, id)| (lss_core::reference::dot(w, query) + 0.25, id)).collect();
            let best = lss_core::reference::top(&logits, k);
            let pad = k - best.len();
            Answer {
                labels: best.iter().map(|&(_, id)| i64::from(id)).chain(vec![-1; pad]).collect(),
                scores: best.iter().map(|&(score, _)| score).chain(vec![f32::NEG_INFINITY; pad]).collect(),
                work: Work { candidates: m, rescored: m, step: Step::Exact, trust: 1.0, ..Work::default() },
            }
        }).collect();
        for threads in 1..=3 {
            let got = search(&index, &queries, k, How { exact: true, ..how(OnShort::Raise, threads) }).unwrap();
            assert_answers(&got, &expected, &format!("{threads} threads"));
        }
    }

    /// A bad value is named by its position, by every door, before anything is answered.
    #[test]
    fn bad_queries_are_refused(
        case in any_case(),
        bad in prop::sample::select(&[f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..]),
        at in prop::collection::vec(any::<prop::sample::Index>(), 1..=3),
    ) {
        let built = case.build();
        let mut queries = built.queries.concat();
        let at: Vec<usize> = at.iter().map(|at| at.index(queries.len())).collect();
        at.iter().for_each(|&at| queries[at] = bad);
        let first = at.iter().min().unwrap();
        let position = format!("[{}, {}]", first / case.d, first % case.d);
        let queries: Vec<Vec<f32>> = queries.chunks(case.d).map(<[f32]>::to_vec).collect();
        let results = [
            search(&built.index, &queries, 3, how(OnShort::Pad, 1)).err(),
            search(&built.index, &queries, 3, how(OnShort::Pad, 3)).err(),
            search(&built.index, &queries, 3, How { exact: true, ..how(OnShort::Pad, 1) }).err(),
            built.index.candidates(&queries.concat(), 0).err(),
            built.index.check_queries(&queries.concat()).err(),
        ];
        for result in results {
            match result {
                Some(Error::Value { arg: "x", got, .. }) => prop_assert!(got.contains(&position), "{} in {}", position, got),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        built.index.check_queries(&built.queries.concat()).unwrap();
    }
}

fn small() -> Case {
    Case {
        seed: 4,
        dtype: Dtype::F32,
        exact_sums: true,
        m: 50,
        d: 6,
        p: 6,
        space: Space::Aligned,
        n_tables: 2,
        n_bits: 3,
        fill: Fill::Queries,
        n_always: 2,
        sketch_bytes: 64,
        n_probes: 2,
        max_entries: usize::MAX,
        n_neighbors: 4,
        n_rescore: 8,
        exact: false,
        wide: common::TABLES_ALONE,
        n_train: 60,
        n_queries: 9,
        n_regions: 0,
    }
}

/// Wide layers: rows are read in blocks of 1,024, which must not show.
#[test]
fn wide_layers() {
    for (m, space, sketch_bytes, fill) in [
        (1023, Space::Aligned, 64, Fill::Rows),
        (1024, Space::Augmented, 128, Fill::Rows),
        (1025, Space::Aligned, 0, Fill::Rows),
        (1025, Space::Aligned, 128, Fill::Queries),
        (2049, Space::Augmented, 64, Fill::Queries),
        (3000, Space::Augmented, 0, Fill::Rows),
    ] {
        let built = Case { m, space, sketch_bytes, fill, p: 40, n_bits: 4, n_rescore: 30, ..small() }.build();
        let reference = built.reference();
        assert_eq!(reference.sketched(), built.reference_of_parts().sketched());
        assert_agrees(&built.index, &reference, &built.queries, 5, Effort::FIXED);
    }
}

/// Scans of more rows than are scored at a time: by columns where few are listed of many, else by sketches. Some
/// blocks of columns say beforehand what is worth keeping: also where all of the best, or none, are in these.
#[test]
fn wide_layers_are_scanned() {
    let shapes = [(1025, 128, 5), (2049, 64, 1), (2049, 128, 40), (2049, 128, 200), (700, 64, 9)];
    for ((m, sketch_bytes, n_scan), uneven) in
        shapes.iter().flat_map(|&shape| [0.0, 60.0, -60.0].map(|uneven| (shape, uneven)))
    {
        let wide = Wide { trust: 1.0, n_scan, ..TABLES_ALONE };
        let (space, fill) = (Space::Aligned, Fill::Queries);
        let case = Case { m, space, sketch_bytes, fill, wide, p: 40, n_bits: 4, n_rescore: 7, ..small() };
        let mut built = case.prepare();
        let base = &mut built.recipe.coordinates.as_mut().unwrap().base;
        let raised =
            base.iter().enumerate().map(|(id, &base)| if id / 64 % 16 == 0 { base + uneven } else { base });
        *base = Block::copy_of(&raised.collect::<Vec<_>>());
        built.fit();
        assert!(built.index.fitted().unwrap().scan(5, m).listed.is_some() == (32 * n_scan.max(5) < m));
        let reference = built.reference_of_parts();
        assert_agrees(&built.index, &reference, &built.queries, 5, Effort::ADAPTIVE);
        let answers = search(&built.index, &built.queries, 5, how(OnShort::Pad, 1)).unwrap();
        assert!(answers.iter().all(|answer| answer.work.step == Step::Scan));
    }
}

/// The tables matter: with the examples above a search is neither always empty nor always the full layer.
#[test]
fn the_cases_tell_something() {
    let (mut short, mut cut, mut partial, mut differs) = (0, 0, 0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..200 {
        let case = any_case().new_tree(&mut runner).unwrap().current();
        let built = case.build();
        let answers = search(&built.index, &built.queries, 5, how(OnShort::Pad, 1)).unwrap();
        let exact =
            search(&built.index, &built.queries, 5, How { exact: true, ..how(OnShort::Pad, 1) }).unwrap();
        for (answer, exact) in answers.iter().zip(exact) {
            short += usize::from(answer.work.candidates < 5);
            cut += usize::from(answer.work.rescored < answer.work.candidates);
            partial += usize::from((5..case.m).contains(&answer.work.candidates));
            differs += usize::from(answer.labels != exact.labels);
        }
    }
    assert!(short > 30 && cut > 50 && partial > 200 && differs > 200, "{short} {cut} {partial} {differs}");
}

#[test]
fn arguments_are_checked() {
    let built = small().prepare();
    let queries = &built.queries;
    assert!(matches!(search(&built.index, queries, 1, how(OnShort::Pad, 1)), Err(Error::NotFitted)));
    assert!(matches!(
        search_one(&built.index, &queries[0], 1, OnShort::Pad, Effort::FIXED),
        Err(Error::NotFitted)
    ));
    assert!(matches!(built.index.candidates(&queries[0], 0), Err(Error::NotFitted)));
    assert!(matches!(built.index.set_operating_point(point(1, 1, 1, 1)), Err(Error::NotFitted)));
    let exact = How { exact: true, ..how(OnShort::Pad, 1) };
    assert!(search(&built.index, queries, 1, exact).is_ok(), "exact needs no tables");
    built.fit();
    for how in [exact, how(OnShort::Pad, 1)] {
        let out = Answers { labels: &mut [], scores: &mut [], work: &mut [Work::default()] };
        assert!(matches!(built.index.search(&queries[0], 0, how, out), Err(Error::Value { arg: "k", .. })));
        assert!(search(&built.index, &[], 3, how).unwrap().is_empty());
    }
    assert_eq!(built.index.candidates(&[], 0).unwrap(), (vec![0], vec![]));
    assert!(matches!(
        built.index.set_operating_point(point(0, 1, 1, 1)),
        Err(Error::Value { arg: "n_probes", .. })
    ));
    assert!(matches!(
        built.index.set_operating_point(point(1, 0, 1, 1)),
        Err(Error::Value { arg: "max_entries", .. })
    ));
    assert!(matches!(
        built.index.set_operating_point(point(1, 1, 1, 0)),
        Err(Error::Value { arg: "n_rescore", .. })
    ));
    for threads in [4097, usize::MAX] {
        assert!(matches!(
            search(&built.index, queries, 3, how(OnShort::Pad, threads)),
            Err(Error::Value { arg: "num_threads", .. })
        ));
    }
}

#[test]
fn names_of_on_short() {
    let named = ["pad", "exact", "raise"].map(|name| OnShort::from_name(name).unwrap());
    assert_eq!(named, ON_SHORT);
    assert!(matches!(OnShort::from_name("fill"), Err(Error::Value { arg: "on_short", .. })));
}

/// Two short queries in one batch: the first is named, on any number of threads.
#[test]
fn the_first_short_query_is_named() {
    // One table of two buckets: labels 0..4 on one side, label 9 alone on the other.
    let case = Case {
        n_tables: 1,
        n_bits: 1,
        space: Space::Augmented,
        d: 1,
        p: 1,
        sketch_bytes: 0,
        n_always: 0,
        n_probes: 1,
        max_entries: usize::MAX,
        n_train: 2,
        ..small()
    };
    let mut built = case.prepare();
    let planes = lss_core::reference::matrix(&[vec![1.0, 0.0]]);
    built.recipe.planes =
        lss_core::hash::Planes::new(Space::Augmented, 1, 1, planes, Block::copy_of(&[0.0])).unwrap();
    built.train = vec![vec![1.0], vec![-1.0]];
    built.labels = vec![vec![0, 1, 2, 3], vec![9]];
    built.fit();
    let short = |n: usize, places: &[usize]| -> Vec<Vec<f32>> {
        (0..n).map(|at| vec![if places.contains(&at) { -1.0 } else { 1.0 }]).collect()
    };
    let queries = short(64, &[17, 40, 63]);
    let late = short(TOGETHER + 64, &[TOGETHER + 17, TOGETHER + 40]);
    for threads in 1..=4 {
        for _ in 0..20 {
            match search(&built.index, &queries, 3, how(OnShort::Raise, threads)) {
                Err(Error::Short { query: 17, found: 1, k: 3 }) => {}
                other => panic!("{other:?}"),
            }
        }
        match search(&built.index, &late, 3, how(OnShort::Raise, threads)) {
            Err(Error::Short { query, .. }) => assert_eq!(query, TOGETHER + 17),
            other => panic!("{other:?}"),
        }
        assert!(search(&built.index, &queries, 1, how(OnShort::Raise, threads)).is_ok());
    }
}

/// A short reach ends the probing of some queries early, and all of them are answered as the reference does.
#[test]
fn probing_ends_where_buckets_are_out_of_reach() {
    for n_tables in [1, 3] {
        let case = Case {
            n_bits: 7,
            n_tables,
            n_train: 1500,
            n_neighbors: 3,
            n_probes: 128,
            d: 12,
            p: 12,
            ..small()
        };
        let built = Case { space: Space::Aligned, fill: Fill::Queries, ..case }.build();
        let far = built.index.fitted().unwrap().point;
        let probes = |reach| {
            let point = OperatingPoint { reach, max_entries: usize::MAX, ..far };
            built.index.set_operating_point(point).unwrap();
            assert_agrees(&built.index, &built.reference_of_parts(), &built.queries, 4, Effort::FIXED);
            let fixed = How { effort: Effort::FIXED, ..how(OnShort::Pad, 1) };
            let found = search(&built.index, &built.queries, 4, fixed).unwrap();
            found.iter().map(|answer| answer.work.probes).collect::<Vec<_>>()
        };
        let (all, none, some) = (probes(None), probes(Some(0.0)), probes(Some(0.3)));
        assert!(all.iter().all(|&n| n == n_tables << 7), "{all:?}");
        assert!(none.iter().zip(&some).all(|(none, some)| none <= some), "{none:?}, {some:?}");
        assert!(none.iter().sum::<usize>() < some.iter().sum(), "{none:?}, {some:?}");
        assert!(some.iter().sum::<usize>() < all.iter().sum(), "{some:?}");
    }
}

/// More queries than are ordered together, and than share a pass over the rows, and no whole number of either.
#[test]
fn long_batches_answer_as_their_queries_do() {
    for fill in [Fill::Queries, Fill::Rows] {
        let built = Case { n_queries: 2 * TOGETHER + 3, fill, ..small() }.build();
        let exact = How { exact: true, ..how(OnShort::Pad, 1) };
        let one = |how| {
            let alone = |query| search(&built.index, std::slice::from_ref(query), 4, how).unwrap().remove(0);
            built.queries.iter().map(alone).collect::<Vec<_>>()
        };
        let expected = [one(how(OnShort::Pad, 1)), one(exact)];
        for threads in 1..=3 {
            let each = [how(OnShort::Pad, threads), How { num_threads: threads, ..exact }];
            for (how, expected) in each.into_iter().zip(&expected) {
                assert_answers(&search(&built.index, &built.queries, 4, how).unwrap(), expected, "at once");
            }
        }
    }
}

/// Some queries of a batch are doubted, and scanned together in turns, which must not show: also where trust is about more
/// answers than are asked for or rescored, some scans are doubted, too, and scans may cost too much.
#[test]
fn queries_that_are_scanned_together_answer_as_they_do_alone() {
    for (n_scan, about, k, scan_trust, n_regions) in
        [(9, 2, 5, 0.0, 0), (1, 40, 1, 0.0, 0), (9, 2, 5, 0.5, 3), (20, 3, 1600, 0.0, 3)]
    {
        let wide = Wide { trust: 0.6, n_scan, scan_trust, ..TABLES_ALONE };
        let (space, fill) = (Space::Aligned, Fill::Queries);
        let case =
            Case { m: 1500, n_queries: 91, n_regions, wide, p: 40, n_bits: 4, n_rescore: 7, ..small() };
        let built = Case { space, fill, ..case }.build();
        let mut point = built.index.fitted().unwrap().point;
        let judge = point.judge.as_mut().unwrap();
        // The farther the nearest exemplar, the less an answer is trusted; a scan's by its margin.
        (judge.k, judge.tables[1], judge.scan) = (about, -1.0, [-1.0, 0.5]);
        if let Some(list) = &mut point.list {
            list.trust = 0.6; // more than any has
        }
        built.index.set_operating_point(point).unwrap();
        let fixed = How { effort: Effort::FIXED, ..how(OnShort::Pad, 1) };
        let found = search(&built.index, &built.queries, k, fixed).unwrap();
        let mut trust: Vec<f32> = found.iter().map(|answer| answer.work.trust).collect();
        trust.sort_unstable_by(f32::total_cmp);
        point.trust = trust[trust.len() / 2].max(1e-3);
        built.index.set_operating_point(point).unwrap();
        for (on_short, max_cost) in
            [(OnShort::Pad, f64::INFINITY), (OnShort::Exact, f64::INFINITY), (OnShort::Exact, 900.0)]
        {
            let how = |num_threads| How {
                effort: Effort { max_cost, ..Effort::ADAPTIVE },
                ..how(on_short, num_threads)
            };
            let alone =
                |query| search(&built.index, std::slice::from_ref(query), k, how(1)).unwrap().remove(0);
            let expected: Vec<Answer> = built.queries.iter().map(alone).collect();
            if k < 1500 && max_cost == f64::INFINITY {
                let beyond = expected.iter().filter(|answer| answer.work.step >= Step::Scan).count();
                assert!(beyond >= 5 && (about > k || beyond < 80), "{beyond}, {n_scan}, {n_regions}");
            }
            for threads in 1..=3 {
                let found = search(&built.index, &built.queries, k, how(threads)).unwrap();
                assert_answers(&found, &expected, "together");
            }
        }
        let raise = |threads| {
            search(&built.index, &built.queries, k, how(OnShort::Raise, threads))
                .map_err(|error| error.to_string())
        };
        assert_eq!(raise(1).is_err(), k > 1500);
        assert_eq!(raise(1).err(), raise(3).err());
    }
}

/// Searches while a fit is swapped in see one state or the other, never a mixture.
#[test]
fn searches_see_whole_states() {
    let first = small().build();
    let before = first.index.fitted().unwrap();
    let mut second = Case { seed: 5, ..small() }.prepare();
    let other_seed = second.recipe.clone();
    second.index = Arc::clone(&first.index);
    second.recipe = lss_core::Recipe { always_include: vec![], ..other_seed };
    second.fit();
    let after = first.index.fitted().unwrap();
    let answers = |fitted: &lss_core::Fitted| -> Vec<Answer> {
        let twin = Reference::of(first.index.rows(), fitted);
        first
            .queries
            .iter()
            .map(|query| twin.search(query, 4, OnShort::Pad, Effort::ADAPTIVE).unwrap())
            .collect()
    };
    let (old, new) = (answers(&before), answers(&after));
    assert_ne!(old, new, "the states can be told apart");

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let searches: Vec<_> = (0..3)
            .map(|thread| {
                let (index, queries, done, old, new) = (&first.index, &first.queries, &done, &old, &new);
                scope.spawn(move || {
                    let mut n = 0;
                    while n < 200 || !done.load(Ordering::Relaxed) {
                        // A whole batch sees one state.
                        let got = search(index, queries, 4, how(OnShort::Pad, 1 + thread)).unwrap();
                        assert!(&got == old || &got == new, "neither state");
                        n += 1;
                    }
                })
            })
            .collect();
        for turn in 0..300 {
            first.index.install(if turn % 2 == 0 { (*before).clone() } else { (*after).clone() });
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
        searches.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Setting the operating point changes that alone: it must not bring back what a fit has replaced meanwhile.
#[test]
fn operating_points_do_not_undo_a_fit() {
    let built = small().build();
    let fitted = built.index.fitted().unwrap();
    let (done, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (index, done, turns) = (&built.index, &done, &turns);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                index
                    .set_operating_point(point(
                        1 + turns.fetch_add(1, Ordering::Relaxed) % 7,
                        usize::MAX,
                        9,
                        5,
                    ))
                    .unwrap();
            }
        });
        let (mut undone, mut turn) = (0, 0);
        let begin = std::time::Instant::now();
        while begin.elapsed().as_millis() < 500 && undone == 0 {
            let fill = if turn % 2 == 0 { Fill::Rows } else { Fill::Queries };
            let exemplars = fitted.exemplars.clone().filter(|_| fill == Fill::Queries);
            index.install(lss_core::Fitted { exemplars, ..(*fitted).clone() });
            // Long enough for a change that had begun before to end.
            let begun = turns.load(Ordering::Relaxed);
            while turns.load(Ordering::Relaxed) < begun + 2 {
                std::thread::yield_now();
            }
            undone += usize::from(index.fitted().unwrap().fill() != fill);
            turn += 1;
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(undone, 0, "an old state came back");
    });
}

/// Finite values whose logits are not: answers stay orderly, by both doors.
#[test]
fn overflowing_logits_are_survived() {
    let mut rng = Rng(9);
    let d = 40;
    let weights = rng.matrix(60, d, |rng| f32::MAX * rng.unit());
    let rows = Rows::new(d, Dtype::F32.store(&weights.concat()), Block::copy_of(&[0.0; 60])).unwrap();
    let index = Index::new(rows);
    let queries = rng.matrix(8, d, |rng| 1e3 * rng.unit());
    let answers = search(&index, &queries, 60, How { exact: true, ..how(OnShort::Pad, 1) }).unwrap();
    for answer in &answers {
        let mut labels = answer.labels.clone();
        labels.sort_unstable();
        assert_eq!(labels, (0..60).collect::<Vec<i64>>(), "each label once");
        // What is not a number comes last.
        let numbers: Vec<f32> = answer.scores.iter().copied().take_while(|score| !score.is_nan()).collect();
        assert!(answer.scores[numbers.len()..].iter().all(|score| score.is_nan()));
        assert!(numbers.windows(2).all(|pair| pair[0] >= pair[1]));
    }
    assert!(
        answers.iter().flat_map(|answer| &answer.scores).any(|score| score.is_nan()),
        "the example overflows"
    );
}

/// Labels that are always included are candidates of every query.
#[test]
fn what_is_always_included_is_in_every_answer() {
    let built = small().build();
    let always: BTreeSet<u32> = built.recipe.always_include.iter().copied().collect();
    let (offsets, ids) = built.index.candidates(&built.queries.concat(), 1).unwrap();
    for pair in offsets.windows(2) {
        assert!(always.iter().all(|label| ids[pair[0]..pair[1]].contains(label)));
    }
}

/// With every bucket probed, the neighbours are the nearest of all training queries, in the metric of the logits.
#[test]
fn neighbors_are_the_nearest() {
    let case = Case { n_probes: 8, n_neighbors: 6, n_always: 0, n_train: 200, d: 12, p: 12, ..small() };
    let built = case.build();
    let coordinates = built.recipe.coordinates.as_ref().unwrap();
    let z = |query: &Vec<f32>| reference::project(&coordinates.query, query);
    let (mut shared, mut of) = (0, 0);
    for query in &built.queries {
        let near = z(query);
        let distance = |item: usize| -> f64 {
            let terms = z(&built.train[item]).into_iter().zip(&near).zip(&coordinates.variances);
            terms.map(|((x, z), e)| f64::from(*e) * f64::from(x - z).powi(2)).sum()
        };
        let mut order: Vec<usize> = (0..200).collect();
        order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
        let nearest: BTreeSet<u32> =
            order[..6].iter().flat_map(|&item| built.labels[item].iter().copied()).collect();
        let (offsets, ids) = built.index.candidates(query, 1).unwrap();
        assert_eq!(offsets, [0, ids.len()]);
        shared += ids.iter().filter(|id| nearest.contains(id)).count();
        of += ids.len().max(nearest.len());
    }
    // Sketches are short: nearly, not always, the same.
    assert!(shared * 10 > of * 8, "{shared} of {of}");
}
