//! The index.

use std::path::PathBuf;
use std::sync::Arc;

use bytemuck::Pod;
use half::{bf16, f16};
use lss_core::coordinates::Projection;
use lss_core::exemplars::{Exemplars, Lists};
use lss_core::kernels::Kernel;
use lss_core::memory::{Block, Bytes};
use lss_core::rows::{Rows, Weights};
use lss_core::search::STAGES;
use lss_core::tables::Tables;
use lss_core::trust::{LISTED, NUMBERS, SCAN, TABLES};
use lss_core::{
    Answers, Effort, Error, Features, FirstRead, How, ListPoint, OnShort, OperatingPoint, Trust, Work, file,
    teacher,
};
use numpy::{
    Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::door::{check_dim, enter, matrix, raise, raise_at, vector};
use crate::learn::{Planes, labels, offsets};

/// An output layer that answers.
#[pyclass(frozen)]
pub struct Index(pub Arc<lss_core::Index>);

pub type Csr<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>);
type Top<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>);
type Placed<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<f32>>);
type Counted<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray1<f32>>);
type Listed<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>);
type Profile<'py> = (Vec<&'static str>, Bound<'py, PyArray2<f64>>, Bound<'py, PyArray1<f64>>);
type Compared<'py> = (
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray1<bool>>,
);

#[pymethods]
impl Index {
    #[staticmethod]
    fn from_weights(
        py: Python<'_>,
        weights: &Bound<'_, PyAny>,
        bias: PyReadonlyArray1<'_, f32>,
        dtype: &str,
        copy: bool,
    ) -> PyResult<Self> {
        let (d, weights) = match dtype {
            "float32" => {
                let (d, block) = block::<f32, f32>(weights, copy)?;
                (d, Weights::F32(block))
            }
            "float16" => {
                let (d, block) = block::<u16, f16>(weights, copy)?;
                (d, Weights::F16(block))
            }
            "bfloat16" => {
                let (d, block) = block::<u16, bf16>(weights, copy)?;
                (d, Weights::Bf16(block))
            }
            other => {
                let expected = "'float32', 'float16' or 'bfloat16'".into();
                return Err(raise(Error::Value { arg: "dtype", expected, got: format!("'{other}'") }));
            }
        };
        let bias = Block::copy_of(vector(&bias)?);
        let rows = enter(py, || {
            let rows = Rows::new(d, weights, bias)?;
            rows.check_finite()?;
            Ok(rows)
        })?;
        Ok(Index(Arc::new(lss_core::Index::new(rows))))
    }

    #[getter]
    fn m(&self) -> usize {
        self.0.rows().m()
    }

    #[getter]
    fn d(&self) -> usize {
        self.0.rows().d()
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.0.rows().weights().dtype()
    }

    #[getter]
    fn fitted(&self) -> bool {
        self.0.fitted().is_some()
    }

    #[getter]
    fn params<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fitted = self.0.fitted().ok_or(Error::NotFitted).map_err(raise)?;
        let nbytes = PyDict::new(py);
        nbytes.set_item("rows", self.0.rows().weights().nbytes() + self.0.rows().bias().nbytes())?;
        let tables = fitted.all_tables();
        let exemplars: Vec<&Exemplars> = fitted.parts().into_iter().flatten().collect();
        let bytes = |tables: &Tables| tables.offsets().nbytes() + tables.entries().nbytes();
        nbytes.set_item("tables", tables.iter().map(|tables| bytes(tables)).sum::<usize>())?;
        let bytes = |exemplars: &Exemplars| {
            let sketches = exemplars.sketched().1.codes().nbytes();
            sketches + exemplars.offsets().nbytes() + exemplars.labels().nbytes()
        };
        nbytes.set_item("exemplars", exemplars.iter().map(|exemplars| bytes(exemplars)).sum::<usize>())?;
        nbytes.set_item(
            "sketches",
            fitted.sketches.as_ref().map_or(0, |(_, sketches)| sketches.codes().nbytes()),
        )?;
        let columns = fitted.columns.as_ref().map_or(0, |columns| columns.codes().nbytes());
        nbytes.set_item("columns", columns)?;
        nbytes.set_item("regions", fitted.regions.as_ref().map_or(0, |regions| regions.nbytes()))?;
        nbytes.set_item("observing", self.0.observer_nbytes())?;
        let maps = fitted.coordinates.as_ref().map_or(0, Projection::nbytes);
        nbytes.set_item("maps", maps + fitted.planes.matrix().values().nbytes())?;

        let layout = fitted.sketches.as_ref().map(|(sketcher, _)| *sketcher.layout());
        let dict = PyDict::new(py);
        dict.set_item("space", fitted.planes.space().name())?;
        dict.set_item("fill", fitted.fill().name())?;
        let answers = fitted.point.judge.map_or(0, |trust| trust.k);
        dict.set_item("scan_nbytes", fitted.scan(answers, self.0.rows().m()).nbytes)?;
        dict.set_item("n_bits", fitted.planes.n_bits())?;
        dict.set_item("n_tables", fitted.planes.n_tables())?;
        dict.set_item("n_probes", fitted.point.n_probes)?;
        dict.set_item("max_entries", fitted.point.max_entries)?;
        dict.set_item("n_neighbors", fitted.point.n_neighbors)?;
        dict.set_item("n_rescore", fitted.point.n_rescore)?;
        dict.set_item("exact", fitted.point.exact)?;
        dict.set_item("reach", fitted.point.reach)?;
        dict.set_item("n_scan", fitted.point.n_scan)?;
        dict.set_item("trust", fitted.point.trust)?;
        dict.set_item("scan_trust", fitted.point.scan_trust)?;
        let judge = fitted.point.judge.map(|judge| judge.to_array());
        dict.set_item("judge", judge.map(|weights| PyTuple::new(py, weights)).transpose()?)?;
        let list = fitted.point.list.map(|ListPoint { n_listed, n_rescore, trust, judge, first }| {
            let first = first.map(|FirstRead { n_listed, trust, judge }| {
                PyTuple::new(py, judge).map(|judge| (n_listed, trust, judge))
            });
            let first = first.transpose()?;
            PyTuple::new(py, judge).map(|judge| (n_listed, n_rescore, trust, judge, first))
        });
        dict.set_item("list", list.transpose()?)?;
        let listed = fitted.regions.as_ref().map_or(0, |regions| regions.whole());
        dict.set_item("n_listed", listed)?;
        if let (Some(regions), Some(map)) = (&fitted.regions, &fitted.coordinates) {
            let lead = regions.centers().weights().len();
            dict.set_item("lead_nbytes", map.nbytes_of_first(lead))?;
            dict.set_item("region_nbytes", regions.nbytes_of_map())?;
            dict.set_item("row_nbytes", regions.rows().map().nbytes_of_row())?;
        }
        dict.set_item("n_entries", tables.iter().map(|tables| tables.len()).sum::<usize>())?;
        dict.set_item("n_labels", exemplars.iter().map(|exemplars| exemplars.labels().len()).sum::<usize>())?;
        dict.set_item("sketch_bytes", layout.map_or(0, |layout| layout.bytes()))?;
        dict.set_item("sketch_widths", layout.map_or_else(Vec::new, |layout| layout.widths().collect()))?;
        dict.set_item("nbytes", nbytes)?;
        Ok(dict)
    }

    fn set_operating_point(&self, point: Point) -> PyResult<()> {
        self.0.set_operating_point(operating_point(point)).map_err(raise)
    }

    /// Leading coordinates of all exemplars, (n, p), and what each coordinate weighs, (p,).
    fn exemplar_coordinates<'py>(&self, py: Python<'py>, p: usize) -> PyResult<Placed<'py>> {
        let (all, weights) = enter(py, || self.0.exemplar_coordinates(p))?;
        let shape = [all.len() / weights.len().max(1), weights.len()];
        Ok((PyArray1::from_vec(py, all).reshape(shape)?, PyArray1::from_vec(py, weights)))
    }

    /// Leading coordinates of all rows, (m, p), and their base logits, (m,).
    fn row_coordinates<'py>(&self, py: Python<'py>, p: usize) -> PyResult<Placed<'py>> {
        let (all, bases) = enter(py, || self.0.row_coordinates(p))?;
        let shape = [bases.len(), all.len() / bases.len().max(1)];
        Ok((PyArray1::from_vec(py, all).reshape(shape)?, PyArray1::from_vec(py, bases)))
    }

    /// The query's map, (p, d), and what it adds, (p,).
    fn query_map<'py>(&self, py: Python<'py>) -> PyResult<Placed<'py>> {
        let (map, offset) = enter(py, || self.0.query_map())?;
        let shape = [offset.len(), self.0.rows().d()];
        Ok((PyArray1::from_vec(py, map).reshape(shape)?, PyArray1::from_vec(py, offset)))
    }

    /// How often a fit was installed.
    #[getter]
    fn fits(&self) -> u64 {
        self.0.fits()
    }

    /// Hash the exemplars anew.
    fn rehash(&self, py: Python<'_>, planes: &Planes, fits: u64) -> PyResult<()> {
        enter(py, || self.0.rehash(planes.0.clone(), fits))
    }

    /// Learn from queries that are served: how many became exemplars, and how many there are.
    #[allow(clippy::too_many_arguments, reason = "queries, labels as CSR, and three numbers")]
    fn observe(
        &self,
        py: Python<'_>,
        queries: PyReadonlyArray2<'_, f32>,
        lists: Option<(PyReadonlyArray1<'_, i64>, PyReadonlyArray1<'_, i64>)>,
        t: usize,
        capacity: usize,
        fits: u64,
    ) -> PyResult<Option<(usize, usize)>> {
        let (_, queries) = self.queries("Q", &queries)?;
        let lists = match &lists {
            Some((indptr, indices)) => {
                Some((offsets(vector(indptr)?)?, labels("Y", vector(indices)?, self.0.rows().m())?))
            }
            None => None,
        };
        let told = enter(py, || {
            let lists = lists.as_ref().map(|(offsets, labels)| Lists { offsets, labels });
            self.0.observe(&queries, lists, t, capacity, fits)
        })?;
        Ok(told.map(|told| (told.added, told.exemplars)))
    }

    /// Answer by tables and by a scan: labels of both (n, k), and features of both.
    fn compare<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        full: PyReadonlyArray2<'py, i64>,
    ) -> PyResult<Compared<'py>> {
        let (n, queries) = self.queries("x", &queries)?;
        let ([_, k], full) = matrix(&full)?;
        let full = full.to_vec();
        let (by_tables, by_scan) =
            (PyArray2::<i64>::zeros(py, [n, k], false), PyArray2::<i64>::zeros(py, [n, k], false));
        let mut features = vec![Features::default(); n];
        {
            let (mut by_tables, mut by_scan) = (by_tables.readwrite(), by_scan.readwrite());
            let labels = [by_tables.as_slice_mut()?, by_scan.as_slice_mut()?];
            enter(py, || self.0.compare(&queries, k, &full, labels, &mut features))?;
        }
        let of_tables: Vec<f32> = features.iter().flat_map(|features| features.tables).collect();
        let of_scan: Vec<f32> = features.iter().flat_map(|features| features.scan).collect();
        let held: Vec<bool> = features.iter().map(|features| features.held).collect();
        Ok((
            by_tables,
            by_scan,
            PyArray1::from_vec(py, of_tables).reshape([n, TABLES])?,
            PyArray1::from_vec(py, of_scan).reshape([n, SCAN])?,
            PyArray1::from_vec(py, held),
        ))
    }

    /// Answer from the lists of regions: labels (n, k), and features of each answer.
    #[pyo3(signature = (queries, k, n_listed, n_rescore, n_first=None))]
    fn read_lists<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
        n_listed: usize,
        n_rescore: usize,
        n_first: Option<usize>,
    ) -> PyResult<Listed<'py>> {
        let (n, queries) = self.queries("x", &queries)?;
        let labels = PyArray2::<i64>::zeros(py, [n, k], false);
        let mut features = vec![[0.0f32; LISTED]; n];
        {
            let mut labels = labels.readwrite();
            let labels = labels.as_slice_mut()?;
            enter(py, || {
                self.0.read_lists(&queries, k, [n_listed, n_rescore], n_first, labels, &mut features)
            })?;
        }
        Ok((labels, PyArray1::from_vec(py, features.into_flattened()).reshape([n, LISTED])?))
    }

    /// The same rows, not fitted.
    fn bare(&self) -> Self {
        Index(Arc::new(self.0.bare()))
    }

    /// Take what a fit of the same rows has found.
    fn adopt(&self, py: Python<'_>, other: &Index) -> PyResult<()> {
        enter(py, || self.0.adopt(&other.0))
    }

    /// The same index with another operating point; it shares all memory.
    fn at(&self, py: Python<'_>, point: Point) -> PyResult<Self> {
        Ok(Index(Arc::new(enter(py, || self.0.at(operating_point(point)))?)))
    }

    fn teacher<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        t: usize,
    ) -> PyResult<Top<'py>> {
        let (n, queries) = self.queries("Q", &queries)?;
        let labels = PyArray2::<i64>::zeros(py, [n, t], false);
        let scores = PyArray2::<f32>::zeros(py, [n, t], false);
        {
            let (mut labels, mut scores) = (labels.readwrite(), scores.readwrite());
            let (labels, scores) = (labels.as_slice_mut()?, scores.as_slice_mut()?);
            enter(py, || teacher::top(self.0.rows(), Kernel::active(), &queries, t, labels, scores))?;
        }
        Ok((labels, scores))
    }

    #[allow(clippy::too_many_arguments, reason = "the options of a search, spelled out once")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
        mut labels: PyReadwriteArray2<'py, i64>,
        mut scores: PyReadwriteArray2<'py, f32>,
        exact: bool,
        on_short: &str,
        adaptive: bool,
        max_cost: f64,
        num_threads: usize,
    ) -> PyResult<Counted<'py>> {
        let (n, queries) = self.queries("x", &queries)?;
        let on_short = OnShort::from_name(on_short).map_err(raise)?;
        let how = How { effort: Effort { adaptive, max_cost }, exact, on_short, num_threads };
        let (labels, scores) = (labels.as_slice_mut()?, scores.as_slice_mut()?);
        if labels.len() != n * k || scores.len() != n * k {
            let got = format!("{} and {} places", labels.len(), scores.len());
            return Err(raise(Error::Value { arg: "out", expected: format!("of shape ({n}, {k})"), got }));
        }
        let mut work = vec![Work::default(); n];
        enter(py, || self.0.search(&queries, k, how, Answers { labels, scores, work: &mut work }))?;
        let counters: Vec<i64> = work
            .iter()
            .flat_map(|work| {
                let Work { probes, entries, neighbors, candidates, rescored, step, .. } = *work;
                [probes, entries, neighbors, candidates, rescored, step as usize].map(|n| n as i64)
            })
            .collect();
        let trust = work.iter().map(|work| work.trust).collect();
        Ok((PyArray1::from_vec(py, counters).reshape([n, 6])?, PyArray1::from_vec(py, trust)))
    }

    fn candidates<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        num_threads: usize,
    ) -> PyResult<Csr<'py>> {
        let (_, queries) = self.queries("x", &queries)?;
        let (offsets, ids) = enter(py, || self.0.candidates(&queries, num_threads))?;
        Ok(csr(py, offsets, ids))
    }

    /// Names of the stages of a search's first step, how long each takes, (n, stages), and how long the whole search, (n,), in seconds.
    fn profile<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        k: usize,
    ) -> PyResult<Profile<'py>> {
        let (n, queries) = self.queries("x", &queries)?;
        let (taken, whole) = enter(py, || self.0.profile(&queries, k))?;
        let taken = PyArray1::from_vec(py, taken.into_flattened()).reshape([n, STAGES.len()])?;
        Ok((STAGES.to_vec(), taken, PyArray1::from_vec(py, whole)))
    }

    /// Rows in single precision, for learning.
    fn rows<'py>(&self, py: Python<'py>, first: usize, n: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (m, d) = (self.0.rows().m(), self.0.rows().d());
        if first.checked_add(n).is_none_or(|end| end > m) {
            let got = format!("{first}..{first}+{n}");
            return Err(raise(Error::Value { arg: "first", expected: format!("rows in 0..{m}"), got }));
        }
        let mut values = Vec::new();
        self.0.rows().widen_into(first, n, &mut values);
        PyArray1::from_vec(py, values).reshape([n, d])
    }

    /// The rows of these labels in single precision.
    fn rows_of<'py>(
        &self,
        py: Python<'py>,
        labels: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (m, d) = (self.0.rows().m(), self.0.rows().d());
        let ids = crate::learn::labels("labels", vector(&labels)?, m)?;
        let (mut values, mut row) = (Vec::with_capacity(ids.len() * d), Vec::new());
        for &id in &ids {
            self.0.rows().widen_into(id as usize, 1, &mut row);
            values.extend_from_slice(&row);
        }
        PyArray1::from_vec(py, values).reshape([ids.len(), d])
    }

    #[getter]
    fn bias<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, self.0.rows().bias())
    }

    fn validate(&self, py: Python<'_>) -> PyResult<()> {
        let (m, d) = (self.0.rows().m(), self.0.rows().d());
        match self.0.fitted() {
            Some(fitted) => enter(py, || fitted.validate(m, d)),
            None => Ok(()),
        }
    }

    fn save(&self, py: Python<'_>, path: PathBuf, extra: &str) -> PyResult<()> {
        py.detach(|| file::save(&self.0, extra, &path)).map_err(|error| raise_at(&path, error))
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, mmap: bool, prefault: bool) -> PyResult<(Self, String)> {
        let loaded = py.detach(|| file::load(&path, mmap, prefault));
        let (index, extra) = loaded.map_err(|error| raise_at(&path, error))?;
        Ok((Index(Arc::new(index)), extra))
    }

    fn to_bytes<'py>(&self, py: Python<'py>, extra: &str) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = enter(py, || {
            let mut bytes = Vec::new();
            file::write(&self.0, extra, &mut bytes)?;
            Ok(bytes)
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<(Self, String)> {
        let bytes = Bytes::copy_of(data);
        let (index, extra) = enter(py, || file::parse(&bytes))?;
        Ok((Index(Arc::new(index)), extra))
    }

    #[staticmethod]
    fn metadata(py: Python<'_>, path: PathBuf) -> PyResult<std::collections::HashMap<String, String>> {
        py.detach(|| file::metadata(&path)).map_err(|error| raise_at(&path, error))
    }
}

impl Index {
    /// How many queries there are, and a copy of them that no other thread can change.
    fn queries(&self, arg: &'static str, queries: &PyReadonlyArray2<'_, f32>) -> PyResult<(usize, Vec<f32>)> {
        let ([n, d], queries) = matrix(queries)?;
        check_dim(arg, self.0.rows().d(), d)?;
        Ok((n, queries.to_vec()))
    }
}

/// Lists as numpy reads them: indptr and ids.
pub fn csr(py: Python<'_>, offsets: Vec<usize>, ids: Vec<u32>) -> Csr<'_> {
    let offsets = offsets.into_iter().map(|offset| offset as i64).collect();
    let ids = ids.into_iter().map(i64::from).collect();
    (PyArray1::from_vec(py, offsets), PyArray1::from_vec(py, ids))
}

/// An operating point as Python's tuple of that name: n_probes, max_entries, n_neighbors, n_rescore, exact, reach,
/// n_scan, trust, scan_trust, judge, list.
pub type Point =
    (usize, usize, usize, usize, bool, Option<f32>, usize, f32, f32, Option<[f32; NUMBERS]>, Option<List>);

/// What is read of lists: n_listed, n_rescore, trust, judge, first (n_listed, trust, judge).
type List = (usize, usize, f32, [f32; LISTED], Option<(usize, f32, [f32; LISTED])>);

/// What an index searches with.
pub fn operating_point(point: Point) -> OperatingPoint {
    let (n_probes, max_entries, n_neighbors, n_rescore, exact, reach, n_scan, trust, scan_trust, judge, list) =
        point;
    let judge = judge.map(|weights| Trust::from_array(&weights));
    let list = list.map(|(n_listed, n_rescore, trust, judge, first)| {
        let first = first.map(|(n_listed, trust, judge)| FirstRead { n_listed, trust, judge });
        ListPoint { n_listed, n_rescore, trust, judge, first }
    });
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

/// The rows of an array of `T`, which are of `S`, and their dimension: a copy, or the array's own memory.
fn block<T: Element + Pod, S: Pod>(weights: &Bound<'_, PyAny>, copy: bool) -> PyResult<(usize, Block<S>)> {
    let array: PyReadonlyArray2<'_, T> = weights.extract()?;
    let ([_, d], values) = matrix(&array)?;
    if copy {
        return Ok((d, Block::copy_of(bytemuck::cast_slice(values))));
    }
    let bytes: &[u8] = bytemuck::cast_slice(values);
    #[allow(unsafe_code, reason = "an array outlives the call that brought it")]
    // SAFETY: the array's memory is there while the array is, which is kept; that nobody writes to it is the
    // documented contract of `copy=False`.
    let lent = unsafe { Bytes::lent(bytes, weights.clone().unbind()) };
    Ok((d, lent.block(0, values.len()).map_err(raise)?))
}
