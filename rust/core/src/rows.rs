//! Rows: the output layer's weights, one row a label, kept in the dtype given, and its bias.

use std::sync::OnceLock;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::memory::Block;
use crate::sums::sum;

/// Rows that are widened at a time.
const TOGETHER: usize = 64;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// An element type that rows can be stored in. Sealed: kernels read memory as one of the three.
pub trait Element: Pod + Send + Sync + sealed::Sealed {
    /// The exact value in single precision.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32_const()
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Weights by storage type.
#[derive(Clone)]
pub enum Weights {
    /// Single precision.
    F32(Block<f32>),
    /// IEEE half precision.
    F16(Block<f16>),
    /// bfloat16.
    Bf16(Block<bf16>),
}

/// Run `$body` with `$block` bound to the typed block, whatever the dtype.
macro_rules! with_weights {
    ($weights:expr, $block:ident => $body:expr) => {
        match $weights {
            $crate::rows::Weights::F32($block) => $body,
            $crate::rows::Weights::F16($block) => $body,
            $crate::rows::Weights::Bf16($block) => $body,
        }
    };
}

impl Weights {
    fn len(&self) -> usize {
        with_weights!(self, block => block.len())
    }

    /// The dtype's name, as numpy and torch spell it.
    pub fn dtype(&self) -> &'static str {
        match self {
            Weights::F32(_) => "float32",
            Weights::F16(_) => "float16",
            Weights::Bf16(_) => "bfloat16",
        }
    }

    /// Bytes of memory.
    pub fn nbytes(&self) -> usize {
        with_weights!(self, block => block.nbytes())
    }
}

/// The wide output layer: m rows of d weights, and m biases.
#[derive(Clone)]
pub struct Rows {
    m: usize,
    d: usize,
    weights: Weights,
    bias: Block<f32>,
    most_squares: OnceLock<f32>,
}

impl Rows {
    /// Check shapes and take ownership.
    pub fn new(d: usize, weights: Weights, bias: Block<f32>) -> Result<Self> {
        let m = bias.len();
        if m == 0 || d == 0 {
            return Err(Error::value(
                "weights",
                "a matrix with at least one row and one column",
                format!("{m} x {d}"),
            ));
        }
        if m > u32::MAX as usize / 2 {
            return Err(Error::value("weights", "at most 2**31 - 1 rows", m));
        }
        if Some(weights.len()) != m.checked_mul(d) {
            return Err(Error::value(
                "bias",
                format!("as long as weights has rows ({})", weights.len() / d),
                m,
            ));
        }
        Ok(Rows { m, d, weights, bias, most_squares: OnceLock::new() })
    }

    /// Number of labels.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Dimension of a query.
    pub fn d(&self) -> usize {
        self.d
    }

    /// The stored weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The biases, (m,).
    pub fn bias(&self) -> &Block<f32> {
        &self.bias
    }

    /// Refuse NaN and infinities, naming the first.
    pub fn check_finite(&self) -> Result<()> {
        let bad = with_weights!(&self.weights, block => first_not_finite(block));
        if let Some(at) = bad {
            return Err(Error::value(
                "weights",
                "finite",
                format!("NaN or infinity at [{}, {}]", at / self.d, at % self.d),
            ));
        }
        if let Some(at) = first_not_finite(&self.bias) {
            return Err(Error::value("bias", "finite", format!("NaN or infinity at [{at}]")));
        }
        Ok(())
    }

    /// Exact logits of the first of `ids`, as many as there are places, for a zero-padded query; the rows of the next are on
    /// their way then. The rescore stage.
    pub fn logits(&self, kernel: Kernel, query: &[f32], ids: &[u32], out: &mut [f32]) {
        with_weights!(&self.weights, block => kernel.dot_ids(block, self.d, query, ids, out));
        let bias = &self.bias[..];
        for (score, &id) in out.iter_mut().zip(ids) {
            *score += bias[id as usize];
        }
    }

    /// Exact logits of the rows `first..first + out.len()`, equal bit for bit to [`Rows::logits`].
    pub fn logits_range(&self, kernel: Kernel, query: &[f32], first: usize, out: &mut [f32]) {
        let range = first * self.d..(first + out.len()) * self.d;
        with_weights!(&self.weights, block => kernel.dot_rows(&block[range], self.d, query, out));
        self.add_bias(first, out);
    }

    /// Add the biases of consecutive rows.
    fn add_bias(&self, first: usize, out: &mut [f32]) {
        for (score, bias) in out.iter_mut().zip(&self.bias[first..]) {
            *score += bias;
        }
    }

    /// Rows `first..first + n` in single precision, appended nowhere: `out` is overwritten.
    pub fn widen_into(&self, first: usize, n: usize, out: &mut Vec<f32>) {
        let range = first * self.d..(first + n) * self.d;
        out.resize(range.len(), 0.0);
        match &self.weights {
            Weights::F32(block) => out.copy_from_slice(&block[range]),
            Weights::F16(block) => block[range].convert_to_f32_slice(out),
            Weights::Bf16(block) => block[range].convert_to_f32_slice(out),
        }
    }

    /// The same where they lie, if that is how they are stored; else in `room`.
    pub fn widened<'a>(&'a self, first: usize, n: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
        if let Weights::F32(block) = &self.weights {
            return &block[first * self.d..][..n * self.d];
        }
        self.widen_into(first, n, room);
        room
    }

    /// The largest sum of a row's squares, in single precision; the first to ask waits until all rows are read.
    pub fn most_squares(&self) -> f32 {
        *self.most_squares.get_or_init(|| {
            let mut wide = Vec::new();
            let mut most = 0.0f32;
            for first in (0..self.m).step_by(TOGETHER) {
                let rows = self.widened(first, TOGETHER.min(self.m - first), &mut wide);
                most =
                    rows.chunks_exact(self.d).fold(most, |most, row| most.max(sum(row, row, |a, b| a * b)));
            }
            most
        })
    }
}

fn first_not_finite<T: Element>(values: &[T]) -> Option<usize> {
    const CHUNK: usize = 4096;
    values.chunks(CHUNK).enumerate().find_map(|(chunk, part)| {
        let clean = part.iter().fold(true, |clean, value| clean & value.widen().is_finite());
        if clean {
            None
        } else {
            part.iter().position(|value| !value.widen().is_finite()).map(|at| chunk * CHUNK + at)
        }
    })
}
