//! lss-core: label superior sampling without Python.
//!
//! A wide output layer holds m rows of d weights. For a query the core finds its labels without reading all
//! rows: query -> project -> probe -> candidates -> sketch -> rescore -> top-k, one module a stage, put together
//! in [`search`], and for many in [`batch`]. [`build`] makes what a search reads.

#[cfg(target_endian = "big")]
compile_error!("files and kernels are little-endian");

pub mod batch;
pub mod build;
pub mod byte_rows;
pub mod candidates;
mod certain;
pub mod columns;
pub mod coordinates;
mod elementary;
pub mod error;
pub mod exact;
pub mod exemplars;
pub mod file;
pub mod fitted;
pub mod hash;
pub mod index;
pub mod kernels;
pub mod memory;
pub mod need;
pub mod observed;
pub mod probe;
mod product;
pub mod reference;
pub mod regions;
pub mod rows;
pub mod search;
pub mod shortlist;
pub mod sketch;
mod sums;
pub mod tables;
pub mod teacher;
pub mod threads;
pub mod topk;
pub mod trust;

pub use build::{Builder, Recipe};
pub use error::{Error, Result};
pub use fitted::{Fill, FirstRead, Fitted, ListPoint, OperatingPoint};
pub use index::{Answers, How, Index, Observing};
pub use search::{Effort, OnShort, Step, Work};
pub use trust::{Features, Trust};
