//! The -wal file, written as SQLite writes it: a header, then frames, each with the checksum of all before it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::directory::{self, Directory};
use crate::error::{Error, Kind, Result};
use crate::fault;
use crate::format::position::PageSize;
use crate::format::wal::{ByteOrder, Checksum, FRAME_HEADER, Salt, WalHeader};
use crate::source::page_writer::index::Published;
use crate::source::wal_file::{WalFile, frame_offset, wal_path};

/// The checksums that this machine computes without turning bytes around, which SQLite prefers.
pub(super) const NATIVE: ByteOrder = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };

/// The last frame that was written, and what the checksum of the next one goes on from.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteMark {
    pub frames: u32,
    pub order: ByteOrder,
    pub salt: Salt,
    pub checksum: Checksum,
}

impl WriteMark {
    pub fn of(header: &Published) -> WriteMark {
        WriteMark { frames: header.frames, order: header.order, salt: header.salt, checksum: header.checksum }
    }
}

/// The -wal file of a database that we have a connection to, so that nobody removes it. It carries no locks.
pub(super) struct LogWriter {
    file: File,
    reader: WalFile,
    path: PathBuf,
    page_size: PageSize,
}

impl LogWriter {
    pub fn open(database: &Path, page_size: PageSize) -> Result<LogWriter> {
        let path = wal_path(database);
        let open = || -> io::Result<File> {
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            Directory::open(directory::parent(&path))?.open_beside(name, &database.metadata()?)
        };
        let file = open().map_err(|e| Error::io(Kind::Database, format!("open {}", path.display()), &e))?;
        let gone = || Error::new(Kind::Database, format!("open {}: it is gone", path.display()));
        let reader = WalFile::open(database)?.ok_or_else(gone)?;
        Ok(LogWriter { file, reader, path, page_size })
    }

    /// Restarts the WAL, with salts of its own (walFrames, 71525, as it does where `nCkpt` is 0). The header is durable
    /// before any frame is: else a power failure could leave new frames after an old header
    /// (sqlite.org/src/info/ff5be73dee, cited at 71556).
    pub fn begin(&self, salt: Salt) -> Result<WriteMark> {
        fault::point("standby.wal-header")?;
        let header =
            WalHeader { order: NATIVE, page_size: self.page_size, checkpoint: 0, salt, checksum: Checksum::default() };
        let bytes = header.encode();
        let write = || self.file.write_all_at(&bytes, 0).and_then(|()| self.file.sync_data());
        write().map_err(|e| self.error("write", &e))?;
        Ok(WriteMark { frames: 0, order: NATIVE, salt, checksum: WalHeader::parse(&bytes)?.checksum })
    }

    /// Writes the frame after `end` (walEncodeFrame, 68411). `commit` is the size of the database in pages where the frame
    /// ends a transaction, else 0.
    pub fn write(&self, end: &mut WriteMark, page: u32, commit: u32, content: &[u8]) -> Result<()> {
        fault::point("standby.frame")?;
        let mut frame = vec![0; FRAME_HEADER + content.len()];
        frame[FRAME_HEADER..].copy_from_slice(content);
        let number = end.frames.checked_add(1).ok_or_else(|| Error::new(Kind::Database, "the WAL is full"))?;
        put_words(&mut frame, 0, [page, commit, end.salt.0, end.salt.1]);
        let sum = end.checksum.over_frame(end.order, &frame);
        put_words(&mut frame, 16, [sum.0, sum.1]);
        let at = frame_offset(number, self.page_size);
        self.file.write_all_at(&frame, at).map_err(|e| self.error("write", &e))?;
        (end.frames, end.checksum) = (number, sum);
        Ok(())
    }

    /// Fills `content` with the page of a frame that was written.
    pub fn read(&self, frame: u32, content: &mut [u8]) -> Result<()> {
        match self.reader.page(frame, self.page_size, content)? {
            true => Ok(()),
            false => Err(self.missing(frame)),
        }
    }

    /// The page number of a committed frame.
    ///
    /// Errors: if the frame is not one of the WAL with these salts.
    pub fn page_of(&self, frame: u32, salt: Salt) -> Result<u32> {
        let found = self.reader.frame_header(frame, self.page_size)?.ok_or_else(|| self.missing(frame))?;
        match found.salt == salt {
            true => Ok(found.page),
            false => Err(self.missing(frame)),
        }
    }

    fn missing(&self, frame: u32) -> Error {
        Error::new(Kind::Database, format!("{}: expected frame {frame}, found none", self.path.display()))
    }

    fn error(&self, operation: &str, error: &std::io::Error) -> Error {
        Error::io(Kind::Database, format!("{operation} {}", self.path.display()), error)
    }
}

fn put_words<const N: usize>(frame: &mut [u8], at: usize, words: [u32; N]) {
    for (place, word) in frame[at..].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}
