//! Kernels agree with each other and with the reference bit for bit, for every length, dtype, offset and list.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{DTYPES, Rng, assert_same, cases, pad, same};
use half::{bf16, f16};
use lss_core::kernels::gemm::{View, product};
use lss_core::kernels::{Kernel, LANES, MOST_BYTES};
use lss_core::memory::padded;
use lss_core::reference;
use lss_core::rows::Element;
use proptest::prelude::*;

/// An element type, with a way to get any value of it.
trait Wild: Element + PartialEq + std::fmt::Debug {
    fn wild(rng: &mut Rng) -> Self;
    fn tame(rng: &mut Rng) -> Self;
    /// In single precision, not by the code under test.
    fn single(self) -> f32;
}

impl Wild for f32 {
    fn wild(rng: &mut Rng) -> Self {
        rng.wild()
    }
    fn tame(rng: &mut Rng) -> Self {
        rng.normal()
    }
    fn single(self) -> f32 {
        self
    }
}

impl Wild for f16 {
    fn wild(rng: &mut Rng) -> Self {
        let any = f16::from_bits(rng.next() as u16);
        if any.is_finite() { any } else { f16::from_bits(any.to_bits() & 0x83ff) }
    }
    fn tame(rng: &mut Rng) -> Self {
        f16::from_f32(rng.normal())
    }
    fn single(self) -> f32 {
        // By the definition of the format: sign, exponent, fraction.
        let bits = u32::from(self.to_bits());
        let (sign, exponent, fraction) = (bits >> 15, (bits >> 10 & 31) as i32, (bits & 1023) as f32);
        let size = if exponent == 0 {
            fraction * 2f32.powi(-24)
        } else {
            (1024.0 + fraction) * 2f32.powi(exponent - 25)
        };
        if sign == 1 { -size } else { size }
    }
}

impl Wild for bf16 {
    fn wild(rng: &mut Rng) -> Self {
        let any = bf16::from_bits(rng.next() as u16);
        if any.is_finite() { any } else { bf16::from_bits(any.to_bits() & 0x807f) }
    }
    fn tame(rng: &mut Rng) -> Self {
        bf16::from_f32(rng.normal())
    }
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// What is wrong with the vectors: nothing, odd values in the rows, in the query, in both.
const STYLES: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

fn every_length<T: Wild>() {
    let mut rng = Rng(7);
    for d in 1..=200 {
        for (style, (wild_rows, wild_query)) in STYLES.into_iter().enumerate() {
            // Vectors begin anywhere within a cache line.
            let (row_shift, query_shift, out_shift) = (rng.below(33), rng.below(17), rng.below(9));
            let n = 5;
            let all: Vec<T> = (0..row_shift + n * d)
                .map(|_| if wild_rows { T::wild(&mut rng) } else { T::tame(&mut rng) })
                .collect();
            let rows = &all[row_shift..];
            let query = rng.vector(d, |rng| if wild_query { rng.wild() } else { rng.normal() });
            let shifted = [vec![f32::NAN; query_shift], pad(&query)].concat();
            let padded_query = &shifted[query_shift..];

            let single: Vec<f32> = rows.iter().map(|value| value.single()).collect();
            let expected: Vec<f32> = single.chunks(d).map(|row| reference::dot(row, &query)).collect();
            let lists: [&[u32]; 5] =
                [&[], &[4], &[0, 1, 2, 3, 4], &[3, 3, 3, 3], &[2, 0, 4, 4, 1, 0, 2, 2, 3]];
            for kernel in Kernel::available() {
                let what = format!("{} d={d} style={style}", kernel.name());
                let mut out = vec![f32::NAN; out_shift + n];
                kernel.dot_rows(rows, d, padded_query, &mut out[out_shift..]);
                assert_same(&out[out_shift..], &expected, &format!("{what} rows"));
                kernel.dot_rows(&rows[..0], d, padded_query, &mut []);
                for ids in lists {
                    let mut out = vec![f32::NAN; out_shift + ids.len()];
                    kernel.dot_ids(rows, d, padded_query, ids, &mut out[out_shift..]);
                    let expected: Vec<f32> = ids.iter().map(|&id| expected[id as usize]).collect();
                    assert_same(&out[out_shift..], &expected, &format!("{what} ids {ids:?}"));
                }
            }
        }
    }
}

#[test]
fn f32_rows_of_every_length() {
    every_length::<f32>();
}

#[test]
fn f16_rows_of_every_length() {
    every_length::<f16>();
}

#[test]
fn bf16_rows_of_every_length() {
    every_length::<bf16>();
}

/// Every kernel must widen each of the 2^16 halves as the format defines it.
fn every_value<T: Wild>(from_bits: fn(u16) -> T) {
    let mut query = vec![0.0; LANES];
    query[0] = 1.0;
    for kernel in Kernel::available() {
        let rows: Vec<T> = (0..=u16::MAX).map(from_bits).filter(|value| value.widen().is_finite()).collect();
        assert!(rows.len() > 60_000);
        let mut out = vec![f32::NAN; rows.len()];
        kernel.dot_rows(&rows, 1, &query, &mut out);
        for (value, got) in rows.iter().zip(out) {
            assert!(same(value.widen(), value.single()), "{value:?}");
            // Adding to the sums' zeros turns -0.0 into 0.0.
            assert!(same(got, value.single() + 0.0), "{} {value:?}", kernel.name());
        }
    }
}

#[test]
fn every_f16() {
    every_value(f16::from_bits);
}

#[test]
fn every_bf16() {
    every_value(bf16::from_bits);
}

/// Rows of bytes: every number of rows and steps, any bytes, the extreme ones in the longest row.
#[test]
fn rows_of_bytes() {
    let mut rng = Rng(7);
    // Few, and those that are read from several places in turns.
    let few = (LANES..=9 * LANES).step_by(LANES).flat_map(|d| (0..=9).map(move |n| (d, n)));
    let many = (111..=121).map(|n| (9 * LANES, n)).chain((1..=5).map(|n| (512 * LANES, n)));
    for (d, n) in few.chain(many) {
        for extreme in [false, true] {
            let mut byte = |least: i8| {
                let any = if extreme { [least, 127][rng.below(2)] } else { rng.next() as i8 };
                any.max(least)
            };
            let rows: Vec<i8> = (0..n * d).map(|_| byte(-128)).collect();
            let query: Vec<i8> = (0..d).map(|_| byte(-127)).collect();
            for kernel in Kernel::available() {
                let mut out = vec![f32::NAN; n];
                kernel.dot_bytes(&rows, d, &query, &mut out);
                // The same rows in any order, some twice, others not at all.
                let ids: Vec<u32> = (0..2 * n).map(|i| ((7 * i + 3) % n) as u32).collect();
                let mut of_ids = vec![f32::NAN; ids.len()];
                kernel.dot_bytes_ids(&rows, d, &query, &ids, &mut of_ids);
                let expected: Vec<f32> = ids.iter().map(|&id| out[id as usize]).collect();
                assert_eq!(of_ids, expected, "{} d={d} n={n}", kernel.name());
                for (row, got) in rows.chunks_exact(d).zip(out) {
                    let sum: i64 = row.iter().zip(&query).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
                    assert_eq!(got, sum as f32, "{} d={d} n={n}", kernel.name());
                }
            }
        }
    }
    for kernel in Kernel::available() {
        for (row, query) in [(-128, 127), (127, 127), (-128, -127), (127, -127)] {
            let mut out = [f32::NAN];
            kernel.dot_bytes(&[row; MOST_BYTES], MOST_BYTES, &[query; MOST_BYTES], &mut out);
            let sum = i64::from(row) * i64::from(query) * MOST_BYTES as i64;
            assert_eq!(out, [sum as f32], "{} {row} {query}", kernel.name());
        }
        let dot_bytes = |rows: usize, d: usize, query: usize, n: usize| {
            let (rows, query, mut out) = (vec![1; rows], vec![1; query], vec![0.0; n]);
            catch_unwind(AssertUnwindSafe(|| kernel.dot_bytes(&rows, d, &query, &mut out))).is_err()
        };
        assert!(!dot_bytes(3 * LANES, LANES, LANES, 3));
        assert!(
            dot_bytes(3 * LANES, LANES, LANES, 2) && dot_bytes(3 * LANES, LANES, LANES, 4),
            "other scores"
        );
        assert!(dot_bytes(3 * LANES, LANES, 2 * LANES, 3), "a longer query");
        assert!(dot_bytes(0, 0, 0, 0), "no dimension");
        assert!(dot_bytes(16, 16, 16, 1), "a part of a step");
        let more = MOST_BYTES + LANES;
        assert!(dot_bytes(more, more, more, 1), "too long");
        let of_ids = |ids: &[u32], query: usize, n: usize| {
            let (rows, query, mut out) = (vec![1; 3 * LANES], vec![1; query], vec![0.0; n]);
            let one = || kernel.dot_bytes_ids(&rows, LANES, &query, ids, &mut out);
            catch_unwind(AssertUnwindSafe(one)).is_err()
        };
        assert!(!of_ids(&[2, 0], LANES, 2));
        assert!(of_ids(&[3], LANES, 1) && of_ids(&[u32::MAX], LANES, 1), "no such row");
        assert!(of_ids(&[0, 1], LANES, 1) && of_ids(&[0], LANES, 2), "other scores");
        assert!(of_ids(&[0], 2 * LANES, 1), "a longer query");
    }
}

/// The order of sums is the contract. These vectors give another number under any neighbouring order.
#[test]
fn the_order_of_sums_shows() {
    let mut rng = Rng(3);
    let (a, b) = (rng.vector(100, Rng::normal), rng.vector(100, Rng::normal));
    let plain: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    let lanes = |n: usize| {
        let mut sums = vec![0.0f32; n];
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            sums[i % n] = a.mul_add(*b, sums[i % n]);
        }
        while sums.len() > 1 {
            let high = sums.split_off(sums.len() / 2);
            sums.iter_mut().zip(high).for_each(|(low, high)| *low += high);
        }
        sums[0]
    };
    let expected = reference::dot(&a, &b);
    assert_eq!(expected.to_bits(), lanes(32).to_bits());
    for other in [plain, lanes(1), lanes(8), lanes(16), lanes(64)] {
        assert_ne!(expected.to_bits(), other.to_bits(), "the example tells orders apart");
    }
    for kernel in Kernel::available() {
        let mut out = [f32::NAN];
        kernel.dot_ids(&a, 100, &pad(&b), &[0], &mut out);
        assert_eq!(out[0].to_bits(), expected.to_bits(), "{}", kernel.name());
    }
}

/// Soundness rests on these checks, so every kernel must make them.
#[test]
fn kernels_refuse_what_lies_outside() {
    let (rows, query) = (vec![1.0f32; 3 * 5], vec![1.0f32; LANES]);
    for kernel in Kernel::available() {
        let dot_ids = |rows: &[f32], d: usize, query: &[f32], ids: &[u32], n: usize| {
            catch_unwind(AssertUnwindSafe(|| kernel.dot_ids(rows, d, query, ids, &mut vec![0.0; n]))).is_err()
        };
        assert!(!dot_ids(&rows, 5, &query, &[2], 1), "three rows");
        assert!(dot_ids(&rows, 5, &query, &[3], 1), "no fourth row");
        assert!(dot_ids(&rows, 5, &query, &[0, 1, 2, u32::MAX], 4), "an id far outside");
        assert!(dot_ids(&rows, 5, &query[..5], &[0], 1), "a query that is not padded");
        assert!(dot_ids(&rows, 5, &vec![0.0; 2 * LANES], &[0], 1), "a query that is too long");
        assert!(!dot_ids(&rows, 5, &query, &[0, u32::MAX], 1), "ids beyond the scores are fetched at most");
        assert!(dot_ids(&rows, 5, &query, &[0], 2), "more scores than ids");
        assert!(dot_ids(&rows, 0, &[], &[0], 1), "no dimension");
        assert!(dot_ids(&rows[..14], 5, &query, &[0], 1), "a row cut short");
        let dot_rows = |rows: &[f32], n: usize| {
            catch_unwind(AssertUnwindSafe(|| kernel.dot_rows(rows, 5, &query, &mut vec![0.0; n]))).is_err()
        };
        assert!(!dot_rows(&rows, 3));
        assert!(dot_rows(&rows, 2) && dot_rows(&rows, 4) && dot_rows(&rows[..14], 3));
    }
}

#[test]
fn kernels_have_names_of_their_own() {
    let names: Vec<_> = Kernel::available().iter().map(|kernel| kernel.name()).collect();
    assert_eq!(names[0], "scalar");
    assert!((1..names.len()).all(|i| !names[..i].contains(&names[i])), "{names:?}");
    assert!(Kernel::available().contains(&Kernel::active()));
}

proptest! {
    #![proptest_config(cases(64))]

    /// Long rows and lists, ids in any order.
    #[test]
    fn long_lists(seed: u64, d in 1usize..=700, m in 1usize..=40, n in 0usize..=100, dtype in prop::sample::select(&DTYPES[..])) {
        let mut rng = Rng(seed);
        let weights = rng.matrix(m, d, |rng| dtype.round(rng.normal()));
        let query = rng.vector(d, Rng::normal);
        let ids: Vec<u32> = (0..n).map(|_| rng.below(m) as u32).collect();
        let expected: Vec<f32> = ids.iter().map(|&id| reference::dot(&weights[id as usize], &query)).collect();
        let stored = dtype.store(&weights.concat());
        for kernel in Kernel::available() {
            let mut out = vec![f32::NAN; n];
            let query = pad(&query);
            match &stored {
                lss_core::rows::Weights::F32(block) => kernel.dot_ids(block, d, &query, &ids, &mut out),
                lss_core::rows::Weights::F16(block) => kernel.dot_ids(block, d, &query, &ids, &mut out),
                lss_core::rows::Weights::Bf16(block) => kernel.dot_ids(block, d, &query, &ids, &mut out),
            }
            assert_same(&out, &expected, kernel.name());
        }
    }

    /// The product for building: every output, strides, no more than rounding away from double precision.
    #[test]
    fn products(seed: u64, n in 1usize..=40, m in 1usize..=40, d in 1usize..=80, gap in 0usize..=9) {
        let mut rng = Rng(seed);
        let (a, b) = (rng.matrix(n, d, Rng::normal), rng.matrix(m, d, Rng::normal));
        let b_strided: Vec<f32> = b.iter().flat_map(|row| [row.clone(), vec![f32::NAN; gap]].concat()).collect();
        let mut out = vec![f32::NAN; n * m];
        product(
            View { values: &a.concat(), rows: n, cols: d, stride: d },
            // The last row may end where its columns do.
            View { values: &b_strided[..b_strided.len() - gap], rows: m, cols: d, stride: d + gap },
            &mut out,
        );
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate() {
                let exact: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let size: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b).abs()).sum();
                let off = (f64::from(out[i * m + j]) - exact).abs();
                prop_assert!(off <= 1e-5 * size + 1e-30, "[{i}, {j}] is {off:e} off");
            }
        }
    }
}

/// Run by the test below in processes of their own, because a process chooses its kernel once.
#[test]
fn the_kernel_is_the_one_asked_for() {
    match std::env::var("LSS_EXPECT_KERNEL").as_deref() {
        Ok("error") => {
            let text = Kernel::from_env().unwrap_err().to_string();
            assert!(text.contains("LSS_SIMD") && text.contains("scalar"), "{text}");
        }
        Ok(name) => {
            assert_eq!(Kernel::from_env().unwrap().name(), name);
            assert_eq!(Kernel::active().name(), name);
        }
        Err(_) => {}
    }
}

#[test]
fn the_environment_chooses_the_kernel() {
    let available = Kernel::available();
    let best = available[available.len() - 1].name();
    let mut cases = vec![(None, best), (Some(""), best), (Some("sse9"), "error"), (Some("Scalar"), "error")];
    cases.extend(available.iter().map(|kernel| (Some(kernel.name()), kernel.name())));
    for (asked, expected) in cases {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "the_kernel_is_the_one_asked_for"])
            .env("LSS_EXPECT_KERNEL", expected)
            .env_remove("LSS_SIMD");
        if let Some(asked) = asked {
            child.env("LSS_SIMD", asked);
        }
        let output = child.output().unwrap();
        assert!(output.status.success(), "LSS_SIMD={asked:?}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child ran its test");
    }
}

#[test]
fn padding_is_to_whole_steps() {
    for (len, expected) in [(0, 0), (1, 32), (31, 32), (32, 32), (33, 64), (576, 576)] {
        assert_eq!(padded(len), expected);
    }
}
