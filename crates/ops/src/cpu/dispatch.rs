//! One function body, compiled for several instruction sets, chosen at run time.
//!
//! The crate is built for baseline x86-64, so that one binary runs anywhere; a plain loop would
//! use 4-wide vectors. `simd!` compiles a function for AVX-512, AVX2 and the
//! baseline and calls the widest that this processor has. Floating-point sums are never
//! reordered by the compiler: reduce with the lane helpers ([`dot`], [`sum`], [`maximum`]), which
//! every level evaluates in the same order.

use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What every processor of the architecture has.
    Baseline = 1,
    /// 256-bit vectors with fused multiply-add.
    Avx2 = 2,
    /// 512-bit vectors.
    Avx512 = 3,
    /// 512-bit vectors with dot products of bfloat16 pairs.
    Avx512Bf16 = 4,
    /// The same and tiles of 16 x 32 bfloat16 (AMX).
    Amx = 5,
}

static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// The level in use: the fastest this processor has, or the one that the environment variable `RECAST_CPU`
/// (`baseline`, `avx2`, `avx512`, `avx512bf16` or `amx`) asks for where it is there. Read once.
#[inline]
pub fn level() -> Level {
    match CHOSEN.load(Ordering::Relaxed) {
        1 => Level::Baseline,
        2 => Level::Avx2,
        3 => Level::Avx512,
        4 => Level::Avx512Bf16,
        5 => Level::Amx,
        _ => choose(),
    }
}

/// The fastest of the levels up to `widest`: `vdpbf16ps` has twice the rate of f32 on AMD and less than
/// f32's on Intel, where bf16 is for AMX.
fn fastest(widest: Level, amd: bool) -> Level {
    if widest == Level::Avx512Bf16 && !amd { Level::Avx512 } else { widest }
}

/// The level that was asked for, or the fastest where this processor does not have it.
fn granted(wanted: Level, widest: Level, fastest: Level) -> Level {
    if wanted <= widest { wanted } else { fastest }
}

#[cold]
fn choose() -> Level {
    let widest = detect();
    let fastest = fastest(widest, amd());
    let level = match std::env::var("RECAST_CPU") {
        Err(_) => fastest,
        Ok(name) if name.is_empty() => fastest,
        Ok(name) => match parse(&name) {
            Some(wanted) => granted(wanted, widest, fastest),
            None => {
                let _ = writeln!(
                    std::io::stderr(),
                    "RECAST_CPU is `{name}`: expected `baseline`, `avx2`, `avx512`, `avx512bf16` or `amx`; using {fastest:?}"
                );
                fastest
            }
        },
    };
    CHOSEN.store(level as u8, Ordering::Relaxed);
    level
}

fn parse(name: &str) -> Option<Level> {
    match name {
        "baseline" => Some(Level::Baseline),
        "avx2" => Some(Level::Avx2),
        "avx512" => Some(Level::Avx512),
        "avx512bf16" => Some(Level::Avx512Bf16),
        "amx" => Some(Level::Amx),
        _ => None,
    }
}

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return Level::Baseline;
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
        {
            return match is_x86_feature_detected!("avx512bf16") {
                true if super::bf16::amx::usable() => Level::Amx,
                true => Level::Avx512Bf16,
                false => Level::Avx512,
            };
        }
        Level::Avx2
    }
    #[cfg(not(target_arch = "x86_64"))]
    Level::Baseline
}

/// Whether the processor is AMD's.
pub(super) fn amd() -> bool {
    // Asked once: a virtual machine leaves to its host what `cpuid` answers.
    #[cfg(target_arch = "x86_64")]
    {
        static AMD: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
            let name = std::arch::x86_64::__cpuid(0);
            [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
        });
        *AMD
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Compiles functions for every [`Level`] and dispatches at run time.
///
/// ```ignore
/// simd! {
///     /// y += a * x
///     fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
///         for (y, &x) in y.iter_mut().zip(x) {
///             *y = multiply_add::<FMA>(a, x, *y);
///         }
///     }
/// }
/// ```
///
/// Inside the body `FMA` is a constant: true where [`multiply_add`] is one instruction. Helpers
/// that the body calls must be `#[inline(always)]`, or they stay at the baseline. Arguments are
/// plain identifiers; one const generic `<const N: usize>` is allowed. The dispatch costs a few
/// nanoseconds: put whole loops in, not single elements.
macro_rules! simd {
    ($(
        $(#[$meta:meta])*
        $visibility:vis fn $name:ident $(<const $n:ident: usize>)? ($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)?
        $body:block
    )+) => {$(
        $(#[$meta])*
        $visibility fn $name $(<const $n: usize>)? ($($argument: $kind),*) $(-> $result)? {
            #[allow(clippy::extra_unused_type_parameters)]
            #[inline(always)]
            fn body<const FMA: bool, $(const $n: usize)?>($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512<$(const $n: usize)?>($($argument: $kind),*) $(-> $result)? {
                    body::<true, $($n)?>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$(const $n: usize)?>($($argument: $kind),*) $(-> $result)? {
                    body::<true, $($n)?>($($argument),*)
                }
                match $crate::cpu::level() {
                    // SAFETY: `level` names only what this processor was found to have.
                    $crate::cpu::Level::Avx512 | $crate::cpu::Level::Avx512Bf16 | $crate::cpu::Level::Amx => return unsafe { avx512::<$($n)?>($($argument),*) },
                    // SAFETY: as above.
                    $crate::cpu::Level::Avx2 => return unsafe { avx2::<$($n)?>($($argument),*) },
                    $crate::cpu::Level::Baseline => {}
                }
            }
            body::<false, $($n)?>($($argument),*)
        }
    )+};
}
pub(crate) use simd;

/// `a * b + c`: fused where `FMA`, else rounded twice (the library call would be far slower).
#[inline(always)]
pub fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Partial sums kept by the reductions below: four 512-bit registers' worth would hide more
/// latency, one keeps short rows cheap.
const LANES: usize = 16;

#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `term([a[i], b[i], ..])` over the common length of the slices, in a fixed order. For
/// the body of a `simd!` function.
#[inline(always)]
pub fn sum_of<const K: usize>(slices: [&[f32]; K], term: impl Fn([f32; K]) -> f32) -> f32 {
    let n = slices.iter().map(|slice| slice.len()).min().unwrap_or(0);
    let mut lanes = [0.0f32; LANES];
    let mut start = 0;
    while start + LANES <= n {
        // One bounds check a block: a check an element would keep the loop from vectorising.
        let blocks = slices.map(|slice| &slice[start..start + LANES]);
        for l in 0..LANES {
            lanes[l] += term(blocks.map(|block| block[l]));
        }
        start += LANES;
    }
    for i in start..n {
        lanes[i - start] += term(slices.map(|slice| slice[i]));
    }
    fold(lanes, |a, b| a + b)
}

/// Dot product of the common length.
#[inline(always)]
pub fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for l in 0..LANES {
            lanes[l] = multiply_add::<FMA>(a[l], b[l], lanes[l]);
        }
    }
    for (l, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[l] = multiply_add::<FMA>(a, b, lanes[l]);
    }
    fold(lanes, |a, b| a + b)
}

/// Sum of the elements.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for a in chunks {
        for l in 0..LANES {
            lanes[l] += a[l];
        }
    }
    for (l, &a) in rest.iter().enumerate() {
        lanes[l] += a;
    }
    fold(lanes, |a, b| a + b)
}

/// Replaces every element by what `of` makes of it; the sum of the results. For the body of a `simd!`
/// function.
#[inline(always)]
pub fn replace(a: &mut [f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = a.chunks_exact_mut(LANES);
    for a in &mut chunks {
        for l in 0..LANES {
            let x = of(a[l]);
            a[l] = x;
            lanes[l] += x;
        }
    }
    for (l, a) in chunks.into_remainder().iter_mut().enumerate() {
        *a = of(*a);
        lanes[l] += *a;
    }
    fold(lanes, |a, b| a + b)
}

/// Largest element, `-inf` of none. NaN elements are passed over.
#[inline(always)]
pub fn maximum(a: &[f32]) -> f32 {
    // Written as a comparison: `f32::max` has an extra case for NaN that costs two instructions.
    let join = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for (lane, &a) in lanes.iter_mut().zip(a) {
            *lane = join(*lane, a);
        }
    }
    // One after the other, and the rest by itself: halves joined as in `fold`, or single lanes written to,
    // make the compiler keep the lanes in pairs, in the loop above too. The order does not matter here.
    let last = rest.iter().fold(f32::NEG_INFINITY, |a, &b| join(a, b));
    lanes.iter().fold(last, |a, &b| join(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    simd! {
        fn scaled<const N: usize>(x: &[f32], y: &mut [f32]) -> f32 {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = multiply_add::<FMA>(x, N as f32, *y);
            }
            let largest = maximum(y);
            dot::<FMA>(x, y) + sum(x) + largest + sum_of([x, x], |[a, b]| 0.5 * (a + b)) + replace(y, |y| 0.5 * y)
        }
    }

    #[test]
    fn every_length_reduces_like_a_plain_loop() {
        for n in [0usize, 1, 15, 16, 17, 40] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut y = vec![1.0; n];
            let got = scaled::<3>(&x, &mut y);
            let plain: Vec<f32> = x.iter().map(|x| 3.0 * x + 1.0).collect();
            let expected = x.iter().zip(&plain).map(|(a, b)| a * b).sum::<f32>()
                + 2.0 * x.iter().sum::<f32>()
                + plain.iter().copied().fold(f32::NEG_INFINITY, f32::max)
                + plain.iter().map(|y| 0.5 * y).sum::<f32>();
            assert!(got == expected || (got - expected).abs() < 1e-4, "n {n}: {got} against {expected}");
        }
    }

    #[test]
    fn names_of_levels() {
        assert_eq!(parse("avx2"), Some(Level::Avx2));
        assert_eq!(parse("AVX2"), None);
        assert!(level() <= detect());
    }

    #[test]
    fn bf16_is_for_processors_that_gain_by_it() {
        use Level::{Amx, Avx2, Avx512, Avx512Bf16};
        assert_eq!([Avx2, Avx512, Avx512Bf16, Amx].map(|widest| fastest(widest, false)), [Avx2, Avx512, Avx512, Amx]);
        assert_eq!(fastest(Avx512Bf16, true), Avx512Bf16);
        assert_eq!([Avx2, Avx512Bf16, Amx].map(|wanted| granted(wanted, Avx512Bf16, Avx512)), [Avx2, Avx512Bf16, Avx512]);
    }
}
