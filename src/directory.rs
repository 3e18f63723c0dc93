//! Every file that we write is opened here, below the handle of its directory: another user may own that directory, and
//! may put a link, a FIFO or a file of another user where we are about to write.
//!
//! Invariants:
//! * A file is either made by this call (O_EXCL), or it is found and checked: a regular file, of one name, of a user whom
//!   the directory trusts. No link is followed at the last step of a path.
//! * A new file is its owner's alone (0600), and a new directory too (0700). Who wants it wider says so.
//! * What root makes belongs to the owner of the directory, as SQLite has it for -wal and -shm (os_unix.c:
//!   findCreateFileMode, robustFchown): else a `snapshot` in root's crontab would lock out a service that runs as the
//!   owner of the database.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

const ROOT_UID: u32 = 0;
const PRIVATE_MODE: libc::mode_t = 0o600;
const PRIVATE_DIRECTORY: libc::mode_t = 0o700;
/// Bytes of randomness in the name of a temporary file.
const RANDOM_BYTES: usize = 8;

/// Who we are for the kernel when it opens a file.
pub fn effective_user() -> u32 {
    // SAFETY: no arguments, and it cannot fail.
    unsafe { libc::geteuid() }
}

/// Gives what was just made to `owner`, if root has made it and `owner` is not root. Where that cannot be (a file system
/// without owners, a namespace without that user) it stays as it is.
pub fn inherit_owner(made: &File, owner: &Metadata) {
    if owner.uid() != ROOT_UID && made.metadata().is_ok_and(|found| found.uid() == ROOT_UID) {
        let _ = fchown(made, Some(owner.uid()), Some(owner.gid()));
    }
}

/// The text of a file of settings or keys, and no more than so many bytes of it: a wrong path may be anything. What is not
/// UTF-8 is replaced.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The directory that `path` is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Bytes that a user who is not root can still write there, by statvfs(3).
pub fn free_bytes(directory: &Path) -> Option<u64> {
    file_system(directory).map(|found| bytes_free(&found))
}

/// The same on the file system that holds `file`.
pub fn free_bytes_beside(file: &File) -> Option<u64> {
    // SAFETY: the descriptor is open for the duration of the call, and `found` is ours.
    file_system_by(|found| unsafe { libc::fstatvfs(file.as_raw_fd(), found) }).map(|found| bytes_free(&found))
}

/// Whether the file system that `path` is on is mounted to be read only.
pub fn is_read_only(path: &Path) -> bool {
    file_system(path).is_some_and(|found| found.f_flag & libc::ST_RDONLY != 0)
}

#[allow(clippy::unnecessary_cast)] // 32 bits wide on 32-bit machines.
fn bytes_free(found: &libc::statvfs) -> u64 {
    found.f_bavail as u64 * found.f_frsize as u64
}

fn file_system(path: &Path) -> Option<libc::statvfs> {
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: `name` ends with a zero byte, and `found` is ours.
    file_system_by(|found| unsafe { libc::statvfs(name.as_ptr(), found) })
}

fn file_system_by(ask: impl FnOnce(*mut libc::statvfs) -> i32) -> Option<libc::statvfs> {
    // SAFETY: all zeros is a valid statvfs, and the call fills it.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    (ask(&raw mut found) == 0).then_some(found)
}

/// A directory that is open. What happens to its path later changes nothing of what is meant.
#[derive(Debug)]
pub struct Directory {
    handle: File,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory by a path that the operator has named, so that links in it are followed.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let handle = open_at(libc::AT_FDCWD, path.as_os_str(), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        Ok(Directory { handle, path: path.to_path_buf() })
    }

    /// Opens the directory `path`, and makes it and what is missing above it, each of them the owner's of `owner`. It must
    /// not be a link itself.
    pub fn open_or_create(path: &Path, owner: Option<&Metadata>) -> io::Result<Directory> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && path.symlink_metadata().is_err();
        let missing: Vec<&Path> = path.ancestors().take_while(missing).collect();
        let above = missing.last().copied().unwrap_or(path);
        let mut directory = Directory::open(parent(above))?;
        for path in missing.iter().rev().chain(missing.is_empty().then_some(&path)) {
            let Some(name) = path.file_name() else { return Directory::open(path) };
            directory.create_directory(name, owner)?;
            directory = directory.open_directory(name)?;
        }
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        self.handle.metadata()
    }

    /// The directory `name` in this one, not through a link.
    pub fn open_directory(&self, name: &OsStr) -> io::Result<Directory> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        match open_at(self.handle.as_raw_fd(), name, flags, 0) {
            Ok(handle) => Ok(Directory { handle, path: self.path.join(name) }),
            Err(e) => Err(self.without_link(name, e)),
        }
    }

    /// The directory at `relative` below this one, no part of it a link. Those that are missing are made if so wanted, and
    /// are durable then.
    pub fn resolve_parent(&self, relative: &Path, make: bool) -> io::Result<Directory> {
        let mut found = Directory { handle: self.handle.try_clone()?, path: self.path.clone() };
        for part in relative.components() {
            let Component::Normal(name) = part else { return Err(ErrorKind::InvalidInput.into()) };
            if make && found.create_directory(name, Some(&self.metadata()?))? {
                found.sync()?;
            }
            found = found.open_directory(name)?;
        }
        Ok(found)
    }

    /// Makes a directory, which then belongs to the owner of `owner`, or of this one. False if the name is taken.
    fn create_directory(&self, name: &OsStr, owner: Option<&Metadata>) -> io::Result<bool> {
        let c_name = c_string(name)?;
        // SAFETY: `c_name` ends with a zero byte, and the call does not keep it.
        match check_result(unsafe { libc::mkdirat(self.handle.as_raw_fd(), c_name.as_ptr(), PRIVATE_DIRECTORY) }) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(false),
            made => made?,
        }
        // Never another one that took its name meanwhile.
        let made = self.open_directory(name)?;
        if made.metadata()?.uid() == effective_user() {
            self.set_owner(&made.handle, owner)?;
        }
        Ok(true)
    }

    fn set_owner(&self, made: &File, owner: Option<&Metadata>) -> io::Result<()> {
        match owner {
            Some(owner) => inherit_owner(made, owner),
            None => inherit_owner(made, &self.metadata()?),
        }
        Ok(())
    }

    /// A new file, to read and to write.
    ///
    /// Errors: of kind `AlreadyExists` if the name is taken, by a link too.
    pub fn create(&self, name: &OsStr) -> io::Result<File> {
        let file = self.create_own(name)?;
        self.set_owner(&file, None)?;
        Ok(file)
    }

    /// The same, of the user that runs us until its owner is known.
    fn create_own(&self, name: &OsStr) -> io::Result<File> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        open_at(self.handle.as_raw_fd(), name, flags, PRIVATE_MODE)
    }

    /// A new file under a name that nobody can know before. It stays with the user that runs us.
    pub fn create_temporary(&self, prefix: &OsStr) -> io::Result<(OsString, File)> {
        let mut random = [0; RANDOM_BYTES];
        open_at(libc::AT_FDCWD, OsStr::new("/dev/urandom"), libc::O_RDONLY, 0)?.read_exact(&mut random)?;
        let mut name = prefix.to_owned();
        name.push(format!("{:016x}", u64::from_le_bytes(random)));
        let file = self.create_own(&name)?;
        Ok((name, file))
    }

    /// Puts what `write` writes in the place of the file of this name: a reader sees the old one or the new one whole, and so
    /// does the next start after a power failure. It belongs to the owner of the directory. False: `write` wants it dropped.
    pub fn replace(&self, name: &OsStr, write: impl FnOnce(&mut File) -> io::Result<bool>) -> io::Result<bool> {
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push("-");
        let (temporary, mut file) = self.create_temporary(&prefix)?;
        let replaced = || -> io::Result<bool> {
            self.set_owner(&file, None)?;
            if !write(&mut file)? {
                return Ok(false);
            }
            file.sync_all()?;
            self.rename(&temporary, self, name)?;
            Ok(true)
        }();
        if !matches!(replaced, Ok(true)) {
            let _ = self.remove_if_exists(&temporary);
        }
        replaced
    }

    /// A file without a name: it is gone when it is closed. Where the file system has no such thing (O_TMPFILE), its name
    /// is removed at once.
    pub fn create_unlinked(&self) -> io::Result<File> {
        let flags = libc::O_RDWR | libc::O_TMPFILE;
        match open_at(self.handle.as_raw_fd(), OsStr::new("."), flags, PRIVATE_MODE) {
            Ok(file) => Ok(file),
            // A kernel that does not know the flag takes it for a directory opened to be written.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
                let (name, file) = self.create_temporary(OsStr::new(".pages-"))?;
                self.remove(&name)?;
                Ok(file)
            }
            Err(e) => Err(e),
        }
    }

    /// Opens a file of ours to read and to write: what an earlier run has left, and nothing that was put in its place.
    pub fn open_own(&self, name: &OsStr) -> io::Result<File> {
        self.check_own(name, None, open_at(self.handle.as_raw_fd(), name, libc::O_RDWR | OPEN_FLAGS, 0))
    }

    /// The same for a file that may also belong to the owner of `beside`, such as the -wal file of that database.
    pub fn open_beside(&self, name: &OsStr, beside: &Metadata) -> io::Result<File> {
        let opened = open_at(self.handle.as_raw_fd(), name, libc::O_RDWR | OPEN_FLAGS, 0);
        self.check_own(name, Some(beside.uid()), opened)
    }

    /// The same, only to read.
    pub fn read_own(&self, name: &OsStr) -> io::Result<File> {
        self.check_own(name, None, open_at(self.handle.as_raw_fd(), name, libc::O_RDONLY | OPEN_FLAGS, 0))
    }

    /// At most so many bytes of such a file.
    pub fn read_text(&self, name: &OsStr, most: u64) -> io::Result<String> {
        let mut text = String::new();
        self.read_own(name)?.take(most).read_to_string(&mut text)?;
        Ok(text)
    }

    fn check_own(&self, name: &OsStr, other: Option<libc::uid_t>, opened: io::Result<File>) -> io::Result<File> {
        let file = opened.map_err(|e| self.without_link(name, e))?;
        let (found, directory) = (file.metadata()?, self.metadata()?);
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if found.nlink() > 1 {
            return Err(io::Error::other(format!("it has {} names (hard links), expected one", found.nlink())));
        }
        let owners = [ROOT_UID, effective_user(), directory.uid()];
        if !owners.contains(&found.uid()) && other != Some(found.uid()) {
            return Err(io::Error::other(format!(
                "it belongs to user {}, expected {} or {}",
                found.uid(),
                effective_user(),
                directory.uid()
            )));
        }
        Ok(file)
    }

    /// Opens a regular file to read, no matter who owns it, but not through a link.
    pub fn read(&self, name: &OsStr) -> io::Result<File> {
        let file = open_at(self.handle.as_raw_fd(), name, libc::O_RDONLY | OPEN_FLAGS, 0);
        file.map_err(|e| self.without_link(name, e))
    }

    /// What has the name, a link itself and not what it leads to; none if nothing has it.
    pub fn entry_metadata(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match open_at(self.handle.as_raw_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Ok(found) => found.metadata().map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether `file` is what has the name.
    pub fn is_linked_at(&self, file: &File, name: &OsStr) -> bool {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        matches!((file.metadata(), self.entry_metadata(name)), (Ok(a), Ok(Some(b))) if same(&a, &b))
    }

    /// Says of an error that a link is what is in the way, where it is.
    fn without_link(&self, name: &OsStr, error: io::Error) -> io::Error {
        let refused = matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR));
        match self.entry_metadata(name) {
            Ok(Some(found)) if refused && found.is_symlink() => io::Error::other("it is a symbolic link"),
            _ => error,
        }
    }

    /// Renames a file of this directory to `name` in `target`, in place of what has that name.
    pub fn rename(&self, from: &OsStr, target: &Directory, name: &OsStr) -> io::Result<()> {
        let (from, name) = (c_string(from)?, c_string(name)?);
        let (here, there) = (self.handle.as_raw_fd(), target.handle.as_raw_fd());
        // SAFETY: both names end with a zero byte, and the call keeps neither.
        check_result(unsafe { libc::renameat(here, from.as_ptr(), there, name.as_ptr()) })
    }

    /// Renames a file and replaces none: `AlreadyExists` if the name is taken, by renameat2(2). Where the file system or
    /// the kernel has no such thing, one that is made at the same instant is replaced.
    pub fn rename_noreplace(&self, from: &OsStr, name: &OsStr) -> io::Result<()> {
        let (old, new) = (c_string(from)?, c_string(name)?);
        let here = self.handle.as_raw_fd();
        // SAFETY: both names end with a zero byte, and the call keeps neither. Its wrapper is not in every C library.
        let result = unsafe {
            libc::syscall(libc::SYS_renameat2, here, old.as_ptr(), here, new.as_ptr(), libc::RENAME_NOREPLACE)
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match (error.raw_os_error(), self.entry_metadata(name)?) {
            (Some(libc::EINVAL | libc::ENOSYS), None) => self.rename(from, self, name),
            (Some(libc::EINVAL | libc::ENOSYS), Some(_)) => Err(ErrorKind::AlreadyExists.into()),
            _ => Err(error),
        }
    }

    /// Removes a file, or the link that has its name.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        let name = c_string(name)?;
        // SAFETY: `name` ends with a zero byte, and the call does not keep it.
        check_result(unsafe { libc::unlinkat(self.handle.as_raw_fd(), name.as_ptr(), 0) })
    }

    /// The same, and it may be gone.
    pub fn remove_if_exists(&self, name: &OsStr) -> io::Result<()> {
        match self.remove(name) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    /// For a signal handler, which may use nothing else.
    pub fn descriptor(&self) -> libc::c_int {
        self.handle.as_raw_fd()
    }
}

/// Gives a file the permissions `mode`, whatever the umask.
pub fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// Not through a link, and not waiting for the other end of a FIFO.
const OPEN_FLAGS: libc::c_int = libc::O_NOFOLLOW | libc::O_NONBLOCK;

fn open_at(directory: libc::c_int, name: &OsStr, flags: libc::c_int, mode: libc::mode_t) -> io::Result<File> {
    let name = c_string(name)?;
    loop {
        // SAFETY: `name` ends with a zero byte, and the call does not keep it.
        let opened =
            unsafe { libc::openat(directory, name.as_ptr(), flags | libc::O_CLOEXEC, libc::c_uint::from(mode)) };
        if opened >= 0 {
            // SAFETY: the descriptor was just opened, and nobody else has it.
            return Ok(unsafe { File::from_raw_fd(opened) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn check_result(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_string(name: &OsStr) -> io::Result<CString> {
    Ok(CString::new(name.as_bytes())?)
}

#[cfg(test)]
mod tests;
