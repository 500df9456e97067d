//! Trust is what its definition says, and sketches that lie together score as listed ones.

mod common;

use common::{Rng, TABLES_ALONE, Wide, any_case, cases, how, search};
use lss_core::kernels::Kernel;
use lss_core::reference;
use lss_core::sketch::{SketchQuery, SketchView};
use lss_core::trust::{NUMBERS, SCAN, TABLES};
use lss_core::{Effort, Features, Fill, How, OnShort, OperatingPoint, Step, Trust};
use proptest::prelude::*;

/// Close, for logistic functions of sums in another order.
fn close(a: f32, b: f32) -> bool {
    (a - b).abs() < 2e-3
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn trust_is_that_of_the_reference(mut case in any_case(), k in 1usize..=6, judged in 1usize..=6, seed in any::<u64>()) {
        (case.fill, case.p, case.exact) = (Fill::Queries, case.p.max(1), false);
        case.sketch_bytes = case.sketch_bytes.max(64);
        let built = case.build();
        let mut rng = Rng(seed);
        let mut weights = [0.0; NUMBERS];
        weights.iter_mut().for_each(|weight| *weight = 0.02 * rng.unit());
        weights[0] = judged as f32;
        // Everything goes on to a scan and no further.
        let wide = |trust| OperatingPoint { trust, judge: Some(Trust::from_array(&weights)), ..case.prepare().recipe.point };
        for trust in [0.0, 1.0] {
            built.index.set_operating_point(OperatingPoint { scan_trust: 0.0, ..wide(trust) }).unwrap();
            let twin = built.reference_of_parts();
            let how = How { effort: Effort::ADAPTIVE, ..how(OnShort::Pad, 1) };
            for (query, got) in built.queries.iter().zip(search(&built.index, &built.queries, k, how).unwrap()) {
                let expected = twin.search(query, k, OnShort::Pad, Effort::ADAPTIVE).unwrap();
                prop_assert!(close(got.work.trust, expected.work.trust), "{} is not {}", got.work.trust, expected.work.trust);
                prop_assert_eq!(got.work.step, if trust > 0.5 { Step::Scan } else { Step::Tables });
                prop_assert_eq!(&got.labels, &expected.labels);
            }
        }
    }

    /// What trust is learned from is what searches are judged by.
    #[test]
    fn features_are_those_that_searches_are_judged_by(mut case in any_case(), k in 1usize..=6) {
        (case.fill, case.p, case.exact) = (Fill::Queries, case.p.max(1), false);
        (case.sketch_bytes, case.wide) = (case.sketch_bytes.max(64), Wide { trust: 1.0, ..TABLES_ALONE });
        let built = case.build();
        let n = built.queries.len();
        let (mut by_tables, mut by_scan) = (vec![0; n * k], vec![0; n * k]);
        let full: Vec<i64> = built.queries.iter().flat_map(|query| built.reference_of_parts().exact(query, k).labels).collect();
        let mut features = vec![Features::default(); n];
        built.index.compare(&built.queries.concat(), k, &full, [&mut by_tables, &mut by_scan], &mut features).unwrap();
        for (query, (features, full)) in built.queries.iter().zip(features.iter().zip(full.chunks(k))) {
            let (candidates, _) = built.reference_of_parts().candidates(query);
            let held = full.iter().all(|&label| label >= 0 && candidates.contains(&(label as u32)));
            prop_assert_eq!(features.held, held);
        }
        for feature in 0..TABLES + SCAN {
            let mut weights = [0.0; NUMBERS];
            (weights[0], weights[1 + feature]) = (k as f32, 0.1);
            let judge = Some(Trust::from_array(&weights));
            let fitted = built.index.fitted().unwrap();
            built.index.set_operating_point(OperatingPoint { judge, ..fitted.point }).unwrap();
            let (effort, labels, at) = if feature < TABLES { (Effort::FIXED, &by_tables, feature) } else { (Effort::ADAPTIVE, &by_scan, feature - TABLES) };
            let answers = search(&built.index, &built.queries, k, How { effort, ..how(OnShort::Pad, 1) }).unwrap();
            // Too few candidates are never trusted, whatever they show.
            let enough = answers.iter().enumerate().filter(|(_, answer)| answer.work.candidates >= k);
            for (i, answer) in enough {
                let seen = if feature < TABLES { features[i].tables[at] } else { features[i].scan[at] };
                prop_assert!(close(answer.work.trust, 1.0 / (1.0 + (-0.1 * seen).exp())));
                prop_assert_eq!(&answer.labels[..], &labels[i * k..][..k]);
            }
        }
    }
}

#[test]
fn consecutive_sketches_score_as_listed_ones() {
    let mut rng = Rng(3);
    for bytes in [64, 128] {
        for counts in reference::all_counts(bytes).into_iter().step_by(7) {
            let groups: usize = counts.iter().sum();
            let sketcher = reference::sketcher(bytes, counts, &vec![1.0; groups * 32]).unwrap();
            let codes: Vec<u8> = (0..23 * bytes)
                .map(|i| if i % bytes >= bytes - 4 { 0 } else { rng.below(256) as u8 })
                .collect();
            let mut query = SketchQuery::default();
            query.prepare(&sketcher, &rng.vector(groups * 32, Rng::normal));
            let view = SketchView { layout: sketcher.layout(), codes: &codes };
            for kernel in Kernel::available() {
                for (first, n) in [(0, 23), (5, 9), (22, 1), (23, 0)] {
                    let ids: Vec<u32> = (first as u32..(first + n) as u32).collect();
                    let (mut listed, mut consecutive) = (vec![0.0; n], vec![f32::NAN; n]);
                    kernel.sketch_ids(view, &query, &ids, &mut listed);
                    kernel.sketch_rows(view, &query, first, &mut consecutive);
                    assert_eq!(listed, consecutive, "{} {counts:?}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn sketches_outside_are_refused() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let sketcher = reference::sketcher(64, [1, 1, 1, 1], &[1.0; 128]).unwrap();
    let (codes, mut query) = ([0u8; 2 * 64], SketchQuery::default());
    query.prepare(&sketcher, &[1.0]);
    for kernel in Kernel::available() {
        let panics = |query: &SketchQuery, first: usize, n: usize| {
            let view = SketchView { layout: sketcher.layout(), codes: &codes };
            catch_unwind(AssertUnwindSafe(|| kernel.sketch_rows(view, query, first, &mut vec![0.0; n])))
                .is_err()
        };
        assert!(!panics(&query, 0, 2) && !panics(&query, 2, 0));
        assert!(panics(&query, 0, 3) && panics(&query, 2, 1) && panics(&query, usize::MAX >> 8, 1));
        assert!(panics(&SketchQuery::default(), 0, 1), "a query never prepared");
    }
}

#[test]
fn trust_is_checked() {
    let mut weights = [0.0; NUMBERS];
    assert!(Trust::from_array(&weights).check().is_err(), "about no answer");
    weights[0] = 5.0;
    assert_eq!(Trust::from_array(&weights).check().unwrap().to_array(), weights);
    for bad in [f32::NAN, f32::INFINITY] {
        weights[TABLES] = bad;
        assert!(Trust::from_array(&weights).check().is_err());
    }
}
