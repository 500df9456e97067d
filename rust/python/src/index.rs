//! The index.

use std::path::PathBuf;
use std::sync::Arc;

use half::{bf16, f16};
use lss_core::memory::{Block, Bytes};
use lss_core::rows::{Rows, Weights};
use lss_core::{Answers, Error, How, OnShort, OperatingPoint, Work, file, teacher};
use numpy::{
    PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt};

use crate::door::{check_dim, enter, matrix, raise, raise_at, vector};

/// An output layer that answers.
#[pyclass(frozen)]
pub struct Index(pub Arc<lss_core::Index>);

type One<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>);
type Csr<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i64>>);
type Top<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>);

#[pymethods]
impl Index {
    #[staticmethod]
    fn from_weights(
        py: Python<'_>,
        weights: &Bound<'_, PyAny>,
        bias: PyReadonlyArray1<'_, f32>,
        dtype: &str,
    ) -> PyResult<Self> {
        let (d, weights) = match dtype {
            "float32" => {
                let array: PyReadonlyArray2<'_, f32> = weights.extract()?;
                let ([_, d], values) = matrix(&array)?;
                (d, Weights::F32(Block::copy_of(values)))
            }
            "float16" | "bfloat16" => {
                let array: PyReadonlyArray2<'_, u16> = weights.extract()?;
                let ([_, d], bits) = matrix(&array)?;
                let weights = match dtype {
                    "float16" => Weights::F16(Block::<f16>::copy_of(bytemuck::cast_slice(bits))),
                    _ => Weights::Bf16(Block::<bf16>::copy_of(bytemuck::cast_slice(bits))),
                };
                (d, weights)
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
        nbytes.set_item("tables", fitted.tables.offsets().nbytes() + fitted.tables.entries().nbytes())?;
        let exemplars = fitted.exemplars.as_ref();
        nbytes.set_item(
            "exemplars",
            exemplars.map_or(0, |exemplars| {
                let sketches = exemplars.sketched().1.codes().nbytes();
                sketches + exemplars.offsets().nbytes() + exemplars.labels().nbytes()
            }),
        )?;
        nbytes.set_item(
            "sketches",
            fitted.sketches.as_ref().map_or(0, |(_, sketches)| sketches.codes().nbytes()),
        )?;
        let maps = fitted.coordinates.as_ref().map_or(0, |map| map.matrix().values().nbytes());
        nbytes.set_item("maps", maps + fitted.planes.matrix().values().nbytes())?;

        let layout = fitted.sketches.as_ref().map(|(sketcher, _)| *sketcher.layout());
        let dict = PyDict::new(py);
        dict.set_item("space", fitted.planes.space().name())?;
        dict.set_item("fill", fitted.fill().name())?;
        dict.set_item("n_bits", fitted.planes.n_bits())?;
        dict.set_item("n_tables", fitted.planes.n_tables())?;
        dict.set_item("n_probes", fitted.point.n_probes)?;
        dict.set_item("max_entries", fitted.point.max_entries)?;
        dict.set_item("n_neighbors", fitted.point.n_neighbors)?;
        dict.set_item("n_rescore", fitted.point.n_rescore)?;
        dict.set_item("exact", fitted.point.exact)?;
        dict.set_item("n_entries", fitted.tables.entries().len())?;
        dict.set_item("n_labels", exemplars.map_or(0, |exemplars| exemplars.labels().len()))?;
        dict.set_item("sketch_bytes", layout.map_or(0, |layout| layout.bytes()))?;
        dict.set_item("sketch_widths", layout.map_or_else(Vec::new, |layout| layout.widths().collect()))?;
        dict.set_item("nbytes", nbytes)?;
        Ok(dict)
    }

    fn set_operating_point(
        &self,
        n_probes: usize,
        max_entries: usize,
        n_neighbors: usize,
        n_rescore: usize,
        exact: bool,
    ) -> PyResult<()> {
        let point = OperatingPoint { n_probes, max_entries, n_neighbors, n_rescore, exact };
        self.0.set_operating_point(point).map_err(raise)
    }

    /// The same rows, not fitted.
    fn bare(&self) -> Self {
        Index(Arc::new(self.0.bare()))
    }

    /// Take what a fit of the same rows has found.
    fn adopt(&self, other: &Index) -> PyResult<()> {
        let fitted = other.0.fitted().ok_or(Error::NotFitted).map_err(raise)?;
        self.0.install((*fitted).clone());
        Ok(())
    }

    /// The same index with another operating point; it shares all memory.
    fn at(
        &self,
        n_probes: usize,
        max_entries: usize,
        n_neighbors: usize,
        n_rescore: usize,
        exact: bool,
    ) -> PyResult<Self> {
        let point = OperatingPoint { n_probes, max_entries, n_neighbors, n_rescore, exact };
        Ok(Index(Arc::new(self.0.at(point).map_err(raise)?)))
    }

    fn teacher<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        t: usize,
    ) -> PyResult<Top<'py>> {
        let ([n, d], queries) = matrix(&queries)?;
        check_dim("Q", self.0.rows().d(), d)?;
        let queries = queries.to_vec();
        let labels = PyArray2::<i64>::zeros(py, [n, t], false);
        let scores = PyArray2::<f32>::zeros(py, [n, t], false);
        {
            let (mut labels, mut scores) = (labels.readwrite(), scores.readwrite());
            let (labels, scores) = (labels.as_slice_mut()?, scores.as_slice_mut()?);
            enter(py, || teacher::top(self.0.rows(), &queries, t, labels, scores))?;
        }
        Ok((labels, scores))
    }

    /// One contiguous f32 query on the calling thread: the whole of what a latency-bound caller pays.
    fn search_one<'py>(
        &self,
        py: Python<'py>,
        query: &Bound<'py, PyAny>,
        k: &Bound<'py, PyAny>,
    ) -> PyResult<Option<One<'py>>> {
        let Ok(query) = query.cast_exact::<PyArray1<f32>>() else { return Ok(None) };
        let Ok(k) = k.cast_exact::<PyInt>() else { return Ok(None) };
        let Ok(k) = k.extract::<usize>() else { return Ok(None) };
        if k == 0 || k > MAX_FAST_K || query.len() != self.0.rows().d() || !query.is_c_contiguous() {
            return Ok(None);
        }
        let mut scratch = self.0.scratch();
        {
            let query = query.readonly();
            let query = query.as_slice()?;
            self.0.check_queries(query).map_err(raise)?;
            scratch.load(query);
        }
        let labels = PyArray1::<i64>::zeros(py, [k], false);
        let scores = PyArray1::<f32>::zeros(py, [k], false);
        {
            let (mut labels, mut scores) = (labels.readwrite(), scores.readwrite());
            let (labels, scores) = (labels.as_slice_mut()?, scores.as_slice_mut()?);
            let index = &*self.0;
            enter(py, move || {
                index.search_one(&mut scratch, OnShort::Pad, labels, scores)?;
                Ok(())
            })?;
        }
        Ok(Some((labels, scores)))
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
        num_threads: usize,
    ) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let ([n, d], queries) = matrix(&queries)?;
        check_dim("x", self.0.rows().d(), d)?;
        let queries = queries.to_vec();
        let how = How { exact, on_short: OnShort::from_name(on_short).map_err(raise)?, num_threads };
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
                let Work { probes, entries, neighbors, candidates, rescored } = *work;
                [probes, entries, neighbors, candidates, rescored].map(|n| n as i64)
            })
            .collect();
        PyArray1::from_vec(py, counters).reshape([n, 5])
    }

    fn candidates<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'py, f32>,
        num_threads: usize,
    ) -> PyResult<Csr<'py>> {
        let ([_, d], queries) = matrix(&queries)?;
        check_dim("x", self.0.rows().d(), d)?;
        let queries = queries.to_vec();
        let (offsets, ids) = enter(py, || self.0.candidates(&queries, num_threads))?;
        let offsets = offsets.into_iter().map(|offset| offset as i64).collect();
        let ids = ids.into_iter().map(i64::from).collect();
        Ok((PyArray1::from_vec(py, offsets), PyArray1::from_vec(py, ids)))
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

/// Larger k take the general way, which checks them.
const MAX_FAST_K: usize = 1 << 16;
