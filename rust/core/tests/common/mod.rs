//! What the tests share: seeded numbers, small layers of every kind, and how often a property is tried.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(missing_docs, reason = "nobody but the tests beside it reads this")]

use std::sync::Arc;

use half::{bf16, f16};
use lss_core::coordinates::Coordinates;
use lss_core::exemplars::Lists;
use lss_core::hash::{Planes, Space};
use lss_core::memory::{Block, padded};
use lss_core::need::{Need, SHOWN};
use lss_core::reference::{self, Answer, Reference};
use lss_core::regions::{self, Centers, Plan, RegionMap};
use lss_core::rows::{Rows, Weights};
use lss_core::sketch::{GROUP, Layout};
use lss_core::trust::{LISTED, SCAN, TABLES};
use lss_core::{Answers, Effort, Fill, FirstRead, How, ListPoint, OperatingPoint, Trust};
use lss_core::{Builder, Index, OnShort, Recipe, Work};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Try a property so many times, or as often as `PROPTEST_CASES` says. Seeds of failures are kept beside the test,
/// to be committed.
pub fn cases(n: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(n),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    }
}

/// Equal bit for bit, but for NaN, of which one is as good as another.
pub fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[track_caller]
pub fn assert_same(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&a, &b)) in got.iter().zip(expected).enumerate() {
        assert!(
            same(a, b),
            "{what}: [{i}] is {a:e} ({:#x}), expected {b:e} ({:#x})",
            a.to_bits(),
            b.to_bits()
        );
    }
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// In 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In [-1, 1), in steps of 2^-23.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Roughly a standard normal.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() * 0.5
    }

    /// A multiple of `step` within `-n * step ..= n * step`.
    pub fn dyadic(&mut self, step: f32, n: usize) -> f32 {
        (self.below(2 * n + 1) as f32 - n as f32) * step
    }

    /// Any finite number, the odd ones often: zeros of both signs, subnormals, the ends of the range, mixed
    /// magnitudes, any bits.
    pub fn wild(&mut self) -> f32 {
        let value = match self.below(10) {
            0 => 0.0,
            1 => f32::from_bits(1 + self.below(0x007f_ffff) as u32),
            2 => f32::MIN_POSITIVE,
            3 => f32::MAX,
            4 => 1e30 * self.unit(),
            5 => 1e-30 * self.unit(),
            6 => f32::from_bits(self.next() as u32),
            _ => self.unit(),
        };
        let value = if self.below(2) == 0 { value } else { -value };
        if value.is_finite() { value } else { 1.0 }
    }

    pub fn vector(&mut self, n: usize, mut of: impl FnMut(&mut Self) -> f32) -> Vec<f32> {
        (0..n).map(|_| of(self)).collect()
    }

    pub fn matrix(&mut self, n: usize, d: usize, mut of: impl FnMut(&mut Self) -> f32) -> Vec<Vec<f32>> {
        (0..n).map(|_| self.vector(d, &mut of)).collect()
    }
}

/// Zero-padded, as kernels take queries.
pub fn pad(query: &[f32]) -> Vec<f32> {
    let mut padded_query = query.to_vec();
    padded_query.resize(padded(query.len()), 0.0);
    padded_query
}

/// A dtype of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

impl Dtype {
    pub fn store(self, values: &[f32]) -> Weights {
        match self {
            Dtype::F32 => Weights::F32(Block::copy_of(values)),
            Dtype::F16 => {
                Weights::F16(Block::copy_of(&values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>()))
            }
            Dtype::Bf16 => {
                Weights::Bf16(Block::copy_of(&values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>()))
            }
        }
    }

    /// The nearest value that can be stored.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Dtype::F32 => value,
            Dtype::F16 => f16::from_f32(value).to_f32(),
            Dtype::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }
}

/// Everything that decides a small layer and its index.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub dtype: Dtype,
    /// Weights and row maps are such that the rows' coordinates are exact in any order of sums.
    pub exact_sums: bool,
    pub m: usize,
    pub d: usize,
    /// Aligned coordinates; 0 for none.
    pub p: usize,
    pub space: Space,
    pub n_tables: usize,
    pub n_bits: usize,
    pub fill: Fill,
    pub n_always: usize,
    pub sketch_bytes: usize,
    pub n_probes: usize,
    pub max_entries: usize,
    pub n_neighbors: usize,
    pub n_rescore: usize,
    pub exact: bool,
    pub wide: Wide,
    pub n_train: usize,
    pub n_queries: usize,
    /// Regions whose lists are read first; 0 for none.
    pub n_regions: usize,
}

/// How a case goes beyond its tables. All trust is 0.5: more is asked for, or less.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    pub reach: Option<f32>,
    pub trust: f32,
    pub scan_trust: f32,
    pub n_scan: usize,
    pub max_cost: f64,
}

/// Tables alone.
pub const TABLES_ALONE: Wide =
    Wide { reach: None, trust: 0.0, scan_trust: 0.0, n_scan: 20, max_cost: f64::INFINITY };

pub fn any_wide() -> impl Strategy<Value = Wide> {
    let asked = || prop::sample::select(&[0.0f32, 0.4, 0.6, 1.0][..]);
    (
        prop_oneof![Just(None), (0.0f32..2.0).prop_map(Some)],
        asked(),
        asked(),
        prop_oneof![1usize..=8, 1usize..=80],
        prop_oneof![3 => Just(f64::INFINITY), 1 => 0.0..300.0],
    )
        .prop_map(|(reach, trust, scan_trust, n_scan, max_cost)| Wide {
            reach,
            trust,
            scan_trust,
            n_scan,
            max_cost,
        })
}

/// Small layers and indexes of every kind.
pub fn any_case() -> impl Strategy<Value = Case> {
    let shape = (
        any::<u64>(),
        prop::sample::select(&DTYPES[..]),
        any::<bool>(),
        1usize..=200,
        1usize..=40,
        prop_oneof![3 => 1usize..=40, 1 => 41usize..=600],
    );
    let hash = (any::<bool>(), 1usize..=4, 1usize..=6, any::<bool>());
    let rest = (
        prop_oneof![Just(0), 0usize..=8],
        prop::sample::select(&[0usize, 64, 128][..]),
        prop_oneof![3 => 1usize..=12, 1 => 1usize..=80],
        prop_oneof![2 => Just(usize::MAX), 1 => 1usize..=150],
        prop_oneof![1usize..=16, 1usize..=130],
        prop_oneof![1usize..=16, 1usize..=220],
        prop::bool::weighted(0.05),
        any_wide(),
        (0usize..=120, 1usize..=12),
    );
    (shape, hash, rest).prop_map(|(shape, hash, rest)| {
        let (seed, dtype, exact_sums, m, d, p) = shape;
        let (aligned, n_tables, n_bits, rows) = hash;
        let (
            n_always,
            sketch_bytes,
            n_probes,
            max_entries,
            n_neighbors,
            n_rescore,
            exact,
            wide,
            (n_train, n_queries),
        ) = rest;
        Case {
            seed,
            dtype,
            exact_sums,
            m,
            d,
            p: if aligned || sketch_bytes > 0 || !rows { p } else { 0 },
            space: if aligned { Space::Aligned } else { Space::Augmented },
            n_tables,
            n_bits,
            fill: if rows { Fill::Rows } else { Fill::Queries },
            n_always,
            sketch_bytes,
            n_probes,
            max_entries,
            n_neighbors,
            n_rescore,
            exact,
            wide,
            n_train,
            n_queries,
            n_regions: 0,
        }
    })
}

/// A case made real.
pub struct Built {
    pub case: Case,
    pub index: Arc<Index>,
    pub recipe: Recipe,
    pub train: Vec<Vec<f32>>,
    pub labels: Vec<Vec<u32>>,
    pub queries: Vec<Vec<f32>>,
}

/// Compressed sparse rows.
pub fn csr(lists: &[Vec<u32>]) -> (Vec<usize>, Vec<u32>) {
    let mut offsets = vec![0];
    for list in lists {
        offsets.push(offsets[offsets.len() - 1] + list.len());
    }
    (offsets, lists.concat())
}

impl Case {
    /// The layer, the recipe, training queries and queries; nothing is fitted yet.
    pub fn prepare(&self) -> Built {
        let mut rng = Rng(self.seed);
        let &Case { m, d, p, n_tables, n_bits, .. } = self;
        let weight = |rng: &mut Rng| {
            if self.exact_sums { rng.dyadic(0.125, 32) } else { self.dtype.round(rng.normal()) }
        };
        let mut weights = rng.matrix(m, d, weight);
        let mut bias = rng.vector(m, |rng| rng.dyadic(0.25, 8));
        let mut base = rng.vector(m, Rng::normal);
        // Rows that equal others: equal logits and equal sketch scores, to be told apart by id.
        for i in 1..m {
            if rng.below(4) == 0 {
                let from = rng.below(i);
                weights[i] = weights[from].clone();
                (bias[i], base[i]) = (bias[from], base[from]);
            }
        }
        let rows = Rows::new(d, self.dtype.store(&weights.concat()), Block::copy_of(&bias)).unwrap();

        let coordinates = (p > 0).then(|| {
            let scale = 1.0 / (d as f32).sqrt();
            let query = rng.matrix(p, d, |rng| scale * rng.normal());
            let row = rng.matrix(p, d, |rng| rng.dyadic(0.0625, 16));
            let row_offset = rng.vector(p, |rng| rng.dyadic(0.125, 8));
            let rate = [0.0, 0.01, 0.1][rng.below(3)];
            // Falling, never quite equal, so that one layout is best.
            let variances = (0..p)
                .map(|j| (0.3 * d as f32 + 0.1) * (-rate * j as f32).exp() * (1.0 - 1e-4 * j as f32))
                .collect();
            let mean = rng.vector(d, |rng| 0.2 * rng.normal());
            let deviations = rng.vector(d, |rng| [0.0, 0.3, 1.0, 4.0][rng.below(4)]);
            let offset = rng.vector(p, |rng| 0.1 * rng.normal());
            Coordinates {
                query: reference::projection(&query, &offset, [&mean, &deviations]).unwrap(),
                row: reference::map(&row, &row_offset).unwrap(),
                variances,
                base: Block::copy_of(&base),
            }
        });
        let dim = match self.space {
            Space::Augmented => d + 1,
            Space::Aligned => 1 + rng.below(p.min(64)),
        };
        let planes = rng.matrix(n_tables * n_bits, dim, Rng::normal);
        // Some thresholds that a margin meets exactly.
        let thresholds =
            rng.vector(n_tables * n_bits, |rng| if rng.below(3) == 0 { 0.0 } else { 0.3 * rng.normal() });
        let planes = Planes::new(
            self.space,
            n_tables,
            n_bits,
            reference::matrix(&planes),
            Block::copy_of(&thresholds),
        )
        .unwrap();

        let train = rng.matrix(self.n_train, d, Rng::normal);
        let labels =
            (0..self.n_train).map(|_| (0..rng.below(6)).map(|_| rng.below(m) as u32).collect()).collect();
        let queries = (0..self.n_queries).map(|_| self.query(&mut rng, &train)).collect();
        let always_include = (0..self.n_always).map(|_| rng.below(m) as u32).collect();
        let recipe = Recipe {
            planes,
            coordinates,
            fill: self.fill,
            always_include,
            sketch_bytes: self.sketch_bytes,
            point: OperatingPoint {
                n_probes: self.n_probes,
                max_entries: self.max_entries,
                n_neighbors: self.n_neighbors,
                n_rescore: self.n_rescore,
                exact: self.exact,
                reach: self.wide.reach,
                n_scan: self.wide.n_scan,
                trust: self.wide.trust,
                scan_trust: self.wide.scan_trust,
                judge: (self.sketch_bytes > 0 && self.fill == Fill::Queries).then_some(Trust {
                    k: 2,
                    tables: [0.0; TABLES],
                    scan: [0.0; SCAN],
                }),
                list: None,
            },
        };
        Built { case: self.clone(), index: Arc::new(Index::new(rows)), recipe, train, labels, queries }
    }

    fn query(&self, rng: &mut Rng, train: &[Vec<f32>]) -> Vec<f32> {
        match rng.below(8) {
            0 => vec![0.0; self.d],
            1 => rng.vector(self.d, |rng| rng.dyadic(0.5, 2)),
            2..=4 if !train.is_empty() => {
                let near = &train[rng.below(train.len())];
                near.iter().map(|value| value + 0.1 * rng.unit()).collect()
            }
            _ => rng.vector(self.d, Rng::normal),
        }
    }

    /// Prepare and fit.
    pub fn build(&self) -> Built {
        let built = self.prepare();
        built.fit();
        built
    }
}

/// A point of lists, of which trust is 0.5: more is asked for, or less.
pub fn any_list(rng: &mut Rng) -> ListPoint {
    let trust = [0.0, 0.4, 0.6, 1.0][rng.below(4)];
    let judge = [0.0; LISTED];
    let first = (rng.below(2) > 0).then(|| FirstRead {
        n_listed: 1 + rng.below(100),
        trust: [0.0, 0.4, 0.6, 1.0][rng.below(4)],
        judge,
    });
    ListPoint { n_listed: 1 + rng.below(200), n_rescore: 1 + rng.below(20), trust, judge, first }
}

impl Case {
    /// Whether it has regions.
    pub fn lists(&self) -> bool {
        self.n_regions > 0 && self.fill == Fill::Queries && self.sketch_bytes > 0
    }

    fn centers(&self, rng: &mut Rng) -> Option<Centers> {
        self.lists().then(|| {
            let r = 1 + rng.below(self.p.min(64));
            let weights = rng.vector(r, |rng| 0.1 + rng.unit().abs());
            // Some that are equal: the first is nearest.
            let centers = rng.matrix(self.n_regions, r, |rng| rng.dyadic(0.5, 2));
            Centers::new(&weights, &centers.concat()).unwrap()
        })
    }

    /// Maps into regions, and variances there.
    fn maps(&self, rng: &mut Rng) -> (Vec<RegionMap>, Vec<f32>) {
        let variances: Vec<f32> = (0..self.p).map(|j| 1.0 / (1.0 + j as f32)).collect();
        let layout = Layout::allocate(&variances, regions::SKETCH_BYTES).unwrap();
        let l = self.p.min(layout.groups() * GROUP);
        let map = |rng: &mut Rng| RegionMap {
            query: rng.vector(l * self.d, Rng::normal),
            offset: rng.vector(l, Rng::normal),
            row: rng.vector(l * self.d, Rng::normal),
            mean: rng.vector(self.d, Rng::normal),
        };
        ((0..self.n_regions).map(|_| map(rng)).collect(), variances)
    }

    /// How far its searches go.
    pub fn effort(&self) -> Effort {
        Effort { adaptive: true, max_cost: self.wide.max_cost }
    }
}

impl Built {
    /// Fit, and search lists by some point.
    pub fn fit(&self) {
        let mut rng = Rng(!self.case.seed);
        self.taught(&mut rng).0.finish().unwrap();
        if self.case.lists() {
            let point = OperatingPoint { list: Some(any_list(&mut rng)), ..self.recipe.point };
            self.index.set_operating_point(point).unwrap();
        }
    }

    /// A builder that has learned in slices of uneven size, and the weights that say how far queries read.
    pub fn taught(&self, rng: &mut Rng) -> (Builder, Vec<f32>) {
        let centers = self.case.centers(rng);
        let mut builder = Builder::new(Arc::clone(&self.index), self.recipe.clone()).unwrap();
        let (mut from, mut need) = (0, Vec::new());
        while from < self.train.len() {
            let to = (from + 1 + rng.below(50)).min(self.train.len());
            let (offsets, labels) = csr(&self.labels[from..to]);
            builder
                .add(&self.train[from..to].concat(), Lists { offsets: &offsets, labels: &labels })
                .unwrap();
            from = to;
        }
        if let Some(centers) = centers {
            let regions = builder.place(&centers, &self.train.concat()).unwrap();
            let lists = builder.lists(&regions, centers.len(), 1 + rng.below(self.case.m)).unwrap();
            let (maps, variances) = self.case.maps(rng);
            // Some queries read far less than others.
            need = rng.vector(SHOWN + centers.weights().len(), |rng| 0.3 * rng.normal());
            builder.lay_out(Plan { centers, lists, maps, variances }).unwrap();
            builder.set_need(Need::new(Block::copy_of(&need)).unwrap()).unwrap();
        }
        (builder, need)
    }

    /// The twin that was built by itself.
    pub fn reference(&self) -> Reference {
        Reference::build(&self.recipe, self.index.rows(), &self.train, &self.labels)
    }

    /// The twin that takes the index's own parts.
    pub fn reference_of_parts(&self) -> Reference {
        Reference::of(self.index.rows(), &self.index.fitted().unwrap())
    }
}

/// How to search on so many threads.
pub fn how(on_short: OnShort, num_threads: usize) -> How {
    How { effort: Effort::ADAPTIVE, exact: false, on_short, num_threads }
}

/// The batch's answers, one by one.
pub fn search(index: &Index, queries: &[Vec<f32>], k: usize, how: How) -> lss_core::Result<Vec<Answer>> {
    let n = queries.len();
    // Poisoned, so that what is not written shows.
    let (mut labels, mut scores) = (vec![i64::MIN; n * k], vec![f32::NAN; n * k]);
    let mut work = vec![Work { entries: usize::MAX, ..Work::default() }; n];
    let out = Answers { labels: &mut labels, scores: &mut scores, work: &mut work };
    index.search(&queries.concat(), k, how, out)?;
    let answers = labels.chunks(k.max(1)).zip(scores.chunks(k.max(1))).zip(work);
    Ok(answers
        .map(|((labels, scores), work)| Answer { labels: labels.to_vec(), scores: scores.to_vec(), work })
        .collect())
}

/// One query, through the door that single queries take.
pub fn search_one(
    index: &Index,
    query: &[f32],
    k: usize,
    on_short: OnShort,
    effort: Effort,
) -> lss_core::Result<Answer> {
    let (mut labels, mut scores) = (vec![i64::MIN; k], vec![f32::NAN; k]);
    let mut scratch = index.scratch();
    scratch.load(query);
    let work = index.search_one(&mut scratch, on_short, effort, &mut labels, &mut scores)?;
    Ok(Answer { labels, scores, work })
}

/// Labels, work, and scores bit for bit.
#[track_caller]
pub fn assert_answers(got: &[Answer], expected: &[Answer], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.labels, expected.labels, "{what}: labels of query {i}");
        assert_same(&got.scores, &expected.scores, &format!("{what}: scores of query {i}"));
        assert!(same(got.work.trust, expected.work.trust), "{what}: trust of query {i}");
        let without_trust = |work: Work| Work { trust: 0.0, ..work };
        assert_eq!(without_trust(got.work), without_trust(expected.work), "{what}: work of query {i}");
    }
}

/// How much a search does.
pub fn point(n_probes: usize, max_entries: usize, n_neighbors: usize, n_rescore: usize) -> OperatingPoint {
    let Wide { reach, n_scan, trust, scan_trust, .. } = TABLES_ALONE;
    let (exact, judge) = (false, None);
    let list = None;
    OperatingPoint {
        n_probes,
        max_entries,
        n_neighbors,
        n_rescore,
        exact,
        reach,
        n_scan,
        trust,
        scan_trust,
        judge,
        list,
    }
}
