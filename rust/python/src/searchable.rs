//! What `lss_rs.Index` is built on: a search without options goes to the core at once.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use lss_core::{Effort, OnShort};
use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyTuple, PyType};
use pyo3::{Borrowed, PyTypeInfo, intern};

use crate::door::enter;
use crate::index::Index;

/// Larger k take the general way, which says where there is no memory for them.
const MAX_FAST_K: usize = 128;

/// Answers where nobody says how many.
const DEFAULT_K: usize = 10;

/// How many answers are asked for, if anybody says so: None is a bad number, and not nothing.
struct Number<'py>(Option<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Number<'py> {
    type Error = Infallible;

    fn extract(k: Borrowed<'_, 'py, PyAny>) -> Result<Self, Infallible> {
        Ok(Number(Some(k.to_owned())))
    }
}

/// An index that Python asks: without a frame of the interpreter, and without a look at options, where there are none.
#[pyclass(frozen, subclass, module = "lss_rs._core")]
pub struct Searchable {
    core: Py<Index>,
    /// The class of answers, a pair, and what makes a tuple of any class.
    result: Py<PyType>,
    new: Py<PyAny>,
    /// The most answers that may be asked for without a warning.
    trusted_k: AtomicUsize,
}

#[pymethods]
impl Searchable {
    #[new]
    fn new(py: Python<'_>, core: Py<Index>, result: Py<PyType>) -> PyResult<Self> {
        let new = PyTuple::type_object(py).getattr(intern!(py, "__new__"))?.unbind();
        Ok(Searchable { core, result, new, trusted_k: AtomicUsize::new(usize::MAX) })
    }

    #[getter(_core)]
    fn core(&self, py: Python<'_>) -> Py<Index> {
        self.core.clone_ref(py)
    }

    #[getter(_trusted_k)]
    fn trusted_k(&self) -> usize {
        self.trusted_k.load(Ordering::Relaxed)
    }

    #[setter(_trusted_k)]
    fn set_trusted_k(&self, k: usize) {
        self.trusted_k.store(k, Ordering::Relaxed);
    }

    /// Find the k best labels of each query; unlike faiss, labels come before scores.
    ///
    /// The answers do not depend on the number of threads, nor on what else is in the batch. One contiguous
    /// float32 query with no options, not even defaults, takes the shortest way.
    ///
    /// Parameters
    /// ----------
    /// x : array-like or CPU tensor of float, shape (n, d) or (d,)
    ///     Queries. float32 C-contiguous is taken as it is, other floats are cast.
    /// k : int
    ///     Answers wanted. More than there are rows is padded.
    /// num_threads : int, optional
    ///     Threads for a batch; by default what :func:`lss_rs.set_num_threads` set.
    /// exact : bool
    ///     Find the full layer's best labels: of all rows. Works on an unfitted index, too.
    /// on_short : {"pad", "exact", "raise"}
    ///     What to do for a query with fewer than k candidates, as far as it went: pad with label -1 and
    ///     score -inf, score every row, or raise.
    /// effort : {"adaptive", "fixed"}
    ///     "adaptive": begin with the list of the query's region, where the operating point says so; where an
    ///     answer is trusted less than the point asks, go on to the tables, to a scan of all rows by their
    ///     sketches, and from there to all rows. "fixed": the tables alone.
    /// max_cost : float, optional
    ///     Where effort ends, in full rows, for all steps together, a sketch, long or short, or a row in
    ///     bytes being as much of a row as it has of its bytes. A query whose next step would cost more stays
    ///     where it is, also where ``on_short`` or the operating point would have every row scored. Lists and
    ///     tables are searched in any case: their cost is bounded by the operating point, that of lists on
    ///     average. Exact search counts as all rows in full, also where it reads most of them in bytes.
    /// observe : bool
    ///     Learn from these queries afterwards, as :meth:`observe` does.
    /// out : (labels, scores), optional
    ///     Where to write: C-contiguous arrays of int64 and float32, of the shapes returned.
    /// stats : bool
    ///     Report what each query cost.
    ///
    /// Returns
    /// -------
    /// SearchResult
    ///     ``(labels, scores)``, each (n, k), or (k,) for a single query: int64 ids and float32 raw logits
    ///     with bias, descending, ties by lowest id. Logits beyond float32 are infinite, or NaN and last.
    ///
    /// Raises
    /// ------
    /// NotFittedError
    ///     If the index is not fitted and ``exact`` is false.
    /// ShortResultError
    ///     With ``on_short="raise"``.
    /// TypeError
    ///     If x is not of floats or not on the CPU, k is not an int, or a switch is not a bool.
    /// ValueError
    ///     If shapes do not fit, a value is NaN or infinite, or k < 1.
    ///
    /// Warns
    /// -----
    /// UserWarning
    ///     Once, if k is larger than the index was fitted for.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> from lss_rs import Index
    /// >>> index = Index.from_weights(np.eye(4, dtype=np.float32), b=np.float32([0, 0, 0, 1]))
    /// >>> index.search(np.float32([0, 2, 0, 0]), k=2, exact=True).labels.tolist()
    /// [1, 3]
    #[pyo3(
        signature = (x, k=Number(None), **options),
        text_signature = "($self, x, k=10, *, num_threads=None, exact=False, on_short='pad', effort='adaptive', \
                          max_cost=None, observe=False, out=None, stats=False)"
    )]
    fn search<'py>(
        slf: &Bound<'py, Self>,
        x: &Bound<'py, PyAny>,
        k: Number<'py>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if options.is_none()
            && let Some(found) = slf.get().search_one(x, &k)?
        {
            return Ok(found);
        }
        let name = intern!(py, "_search");
        match k.0 {
            Some(k) => slf.call_method(name, (x, k), options),
            None => slf.call_method(name, (x,), options),
        }
    }
}

impl Searchable {
    /// One contiguous f32 query on the calling thread: the whole of what a latency-bound caller pays. None for all others.
    fn search_one<'py>(
        &self,
        query: &Bound<'py, PyAny>,
        k: &Number<'py>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, index) = (query.py(), &*self.core.get().0);
        let Ok(query) = query.cast_exact::<PyArray1<f32>>() else { return Ok(None) };
        let k = match &k.0 {
            Some(k) => k.cast_exact::<PyInt>().ok().and_then(|k| k.extract::<usize>().ok()),
            None => Some(DEFAULT_K),
        };
        let most = MAX_FAST_K.min(self.trusted_k());
        let Some(k) = k.filter(|k| (1..=most).contains(k)) else { return Ok(None) };
        if query.len() != index.rows().d() || !query.is_c_contiguous() || !query.is_aligned() {
            return Ok(None);
        }
        let mut scratch = index.scratch();
        {
            let Ok(query) = query.try_readonly() else { return Ok(None) };
            let query = query.as_slice()?;
            if index.check_queries(query).is_err() {
                // What is wrong is said in one place.
                return Ok(None);
            }
            scratch.load(query);
        }
        // Arrays are made when answers are there: arrays that are written to have to be borrowed, which takes a while.
        let (mut labels, mut scores) = std::mem::take(&mut scratch.room);
        labels.resize(k, 0);
        scores.resize(k, 0.0);
        enter(py, || {
            index.search_one(&mut scratch, OnShort::Pad, Effort::ADAPTIVE, &mut labels, &mut scores)?;
            Ok(())
        })?;
        let found = (PyArray1::from_slice(py, &labels), PyArray1::from_slice(py, &scores));
        scratch.room = (labels, scores);
        self.new.bind(py).call1((&self.result, found)).map(Some)
    }
}
