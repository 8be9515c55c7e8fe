//! Which code runs a format on this processor, and how it is shared out.

use super::formats::{self, Blocks};
use super::kernel::{Work, sweep, values};
use super::lanes::{ROWS, plain::Plain};
use super::round::{Parts, Rounded, round_blocks};
use super::{Format, QuantMatrix};
use crate::cpu::{Level, assume_written, level, threads};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Bytes of weight, times rows of the input, below which a share is not worth another thread.
const SHARE: usize = 48 << 10;

/// What a format needs to be computed with.
pub struct Code {
    sweep: unsafe fn(&Work<'_>, Range<usize>),
    values: unsafe fn(&[u8], usize, &mut [f32]),
    round: unsafe fn(&[f32], Parts<'_>),
    group: usize,
    /// Elements and bytes of a block in a file.
    pub stored: (usize, usize),
    /// Bytes of sixteen rows' blocks in memory.
    pub woven: usize,
    /// Weaves a stored block into a panel.
    pub weave: fn(&[u8], usize, &mut [u8]),
}

/// What this processor has for products of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Plain,
    Avx2,
    Vnni,
}

fn bytes() -> Bytes {
    #[cfg(target_arch = "x86_64")]
    {
        if level() >= Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
            return Bytes::Vnni;
        }
        if level() >= Level::Avx2 && is_x86_feature_detected!("f16c") {
            return Bytes::Avx2;
        }
    }
    Bytes::Plain
}

/// The code of one format.
fn code<F: Blocks>() -> Code {
    unsafe fn plain<F: Blocks>(work: &Work<'_>, panels: Range<usize>) {
        // SAFETY: the caller's conditions, in all of these.
        unsafe { sweep::<Plain, F>(work, panels) }
    }
    unsafe fn plain_values<F: Blocks>(panels: &[u8], row: usize, out: &mut [f32]) {
        unsafe { values::<Plain, F>(panels, row, out) }
    }
    unsafe fn plain_round<F: Blocks>(x: &[f32], to: Parts<'_>) {
        unsafe { round_blocks::<Plain, F>(x, to) }
    }
    #[cfg(target_arch = "x86_64")]
    use super::lanes::{avx2::Avx2, avx512::Avx512};
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<F: Blocks>(work: &Work<'_>, panels: Range<usize>) {
        unsafe { sweep::<Avx2, F>(work, panels) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2_values<F: Blocks>(panels: &[u8], row: usize, out: &mut [f32]) {
        unsafe { values::<Avx2, F>(panels, row, out) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2_round<F: Blocks>(x: &[f32], to: Parts<'_>) {
        unsafe { round_blocks::<Avx2, F>(x, to) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn vnni<F: Blocks>(work: &Work<'_>, panels: Range<usize>) {
        unsafe { sweep::<Avx512, F>(work, panels) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn vnni_round<F: Blocks>(x: &[f32], to: Parts<'_>) {
        unsafe { round_blocks::<Avx512, F>(x, to) }
    }
    let code = |sweep, values, round| Code {
        sweep,
        values,
        round,
        group: F::GROUP,
        stored: (F::ELEMENTS, F::STORED),
        woven: F::WOVEN,
        weave: F::weave,
    };
    match bytes() {
        #[cfg(target_arch = "x86_64")]
        Bytes::Vnni => code(vnni::<F>, avx2_values::<F>, vnni_round::<F>),
        #[cfg(target_arch = "x86_64")]
        Bytes::Avx2 => code(avx2::<F>, avx2_values::<F>, avx2_round::<F>),
        _ => code(plain::<F>, plain_values::<F>, plain_round::<F>),
    }
}

impl Format {
    /// How to compute with it here.
    pub(super) fn code(self) -> Code {
        match self {
            Format::Q4_0 => code::<formats::Q4_0>(),
            Format::Q4_1 => code::<formats::Q4_1>(),
            Format::Q5_0 => code::<formats::Q5_0>(),
            Format::Q5_1 => code::<formats::Q5_1>(),
            Format::Q8_0 => code::<formats::Q8_0>(),
            Format::Q4_K => code::<formats::Q4K>(),
            Format::Q5_K => code::<formats::Q5K>(),
            Format::Q6_K => code::<formats::Q6K>(),
        }
    }
}

thread_local! {
    /// Rounded inputs, kept for the next product.
    static ROUNDED: RefCell<Rounded> = RefCell::default();
}

/// `out[r, o] = sum_i x[r, i] weight[o, i] (+ bias[o])` for contiguous rows, over the thread pool,
/// with `x` rounded to bytes in blocks of 32. A row's result depends neither on the other rows nor on
/// the number of threads.
///
/// # Panics
/// When the sizes do not fit together.
pub fn product(out: &mut [f32], x: &[f32], weight: &QuantMatrix, bias: Option<&[f32]>) {
    product_into(assume_written(out), x, weight, bias);
}

/// [`product`] into memory that nothing need have been written to.
pub(super) fn product_into(out: &mut [MaybeUninit<f32>], x: &[f32], weight: &QuantMatrix, bias: Option<&[f32]>) {
    let (columns, width) = (weight.rows(), weight.columns());
    assert!(x.len().is_multiple_of(width), "rows of {width} elements, found {}", x.len());
    let rows = x.len() / width;
    assert_eq!(out.len(), rows * columns, "output of a quantised product");
    assert!(bias.is_none_or(|bias| bias.len() == columns), "one bias an output");
    let code = weight.format().code();
    // Taken out, so that another product on this thread would find none rather than a borrowed one.
    let mut rounded = ROUNDED.take();
    // SAFETY: the level names what this processor has.
    rounded.round(x, width, code.group, &|x, to| unsafe { (code.round)(x, to) });
    let panels = columns.div_ceil(ROWS);
    let work = Work { panels: weight.panels(), x: &rounded, rows, out: out.as_mut_ptr().cast(), columns, bias };
    let shares = (weight.panels().len().saturating_mul(rows) / SHARE).clamp(1, threads());
    // SAFETY: as above; sizes were checked; panels are disjoint.
    share(0..panels, shares, &|panels| unsafe { (code.sweep)(&work, panels) });
    ROUNDED.set(rounded);
}

/// Runs `work` on `shares` pieces of `range`, each on a thread of its own if there is one; none is empty, unless
/// all of it is.
pub fn share(range: Range<usize>, shares: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    let shares = shares.min(range.len());
    if shares <= 1 || range.len() <= 1 {
        return work(range);
    }
    let left = shares / 2;
    let middle = range.start + range.len() * left / shares;
    rayon::join(|| share(range.start..middle, left, work), || share(middle..range.end, shares - left, work));
}

/// One row's values.
pub fn row(weight: &QuantMatrix, row: usize, out: &mut [f32]) {
    assert!(row < weight.rows() && out.len() == weight.columns(), "a row of the matrix");
    // SAFETY: as in `product`.
    unsafe { (weight.format().code().values)(weight.panels(), row, out) }
}
