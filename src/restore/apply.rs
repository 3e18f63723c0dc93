//! From stored objects to a database file: pages are written where they belong, and nothing is believed unchecked.
//!
//! SQLite could replay the segments itself, but it drops everything after the first bad frame without a word, and it
//! needs the original salts and chain. Here each byte passes the object's digest, the member's crc32, the WAL's own chain
//! of checksums, and the link from one batch to the next; anything else is an error that names the object. The database
//! checksum is kept up with each frame, and held to each one that is stored and to the output as it is in the end.

mod differences;
mod rollup;
mod snapshot_pages;
mod state;

use std::io::Read;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::format::chain_end::{ChainEnd, check_continues, check_key};
use crate::format::database_checksum::DatabaseChecksum;
use crate::format::frames::MemberFrames;
use crate::format::key::SegmentKey;
use crate::format::plan::Plan;
use crate::format::position::{Generation, Offset, PageSize, Position, WalPosition};
use crate::format::running_checksum::RunningChecksum;
use crate::format::segment::{Differences, MemberHeader, SegmentReader};
use crate::format::snapshot::SnapshotHeader;
use crate::format::time::Timestamp;
use crate::format::wal::{Checksum, FRAME_HEADER, Salt};
use crate::restore::object_reader::{ObjectReader, Prefetcher, ReadLog};
use crate::restore::page_output::{PageOutput, expect_growth};
use crate::restore::stop::resolve_stop;
use crate::store::Store;

use snapshot_pages::{WRITE_BYTES, write_snapshot};
use state::RestoredState;
pub use state::{RestoredEnd, ResumableRestore};

/// What was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoreResult {
    pub position: Position,
    /// When the last commit in it was seen.
    pub time: Timestamp,
    /// Size of the database in bytes.
    pub bytes: u64,
    /// Bytes read from the store.
    pub read: u64,
    /// To how many recipients the snapshot that it began with is encrypted; 0: it is in clear.
    pub recipients: usize,
}

/// Says how far a restore can go that leaves out a damaged object, where that is known: to the last commit before it.
fn with_fallback_hint(error: Error, before: Option<Timestamp>) -> Error {
    match before {
        Some(time) if error.kind() == Kind::Corrupt && error.hint().is_none() => {
            error.with_hint(format!("-timestamp {time} restores the state before it"))
        }
        _ => error,
    }
}

/// A restore under way.
pub struct Restore<'a, O> {
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    output: O,
    /// Told after each piece how many bytes have been read from the store in all.
    progress: &'a mut dyn FnMut(u64),
    read: &'a ReadLog,
    state: RestoredState,
    /// A page before a frame was applied.
    old: Vec<u8>,
}

/// Carries out `plan`, writing pages into `output`, which must be empty.
///
/// Errors: [`Kind::Corrupt`] for anything that is damaged, missing or out of order, naming the object; the store's own.
/// The output is then worth nothing.
pub fn restore<O: PageOutput>(
    store: &dyn Store,
    clock: &dyn Clock,
    plan: &Plan,
    output: O,
    progress: &mut dyn FnMut(u64),
) -> Result<RestoreResult> {
    restore_resumable(store, clock, plan, output, progress).map(|(restored, _)| restored)
}

/// The same as [`restore`], and how to go on from there.
pub fn restore_resumable<O: PageOutput>(
    store: &dyn Store,
    clock: &dyn Clock,
    plan: &Plan,
    output: O,
    progress: &mut dyn FnMut(u64),
) -> Result<(RestoreResult, ResumableRestore)> {
    let read = ReadLog::default();
    let (segments, stop) = resolve_stop(store, clock, plan)?;
    let mut restore = apply_snapshot(store, clock, plan, output, progress, &read)?;
    let restored = restore.apply_all(segments, stop)?;
    restore.prove_output()?;
    Ok((restored, ResumableRestore(restore.state)))
}

/// Applies to an output what `segments` have after its position; the first of them may begin before it.
///
/// Errors: as for [`restore`]. The output is then worth nothing.
pub fn apply_more<O: PageOutput>(
    store: &dyn Store,
    clock: &dyn Clock,
    held: ResumableRestore,
    segments: &[(SegmentKey, u64)],
    output: O,
) -> Result<(RestoreResult, ResumableRestore)> {
    let stop = segments.last().map_or(held.0.applied_to, |(key, _)| key.end);
    apply_until(store, clock, held, (segments, stop), output)
}

/// The same, up to the end of a transaction at `stop`.
pub fn apply_until<O: PageOutput>(
    store: &dyn Store,
    clock: &dyn Clock,
    held: ResumableRestore,
    (segments, stop): (&[(SegmentKey, u64)], WalPosition),
    output: O,
) -> Result<(RestoreResult, ResumableRestore)> {
    let read = ReadLog::behind(held.0.recipients);
    // What is there now is to the segments what the snapshot was: members up to it are passed over.
    let state = RestoredState { snapshot: held.0.applied_to, ..held.0 };
    let mut restore = Restore { store, clock, output, progress: &mut |_| (), read: &read, state, old: Vec::new() };
    let restored = restore.apply_all(segments, stop)?;
    Ok((restored, ResumableRestore(restore.state)))
}

/// Applies one whole object whose bytes are at hand.
pub fn apply_object<O: PageOutput, R: Read>(
    store: &dyn Store,
    clock: &dyn Clock,
    held: ResumableRestore,
    (key, bytes): (&SegmentKey, R),
    output: O,
) -> Result<ResumableRestore> {
    let read = ReadLog::behind(held.0.recipients);
    let state = RestoredState { snapshot: held.0.applied_to, ..held.0 };
    let mut restore = Restore { store, clock, output, progress: &mut |_| (), read: &read, state, old: Vec::new() };
    restore.apply_segment(key, bytes, key.end)?;
    restore.finish(key.end)?;
    Ok(ResumableRestore(restore.state))
}

/// Unpacks the snapshot.
fn apply_snapshot<'a, O: PageOutput>(
    store: &'a dyn Store,
    clock: &'a dyn Clock,
    plan: &Plan,
    mut output: O,
    progress: &'a mut dyn FnMut(u64),
    read: &'a ReadLog,
) -> Result<Restore<'a, O>> {
    let name = plan.snapshot.to_string();
    let download = ObjectReader::new(store, clock, &name, read);
    let (header, running) = write_snapshot(download, plan, &mut output, &mut || progress(read.bytes()))
        .and_then(proven_snapshot)
        .map_err(|e| {
            let error = e.context(format!("object {name}"));
            if error.kind() == Kind::Corrupt { error.with_hint(&plan.fallback_hint) } else { error }
        })?;
    let state = RestoredState {
        chain_end: header.chain_end(),
        snapshot: header.position,
        time: header.time,
        page_size: header.page_size,
        pages: header.pages,
        proven: header.database.is_some(),
        running,
        at_commit: true,
        applied_to: header.position,
        recipients: read.recipients(),
    };
    Ok(Restore { store, clock, output, progress, read, state, old: Vec::new() })
}

fn proven_snapshot((header, running): (SnapshotHeader, RunningChecksum)) -> Result<(SnapshotHeader, RunningChecksum)> {
    match header.database {
        Some(expected) if expected != running.sum() => Err(other_checksum("of the snapshot", expected, running.sum())),
        _ => Ok((header, running)),
    }
}

fn other_checksum(whose: &str, expected: DatabaseChecksum, found: DatabaseChecksum) -> Error {
    let (expected, found) = (expected.get(), found.get());
    Error::new(Kind::Corrupt, format!("database checksum {whose}: expected {expected:016x}, found {found:016x}"))
}

impl<O: PageOutput> Restore<'_, O> {
    fn apply_all(&mut self, segments: &[(SegmentKey, u64)], stop: WalPosition) -> Result<RestoreResult> {
        let names = segments.iter().map(|(key, size)| (key.to_string(), *size));
        let ahead = Prefetcher::new(self.store, self.clock, names, self.read);
        for (key, _) in segments {
            if self.state.applied_to >= stop {
                break;
            }
            let Some(download) = ahead.download() else { break };
            let before = self.state.at_commit.then_some(self.state.time);
            self.apply_segment(key, download, stop)
                .map_err(|e| with_fallback_hint(e.context(format!("object {key}")), before))?;
        }
        self.finish(stop)
    }

    fn apply_segment<R: Read>(&mut self, key: &SegmentKey, stored: R, stop: WalPosition) -> Result<()> {
        let mut reader = SegmentReader::named(key, stored);
        let mut first = true;
        while let Some(header) = reader.next_member()? {
            if std::mem::take(&mut first) {
                check_key(key, &header)?;
            }
            if header.end_point() <= self.state.snapshot {
                continue;
            }
            if self.state.applied_to >= stop {
                break;
            }
            self.apply_member(&mut reader, &header, stop)?;
            (self.progress)(self.read.bytes());
        }
        let reached = self.state.chain_end.end;
        if self.state.applied_to < stop && reached != key.end {
            return Err(Error::new(
                Kind::Corrupt,
                format!("expected frames up to {} by its name, found them up to {reached}", key.end),
            ));
        }
        Ok(())
    }

    fn apply_member<R: Read>(
        &mut self,
        reader: &mut SegmentReader<R>,
        header: &MemberHeader,
        stop: WalPosition,
    ) -> Result<()> {
        if header.start >= self.state.snapshot {
            check_continues(&self.state.chain_end, header)?;
        }
        if let Some(told) = &header.differences {
            match &header.rollup {
                Some(rollup) => self.rollup(reader, header, (rollup, told), stop)?,
                None => self.differences(reader, header, told, stop)?,
            }
            self.state.chain_end = ChainEnd::after_member(header, reader.crc());
            return Ok(());
        }
        let mut frames = MemberFrames::new(reader, header)?;
        let mut frame = Vec::new();
        let mut number = header.payload_offset.frame(header.page_size).unwrap_or(0);
        while let Some(found) = frames.next_frame(&mut frame)? {
            number = number.saturating_add(1);
            let point = WalPosition { index: header.index, offset: Offset::end_of_frame(number, header.page_size) };
            if point == self.state.snapshot {
                self.check_snapshot_frame(header, found.checksum)?;
            }
            if point > self.state.snapshot && point <= stop {
                let page = frame.get(FRAME_HEADER..).unwrap_or_default();
                self.apply(found.page, found.commit, page)?;
                self.state.applied_to = point;
                self.state.time = header.visible_by;
            }
        }
        self.state.chain_end = ChainEnd::after_member(header, reader.crc());
        Ok(())
    }

    /// A snapshot may have been taken in the middle of a batch: its last frame must stand there, with its checksum.
    fn check_snapshot_frame(&self, header: &MemberHeader, checksum: Checksum) -> Result<()> {
        let tail = &self.state.chain_end;
        let expected = (tail.generation, tail.salt, tail.checksum.unwrap_or(checksum));
        let found = (header.generation, header.salt, checksum);
        if expected == found {
            return Ok(());
        }
        let words = |(generation, salt, checksum): (Generation, Salt, Checksum)| {
            format!("generation {generation} with salt {salt:?} and checksum {checksum:?}")
        };
        let (expected, found) = (words(expected), words(found));
        Err(Error::new(Kind::Corrupt, format!("expected the snapshot's {expected}, found {found}")))
    }

    fn apply(&mut self, page: u32, commit: u32, bytes: &[u8]) -> Result<()> {
        self.apply_page(page, bytes)?;
        self.state.at_commit = commit != 0;
        if commit != 0 { self.end_transaction(commit) } else { Ok(()) }
    }

    fn apply_page(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        let Restore { output, state, old, .. } = self;
        old.resize(bytes.len(), 0);
        expect_growth(output, &state.running, page, state.page_size)?;
        if page <= state.running.extent() {
            output.read_at(page_offset(page, state.page_size), old)?;
        }
        state.running.frame(page, old, bytes);
        output.write_at(page_offset(page, state.page_size), bytes)
    }

    /// The database has so many pages now.
    fn end_transaction(&mut self, pages: u32) -> Result<()> {
        let Restore { output, state, old, .. } = self;
        old.resize(state.page_size.get() as usize, 0);
        expect_growth(output, &state.running, pages, state.page_size)?;
        state.pages = pages;
        let (size, cut) = (state.page_size, pages < state.running.extent());
        state.running.commit(pages, &mut |page, bytes| output.read_at(page_offset(page, size), bytes), old)?;
        if cut {
            // What is cut off here must not show again if the database grows later.
            output.set_len(u64::from(pages) * u64::from(size.get()))?;
        }
        Ok(())
    }

    /// Reads the output once more: it is what the stored checksums speak of, not only what was to be written.
    ///
    /// A history without any stored checksum proves nothing more by that.
    fn prove_output(&mut self) -> Result<()> {
        let RestoredState { page_size, pages, running, proven, .. } = self.state;
        let mut found = RunningChecksum::new(page_size);
        let mut piece = vec![0; WRITE_BYTES];
        let (mut at, end) = (0, u64::from(pages) * u64::from(page_size.get()));
        while proven && at < end {
            let count = usize::try_from(end - at).map_or(WRITE_BYTES, |left| left.min(WRITE_BYTES));
            let bytes = piece.get_mut(..count).unwrap_or_default();
            self.output.read_at(at, bytes)?;
            bytes.chunks(page_size.get() as usize).for_each(|page| found.push(page));
            at += count as u64;
        }
        if proven && found.sum() != running.sum() {
            return Err(output_differs(running.sum(), found.sum()));
        }
        Ok(())
    }

    fn finish(&mut self, stop: WalPosition) -> Result<RestoreResult> {
        let state = &self.state;
        if state.applied_to != stop {
            return Err(Error::new(
                Kind::Corrupt,
                format!("expected to reach {stop}, found nothing after {}", state.applied_to),
            ));
        }
        if !state.at_commit {
            return Err(Error::new(Kind::NothingToRestore, format!("position {stop} is inside a transaction"))
                .with_hint("the `wal` command lists the stored positions"));
        }
        let bytes = u64::from(state.pages) * u64::from(state.page_size.get());
        self.output.set_len(bytes)?;
        let position = Position { generation: state.chain_end.generation, wal_position: stop };
        let (read, recipients) = (self.read.bytes(), state.recipients);
        Ok(RestoreResult { position, time: state.time, bytes, read, recipients })
    }
}

fn page_offset(page: u32, size: PageSize) -> u64 {
    u64::from(page.saturating_sub(1)) * u64::from(size.get())
}

/// What a member tells of the database after it.
fn proven(told: &Differences, running: &RunningChecksum) -> Result<()> {
    match told.checksum == running.sum() {
        true => Ok(()),
        false => Err(other_checksum("after a member", told.checksum, running.sum())),
    }
}

fn output_differs(expected: DatabaseChecksum, found: DatabaseChecksum) -> Error {
    let (expected, found) = (expected.get(), found.get());
    let what = format!("output: expected database checksum {expected:016x}, found {found:016x} when it was read back");
    Error::new(Kind::Database, what).with_hint("its disk or memory is faulty, or another process wrote to it")
}
