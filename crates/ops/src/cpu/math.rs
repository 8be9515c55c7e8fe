//! Elementary functions written so that the compiler vectorises loops over them.

use super::multiply_add;

/// e^x with a relative error below 3e-7 for |x| <= 87; 0 below -87.3, large finite above 88. For the
/// body of a `simd!` function, like the next two.
///
/// Cody-Waite reduction and a degree-6 polynomial; no branches, so loops over it vectorise
/// (libm's scalar call is about ten times slower per element).
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let add = multiply_add::<FMA>;
    let x = x.clamp(-87.3, 88.0);
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, where the last line
    // takes it from: a conversion by `as i32` saturates, and that does not vectorise well.
    let shifted = add(x, std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = add(n, -0.693_359_4, x);
    let r = add(n, 2.121_944_4e-4, r);
    let p = add(r, 1.388_888_9e-3, 8.333_334e-3);
    let p = add(r, p, 4.166_666_6e-2);
    let p = add(r, p, 1.666_666_7e-1);
    let p = add(r, p, 0.5);
    let p = add(p * r, r, r) + 1.0;
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// Logistic sigmoid.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// Hyperbolic tangent, with a relative error below 4e-7: a polynomial of odd degree near zero, where the
/// difference of exponentials would cancel, and that elsewhere; both are computed, so loops vectorise.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let add = multiply_add::<FMA>;
    let z = x * x;
    // Fitted to tanh(x) / x - 1 over x^2 on |x| <= 0.625 (Cephes, Moshier 1989).
    let p = add(z, -5.704_988_7e-3, 2.063_908_9e-2);
    let p = add(z, p, -5.373_971_6e-2);
    let p = add(z, p, 1.333_144_2e-1);
    let p = add(z, p, -3.333_328_2e-1);
    let near = add(p * z, x, x);
    let size = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    let far = 1.0 - 2.0 / (exp::<FMA>(2.0 * size) + 1.0);
    let far = f32::from_bits(far.to_bits() | (x.to_bits() & 0x8000_0000));
    if size < 0.625 { near } else { far }
}

/// The nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn round_to_bf16(x: f32) -> f32 {
    if x.is_nan() { x } else { f32::from_bits(bf16_bits(x) << 16) }
}

/// The upper 16 bits of that, below; NaN stays one.
#[inline(always)]
pub fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    (if x.is_nan() { bits | 0x40_0000 } else { rounded }) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16() {
        assert_eq!(round_to_bf16(1.0), 1.0);
        assert_eq!(round_to_bf16(1.0 + 1.0 / 256.0), 1.0, "a tie goes to the even neighbour");
        assert_eq!(round_to_bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert!(round_to_bf16(f32::NAN).is_nan());
        assert_eq!(round_to_bf16(f32::NEG_INFINITY), f32::NEG_INFINITY);
    }

    #[test]
    fn exp_is_within_three_ulp_everywhere() {
        for i in -87_000..=87_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            for found in [exp::<false>(x), exp::<true>(x)] {
                let error = ((f64::from(found) - exact) / exact).abs();
                assert!(error < 3e-7, "relative error {error:e} at {x}");
            }
        }
        for exp in [exp::<false>, exp::<true>] {
            assert!(exp(-1e9) < 2e-38 && exp(f32::NEG_INFINITY) < 2e-38);
            assert!(exp(1e9).is_finite());
        }
    }

    #[test]
    fn tanh_everywhere() {
        for i in -60_000..=60_000 {
            let x = i as f32 / 5000.0 + 1e-6;
            let exact = f64::from(x).tanh();
            for found in [tanh::<false>(x), tanh::<true>(x)] {
                let error = ((f64::from(found) - exact) / exact).abs();
                assert!(error < 4e-7, "relative error {error:e} at {x}");
            }
        }
        for tanh in [tanh::<false>, tanh::<true>] {
            assert_eq!((tanh(0.0), tanh(1e9), tanh(-1e9)), (0.0, 1.0, -1.0));
            assert!(tanh(f32::NAN).is_nan());
        }
    }
}
