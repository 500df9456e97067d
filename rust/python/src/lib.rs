//! lss_rs._core: the door between Python and lss-core. Arrays in, arrays out, errors mapped once; no logic.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

mod door;
mod index;
mod learn;
mod searchable;

use lss_core::kernels::{Kernel, cpu_features as features};
use lss_core::{Error, threads};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use door::{FormatError, NotFittedError, ShortResultError, raise};

/// Set the number of threads that batches use; 0 goes back to the environment's choice.
#[pyfunction]
fn set_num_threads(n: i64) -> PyResult<()> {
    let expected = || Error::Value { arg: "n", expected: "0 or more threads".into(), got: n.to_string() };
    threads::set_num_threads(usize::try_from(n).map_err(|_| raise(expected()))?).map_err(raise)
}

/// The number of threads that batches use.
#[pyfunction]
fn get_num_threads() -> usize {
    threads::get_num_threads()
}

/// CPU features that kernels look for.
#[pyfunction]
fn cpu_features(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, has) in features() {
        dict.set_item(name, has)?;
    }
    Ok(dict)
}

/// Name of the kernel in use.
#[pyfunction]
fn active_kernel() -> &'static str {
    Kernel::active().name()
}

#[pymodule(gil_used = true)]
fn _core(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    // A bad LSS_SIMD is said at import, not hidden.
    Kernel::from_env().map_err(raise)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("FORMAT_VERSION", lss_core::file::FORMAT_VERSION)?;
    module.add("MOST_SHARE", lss_core::need::MOST_SHARE)?;
    module.add("NotFittedError", py.get_type::<NotFittedError>())?;
    module.add("ShortResultError", py.get_type::<ShortResultError>())?;
    module.add("FormatError", py.get_type::<FormatError>())?;
    module.add_class::<index::Index>()?;
    module.add_class::<searchable::Searchable>()?;
    module.add_class::<learn::Builder>()?;
    module.add_class::<learn::Centers>()?;
    module.add_class::<learn::Coordinates>()?;
    module.add_class::<learn::Planes>()?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(get_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(cpu_features, module)?)?;
    module.add_function(wrap_pyfunction!(active_kernel, module)?)?;
    module.add_function(wrap_pyfunction!(learn::sketch_widths, module)?)?;
    module.add_function(wrap_pyfunction!(learn::exemplar_widths, module)?)?;
    module.add_function(wrap_pyfunction!(learn::region_widths, module)?)?;
    Ok(())
}
