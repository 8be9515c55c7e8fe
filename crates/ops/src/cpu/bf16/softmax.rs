//! Softmax weights as the bf16 left operand of the product with the values, a row of scores at a time.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Takes into account that one of a row's `scores` may be the largest so far.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f")]
pub unsafe fn rescale(scores: &[f32], scale: f32, largest: &mut f32, total: &mut f32, y: &mut [f32]) {
    // SAFETY: by the caller.
    let now = scale * unsafe { maximum(scores) };
    if now > *largest {
        let correction = if *largest == f32::NEG_INFINITY { 0.0 } else { (*largest - now).exp() };
        *total *= correction;
        for y in y {
            *y *= correction;
        }
        *largest = now;
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn maximum(scores: &[f32]) -> f32 {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut lanes = [lowest; 4];
    let (chunks, rest) = scores.as_chunks::<64>();
    // SAFETY: 64 floats of each chunk are read, and of the rest what the mask says.
    unsafe {
        for chunk in chunks {
            for (i, lanes) in lanes.iter_mut().enumerate() {
                *lanes = _mm512_max_ps(*lanes, _mm512_loadu_ps(chunk.as_ptr().add(16 * i)));
            }
        }
        for chunk in rest.chunks(16) {
            lanes[0] = _mm512_max_ps(lanes[0], _mm512_mask_loadu_ps(lowest, first(chunk.len()), chunk.as_ptr()));
        }
    }
    _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(lanes[0], lanes[1]), _mm512_max_ps(lanes[2], lanes[3])))
}

/// The lowest so many of 16.
fn first(count: usize) -> u16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// Rounded e^(scale score - largest), zero outside `seen`, 32 scores in 16 words at `to` and every `step` words
/// behind; their sum before rounding.
///
/// # Safety
/// The processor has AVX512-BF16, and `to` has room.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn weights(scores: &[f32], seen: &Range<usize>, scale: f32, largest: f32, to: *mut u32, step: usize) -> f32 {
    let (scale, largest) = (_mm512_set1_ps(scale * LOG2_E), _mm512_set1_ps(largest * LOG2_E));
    let mut total = [_mm512_setzero_ps(); 2];
    // No closures: what they do would not be inlined, nor have the function's instructions.
    for (at, scores) in scores.as_chunks::<32>().0.iter().enumerate() {
        // SAFETY: 32 floats are read, and 16 words written.
        unsafe {
            let mut low = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores.as_ptr()), scale, largest));
            let mut high = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(scores.as_ptr().add(16)), scale, largest));
            if 32 * at < seen.start || 32 * (at + 1) > seen.end {
                low = _mm512_maskz_mov_ps(inside(seen, 32 * at), low);
                high = _mm512_maskz_mov_ps(inside(seen, 32 * at + 16), high);
            }
            total = [_mm512_add_ps(total[0], low), _mm512_add_ps(total[1], high)];
            let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.add(at * step).cast(), rounded);
        }
    }
    _mm512_reduce_add_ps(_mm512_add_ps(total[0], total[1]))
}

/// Which of the 16 from `start` on are in a range.
fn inside(range: &Range<usize>, start: usize) -> u16 {
    first(range.end.saturating_sub(start)) & !first(range.start.saturating_sub(start))
}

/// 2^x with a relative error below 8e-5, which bf16 does not show.
#[inline]
#[target_feature(enable = "avx512f")]
fn power_of_two(x: __m512) -> __m512 {
    let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let r = _mm512_sub_ps(x, whole);
    // Minimax for the relative error on |r| <= 0.5.
    let p = _mm512_fmadd_ps(r, _mm512_set1_ps(0.055_171_67), _mm512_set1_ps(0.242_611_13));
    let p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0.693_260_97));
    let p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(0.999_928_06));
    _mm512_scalef_ps(p, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two() {
        if !crate::cpu::bf16::available() {
            eprintln!("skipped: no AVX-512 here");
            return;
        }
        for i in -126_000..=1000 {
            let x = i as f32 / 1000.0;
            // SAFETY: AVX-512 is there; both are 16 floats.
            let found = unsafe { std::mem::transmute::<__m512, [f32; 16]>(power_of_two(_mm512_set1_ps(x)))[3] };
            let error = (f64::from(found) / f64::from(x).exp2() - 1.0).abs();
            assert!(error < 8e-5, "relative error {error:e} at {x}");
        }
        // SAFETY: as above.
        let far = unsafe { std::mem::transmute::<__m512, [f32; 16]>(power_of_two(_mm512_set1_ps(-1e30)))[0] };
        assert_eq!(far, 0.0);
    }

    /// Rows that see some, all and none of the scores.
    #[test]
    fn weights_are_rounded_exponentials() {
        if !crate::cpu::bf16::available() {
            eprintln!("skipped: no AVX512-BF16 here");
            return;
        }
        let scores: Vec<f32> = (0..96).map(|i| (i as f32 * 0.731).sin() * 20.0).collect();
        for seen in [0..96, 3..70, 31..33, 64..96, 40..40] {
            let mut words = [7u32; 48];
            // SAFETY: AVX512-BF16 is there, and the words have room.
            let total = unsafe { weights(&scores, &seen, 0.5, 3.0, words.as_mut_ptr(), 16) };
            let expected = |i: usize| if seen.contains(&i) { (f64::from(scores[i]) * 0.5 - 3.0).exp() } else { 0.0 };
            for i in 0..96 {
                let found = f64::from(f32::from_bits(words[i / 2] << (16 * (1 - i % 2)) & 0xffff_0000));
                assert!((found - expected(i)).abs() <= expected(i) * 4.1e-3, "{seen:?} at {i}: {found} for {}", expected(i));
            }
            let sum: f64 = (0..96).map(expected).sum();
            assert!((f64::from(total) - sum).abs() <= 1e-4 * sum, "{seen:?}: {total} for {sum}");
        }
    }
}
