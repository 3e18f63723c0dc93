//! Pages as they were when a snapshot began, for those that have changed since: a file of their own, until they are read.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::position::PageSize;

/// The pages, each at the place that it has in the database, so that only those that are kept take room on the disk. The
/// file has no name, and is gone when the snapshot is, however that ends.
pub struct Preimages {
    directory: PathBuf,
    page_size: PageSize,
    file: Option<File>,
    /// A bit for each page of the database, from the first one that is kept on.
    kept: Vec<u64>,
}

impl Preimages {
    /// Nothing is kept, and there is no file. One comes to be in `directory` with the first page.
    pub fn new(directory: &Path, page_size: PageSize) -> Preimages {
        Preimages { directory: directory.to_path_buf(), page_size, file: None, kept: Vec::new() }
    }

    pub fn has(&self, page: u32) -> bool {
        self.kept.get(page as usize / 64).is_some_and(|word| word & bit(page) != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.file.is_none()
    }

    /// Keeps a page of a database that has `pages` of them.
    pub fn put(&mut self, page: u32, pages: u32, bytes: &[u8]) -> Result<()> {
        fault::point("snapshot.keep")?;
        let at = self.place_of(page);
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(nameless(&self.directory).map_err(|e| failed(&self.directory, "make", &e))?),
        };
        file.write_all_at(bytes, at).map_err(|e| failed(&self.directory, "write to", &e))?;
        if self.kept.is_empty() {
            self.kept = vec![0; pages as usize / 64 + 1];
        }
        if let Some(word) = self.kept.get_mut(page as usize / 64) {
            *word |= bit(page);
        }
        Ok(())
    }

    /// Reads a page that is kept.
    pub fn get(&self, page: u32, bytes: &mut [u8]) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.read_exact_at(bytes, self.place_of(page)).map_err(|e| failed(&self.directory, "read", &e))
    }

    fn place_of(&self, page: u32) -> u64 {
        u64::from(page) * u64::from(self.page_size.get())
    }
}

/// The name of the file for the instant in which it has one. Another process may read another snapshot.
fn path_in(directory: &Path) -> PathBuf {
    directory.join(format!("snapshot-pages-{}", std::process::id()))
}

fn bit(page: u32) -> u64 {
    1 << (page % 64)
}

/// Not through a link: another user than ours may own the directory.
fn nameless(directory: &Path) -> std::io::Result<File> {
    let path = path_in(directory);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// A disk that is full may have room again later.
fn failed(directory: &Path, operation: &str, error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::DatabaseNotReady,
        _ => Kind::Database,
    };
    let path = path_in(directory);
    Error::io(kind, format!("{operation} {}, for pages that change during a snapshot", path.display()), error)
        .with_hint("meta-path names another directory for it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_nothing_else_is() {
        let directory = std::env::temp_dir().join(format!("litestream-preimages-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut kept = Preimages::new(&directory, PageSize::MIN);
        assert!(kept.is_empty() && !kept.has(1));
        for page in [1, 63, 64, 200] {
            kept.put(page, 200, &[page as u8; 512]).unwrap();
        }
        let held: Vec<u32> = (0..300).filter(|page| kept.has(*page)).collect();
        assert_eq!(held, [1, 63, 64, 200]);
        let mut bytes = [0; 512];
        kept.get(64, &mut bytes).unwrap();
        assert_eq!(bytes, [64; 512]);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "the file has no name");
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn where_it_cannot_be_made_that_is_said() {
        let mut kept = Preimages::new(Path::new("/proc/nowhere"), PageSize::MIN);
        let error = kept.put(1, 1, &[0; 512]).unwrap_err();
        assert!(error.message().contains("make /proc/nowhere/snapshot-pages"), "{error}");
    }
}
