//! Makes snapshots out of what is stored: of a private copy, led to the state along the segments.
//!
//! So a device stores its database once a generation, and a restore is cheap all the same. Such a snapshot is one as any other: to
//! its readers it does not matter who has made it. An encrypted one has the note that the device has left in the snapshot
//! before it, still sealed: so a device without an identity learns of which database it is.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use crate::age::sealed_note::SealedNote;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::deflate_blocks::{Block, BlockCompressor};
use crate::format::key::SnapshotKey;
use crate::format::origin::DatabaseOrigin;
use crate::format::position::WalPosition;
use crate::format::running_checksum::RunningChecksum;
use crate::format::snapshot::{SnapshotEncoder, SnapshotHeader, header_of, origin_of};
use crate::format::thinning::Thinning;
use crate::log;
use crate::replica::compaction::check_same_encryption;
use crate::restore::apply::RestoredEnd;
use crate::restore::object_reader::{ObjectReader, ReadLog};
use crate::restore::replay::Replay;
use crate::store::{Entry, Store};
use crate::thinning::made::Made;
use crate::thinning::make::{bytes_between, last_snapshot};
use crate::thinning::work::Work;

/// gzip's level: a snapshot is made once and read often.
const LEVEL: u32 = 6;
/// Bytes of the database that are compressed at once, at least a page.
const BLOCK_BYTES: usize = 256 << 10;

/// Makes and stores the snapshots that a plan wants, and tells each one.
pub fn snapshots(work: &Work<'_>, plan: &Thinning, stored: &mut dyn FnMut(Entry)) -> Result<()> {
    let Work { store, clock, listing, .. } = *work;
    let chain = &plan.chain.segments;
    let wanted: Vec<WalPosition> =
        plan.wanted.iter().filter_map(|place| chain.get(*place)).map(|(key, _)| key.end).collect();
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(()) };
    let base = last_snapshot(listing, plan, *first, &[]);
    let mut read = work.begin(base.1 + bytes_between(chain, base.0.position, *last));
    let mut replay = Replay::of(store, clock, base)?;
    read.add(base.1);
    let Described { origin, note } = Described::read(store, clock, &base.0)?;
    for at in wanted {
        read.add(bytes_between(chain, replay.position(), at));
        replay.lead(chain, at)?;
        // A history without a single database checksum proves nothing.
        let Some((file, end)) = replay.database().filter(|(_, end)| end.proven) else { continue };
        check_same_encryption(usize::from(end.encrypted), store.recipients())?;
        let (key, made) = snapshot(file, &end, origin.as_ref())?;
        let name = key.to_string();
        let mut put = store.put(&name);
        origin.iter().for_each(|origin| put.describe(&origin.to_string()));
        note.iter().for_each(|note| put.copy_note(note));
        made.store(store, clock, put, &name)?;
        log::debug("snapshot made of segments").field("name", &name).field("stored", made.size()).emit();
        stored(Entry { name, size: made.size(), whole: true });
    }
    Ok(())
}

/// What a snapshot tells besides the database.
struct Described {
    origin: Option<DatabaseOrigin>,
    /// For its writer alone.
    note: Option<SealedNote>,
}

impl Described {
    fn read(store: &dyn Store, clock: &dyn Clock, key: &SnapshotKey) -> Result<Described> {
        let name = key.to_string();
        let read = ReadLog::default();
        let (mut reader, mut bytes) = (ObjectReader::new(store, clock, &name, &read), Vec::new());
        let mut read_header = || -> Result<Described> {
            let mut piece = [0; 4096];
            while header_of(&bytes)?.is_none() {
                match reader.read(&mut piece).map_err(Error::of_stream)? {
                    0 => return Err(Error::new(Kind::Corrupt, "it is cut short")),
                    count => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
                }
            }
            Ok(Described { origin: origin_of(&bytes).unwrap_or_default(), note: reader.sealed_note() })
        };
        read_header().with_context(|| format!("object {name}"))
    }
}

/// Errors: of kind `Database`, if the copy is not what was written to it.
fn snapshot(file: &File, end: &RestoredEnd, origin: Option<&DatabaseOrigin>) -> Result<(SnapshotKey, Made)> {
    let chain = &end.chain_end;
    let header = SnapshotHeader {
        generation: chain.generation,
        position: chain.end,
        page_size: chain.page_size,
        order: chain.order,
        wal_known: true,
        salt: chain.salt,
        checksum: chain.checksum.unwrap_or_default(),
        pages: end.pages,
        time: end.time,
        database: Some(end.checksum),
    };
    let (mut encoder, mut compressor, mut piece) =
        (SnapshotEncoder::new(&header, origin), BlockCompressor::new(LEVEL), Block::default());
    let (mut made, mut out, mut found) = (Made::new()?, Vec::new(), RunningChecksum::new(header.page_size));
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = 0;
    while at < header.payload_len() {
        let count = usize::try_from(header.payload_len() - at).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        let pages = block.get_mut(..count).unwrap_or_default();
        file.read_exact_at(pages, at).map_err(|error| Error::io(Kind::Database, "read a temporary file", &error))?;
        pages.chunks(header.page_size.get() as usize).for_each(|page| found.push(page));
        compressor.compress(pages, &mut piece);
        encoder.add(&piece, &mut out);
        made.append(&mut out)?;
        at += count as u64;
    }
    encoder.finish(&mut out)?;
    made.append(&mut out)?;
    if found.sum() != end.checksum {
        let what = format!("temporary copy at {}: it is not what was written to it", header.position);
        return Err(Error::new(Kind::Database, what).with_hint("its disk or memory is faulty"));
    }
    Ok((header.key(), made))
}
