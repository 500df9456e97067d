//! Logarithm and exponential of what a search knows of a query, from sums and products alone: those of systems' libraries differ
//! from each other in the last bit, and so would answers. As they have no branch, several are computed side by side.

use crate::sketch::SHIFT;

/// The natural logarithm of a positive number that is neither infinite nor subnormal, within 2 units in the last place.
///
/// `x = 2^e m` with m about 1, and `ln m = 2 atanh(f / (2 + f))` with `f = m - 1`, by a polynomial (as in FreeBSD's `e_logf.c`).
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    const ROOT_OF_HALF: u32 = 0x3f35_04f3;
    const ONE: u32 = 0x3f80_0000;
    let bits = x.to_bits().wrapping_add(ONE - ROOT_OF_HALF);
    let exponent = (bits >> 23) as i32 - 0x7f;
    let f = f32::from_bits((bits & 0x007f_ffff) + ROOT_OF_HALF) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let odd = w * (0.400_009_72 + w * 0.242_790_79);
    let even = z * (0.666_666_6 + w * 0.284_987_87);
    let half = 0.5 * f * f;
    let e = exponent as f32;
    s * (half + (odd + even)) + e * LN_2_REST - half + f + e * LN_2
}

/// Of the logarithm of 2 so many bits that products with exponents are exact, and the rest.
const LN_2: f32 = 0.693_138_1;
const LN_2_REST: f32 = 9.058_001e-6;

/// Beyond that there is no exponential in single precision.
const FAR: f32 = 87.0;

/// The exponential, of 87 for all above and of -87 for all below, within 2 units in the last place; NaN of NaN.
///
/// `x = k ln 2 + r`, and of r by a quotient (as in FreeBSD's `e_expf.c`).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-FAR, FAR);
    let k = (x * std::f32::consts::LOG2_E + SHIFT) - SHIFT;
    let (high, low) = (x - k * LN_2, k * LN_2_REST);
    let r = high - low;
    let square = r * r;
    let c = r - square * (0.166_666_25 - square * 2.766_733_3e-3);
    let y = 1.0 + (r * c / (2.0 - c) - low + high);
    y * f32::from_bits(((k as i32 + 0x7f) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Units in the last place of `expected` that `got` is away.
    fn off(got: f32, expected: f64) -> f64 {
        let near = expected as f32;
        let unit = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
        (f64::from(got) - expected).abs() / unit
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn logarithms_are_near(bits in f32::MIN_POSITIVE.to_bits()..f32::INFINITY.to_bits(), about in 0.5f32..2.0) {
            for x in [f32::from_bits(bits), about] {
                prop_assert!(off(ln(x), f64::from(x).ln()) <= 2.0, "{x}: {}", ln(x));
            }
        }

        #[test]
        fn exponentials_are_near(x in -FAR..FAR, small in -0.01f32..0.01) {
            for x in [x, small] {
                prop_assert!(off(exp(x), f64::from(x).exp()) <= 2.0, "{x}: {}", exp(x));
            }
        }
    }

    #[test]
    fn what_is_known_is_exact() {
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::INFINITY), exp(FAR));
        assert_eq!(exp(f32::NEG_INFINITY), exp(-FAR));
        assert!(exp(-FAR) > 0.0 && exp(FAR).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
