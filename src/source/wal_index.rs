//! The wal-index header, read in place through SQLite's own mapping of the -shm file.
//!
//! The header says which frames are committed, and nothing else does: a commit frame with a perfect checksum may stand in
//! the WAL and never have happened, because its writer died before publishing it (walIndexWriteHdr, sqlite3.c 68384).
//!
//! No file descriptor on the -shm is opened here: closing one would drop every POSIX lock that this process holds on the
//! file, SQLite's included. `SQLITE_FCNTL_FILE_POINTER` and `xShmMap` are public interfaces, and the layout is fixed by
//! sqlite.org/walformat.html (checked by the version number in it).

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rusqlite::{Connection, ffi};

use crate::error::{Error, Kind, Result};
use crate::format::position::PageSize;
use crate::format::wal::{ByteOrder, Checksum, Salt, WAL_VERSION};
use crate::source::connection;

/// 32-bit words in one of the two copies of the header.
pub(super) const HEADER_WORDS: usize = 12;
/// The word after both copies: how many frames are in the database file already (nBackfill).
const BACKFILL_WORD: usize = 2 * HEADER_WORDS;
/// How many frames a checkpoint has begun to copy there (nBackfillAttempted), at byte 128.
const ATTEMPTED_WORD: usize = 32;
/// Bytes of the first block of the -shm file, which holds the header (WALINDEX_PGSZ, sqlite3.c 67985).
pub(super) const BLOCK: i32 = 32_768;
/// A writer changes both copies within nanoseconds; a header that is still torn after so many looks is broken.
const MAX_READS: u32 = 2_000;

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexHeader {
    pub order: ByteOrder,
    pub page_size: PageSize,
    /// Frames of this WAL that are committed (mxFrame).
    pub frames: u32,
    /// The size of the database in pages, after those frames.
    pub pages: u32,
    /// The checksum of frame `frames` (aFrameCksum).
    pub checksum: Checksum,
    pub salt: Salt,
    /// Frames that are in the database file already (nBackfill).
    pub backfilled: u32,
}

impl IndexHeader {
    /// Whether both speak of the same commit; how much is backfilled does not matter.
    pub fn same_commit(&self, other: &IndexHeader) -> bool {
        IndexHeader { backfilled: 0, ..*self } == IndexHeader { backfilled: 0, ..*other }
    }

    /// Whether every committed frame is in the database file.
    pub fn is_backfilled(&self) -> bool {
        self.backfilled >= self.frames
    }
}

/// How far checkpoints are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointProgress {
    pub salt: Salt,
    pub backfilled: u32,
    pub attempted: u32,
}

impl CheckpointProgress {
    /// A checkpoint is writing to the database file, or one was interrupted.
    pub fn is_open(&self) -> bool {
        self.attempted > self.backfilled
    }

    /// A checkpoint got somewhere without announcing it, as before SQLite 3.11.
    pub fn is_unannounced(&self) -> bool {
        self.attempted < self.backfilled
    }
}

/// The mapping, which lives as long as the connection that it was taken from.
pub struct WalIndex {
    words: NonNull<AtomicU32>,
}

impl WalIndex {
    /// Maps the wal-index of `connection`, which must have read from a database in WAL mode and must outlive this value.
    pub fn map(connection: &Connection) -> Result<WalIndex> {
        let refused = |what: &str| Error::new(Kind::Database, format!("map the wal-index: {what}"));
        let file = connection::file_pointer(connection).ok_or_else(|| refused("SQLite gave no file"))?.as_ptr();
        let mut block: *mut c_void = std::ptr::null_mut();
        // SAFETY: `file` is SQLite's own open file. xShmMap with extend=0 maps what is there or gives null.
        let code = unsafe {
            let methods = (*file).pMethods;
            let map = if methods.is_null() { None } else { (*methods).xShmMap };
            let Some(map) = map else { return Err(refused("this file system has no shared memory")) };
            map(file, 0, BLOCK, 0, (&raw mut block).cast())
        };
        if code != ffi::SQLITE_OK {
            return Err(refused(&format!("SQLite error {code}")));
        }
        // SQLite maps whole blocks at page boundaries, so the words are aligned.
        NonNull::new(block.cast::<AtomicU32>())
            .map(|words| WalIndex { words })
            .ok_or_else(|| refused("there is no wal-index yet"))
    }

    /// The header as of now; none if it is torn or not initialised, so that a recovery must run.
    ///
    /// Errors: a wal-index of a version that is not known.
    pub fn read(&self) -> Result<Option<IndexHeader>> {
        for look in 0..MAX_READS {
            if let Some((words, backfilled)) = self.read_consistent() {
                return decode(&words, backfilled);
            }
            if look > 16 {
                std::thread::yield_now();
            }
        }
        Ok(None)
    }

    /// Lets go of the memory after the page with the header. The kernel maps it again when SQLite reads there; the file
    /// keeps what it holds, and so does the application's mapping of it. A process that follows a thousand databases at
    /// rest looks at the headers alone.
    pub fn release_memory(&self) {
        // SAFETY: sysconf(3) only asks. SQLite maps whole blocks at page boundaries, `BLOCK` bytes of which are ours to
        // look at as long as the connection lives; MADV_DONTNEED changes nothing in a shared mapping of a file (madvise(2)).
        unsafe {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(usize::MAX);
            if let Some(after @ 1..) = (BLOCK as usize).checked_sub(page) {
                libc::madvise(self.words.as_ptr().byte_add(page).cast(), after, libc::MADV_DONTNEED);
            }
        }
    }

    /// How far checkpoints are right now. Each of the numbers is one word, and may be newer than the one before it.
    pub fn progress(&self) -> CheckpointProgress {
        let salt = Salt(u32::from_be(self.word(8)), u32::from_be(self.word(9)));
        let backfilled = self.word(BACKFILL_WORD);
        fence(Ordering::SeqCst);
        CheckpointProgress { salt, backfilled, attempted: self.word(ATTEMPTED_WORD) }
    }

    fn word(&self, at: usize) -> u32 {
        // SAFETY: the block is 32 KiB and `at` is below 33. Other processes store to it, hence the atomic.
        unsafe { self.words.add(at).as_ref() }.load(Ordering::Relaxed)
    }

    /// The words of the header if both copies agree and the checksum is right, and how much was backfilled while they
    /// stood. A writer stores the second copy first, so a reader looks at the first one first (walIndexTryHdr, sqlite3.c
    /// 70026).
    ///
    /// A checkpoint that knows a later commit leaves out each page that has a newer frame, and stops at a reader's mark:
    /// what it then calls backfilled is not all that our commit needs. So the header must be the same after that look
    /// (as in walTryBeginRead, sqlite3.c 70677).
    fn read_consistent(&self) -> Option<([u32; HEADER_WORDS], u32)> {
        let copy = |start: usize| -> [u32; HEADER_WORDS] {
            let words = std::array::from_fn(|at| self.word(start + at));
            fence(Ordering::SeqCst);
            words
        };
        let (first, second) = (copy(0), copy(HEADER_WORDS));
        let backfilled = self.word(BACKFILL_WORD);
        fence(Ordering::SeqCst);
        (first == second && copy(HEADER_WORDS) == second && checksum_ok(&first)).then_some((first, backfilled))
    }
}

/// The checksum over the first 40 bytes, in native words (walChecksumBytes with nativeCksum).
fn checksum_ok(words: &[u32; HEADER_WORDS]) -> bool {
    let (mut a, mut b) = (0u32, 0u32);
    let (pairs, _) = words[..10].as_chunks::<2>();
    for [x, y] in pairs {
        a = a.wrapping_add(*x).wrapping_add(b);
        b = b.wrapping_add(*y).wrapping_add(a);
    }
    (a, b) == (words[10], words[11])
}

fn decode(words: &[u32; HEADER_WORDS], backfilled: u32) -> Result<Option<IndexHeader>> {
    let [initialised, big_endian, size_low, size_high] = words[3].to_ne_bytes();
    if initialised == 0 {
        return Ok(None);
    }
    if words[0] != WAL_VERSION {
        return Err(Error::new(
            Kind::Database,
            format!("wal-index: expected version {WAL_VERSION}, found {}", words[0]),
        ));
    }
    // 65536 does not fit 16 bits and is stored as 1 (sqlite3.c 67790).
    let size = match u16::from_ne_bytes([size_low, size_high]) {
        1 => 65_536,
        size => u32::from(size),
    };
    // A wal-index that was made for an empty WAL has no page size yet; the smallest stands in, no frame will use it.
    let page_size = if size == 0 { PageSize::MIN } else { PageSize::new(size)? };
    Ok(Some(IndexHeader {
        order: if big_endian == 0 { ByteOrder::Little } else { ByteOrder::Big },
        page_size,
        frames: words[4],
        pages: words[5],
        checksum: Checksum(words[6], words[7]),
        // The salts are copied from the WAL header byte by byte, so they are big-endian everywhere.
        salt: Salt(u32::from_be(words[8]), u32::from_be(words[9])),
        backfilled,
    }))
}

/// A header of which both copies have these words; none if they are not one.
#[cfg(test)]
pub(super) fn decoded(words: &[u32; HEADER_WORDS]) -> Option<IndexHeader> {
    checksum_ok(words).then(|| decode(words, 0).ok().flatten()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> [u32; HEADER_WORDS] {
        let size = 4096u16.to_ne_bytes();
        let flags = u32::from_ne_bytes([1, 0, size[0], size[1]]);
        let mut words = [WAL_VERSION, 0, 7, flags, 12, 34, 5, 6, 0x0102_0304u32.to_be(), 8u32.to_be(), 0, 0];
        seal(&mut words);
        words
    }

    fn seal(words: &mut [u32; HEADER_WORDS]) {
        let (mut a, mut b) = (0u32, 0u32);
        for at in (0..10).step_by(2) {
            a = a.wrapping_add(words[at]).wrapping_add(b);
            b = b.wrapping_add(words[at + 1]).wrapping_add(a);
        }
        (words[10], words[11]) = (a, b);
    }

    #[test]
    fn a_header_is_taken_only_with_the_right_checksum() {
        let mut words = header();
        assert!(checksum_ok(&words));
        words[4] += 1;
        assert!(!checksum_ok(&words));
    }

    /// A checkpoint that a reader's mark holds at frame n, after the commit of frame n + 1: never is all of it in the
    /// file, though n frames are committed at one moment, and n are in the file at the next.
    #[test]
    fn what_is_in_the_file_is_never_told_of_a_commit_before() {
        let words: [AtomicU32; BACKFILL_WORD + 1] = std::array::from_fn(|_| AtomicU32::new(0));
        let publish = |frames: u32| {
            let mut header = header();
            header[4] = frames;
            seal(&mut header);
            for copy in [HEADER_WORDS, 0] {
                (0..HEADER_WORDS).for_each(|at| words[copy + at].store(header[at], Ordering::SeqCst));
            }
            words[BACKFILL_WORD].store(frames - 1, Ordering::SeqCst);
        };
        publish(1);
        let index = WalIndex { words: NonNull::new(words.as_ptr().cast_mut()).unwrap() };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (2..200_000).for_each(publish));
            while !writer.is_finished() {
                let found = index.read().unwrap();
                assert!(found.is_none_or(|header| !header.is_backfilled()), "{found:?}");
            }
        });
    }

    #[test]
    fn the_fields_are_where_sqlite_puts_them() {
        let found = decode(&header(), 3).unwrap().unwrap();
        assert_eq!((found.frames, found.pages, found.backfilled), (12, 34, 3));
        assert_eq!((found.checksum, found.salt), (Checksum(5, 6), Salt(0x0102_0304, 8)));
        assert_eq!((found.page_size.get(), found.order), (4096, ByteOrder::Little));
    }

    #[test]
    fn page_size_one_means_65536() {
        let mut words = header();
        let one = 1u16.to_ne_bytes();
        words[3] = u32::from_ne_bytes([1, 1, one[0], one[1]]);
        let found = decode(&words, 0).unwrap().unwrap();
        assert_eq!((found.page_size.get(), found.order), (65_536, ByteOrder::Big));
    }

    #[test]
    fn an_uninitialised_or_unknown_header_is_not_read() {
        let mut words = header();
        words[3] = 0;
        assert_eq!(decode(&words, 0).unwrap(), None);
        let mut words = header();
        words[0] += 1;
        let error = decode(&words, 0).unwrap_err();
        assert!(error.message().ends_with("found 3007001"), "{error}");
    }
}
