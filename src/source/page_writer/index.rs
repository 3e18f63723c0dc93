//! The wal-index, written as SQLite writes it: the hash tables that say where the newest frame of a page is, and the header
//! that says which frames are committed.
//!
//! A commit is the header alone. What stands in the tables for frames after the header's last one is not seen by any reader
//! (walFindFrame, sqlite3.c 70960 on, looks no further), and is removed by the next writer, no matter who that is (walCleanupHash).
//!
//! Line numbers are those of sqlite3.c 3.53.2; the layout is fixed by sqlite.org/walformat.html#the_wal_index_file_format.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use rusqlite::{Connection, ffi};

use crate::error::{Error, Kind, Result};
use crate::format::position::PageSize;
use crate::format::wal::{ByteOrder, Checksum, Salt, WAL_VERSION};
use crate::source::connection;
use crate::source::wal_index::{BLOCK, HEADER_WORDS};

/// Frames that one block has room for (HASHTABLE_NPAGE, 68057).
const ENTRIES_PER_BLOCK: u32 = 4096;
/// Slots of its hash table (HASHTABLE_NSLOT, 68059).
const SLOTS_PER_BLOCK: usize = 8192;
/// Words before the first entry of the first block: both headers and the state of checkpoints (WALINDEX_HDR_SIZE, 67916).
const FIRST_ENTRY: usize = 34;
/// Frames that the first block has room for (HASHTABLE_NPAGE_ONE, 68066).
const FIRST_ENTRIES: u32 = ENTRIES_PER_BLOCK - FIRST_ENTRY as u32;
/// HASHTABLE_HASH_1, 68058.
const HASH_FACTOR: u32 = 383;

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Published {
    /// Counts commits (iChange).
    pub change: u32,
    pub order: ByteOrder,
    /// The last committed frame.
    pub frames: u32,
    /// Size of the database in pages.
    pub pages: u32,
    /// The running checksum after the last frame.
    pub checksum: Checksum,
    pub salt: Salt,
}

impl Published {
    /// The words of a header, its checksum included (walIndexWriteHdr, 68384).
    pub fn words(&self, page_size: PageSize) -> [u32; HEADER_WORDS] {
        // 65536 does not fit 16 bits and is stored as 1 (walFrames: `(szPage&0xff00) | (szPage>>16)`).
        let size = page_size.get();
        let [size_low, size_high] = (((size & 0xff00) | (size >> 16)) as u16).to_ne_bytes();
        let flags = u32::from_ne_bytes([1, u8::from(self.order == ByteOrder::Big), size_low, size_high]);
        let (salt, sum) = (self.salt, self.checksum);
        let mut words = [WAL_VERSION, 0, self.change, flags, self.frames, self.pages, sum.0, sum.1, 0, 0, 0, 0];
        // The salts are copied byte by byte from the WAL header, which is big-endian.
        (words[8], words[9]) = (salt.0.to_be(), salt.1.to_be());
        let (mut a, mut b) = (0u32, 0u32);
        for at in (0..10).step_by(2) {
            a = a.wrapping_add(words[at]).wrapping_add(b);
            b = b.wrapping_add(words[at + 1]).wrapping_add(a);
        }
        (words[10], words[11]) = (a, b);
        words
    }
}

/// SQLite's mapping of the -shm file, to write to. Valid as long as the connection that it was made of; anyone who writes must
/// hold the WRITE lock.
pub(super) struct IndexWriter {
    file: NonNull<ffi::sqlite3_file>,
    blocks: Vec<NonNull<c_void>>,
}

impl IndexWriter {
    pub fn new(connection: &Connection) -> Result<IndexWriter> {
        let file = connection::file_pointer(connection).ok_or_else(|| refused("SQLite gave no file"))?;
        let mut writer = IndexWriter { file, blocks: Vec::new() };
        writer.table(0)?;
        Ok(writer)
    }

    /// Makes frame `frame` the newest one of `page`, in the tables. `published` is the last frame of the header
    /// (walIndexAppend, 68737).
    pub fn append(&mut self, frame: u32, page: u32, published: u32) -> Result<()> {
        let (block, before) = place(frame);
        let index = frame - before;
        let table = self.table(block)?;
        if index == 1 {
            table.clear();
        }
        if table.page(index) != 0 {
            self.remove_behind(published)?;
        }
        match self.table(block)?.add(index, page) {
            true => Ok(()),
            false => Err(Error::new(Kind::Database, "wal-index: its hash table is full")),
        }
    }

    /// Removes what a writer that died has left after the last committed frame (walCleanupHash, 68675).
    fn remove_behind(&mut self, published: u32) -> Result<()> {
        if published > 0 {
            let (block, before) = place(published);
            self.table(block)?.cut(published - before);
        }
        Ok(())
    }

    /// Makes everything up to `header.frames` visible, at once and for all readers: first the second copy, a barrier, then
    /// the first (walIndexWriteHdr, 68384). A reader believes two copies that are equal (walIndexTryHdr, 70026).
    pub fn publish(&self, header: &Published, page_size: PageSize) {
        let words = header.words(page_size);
        for copy in [HEADER_WORDS, 0] {
            self.barrier();
            words.iter().enumerate().for_each(|(at, word)| self.header_word(copy + at).store(*word, Ordering::Relaxed));
        }
        self.barrier();
    }

    /// The count of commits, which a recovery starts again.
    pub fn change(&self) -> u32 {
        self.header_word(2).load(Ordering::SeqCst)
    }

    fn header_word(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at < FIRST_ENTRY);
        // SAFETY: the first block is mapped since `new`, is 32 KiB, and lives as long as the connection.
        unsafe { self.blocks[0].cast::<AtomicU32>().add(at).as_ref() }
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
        // SAFETY: SQLite's own open file.
        unsafe {
            let file = self.file.as_ptr();
            if let Some(barrier) = (*file).pMethods.as_ref().and_then(|methods| methods.xShmBarrier) {
                barrier(file);
            }
        }
    }

    /// One block, which is made if it is not there yet (walIndexPage, with `writeLock` held).
    fn table(&mut self, block: usize) -> Result<IndexTable<'_>> {
        while self.blocks.len() <= block {
            let next = self.map(self.blocks.len())?;
            self.blocks.push(next);
        }
        let memory = self.blocks[block].cast::<AtomicU32>();
        let (first, count) = if block == 0 { (FIRST_ENTRY, FIRST_ENTRIES) } else { (0, ENTRIES_PER_BLOCK) };
        // SAFETY: a block is 32 KiB: 4096 words, then 8192 half words. It is mapped for as long as the connection lives, and
        // other processes store to it, hence the atomics.
        unsafe {
            let pages = std::slice::from_raw_parts(memory.add(first).as_ptr(), count as usize);
            let slots = std::slice::from_raw_parts(
                memory.add(ENTRIES_PER_BLOCK as usize).cast::<AtomicU16>().as_ptr(),
                SLOTS_PER_BLOCK,
            );
            Ok(IndexTable { pages, slots })
        }
    }

    fn map(&self, block: usize) -> Result<NonNull<c_void>> {
        let number = i32::try_from(block).map_err(|_| refused("the WAL is too long"))?;
        let mut memory: *mut c_void = std::ptr::null_mut();
        let file = self.file.as_ptr();
        // SAFETY: SQLite's own open file; xShmMap with extend=1 makes the -shm file longer if it has to.
        let code = unsafe {
            let map = (*file).pMethods.as_ref().and_then(|methods| methods.xShmMap);
            let Some(map) = map else { return Err(refused("this file system has no shared memory")) };
            map(file, number, BLOCK, 1, (&raw mut memory).cast())
        };
        if code != ffi::SQLITE_OK {
            return Err(refused(&format!("SQLite error {code}")));
        }
        NonNull::new(memory).ok_or_else(|| refused("SQLite gave no memory"))
    }
}

fn refused(what: &str) -> Error {
    Error::new(Kind::Database, format!("map the wal-index to write: {what}"))
}

/// The block of a frame, and how many frames the blocks before have (walFramePage, 68639, and walHashGet, 68609).
fn place(frame: u32) -> (usize, u32) {
    let block = (u64::from(frame) + u64::from(ENTRIES_PER_BLOCK - FIRST_ENTRIES) - 1) / u64::from(ENTRIES_PER_BLOCK);
    let block = u32::try_from(block).unwrap_or(u32::MAX);
    (block as usize, block.checked_sub(1).map_or(0, |before| FIRST_ENTRIES + before * ENTRIES_PER_BLOCK))
}

/// The pages of some frames, and a hash table from a page to the frames that hold it.
struct IndexTable<'a> {
    pages: &'a [AtomicU32],
    /// A frame, counted from 1 in this block; 0 is free.
    slots: &'a [AtomicU16],
}

impl IndexTable<'_> {
    fn page(&self, index: u32) -> u32 {
        self.pages.get(index as usize - 1).map_or(0, |page| page.load(Ordering::Relaxed))
    }

    fn clear(&self) {
        self.pages.iter().for_each(|page| page.store(0, Ordering::Relaxed));
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    /// False if there is no room, which a table that is right always has.
    fn add(&self, index: u32, page: u32) -> bool {
        let mut key = (page.wrapping_mul(HASH_FACTOR)) as usize % SLOTS_PER_BLOCK;
        let mut collisions = index;
        while self.slots[key].load(Ordering::Relaxed) != 0 {
            if collisions == 0 {
                return false;
            }
            collisions -= 1;
            key = (key + 1) % SLOTS_PER_BLOCK;
        }
        let (Some(entry), Ok(number)) = (self.pages.get(index as usize - 1), u16::try_from(index)) else {
            return false;
        };
        entry.store(page, Ordering::Relaxed);
        self.slots[key].store(number, Ordering::SeqCst);
        true
    }

    /// Forgets the frames after `limit`.
    fn cut(&self, limit: u32) {
        let behind = |slot: &&AtomicU16| u32::from(slot.load(Ordering::Relaxed)) > limit;
        self.slots.iter().filter(behind).for_each(|slot| slot.store(0, Ordering::Relaxed));
        self.pages.iter().skip(limit as usize).for_each(|page| page.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::fixtures::size;

    fn memory() -> (Vec<AtomicU32>, Vec<AtomicU16>) {
        let pages = (0..ENTRIES_PER_BLOCK).map(|_| AtomicU32::new(0)).collect();
        (pages, (0..SLOTS_PER_BLOCK).map(|_| AtomicU16::new(0)).collect())
    }

    /// As walFindFrame looks: the newest frame of a page.
    fn found(table: &IndexTable<'_>, page: u32) -> u32 {
        let mut key = (page.wrapping_mul(HASH_FACTOR)) as usize % SLOTS_PER_BLOCK;
        let mut newest = 0;
        loop {
            match u32::from(table.slots[key].load(Ordering::SeqCst)) {
                0 => return newest,
                index if table.page(index) == page => newest = index,
                _ => {}
            }
            key = (key + 1) % SLOTS_PER_BLOCK;
        }
    }

    #[test]
    fn blocks_begin_where_sqlite_begins_them() {
        for (frame, at) in [(1, (0, 0)), (4062, (0, 0)), (4063, (1, 4062)), (8158, (1, 4062)), (8159, (2, 8158))] {
            assert_eq!(place(frame), at, "frame {frame}");
        }
        assert_eq!(place(u32::MAX).0, 1_048_576);
    }

    #[test]
    fn the_newest_frame_of_a_page_is_found_and_dead_ones_are_not() {
        let (pages, slots) = memory();
        let table = IndexTable { pages: &pages, slots: &slots };
        for index in 1..=ENTRIES_PER_BLOCK {
            assert!(table.add(index, 1 + index % 700));
        }
        assert!((1..=700).all(|page| found(&table, page) % 700 == page - 1));
        table.cut(1000);
        assert_eq!((found(&table, 1), found(&table, 301), found(&table, 302)), (700, 1000, 301));
        assert_eq!((table.page(1000), table.page(1001)), (301, 0));
        table.clear();
        assert_eq!(found(&table, 1), 0);
    }

    #[test]
    fn a_header_is_what_a_reader_of_it_takes_it_for() {
        let header = Published {
            change: 9,
            order: ByteOrder::Little,
            frames: 12,
            pages: 34,
            checksum: Checksum(5, 6),
            salt: Salt(0x0102_0304, 8),
        };
        for bytes in [512, 4096, 65_536] {
            let told = crate::source::wal_index::decoded(&header.words(size(bytes))).unwrap();
            assert_eq!((told.frames, told.pages, told.page_size.get()), (12, 34, bytes));
            assert_eq!((told.checksum, told.salt, told.order), (header.checksum, header.salt, header.order));
        }
    }
}
