//! The heap of the process.

/// Gives back pages that hold nothing any more. A start with many databases needs more than what follows it, and the C library
/// of GNU keeps what is free between two pieces that are in use.
pub fn trim() {
    // SAFETY: it takes no pointer, and leaves alone what is in use (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
