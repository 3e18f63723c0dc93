//! SIGINT and SIGTERM ask for an orderly end; a second one ends the process at once.

use std::sync::atomic::{AtomicI32, Ordering};

static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: libc::c_int) {
    if RECEIVED.swap(signal, Ordering::SeqCst) != 0 {
        // SAFETY: _exit is allowed in a signal handler. 128 + n is what a shell reports for a signal's victim.
        unsafe { libc::_exit(128 + signal) };
    }
}

/// Takes over SIGINT and SIGTERM. A pipe whose reader is gone is an error of the write, not the end of the process.
pub fn install() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        handle(signal, on_signal as *const () as libc::sighandler_t);
    }
    handle(libc::SIGPIPE, libc::SIG_IGN);
}

fn handle(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: all zeros is a valid sigaction; the handler touches one atomic and calls _exit.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// The signal that asked for the end, if one has.
pub fn received() -> Option<i32> {
    match RECEIVED.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}
