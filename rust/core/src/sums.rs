//! Sums of floats, and the largest of them, side by side: one after the other each would wait for the one before. And what rounding can make
//! of sums.

/// What rounding makes of one operation in single precision, at most, as a share of its result.
pub(crate) const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// What a number can be off by that is too small for single precision, or for a processor that is told to make nothing of it.
pub(crate) const NOTHING: f64 = 4.0 * f32::MIN_POSITIVE as f64;

/// Of larger numbers sums could be infinite.
pub(crate) const LARGE: f64 = f32::MAX as f64 / 8.0;

/// Partial sums.
const LANES: usize = 8;

/// The sum of what `term` makes of two lists, of the shorter one's length: eight sums, of every eighth place each, and then theirs.
#[inline(always)]
pub(crate) fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let n = a.len().min(b.len());
    let ((a, last_a), (b, last_b)) = (a[..n].as_chunks::<LANES>(), b[..n].as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(a, b);
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(last_a).zip(last_b) {
        *sum += term(a, b);
    }
    sums.iter().sum()
}

/// The largest of the values without their signs; NaN is none, and of none it is zero.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    // Floats without their sign are in the order of their bits, which vectors compare.
    let mut largest = 0;
    for value in values {
        largest = largest.max(if value.is_nan() { 0 } else { value.abs().to_bits() as i32 });
    }
    f32::from_bits(largest as u32)
}
