//! Where the stored history of a generation ends, and what a batch must look like to continue it.

use crate::backup::checkpoint_note::CheckpointNote;
use crate::error::Result;
use crate::format::chain_end::ChainEnd;
pub use crate::format::database_checksum::DatabaseFingerprint;
use crate::format::key::Key;
use crate::format::plan::ListedEnd;
use crate::format::position::{Generation, Offset, Position, WalPosition};
use crate::format::rollup;
use crate::format::segment::{MemberHeader, SegmentReader, last_member};
use crate::format::snapshot;
use crate::format::time::Timestamp;
use crate::log;
use crate::source::{FileCrcCheck, GenerationEnd, Proof, Source, StateCheck, WalMark};

/// The end of what is stored, or is about to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredEnd {
    pub chain_end: ChainEnd,
    /// When the last batch was seen.
    pub time: Timestamp,
    /// What the database file must be, where there is no frame to recognise the place by.
    pub file: Option<FileFingerprint>,
    /// The database there, where its checksum is stored.
    pub database: Option<DatabaseFingerprint>,
}

/// What must be read to tell whether a database can go on.
pub enum ResumeCheck {
    Begin,
    /// The file, where the WAL does not tell; and the reason that it gave, if that was asked first.
    File(FileCrcCheck, Option<GenerationEnd>),
    /// The database at the place that the WAL has told.
    State(StateCheck),
}

impl ResumeCheck {
    /// Whether the place is known, and what is read proves only that the database is the stored one.
    pub fn is_only_proof(&self) -> bool {
        matches!(self, ResumeCheck::State(_))
    }

    /// What follows if it is not read to the end. Where the WAL has told the place, the copy goes on, unproven until the next
    /// snapshot; else nothing tells it.
    pub fn give_up(&self) -> std::result::Result<(), GenerationEnd> {
        match self {
            ResumeCheck::State(_) => Ok(()),
            ResumeCheck::Begin | ResumeCheck::File(..) => Err(GenerationEnd::NotCompared),
        }
    }
}

enum ResumeStart {
    Over(std::result::Result<(), GenerationEnd>),
    Check(ResumeCheck),
}

/// A database file as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileFingerprint {
    pub pages: u32,
    pub crc: u32,
}

impl StoredEnd {
    /// Before the first batch of a generation that begins at `wal_mark`.
    pub fn at_snapshot(generation: Generation, mark: &WalMark, time: Timestamp) -> StoredEnd {
        let tail = ChainEnd {
            generation,
            end: WalPosition { index: 0, offset: mark.offset() },
            page_size: mark.page_size,
            order: mark.order,
            salt: mark.salt,
            checksum: mark.checksum,
            crc: None,
        };
        StoredEnd { chain_end: tail, time, file: None, database: None }
    }

    /// After a batch whose payload has the crc32 `crc`.
    pub fn after_member(header: &MemberHeader, crc: u32) -> StoredEnd {
        let chain_end = ChainEnd::after_member(header, crc);
        StoredEnd { chain_end, time: header.visible_by, file: None, database: header.fingerprint() }
    }

    pub fn wal_position(&self) -> WalPosition {
        self.chain_end.end
    }

    /// The place to look for in the live WAL; none if the point is not the end of a frame.
    pub fn wal_mark(&self) -> Option<WalMark> {
        Some(WalMark {
            page_size: self.chain_end.page_size,
            order: self.chain_end.order,
            salt: self.chain_end.salt,
            frame: self.chain_end.end.offset.frame(self.chain_end.page_size)?,
            checksum: self.chain_end.checksum,
        })
    }

    /// Lets `source` continue here, if that is where it was. Where the whole file must be read for that, all of it is; what
    /// needs no reading to be recognised is not read. `note` is what the last run has left of the file.
    pub fn resume(
        &self,
        source: &mut Source,
        note: &CheckpointNote,
        buffer: &mut [u8],
    ) -> Result<std::result::Result<(), GenerationEnd>> {
        let mut check = ResumeCheck::Begin;
        loop {
            let resumed = self.resume_step(source, note, &mut check, buffer)?;
            match (resumed, &check) {
                (Some(resumed), _) => return Ok(resumed),
                (None, ResumeCheck::State(_)) => return Ok(Ok(())),
                (None, ResumeCheck::File(_, Some(_))) if note.vouches_for(&self.position(), source) => {
                    self.wal_mark().iter().for_each(|mark| source.resume_behind_restart(mark));
                    return Ok(Ok(()));
                }
                (None, _) => {}
            }
        }
    }

    /// The same a step at a time, and with proof that the database is the stored one, where its checksum is; none: there is
    /// more to read. [`ResumeCheck::Begin`] is what to begin with.
    pub fn resume_step(
        &self,
        source: &mut Source,
        note: &CheckpointNote,
        check: &mut ResumeCheck,
        buffer: &mut [u8],
    ) -> Result<Option<std::result::Result<(), GenerationEnd>>> {
        match check {
            ResumeCheck::Begin => match self.start_resuming(source, note)? {
                ResumeStart::Over(resumed) => Ok(Some(resumed)),
                ResumeStart::Check(next) => {
                    *check = next;
                    Ok(None)
                }
            },
            ResumeCheck::File(check, otherwise) => {
                let Some(resumed) = source.resume_at_file(check, buffer)? else { return Ok(None) };
                if let (Ok(()), Some(_), Some(mark)) = (&resumed, &otherwise, self.wal_mark()) {
                    source.resume_behind_restart(&mark);
                }
                Ok(Some(resumed.map_err(|reason| otherwise.clone().unwrap_or(reason))))
            }
            ResumeCheck::State(check) => Ok(match source.prove(check, buffer)? {
                None => None,
                Some(Proof::Equal) => Some(Ok(())),
                Some(Proof::Unknown) => {
                    log::info("database not compared with what is stored: a checkpoint went on while not running")
                        .field("db", source.path().display())
                        .emit();
                    Some(Ok(()))
                }
                Some(Proof::Differs) => Some(Err(GenerationEnd::DatabaseDiffers)),
            }),
        }
    }

    /// By the last frame that is stored. Where the WAL has been emptied since, by us or by the application that closed last,
    /// the checksum of the file tells; and a note of the file where there is none.
    fn start_resuming(&self, source: &mut Source, note: &CheckpointNote) -> Result<ResumeStart> {
        let database = self.database;
        let checksum = database.map(|known| known.checksum);
        let Some(mark) = self.wal_mark() else {
            return Ok(ResumeStart::Over(Err(GenerationEnd::UnknownStoredPosition)));
        };
        if let Some(file) = self.file {
            let check = FileCrcCheck::new(file.pages, Some(file.crc), checksum);
            return Ok(ResumeStart::Check(ResumeCheck::File(check, None)));
        }
        Ok(match (source.resume(&mark)?, database) {
            (Ok(()), Some(known)) => {
                ResumeStart::Check(ResumeCheck::State(StateCheck::new(known.pages, known.checksum)))
            }
            (Err(reason), Some(known)) if is_told_by_file(&mark, &reason) => {
                let check = FileCrcCheck::new(known.pages, None, checksum);
                ResumeStart::Check(ResumeCheck::File(check, Some(GenerationEnd::WalRestartedWhileNotRunning)))
            }
            (Err(GenerationEnd::WalRestartedWhileNotRunning), None) if note.vouches_for(&self.position(), source) => {
                source.resume_behind_restart(&mark);
                ResumeStart::Over(Ok(()))
            }
            (resumed, _) => ResumeStart::Over(resumed),
        })
    }

    pub fn position(&self) -> Position {
        Position { generation: self.chain_end.generation, wal_position: self.wal_position() }
    }

    /// The point of a place in the WAL that the tail is in; none for another WAL.
    pub fn position_in_wal(&self, mark: &WalMark) -> Option<WalPosition> {
        let same = self.chain_end.salt == mark.salt;
        same.then(|| WalPosition { index: self.chain_end.end.index, offset: mark.offset() })
    }

    /// Whether nothing of the current WAL is stored, not even its header.
    pub fn nothing_stored_of_wal(&self) -> bool {
        self.chain_end.end.offset == Offset::ZERO
    }
}

/// Whether the file may show the place that the WAL does not show: the WAL was restarted, or no frame of it is stored. Then
/// the file tells as much as the WAL's header would.
fn is_told_by_file(mark: &WalMark, reason: &GenerationEnd) -> bool {
    match reason {
        GenerationEnd::WalRestartedWhileNotRunning => true,
        GenerationEnd::WalForked { .. } | GenerationEnd::UnknownStoredPosition => mark.frame == 0,
        _ => false,
    }
}

/// Reads the end of a chain out of the bytes of its last object, as many as have come.
///
/// None: more bytes are needed. `whole` says that these are all.
pub fn parse_end(end: &ListedEnd, bytes: &[u8], whole: bool) -> Result<Option<StoredEnd>> {
    match end.last {
        Key::Snapshot(_) => {
            let header = snapshot::header_of(bytes)?;
            Ok(header.map(|header| StoredEnd {
                chain_end: header.chain_end(),
                time: header.time.max(end.time),
                file: header.file_crc().map(|crc| FileFingerprint { pages: header.pages, crc }),
                database: header.fingerprint(),
            }))
        }
        Key::Segment(key) if key.is_rollup() && !whole => {
            // All that matters stands in its header. What it holds is proven where it is read.
            let header = SegmentReader::named(&key, bytes).next_member().ok().flatten();
            Ok(header.filter(|header| rollup::key_of(header) == key).map(|header| StoredEnd::after_member(&header, 0)))
        }
        Key::Segment(key) if whole => {
            let (header, crc) = last_member(&key, bytes)?;
            Ok(Some(StoredEnd::after_member(&header, crc)))
        }
        Key::Segment(_) => Ok(None),
    }
}
