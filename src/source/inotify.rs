//! Watches a file for writes by inotify(7), so that an idle database costs next to nothing and its next commit is seen at
//! once.
//!
//! An event is only a hint: the wal-index alone says what is committed. Callers still poll now and then, and poll at every
//! tick if inotify does not work here: it is missing, no watch is left (ENOSPC), or the file system sends no events. A watch is on an inode and holds no descriptor of the file: no POSIX lock is lost with it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Bytes of an event of a watch on a file: four numbers, no name.
const EVENT: usize = size_of::<libc::inotify_event>();

/// A write; and that the file lost its name or was given another one (an unlink changes the count of links).
const EVENTS: u32 = libc::IN_MODIFY | libc::IN_ATTRIB | libc::IN_MOVE_SELF | libc::IN_ONESHOT;

/// The watches of a process.
pub struct Inotify {
    /// None where the kernel gave none.
    inotify: Option<File>,
    /// By the kernel's number.
    file_watches: BTreeMap<i32, Weak<Cell<bool>>>,
}

/// A watch that tells of one write. The kernel's part of one that is dropped stays until then; nobody hears of it.
pub(super) struct FileWatch(Rc<Cell<bool>>);

impl FileWatch {
    /// Whether the file has been written to since, as far as [`Inotify::read_events`] has heard.
    pub(super) fn was_written(&self) -> bool {
        self.0.get()
    }
}

impl Inotify {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Inotify {
        // SAFETY: no pointers; the descriptor is ours alone from here on.
        let inotify = unsafe {
            match libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) {
                descriptor if descriptor >= 0 => Some(File::from_raw_fd(descriptor)),
                _ => None,
            }
        };
        Inotify { inotify, file_watches: BTreeMap::new() }
    }

    /// Asks for word of the next write to the file that `path` means now. None where that cannot be had.
    pub(super) fn watch_once(&mut self, path: &Path) -> Option<FileWatch> {
        let inotify = self.inotify.as_ref()?;
        let name = CString::new(path.as_os_str().as_bytes()).ok()?;
        // SAFETY: both arguments live through the call.
        let wire = unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), name.as_ptr(), EVENTS) };
        if wire < 0 {
            return None;
        }
        let touched = Rc::new(Cell::new(false));
        self.file_watches.retain(|_, wire| wire.strong_count() > 0);
        self.file_watches.insert(wire, Rc::downgrade(&touched));
        Some(FileWatch(touched))
    }

    /// Hears what has been told so far, without waiting.
    pub fn read_events(&mut self) {
        let Some(inotify) = &mut self.inotify else { return };
        let mut events = [0u8; 64 * EVENT];
        while !self.file_watches.is_empty() {
            let Ok(count) = inotify.read(&mut events) else { return };
            for event in events[..count].chunks_exact(EVENT) {
                let wire = event.first_chunk::<4>().map_or(-1, |bytes| i32::from_ne_bytes(*bytes));
                let touch = |wire: &Weak<Cell<bool>>| wire.upgrade().iter().for_each(|touched| touched.set(true));
                match wire {
                    // Events were lost (IN_Q_OVERFLOW): any of them may have been touched.
                    ..0 => self.file_watches.values().for_each(touch),
                    _ => self.file_watches.get(&wire).into_iter().for_each(touch),
                }
            }
            if count < events.len() {
                return;
            }
        }
    }

    /// Waits until there is word, `also` is readable, a signal arrives, or `timeout` is over.
    pub fn wait(&self, timeout: Duration, also: Option<RawFd>) {
        let listening = self.inotify.as_ref().filter(|_| !self.file_watches.is_empty());
        // poll(2) passes over a negative descriptor.
        let wanted = |fd: Option<RawFd>| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
        let mut wanted = [wanted(listening.map(AsRawFd::as_raw_fd)), wanted(also)];
        // SAFETY: all zeros is a valid timespec.
        let mut left: libc::timespec = unsafe { std::mem::zeroed() };
        left.tv_sec = libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX);
        left.tv_nsec = timeout.subsec_nanos() as _;
        // SAFETY: two pollfd and a timespec, alive through the call; no mask of signals.
        unsafe { libc::ppoll(wanted.as_mut_ptr(), 2, &raw const left, std::ptr::null()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("litestream-watch-{name}-{}", std::process::id()));
        std::fs::write(&path, b"x").unwrap();
        path
    }

    #[test]
    fn a_write_touches_its_own_wire_once_armed_and_no_other() {
        let (one, other) = (file("one"), file("other"));
        let mut watch = Inotify::new();
        let wires = [&one, &other].map(|path| watch.watch_once(path).expect("this kernel has inotify"));
        watch.read_events();
        assert!(wires.iter().all(|wire| !wire.was_written()));
        std::fs::OpenOptions::new().append(true).open(&one).unwrap().write_all(b"y").unwrap();
        watch.wait(Duration::from_secs(60), None);
        watch.read_events();
        assert!(wires[0].was_written() && !wires[1].was_written());
        let again = watch.watch_once(&one).unwrap();
        watch.read_events();
        assert!(!again.was_written(), "a new wire on the same file begins untouched");
        [one, other].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }

    #[test]
    fn a_file_that_is_not_there_cannot_be_watched() {
        assert!(Inotify::new().watch_once(Path::new("/nowhere/at/all")).is_none());
    }
}
