//! SIGINT and SIGTERM ask for an orderly end; a second one ends the process at once. SIGHUP asks for a look at the
//! configuration.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::interrupt;

static HANGUP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_hangup(_: libc::c_int) {
    HANGUP.store(true, Ordering::SeqCst);
}

extern "C" fn on_signal(signal: libc::c_int) {
    if interrupt::request(signal) != 0 {
        // SAFETY: _exit is allowed in a signal handler. 128 + n is what a shell reports for a signal's victim.
        unsafe { libc::_exit(128 + signal) };
    }
}

/// Takes over SIGINT and SIGTERM. A pipe whose reader is gone is an error of the write, not the end of the process.
pub fn install_shutdown_handlers() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        handle(signal, on_signal as *const () as libc::sighandler_t);
    }
    handle(libc::SIGPIPE, libc::SIG_IGN);
}

/// Past a limit of file sizes (`ulimit -f`) a write is an error like any other, not the end of the process.
pub fn ignore_file_size_signal() {
    handle(libc::SIGXFSZ, libc::SIG_IGN);
}

/// A program that is started has the signals that it would have without this one: those that are ignored stay ignored over
/// exec(2).
pub fn restore_for_child() {
    handle(libc::SIGXFSZ, libc::SIG_DFL);
}

/// Takes over SIGHUP, which otherwise ends the process.
pub fn install_hangup_handler() {
    handle(libc::SIGHUP, on_hangup as *const () as libc::sighandler_t);
}

/// Whether SIGHUP came since the last question.
pub fn take_hangup() -> bool {
    HANGUP.swap(false, Ordering::SeqCst)
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
pub fn shutdown_signal() -> Option<i32> {
    interrupt::requested()
}
