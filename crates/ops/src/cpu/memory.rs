//! Asking the system for memory as training uses it: in large pieces, again and again the same.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells glibc's allocator to keep freed memory for the next tensor of that size, where by default
/// every tensor above 32 MiB, and many smaller ones, are mapped afresh and their pages faulted in
/// one by one: for elementwise operators that costs several times the arithmetic. The price is that
/// the process stays as large as it ever was. Call it once, early, where a process trains or
/// serves; elsewhere than on Linux with glibc it does nothing. Returns whether it had effect.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // -1 is the documented way to say never; the largest int would give back from 2 GiB on. One
        // arena, because those of other threads are made of 64 MiB pieces that come and go, and
        // because it grows in one direction, which [`HugePages`] relies on; it grows by 64 MiB at a
        // time.
        let settings = [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1), (libc::M_ARENA_MAX, 1), (libc::M_TOP_PAD, 64 << 20)];
        // SAFETY: `mallopt` only sets numbers inside the allocator.
        settings.into_iter().all(|(setting, value)| unsafe { libc::mallopt(setting, value) } == 1)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// Gives the freed pages that [`keep_freed_memory`] has kept back to the system: for a process that runs
/// for days, whose largest moment says nothing of the next. Elsewhere than on Linux with glibc it does
/// nothing.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it touches only what is free; allocations of other threads wait for it.
    unsafe {
        libc::malloc_trim(64 << 20)
    };
}

/// Bytes of memory of this process: those that the system has given it pages for, and those that its
/// program has allocated and not freed. What lies between is freed memory kept for later. None where the
/// system does not tell.
pub fn memory_in_use() -> Option<[usize; 2]> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
        let resident: usize = pages.split(' ').nth(1)?.parse().ok()?;
        // SAFETY: both only read numbers.
        let (page, heap) = unsafe { (libc::sysconf(libc::_SC_PAGESIZE), libc::mallinfo2()) };
        Some([resident * usize::try_from(page).ok()?, heap.uordblks + heap.hblkhd])
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

static ADVISES: AtomicBool = AtomicBool::new(true);

/// Where the first advice was for.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
static FIRST_ADVISED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Asks for no more large pages: what has them keeps them. The kernel fills a large page up as soon as a
/// small part of it is in use, so what [`give_back_freed_memory`] gives back between long-lived pieces
/// would creep in again: for a server, once its weights are in memory.
pub fn small_pages_from_now_on() {
    ADVISES.store(false, Ordering::Relaxed);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let first = FIRST_ADVISED.load(Ordering::Relaxed);
        // SAFETY: with 0 it only tells where the heap ends.
        let end = unsafe { libc::sbrk(0) } as usize;
        if (1..end).contains(&first) {
            // SAFETY: advice changes no content.
            unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_NOHUGEPAGE) };
        }
    }
}

/// The system's allocator, its heap backed by pages of 2 MiB where the system offers them to those
/// who ask (`madvise`, the default of most distributions): walks over weights and activations of
/// gigabytes miss the processor's page tables otherwise. With glibc's own switch for the same
/// (GLIBC_TUNABLES=glibc.malloc.hugetlb=1) a distil step of SmolLM2-135M on two cores went from 172
/// to 216 tokens/s. For `#[global_allocator]`, with [`keep_freed_memory`].
pub struct HugePages;

/// Smaller requests are served from what larger ones have grown.
const LARGE: usize = 256 << 10;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn advise() {
    use std::sync::atomic::AtomicUsize;
    const PAGE: usize = 2 << 20;
    static ADVISED: AtomicUsize = AtomicUsize::new(0);
    if !ADVISES.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: with 0 it only tells where the heap ends.
    let end = unsafe { libc::sbrk(0) } as usize;
    let before = ADVISED.load(Ordering::Relaxed);
    if end < before {
        // Given back: what grows there again is advised again.
        let _ = ADVISED.compare_exchange(before, end, Ordering::Relaxed, Ordering::Relaxed);
        return;
    }
    if end == before || ADVISED.compare_exchange(before, end, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    // At the first call the length of the heap is not known: what this request may have grown it by.
    let start = (if before == 0 { end.saturating_sub(64 << 20) } else { before }).next_multiple_of(PAGE) - PAGE;
    let _ = FIRST_ADVISED.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
    // SAFETY: advice changes no content, and a range that is not all mapped is refused with an error,
    // after the mapped part was advised.
    unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn advise() {}

// SAFETY: every request is passed on to the system's allocator; advice touches no memory.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let memory = unsafe { System.alloc(layout) };
        if layout.size() >= LARGE {
            advise();
        }
        memory
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if layout.size() >= LARGE {
            advise();
        }
        memory
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        let memory = unsafe { System.realloc(memory, layout, size) };
        if size >= LARGE {
            advise();
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) };
    }
}
