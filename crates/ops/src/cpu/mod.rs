//! What the CPU paths share: matrix products on slices, threads, vectorised elementary functions.
//! Held to plain loops by the tests at the end of each file.

pub mod bf16;
mod dispatch;
mod math;
mod matmul;
mod memory;
pub(crate) mod pairs;
mod split;
mod strided;

use std::num::NonZeroUsize;

pub use crate::glue::{Array, View};
use dispatch::amd;
pub(crate) use dispatch::simd;
pub use dispatch::{Level, dot, level, maximum, multiply_add, replace, sum, sum_of};
pub use math::{exp, round_to_bf16, sigmoid, tanh};
pub(crate) use matmul::product as product_by_rows;
pub use matmul::{Matrix, matmul, matmul_threads, matmul_threads_new};
pub(crate) use matmul::{assume_written, written};
pub use memory::{HugePages, give_back_freed_memory, keep_freed_memory, memory_in_use, small_pages_from_now_on};
pub use split::{Disjoint, add_parts, split_rows, zeros};
pub(crate) use strided::{prefetch, transpose};

/// Number of worker threads in use (set it with [`set_threads`] before the first operator runs).
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Starts the process-wide thread pool with `threads` threads, by default one a core. Results are
/// bit-equal for equal sizes.
///
/// # Errors
/// When the pool was already started.
pub fn set_threads(threads: Option<NonZeroUsize>) -> Result<(), rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.map_or(0, NonZeroUsize::get))
        // Whole programs run on a worker ([`on_worker`]): what a main thread has by default.
        .stack_size(8 << 20)
        .build_global()
}

/// Runs a program on one of the pool's workers. Called from outside the pool, every operator puts
/// the caller to sleep and wakes the workers up, some 3,000 context switches a second in training; a
/// worker starts on its share at once.
pub fn on_worker<R: Send>(program: impl FnOnce() -> R + Send) -> R {
    let program = crate::device::on_this_stream(program);
    rayon::scope(|_| program())
}

/// Whether the calling thread is one of the pool's workers.
pub fn is_worker() -> bool {
    rayon::current_thread_index().is_some()
}

/// Splits `rows` into the ranges that worker threads take; a function of `rows` and the pool's
/// size alone, so that sums over parts are taken in the same order every time.
pub fn parts(rows: usize, minimum: usize) -> Vec<std::ops::Range<usize>> {
    let count = (rows / minimum.max(1)).clamp(1, threads());
    let size = rows.div_ceil(count).max(1);
    (0..rows).step_by(size).map(|start| start..(start + size).min(rows)).collect()
}
