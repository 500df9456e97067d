//! Blocked matrix products for building: the `gemm` crate behind a safe face.

/// A row-major matrix in which rows begin `stride` floats apart.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The floats; the last row may be as short as `cols`.
    pub values: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Floats from one row to the next.
    pub stride: usize,
}

impl View<'_> {
    fn check(&self) {
        assert!(self.rows > 0 && self.cols > 0 && self.cols <= self.stride, "a matrix");
        assert!(self.values.len() >= (self.rows - 1) * self.stride + self.cols, "all rows");
    }
}

/// `out[i][j] = a[i] . b[j]`, single precision, on the calling thread. The order of sums is the library's own.
pub fn product(a: View<'_>, b: View<'_>, out: &mut [f32]) {
    a.check();
    b.check();
    assert_eq!(a.cols, b.cols, "one inner dimension");
    assert_eq!(out.len(), a.rows * b.rows, "an output a pair");
    // SAFETY: `check` proved that every element addressed by shape and strides lies inside the slices, the
    // output is a dense row-major a.rows x b.rows matrix, and `out` is borrowed uniquely.
    unsafe {
        gemm::gemm(
            a.rows,
            b.rows,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.rows as isize,
            false,
            a.values.as_ptr(),
            1,
            a.stride as isize,
            b.values.as_ptr(),
            b.stride as isize,
            1,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
