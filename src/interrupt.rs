//! Whether the process was asked to end. The signal handlers in `cmd` set it; code that waits long checks it.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::{Error, Kind, Result};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Notes a signal that asks for the end, and gives the one that was noted before; 0 is none. May be called by a handler.
pub fn request(signal: i32) -> i32 {
    SIGNAL.swap(signal, Ordering::SeqCst)
}

/// The signal that asked for the end, if one has.
pub fn requested() -> Option<i32> {
    match SIGNAL.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// Errors: the end was asked for.
pub fn check() -> Result<()> {
    match requested() {
        None => Ok(()),
        Some(signal) => Err(Error::new(Kind::Database, format!("stopped by signal {signal}"))),
    }
}
