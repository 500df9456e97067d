//! Sketches: packing, levels, allotment of bits, and scores that every kernel gives alike.

mod common;

use common::{Rng, assert_same, cases, same};
use lss_core::kernels::Kernel;
use lss_core::memory::Block;
use lss_core::reference;
use lss_core::sketch::{GROUP, Layout, SketchQuery, SketchView, Sketcher, Sketches, WIDTHS};
use proptest::prelude::*;

/// Any layout, the edges of the allowed often.
fn layout() -> impl Strategy<Value = (usize, [usize; 4])> {
    prop::sample::select(&[64usize, 128][..])
        .prop_flat_map(|bytes| (Just(bytes), prop::sample::select(reference::all_counts(bytes))))
}

/// A sketcher with positive half steps of mixed sizes.
fn sketcher(rng: &mut Rng, bytes: usize, counts: [usize; 4]) -> Sketcher {
    let n = counts.iter().sum::<usize>() * GROUP;
    let half_steps = rng.vector(n, |rng| 0.01 + 0.2 * rng.unit().abs());
    Sketcher::from_parts(Layout::new(bytes, counts).unwrap(), half_steps).unwrap()
}

/// `m` sketches of any codes; unused bytes are noise that must not matter.
fn random_sketches(rng: &mut Rng, layout: Layout, m: usize) -> Sketches {
    let mut codes: Vec<u8> = (0..m * layout.bytes()).map(|_| rng.next() as u8).collect();
    for sketch in codes.chunks_exact_mut(layout.bytes()) {
        let base = 3.0 * rng.normal();
        sketch[layout.bytes() - 4..].copy_from_slice(&base.to_le_bytes());
        match rng.below(8) {
            0 => sketch[..layout.bytes() - 4].fill(0),
            // All codes at their largest: where narrow integers would overflow.
            1 => sketch[..layout.bytes() - 4].fill(0xff),
            _ => {}
        }
    }
    Sketches::new(layout, Block::copy_of(&codes), m).unwrap()
}

/// Scores of these rows by the reference, and the same without quantising the query, in double precision.
fn scores(sketcher: &Sketcher, sketches: &Sketches, z: &[f32], ids: &[u32]) -> (Vec<f32>, Vec<f64>) {
    let (counts, bytes) = (sketcher.layout().counts(), sketcher.layout().bytes());
    let (half_steps, widths) = (sketcher.half_steps(), reference::widths(counts));
    let quantised = reference::quantise(counts, half_steps, z);
    let of = |&id: &u32| {
        let sketch = &sketches.codes()[id as usize * bytes..][..bytes];
        let codes = reference::unpack(counts, sketch);
        let terms = codes.iter().zip(&widths).zip(half_steps).zip(z);
        let float: f64 =
            terms.map(|(((&code, &width), &h), &z)| reference::level(code, width, h) * f64::from(z)).sum();
        (
            reference::sketch_score(counts, &quantised, &codes, reference::base(sketch)),
            f64::from(reference::base(sketch)) + float,
        )
    };
    ids.iter().map(of).unzip()
}

fn by_kernel(kernel: Kernel, sketcher: &Sketcher, sketches: &Sketches, z: &[f32], ids: &[u32]) -> Vec<f32> {
    let mut query = SketchQuery::default();
    query.prepare(sketcher, z);
    let mut out = vec![f32::NAN; ids.len()];
    kernel.sketch_ids(
        SketchView { layout: sketches.layout(), codes: sketches.codes() },
        &query,
        ids,
        &mut out,
    );
    out
}

#[test]
fn every_legal_layout_scores_alike_on_every_kernel() {
    let mut rng = Rng(11);
    for bytes in [64, 128] {
        let all = reference::all_counts(bytes);
        for counts in all {
            let sketcher = sketcher(&mut rng, bytes, counts);
            let sketches = random_sketches(&mut rng, *sketcher.layout(), 7);
            let z = rng.vector(sketcher.layout().groups() * GROUP, Rng::normal);
            let lists: [&[u32]; 3] = [&[], &[6, 0, 0, 6, 3], &[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6]];
            for ids in lists {
                let (expected, _) = scores(&sketcher, &sketches, &z, ids);
                for kernel in Kernel::available() {
                    let got = by_kernel(kernel, &sketcher, &sketches, &z, ids);
                    assert_same(&got, &expected, &format!("{} {bytes} {counts:?}", kernel.name()));
                }
            }
        }
    }
}

/// Weights of 127 on codes of 255: the largest sums there are, with either sign.
#[test]
fn the_largest_sums_do_not_saturate() {
    for (bytes, counts) in [
        (64, [1, 1, 1, 1]),
        (64, [0, 3, 1, 1]),
        (128, [3, 1, 1, 1]),
        (128, [0, 7, 1, 1]),
        (128, [1, 0, 10, 3]),
    ] {
        let layout = Layout::new(bytes, counts).unwrap();
        let sketcher = Sketcher::from_parts(layout, vec![1.0; layout.groups() * GROUP]).unwrap();
        let mut codes = vec![0xff; bytes];
        codes[bytes - 4..].fill(0);
        let sketches = Sketches::new(layout, Block::copy_of(&codes), 1).unwrap();
        for sign in [1.0, -1.0] {
            let z = vec![sign; layout.groups() * GROUP];
            // Each coordinate at its largest level: 2^width - 1 half steps.
            let exact: f64 = reference::widths(counts)
                .iter()
                .map(|&width| f64::from(sign) * ((1u32 << width) - 1) as f64)
                .sum();
            for kernel in Kernel::available() {
                let got = by_kernel(kernel, &sketcher, &sketches, &z, &[0])[0];
                assert!(
                    (f64::from(got) - exact).abs() < 1e-3,
                    "{} {counts:?}: {got} for {exact}",
                    kernel.name()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn kernels_agree((bytes, counts) in layout(), seed: u64, m in 1usize..=40, n in 0usize..=60, wild: bool, missing in 0usize..=40) {
        let mut rng = Rng(seed);
        let sketcher = sketcher(&mut rng, bytes, counts);
        let sketches = random_sketches(&mut rng, *sketcher.layout(), m);
        let len = (sketcher.layout().groups() * GROUP).saturating_sub(missing);
        let z = rng.vector(len, |rng| if wild { rng.wild() } else { rng.normal() });
        let ids: Vec<u32> = (0..n).map(|_| rng.below(m) as u32).collect();
        let (expected, _) = scores(&sketcher, &sketches, &z, &ids);
        for kernel in Kernel::available() {
            assert_same(&by_kernel(kernel, &sketcher, &sketches, &z, &ids), &expected, kernel.name());
        }
    }

    /// Quantising the query moves a score by at most half a weight's unit times the levels it meets.
    #[test]
    fn query_quantisation_is_bounded((bytes, counts) in layout(), seed: u64, exponent in -20i32..=20) {
        let mut rng = Rng(seed);
        let sketcher = sketcher(&mut rng, bytes, counts);
        let sketches = random_sketches(&mut rng, *sketcher.layout(), 5);
        let groups = sketcher.layout().groups();
        let z = rng.vector(groups * GROUP, |rng| rng.normal() * 2f32.powi(exponent));
        let (scores, floats) = scores(&sketcher, &sketches, &z, &[0, 1, 2, 3, 4]);
        let widths = reference::widths(counts);
        for (id, (score, float)) in scores.iter().zip(floats).enumerate() {
            let codes = reference::unpack(counts, &sketches.codes()[id * bytes..][..bytes]);
            let mut bound = 1e-30;
            let mut size = f64::from(reference::base(&sketches.codes()[id * bytes..][..bytes])).abs();
            for group in 0..groups {
                let range = group * GROUP..(group + 1) * GROUP;
                let values = || range.clone().map(|i| f64::from(z[i] * sketcher.half_steps()[i]).abs());
                let unit = values().fold(0.0, f64::max) / 127.0;
                let levels: f64 = range.clone().map(|i| reference::level(codes[i], widths[i], 1.0).abs()).sum();
                bound += 0.5 * unit * levels;
                // Codes and offset are summed apart, so rounding is relative to both.
                size += unit * 127.0 * 2.0 * range.map(|i| f64::from(1u32 << widths[i])).sum::<f64>();
            }
            let off = (f64::from(*score) - float).abs();
            prop_assert!(off <= bound + 1e-6 * size, "{off:e} of {bound:e} allowed");
        }
    }

    /// What `encode` packs, the layout's documentation unpacks; each code is the nearest level; bytes that are not
    /// used are zero; the base is kept bit for bit.
    #[test]
    fn codes_are_the_nearest_levels((bytes, counts) in layout(), seed: u64, missing in 0usize..=40, spread in 0.1f32..40.0) {
        let mut rng = Rng(seed);
        let sketcher = sketcher(&mut rng, bytes, counts);
        let n = sketcher.layout().groups() * GROUP;
        let z = rng.vector(n.saturating_sub(missing), |rng| {
            if rng.below(10) == 0 { [0.0, -0.0, 1e30, -1e30, f32::MAX, 1e-40][rng.below(6)] } else { spread * rng.normal() }
        });
        let base = rng.wild();
        let mut sketch = vec![0xaa; bytes];
        sketcher.encode(&z, base, &mut sketch);
        prop_assert!(same(reference::base(&sketch), base));
        let used = counts.iter().zip(WIDTHS).map(|(n, width)| 4 * n * width).sum::<usize>();
        prop_assert!(sketch[used..bytes - 4].iter().all(|&byte| byte == 0));

        let codes = reference::unpack(counts, &sketch);
        for (i, (&code, width)) in codes.iter().zip(reference::widths(counts)).enumerate() {
            let (value, half_step) = (z.get(i).copied().unwrap_or(0.0), sketcher.half_steps()[i]);
            prop_assert_eq!(code, reference::encode(value, half_step, width), "coordinate {}", i);
            let distance = |code: u8| (f64::from(value) - reference::level(code, width, half_step)).abs();
            let nearest = (0..1u32 << width).map(|code| distance(code as u8)).fold(f64::INFINITY, f64::min);
            prop_assert!(distance(code) <= nearest * (1.0 + 1e-6) + 1e-5 * f64::from(half_step), "coordinate {i}");
        }

        // Encoding what was decoded gives it back.
        let levels: Vec<f32> = codes.iter().zip(reference::widths(counts)).enumerate()
            .map(|(i, (&code, width))| reference::level(code, width, sketcher.half_steps()[i]) as f32).collect();
        let mut again = vec![0x55; bytes];
        sketcher.encode(&levels, base, &mut again);
        prop_assert_eq!(again, sketch);
    }

    /// No legal layout has a smaller expected error, and half steps are those of the variances.
    #[test]
    fn allotment_is_the_best(
        bytes in prop::sample::select(&[64usize, 128][..]),
        p in prop_oneof![1usize..=70, 1usize..=700],
        rate in prop_oneof![Just(0.0f32), 0.001f32..0.3],
        size in prop::sample::select(&[1.0f32, 1e-12, 1e12][..]),
        zeros in 0usize..=200,
    ) {
        let mut variances: Vec<f32> = (0..p).map(|j| size * (-rate * j as f32).exp()).collect();
        variances[p.saturating_sub(zeros)..].fill(0.0);
        let layout = Layout::allocate(&variances, bytes).unwrap();
        let least = reference::all_counts(bytes).into_iter()
            .filter(|counts| counts.iter().sum::<usize>() <= p.div_ceil(GROUP))
            .map(|counts| reference::expected_error(&variances, counts))
            .fold(f64::INFINITY, f64::min);
        let error = reference::expected_error(&variances, layout.counts());
        prop_assert!(error <= least * (1.0 + 1e-9) + 1e-30, "{:?} has {error:e}, the best {least:e}", layout.counts());
        prop_assert!(layout.groups() <= p.div_ceil(GROUP));

        let sketcher = Sketcher::new(&variances, bytes).unwrap();
        prop_assert_eq!(sketcher.layout(), &layout);
        assert_same(sketcher.half_steps(), &reference::half_steps(&variances, layout.counts()), "half steps");
    }
}

/// The quantiser's table is what it says it is: by numeric integration over a unit Gaussian.
#[test]
fn quantisers_are_the_best_of_a_gaussian() {
    let error = |step: f64, width: usize| {
        let (n, limit) = (200_000, 12.0);
        let dx = 2.0 * limit / f64::from(n);
        (0..n)
            .map(|i| {
                let x = -limit + (f64::from(i) + 0.5) * dx;
                let code = ((x / step).floor() + f64::from(1u32 << (width - 1)))
                    .clamp(0.0, f64::from((1u32 << width) - 1));
                let level = (2.0 * code + 1.0 - f64::from(1u32 << width)) * 0.5 * step;
                (x - level).powi(2) * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt() * dx
            })
            .sum::<f64>()
    };
    for (width, step, _) in reference::QUANTISERS {
        let here = error(step, width);
        assert!(
            here <= error(step * 1.01, width) && here <= error(step * 0.99, width),
            "width {width}: the step is not the best"
        );
    }
    for (width, step, documented) in reference::QUANTISERS {
        let here = error(step, width);
        assert!((here / documented - 1.0).abs() < 0.02, "width {width}: {here:e} and not {documented:e}");
    }
}

#[test]
fn layouts_check_their_room() {
    for (bytes, counts) in [
        (64, [0; 4]),
        (64, [2, 0, 0, 0]),
        (64, [1, 1, 1, 2]),
        (64, [0, 0, 0, 16]),
        (128, [0, 0, 0, 32]),
        (0, [0, 0, 0, 1]),
        (32, [0, 0, 0, 1]),
        (64, [usize::MAX, 0, 0, 1]),
        (64, [1 << 61, 0, 0, 1]),
        (64, [0, 0, usize::MAX / 2, 3]),
    ] {
        assert!(Layout::new(bytes, counts).is_err(), "{bytes} {counts:?}");
    }
    for bytes in [64, 128] {
        for counts in reference::all_counts(bytes) {
            let layout = Layout::new(bytes, counts).unwrap();
            assert_eq!(
                (layout.bytes(), layout.counts(), layout.groups()),
                (bytes, counts, counts.iter().sum())
            );
            let widths: Vec<usize> = layout.widths().collect();
            assert_eq!(
                widths,
                reference::widths(counts).chunks(GROUP).map(|group| group[0]).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn variances_that_say_nothing_are_refused() {
    assert!(Layout::allocate(&[], 64).is_err());
    assert!(Layout::allocate(&[1.0], 32).is_err());
    assert!(Layout::allocate(&[f32::NAN], 64).is_err());
    assert!(Layout::allocate(&[0.0], 64).is_ok(), "a constant layer can be sketched");
}

#[test]
fn sizes_are_checked() {
    let layout = Layout::new(64, [1, 1, 1, 1]).unwrap();
    assert!(Sketcher::from_parts(layout, vec![1.0; 4 * GROUP - 1]).is_err());
    assert!(Sketches::new(layout, Block::copy_of(&[0u8; 128]), 1).is_err());
    assert!(Sketches::new(layout, Block::copy_of(&[0u8; 64]), usize::MAX).is_err());
}

/// Soundness rests on these checks, so every kernel must make them.
#[test]
fn kernels_refuse_what_lies_outside() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let layout = Layout::new(64, [1, 1, 1, 1]).unwrap();
    let sketcher = Sketcher::from_parts(layout, vec![1.0; 4 * GROUP]).unwrap();
    let codes = [0u8; 2 * 64];
    let mut query = SketchQuery::default();
    query.prepare(&sketcher, &[1.0]);
    let mut other = SketchQuery::default();
    other.prepare(
        &Sketcher::from_parts(Layout::new(64, [1, 1, 1, 0]).unwrap(), vec![1.0; 3 * GROUP]).unwrap(),
        &[1.0],
    );
    let mut longer = SketchQuery::default();
    longer.prepare(
        &Sketcher::from_parts(Layout::new(64, [1, 1, 0, 3]).unwrap(), vec![1.0; 5 * GROUP]).unwrap(),
        &[1.0],
    );
    for kernel in Kernel::available() {
        let panics = |codes: &[u8], query: &SketchQuery, ids: &[u32], n: usize| {
            let view = SketchView { layout: &layout, codes };
            catch_unwind(AssertUnwindSafe(|| kernel.sketch_ids(view, query, ids, &mut vec![0.0; n]))).is_err()
        };
        assert!(!panics(&codes, &query, &[1], 1), "two sketches");
        assert!(panics(&codes, &query, &[2], 1), "no third sketch");
        assert!(panics(&codes, &query, &[u32::MAX], 1), "an id far outside");
        assert!(panics(&codes[..100], &query, &[1], 1), "a sketch cut short");
        assert!(panics(&codes, &other, &[0], 1), "a query for another layout");
        assert!(panics(&codes, &longer, &[0], 1), "a query for a longer layout");
        assert!(panics(&codes, &SketchQuery::default(), &[0], 1), "a query never prepared");
        assert!(panics(&codes, &query, &[0, 1], 1), "more ids than scores");
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// Weights, scales and offset by their definition, however small or large the query; and a scratch query keeps
    /// nothing of the layout or the query before.
    #[test]
    fn queries_are_quantised_group_by_group(turns in prop::collection::vec((layout(), -110i32..=60, 0usize..=200), 1..=4), seed: u64) {
        let mut rng = Rng(seed);
        let mut query = SketchQuery::default();
        for ((bytes, counts), exponent, len) in turns {
            let sketcher = sketcher(&mut rng, bytes, counts);
            let z = rng.vector(len, |rng| rng.normal() * 2f32.powi(exponent));
            query.prepare(&sketcher, &z);
            let expected = reference::quantise(counts, sketcher.half_steps(), &z);
            prop_assert_eq!(query.weights().iter().map(|&w| i32::from(w)).collect::<Vec<_>>(), expected.weights);
            assert_same(query.scales(), &expected.scales[..], "scales");
            prop_assert!(same(query.offset(), expected.offset));
        }
    }
}

proptest! {
    /// Covered coordinates lose no tail: every row's value is within a half step of its level, unless the step is
    /// already that of 4 bits; all other steps stay what they were.
    #[test]
    fn covered_values_are_not_cut_off(
        rows in prop::collection::vec(prop::collection::vec(-8.0f32..8.0, 64), 1..12),
        far in 1.0f32..100.0,
    ) {
        let mut rows = rows;
        rows[0][0] *= far;
        let variances = vec![1.0f32; 64];
        let layout = Layout::new(128, [1, 1, 0, 0]).unwrap();
        let mut sketcher = Sketcher::with_layout(layout, &variances);
        let (before, n) = (sketcher.half_steps().to_vec(), sketcher.covering());
        prop_assert_eq!(n, GROUP);
        let reach: Vec<f32> =
            (0..n).map(|j| rows.iter().fold(0.0, |reach: f32, row| reach.max(row[j].abs()))).collect();
        sketcher.cover(&reach);
        let after = sketcher.half_steps();
        assert_same(after, &reference::covering(before.clone(), layout.counts(), &rows), "half steps");
        prop_assert_eq!(&after[n..], &before[n..]);
        let (of_8_bits, of_4_bits) = (before[0], before[GROUP]);
        for row in &rows {
            let mut sketch = vec![0; 128];
            sketcher.encode(row, 0.0, &mut sketch);
            for (j, code) in reference::unpack(layout.counts(), &sketch)[..n].iter().enumerate() {
                prop_assert!(of_8_bits <= after[j] && after[j] <= of_4_bits * 1.000_001);
                let off = (f64::from(row[j]) - reference::level(*code, 8, after[j])).abs();
                let capped = after[j] > of_4_bits * 0.999_999;
                prop_assert!(capped || off <= f64::from(after[j]) * 1.0001, "coordinate {j}: off by {off}");
            }
        }
    }
}
