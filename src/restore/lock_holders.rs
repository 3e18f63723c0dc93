//! Who has a database open. Its file must not be replaced under them: they would go on writing into one without a name.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::format::sidecar::with_suffix;
use crate::source::lock_bytes::{DATABASE_LOCKS, INDEX_LOCKS};

/// Refuses a file that another process could still write to. This process must have no connection to it: closing a
/// descriptor drops the POSIX locks of the whole process.
///
/// Errors: of kind `Locked`, with the process where it can be known.
pub fn refuse_open(output: &Path) -> Result<()> {
    let index = with_suffix(output, "-shm");
    let locked = lock_holder(output, DATABASE_LOCKS).or_else(|| lock_holder(&index, INDEX_LOCKS));
    let Some(user) = locked.or_else(|| writer(output)) else { return Ok(()) };
    let what = format!("output {}: {} has it open", output.display(), name(user));
    Err(Error::new(Kind::Locked, what).with_hint(
        "stop it first, or it goes on writing into a file that has no name any more; \
         -force-open replaces the file all the same",
    ))
}

/// Anyone who holds one of these locks; 0 where the kernel does not say who.
fn lock_holder(path: &Path, (start, length): (i64, i64)) -> Option<u32> {
    // Neither a FIFO nor a device is waited for.
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    conflict(&file, start, length)
}

fn conflict(file: &File, start: i64, length: i64) -> Option<u32> {
    // SAFETY: all zeros is a valid flock.
    let mut asked: libc::flock = unsafe { std::mem::zeroed() };
    asked.l_type = libc::F_WRLCK as libc::c_short;
    asked.l_whence = libc::SEEK_SET as libc::c_short;
    (asked.l_start, asked.l_len) = (libc::off_t::try_from(start).ok()?, libc::off_t::try_from(length).ok()?);
    // SAFETY: fcntl(2) on a descriptor that is open, with a flock that lives through the call.
    let told = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut asked) } == 0;
    let free = asked.l_type == libc::F_UNLCK as libc::c_short;
    (told && !free).then(|| u32::try_from(asked.l_pid).unwrap_or(0))
}

/// A process that has the file open for writing, among those that we may look at: without a transaction, nobody holds a
/// lock on a database that is not in WAL mode.
fn writer(output: &Path) -> Option<u32> {
    let file = fs::metadata(output).ok()?;
    let wanted = (file.dev(), file.ino());
    let others = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    others.filter(|pid| *pid != std::process::id()).find(|pid| writes_to(*pid, wanted))
}

fn writes_to(pid: u32, wanted: (u64, u64)) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|entry| {
        let is_it = fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == wanted);
        is_it && is_for_writing(pid, &entry.file_name().to_string_lossy())
    })
}

/// By the octal flags in proc_pid_fdinfo(5).
fn is_for_writing(pid: u32, descriptor: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

fn name(pid: u32) -> String {
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let command: String = command.trim().chars().filter(|char| !char.is_control()).collect();
    match (pid, command.as_str()) {
        (0, _) => "another process".to_string(),
        (pid, "") => format!("process {pid}"),
        (pid, command) => format!("process {pid} ({command})"),
    }
}
