//! The file: safetensors, so that nothing in it is executed and other tools can read it.
//!
//! Tensors begin on 64-byte boundaries (kept by `_pad` tensors), so that a mapped file is used in place.
//! [`parse`] is pure: bytes in, an index or an error out. Reading, mapping and atomic writing are a thin shell.
//!
//! | tensor | type, shape | there |
//! |---|---|---|
//! | `weights`, `bias` | F32/F16/BF16 (m, d), F32 (m,) | always |
//! | `planes`, `thresholds` | F32 (L K, dim padded to 32), F32 (L K,) | fitted |
//! | `offsets`, `entries`, `always_include` | U32 | fitted |
//! | `exemplars`, `exemplar_half_steps` | U8 (n, 64), F32 | fitted, filled with queries |
//! | `exemplar_weights` | F32 | fitted, filled with queries |
//! | `exemplar_offsets`, `exemplar_labels` | U32 | fitted, filled with queries |
//! | `evidence` | F32 (n,) | fitted, where queries have been observed |
//! | `level` | F32 (1,) | fitted |
//! | `trust` | F32 (11,) | fitted, where trust has been learned |
//! | `query_map`, `query_scales`, `query_offset` | I8 (p, d padded to 32), F32 (p,), F32 (p,) | fitted, with aligned coordinates |
//! | `query_center`, `query_weights` | F32 (d,) | the same |
//! | `sketches`, `half_steps` | U8 (m, bytes), F32 | fitted, with sketches |
//! | `region_weights`, `region_centers` | F32 (r,), F32 (C, r padded to 32) | fitted, with regions |
//! | `region_offsets`, `region_labels` | U32 (C + 1,), U32 | fitted, with regions |
//! | `region_ends` | U32 (C x 129,) | fitted, with regions |
//! | `region_need` | F32 (5 + r,) | fitted, with regions |
//! | `region_columns`, `region_half_steps` | U8, F32 (C x steps,) | fitted, with regions |
//! | `region_maps` | I8 (C x l x (d padded to 32),) | fitted, with regions |
//! | `region_scales`, `region_map_offset` | F32 (C x l,) | fitted, with regions |
//! | `row_bytes` | I8 ((m + 1) x (d padded to 32),) | fitted, with regions |
//! | `row_scales`, `row_offset` | F32 (m + 1,) | fitted, with regions |
//! | `row_bounds` | F32 (4,) | fitted, with regions |
//! | `list_trust` | F32 (9,) | fitted, where lists are read |
//! | `first_trust` | F32 (9,) | fitted, where lists are read in two parts |
//! | `columns` | U8 (blocks of 64 rows x 64 (bytes of codes + 4),) | fitted, filled with queries, with sketches |
//!
//! `entries` has none of the first table where these would be the numbers from 0 on, as exemplars of a fit are numbered.
//!
//! Metadata: `format` ("lss-rs"), `format_version`, `index` (JSON: the numbers that shapes do not tell) and
//! `extra` (the caller's text; Python keeps the configuration there).

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use memmap2::MmapOptions;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::columns::Columns;
use crate::coordinates::Projection;
use crate::error::{Error, Result};
use crate::exemplars::Exemplars;
use crate::fitted::{FirstRead, Fitted, ListPoint, OperatingPoint};
use crate::hash::{Planes, Space};
use crate::index::Index;
use crate::memory::{Block, Bytes, LINE, Matrix, padded};
use crate::need::Need;
use crate::regions::{self, Centers, Parts, Regions};
use crate::rows::{Rows, Weights};
use crate::sketch::{GROUP, Layout, Sketcher, Sketches};
use crate::tables::Tables;
use crate::trust::{LISTED, NUMBERS, Trust};

/// Version of the format that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT: &str = "lss-rs";

/// Names of sketches and of their half steps.
const SKETCHES: [&str; 2] = ["sketches", "half_steps"];
const EXEMPLARS: [&str; 2] = ["exemplars", "exemplar_half_steps"];

/// Names of what belongs to the query's map.
const PROJECTION: [&str; 4] = ["query_scales", "query_offset", "query_center", "query_weights"];

/// Names of what belongs to regions, in the order of [`Parts`].
const REGIONS: [&str; 13] = [
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
];

/// A header longer than this is not one of ours.
const MAX_HEADER: u64 = 16 << 20;

/// The numbers that shapes do not tell.
#[derive(Serialize, Deserialize)]
struct Header {
    fitted: Option<FittedHeader>,
}

#[derive(Serialize, Deserialize)]
struct FittedHeader {
    space: String,
    n_tables: usize,
    n_bits: usize,
    dim: usize,
    n_probes: usize,
    max_entries: usize,
    n_neighbors: usize,
    n_rescore: usize,
    exact: bool,
    reach: Option<f32>,
    fitted_from: usize,
    n_scan: usize,
    trust: f32,
    scan_trust: f32,
    /// Groups of 8, 4, 2 and 1 bits.
    sketch_groups: Option<[usize; 4]>,
    exemplar_groups: Option<[usize; 4]>,
    column_groups: Option<[usize; 4]>,
    region_groups: Option<[usize; 4]>,
    /// Labels of a region's list, on average.
    list_size: Option<usize>,
    /// What of a list's point no tensor holds.
    list: Option<ListHeader>,
}

#[derive(Serialize, Deserialize)]
struct ListHeader {
    n_listed: usize,
    n_rescore: usize,
    trust: f32,
    first: Option<FirstHeader>,
}

#[derive(Serialize, Deserialize)]
struct FirstHeader {
    n_listed: usize,
    trust: f32,
}

struct Tensor<'a> {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    fn new<T: Pod>(name: &'static str, dtype: Dtype, shape: Vec<usize>, values: &'a [T]) -> Self {
        Tensor { name, dtype, shape, bytes: bytemuck::cast_slice(values) }
    }

    fn list<T: Pod>(name: &'static str, dtype: Dtype, values: &'a [T]) -> Self {
        Self::new(name, dtype, vec![values.len()], values)
    }
}

/// Write an index.
pub fn write(index: &Index, extra: &str, mut to: impl Write) -> Result<()> {
    let rows = index.rows();
    let (fitted, evidence) = index.settle()?.unzip();
    let evidence = evidence.unwrap_or_default();
    let trust = fitted.as_deref().and_then(|fitted| fitted.point.judge).map(|trust| trust.to_array());
    let (m, d) = (rows.m(), rows.d());
    let mut tensors = Vec::new();
    match rows.weights() {
        Weights::F32(block) => tensors.push(Tensor::new("weights", Dtype::F32, vec![m, d], block)),
        Weights::F16(block) => tensors.push(Tensor::new("weights", Dtype::F16, vec![m, d], block)),
        Weights::Bf16(block) => tensors.push(Tensor::new("weights", Dtype::BF16, vec![m, d], block)),
    }
    tensors.push(Tensor::new("bias", Dtype::F32, vec![m], rows.bias()));
    let mut header = Header { fitted: None };
    if let Some(fitted) = fitted.as_deref() {
        let Fitted {
            planes,
            coordinates,
            tables,
            exemplars,
            always_include,
            sketches,
            columns,
            regions,
            level,
            fitted_from,
            point,
            ..
        } = fitted;
        tensors.push(Tensor::new("level", Dtype::F32, vec![1], std::slice::from_ref(level)));
        if !evidence.is_empty() {
            tensors.push(Tensor::new("evidence", Dtype::F32, vec![evidence.len()], &evidence));
        }
        if let Some(trust) = &trust {
            tensors.push(Tensor::new("trust", Dtype::F32, vec![trust.len()], trust));
        }
        let (n, stride) = (planes.matrix().rows(), planes.matrix().stride());
        tensors.push(Tensor::new("planes", Dtype::F32, vec![n, stride], planes.matrix().values()));
        tensors.push(Tensor::new("thresholds", Dtype::F32, vec![n], planes.thresholds()));
        tensors.push(Tensor::new("offsets", Dtype::U32, vec![tables.offsets().len()], tables.offsets()));
        tensors.push(Tensor::new("entries", Dtype::U32, vec![tables.entries().len()], tables.entries()));
        tensors.push(Tensor::new("always_include", Dtype::U32, vec![always_include.len()], always_include));
        if let Some(map) = coordinates {
            let (p, stride) = (map.matrix().rows(), map.matrix().stride());
            tensors.push(Tensor::new("query_map", Dtype::I8, vec![p, stride], map.matrix().values()));
            let each = [map.scales(), map.offset(), map.center(), map.weights()];
            let each = PROJECTION.into_iter().zip(each);
            tensors
                .extend(each.map(|(name, values)| Tensor::new(name, Dtype::F32, vec![values.len()], values)));
        }
        if let Some(sketched) = sketches {
            tensors.extend(sketch_tensors(SKETCHES, sketched));
        }
        if let Some(columns) = columns {
            tensors.push(Tensor::new("columns", Dtype::U8, vec![columns.codes().len()], columns.codes()));
        }
        if let Some(regions) = regions {
            tensors.extend(region_tensors(regions));
        }
        if let Some(list) = &point.list {
            tensors.push(Tensor::list("list_trust", Dtype::F32, &list.judge));
            if let Some(first) = &list.first {
                tensors.push(Tensor::list("first_trust", Dtype::F32, &first.judge));
            }
        }
        if let Some(exemplars) = exemplars {
            tensors.extend(sketch_tensors(EXEMPLARS, exemplars.sketched()));
            let (offsets, labels) = (exemplars.offsets(), exemplars.labels());
            tensors.push(Tensor::new("exemplar_offsets", Dtype::U32, vec![offsets.len()], offsets));
            tensors.push(Tensor::new("exemplar_labels", Dtype::U32, vec![labels.len()], labels));
            let weights = exemplars.weights();
            tensors.push(Tensor::new("exemplar_weights", Dtype::F32, vec![weights.len()], weights));
        }
        header.fitted = Some(FittedHeader {
            space: planes.space().name().into(),
            n_tables: planes.n_tables(),
            n_bits: planes.n_bits(),
            dim: planes.dim(),
            n_probes: point.n_probes,
            max_entries: point.max_entries,
            n_neighbors: point.n_neighbors,
            n_rescore: point.n_rescore,
            exact: point.exact,
            reach: point.reach,
            fitted_from: *fitted_from,
            n_scan: point.n_scan,
            trust: point.trust,
            scan_trust: point.scan_trust,
            sketch_groups: sketches.as_ref().map(|(sketcher, _)| sketcher.layout().counts()),
            column_groups: columns.as_ref().map(|columns| columns.sketcher().layout().counts()),
            region_groups: regions.as_ref().map(|regions| regions.layout().counts()),
            list_size: regions.as_ref().map(|regions| regions.whole()),
            list: point.list.map(|ListPoint { n_listed, n_rescore, trust, first, .. }| ListHeader {
                n_listed,
                n_rescore,
                trust,
                first: first.map(|FirstRead { n_listed, trust, .. }| FirstHeader { n_listed, trust }),
            }),
            exemplar_groups: exemplars.as_ref().map(|exemplars| exemplars.sketched().0.layout().counts()),
        });
    }
    write_tensors(&tensors, &header, extra, &mut to)
}

fn sketch_tensors<'a>(
    [name, steps]: [&'static str; 2],
    (sketcher, sketches): &'a (Sketcher, Sketches),
) -> [Tensor<'a>; 2] {
    let (bytes, half_steps) = (sketcher.layout().bytes(), sketcher.half_steps());
    let shape = vec![sketches.codes().len() / bytes, bytes];
    [
        Tensor::new(name, Dtype::U8, shape, sketches.codes()),
        Tensor::new(steps, Dtype::F32, vec![half_steps.len()], half_steps),
    ]
}

fn region_tensors(regions: &Regions) -> [Tensor<'_>; 15] {
    let (centers, parts) = (regions.centers(), regions.parts());
    let matrix = centers.matrix();
    let shape = vec![matrix.rows(), matrix.stride()];
    let [
        offsets,
        labels,
        ends,
        need,
        columns,
        half_steps,
        maps,
        scales,
        map_offset,
        rows,
        row_scales,
        row_offset,
        row_bounds,
    ] = REGIONS;
    [
        Tensor::list("region_weights", Dtype::F32, centers.weights()),
        Tensor::new("region_centers", Dtype::F32, shape, matrix.values()),
        Tensor::list(offsets, Dtype::U32, &parts.offsets),
        Tensor::list(labels, Dtype::U32, &parts.labels),
        Tensor::list(ends, Dtype::U32, &parts.ends),
        Tensor::list(need, Dtype::F32, parts.need.weights()),
        Tensor::list(columns, Dtype::U8, &parts.columns),
        Tensor::list(half_steps, Dtype::F32, &parts.half_steps),
        Tensor::list(maps, Dtype::I8, &parts.maps),
        Tensor::list(scales, Dtype::F32, &parts.scales),
        Tensor::list(map_offset, Dtype::F32, &parts.map_offset),
        Tensor::list(rows, Dtype::I8, &parts.rows),
        Tensor::list(row_scales, Dtype::F32, &parts.row_scales),
        Tensor::list(row_offset, Dtype::F32, &parts.row_offset),
        Tensor::list(row_bounds, Dtype::F32, &parts.row_bounds),
    ]
}

fn write_tensors(tensors: &[Tensor<'_>], header: &Header, extra: &str, to: &mut impl Write) -> Result<()> {
    let mut table = serde_json::Map::new();
    let index = serde_json::to_string(header).map_err(std::io::Error::other)?;
    table.insert(
        "__metadata__".into(),
        serde_json::json!({
            "format": FORMAT,
            "format_version": FORMAT_VERSION.to_string(),
            "index": index,
            "extra": extra,
        }),
    );
    let mut at = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        let end = at + tensor.bytes.len();
        table.insert(
            tensor.name.into(),
            serde_json::json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end.next_multiple_of(LINE);
        if at > end {
            table.insert(
                format!("_pad{i}"),
                serde_json::json!({"dtype": Dtype::U8, "shape": [at - end], "data_offsets": [end, at]}),
            );
        }
    }
    let mut json = serde_json::to_vec(&table).map_err(std::io::Error::other)?;
    json.resize((json.len() + 8).next_multiple_of(LINE) - 8, b' ');
    if json.len() as u64 > MAX_HEADER {
        return Err(Error::value("extra", format!("shorter than {MAX_HEADER} bytes"), extra.len()));
    }
    to.write_all(&(json.len() as u64).to_le_bytes())?;
    to.write_all(&json)?;
    for tensor in tensors {
        to.write_all(tensor.bytes)?;
        to.write_all(&[0; LINE][..tensor.bytes.len().next_multiple_of(LINE) - tensor.bytes.len()])?;
    }
    Ok(())
}

/// Read an index and the caller's text.
pub fn parse(bytes: &Bytes) -> Result<(Index, String)> {
    let (_, metadata) = read_header(bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::format("a whole file", error))?;
    let header: Header = serde_json::from_str(metadata.get("index").map_or("", String::as_str))
        .map_err(|error| Error::format("metadata of an index", error))?;

    let reader = Reader { bytes, file };
    let weights = reader.tensor("weights")?;
    let &[m, d] = weights.shape() else {
        return Err(Error::format("weights of two dimensions", format!("{:?}", weights.shape())));
    };
    let weights = match weights.dtype() {
        Dtype::F32 => Weights::F32(reader.block("weights", Dtype::F32, &[m, d])?),
        Dtype::F16 => Weights::F16(reader.block("weights", Dtype::F16, &[m, d])?),
        Dtype::BF16 => Weights::Bf16(reader.block("weights", Dtype::BF16, &[m, d])?),
        other => return Err(Error::format("weights in F32, F16 or BF16", format!("{other:?}"))),
    };
    let damaged = |error: Error| match error {
        Error::Value { arg, expected, got } => Error::format(format!("'{arg}' {expected}"), got),
        other => other,
    };
    let rows = Rows::new(d, weights, reader.block("bias", Dtype::F32, &[m])?).map_err(damaged)?;
    let index = Index::new(rows);
    if let Some(header) = header.fitted {
        let fitted = read_fitted(&reader, &header, m, d).map_err(damaged)?;
        fitted.validate(m, d)?;
        let n = fitted.exemplars.as_ref().map_or(0, Exemplars::len);
        match reader.file.tensor("evidence") {
            Ok(_) => index.restore(fitted, &reader.block("evidence", Dtype::F32, &[n])?)?,
            Err(_) => index.install(fitted),
        }
    }
    Ok((index, metadata.get("extra").cloned().unwrap_or_default()))
}

fn read_fitted(reader: &Reader<'_>, header: &FittedHeader, m: usize, d: usize) -> Result<Fitted> {
    let n = header.n_tables.saturating_mul(header.n_bits);
    let planes = reader.finite("planes", &[n, padded(header.dim.min(1 << 30))])?;
    let planes = Planes::new(
        Space::from_name(&header.space)?,
        header.n_tables,
        header.n_bits,
        Matrix::from_padded(n, header.dim, planes)?,
        reader.finite("thresholds", &[n])?,
    )?;
    let coordinates = match reader.file.tensor("query_map") {
        Err(_) => None,
        Ok(map) => {
            let p = map.shape().first().copied().unwrap_or(0);
            let values = reader.block("query_map", Dtype::I8, &[p, padded(d)])?;
            let [scales, offset, center, weights] = PROJECTION;
            let each = [
                reader.finite(scales, &[p])?,
                reader.finite(offset, &[p])?,
                reader.finite(center, &[d])?,
                reader.finite(weights, &[d])?,
            ];
            Some(Projection::from_parts(Matrix::from_padded(p, d, values)?, each)?)
        }
    };
    let sketches = header.sketch_groups.map(|groups| reader.sketches(SKETCHES, groups, m)).transpose()?;
    let exemplars = match header.exemplar_groups {
        None => None,
        Some(groups) => {
            let (offsets, labels) =
                (reader.list("exemplar_offsets", Dtype::U32)?, reader.list("exemplar_labels", Dtype::U32)?);
            let sketched = reader.sketches(EXEMPLARS, groups, offsets.len().saturating_sub(1))?;
            let weights = reader.finite("exemplar_weights", &[sketched.0.half_steps().len()])?;
            Some(Exemplars::from_parts(sketched, weights, offsets, labels)?)
        }
    };
    let columns = match (&sketches, &exemplars) {
        (Some((sketcher, _)), Some(_)) => {
            let len = reader.tensor("columns")?.shape().first().copied().unwrap_or(0);
            let columns = Columns::beside(sketcher, reader.block("columns", Dtype::U8, &[len])?, m)?;
            let counts = columns.sketcher().layout().counts();
            if header.column_groups != Some(counts) {
                return Err(Error::format(
                    format!("columns of {counts:?}"),
                    format!("{:?}", header.column_groups),
                ));
            }
            Some(columns)
        }
        _ => None,
    };
    let regions = match header.region_groups {
        None => None,
        Some(groups) => {
            let weights = reader.finite_list("region_weights")?;
            let n = reader.tensor("region_centers")?.shape().first().copied().unwrap_or(0);
            let values = reader.finite("region_centers", &[n, padded(weights.len())])?;
            let matrix = Matrix::from_padded(n, weights.len(), values)?;
            let [
                offsets,
                labels,
                ends,
                need,
                columns,
                half_steps,
                maps,
                scales,
                map_offset,
                rows,
                row_scales,
                row_offset,
                row_bounds,
            ] = REGIONS;
            let parts = Parts {
                offsets: reader.list(offsets, Dtype::U32)?,
                labels: reader.list(labels, Dtype::U32)?,
                ends: reader.list(ends, Dtype::U32)?,
                whole: header.list_size.ok_or_else(|| Error::format("'list_size' beside regions", "none"))?,
                need: Need::new(reader.finite_list(need)?)?,
                columns: reader.list(columns, Dtype::U8)?,
                half_steps: reader.list(half_steps, Dtype::F32)?,
                maps: reader.list(maps, Dtype::I8)?,
                scales: reader.finite_list(scales)?,
                map_offset: reader.finite_list(map_offset)?,
                rows: reader.list(rows, Dtype::I8)?,
                row_scales: reader.finite_list(row_scales)?,
                row_offset: reader.finite_list(row_offset)?,
                row_bounds: reader.list(row_bounds, Dtype::F32)?,
            };
            let layout = Layout::new(regions::SKETCH_BYTES, groups)?;
            let Some(all) = &coordinates else {
                return Err(Error::format("regions beside coordinates", "none of these"));
            };
            Some(Arc::new(Regions::from_parts(Centers::from_parts(weights, matrix)?, layout, all, parts)?))
        }
    };
    let list = match header.list {
        None => None,
        Some(ListHeader { n_listed, n_rescore, trust, ref first }) => {
            let judge = |name: &str| -> Result<[f32; LISTED]> {
                let mut judge = [0.0; LISTED];
                judge.copy_from_slice(&reader.finite(name, &[LISTED])?);
                Ok(judge)
            };
            let first = first.as_ref().map(|&FirstHeader { n_listed, trust }| {
                judge("first_trust").map(|judge| FirstRead { n_listed, trust, judge })
            });
            let (judge, first) = (judge("list_trust")?, first.transpose()?);
            Some(ListPoint { n_listed, n_rescore, trust, judge, first })
        }
    };
    let judge = match reader.file.tensor("trust") {
        Err(_) => None,
        Ok(_) => Some(Trust::from_array(&reader.finite("trust", &[NUMBERS])?)),
    };
    Ok(Fitted {
        tables: Tables::from_parts(
            header.n_tables,
            header.n_bits,
            reader.list("offsets", Dtype::U32)?,
            reader.list("entries", Dtype::U32)?,
        )?,
        always_include: reader.list("always_include", Dtype::U32)?,
        planes,
        coordinates,
        sketches,
        columns,
        exemplars,
        regions,
        level: reader.block::<f32>("level", Dtype::F32, &[1])?[0],
        observed: None,
        fitted_from: header.fitted_from,
        point: OperatingPoint {
            n_probes: header.n_probes,
            max_entries: header.max_entries,
            n_neighbors: header.n_neighbors,
            n_rescore: header.n_rescore,
            exact: header.exact,
            reach: header.reach,
            n_scan: header.n_scan,
            trust: header.trust,
            scan_trust: header.scan_trust,
            judge,
            list,
        },
    })
}

struct Reader<'a> {
    bytes: &'a Bytes,
    file: SafeTensors<'a>,
}

impl Reader<'_> {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.file.tensor(name).map_err(|_| Error::format(format!("a tensor '{name}'"), "none"))
    }

    fn block<T: Pod>(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Block<T>> {
        let tensor = self.tensor(name)?;
        if tensor.dtype() != dtype || tensor.shape() != shape {
            return Err(Error::format(
                format!("'{name}' as {dtype:?} {shape:?}"),
                format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
            ));
        }
        let offset = tensor.data().as_ptr() as usize - self.bytes.as_ptr() as usize;
        self.bytes.block(offset, shape.iter().product())
    }

    /// Numbers that queries meet.
    fn finite(&self, name: &str, shape: &[usize]) -> Result<Block<f32>> {
        all_finite(name, self.block(name, Dtype::F32, shape)?)
    }

    /// The same, as many as there are.
    fn finite_list(&self, name: &str) -> Result<Block<f32>> {
        all_finite(name, self.list(name, Dtype::F32)?)
    }

    fn sketches(
        &self,
        [name, steps]: [&str; 2],
        groups: [usize; 4],
        n: usize,
    ) -> Result<(Sketcher, Sketches)> {
        let bytes = self.tensor(name)?.shape().last().copied().unwrap_or(0);
        if bytes == regions::SKETCH_BYTES {
            return Err(Error::format(format!("'{name}' of 64 or 128 bytes"), bytes));
        }
        let layout = Layout::new(bytes, groups)?;
        let half_steps = self.block(steps, Dtype::F32, &[layout.groups() * GROUP])?;
        let codes = self.block(name, Dtype::U8, &[n, bytes])?;
        Ok((Sketcher::from_parts(layout, half_steps.to_vec())?, Sketches::new(layout, codes, n)?))
    }

    fn list<T: Pod>(&self, name: &str, dtype: Dtype) -> Result<Block<T>> {
        let len = self.tensor(name)?.shape().first().copied().unwrap_or(0);
        self.block(name, dtype, &[len])
    }
}

/// Refuse what is no number: each processor would make another answer of it.
fn all_finite(name: &str, values: Block<f32>) -> Result<Block<f32>> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(bad) => Err(Error::format(format!("'{name}' of finite numbers"), bad)),
        None => Ok(values),
    }
}

/// Length of the header and the metadata in it; refuses what is not an index or newer than this code.
fn read_header(bytes: &[u8]) -> Result<(usize, HashMap<String, String>)> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::format("a safetensors file", format!("{} bytes", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(Error::format("a safetensors file", format!("a header of {length} bytes")));
    }
    let Some(json) = rest.get(..length as usize) else {
        return Err(Error::format(
            format!("a header of {length} bytes"),
            format!("a file truncated to {} bytes", bytes.len()),
        ));
    };
    #[derive(Deserialize)]
    struct Table {
        #[serde(default)]
        __metadata__: HashMap<String, String>,
    }
    let table: Table =
        serde_json::from_slice(json).map_err(|error| Error::format("a safetensors header", error))?;
    let metadata = table.__metadata__;
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(Error::format(
            format!("format '{FORMAT}' in the metadata"),
            format!("{:?}", metadata.get("format")),
        ));
    }
    let version = metadata.get("format_version").and_then(|version| version.parse::<u32>().ok());
    match version {
        Some(version) if (1..=FORMAT_VERSION).contains(&version) => Ok((length as usize, metadata)),
        Some(version) if version > FORMAT_VERSION => Err(Error::format(
            format!("format version {FORMAT_VERSION} or older"),
            format!("version {version}: the file is from a newer lss-rs, upgrade to read it"),
        )),
        _ => Err(Error::format("a format version", format!("{:?}", metadata.get("format_version")))),
    }
}

/// The metadata of a file, without reading its tensors. Shapes and dtype of the weights come along as `m`, `d`
/// and `dtype`.
pub fn metadata(path: &Path) -> Result<HashMap<String, String>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(8).read_to_end(&mut bytes)?;
    if let Some(length) = bytes.first_chunk::<8>() {
        let length = u64::from_le_bytes(*length).min(MAX_HEADER);
        Read::by_ref(&mut file).take(length).read_to_end(&mut bytes)?;
    }
    let (length, mut metadata) = read_header(&bytes)?;
    let table: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length])
        .map_err(|error| Error::format("a safetensors header", error))?;
    let weights = &table["weights"];
    let names = [("m", &weights["shape"][0]), ("d", &weights["shape"][1]), ("dtype", &weights["dtype"])];
    for (name, value) in names {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        metadata.insert(name.into(), text);
    }
    Ok(metadata)
}

/// Write a file as a whole or not at all: a temporary beside it, then a rename. A link stays, and so do the permissions of a file
/// that is there; what is no file is refused.
pub fn save(index: &Index, extra: &str, path: &Path) -> Result<()> {
    let before = std::fs::metadata(path).ok();
    if let Some(before) = before.as_ref().filter(|before| !before.is_file()) {
        let (kind, what) = match before.is_dir() {
            true => (ErrorKind::IsADirectory, "a directory"),
            false => (ErrorKind::AlreadyExists, "no regular file"),
        };
        return Err(std::io::Error::new(kind, format!("{} is {what}", path.display())).into());
    }
    let path = &before.as_ref().map_or_else(|| Ok(path.to_path_buf()), |_| path.canonicalize())?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lss-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The permissions of any new file (the umask applies), not those of a secret.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    // Who has no folder should not hear of a temporary.
    std::fs::metadata(folder)?;
    let mut temporary = builder.tempfile_in(folder)?;
    if let Some(before) = before {
        temporary.as_file().set_permissions(before.permissions())?;
    }
    {
        let mut to = std::io::BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        write(index, extra, &mut to)?;
        to.flush()?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| Error::Io(error.error))?;
    Ok(())
}

/// Read a file; with `mmap` use it in place, and with `prefault` read its pages now rather than at first use.
pub fn load(path: &Path, mmap: bool, prefault: bool) -> Result<(Index, String)> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len())
        .map_err(|_| Error::format("a file that fits memory", "a larger one"))?;
    let bytes = if mmap && len > 0 {
        let mut options = MmapOptions::new();
        if prefault {
            options.populate();
        }
        // SAFETY: nothing is written to the map. Soundness rests on nobody truncating the file or writing to it
        // while it is mapped, which is the documented contract of `mmap=True`; files are replaced by rename,
        // never written in place, by `save`. Ids read from the map are bounds-checked at every use.
        Bytes::mapped(unsafe { options.map(&file)? })
    } else {
        Bytes::read(file, len)?
    };
    parse(&bytes)
}
