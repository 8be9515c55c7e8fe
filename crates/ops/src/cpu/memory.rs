//! Asking the allocator to keep what is freed.

/// Tells glibc's allocator to keep freed memory for the next tensor of that size, where by default
/// every tensor above 32 MiB, and many smaller ones, are mapped afresh and their pages faulted in
/// one by one: for elementwise operators that costs several times the arithmetic. The price is that
/// the process stays as large as it ever was. Call it once, early, where a process trains or
/// serves; elsewhere than on Linux with glibc it does nothing. Returns whether it had effect.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // The largest threshold that fits an int would still give back 2 GiB after every step;
        // -1 is the documented way to say never.
        // SAFETY: `mallopt` only sets numbers inside the allocator.
        unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, -1) == 1 }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}
