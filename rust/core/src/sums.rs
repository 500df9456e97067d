//! Sums of floats, and the largest of them, side by side: one after the other each would wait for the one before.

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
