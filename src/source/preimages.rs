//! Pages as they were when a snapshot began, for those that have changed since: a file of their own, until they are read.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::directory::{Directory, free_bytes};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::position::PageSize;
use crate::source::lock::META_PATH_HINT;

/// So many bytes are kept between two looks at what room there is.
const SPACE_CHECK_BYTES: u64 = 1 << 20;

/// The pages, each at the place that it has in the database, so that only those that are kept take room on the disk. The
/// file has no name, and is gone when the snapshot is, however that ends.
pub struct Preimages {
    directory: PathBuf,
    page_size: PageSize,
    file: Option<File>,
    /// In it.
    bytes: u64,
    /// A bit for each page of the database, from the first one that is kept on.
    saved: Vec<u64>,
}

impl Preimages {
    /// Nothing is kept, and there is no file. One comes to be in `directory` with the first page.
    pub fn new(directory: &Path, page_size: PageSize) -> Preimages {
        Preimages { directory: directory.to_path_buf(), page_size, file: None, bytes: 0, saved: Vec::new() }
    }

    pub fn contains(&self, page: u32) -> bool {
        self.saved.get(page as usize / 64).is_some_and(|word| word & bit(page) != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.file.is_none()
    }

    /// Keeps whole pages, from `first` on, of a database that has `pages` of them.
    pub fn put(&mut self, first: u32, pages: u32, bytes: &[u8]) -> Result<()> {
        fault::point("snapshot.keep")?;
        let more = bytes.len() as u64;
        if self.bytes % SPACE_CHECK_BYTES + more >= SPACE_CHECK_BYTES {
            self.require_free_space(SPACE_CHECK_BYTES.max(more))?;
        }
        let at = self.offset_of(first);
        let file = match &self.file {
            Some(file) => file,
            None => {
                self.file.insert(unlinked_file(&self.directory).map_err(|e| io_error(&self.directory, "create", &e))?)
            }
        };
        file.write_all_at(bytes, at).map_err(|e| io_error(&self.directory, "write to", &e))?;
        self.bytes += more;
        if self.saved.is_empty() {
            self.saved = vec![0; pages as usize / 64 + 1];
        }
        for (page, _) in (first..).zip(bytes.chunks_exact(self.page_size.get() as usize)) {
            if let Some(word) = self.saved.get_mut(page as usize / 64) {
                *word |= bit(page);
            }
        }
        Ok(())
    }

    /// For those who are about to keep `more` bytes.
    ///
    /// Errors: of kind `DatabaseNotReady`, if less than what is then kept would stay free: those who write there need room.
    pub fn require_free_space(&self, more: u64) -> Result<()> {
        match free_bytes(&self.directory) {
            Some(free) if !has_enough_space(free, self.bytes, more) => {
                let found = format!("{} bytes for pages of a snapshot: only {free} bytes are free", self.bytes + more);
                Err(Error::new(Kind::DatabaseNotReady, format!("{}: {found}", self.directory.display()))
                    .with_hint(META_PATH_HINT))
            }
            _ => Ok(()),
        }
    }

    /// Reads a page that is kept.
    pub fn get(&self, page: u32, bytes: &mut [u8]) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.read_exact_at(bytes, self.offset_of(page)).map_err(|e| io_error(&self.directory, "read", &e))
    }

    fn offset_of(&self, page: u32) -> u64 {
        u64::from(page) * u64::from(self.page_size.get())
    }
}

/// Whether no more than half of what was free is taken by what is kept, `more` included.
fn has_enough_space(free: u64, kept: u64, more: u64) -> bool {
    free >= kept + 2 * more
}

fn bit(page: u32) -> u64 {
    1 << (page % 64)
}

fn unlinked_file(directory: &Path) -> std::io::Result<File> {
    Directory::open(directory)?.create_unlinked()
}

/// A disk that is full may have room again later.
fn io_error(directory: &Path, operation: &str, error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::DatabaseNotReady,
        _ => Kind::Database,
    };
    let place = directory.display();
    Error::io(kind, format!("{operation} a file in {place}, for pages that change during a snapshot"), error)
        .with_hint(META_PATH_HINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_room_is_left_to_others() {
        for (free, kept, more, leaves) in
            [(100, 0, 50, true), (99, 0, 50, false), (60, 40, 10, true), (59, 40, 10, false)]
        {
            assert_eq!(has_enough_space(free, kept, more), leaves, "{free} {kept} {more}");
        }
        let mut kept = Preimages::new(&std::env::temp_dir(), PageSize::MIN);
        let free = free_bytes(&std::env::temp_dir()).unwrap();
        kept.require_free_space(free / 4).unwrap();
        assert_eq!(kept.require_free_space(free).unwrap_err().kind(), Kind::DatabaseNotReady);
        // Also when it has come to that little by little.
        kept.bytes = (free / SPACE_CHECK_BYTES + 2) * SPACE_CHECK_BYTES - 1;
        assert_eq!(kept.put(1, 1, &[0; 512]).unwrap_err().kind(), Kind::DatabaseNotReady);
        assert!(kept.is_empty());
    }

    #[test]
    fn what_is_kept_is_found_and_nothing_else_is() {
        let directory = std::env::temp_dir().join(format!("litestream-preimages-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut kept = Preimages::new(&directory, PageSize::MIN);
        assert!(kept.is_empty() && !kept.contains(1));
        for page in [1, 63, 64, 200] {
            kept.put(page, 200, &[page as u8; 512]).unwrap();
        }
        let held: Vec<u32> = (0..300).filter(|page| kept.contains(*page)).collect();
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
        assert!(error.message().contains("create a file in /proc/nowhere"), "{error}");
    }
}
