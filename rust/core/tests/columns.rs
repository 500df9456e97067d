//! Columns: what they are made of, and what every kernel reads in them.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Rng, cases};
use lss_core::columns::{BLOCK, ColumnQuery, Columns, Promised};
use lss_core::kernels::Kernel;
use lss_core::memory::Block;
use lss_core::reference::{self, Sketched};
use lss_core::shortlist::{Shortlist, list_best};
use lss_core::sketch::{Sketcher, Sketches};
use proptest::prelude::*;

/// Sketches of `m` rows, in the layout that variances that fall so fast lead to.
#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    m: usize,
    p: usize,
    fall: f32,
    bytes: usize,
}

impl Case {
    fn any() -> impl Strategy<Value = Self> {
        let falls = prop_oneof![Just(0.0f32), 0.0f32..0.3];
        (any::<u64>(), 1usize..=400, 1usize..=300, falls, prop::sample::select(&[64usize, 128][..]))
            .prop_map(|(seed, m, p, fall, bytes)| Case { seed, m, p, fall, bytes })
    }

    fn sketches(&self) -> (Sketcher, Sketches) {
        let mut rng = Rng(self.seed);
        let variances: Vec<f32> = (0..self.p).map(|i| (-self.fall * i as f32).exp()).collect();
        let sketcher = Sketcher::new(&variances, self.bytes).unwrap();
        let mut codes = vec![0; self.m * self.bytes];
        for sketch in codes.chunks_exact_mut(self.bytes) {
            let z: Vec<f32> = variances.iter().map(|v| v.sqrt() * rng.normal()).collect();
            sketcher.encode(&z, rng.normal(), sketch);
        }
        let sketches = Sketches::new(*sketcher.layout(), Block::copy_of(&codes), self.m).unwrap();
        (sketcher, sketches)
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn columns_are_the_sketches_once_more(case in Case::any()) {
        let ((sketcher, sketches), m) = (case.sketches(), case.m);
        let columns = Columns::build(&sketcher, &sketches).unwrap();
        let long = Sketched::of(&(sketcher.clone(), sketches));
        prop_assert_eq!(Sketched::of_columns(&columns, m), long.columns());
        // Read from a file they are the same.
        let again = Columns::beside(&sketcher, columns.codes().clone(), m).unwrap();
        prop_assert_eq!(Sketched::of_columns(&again, m), long.columns());
        let few = Block::copy_of(&columns.codes()[1..]);
        prop_assert!(Columns::beside(&sketcher, few, m).is_err());
    }

    #[test]
    fn every_kernel_reads_what_the_reference_reads(
        case in Case::any(),
        spread in prop::sample::select(&[0.0f32, 1e-35, 1.0, 1e10][..]),
        outlier in prop::option::of(0usize..300),
        floor in prop_oneof![Just(f32::NAN), Just(f32::NEG_INFINITY), -3.0f32..3.0],
    ) {
        let ((sketcher, sketches), m) = (case.sketches(), case.m);
        let columns = Columns::build(&sketcher, &sketches).unwrap();
        let mut rng = Rng(case.seed ^ 1);
        // Fewer coordinates than sketches know, or more.
        let mut z: Vec<f32> = (0..1 + rng.below(400)).map(|_| spread * rng.normal()).collect();
        if let Some(at) = outlier {
            let at = at % z.len();
            z[at] *= 1e4;
        }
        let expected = reference::column_scores(&Sketched::of_columns(&columns, m), &z);
        let mut query = ColumnQuery::default();
        let n = m.div_ceil(BLOCK);
        let blocks: Vec<usize> = (0..rng.below(2 * n + 2)).map(|_| rng.below(n)).collect();
        for kernel in Kernel::available() {
            kernel.prepare_columns(&mut query, &columns, &[1.0, -5.0]);  // what was there before does not show
            kernel.prepare_columns(&mut query, &columns, &z);
            let mut promised = vec![Promised { scores: [f32::NAN; BLOCK], above: 0xf0f0 }; blocks.len()];
            kernel.scan_blocks(columns.view(), &query, &blocks, floor, &mut promised);
            for (&block, promised) in blocks.iter().zip(&promised) {
                for (row, &expected) in expected.iter().skip(block * BLOCK).take(BLOCK).enumerate() {
                    let got = promised.scores[row];
                    prop_assert_eq!(got.to_bits(), expected.to_bits(), "{} {}: {}", kernel.name(), row, expected);
                    let below = got <= floor;
                    prop_assert_eq!(promised.above >> row & 1 == 1, !below);
                }
            }
        }
    }

    /// Scores are what codes stand for, but for the rounding of each half byte to steps.
    #[test]
    fn scores_are_what_codes_stand_for(case in Case::any()) {
        let ((sketcher, sketches), m) = (case.sketches(), case.m);
        let columns = Columns::build(&sketcher, &sketches).unwrap();
        let z = Rng(case.seed ^ 1).vector(columns.sketcher().half_steps().len(), Rng::normal);
        let read = Sketched::of_columns(&columns, m);
        let scores = reference::column_scores(&read, &z);
        let widths = reference::widths(read.counts);
        let exact: Vec<f64> = (0..m)
            .map(|row| {
                let value = |i: usize| reference::level(read.codes[row][i], widths[i], read.half_steps[i]);
                (0..z.len()).map(|i| f64::from(z[i]) * value(i)).sum::<f64>() + f64::from(read.base[row])
            })
            .collect();
        let mut query = ColumnQuery::default();
        Kernel::active().prepare_columns(&mut query, &columns, &z);
        // What is the same for all rows is left out of scores; two numbers a half byte are
        // rounded, each by half a step at most, by 0.29 in the mean: together by a step, and by 0.41.
        let apart: Vec<f64> = exact.iter().zip(&scores).map(|(a, &b)| a - f64::from(b)).collect();
        let shift = apart.iter().sum::<f64>() / m as f64;
        let (step, halves) = (f64::from(query.scale()), 2.0 * columns.view().n as f64);
        for apart in &apart {
            // A step a half byte, and the mean's as much, if all err alike.
            prop_assert!((apart - shift).abs() <= 2.0 * halves * step + 1e-3, "{} of {step}", apart - shift);
        }
        let error = apart.iter().map(|apart| (apart - shift).powi(2)).sum::<f64>() / m as f64;
        prop_assert!(error.sqrt() <= halves.sqrt() * step + 1e-4, "{} of {step}", error.sqrt());
    }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Of equal scores the rows with the lowest ids are listed, in whatever order blocks are read.
    #[test]
    fn ties_go_to_the_lowest_ids(m in 1usize..2500, share in 0.0f64..1.0, levels in 1usize..4, seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let sketcher = Sketcher::new(&[1.0; 40], 128).unwrap();
        let mut codes = vec![0u8; 128 * m];
        let bases: Vec<f32> = (0..m).map(|_| rng.below(levels) as f32).collect();
        for (sketch, base) in codes.chunks_exact_mut(128).zip(&bases) {
            sketch[124..].copy_from_slice(&base.to_le_bytes());
        }
        let sketches = Sketches::new(*sketcher.layout(), Block::copy_of(&codes), m).unwrap();
        let columns = Columns::build(&sketcher, &sketches).unwrap();
        let n = 1 + (share * (m - 1) as f64) as usize;
        let scored: Vec<(f32, u32)> = bases.iter().copied().zip(0..).collect();
        let mut expected: Vec<u32> = reference::top(&scored, n).iter().map(|&(_, id)| id).collect();
        expected.sort_unstable();
        for kernel in Kernel::available() {
            let mut each = [Shortlist::default(), Shortlist::default()];
            each.iter_mut().for_each(|one| one.prepare(kernel, &columns, &[]));
            list_best(kernel, &columns, m, n, &mut each);
            for one in &each {
                let mut ids = one.ids().to_vec();
                ids.sort_unstable();
                prop_assert_eq!(&ids, &expected, "{}", kernel.name());
            }
        }
    }
}

/// The largest sums there can be are exact: every table at its largest entry, and sixteen above.
#[test]
fn the_largest_sums_are_exact() {
    for (bytes, p) in [(64, 500), (128, 500), (64, 40)] {
        let sketcher = Sketcher::new(&vec![1.0; p], bytes).unwrap();
        let zeros = Sketches::new(*sketcher.layout(), Block::copy_of(&vec![0; 64 * bytes]), 64).unwrap();
        let columns = Columns::build(&sketcher, &zeros).unwrap();
        let (n, len) = (columns.view().n, columns.codes().len());
        for fill in [0, 0xff] {
            let mut codes = vec![fill; len];
            codes[n * BLOCK..].fill(0);
            let columns = Columns::beside(&sketcher, Block::copy_of(&codes), 64).unwrap();
            for (sign, outliers) in [(1.0f32, 0), (-1.0, 0), (1.0, 16), (-1.0, 16)] {
                let mut z = vec![sign; columns.sketcher().half_steps().len()];
                z.iter_mut().take(outliers).for_each(|z| *z *= 16.0);
                let mut query = ColumnQuery::default();
                let expected = reference::column_scores(&Sketched::of_columns(&columns, 64), &z);
                for kernel in Kernel::available() {
                    kernel.prepare_columns(&mut query, &columns, &z);
                    let mut promised = [Promised::NOTHING];
                    kernel.scan_blocks(columns.view(), &query, &[0], f32::NAN, &mut promised);
                    assert_eq!(
                        promised[0].scores[..],
                        expected[..],
                        "{} {fill} {sign} {outliers}",
                        kernel.name()
                    );
                }
            }
        }
    }
}

/// What a query was prepared for before does not show, also where there are fewer columns, and not whole eights of them.
#[test]
fn fewer_columns_after_more() {
    let build = |variances: &[f32]| {
        let sketcher = Sketcher::new(variances, 128).unwrap();
        let sketches = Sketches::new(*sketcher.layout(), Block::copy_of(&[0; 64 * 128]), 64).unwrap();
        Columns::build(&sketcher, &sketches).unwrap()
    };
    let (many, few) = (build(&[1.0; 300]), build(&[[1.0; 32], [0.0; 32]].concat()));
    assert!(few.view().n < many.view().n && few.view().n % 8 == 4, "{}", few.view().n);
    let z = Rng(3).vector(64, Rng::normal);
    let expected = reference::column_scores(&Sketched::of_columns(&few, 64), &z);
    for kernel in Kernel::available() {
        let mut query = ColumnQuery::default();
        kernel.prepare_columns(&mut query, &many, &[1e3; 300]);
        kernel.prepare_columns(&mut query, &few, &z);
        let mut promised = [Promised::NOTHING];
        kernel.scan_blocks(few.view(), &query, &[0], f32::NAN, &mut promised);
        assert_eq!(promised[0].scores[..], expected[..], "{}", kernel.name());
    }
}

#[test]
fn blocks_outside_are_refused() {
    let sketcher = Sketcher::new(&[1.0; 40], 128).unwrap();
    let sketches = Sketches::new(*sketcher.layout(), Block::copy_of(&[0; 70 * 128]), 70).unwrap();
    let columns = Columns::build(&sketcher, &sketches).unwrap();
    let mut query = ColumnQuery::default();
    Kernel::active().prepare_columns(&mut query, &columns, &[1.0]);
    for kernel in Kernel::available() {
        let panics = |query: &ColumnQuery, blocks: &[usize], n: usize| {
            let mut promised = vec![Promised::NOTHING; n];
            let scan = || kernel.scan_blocks(columns.view(), query, blocks, f32::NAN, &mut promised);
            catch_unwind(AssertUnwindSafe(scan)).is_err()
        };
        assert!(!panics(&query, &[0, 1], 2) && !panics(&query, &[1], 1) && !panics(&query, &[], 0));
        for blocks in [&[2][..], &[0, 2], &[2, 0], &[0, 1, 2], &[usize::MAX >> 20], &[1 << 52, 0]] {
            assert!(panics(&query, blocks, blocks.len()), "{blocks:?}");
        }
        assert!(panics(&query, &[0, 1], 1) && panics(&query, &[0], 2), "a place for each");
        assert!(panics(&ColumnQuery::default(), &[0], 1), "a query never prepared");
    }
}
