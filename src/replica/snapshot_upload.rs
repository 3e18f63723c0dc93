//! A snapshot on its way to the store: read, compressed and sent piece by piece, in fixed memory.

use std::path::Path;
use std::time::Instant;

use crate::error::{Result, ResultExt};
use crate::fault;
use crate::format::compression_level::{CompressionLevel, PieceLevels};
use crate::format::crc32::Crc32;
use crate::format::deflate_blocks::{Block, BlockCompressor};
use crate::format::position::{Generation, WalPosition};
use crate::format::running_checksum::RunningChecksum;
use crate::format::snapshot::{LEVEL, SnapshotEncoder, SnapshotHeader};
use crate::format::time::Timestamp;
use crate::format::wal::Checksum;
use crate::replica::compression_pool::CompressionPool;
use crate::source::snapshot::Snapshot;
use crate::source::{SnapshotHandle, WalMark};
use crate::store::traffic::Purpose;
use crate::store::{Put, PutState, Store};

/// Bytes of the database that are read at once: whole pages, whatever their size.
const BLOCK_BYTES: usize = 256 << 10;
/// A database of this many bytes is compressed by more than one thread.
const PARALLEL_MIN_BYTES: u64 = 8 << 20;

/// What all snapshots of a process use in turn: a hundred that are under way take little more memory than one.
pub struct SnapshotBuffers {
    pages: Vec<u8>,
    packer: BlockCompressor,
    piece: Block,
}

impl SnapshotBuffers {
    #[allow(clippy::new_without_default)]
    pub fn new() -> SnapshotBuffers {
        SnapshotBuffers { pages: vec![0; BLOCK_BYTES], packer: BlockCompressor::new(LEVEL), piece: Block::default() }
    }
}

/// An upload under way.
pub struct SnapshotUpload {
    header: SnapshotHeader,
    snapshot: Option<Snapshot>,
    handle: SnapshotHandle,
    /// Sums up the database before anything is sent: its checksum stands before it.
    file_crc: Option<(Crc32, RunningChecksum)>,
    /// How often each byte is read.
    reads: u64,
    /// The header gets the checksum of the database.
    with_checksum: bool,
    encoder: SnapshotEncoder,
    levels: PieceLevels,
    /// The store took all of the last block at once.
    store_waits: bool,
    /// None while nothing is compressed, and where the loop does it alone.
    pool: Option<CompressionPool>,
    put: Box<dyn Put>,
    ready: Vec<u8>,
    sent: usize,
    /// Its writer can recognise it at its next start.
    noted: bool,
    finished: bool,
    committed: bool,
    summed: u64,
    read: u64,
    stored: u64,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadProgress {
    /// The store takes no more for now.
    Waiting,
    /// More can be done at once.
    Working,
    /// Stored, visible and durable.
    Done,
}

impl SnapshotUpload {
    /// Begins to store `snapshot`, which is the state of `generation` at `at`, a place that `mark` tells.
    pub fn new(
        store: &dyn Store,
        mut snapshot: Snapshot,
        mark: WalMark,
        generation: Generation,
        at: WalPosition,
        time: Timestamp,
    ) -> SnapshotUpload {
        let header = SnapshotHeader {
            generation,
            position: at,
            page_size: mark.page_size,
            order: mark.order,
            wal_known: mark.frame > 0 || mark.checksum.is_some(),
            salt: mark.salt,
            checksum: mark.checksum.unwrap_or_default(),
            pages: snapshot.pages(),
            time,
            database: None,
        };
        let large = header.payload_len() >= PARALLEL_MIN_BYTES;
        let sums = snapshot.is_summed() || !header.wal_known;
        if !sums {
            snapshot.read_once();
        }
        let mut put = store.put(&header.key().to_string());
        put.count_for(Purpose::Snapshots);
        // Who lists many databases reads no object of theirs.
        put.describe(&snapshot.origin().to_string());
        SnapshotUpload {
            header,
            handle: snapshot.handle().clone(),
            file_crc: sums.then(|| (Crc32::default(), RunningChecksum::new(header.page_size))),
            reads: if sums { 2 } else { 1 },
            with_checksum: snapshot.is_summed(),
            encoder: SnapshotEncoder::new(&header, Some(snapshot.origin())),
            levels: PieceLevels::new(CompressionLevel::Auto),
            store_waits: true,
            pool: large.then(|| CompressionPool::new(BLOCK_BYTES)).filter(|pool| !pool.is_empty()),
            put,
            snapshot: Some(snapshot),
            ready: Vec::new(),
            sent: 0,
            noted: false,
            finished: false,
            committed: false,
            summed: 0,
            read: 0,
            stored: 0,
        }
    }

    /// The same, compressed as it is asked for.
    pub fn compressed(self, asked: CompressionLevel) -> SnapshotUpload {
        SnapshotUpload { levels: PieceLevels::new(asked), ..self }
    }

    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// What the source knows the snapshot by.
    pub fn handle(&self) -> &SnapshotHandle {
        &self.handle
    }

    /// Bytes of the database read so far: a byte that is read twice counts half each time.
    pub fn read(&self) -> u64 {
        (self.summed + self.read) / self.reads
    }

    /// Bytes given to the store so far.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Whether the store may have it, though no answer has come.
    pub fn is_committed(&self) -> bool {
        self.committed
    }

    /// Makes progress by at most one piece, so that other databases are not kept waiting. The snapshot becomes visible only
    /// where it may be committed now.
    pub fn poll(&mut self, buffers: &mut SnapshotBuffers, may_commit: bool, now: Instant) -> Result<UploadProgress> {
        self.step(buffers, may_commit, now).with_context(|| self.name())
    }

    /// Lets go of the database before the store has all of it: what is left waits in a file in `directory`.
    ///
    /// Errors: as [`Snapshot::detach`]; the upload goes on as it was.
    pub fn detach(&mut self, directory: &Path) -> Result<()> {
        match &mut self.snapshot {
            Some(snapshot) => snapshot.detach(directory),
            None => Ok(()),
        }
    }

    /// Without the moment in it: each attempt has another, and the same trouble is logged once.
    fn name(&self) -> String {
        format!("snapshot of generation {}", self.header.generation)
    }

    fn step(&mut self, buffers: &mut SnapshotBuffers, may_commit: bool, now: Instant) -> Result<UploadProgress> {
        if self.file_crc.is_some() {
            self.hash_next(buffers)?;
            return Ok(UploadProgress::Working);
        }
        self.submit_pages()?;
        let next = self.sent == self.ready.len();
        if next {
            self.next_block(buffers)?;
        }
        let moved = self.send()?;
        if next {
            self.store_waits = self.sent == self.ready.len();
        }
        self.commit(may_commit)?;
        match self.put.poll(now)? {
            PutState::Done => Ok(UploadProgress::Done),
            _ if moved && !self.is_fully_compressed() => Ok(UploadProgress::Working),
            _ => Ok(UploadProgress::Waiting),
        }
    }

    fn hash_next(&mut self, buffers: &mut SnapshotBuffers) -> Result<()> {
        let (Some(snapshot), Some((crc, running))) = (&mut self.snapshot, &mut self.file_crc) else { return Ok(()) };
        let count = snapshot.read(&mut buffers.pages)?;
        if count > 0 {
            let pages = &buffers.pages[..count];
            if !self.header.wal_known {
                crc.update(pages);
            }
            pages.chunks_exact(self.header.page_size.get() as usize).for_each(|page| running.push(page));
            self.summed += count as u64;
            return Ok(());
        }
        snapshot.rewind();
        snapshot.read_once();
        if let Some((crc, running)) = self.file_crc.take() {
            self.header.database = self.with_checksum.then(|| running.sum());
            if !self.header.wal_known {
                self.header.checksum = Checksum(crc.finish(), 0);
            }
        }
        self.encoder.set_header(&self.header);
        Ok(())
    }

    /// Keeps the pool busy, if there is one.
    fn submit_pages(&mut self) -> Result<()> {
        let (Some(snapshot), Some(pool)) = (&mut self.snapshot, &mut self.pool) else { return Ok(()) };
        while let Some(mut job) = pool.take_buffer() {
            job.len = snapshot.read(&mut job.pages)?;
            if job.len == 0 {
                // The pin of the snapshot ends here, not when the last byte has been sent.
                self.snapshot = None;
                return Ok(());
            }
            self.read += job.len as u64;
            job.level = self.levels.next(job.len, self.store_waits);
            pool.submit(job)?;
        }
        Ok(())
    }

    fn next_block(&mut self, buffers: &mut SnapshotBuffers) -> Result<()> {
        self.ready.clear();
        self.sent = 0;
        match &mut self.pool {
            Some(pool) => match pool.next_result()? {
                Some(job) => {
                    self.encoder.add(&job.block, &mut self.ready);
                    pool.recycle(job);
                }
                None => {
                    self.pool = None;
                    self.encoder.finish(&mut self.ready)?;
                }
            },
            None => self.compress_next(buffers)?,
        }
        Ok(())
    }

    fn compress_next(&mut self, buffers: &mut SnapshotBuffers) -> Result<()> {
        let Some(snapshot) = &mut self.snapshot else { return Ok(()) };
        let count = snapshot.read(&mut buffers.pages)?;
        if count == 0 {
            self.snapshot = None;
            return self.encoder.finish(&mut self.ready);
        }
        buffers.packer.set_level(self.levels.next(count, self.store_waits));
        buffers.packer.compress(&buffers.pages[..count], &mut buffers.piece);
        self.encoder.add(&buffers.piece, &mut self.ready);
        self.read += count as u64;
        Ok(())
    }

    /// Whether the whole object is in `ready`, or gone from there.
    fn is_fully_compressed(&self) -> bool {
        self.snapshot.is_none() && self.pool.is_none()
    }

    fn send(&mut self) -> Result<bool> {
        if !std::mem::replace(&mut self.noted, true) {
            let mut header = Vec::new();
            self.encoder.write_header(&mut header);
            self.put.note(&header);
        }
        let before = self.sent;
        while let Some(rest) = self.ready.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.put.write(rest)? {
                0 => break,
                taken => self.sent += taken,
            }
        }
        self.stored += (self.sent - before) as u64;
        let all_sent = self.sent == self.ready.len();
        if all_sent && self.is_fully_compressed() && !self.finished {
            self.put.finish();
            self.finished = true;
        }
        Ok(all_sent || self.sent > before)
    }

    fn commit(&mut self, may_commit: bool) -> Result<()> {
        if self.finished && may_commit && !self.committed {
            fault::point("snapshot.commit")?;
            self.put.commit();
            self.committed = true;
        }
        Ok(())
    }
}
