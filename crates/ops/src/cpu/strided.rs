//! Moving rows that do not lie one behind the other.

/// `to[c, r] = from[r, c]` of rows `[rows, width]`.
///
/// # Panics
/// When `from` is not whole rows, `to` is smaller, or the width is 0.
pub fn transpose(from: &[f32], width: usize, to: &mut [f32]) {
    let rows = from.len() / width;
    assert!(rows * width == from.len() && to.len() >= from.len(), "sizes of a transpose");
    const SIDE: usize = 4;
    for r in (0..rows).step_by(SIDE) {
        for c in (0..width).step_by(SIDE) {
            if r + SIDE <= rows && c + SIDE <= width {
                // SAFETY: four rows and four columns from here on lie within both.
                unsafe { square(from.as_ptr().add(r * width + c), width, to.as_mut_ptr().add(c * rows + r), rows) };
            } else {
                for c in c..(c + SIDE).min(width) {
                    for r in r..(r + SIDE).min(rows) {
                        to[c * rows + r] = from[r * width + c];
                    }
                }
            }
        }
    }
}

/// Four rows of four, turned in registers that every processor of the architecture has.
///
/// # Safety
/// Four rows of four elements, as far apart as the strides say, can be read from `from` and written to `to`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
    // SAFETY: by the caller.
    unsafe {
        let row = |i: usize| _mm_loadu_ps(from.add(i * from_stride));
        let (low, high) = (_mm_unpacklo_ps(row(0), row(1)), _mm_unpackhi_ps(row(0), row(1)));
        let (low_below, high_below) = (_mm_unpacklo_ps(row(2), row(3)), _mm_unpackhi_ps(row(2), row(3)));
        _mm_storeu_ps(to, _mm_movelh_ps(low, low_below));
        _mm_storeu_ps(to.add(to_stride), _mm_movehl_ps(low_below, low));
        _mm_storeu_ps(to.add(2 * to_stride), _mm_movelh_ps(high, high_below));
        _mm_storeu_ps(to.add(3 * to_stride), _mm_movehl_ps(high_below, high));
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    for r in 0..4 {
        for c in 0..4 {
            // SAFETY: by the caller.
            unsafe { to.add(c * to_stride + r).write(from.add(r * from_stride + c).read()) };
        }
    }
}

/// Says that these elements will be wanted soon. Rows that lie kilobytes apart, hardly two on a page, are what
/// processors seldom foresee by themselves.
#[inline(always)]
pub fn prefetch(elements: &[f32]) {
    const LINE: usize = 16;
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // Where a row begins inside a line, it ends in one more.
        for element in elements.iter().step_by(LINE).chain(elements.last()) {
            // SAFETY: a hint, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (elements, LINE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_any_sizes() {
        for (rows, width) in [(1, 1), (4, 4), (8, 64), (5, 9), (33, 66), (0, 3), (64, 7)] {
            let from: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
            let mut to = vec![-1.0; rows * width + 1];
            transpose(&from, width, &mut to);
            for r in 0..rows {
                for c in 0..width {
                    assert_eq!(to[c * rows + r], from[r * width + c], "{rows}x{width} at {r}, {c}");
                }
            }
            assert_eq!(to[rows * width], -1.0, "nothing else is written");
        }
    }
}
