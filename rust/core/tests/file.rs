//! The file: what is written is read back, everything else is refused with a reason, and nothing in it can panic.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Case, Dtype, Rng, any_case, assert_answers, cases, how, search};
use lss_core::hash::Space;
use lss_core::memory::Bytes;
use lss_core::reference::{self, Answer, Reference};
use lss_core::trust::{LISTED, NUMBERS};
use lss_core::{Effort, Error, FirstRead, Index, ListPoint, OnShort, OperatingPoint, Step, file};
use lss_core::{Fill, How, Trust};
use proptest::prelude::*;
use serde_json::{Value, json};

fn write(index: &Index, extra: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    file::write(index, extra, &mut bytes).unwrap();
    bytes
}

fn parse(bytes: &[u8]) -> lss_core::Result<(Index, String)> {
    file::parse(&Bytes::copy_of(bytes))
}

/// The header, and where the tensors begin.
fn header(bytes: &[u8]) -> (Value, usize) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), 8 + length)
}

/// The same tensors under another header.
fn with_header(header: &Value, tensors: &[u8]) -> Vec<u8> {
    let mut json = serde_json::to_vec(header).unwrap();
    json.resize((json.len() + 8).next_multiple_of(64) - 8, b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json, tensors].concat()
}

/// The file with its metadata's `index` changed.
fn with_index(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (mut header, from) = header(bytes);
    let mut index: Value = serde_json::from_str(header["__metadata__"]["index"].as_str().unwrap()).unwrap();
    change(&mut index);
    header["__metadata__"]["index"] = json!(index.to_string());
    with_header(&header, &bytes[from..])
}

/// Tensors by name, as other tools see them.
fn tensors(bytes: &[u8]) -> BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)> {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let of = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        (name.to_owned(), (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
    };
    file.names().into_iter().map(of).collect()
}

/// A whole file from these tensors, written by nobody's code but this.
fn from_tensors(metadata: &Value, tensors: &[(&str, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut header = json!({"__metadata__": metadata});
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let end = data.len() + bytes.len();
        header[*name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), end]});
        data.extend(bytes);
    }
    with_header(&header, &data)
}

fn small() -> Case {
    Case {
        seed: 21,
        dtype: Dtype::F16,
        exact_sums: true,
        m: 12,
        d: 3,
        p: 3,
        space: Space::Aligned,
        n_tables: 2,
        n_bits: 2,
        fill: Fill::Queries,
        n_always: 1,
        sketch_bytes: 64,
        n_probes: 2,
        max_entries: usize::MAX,
        n_neighbors: 4,
        n_rescore: 3,
        exact: false,
        wide: common::Wide { reach: Some(0.375), ..common::TABLES_ALONE },
        n_train: 20,
        n_queries: 4,
        n_regions: 2,
    }
}

fn answers(index: &Index, queries: &[Vec<f32>]) -> Vec<Answer> {
    search(index, queries, 3, how(OnShort::Pad, 1)).unwrap()
}

#[track_caller]
fn assert_refused(result: lss_core::Result<(Index, String)>, words: &[&str], what: &str) {
    match result {
        Err(error @ Error::Format { .. }) => {
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{what}: {words:?} in {text}");
        }
        Err(other) => panic!("{what}: {other:?}"),
        Ok(_) => panic!("{what}: accepted"),
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn what_is_written_is_read(mut case in any_case(), n_regions in 0usize..=3, extra in ".{0,40}", fitted: bool) {
        case.n_regions = n_regions;
        let built = if fitted { case.build() } else { case.prepare() };
        let bytes = write(&built.index, &extra);
        let (index, text) = parse(&bytes).unwrap();
        prop_assert_eq!(&text, &extra);
        prop_assert!(write(&index, &extra) == bytes, "written again");
        prop_assert_eq!(index.fitted().is_some(), fitted);
        prop_assert_eq!(index.rows().weights().dtype(), built.index.rows().weights().dtype());
        let exact = How { exact: true, ..how(OnShort::Pad, 1) };
        assert_answers(&search(&index, &built.queries, 3, exact).unwrap(), &search(&built.index, &built.queries, 3, exact).unwrap(), "exact");
        if fitted {
            assert_answers(&answers(&index, &built.queries), &answers(&built.index, &built.queries), "search");
            let (read, written) = (index.fitted().unwrap(), built.index.fitted().unwrap());
            read.validate(case.m, case.d).unwrap();
            prop_assert_eq!((read.fill(), read.point), (written.fill(), written.point));
            prop_assert_eq!((&read.tables.offsets()[..], &read.always_include[..]), (&written.tables.offsets()[..], &written.always_include[..]));
        }
    }

    /// Every tensor begins on a cache line, padding is zero, and the plain safetensors reader agrees on the rest.
    #[test]
    fn tensors_are_aligned(mut case in any_case(), n_regions in 0usize..=3, extra in ".{0,90}") {
        case.n_regions = n_regions;
        let built = case.build();
        let bytes = write(&built.index, &extra);
        let (table, from) = header(&bytes);
        prop_assert_eq!(from % 64, 0);
        for (name, tensor) in table.as_object().unwrap() {
            if name == "__metadata__" {
                continue;
            }
            let (begin, end) = (tensor["data_offsets"][0].as_u64().unwrap() as usize, tensor["data_offsets"][1].as_u64().unwrap() as usize);
            if name.starts_with("_pad") {
                prop_assert!(end - begin < 64 && bytes[from + begin..from + end].iter().all(|&byte| byte == 0));
            } else {
                prop_assert_eq!(begin % 64, 0, "{}", name);
            }
        }
        let fitted = built.index.fitted().unwrap();
        let all = tensors(&bytes);
        let shape = |name: &str| all[name].1.clone();
        prop_assert_eq!(shape("weights"), vec![case.m, case.d]);
        prop_assert_eq!(shape("bias"), vec![case.m]);
        prop_assert_eq!(shape("offsets"), vec![(case.n_tables << case.n_bits) + 1]);
        prop_assert_eq!(all.get("sketches").map(|tensor| tensor.1.clone()), (case.sketch_bytes > 0).then(|| vec![case.m, case.sketch_bytes]));
        prop_assert_eq!(&all["entries"].2, &bytemuck::cast_slice::<u32, u8>(fitted.tables.entries()).to_vec());
        prop_assert_eq!(&table["__metadata__"]["format"], "lss-rs");
        prop_assert_eq!(&table["__metadata__"]["format_version"], "1");
    }
}

// ------------------------------------------------------------------------------------------- damaged and foreign

#[test]
fn every_truncation_is_refused() {
    let bytes = write(&small().build().index, "extra");
    for len in 0..bytes.len() {
        assert_refused(parse(&bytes[..len]), &[], &format!("{len} of {} bytes", bytes.len()));
    }
    for more in [1, 4, 64, 1000] {
        assert_refused(parse(&[&bytes[..], &vec![0; more]].concat()), &[], &format!("{more} bytes too many"));
    }
}

/// A damaged file that is accepted must still be an index: searches end, and find labels that exist.
fn survives(bytes: &[u8], queries: &[Vec<f32>]) -> bool {
    match parse(bytes) {
        Err(Error::Format { expected, got }) => {
            assert!(!expected.is_empty() && !got.is_empty());
            false
        }
        Err(other) => panic!("not a format error: {other:?}"),
        Ok((index, _)) => {
            let m = index.rows().m() as i64;
            let queries: Vec<Vec<f32>> = queries
                .iter()
                .map(|query| query.iter().copied().cycle().take(index.rows().d()).collect())
                .collect();
            for exact in [true, false] {
                let how = How { exact, ..how(OnShort::Exact, 1) };
                match search(&index, &queries, 3, how) {
                    Ok(answers) => {
                        for answer in answers {
                            assert!(answer.labels.iter().all(|label| (-1..m).contains(label)));
                        }
                    }
                    Err(Error::NotFitted) => assert!(index.fitted().is_none()),
                    Err(other) => panic!("{other:?}"),
                }
            }
            differs_not(&index, &queries);
            true
        }
    }
}

/// Whatever was read answers as the reference does with the same parts, as long as all numbers are numbers.
fn differs_not(index: &Index, queries: &[Vec<f32>]) {
    let Some(fitted) = index.fitted() else { return };
    // Trust is the same bit for bit where it depends on nothing.
    let judge = fitted.point.judge.map_or([0.0; NUMBERS], Trust::to_array);
    let list = fitted.point.list.map_or([0.0; LISTED], |list| list.judge);
    if judge[1..].iter().chain(&list).any(|&weight| weight != 0.0) {
        return;
    }
    let twin = Reference::of(index.rows(), &fitted);
    // An exemplar that is nowhere has no place among the nearest.
    if twin.kept().is_some_and(|kept| kept.sketched.base.iter().any(|base| base.is_nan())) {
        return;
    }
    for query in queries {
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let x = reference::hashed_query(&fitted.planes, fitted.coordinates.as_ref(), query);
        if !finite(&x)
            || !(0..fitted.planes.n_tables())
                .all(|table| finite(&reference::margins(&fitted.planes, table, &x)))
        {
            continue;
        }
        if twin
            .sketch_scores(query, &twin.candidates(query).0)
            .is_some_and(|scores| scores.iter().any(|(score, _)| score.is_nan()))
        {
            continue;
        }
        let expected = twin.search(query, 3, OnShort::Pad, Effort::ADAPTIVE).unwrap();
        if expected.scores.iter().any(|score| score.is_nan())
            || twin.exact(query, 3).scores.iter().any(|score| score.is_nan())
        {
            continue;
        }
        assert_answers(&answers(index, std::slice::from_ref(query)), &[expected], "a damaged file");
    }
}

#[test]
fn every_flipped_byte_is_survived() {
    for case in [
        small(),
        Case {
            space: Space::Augmented,
            p: 0,
            sketch_bytes: 0,
            fill: Fill::Rows,
            dtype: Dtype::F32,
            ..small()
        },
    ] {
        let built = case.build();
        let bytes = write(&built.index, "extra");
        let mut accepted = 0;
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff, 0x20] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                accepted += usize::from(survives(&damaged, &built.queries[..1]));
            }
        }
        // Weights and sketches carry no checksum, so most flips there are another valid index.
        assert!(
            accepted > bytes.len() / 2 && accepted < 4 * bytes.len() - 1000,
            "{accepted} of {}",
            4 * bytes.len()
        );
    }
}

/// Whatever columns hold, a scan by them ends, and is that of the reference.
#[test]
fn damaged_columns_are_survived() {
    let wide = common::Wide { trust: 1.0, n_scan: 3, ..common::TABLES_ALONE };
    let built = Case { m: 300, sketch_bytes: 128, p: 20, wide, ..small() }.build();
    assert!(built.index.fitted().unwrap().scan(3, 300).listed.is_some());
    let bytes = write(&built.index, "");
    let (table, from) = header(&bytes);
    let place = |at: usize| table["columns"]["data_offsets"][at].as_u64().unwrap() as usize + from;
    let mut rng = Rng(7);
    let mut accepted = 0;
    for _ in 0..150 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + rng.below(40) {
            damaged[place(0) + rng.below(place(1) - place(0))] = rng.below(256) as u8;
        }
        accepted += usize::from(survives(&damaged, &built.queries[..1]));
    }
    assert_eq!(accepted, 150, "columns carry no checksum");
}

/// Headers that lie about the index, each refused and none a panic.
#[test]
fn hostile_headers_are_refused() {
    let bytes = write(&small().build().index, "");
    assert!(parse(&with_index(&bytes, |_| {})).is_ok(), "the tool that changes headers is right");
    let max = json!(u64::MAX);
    for (field, values) in [
        (
            "n_bits",
            vec![
                json!(0),
                json!(1),
                json!(3),
                json!(24),
                json!(25),
                json!(63),
                json!(64),
                max.clone(),
                json!(-1),
                json!(2.5),
                json!("2"),
                Value::Null,
            ],
        ),
        (
            "n_tables",
            vec![json!(0), json!(1), json!(3), json!(1u64 << 32), json!(1u64 << 63), max.clone(), json!(-2)],
        ),
        (
            "dim",
            vec![
                json!(0),
                json!(4),
                json!(32),
                json!(33),
                json!(1u64 << 32),
                json!((1u64 << 32) + 3),
                max.clone(),
                json!(u64::MAX - 30),
            ],
        ),
        ("n_probes", vec![json!(0), json!(-1)]),
        ("max_entries", vec![json!(0), json!(-1)]),
        ("n_neighbors", vec![json!(0)]),
        ("n_rescore", vec![json!(0)]),
        ("reach", vec![json!(-1), json!(1e39), json!("far")]),
        ("exemplar_groups", vec![json!([0, 0, 0, 0]), json!([0, 0, 0, 16]), json!([0, 1, 1, 0]), json!("1")]),
        ("space", vec![json!("augmented"), json!("hamming"), json!(""), json!(1)]),
        ("exact", vec![json!("yes"), json!(1), Value::Null]),
        (
            "sketch_groups",
            vec![
                json!([0, 0, 0, 0]),
                json!([2, 0, 0, 0]),
                json!([0, 0, 0, 15]),
                json!([0, 1, 1, 0]),
                json!([max, 0, 0, 1]),
                json!([1u64 << 61, 0, 0, 0]),
                json!([max, max, max, max]),
                json!([1, 0, 0]),
                json!([]),
                json!("1"),
            ],
        ),
    ] {
        for value in values {
            let changed = with_index(&bytes, |index| index["fitted"][field] = value.clone());
            assert_refused(parse(&changed), &[], &format!("{field} = {value}"));
        }
    }
    // Any operating point that could answer is one.
    for field in ["n_probes", "max_entries", "n_neighbors", "n_rescore", "n_scan"] {
        let changed = with_index(&bytes, |index| index["fitted"][field] = max.clone());
        let (index, _) = parse(&changed).unwrap();
        assert_eq!(answers(&index, &[vec![0.5, -0.5, 0.1]])[0].labels.len(), 3);
    }
    assert_refused(parse(&with_index(&bytes, |index| *index = json!([]))), &[], "metadata of another kind");
    assert_refused(
        parse(&with_index(&bytes, |index| index["fitted"] = json!({}))),
        &["missing field"],
        "nothing in it",
    );
    let (unfitted, _) = parse(&with_index(&bytes, |index| index["fitted"] = Value::Null)).unwrap();
    assert!(unfitted.fitted().is_none(), "rows alone can be read");
}

/// No tables, so that any dimension has as many planes as it needs: shapes that overflow must be refused still.
#[test]
fn overflowing_shapes_are_refused() {
    let f32s = |n: usize| vec![0u8; 4 * n];
    for dim in [1u64 << 32, u64::MAX, u64::MAX - 30, (1 << 63) + 1] {
        for n_bits in [0u64, 1, 3, 24] {
            let index = json!({"fitted": {
                "space": "aligned", "n_tables": 0, "n_bits": n_bits, "dim": dim, "n_probes": 1, "max_entries": 1, "n_neighbors": 1, "n_rescore": 1, "exact": false, "fitted_from": 0, "n_scan": 1, "trust": 0.0, "scan_trust": 0.0, "sketch_groups": null, "exemplar_groups": null, "column_groups": null,
            }});
            let metadata = json!({"format": "lss-rs", "format_version": "1", "index": index.to_string()});
            let bytes = from_tensors(
                &metadata,
                &[
                    ("weights", "F32", vec![1, 1], f32s(1)),
                    ("bias", "F32", vec![1], f32s(1)),
                    ("planes", "F32", vec![0, 1 << 32], vec![]),
                    ("thresholds", "F32", vec![0], vec![]),
                    ("offsets", "U32", vec![1], f32s(1)),
                    ("entries", "U32", vec![0], vec![]),
                    ("always_include", "U32", vec![0], vec![]),
                ],
            );
            assert_refused(parse(&bytes), &[], &format!("dim {dim}, {n_bits} bits"));
        }
    }
}

/// An index that has every tensor.
fn of_all_parts() -> Arc<Index> {
    let index = small().build().index;
    let point = index.fitted().unwrap().point;
    let first = Some(FirstRead { n_listed: 9, trust: 0.5, judge: [0.0; LISTED] });
    let list = point.list.map(|list| ListPoint { first, ..list });
    index.set_operating_point(OperatingPoint { list, ..point }).unwrap();
    index
}

type ShapeAndBytes = (Vec<usize>, Vec<u8>);

/// Tensors that contradict each other, one by one.
#[test]
fn contradicting_tensors_are_refused() {
    let bytes = write(&of_all_parts(), "");
    let (table, from) = header(&bytes);
    let u32s = |values: &[u32]| bytemuck::cast_slice::<u32, u8>(values).to_vec();
    let names = [
        "weights",
        "bias",
        "planes",
        "thresholds",
        "offsets",
        "entries",
        "always_include",
        "query_map",
        "query_scales",
        "query_offset",
        "query_center",
        "query_weights",
        "sketches",
        "half_steps",
        "columns",
        "exemplars",
        "exemplar_half_steps",
        "exemplar_offsets",
        "exemplar_labels",
        "exemplar_weights",
        "level",
        "region_weights",
        "region_centers",
        "region_offsets",
        "region_labels",
        "region_ends",
        "region_need",
        "region_columns",
        "region_half_steps",
        "region_maps",
        "region_scales",
        "region_map_offset",
        "row_bytes",
        "row_scales",
        "row_offset",
        "row_bounds",
        "list_trust",
        "first_trust",
        "trust",
    ];
    let all = tensors(&bytes);
    let list = |change: &dyn Fn(&str) -> Option<ShapeAndBytes>, skip: &str| {
        let kept: Vec<_> = names
            .iter()
            .filter(|&&name| name != skip)
            .map(|&name| {
                let (_, shape, data) = all[name].clone();
                let (shape, data) = change(name).unwrap_or((shape, data));
                (name, table[name]["dtype"].as_str().unwrap(), shape, data)
            })
            .collect();
        from_tensors(&table["__metadata__"], &kept)
    };
    assert!(from % 64 == 0 && parse(&list(&|_| None, "")).is_ok(), "the tool that changes tensors is right");
    for name in names {
        // Coordinates are optional, but not to what is hashed by them.
        assert_refused(parse(&list(&|_| None, name)), &[], &format!("without {name}"));
        // A row short. Of what is always included any number is one.
        let (shape, data) = (&all[name].1, &all[name].2);
        let row = data.len() / shape[0];
        let short = ([&[shape[0] - 1], &shape[1..]].concat(), data[..data.len() - row].to_vec());
        if name != "always_include" {
            assert_refused(
                parse(&list(&|n| (n == name).then(|| short.clone()), "")),
                &[],
                &format!("{name} a row short"),
            );
        }
        // One dimension too many.
        let deep = ([&[1][..], shape].concat(), data.clone());
        assert_refused(
            parse(&list(&|n| (n == name).then(|| deep.clone()), "")),
            &[],
            &format!("{name} too deep"),
        );
        // A number instead of a list.
        let flat = (vec![], data[..all[name].0.bitsize() / 8].to_vec());
        assert_refused(
            parse(&list(&|n| (n == name).then(|| flat.clone()), "")),
            &[],
            &format!("{name} a scalar"),
        );
    }
    for (name, values, words) in [
        ("always_include", vec![12], vec!["always_include"]),
        ("always_include", vec![3, 3], vec!["always_include"]),
        ("always_include", vec![4, 3], vec!["always_include"]),
        ("always_include", vec![u32::MAX], vec!["always_include"]),
        ("exemplar_offsets", vec![0; 21], vec!["exemplars", "cover"]),
        (
            "exemplar_offsets",
            [vec![0, 9, 0], vec![all["exemplar_labels"].1[0] as u32; 18]].concat(),
            vec!["exemplars", "falling"],
        ),
        ("offsets", vec![1; 9], vec!["offsets"]),
        ("offsets", vec![0, 0, 0, 9, 0, 0, 0, 0, all["entries"].1[0] as u32], vec!["falling"]),
    ] {
        let changed = list(&|n| (n == name).then(|| (vec![values.len()], u32s(&values))), "");
        assert_refused(parse(&changed), &words, &format!("{name} {values:?}"));
    }
    let mut entries: Vec<u32> = bytemuck::cast_slice(&all["entries"].2).to_vec();
    *entries.last_mut().unwrap() = 20;
    let changed = list(&|n| (n == "entries").then(|| (vec![entries.len()], u32s(&entries))), "");
    assert_refused(parse(&changed), &["id 20 of 20"], "an entry that is no exemplar");
    let mut labels: Vec<u32> = bytemuck::cast_slice(&all["exemplar_labels"].2).to_vec();
    *labels.last_mut().unwrap() = 12;
    let changed = list(&|n| (n == "exemplar_labels").then(|| (vec![labels.len()], u32s(&labels))), "");
    assert_refused(parse(&changed), &["label 12 of 12"], "a label that is no row");
    let fewer = |name: &str| {
        let len = all[name].2.len() / 13 * 12;
        let of_rows = ["row_bytes", "row_scales", "row_offset"].contains(&name);
        of_rows.then(|| (vec![all[name].1[0] / 13 * 12], all[name].2[..len].to_vec()))
    };
    assert_refused(parse(&list(&fewer, "")), &["12 rows in bytes"], "the mean of all rows is missing");
    let listed: Vec<u32> = bytemuck::cast_slice(&all["region_labels"].2).to_vec();
    for (label, words) in [(12, "label 12 of 12"), (listed[1], "twice in region 0")] {
        let labels = [&[label], &listed[1..]].concat();
        let changed = list(&|n| (n == "region_labels").then(|| (vec![labels.len()], u32s(&labels))), "");
        assert_refused(parse(&changed), &["region", words], "a list that cannot be");
    }
    let ends: Vec<u32> = bytemuck::cast_slice(&all["region_ends"].2).to_vec();
    for (at, end) in [(1, ends[128] + 1), (128, 13)] {
        let mut ends = ends.clone();
        ends[at] = end;
        let changed = list(&|n| (n == "region_ends").then(|| (vec![ends.len()], u32s(&ends))), "");
        assert_refused(parse(&changed), &["goes back, or beyond"], "an end that cannot be");
    }
    for size in [json!(null), json!(-1), json!(13), json!(usize::MAX)] {
        let changed = with_index(&bytes, |index| index["fitted"]["list_size"] = size.clone());
        assert_refused(parse(&changed), &[], &format!("lists of {size} on average"));
    }
}

/// What is no number would have each processor make another answer of it.
#[test]
fn numbers_that_are_none_are_refused() {
    let bytes = write(&of_all_parts(), "");
    let (table, from) = header(&bytes);
    let rows = ["weights", "bias"];
    let tensors = table
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, of)| of["dtype"] == "F32" && !rows.contains(&name.as_str()));
    let mut n = 0;
    for (name, of) in tensors {
        let at = from + of["data_offsets"][0].as_u64().unwrap() as usize;
        let damaged = |bad: f32| {
            let mut damaged = bytes.clone();
            damaged[at..at + 4].copy_from_slice(&bad.to_le_bytes());
            parse(&damaged)
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_refused(damaged(bad), &["finite"], &format!("{bad} in {name}"));
        }
        if name.ends_with("half_steps") {
            assert_refused(damaged(-0.5), &["half steps", "negative"], name);
        }
        n += 1;
    }
    assert_eq!(n, 22, "tensors of numbers");
}

/// Sketches can be read by coordinates alone, whatever the planes cut.
#[test]
fn sketches_without_coordinates_are_refused() {
    let bytes = write(&Case { space: Space::Augmented, ..small() }.build().index, "");
    let (table, _) = header(&bytes);
    let all = tensors(&bytes);
    let kept = |skip: &[&str]| {
        let names = all.keys().filter(|name| !name.starts_with("_pad") && !skip.contains(&name.as_str()));
        let of = |name| {
            let (_, shape, data) = all[name].clone();
            (String::as_str(name), table[name]["dtype"].as_str().unwrap(), shape, data)
        };
        from_tensors(&table["__metadata__"], &names.map(of).collect::<Vec<_>>())
    };
    assert!(parse(&kept(&[])).is_ok());
    assert_refused(parse(&kept(&["query_map", "query_offset"])), &["coordinates"], "sketches alone");
}

/// What pads a matrix meets the zeros that pad a query: only zeros make nothing of that.
#[test]
fn padding_that_is_not_zero_is_refused() {
    for case in [small(), Case { space: Space::Augmented, ..small() }] {
        let bytes = write(&case.build().index, "");
        let (table, from) = header(&bytes);
        let planes = if case.space == Space::Aligned { 3 } else { 4 };
        for (name, padding_at) in [("planes", 4 * planes), ("query_map", 3)] {
            let begin = from + table[name]["data_offsets"][0].as_u64().unwrap() as usize;
            for padding in [f32::NAN, f32::INFINITY] {
                let mut damaged = bytes.clone();
                damaged[begin + padding_at..][..4].copy_from_slice(&padding.to_le_bytes());
                assert_refused(parse(&damaged), &[], &format!("{padding} in the padding of {name}"));
            }
        }
    }
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let bytes = write(&small().build().index, "");
    let (table, from) = header(&bytes);
    let with_metadata = |key: &str, value: Value| {
        let mut table = table.clone();
        if value.is_null() {
            table["__metadata__"].as_object_mut().unwrap().remove(key);
        } else {
            table["__metadata__"][key] = value;
        }
        with_header(&table, &bytes[from..])
    };
    for version in ["2", "7", "4294967295"] {
        assert_refused(
            parse(&with_metadata("format_version", json!(version))),
            &["newer", "upgrade", version],
            "a newer file",
        );
    }
    for version in [json!("0"), json!("-1"), json!("one"), json!(""), json!("99999999999"), Value::Null] {
        assert_refused(parse(&with_metadata("format_version", version)), &["version"], "no version");
    }
    for format in [json!("pt"), json!("LSS-RS"), Value::Null] {
        assert_refused(parse(&with_metadata("format", format)), &["lss-rs", "format"], "another format");
    }
    assert_refused(parse(&with_metadata("index", Value::Null)), &["metadata"], "no numbers");
    let plain = from_tensors(&json!({}), &[("weight", "F32", vec![1], vec![0; 4])]);
    assert_refused(parse(&plain), &["lss-rs"], "a model's file");
    let mut table = table.clone();
    table.as_object_mut().unwrap().remove("__metadata__");
    assert_refused(parse(&with_header(&table, &bytes[from..])), &["lss-rs"], "no metadata");

    for (text, what) in [
        (&b""[..], "nothing"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "numpy"),
        (b"PK\x03\x04 a zip archive, as torch.save writes them", "zip"),
        (b"\x02\0\0\0\0\0\0\0{}", "an empty safetensors file"),
        (b"\x00\0\0\0\0\0\0\0", "an empty header"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "an endless header"),
        (b"\x04\0\0\0\0\0\0\0nullmore", "null"),
        (b"\x02\0\0\0\0\0\0\0[]", "a list"),
        (b"\x05\0\0\0\0\0\0\0\"\xff\xfe\xfd\"", "not UTF-8"),
    ] {
        assert_refused(parse(text), &["safetensors", "lss-rs"][1..], what);
    }
    let deep = [b"{\"a\":".to_vec(), vec![b'['; 100_000]].concat();
    assert_refused(parse(&[&(deep.len() as u64).to_le_bytes()[..], &deep].concat()), &[], "a deep header");
}

proptest! {
    #![proptest_config(cases(400))]

    /// Fuzzing: files cut up, spliced and overwritten end as an error or as an index that answers like its parts.
    #[test]
    fn mutations_are_survived(seed: u64, n in 1usize..=4, flavour in 0usize..4) {
        thread_local! {
            static FILES: Vec<(Vec<u8>, Vec<Vec<f32>>)> = [
                small(),
                Case { space: Space::Augmented, sketch_bytes: 0, dtype: Dtype::F32, ..small() },
                Case { sketch_bytes: 128, dtype: Dtype::Bf16, fill: Fill::Rows, p: 70, ..small() },
                Case { space: Space::Augmented, p: 0, sketch_bytes: 0, fill: Fill::Rows, n_always: 0, ..small() },
            ].map(|case| { let built = case.build(); (write(&built.index, "x"), built.queries) }).to_vec();
        }
        let (bytes, queries) = FILES.with(|files| files[flavour].clone());
        let mut rng = Rng(seed);
        let mut mutated = bytes.clone();
        let (_, from) = header(&bytes);
        for _ in 0..n {
            let at = if rng.below(2) == 0 { rng.below(from) } else { rng.below(mutated.len().max(1)) };
            let at = at.min(mutated.len().saturating_sub(1));
            let len = rng.below(24).min(mutated.len() - at);
            match rng.below(6) {
                0 => mutated[at..at + len].iter_mut().for_each(|byte| *byte = rng.next() as u8),
                1 => mutated[at..at + len].fill([0, 0xff, 0x7f, b'9', b' '][rng.below(5)]),
                2 => {
                    // Another part of the same file over this one.
                    let other = rng.below(mutated.len() - len + 1);
                    mutated.copy_within(other..other + len, at);
                }
                3 => {
                    // A digit of the header for another: lengths and shapes that nearly fit.
                    let digits: Vec<usize> = (8..from.min(mutated.len())).filter(|&i| mutated[i].is_ascii_digit()).collect();
                    if !digits.is_empty() {
                        mutated[digits[rng.below(digits.len())]] = b'0' + rng.below(10) as u8;
                    }
                }
                4 => mutated[at] ^= 1 << rng.below(8),
                _ => {
                    mutated.splice(at..at + len, (0..rng.below(3)).map(|_| b'0'));
                }
            }
            if mutated.is_empty() {
                break;
            }
        }
        if survives(&mutated, &queries) {
            // What was read is written and read again the same.
            let (index, extra) = parse(&mutated).unwrap();
            let again = write(&index, &extra);
            prop_assert!(write(&parse(&again).unwrap().0, &extra) == again);
        }
    }
}

// ------------------------------------------------------------------------------------------------- on the disk

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn loading_mapped_or_not_answers_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    let built = Case { m: 100, d: 30, ..small() }.build();
    file::save(&built.index, "note", &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), write(&built.index, "note"));
    for (mmap, prefault) in [(false, false), (false, true), (true, false), (true, true)] {
        let (index, extra) = file::load(&path, mmap, prefault).unwrap();
        assert_eq!(extra, "note");
        assert_answers(&answers(&index, &built.queries), &answers(&built.index, &built.queries), "loaded");
        // An index read from a file can be saved over that file, and go on.
        file::save(&index, "note", &path).unwrap();
        assert_answers(
            &answers(&index, &built.queries),
            &answers(&built.index, &built.queries),
            "after saving",
        );
    }
    let metadata = file::metadata(&path).unwrap();
    for (key, value) in [
        ("m", "100"),
        ("d", "30"),
        ("dtype", "F16"),
        ("extra", "note"),
        ("format", "lss-rs"),
        ("format_version", "1"),
    ] {
        assert_eq!(metadata[key], value);
    }
}

/// Any place in memory or in a file will do for bytes that are only read as bytes; a mapped index is used in place.
#[test]
fn a_mapped_index_outlives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let (built, other) = (small().build(), Case { seed: 22, ..small() }.build());
    file::save(&built.index, "", &path).unwrap();
    let (index, _) = file::load(&path, true, true).unwrap();
    file::save(&other.index, "", &path).unwrap();
    assert_answers(
        &answers(&index, &built.queries),
        &answers(&built.index, &built.queries),
        "after being replaced",
    );
    std::fs::remove_file(&path).unwrap();
    assert_answers(
        &answers(&index, &built.queries),
        &answers(&built.index, &built.queries),
        "after being removed",
    );
}

#[test]
fn saving_is_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let built = small().build();
    std::fs::write(&path, "something else").unwrap();
    file::save(&built.index, "", &path).unwrap();
    assert_eq!(names(folder.path()), ["index"], "no temporary is left");
    assert_eq!(std::fs::read(&path).unwrap(), write(&built.index, ""));

    let missing = folder.path().join("missing").join("index");
    assert!(
        matches!(file::save(&built.index, "", &missing), Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound)
    );
    assert_eq!(names(folder.path()), ["index"], "nothing was made");

    // A folder cannot be replaced by a file: the rename fails when all is written.
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("keep"), "").unwrap();
    assert!(matches!(file::save(&built.index, "", &taken), Err(Error::Io(_))));
    assert_eq!(names(folder.path()), ["index", "taken"], "the temporary is gone");
    assert_eq!(names(&taken), ["keep"]);
}

/// Saved files can be read by whom other new files can.
#[cfg(unix)]
#[test]
fn saved_files_have_the_permissions_of_new_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    let (path, plain) = (folder.path().join("index"), folder.path().join("plain"));
    file::save(&small().build().index, "", &path).unwrap();
    std::fs::write(&plain, "").unwrap();
    assert_eq!(mode(&path), mode(&plain));
}

/// What else is at the path is not replaced: a link leads on, a file that few may read stays so, and a device is no place for an index.
#[cfg(unix)]
#[test]
fn saving_keeps_what_a_path_is() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let (folder, index) = (tempfile::tempdir().unwrap(), small().build().index);
    let (secret, link) = (folder.path().join("secret"), folder.path().join("link"));
    std::fs::write(&secret, "").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&secret, &link).unwrap();
    file::save(&index, "", &link).unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(file::load(&secret, false, false).is_ok());
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(
        matches!(file::save(&index, "", &socket), Err(Error::Io(error)) if error.to_string().contains("no regular file"))
    );
    assert_eq!(names(folder.path()), ["link", "secret", "socket"]);
}

/// A writer that fails half way is an error, not a short file.
#[test]
fn a_full_disk_is_an_error() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let built = small().build();
    let len = write(&built.index, "").len();
    for room in [0, 7, 8, 500, len - 1] {
        assert!(
            matches!(file::write(&built.index, "", Full(room)), Err(Error::Io(_))),
            "{room} of {len} bytes"
        );
    }
    file::write(&built.index, "", Full(len)).unwrap();
}

#[test]
fn files_that_are_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for mmap in [false, true] {
        assert!(matches!(file::load(&folder.path().join("missing"), mmap, false), Err(Error::Io(_))));
        assert!(matches!(file::load(folder.path(), mmap, false), Err(Error::Io(_))), "a folder");
        assert!(matches!(file::load(&empty, mmap, true), Err(Error::Format { .. })), "an empty file");
    }
    assert!(matches!(file::metadata(&folder.path().join("missing")), Err(Error::Io(_))));
    assert!(matches!(file::metadata(&empty), Err(Error::Format { .. })));
}

#[test]
fn metadata_of_damaged_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let bytes = write(&small().build().index, "extra");
    let (_, from) = header(&bytes);
    for len in 0..from {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(matches!(file::metadata(&path), Err(Error::Format { .. })), "{len} bytes");
    }
    std::fs::write(&path, &bytes[..from]).unwrap();
    assert_eq!(file::metadata(&path).unwrap()["m"], "12", "the header is enough");
    std::fs::write(&path, b"\xff\xff\xff\xff\xff\xff\xff\xff{}").unwrap();
    assert!(file::metadata(&path).is_err());
}

/// What cannot be read back must not be written: a header has a largest length.
#[test]
fn an_extra_text_too_long_to_read_is_not_written() {
    let built = small().build();
    let extra = "x".repeat((16 << 20) + 1);
    let mut bytes = Vec::new();
    if file::write(&built.index, &extra, &mut bytes).is_ok() {
        assert_eq!(parse(&bytes).map(|(_, text)| text.len()).unwrap(), extra.len());
    }
}

// ------------------------------------------------------------------------------------------------------- golden

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/assets/v1.safetensors")
}

const GOLDEN_QUERIES: [[f32; 5]; 4] =
    [[0.5, -1.0, 0.25, 1.5, -0.75], [-1.25, 0.5, 1.0, -0.5, 0.0], [0.0; 5], [2.0, 2.0, -2.0, 1.0, -1.0]];

/// Writes the golden file of this version of the format. Run it once a version:
/// `cargo test -p lss-core --test file write_the_golden_file -- --ignored`
#[test]
#[ignore = "writes tests/assets/v1.safetensors, which is committed and must not change once version 1 is released"]
fn write_the_golden_file() {
    let case = Case { seed: 2008, m: 24, d: 5, p: 5, n_bits: 3, n_train: 24, n_rescore: 6, ..small() };
    let index = case.build().index;
    let point = index.fitted().unwrap().point;
    // Lists whose beginning has not the best label in front are read on.
    let mut judge = [0.0; LISTED];
    (judge[0], judge[6]) = (0.5, -1.0);
    let first = Some(FirstRead { n_listed: 7, trust: 0.5, judge });
    let list = point.list.map(|list| ListPoint { n_listed: 9, n_rescore: 4, trust: 0.4, first, ..list });
    index.set_operating_point(OperatingPoint { list, ..point }).unwrap();
    file::save(&index, "{\"note\": \"golden\"}", &golden()).unwrap();
}

/// A file written by the first version is read by all later ones, and answers as it did then.
#[test]
fn the_golden_file_answers_as_it_did() {
    let queries: Vec<Vec<f32>> = GOLDEN_QUERIES.iter().map(|query| query.to_vec()).collect();
    for mmap in [false, true] {
        let (index, extra) = file::load(&golden(), mmap, false).unwrap();
        assert_eq!(extra, "{\"note\": \"golden\"}");
        let fitted = index.fitted().unwrap();
        assert_eq!((index.rows().m(), index.rows().d(), index.rows().weights().dtype()), (24, 5, "float16"));
        assert_eq!(
            (fitted.planes.n_tables(), fitted.planes.n_bits(), fitted.point.n_probes, fitted.point.n_rescore),
            (2, 3, 2, 6)
        );
        assert_eq!((fitted.fill(), fitted.planes.space()), (Fill::Queries, Space::Aligned));
        // From lists, then by tables.
        let fixed = How { effort: Effort::FIXED, ..how(OnShort::Pad, 1) };
        let all = [answers(&index, &queries), search(&index, &queries, 3, fixed).unwrap()];
        let got: Vec<(Vec<i64>, Vec<u32>, [usize; 3])> = all
            .into_iter()
            .flatten()
            .map(|answer| {
                assert_eq!(answer.work.entries == 0, answer.work.step == Step::List);
                let work = [answer.work.entries, answer.work.candidates, answer.work.rescored];
                (answer.labels, answer.scores.iter().map(|score| score.to_bits()).collect(), work)
            })
            .collect();
        assert_eq!(
            got,
            GOLDEN_ANSWERS.map(|(labels, scores, work)| (labels.to_vec(), scores.to_vec(), work))
        );
        // Written by today's code it is still the same index.
        let (again, _) = parse(&write(&index, &extra)).unwrap();
        assert_answers(&answers(&again, &queries), &answers(&index, &queries), "written again");
    }
}

/// Labels, bits of the scores, and entries, candidates and rows rescored, as recorded when the file was written.
type Recorded = ([i64; 3], [u32; 3], [usize; 3]);
const GOLDEN_ANSWERS: [Recorded; 8] = [
    ([10, 4, 17], [1093435392, 1088159744, 1080950784], [0, 9, 6]),
    ([7, 23, 10], [1078853632, 1068236800, 1050673152], [0, 9, 6]),
    ([14, 23, 11], [1069547520, 1061158912, 3196059648], [0, 11, 6]),
    ([14, 20, 2], [1089208320, 1084751872, 1052770304], [0, 4, 4]),
    ([2, 22, 7], [1072431104, 1062731776, 3183476736], [13, 9, 6]),
    ([5, 7, 23], [1091141632, 1078853632, 1068236800], [10, 6, 6]),
    ([23, 11, 0], [1061158912, 3196059648, 3204448256], [13, 10, 6]),
    ([7, 8, 5], [3229089792, 3229089792, 3235119104], [22, 11, 6]),
];
