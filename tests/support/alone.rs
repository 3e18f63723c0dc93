//! Tests that measure: one at a time, with however many threads they are started. What runs beside a test that looks at a
//! time, a ratio or a count of wake-ups would be measured too.

use std::sync::{Mutex, MutexGuard, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

/// Waits until no other test of this process measures. Keep what it returns until the end of the test.
pub fn alone() -> MutexGuard<'static, ()> {
    // A test that failed has measured, too.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs each test body on a directory, one at a time.
macro_rules! alone_on_a_directory {
    ($($name:ident)*) => {
        mod on_a_directory_only {
            $(#[test] fn $name() {
                let _alone = $crate::support::alone::alone();
                super::$name(&$crate::support::Bed::directory(stringify!($name)))
            })*
        }
    };
}

pub(crate) use alone_on_a_directory;
