//! Regions: lists hold what queries needed, columns what rows are, and answers from them are those of the reference.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{Case, Dtype, Rng, TABLES_ALONE, any_case, cases, search_one};
use lss_core::exemplars::Lists;
use lss_core::hash::Space;
use lss_core::kernels::Kernel;
use lss_core::memory::Block;
use lss_core::need::{self, MOST_SHARE, Need, SHOWN};
use lss_core::reference::{self, Sketched};
use lss_core::regions::{self, Centers, Nearest, Place, Plan, Region, RegionLists, RegionMap, Regions};
use lss_core::trust::LISTED;
use lss_core::{Builder, Effort, Error, Fill, FirstRead, Index, ListPoint, OnShort, OperatingPoint, Step};
use proptest::prelude::*;

fn with_regions(mut case: Case, n_regions: usize) -> Case {
    (case.fill, case.p, case.exact, case.n_regions) = (Fill::Queries, case.p.max(1), false, n_regions);
    case.sketch_bytes = case.sketch_bytes.max(64);
    case
}

/// How much the queries of a region needed each label: the first of a query's labels counts a sixth, the next a seventh, and so on.
fn used(needed: &[Vec<u32>], regions: &[u32], region: usize) -> BTreeMap<u32, f64> {
    let mut used = BTreeMap::new();
    for (needed, _) in needed.iter().zip(regions).filter(|&(_, &of)| of as usize == region) {
        for (rank, &label) in needed.iter().enumerate() {
            *used.entry(label).or_insert(0.0) += 1.0 / (6.0 + rank as f64);
        }
    }
    used
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn lists_are_of_what_queries_needed(seed: u64, n in 1usize..=6, m in 1usize..=80, queries in 0usize..=60, most in 1usize..=90) {
        let mut rng = Rng(seed);
        let needed: Vec<Vec<u32>> = (0..queries).map(|_| (0..rng.below(12)).map(|_| rng.below(m) as u32).collect()).collect();
        let regions: Vec<u32> = (0..queries).map(|_| rng.below(n) as u32).collect();
        let without: BTreeSet<u32> = (0..rng.below(4)).map(|_| rng.below(m) as u32).collect();
        let (offsets, labels) = common::csr(&needed);
        let lists = Lists { offsets: &offsets, labels: &labels };
        let got = regions::lists(n, &regions, lists, m, most, &without.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(got.labels.len(), n);
        for (region, list) in got.labels.iter().enumerate() {
            let mut used = used(&needed, &regions, region);
            used.retain(|label, _| !without.contains(label));
            prop_assert_eq!(list.len(), used.len().min(most));
            prop_assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len());
            let of = |label: &u32| used.get(label).copied().unwrap_or(f64::NEG_INFINITY);
            for pair in list.windows(2) {
                prop_assert!(of(&pair[0]) > of(&pair[1]) - 1e-4, "those needed most come first");
            }
            let least = list.last().map_or(f64::INFINITY, of);
            prop_assert!(used.iter().all(|(label, &used)| list.contains(label) || used < least + 1e-4));
        }
    }

    /// Reading ends where labels are used as little in all lists, but for a quarter of the average, and nowhere further where
    /// fewer are read.
    #[test]
    fn lists_are_read_down_to_labels_that_as_few_need(seed: u64, n in 1usize..=6, m in 1usize..=900, queries in 1usize..=60, alike: bool) {
        let mut rng = Rng(seed);
        let needed: Vec<Vec<u32>> = (0..queries).map(|_| {
            let most = if alike { m } else { 1 + rng.below(m) };
            (0..rng.below(40)).map(|_| rng.below(most) as u32).collect()
        }).collect();
        let regions: Vec<u32> = (0..queries).map(|_| rng.below(n) as u32).collect();
        let (offsets, labels) = common::csr(&needed);
        let got = regions::lists(n, &regions, Lists { offsets: &offsets, labels: &labels }, m, m, &[]);
        let members: Vec<f64> = (0..n as u32).map(|r| regions.iter().filter(|&&of| of == r).count() as f64).collect();
        let uses: Vec<Vec<f64>> = got.labels.iter().enumerate().map(|(region, list)| {
            let used = used(&needed, &regions, region);
            list.iter().map(|label| used[label] / members[region]).collect()
        }).collect();
        let end = |region: usize, at: usize| got.ends[region * regions::ENDS + at] as usize;
        let whole: f64 = uses.iter().zip(&members).map(|(used, members)| used.len() as f64 * members).sum::<f64>() / queries as f64;
        prop_assert_eq!(got.whole, whole.ceil() as usize);
        for at in 0..regions::ENDS {
            let average = (got.whole * at) as f64 / 128.0;
            let least = |region: usize| ((average / 4.0) as usize).min(uses[region].len());
            let read: f64 = (0..n).map(|region| end(region, at) as f64 * members[region]).sum::<f64>() / queries as f64;
            let spared: f64 = (0..n).map(|region| (end(region, at) == least(region)) as usize as f64 * least(region) as f64 * members[region]).sum::<f64>() / queries as f64;
            prop_assert!(read <= average.min(whole) + spared + 1e-9, "{read} of {average}");
            prop_assert!(read > average.min(whole) - 1.0 - 1e-9, "{read} of {average}");
            let last = (0..n).filter(|&r| end(r, at) > least(r)).map(|r| uses[r][end(r, at) - 1]).fold(f64::INFINITY, f64::min);
            let next = (0..n).filter_map(|r| uses[r].get(end(r, at))).copied().fold(0.0, f64::max);
            prop_assert!(at == 0 || last > next - 1e-5, "{last} is read, {next} is not");
            prop_assert!((0..n).all(|r| end(r, at) >= least(r) && (at == 0 || end(r, at) >= end(r, at - 1))));
        }
    }

    /// The logarithm of how far a query reads is a sum of products, and no query reads far more or less than others.
    #[test]
    fn need_is_linear_in_what_is_known(seed: u64, r in 1usize..=70, l in 0usize..=130, large in -3i32..=3) {
        let mut rng = Rng(seed);
        let weights = rng.vector(SHOWN + r, |rng| 0.2 * rng.normal());
        let need = Need::new(Block::copy_of(&weights)).unwrap();
        let z = rng.vector(r, Rng::normal);
        let distances = [0, 1, 2].map(|_| 10f32.powi(large) * rng.unit().abs());
        let local = rng.vector(l, |rng| 10f32.powi(large) * rng.normal());
        let got = need.factor(need.begin(&z, distances), &local);
        let length = local.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let [near, second, mean] = distances.map(f64::from);
        let expected = [near, second, mean, length].map(|distance| distance.clamp(1e-3, 1e3).ln());
        let known = need::known(distances, &local);
        prop_assert!(known.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4));
        let known: Vec<f64> = [&[1.0], &known[..], &z].concat().into_iter().map(f64::from).collect();
        let log: f64 = known.iter().zip(&weights).map(|(x, w)| x * f64::from(*w)).sum();
        let expected = log.exp().clamp(0.125, f64::from(MOST_SHARE));
        prop_assert!((f64::from(got) / expected - 1.0).abs() < 1e-4, "{got} is not {expected}");
    }

    /// Who reads a share of the average, reads what all read where that is the average; but as many labels as are asked for, and
    /// all where all are to be read.
    #[test]
    fn a_share_is_of_the_average(case in any_case(), n_regions in 1usize..=3, n in 1usize..=300, share in 0.1f32..8.0, least in 0usize..=20) {
        let built = with_regions(case, n_regions).build();
        let fitted = built.index.fitted().unwrap();
        let regions = fitted.regions.as_deref().unwrap();
        for (region, Region { labels, .. }) in regions.each().iter().enumerate() {
            let got = regions.reads(region, n, share, least);
            let expected = if n >= regions.whole() {
                labels.len()
            } else {
                let average = (f64::from(share) * n as f64) as usize;
                regions.reads(region, average, 1.0, 0).max(least.min(n)).min(labels.len())
            };
            prop_assert_eq!(got, expected);
        }
    }

    /// What a builder says is known of a query is what a search makes its share of.
    #[test]
    fn a_query_reads_what_is_known_of_it(case in any_case(), n_regions in 1usize..=3, n in 1usize..=60) {
        let case = Case { n_always: 0, ..with_regions(case, n_regions) };
        let built = case.prepare();
        let (builder, weights) = built.taught(&mut Rng(case.seed));
        let known = builder.known(&built.queries.concat()).unwrap();
        builder.finish().unwrap();
        let fitted = built.index.fitted().unwrap();
        let list = ListPoint { n_listed: n, n_rescore: n, trust: 0.0, judge: [0.0; LISTED], first: None };
        built.index.set_operating_point(OperatingPoint { list: Some(list), ..fitted.point }).unwrap();
        let regions = fitted.regions.as_deref().unwrap();
        for (query, known) in built.queries.iter().zip(known.chunks_exact(weights.len() - 1)) {
            let got = search_one(&built.index, query, 1, OnShort::Pad, Effort::ADAPTIVE).unwrap().work;
            let sum: f64 = known.iter().zip(&weights[1..]).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let share = (f64::from(weights[0]) + sum).exp().clamp(0.125, 8.0) as f32;
            let k = fitted.point.judge.map_or(1, |trust| trust.k.max(1));
            let reads = |share: f32| (0..regions.each().len()).map(|at| regions.reads(at, n, share, k)).collect::<Vec<_>>();
            let (least, most) = (reads(share * 0.999), reads(share * 1.001));
            let fits = (0..n_regions).any(|at| (least[at]..=most[at]).contains(&got.candidates));
            prop_assert!(got.step != Step::List || fits, "{} of {least:?} to {most:?}", got.candidates);
        }
    }

    #[test]
    fn the_nearest_center_is_nearest(seed: u64, n in 1usize..=40, r in 1usize..=70, spare in 0usize..=5) {
        let mut rng = Rng(seed);
        let weights = rng.vector(r, |rng| rng.unit().abs());
        let all = rng.matrix(n, r, |rng| rng.dyadic(0.5, 3));
        let centers = Centers::new(&weights, &all.concat()).unwrap();
        let z = rng.vector(r + spare, Rng::normal);
        let near = centers.nearest(Kernel::active(), &z, &mut Place::default());
        let twice = Centers::new(&weights, &[all.concat(), all.concat()].concat()).unwrap();
        let mut place = Place::default();
        for kernel in Kernel::available() {
            // Of two that are equally near the first.
            let of_two = Nearest { distances: [near.distances[0], near.distances[0], near.distances[2]], ..near };
            prop_assert_eq!(twice.nearest(kernel, &z, &mut place), of_two, "{}", kernel.name());
            prop_assert_eq!(centers.nearest(kernel, &z, &mut place), near, "{}", kernel.name());
        }
        let distance = |center: &[f32]| {
            let square = |(i, c): (usize, &f32)| (f64::from(z[i]) * f64::from(weights[i]) - f64::from(*c)).powi(2);
            center.iter().enumerate().map(square).sum::<f64>().sqrt()
        };
        let mut distances: Vec<f64> = all.iter().map(|center| distance(center)).collect();
        // Both are rounded to bytes.
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() < 0.05 * (1.0 + b);
        prop_assert!(close(near.distances[0], distances[near.region]));
        prop_assert!(close(near.distances[2], distance(&vec![0.0; r])));
        distances.sort_by(f64::total_cmp);
        prop_assert!(close(near.distances[0], distances[0]));
        match distances.get(1) {
            Some(&second) => prop_assert!(close(near.distances[1], second)),
            None => prop_assert_eq!(near.distances[1], f32::INFINITY),
        }
    }

    /// A label's columns hold its coordinates in the region, about their mean, and its logit for the region's mean query, raised
    /// by what codes lose.
    #[test]
    fn columns_hold_the_labels(case in any_case(), n_regions in 1usize..=3) {
        let case = with_regions(case, n_regions);
        let built = case.prepare();
        let mut rng = Rng(case.seed);
        let coordinates = built.recipe.coordinates.as_ref().unwrap();
        let (d, rows) = (case.d, reference::widen(built.index.rows()));
        let centers = Centers::new(&[1.0], &rng.vector(n_regions, Rng::normal)).unwrap();
        let lists: Vec<Vec<u32>> = (0..n_regions).map(|_| {
            let mut all: Vec<u32> = (0..case.m as u32).collect();
            (0..case.m).for_each(|i| all.swap(i, rng.below(case.m)));
            all.truncate(rng.below(case.m + 1));
            all
        }).collect();
        let l = 1 + rng.below(40.min(case.p));
        let maps: Vec<RegionMap> = (0..n_regions).map(|_| RegionMap {
            query: rng.vector(l * d, Rng::normal),
            offset: rng.vector(l, Rng::normal),
            row: rng.vector(l * d, |rng| rng.dyadic(0.25, 8)),
            mean: rng.vector(d, |rng| rng.dyadic(0.25, 8)),
        }).collect();
        let whole = |list: &Vec<u32>| [list.len() as u32; regions::ENDS];
        let ends = lists.iter().flat_map(whole).collect();
        let labels = RegionLists { labels: lists.clone(), ends, whole: 0 };
        let plan = Plan { centers, lists: labels, maps: maps.clone(), variances: vec![1.0; l] };
        let built_regions = Regions::build(built.index.rows(), &coordinates.base, &coordinates.query, plan).unwrap();
        built_regions.validate(case.m, case.p, &[]).unwrap();
        for ((region, list), map) in built_regions.each().iter().zip(&lists).zip(&maps) {
            prop_assert_eq!(&region.labels[..], &list[..]);
            let columns = Sketched::of_columns(&region.columns, list.len());
            let widths = reference::widths(columns.counts);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let dot64 = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let zs: Vec<Vec<f64>> = list.iter().map(|&label| map.row.chunks(d).map(|row| dot(row, &rows[label as usize])).collect()).collect();
            let p = l.min(widths.len());
            let means: Vec<f64> = (0..p).map(|j| zs.iter().map(|z| z[j]).sum::<f64>() / list.len() as f64).collect();
            let about: Vec<Vec<f64>> = zs.iter().map(|z| z.iter().zip(&means).map(|(z, mean)| z - mean).collect()).collect();
            let values: Vec<Vec<f64>> = columns.codes.iter().map(|codes| (0..p).map(|j| match columns.half_steps[j] {
                half_step if half_step > 0.0 => reference::level(codes[j], widths[j], half_step),
                _ => 0.0,
            }).collect()).collect();
            let bases: Vec<f64> = list.iter().map(|&label| f64::from(coordinates.base[label as usize]) + dot(&map.mean, &rows[label as usize])).collect();
            let raised = reference::raised(&bases, &about, &values);
            let norms: Vec<f64> = about.iter().map(|z| dot64(z, z).sqrt()).collect();
            let highest = bases.iter().zip(&norms).map(|(base, norm)| base + 10.0 * norm).fold(0.0, f64::max);
            for (at, base) in raised.iter().enumerate() {
                // Coordinates are rounded where they are still far from zero, and of short ones all may be rounding.
                let rounding = zs[at].iter().zip(&means).map(|(z, mean)| 1e-6 * (z.abs() + mean.abs())).fold(0.0, f64::max);
                let ill = (rounding / norms[at]).min(1.0) * (highest - bases[at]);
                let most = 1e-3 * (1.0 + base.abs()) + if norms[at] > 0.0 { ill } else { 0.0 };
                prop_assert!((f64::from(columns.base[at]) - base).abs() < most, "{} is not {base}", columns.base[at]);
                for j in 0..p {
                    let half_step = columns.half_steps[j];
                    let mean = means[j];
                    if half_step > 0.0 {
                        let stands_for = reference::level(columns.codes[at][j], widths[j], half_step);
                        let most = f64::from(half_step) * f64::from(1u32 << widths[j]);
                        let z = (zs[at][j] - mean).clamp(-most, most);
                        let off = (stands_for - z).abs();
                        prop_assert!(off <= f64::from(half_step) * 1.01 + 1e-3, "{stands_for} is not {z}");
                    } else {
                        prop_assert!((zs[at][j] - mean).abs() < 1e-2 * (1.0 + mean.abs()), "no step, no difference");
                    }
                }
            }
        }
    }

    /// What trust is learned from is what searches are judged by.
    #[test]
    fn features_are_those_that_searches_are_judged_by(case in any_case(), n_regions in 1usize..=4, k in 1usize..=4, n_listed in 1usize..=120, n_rescore in 1usize..=20, n_first in proptest::option::of(1usize..=90)) {
        let case = with_regions(case, n_regions);
        let built = case.build();
        let point = built.index.fitted().unwrap().point;
        let (n, judge) = (built.queries.len(), lss_core::Trust { k, ..point.judge.unwrap() });
        let (mut labels, mut features) = (vec![0; n * k], vec![[0.0; LISTED]; n]);
        built.index.read_lists(&built.queries.concat(), k, [n_listed, n_rescore], n_first, &mut labels, &mut features).unwrap();
        for feature in 0..LISTED {
            let mut weights = [0.0; LISTED];
            weights[feature] = 0.1;
            // Whether it is read on or not, the features are of what is judged last.
            let first = n_first.map(|n_listed| FirstRead { n_listed, trust: 1.0, judge: [0.0; LISTED] });
            let list = Some(ListPoint { n_listed, n_rescore, trust: 0.0, judge: weights, first });
            built.index.set_operating_point(OperatingPoint { judge: Some(judge), list, ..point }).unwrap();
            let twin = built.reference_of_parts();
            for (i, query) in built.queries.iter().enumerate() {
                let got = search_one(&built.index, query, k, OnShort::Pad, Effort::ADAPTIVE).unwrap();
                let expected = twin.search(query, k, OnShort::Pad, Effort::ADAPTIVE).unwrap();
                prop_assert_eq!(&got.labels, &expected.labels);
                let enough = got.work.step == Step::List;
                prop_assert!((got.work.trust - expected.work.trust).abs() < 5e-3, "feature {}: {} {}", feature, got.work.trust, expected.work.trust);
                // Fewer labels than are wanted are never trusted, whatever they show.
                if enough {
                    prop_assert!(got.work.rescored >= k);
                    prop_assert_eq!(&got.labels[..], &labels[i * k..][..k]);
                    prop_assert!((got.work.trust - 1.0 / (1.0 + (-0.1 * features[i][feature]).exp())).abs() < 1e-4);
                }
            }
        }
    }
}

/// What a search with sketches has left behind does not show where there are none.
#[test]
fn a_fit_without_sketches_follows_one_with_regions() {
    let with = with_regions(case(11), 2).build();
    for query in &with.queries {
        search_one(&with.index, query, 3, OnShort::Pad, Effort::ADAPTIVE).unwrap();
    }
    let mut recipe = with.recipe.clone();
    (recipe.sketch_bytes, recipe.point.judge) = (0, None);
    let mut builder = Builder::new(Arc::clone(&with.index), recipe).unwrap();
    let (offsets, labels) = common::csr(&with.labels);
    builder.add(&with.train.concat(), Lists { offsets: &offsets, labels: &labels }).unwrap();
    builder.finish().unwrap();
    let twin = with.reference_of_parts();
    for query in &with.queries {
        let got = search_one(&with.index, query, 3, OnShort::Pad, Effort::ADAPTIVE).unwrap();
        let expected = twin.search(query, 3, OnShort::Pad, Effort::ADAPTIVE).unwrap();
        common::assert_answers(&[got], &[expected], "without sketches");
    }
}

/// A layer whose lists have many blocks.
fn wide(seed: u64) -> (Arc<Index>, Vec<Vec<f32>>, OperatingPoint) {
    let sizes =
        Case { m: 9000, d: 8, p: 8, n_bits: 3, n_always: 3, n_train: 3000, n_queries: 30, ..case(seed) };
    let built = sizes.build();
    let point = built.index.fitted().unwrap().point;
    (built.index, built.queries, point)
}

/// Labels are listed by a score that some blocks tell, or, where these do not tell enough, the best of all.
#[test]
fn long_lists_answer_as_the_reference() {
    let (index, queries, point) = wide(5);
    let fitted = index.fitted().unwrap();
    let regions = fitted.regions.as_deref().unwrap();
    assert!(regions.whole() > 2000, "{} labels", regions.whole());
    for (n_listed, n_rescore, n_first) in [
        (usize::MAX, 120, 0),
        (usize::MAX, 3, 0),
        (2000, 48, 0),
        (300, 48, 0),
        (65, 48, 0),
        (64, 48, 0),
        (usize::MAX, 48, 1000),
        (usize::MAX, 48, 100),
        (usize::MAX, 6, 64),
        (1500, 400, 1499),
        (1500, 400, 400),
    ] {
        let judge = [0.0; LISTED];
        // Nothing is trusted more than by a half.
        let first = (n_first > 0).then_some(FirstRead { n_listed: n_first, trust: 0.6, judge });
        let list = Some(ListPoint { n_listed, n_rescore, trust: 0.0, judge, first });
        index.set_operating_point(OperatingPoint { list, ..point }).unwrap();
        let twin = reference::Reference::of(index.rows(), &index.fitted().unwrap());
        for query in queries.iter().chain([&vec![0.0; 8], &vec![1e30; 8]]) {
            let got = search_one(&index, query, 5, OnShort::Pad, Effort::ADAPTIVE).unwrap();
            let expected = twin.search(query, 5, OnShort::Pad, Effort::ADAPTIVE).unwrap();
            assert_eq!(got.work.step, Step::List);
            common::assert_answers(&[got], &[expected], &format!("{n_listed} {n_rescore} {n_first}"));
        }
    }
}

#[test]
fn no_more_are_gathered_than_are_asked_for() {
    let mut rng = Rng(9);
    for n in [1usize, 63, 64, 500, 5000] {
        let scores = rng.vector(n, Rng::normal);
        for most in [1, 16, n / 4, n - 1].into_iter().filter(|&most| 0 < most && most < n) {
            let (places, floor) = reference::gather(&scores, most);
            let listed: BTreeSet<u32> = places.iter().copied().collect();
            assert!((0..n as u32).all(|at| listed.contains(&at) || scores[at as usize] <= floor));
            assert!((most / 2..=most).contains(&places.len()), "{} of {most}", places.len());
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
    // Where all are alike, none is above the others.
    assert_eq!(reference::gather(&[1.0; 300], 20), ((0..20).collect(), 1.0));
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |result: lss_core::Result<()>, arg: &str| match result {
        Err(Error::Value { arg: got, .. }) => assert_eq!(got, arg),
        other => panic!("{arg}: {other:?}"),
    };
    assert!(Centers::new(&[], &[]).is_err() && Centers::new(&[1.0, 1.0], &[1.0, 2.0, 3.0]).is_err());
    let case = Case { n_train: 20, ..with_regions(case(3), 2) };
    let built = case.build();
    let point = built.index.fitted().unwrap().point;
    let list = point.list.unwrap();
    let first = FirstRead { n_listed: 3, trust: 0.5, judge: [0.0; LISTED] };
    for (list, arg) in [
        (ListPoint { n_listed: 0, ..list }, "list.n_listed"),
        (ListPoint { n_rescore: 0, ..list }, "list.n_rescore"),
        (ListPoint { trust: 1.5, ..list }, "list.trust"),
        (ListPoint { judge: [f32::NAN; LISTED], ..list }, "list.judge"),
        (ListPoint { first: Some(FirstRead { n_listed: 0, ..first }), ..list }, "list.first.n_listed"),
        (ListPoint { first: Some(FirstRead { trust: -0.5, ..first }), ..list }, "list.first.trust"),
        (
            ListPoint { first: Some(FirstRead { judge: [f32::NAN; LISTED], ..first }), ..list },
            "list.first.judge",
        ),
    ] {
        refused(built.index.set_operating_point(OperatingPoint { list: Some(list), ..point }), arg);
    }
    refused(built.index.set_operating_point(OperatingPoint { judge: None, ..point }), "list");
    let bare = Case { n_regions: 0, ..case.clone() }.build();
    refused(bare.index.set_operating_point(point), "list");
    refused(
        bare.index.read_lists(&bare.queries.concat(), 1, [1, 1], None, &mut [0], &mut [[0.0; LISTED]]),
        "out",
    );
    let one = &bare.queries[0];
    refused(bare.index.read_lists(one, 1, [1, 1], None, &mut [0], &mut [[0.0; LISTED]]), "n_regions");

    // Labels that are no rows, or come twice, or are candidates of every query.
    let always = Case { n_always: 3, ..case.clone() }.prepare();
    let of_all = always.recipe.always_include[0];
    for list in [vec![50], vec![3, 3], vec![of_all]] {
        let mut rng = Rng(1);
        let mut builder = Builder::new(Arc::clone(&always.index), always.recipe.clone()).unwrap();
        builder.add(&[], Lists { offsets: &[0], labels: &[] }).unwrap();
        let map = RegionMap {
            query: rng.vector(6, Rng::normal),
            offset: vec![0.0],
            row: rng.vector(6, Rng::normal),
            mean: rng.vector(6, Rng::normal),
        };
        let centers = Centers::new(&[1.0], &[0.0]).unwrap();
        let lists = RegionLists { labels: vec![list], ends: vec![0; regions::ENDS], whole: 0 };
        let plan = Plan { centers, lists, maps: vec![map], variances: vec![1.0] };
        let error = builder.lay_out(plan).unwrap_err();
        let named = matches!(&error, Error::Value { arg: "lists", .. })
            || matches!(&error, Error::Format { expected, .. } if expected == "valid regions");
        assert!(named, "{error:?}");
    }
    let mut builder = Builder::new(Arc::clone(&bare.index), bare.recipe.clone()).unwrap();
    let lists = RegionLists { labels: vec![vec![3]], ends: vec![0; 5], whole: 1 };
    let map = RegionMap { query: vec![0.0; 6], offset: vec![0.0], row: vec![0.0; 6], mean: vec![0.0; 6] };
    let centers = Centers::new(&[1.0], &[0.0]).unwrap();
    refused(builder.lay_out(Plan { centers, lists, maps: vec![map], variances: vec![1.0] }), "ends");
    refused(builder.known(&bare.queries[0]).map(drop), "regions");
    refused(builder.set_need(Need::none(1)), "regions");
    let lists = RegionLists { labels: vec![vec![3]], ends: vec![0; regions::ENDS], whole: 1 };
    let map = RegionMap { query: vec![0.0; 6], offset: vec![0.0], row: vec![0.0; 6], mean: vec![0.0; 6] };
    let centers = Centers::new(&[1.0], &[0.0]).unwrap();
    builder.lay_out(Plan { centers, lists, maps: vec![map], variances: vec![1.0] }).unwrap();
    refused(builder.set_need(Need::none(2)), "need");
    for weights in [vec![0.0; SHOWN], vec![f32::NAN; SHOWN + 1]] {
        refused(Need::new(Block::copy_of(&weights)).map(drop), "need");
    }

    // Centers of more coordinates than there are, or where nothing is listed.
    let centers = |r: usize| Centers::new(&vec![1.0; r], &vec![0.0; 2 * r]).unwrap();
    let none = RegionLists { labels: Vec::new(), ends: Vec::new(), whole: 0 };
    let plan = |r| {
        let (centers, lists) = (centers(r), none.clone());
        Plan { centers, lists, maps: Vec::new(), variances: vec![1.0] }
    };
    let mut recipe = bare.recipe.clone();
    let mut builder = Builder::new(Arc::clone(&bare.index), recipe.clone()).unwrap();
    refused(builder.place(&centers(case.p + 1), &[]).map(drop), "centers");
    refused(builder.lay_out(plan(case.p + 1)), "centers");
    refused(builder.lists(&[0], 2, 9).map(drop), "regions");
    builder.add(&bare.train[0], Lists { offsets: &[0, 1], labels: &[4] }).unwrap();
    refused(builder.lists(&[3], 2, 9).map(drop), "regions");
    assert_eq!(builder.lists(&[2], 2, 9).unwrap().labels, [[0u32; 0]; 2], "a query in no region");
    assert_eq!(builder.lists(&[1], 2, 9).unwrap().labels, [vec![], vec![4]]);
    recipe.sketch_bytes = 0;
    recipe.point.judge = None;
    let mut builder = Builder::new(Arc::clone(&bare.index), recipe).unwrap();
    refused(builder.place(&centers(1), &[]).map(drop), "centers");
    refused(builder.lay_out(plan(1)), "centers");
}

fn case(seed: u64) -> Case {
    Case {
        seed,
        dtype: Dtype::F32,
        exact_sums: false,
        m: 50,
        d: 6,
        p: 6,
        space: Space::Aligned,
        n_tables: 1,
        n_bits: 2,
        fill: Fill::Queries,
        n_always: 0,
        sketch_bytes: 64,
        n_probes: 2,
        max_entries: usize::MAX,
        n_neighbors: 4,
        n_rescore: 8,
        exact: false,
        wide: TABLES_ALONE,
        n_train: 20,
        n_queries: 5,
        n_regions: 2,
    }
}
