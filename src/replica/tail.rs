//! Where the stored history of a generation ends, and what a batch must look like to continue it.

use crate::error::Result;
use crate::format::key::Key;
use crate::format::plan::ChainEnd;
use crate::format::position::{Generation, Offset, Point, Position};
use crate::format::segment::{MemberHeader, last_member};
use crate::format::snapshot;
use crate::format::tail::Tail;
use crate::format::time::Timestamp;
use crate::replica::checkpoint_note::CheckpointNote;
use crate::source::{FileCheck, Mark, Reason, Source};

/// The end of what is stored, or is about to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub tail: Tail,
    /// When the last batch was seen.
    pub time: Timestamp,
    /// What the database file must be, where there is no frame to recognise the place by.
    pub file: Option<FileContent>,
}

/// A database file as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileContent {
    pub pages: u32,
    pub crc: u32,
}

impl End {
    /// Before the first batch of a generation that begins at `mark`.
    pub fn begin(generation: Generation, mark: &Mark, time: Timestamp) -> End {
        let tail = Tail {
            generation,
            end: Point { index: 0, offset: mark.offset() },
            page_size: mark.page_size,
            order: mark.order,
            salt: mark.salt,
            checksum: mark.checksum,
            crc: None,
        };
        End { tail, time, file: None }
    }

    /// Behind a batch whose payload has the crc32 `crc`.
    pub fn behind(header: &MemberHeader, crc: u32) -> End {
        End { tail: Tail::of_member(header, crc), time: header.seen, file: None }
    }

    pub fn point(&self) -> Point {
        self.tail.end
    }

    /// The place to look for in the live WAL; none if the point is not the end of a frame.
    pub fn mark(&self) -> Option<Mark> {
        Some(Mark {
            page_size: self.tail.page_size,
            order: self.tail.order,
            salt: self.tail.salt,
            frame: self.tail.end.offset.frame(self.tail.page_size)?,
            checksum: self.tail.checksum,
        })
    }

    /// Lets `source` continue here, if that is where it was. Where the whole file must be read for that, all of it is.
    /// `note` is what the last run has left of the file.
    pub fn resume(
        &self,
        source: &mut Source,
        note: &CheckpointNote,
        buffer: &mut [u8],
    ) -> Result<std::result::Result<(), Reason>> {
        let mut check = self.file_check();
        loop {
            if let Some(resumed) = self.resume_step(source, note, &mut check, buffer)? {
                return Ok(resumed);
            }
        }
    }

    /// What [`End::resume_step`] begins with.
    pub fn file_check(&self) -> FileCheck {
        self.file.map_or_else(|| FileCheck::new(0, 0), |file| FileCheck::new(file.pages, file.crc))
    }

    /// The same a step at a time; none: there is more to read.
    pub fn resume_step(
        &self,
        source: &mut Source,
        note: &CheckpointNote,
        check: &mut FileCheck,
        buffer: &mut [u8],
    ) -> Result<Option<std::result::Result<(), Reason>>> {
        match (self.mark(), self.file) {
            (Some(mark), None) => self.resume_at(source, &mark, note).map(Some),
            (Some(_), Some(_)) => source.resume_at_file(check, buffer),
            (None, _) => Ok(Some(Err(Reason::UnknownStoredPosition))),
        }
    }

    /// By the last frame that is stored; where the WAL has been emptied since, by the note of the file.
    fn resume_at(
        &self,
        source: &mut Source,
        mark: &Mark,
        note: &CheckpointNote,
    ) -> Result<std::result::Result<(), Reason>> {
        let resumed = source.resume(mark)?;
        let emptied = resumed == Err(Reason::WalRestartedWhileNotRunning);
        if emptied && note.vouches_for(&self.position(), source) {
            source.resume_behind_restart(mark);
            return Ok(Ok(()));
        }
        Ok(resumed)
    }

    pub fn position(&self) -> Position {
        Position { generation: self.tail.generation, point: self.point() }
    }

    /// The point of a place in the WAL that the tail is in; none for another WAL.
    pub fn point_of(&self, mark: &Mark) -> Option<Point> {
        let same = self.tail.salt == mark.salt;
        same.then(|| Point { index: self.tail.end.index, offset: mark.offset() })
    }

    /// Whether nothing of the current WAL is stored, not even its header.
    pub fn is_at_start(&self) -> bool {
        self.tail.end.offset == Offset::ZERO
    }
}

/// Reads the end of a chain out of the bytes of its last object, as many as have come.
///
/// None: more bytes are needed. `whole` says that these are all.
pub fn read_end(end: &ChainEnd, bytes: &[u8], whole: bool) -> Result<Option<End>> {
    match end.last {
        Key::Snapshot(_) => {
            let header = snapshot::header_of(bytes)?;
            Ok(header.map(|header| End {
                tail: header.tail(),
                time: header.time.max(end.time),
                file: header.file_crc().map(|crc| FileContent { pages: header.pages, crc }),
            }))
        }
        Key::Segment(key) if whole => {
            let (header, crc) = last_member(&key, bytes)?;
            Ok(Some(End::behind(&header, crc)))
        }
        Key::Segment(_) => Ok(None),
    }
}
