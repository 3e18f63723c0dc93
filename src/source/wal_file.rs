//! The -wal file, read with ordinary reads. It carries no locks, so it may be opened and closed at will.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::format::position::{Offset, PageSize};
use crate::format::wal::{FRAME_HEADER, FrameHeader, WAL_HEADER, WalHeader};

/// An open -wal file. After a restart of the WAL the same file goes on; after a checkpoint that deleted it, another one.
pub struct WalFile {
    file: File,
    path: PathBuf,
}

impl WalFile {
    /// The -wal file of the database at `database`; none if there is none.
    pub fn open(database: &Path) -> Result<Option<WalFile>> {
        let path = wal_path(database);
        match File::open(&path) {
            Ok(file) => Ok(Some(WalFile { file, path })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(Kind::Database, format!("open {}", path.display()), &e)),
        }
    }

    /// The header; none if the file is too short to have one, or if it is not whole.
    pub fn header(&self) -> Result<Option<([u8; WAL_HEADER], WalHeader)>> {
        let mut bytes = [0; WAL_HEADER];
        if !self.read_at(&mut bytes, 0)? {
            return Ok(None);
        }
        Ok(WalHeader::parse(&bytes).ok().map(|header| (bytes, header)))
    }

    /// The header of frame `frame`, counted from 1; none if the file ends before it.
    pub fn frame_header(&self, frame: u32, page_size: PageSize) -> Result<Option<FrameHeader>> {
        let mut bytes = [0; FRAME_HEADER];
        let at = frame_offset(frame, page_size);
        Ok(self.read_at(&mut bytes, at)?.then(|| FrameHeader::parse(&bytes)))
    }

    /// Fills `bytes` with whole frames from frame `first` on. False if the file ends before that.
    pub fn frames(&self, first: u32, page_size: PageSize, bytes: &mut [u8]) -> Result<bool> {
        self.read_at(bytes, frame_offset(first, page_size))
    }

    /// Fills `page` with the page of frame `frame`.
    pub fn page(&self, frame: u32, page_size: PageSize, page: &mut [u8]) -> Result<bool> {
        self.read_at(page, frame_offset(frame, page_size) + FRAME_HEADER as u64)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<bool> {
        match self.file.read_exact_at(bytes, at) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(self.error("read", &e)),
        }
    }

    fn error(&self, operation: &str, error: &std::io::Error) -> Error {
        Error::io(Kind::Database, format!("{operation} {}", self.path.display()), error)
    }
}

/// The name that SQLite gives the WAL of a database.
pub fn wal_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// Where the header of frame `frame` (from 1) begins.
pub(super) fn frame_offset(frame: u32, page_size: PageSize) -> u64 {
    match frame.checked_sub(1) {
        None | Some(0) => WAL_HEADER as u64,
        Some(before) => Offset::end_of_frame(before, page_size).get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// As long as that only where a transaction is larger than 4 GiB, or a reader stays for days.
    #[test]
    fn a_frame_behind_4_gib_is_read_where_it_is() {
        let database = std::env::temp_dir().join(format!("litestream-long-wal-{}", std::process::id()));
        let wal = File::create(wal_path(&database)).unwrap();
        let (size, frame) = (PageSize::MAX, 70_001);
        let at = 32 + 70_000 * (24 + 65_536);
        assert!(at > 1 << 32);
        let mut bytes = vec![7; size.frame()];
        bytes[..8].copy_from_slice(&[0, 0, 0, 9, 0, 0, 0, 5]);
        wal.write_all_at(&bytes, at).unwrap();
        let found = WalFile::open(&database).unwrap().unwrap();
        let header = found.frame_header(frame, size).unwrap().unwrap();
        assert_eq!((header.page, header.commit), (9, 5));
        let (mut whole, mut page) = (vec![0; size.frame()], vec![0; size.get() as usize]);
        assert!(found.frames(frame, size, &mut whole).unwrap() && found.page(frame, size, &mut page).unwrap());
        assert!(whole == bytes && page == bytes[24..]);
        assert!(!found.page(frame + 1, size, &mut page).unwrap());
        std::fs::remove_file(wal_path(&database)).unwrap();
    }
}
