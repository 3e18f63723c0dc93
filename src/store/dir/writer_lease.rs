//! Who keeps a directory: a lock on the directory itself, which leaves no file behind and ends with its holder.
//!
//! A file system of the network that does not pass locks on tells nothing of other hosts. One that has no locks at all is
//! used without.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::file_ops;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::store::{FindWriters, LiveWriter, Writer, WriterLease};

pub struct DirLease {
    root: PathBuf,
    /// The lock, once it was tried to get it; none inside where there are no locks.
    held: Option<Option<File>>,
}

impl DirLease {
    pub fn new(root: &Path) -> DirLease {
        DirLease { root: root.to_path_buf(), held: None }
    }

    fn try_lock(&self) -> Result<Option<File>> {
        file_ops::make_root(&self.root)?;
        let directory = File::open(&self.root).map_err(|e| file_ops::io_error("open", &self.root, &e))?;
        let error = match directory.try_lock() {
            Ok(()) => return Ok(Some(directory)),
            Err(TryLockError::WouldBlock) => return Err(self.taken(&directory)),
            Err(TryLockError::Error(error)) => error,
        };
        log::debug("cannot lock the directory, a second replicator would not be detected")
            .field("store", self.root.display())
            .field("detail", error)
            .emit();
        Ok(None)
    }

    fn taken(&self, directory: &File) -> Error {
        let inode = directory.metadata().map(|data| data.ino()).unwrap_or_default();
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let holder = holder(&locks, inode).map_or("another process".to_string(), |pid| format!("process {pid}"));
        Error::new(Kind::Locked, format!("store {}: is already replicated to by {holder}", self.root.display()))
            .with_hint("only one replicator per directory: stop that one, or give this database its own directory")
    }
}

/// Who holds the lock on `inode`, by the table of the kernel: `1: FLOCK ADVISORY WRITE 4242 08:01:1234 0 EOF`.
fn holder(locks: &str, inode: u64) -> Option<&str> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (pid, file) = (words.get(4)?, words.get(5)?);
        let same = file.rsplit(':').next()?.parse() == Ok(inode);
        (words.get(1) == Some(&"FLOCK") && same && *pid != "0").then_some(*pid)
    })
}

impl WriterLease for DirLease {
    fn poll(&mut self, _now: Instant) -> Result<Option<u64>> {
        if self.held.is_none() {
            self.held = Some(self.try_lock()?);
        }
        Ok(Some(1))
    }
}

/// Which of the directories are kept by a process on this host, as the kernel's table of locks tells it. None of them is
/// locked for that: a replicator that starts at this moment would be refused.
pub struct LockedDirectories {
    root: PathBuf,
    prefixes: Vec<String>,
}

impl LockedDirectories {
    pub fn new(root: &Path) -> LockedDirectories {
        LockedDirectories { root: root.to_path_buf(), prefixes: Vec::new() }
    }

    fn writer(&self, locks: &str, prefix: &str) -> Writer {
        let Ok(inode) = std::fs::metadata(self.root.join(prefix)).map(|data| data.ino()) else { return Writer::Nobody };
        let Some(pid) = holder(locks, inode) else { return Writer::Nobody };
        let host = Some(crate::host::host_name());
        Writer::Live(LiveWriter { host, pid: pid.parse().ok(), ..LiveWriter::default() })
    }
}

impl FindWriters for LockedDirectories {
    fn query(&mut self, prefix: &str) {
        self.prefixes.push(prefix.to_string());
    }

    fn poll(&mut self, _now: Instant) -> Result<bool> {
        Ok(true)
    }

    fn answers(&self) -> Vec<Writer> {
        match std::fs::read_to_string("/proc/locks") {
            Ok(locks) => self.prefixes.iter().map(|prefix| self.writer(&locks, prefix)).collect(),
            Err(_) => vec![Writer::Unknown; self.prefixes.len()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_until_the_first_is_gone() {
        let name = format!("litestream-claim-{}", std::process::id());
        let root = std::env::temp_dir().join(&name);
        let now = Instant::now();
        let (mut first, mut second) = (DirLease::new(&root), DirLease::new(&root));
        assert_eq!(first.poll(now).unwrap(), Some(1));
        let error = second.poll(now).unwrap_err();
        assert_eq!(error.kind(), Kind::Locked);
        assert!(error.message().contains("is already replicated to by "), "{error}");
        let mut look = LockedDirectories::new(root.parent().unwrap());
        look.query(&name);
        look.query(&format!("{name}-not"));
        let found = look.answers();
        let pid = Some(std::process::id());
        assert!(matches!(&found[0], Writer::Live(writer) if writer.pid == pid), "{found:?}");
        assert_eq!(found[1], Writer::Nobody);
        drop(first);
        assert_eq!(look.answers()[0], Writer::Nobody);
        assert_eq!(second.poll(now).unwrap(), Some(1));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_holder_is_found_in_the_table_of_the_kernel() {
        let table = "1: POSIX  ADVISORY  WRITE 5 08:01:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 4242 00:2a:77 0 EOF\n";
        assert_eq!((holder(table, 77), holder(table, 78)), (Some("4242"), None));
    }
}
