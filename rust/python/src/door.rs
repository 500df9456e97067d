//! The one door: how arrays come in, how the GIL is released, how errors go out.

use std::path::Path;

use lss_core::Error;
use numpy::{Element, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    lss_rs,
    NotFittedError,
    PyValueError,
    "A search that needs tables was asked of an index that has none."
);
create_exception!(
    lss_rs,
    ShortResultError,
    PyValueError,
    "A query has fewer candidates than answers wanted (on_short='raise')."
);
create_exception!(
    lss_rs,
    FormatError,
    PyValueError,
    "A file or buffer is not an index that this version can read."
);

/// Each cause has one Python exception.
pub fn raise(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Value { .. } => PyValueError::new_err(message),
        Error::NotFitted => NotFittedError::new_err(message),
        Error::Short { .. } => ShortResultError::new_err(message),
        Error::Format { .. } => FormatError::new_err(message),
        Error::Io(error) => error.into(),
    }
}

/// Like [`raise`], with the path that the operating system refused.
pub fn raise_at(path: &Path, error: Error) -> PyErr {
    match error {
        Error::Io(error) => match error.raw_os_error() {
            // OSError picks the subclass (FileNotFoundError, PermissionError, ..) by this number, and says it itself.
            Some(code) => {
                let text = error.to_string();
                let text = text.split(" (os error").next().unwrap_or_default().to_owned();
                PyOSError::new_err((code, text, path.as_os_str().to_owned()))
            }
            None => error.into(),
        },
        Error::Format { expected, got } => {
            FormatError::new_err(format!("{}: expected {expected}, got {got}.", path.display()))
        }
        other => raise(other),
    }
}

/// Release the GIL, run, translate the error. Nothing that Python can change is read inside.
pub fn enter<T: Send>(py: Python<'_>, job: impl FnOnce() -> lss_core::Result<T> + Send) -> PyResult<T> {
    py.detach(job).map_err(raise)
}

macro_rules! contiguous {
    ($name:ident, $array:ident, $($dim:ident),*) => {
        /// The shape and the elements of an array, which lie row by row.
        pub fn $name<'a, T: Element>(array: &'a $array<'_, T>) -> PyResult<([usize; contiguous!(@count $($dim)*)], &'a [T])> {
            if !array.is_c_contiguous() {
                return Err(PyValueError::new_err("An array for the core must be C-contiguous."));
            }
            let ($($dim,)*) = array.as_array().dim().into();
            let shape = [$($dim),*];
            Ok((shape, array.as_slice()?))
        }
    };
    (@count $($dim:ident)*) => { 0 $(+ contiguous!(@one $dim))* };
    (@one $dim:ident) => { 1 };
}

/// The length and the contiguous elements of a vector.
pub fn vector<'a, T: Element>(array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    Ok(array.as_slice()?)
}

contiguous!(matrix, PyReadonlyArray2, rows, cols);
contiguous!(cube, PyReadonlyArray3, planes, rows, cols);

/// Refuse vectors of another dimension than the layer's.
pub fn check_dim(arg: &'static str, expected: usize, got: usize) -> PyResult<()> {
    if got == expected {
        return Ok(());
    }
    Err(raise(Error::Value { arg, expected: format!("of dimension {expected}"), got: got.to_string() }))
}
