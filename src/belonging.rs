//! To whom belongs what is made here. What root makes beside somebody's database, or in somebody's directory, belongs to
//! that somebody, as SQLite has it for -wal and -shm (os_unix.c: findCreateFileMode, robustFchown): else a `snapshot` in
//! root's crontab would lock out a service that runs as the owner of the database.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

const ROOT: u32 = 0;

/// Gives what was just made to the owner of `place`, if root has made it and `place` is not root's. Where that cannot be
/// (a file system without owners, a namespace without that user) it stays as it is.
pub fn hand_over(made: &File, place: &Path) {
    let (Ok(found), Ok(owner)) = (made.metadata(), fs::metadata(place)) else { return };
    if found.uid() == ROOT && owner.uid() != ROOT {
        let _ = fchown(made, Some(owner.uid()), Some(owner.gid()));
    }
}

/// Makes a directory, which then belongs to the owner of `place`. False if it is there already.
pub fn make_directory(path: &Path, place: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(false),
        made => made?,
    }
    // Never another one that took its name meanwhile.
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    if let Ok(made) = OpenOptions::new().read(true).custom_flags(flags).open(path) {
        hand_over(&made, place);
    }
    Ok(true)
}
