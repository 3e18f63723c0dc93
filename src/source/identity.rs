//! Which file a path means, and whether it can be followed at all.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::format::sidecar::with_suffix;
use crate::source::wal_file;

/// The files of a database, by device and inode. Another inode under the same name is another file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileIdentity {
    pub(super) database: Inode,
    pub(super) wal: Option<Inode>,
    pub(super) index: Option<Inode>,
}

/// Device and number.
pub(super) type Inode = (u64, u64);

impl FileIdentity {
    /// Looks with stat(2), which opens nothing.
    pub fn of(database: &Path) -> Result<FileIdentity> {
        Ok(FileIdentity::beside(database, &stat(database)?))
    }

    /// The same for a database file of which `found` was found.
    pub(super) fn beside(database: &Path, found: &Metadata) -> FileIdentity {
        FileIdentity {
            database: number(found),
            wal: inode(&wal_file::wal_path(database)),
            index: inode(&with_suffix(database, "-shm")),
        }
    }

    /// The same sidecars beside the database file of which `found` was found.
    pub(super) fn with_database(&self, found: &Metadata) -> FileIdentity {
        FileIdentity { database: number(found), ..*self }
    }

    /// Which file has been replaced since, if any.
    pub fn changed(&self, now: &FileIdentity) -> Option<&'static str> {
        if self.database != now.database {
            return Some("database file replaced");
        }
        if self.index != now.index {
            return Some("-shm file replaced");
        }
        // A missing -wal that appears is how a WAL begins.
        (self.wal.is_some() && self.wal != now.wal).then_some("-wal file replaced")
    }
}

/// What the kernel says of a database file.
///
/// Errors: [`Kind::DatabaseNotReady`] if there is none.
pub(super) fn stat(database: &Path) -> Result<Metadata> {
    fs::metadata(database).map_err(|e| missing(database, &e))
}

fn number(found: &Metadata) -> Inode {
    (found.dev(), found.ino())
}

fn inode(path: &Path) -> Option<Inode> {
    fs::metadata(path).ok().map(|found| number(&found))
}

fn missing(path: &Path, error: &std::io::Error) -> Error {
    let kind = if error.kind() == std::io::ErrorKind::NotFound { Kind::DatabaseNotReady } else { Kind::Database };
    Error::io(kind, format!("database {}", path.display()), error)
}

/// The real path of a database, which is where SQLite puts the -wal and -shm files.
///
/// Errors: [`Kind::DatabaseNotReady`] if there is no file, or an empty one; [`Kind::Database`] for what is not an
/// ordinary file, has a second name (whose users would have another -wal), or lies where memory cannot be shared.
pub fn resolve(path: &Path, allow_network: bool) -> Result<PathBuf> {
    let real = fs::canonicalize(path).map_err(|e| missing(path, &e))?;
    let found = fs::metadata(&real).map_err(|e| missing(path, &e))?;
    let refuse = |what: String| Err(Error::new(Kind::Database, format!("database {}: {what}", path.display())));
    if !found.is_file() {
        return refuse("not an ordinary file".into());
    }
    if found.nlink() > 1 {
        return refuse(format!("it has {} hard links, and each name would have a -wal file of its own", found.nlink()));
    }
    match network_file_system(&real) {
        Some(name) if !allow_network => Err(Error::new(
            Kind::Database,
            format!("database {}: on a network file system ({name}), where processes share no memory", path.display()),
        )
        .with_hint(
            "run litestream on the host whose disk it is; if all that use the database run on this one, \
             allow-network-file-system: true in the configuration follows it at your own risk",
        )),
        _ => Ok(real),
    }
}

/// The name of the network file system that `path` lies on, by the magic numbers of statfs(2).
fn network_file_system(path: &Path) -> Option<&'static str> {
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zeros is a valid statfs, and the call fills it.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends with a zero byte and `found` is ours.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut found) } != 0 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    network_fs_name(found.f_type as u32)
}

fn network_fs_name(magic: u32) -> Option<&'static str> {
    const KNOWN: [(u32, &str); 8] = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB2"),
        (0x0102_1997, "9p"),
        (0x5346_414F, "AFS"),
        (0x0BD0_0BD0, "Lustre"),
        (0x00C3_6400, "Ceph"),
    ];
    KNOWN.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(database: u64, wal: Option<u64>, index: Option<u64>) -> FileIdentity {
        FileIdentity { database: (1, database), wal: wal.map(|i| (1, i)), index: index.map(|i| (1, i)) }
    }

    #[test]
    fn a_replaced_file_is_noticed_and_a_wal_that_begins_is_not() {
        let before = identity(1, Some(2), Some(3));
        assert_eq!(before.changed(&before), None);
        assert_eq!(before.changed(&identity(9, Some(2), Some(3))), Some("database file replaced"));
        assert_eq!(before.changed(&identity(1, Some(9), Some(3))), Some("-wal file replaced"));
        assert_eq!(before.changed(&identity(1, None, Some(3))), Some("-wal file replaced"));
        assert_eq!(before.changed(&identity(1, Some(2), None)), Some("-shm file replaced"));
        assert_eq!(identity(1, None, Some(3)).changed(&before), None);
    }

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        assert_eq!(network_fs_name(0x6969), Some("NFS"));
        assert_eq!(network_fs_name(0xEF53), None);
    }
}
