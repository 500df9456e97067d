//! What learning hands over: coordinates, planes, and the builder that turns them into tables.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lss_core::coordinates::{Affine, Coordinates as CoreCoordinates, Projection};
use lss_core::exemplars::{ExemplarSketcher, Lists, concat};
use lss_core::hash::{Planes as CorePlanes, Space};
use lss_core::memory::{Block, Matrix};
use lss_core::need::Need;
use lss_core::regions::{self, Centers as CoreCenters, Plan, RegionLists, RegionMap};
use lss_core::sketch::Layout;
use lss_core::{Error, Fill, Recipe};
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::door::{check_dim, cube, enter, matrix, raise, vector};
use crate::index::{Csr, Index, Point, csr, operating_point};

/// Logit-aligned coordinates of queries and rows.
#[pyclass(frozen)]
pub struct Coordinates(CoreCoordinates);

#[pymethods]
impl Coordinates {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "arrays from Python, one by one")]
    fn new(
        query_map: PyReadonlyArray2<'_, f32>,
        query_offset: PyReadonlyArray1<'_, f32>,
        query_mean: PyReadonlyArray1<'_, f32>,
        query_deviations: PyReadonlyArray1<'_, f32>,
        row_map: PyReadonlyArray2<'_, f32>,
        row_offset: PyReadonlyArray1<'_, f32>,
        variances: PyReadonlyArray1<'_, f32>,
        base: PyReadonlyArray1<'_, f32>,
    ) -> PyResult<Self> {
        let ([rows, cols], values) = matrix(&query_map)?;
        let spread = [vector(&query_mean)?, vector(&query_deviations)?];
        let query = Projection::new(rows, cols, values, vector(&query_offset)?, spread).map_err(raise)?;
        let ([rows, cols], values) = matrix(&row_map)?;
        let row = Affine::new(Matrix::new(rows, cols, values), Block::copy_of(vector(&row_offset)?));
        Ok(Coordinates(CoreCoordinates {
            query,
            row: row.map_err(raise)?,
            variances: vector(&variances)?.to_vec(),
            base: Block::copy_of(vector(&base)?),
        }))
    }
}

/// The hyperplanes of all tables.
#[pyclass(frozen)]
pub struct Planes(pub CorePlanes);

#[pymethods]
impl Planes {
    #[new]
    fn new(
        planes: PyReadonlyArray3<'_, f32>,
        thresholds: PyReadonlyArray2<'_, f32>,
        space: &str,
    ) -> PyResult<Self> {
        let ([n_tables, n_bits, dim], values) = cube(&planes)?;
        let (shape, thresholds) = matrix(&thresholds)?;
        if shape != [n_tables, n_bits] {
            return Err(PyValueError::new_err(format!(
                "'thresholds' must be of shape ({n_tables}, {n_bits}). Got {shape:?} instead."
            )));
        }
        let planes = Matrix::new(n_tables * n_bits, dim, values);
        let space = Space::from_name(space).map_err(raise)?;
        CorePlanes::new(space, n_tables, n_bits, planes, Block::copy_of(thresholds))
            .map(Planes)
            .map_err(raise)
    }
}

/// Bits a coordinate for each group of 32 leading coordinates, by reverse water-filling.
#[pyfunction]
pub fn sketch_widths(variances: PyReadonlyArray1<'_, f32>, n_bytes: usize) -> PyResult<Vec<usize>> {
    Ok(Layout::allocate(vector(&variances)?, n_bytes).map_err(raise)?.widths().collect())
}

/// The same for the sketches of exemplars.
#[pyfunction]
pub fn exemplar_widths(variances: PyReadonlyArray1<'_, f32>) -> PyResult<Vec<usize>> {
    let sketcher = ExemplarSketcher::new(vector(&variances)?).map_err(raise)?;
    Ok(sketcher.sketcher().layout().widths().collect())
}

/// The same for the labels of regions.
#[pyfunction]
pub fn region_widths(variances: PyReadonlyArray1<'_, f32>) -> PyResult<Vec<usize>> {
    Ok(Layout::allocate(vector(&variances)?, regions::SKETCH_BYTES).map_err(raise)?.widths().collect())
}

/// Centers of regions in weighted leading coordinates.
#[pyclass(frozen)]
pub struct Centers(CoreCenters);

#[pymethods]
impl Centers {
    #[new]
    fn new(weights: PyReadonlyArray1<'_, f32>, centers: PyReadonlyArray2<'_, f32>) -> PyResult<Self> {
        let ([_, cols], values) = matrix(&centers)?;
        let weights = vector(&weights)?;
        check_dim("centers", weights.len(), cols)?;
        Ok(Centers(CoreCenters::new(weights, values).map_err(raise)?))
    }
}

/// Gathers training queries, then builds.
#[pyclass(frozen)]
pub struct Builder {
    m: usize,
    d: usize,
    state: Mutex<Option<lss_core::Builder>>,
}

#[pymethods]
impl Builder {
    #[new]
    #[pyo3(signature = (index, planes, coordinates, *, fill, always_include, sketch_bytes, point))]
    #[allow(clippy::too_many_arguments, reason = "a record, spelled as keywords in Python")]
    fn new(
        index: &Index,
        planes: &Planes,
        coordinates: Option<&Coordinates>,
        fill: &str,
        always_include: PyReadonlyArray1<'_, i64>,
        sketch_bytes: usize,
        point: Point,
    ) -> PyResult<Self> {
        let recipe = Recipe {
            planes: planes.0.clone(),
            coordinates: coordinates.map(|coordinates| coordinates.0.clone()),
            fill: Fill::from_name(fill).map_err(raise)?,
            always_include: labels("always_include", vector(&always_include)?, index.0.rows().m())?,
            sketch_bytes,
            point: operating_point(point),
        };
        let builder = lss_core::Builder::new(index.0.clone(), recipe).map_err(raise)?;
        Ok(Builder { m: index.0.rows().m(), d: index.0.rows().d(), state: Mutex::new(Some(builder)) })
    }

    fn add(
        &self,
        py: Python<'_>,
        queries: PyReadonlyArray2<'_, f32>,
        indptr: PyReadonlyArray1<'_, i64>,
        indices: PyReadonlyArray1<'_, i64>,
    ) -> PyResult<()> {
        let ([_, d], queries) = matrix(&queries)?;
        check_dim("Q", self.d, d)?;
        let queries = queries.to_vec();
        let labels = labels("Y", vector(&indices)?, self.m)?;
        let offsets = offsets(vector(&indptr)?)?;
        enter(py, || self.with(|builder| builder.add(&queries, Lists { offsets: &offsets, labels: &labels })))
    }

    /// The region of each query, as a search finds it.
    fn place<'py>(
        &self,
        py: Python<'py>,
        centers: &Centers,
        queries: PyReadonlyArray2<'_, f32>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let ([_, d], queries) = matrix(&queries)?;
        check_dim("Q", self.d, d)?;
        let queries = queries.to_vec();
        let regions = enter(py, || self.with(|builder| builder.place(&centers.0, &queries)))?;
        Ok(regions.into_pyarray(py))
    }

    /// Labels that the queries of each of `n` regions needed, those needed most first, as indptr and ids, where reading ends, and
    /// how many they are on average.
    fn lists<'py>(
        &self,
        py: Python<'py>,
        regions: PyReadonlyArray1<'_, u32>,
        n: usize,
        most: usize,
    ) -> PyResult<(Csr<'py>, Bound<'py, PyArray2<u32>>, usize)> {
        let regions = vector(&regions)?.to_vec();
        let lists = enter(py, || self.with(|builder| builder.lists(&regions, n, most)))?;
        let (offsets, ids) = concat(&lists.labels);
        let ends = lists.ends.into_pyarray(py).reshape([n, regions::ENDS])?;
        Ok((csr(py, offsets, ids), ends, lists.whole))
    }

    /// Have such lists laid out, by coordinates of each region.
    #[allow(clippy::too_many_arguments, reason = "arrays from Python, one by one")]
    fn lay_out(
        &self,
        py: Python<'_>,
        centers: &Centers,
        indptr: PyReadonlyArray1<'_, i64>,
        ids: PyReadonlyArray1<'_, i64>,
        ends: PyReadonlyArray2<'_, u32>,
        whole: usize,
        query_maps: PyReadonlyArray3<'_, f32>,
        query_offsets: PyReadonlyArray2<'_, f32>,
        row_maps: PyReadonlyArray3<'_, f32>,
        means: PyReadonlyArray2<'_, f32>,
        variances: PyReadonlyArray1<'_, f32>,
    ) -> PyResult<()> {
        let (offsets, ids) = (offsets(vector(&indptr)?)?, labels("ids", vector(&ids)?, self.m)?);
        let lists = Lists { offsets: &offsets, labels: &ids };
        let ([n, p, d], query_maps) = cube(&query_maps)?;
        let ([_, _], query_offsets) = matrix(&query_offsets)?;
        let ([_, _, _], row_maps) = cube(&row_maps)?;
        let ([_, _], means) = matrix(&means)?;
        let sizes = [query_offsets.len(), row_maps.len(), means.len(), d];
        if sizes != [n * p, n * p * d, n * d, self.d] {
            let got = format!("{sizes:?}");
            return Err(raise(Error::Value { arg: "query_maps", expected: "of one size".into(), got }));
        }
        lists.check(n, self.m).map_err(raise)?;
        let region = |at: usize| RegionMap {
            query: query_maps[at * p * d..][..p * d].to_vec(),
            offset: query_offsets[at * p..][..p].to_vec(),
            row: row_maps[at * p * d..][..p * d].to_vec(),
            mean: means[at * d..][..d].to_vec(),
        };
        let variances = vector(&variances)?.to_vec();
        let labels = (0..n).map(|at| lists.get(at).to_vec()).collect();
        let lists = RegionLists { labels, ends: matrix(&ends)?.1.to_vec(), whole };
        let maps = (0..n).map(region).collect();
        let plan = Plan { centers: centers.0.clone(), lists, maps, variances };
        enter(py, || self.with(|builder| builder.lay_out(plan)))
    }

    /// What a search of queries (n, d) knows before it reads their lists, (n, 4 + r).
    fn known<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray2<'_, f32>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let ([n, d], queries) = matrix(&queries)?;
        check_dim("Q", self.d, d)?;
        let queries = queries.to_vec();
        let known = enter(py, || self.with(|builder| builder.known(&queries)))?;
        let each = known.len() / n.max(1);
        PyArray1::from_vec(py, known).reshape([n, each])
    }

    /// Have queries read as far as they need, by weights (5 + r,).
    fn set_need(&self, py: Python<'_>, weights: PyReadonlyArray1<'_, f32>) -> PyResult<()> {
        let need = Need::new(Block::copy_of(vector(&weights)?)).map_err(raise)?;
        enter(py, || self.with(|builder| builder.set_need(need)))
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        enter(py, || {
            let builder = self.state().take();
            builder.ok_or_else(finished)?.finish()
        })
    }
}

impl Builder {
    fn with<T>(
        &self,
        job: impl FnOnce(&mut lss_core::Builder) -> lss_core::Result<T>,
    ) -> lss_core::Result<T> {
        job(self.state().as_mut().ok_or_else(finished)?)
    }

    fn state(&self) -> MutexGuard<'_, Option<lss_core::Builder>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn finished() -> Error {
    Error::Value { arg: "builder", expected: "unfinished".into(), got: "a finished one".into() }
}

/// Offsets as the core keeps them.
pub fn offsets(indptr: &[i64]) -> PyResult<Vec<usize>> {
    let offsets: Option<Vec<usize>> = indptr.iter().map(|&offset| usize::try_from(offset).ok()).collect();
    offsets.ok_or_else(|| PyValueError::new_err("'Y' must have offsets of at least 0."))
}

/// Labels as the core keeps them.
pub fn labels(arg: &'static str, ids: &[i64], m: usize) -> PyResult<Vec<u32>> {
    let narrow = |&id: &i64| {
        u32::try_from(id).ok().filter(|&id| (id as usize) < m).ok_or_else(|| {
            raise(Error::Value { arg, expected: format!("labels in 0..{m}"), got: id.to_string() })
        })
    };
    ids.iter().map(narrow).collect()
}
