//! Whether what is stored can be continued by what the WAL holds now. Pure.

use std::fmt;

use crate::format::position::{Offset, PageSize};
use crate::format::wal::{ByteOrder, Checksum, FrameHeader, Salt, WalHeader};
use crate::source::wal_index::IndexHeader;

/// A place in one particular WAL: after frame `frame` of the WAL with this salt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalMark {
    pub page_size: PageSize,
    pub order: ByteOrder,
    pub salt: Salt,
    /// Counted from 1; 0 is before the first.
    pub frame: u32,
    /// Of that frame, or of the WAL header before the first one; none where it is not known.
    pub checksum: Option<Checksum>,
}

impl WalMark {
    /// The place as a byte in the WAL file.
    pub fn offset(&self) -> Offset {
        Offset::end_of_frame(self.frame, self.page_size)
    }
}

/// Why a generation cannot go on. The text is what the log says: `reason="…"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GenerationEnd {
    NothingStored,
    StoredHistoryHasGap,
    /// It was left by another device, or this one has lost the key of its notes.
    Encrypted,
    /// It is in clear, and what follows is to be encrypted.
    NotEncrypted,
    /// It is encrypted, and what follows is to be in clear.
    NoLongerEncrypted,
    /// Another replicator had the prefix before, and may store more of it before it knows that it was replaced.
    PredecessorMayWrite,
    /// A bucket that was made again, a server that lost its disk.
    StoredHistoryIsGone,
    /// The newest stored commit cannot be found again by salt and checksum.
    UnknownStoredPosition,
    PageSizeChanged {
        stored: PageSize,
        found: PageSize,
    },
    /// The WAL was restarted while nobody watched.
    WalRestartedWhileNotRunning,
    /// It was stored without a WAL to recognise it by, and it is not the same file content any more.
    DatabaseChangedWhileNotRunning,
    /// Reading the file took too long for an application that waited meanwhile.
    NotCompared,
    /// A checksum of what the database holds is not that to which all that was copied leads.
    DatabaseDiffers,
    /// The WAL is shorter than what is stored: the machine lost power, or an older copy was put back.
    WalBehindStore {
        stored: u32,
        found: u32,
    },
    /// The frame that is stored is not the one in the WAL: two histories have the same past.
    WalForked {
        frame: u32,
    },
    /// A file has been replaced under its name.
    Replaced(&'static str),
    /// The database file was written to by something other than a checkpoint: another one was copied over it.
    Overwritten,
    /// The WAL went on in a way that its rules do not allow.
    WalBroken(String),
    /// More was waiting for the store than may wait.
    Backlog,
    /// What waited for the store on disk cannot be read back.
    SpoolLost,
}

impl GenerationEnd {
    /// Whether nothing is wrong but that commits are missing which nobody saw: what differs from the stored state can be stored
    /// in their place.
    pub fn is_only_missed(&self) -> bool {
        matches!(self, GenerationEnd::WalRestartedWhileNotRunning | GenerationEnd::DatabaseChangedWhileNotRunning)
    }
}

impl fmt::Display for GenerationEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GenerationEnd::NothingStored => f.write_str("nothing stored yet"),
            GenerationEnd::StoredHistoryHasGap => f.write_str("stored history has a gap"),
            GenerationEnd::Encrypted => f.write_str("stored history is encrypted and cannot be read here"),
            GenerationEnd::NotEncrypted => f.write_str("stored history is not encrypted"),
            GenerationEnd::NoLongerEncrypted => f.write_str("no recipients any more, and that was asked for"),
            GenerationEnd::PredecessorMayWrite => {
                f.write_str("another replicator wrote here and may not know yet that it was replaced")
            }
            GenerationEnd::StoredHistoryIsGone => f.write_str("stored history is gone"),
            GenerationEnd::UnknownStoredPosition => f.write_str("stored position has no frame"),
            GenerationEnd::PageSizeChanged { stored, found } => {
                write!(f, "page size changed from {} to {}", stored.get(), found.get())
            }
            GenerationEnd::WalRestartedWhileNotRunning => f.write_str("WAL restarted while not running"),
            GenerationEnd::DatabaseChangedWhileNotRunning => f.write_str("database changed while not running"),
            GenerationEnd::NotCompared => {
                f.write_str("database file not compared with its backup: a checkpoint of the application was waiting")
            }
            GenerationEnd::DatabaseDiffers => f.write_str(
                "database differs from its commits: something wrote to it without SQLite, or the disk failed",
            ),
            GenerationEnd::WalBehindStore { stored, found } => {
                write!(f, "WAL is behind the store: frame {found}, stored {stored}")
            }
            GenerationEnd::WalForked { frame } => write!(f, "WAL and store differ at frame {frame}"),
            GenerationEnd::Replaced(what) => f.write_str(what),
            GenerationEnd::Overwritten => {
                f.write_str("database file overwritten: its content is not from a checkpoint")
            }
            GenerationEnd::WalBroken(how) => write!(f, "WAL not continuous: {how}"),
            GenerationEnd::Backlog => f.write_str("store away for too long"),
            GenerationEnd::SpoolLost => f.write_str("spool is damaged or gone"),
        }
    }
}

/// What the WAL holds at the moment of the first pin.
pub struct WalState<'a> {
    pub index: &'a IndexHeader,
    /// The header of the file, where it is whole.
    pub header: Option<&'a WalHeader>,
    /// The header of the frame that the stored mark names, where there is one.
    pub frame: Option<&'a FrameHeader>,
}

/// The rule: same salts, wal-index at or past our frame, that frame's checksum as recorded. Everything else is a new
/// generation; neither salt 1 nor the checkpoint counter is a reliable clock, so there is nothing cleverer to do.
pub fn check_resumable(stored: &WalMark, observed: &WalState) -> Result<(), GenerationEnd> {
    let index = observed.index;
    let Some(checksum) = stored.checksum else { return Err(GenerationEnd::UnknownStoredPosition) };
    if index.frames > 0 && index.page_size != stored.page_size {
        return Err(GenerationEnd::PageSizeChanged { stored: stored.page_size, found: index.page_size });
    }
    if index.salt != stored.salt {
        return Err(GenerationEnd::WalRestartedWhileNotRunning);
    }
    if index.frames < stored.frame {
        return Err(GenerationEnd::WalBehindStore { stored: stored.frame, found: index.frames });
    }
    let same = match stored.frame {
        0 => observed.header.is_some_and(|h| h.salt == stored.salt && h.checksum == checksum),
        _ => observed.frame.is_some_and(|f| f.salt == stored.salt && f.checksum == checksum),
    };
    if same { Ok(()) } else { Err(GenerationEnd::WalForked { frame: stored.frame }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: u32) -> PageSize {
        PageSize::new(bytes).unwrap()
    }

    fn index(frames: u32, salt: Salt) -> IndexHeader {
        IndexHeader {
            order: ByteOrder::Little,
            page_size: size(4096),
            frames,
            pages: 9,
            checksum: Checksum(1, 1),
            salt,
            backfilled: 0,
        }
    }

    fn mark(frame: u32) -> WalMark {
        WalMark {
            page_size: size(4096),
            order: ByteOrder::Little,
            salt: Salt(7, 8),
            frame,
            checksum: Some(Checksum(3, 4)),
        }
    }

    fn frame(salt: Salt, checksum: Checksum) -> FrameHeader {
        FrameHeader { page: 1, commit: 9, salt, checksum }
    }

    fn decide(stored: &WalMark, index: IndexHeader, frame: Option<FrameHeader>) -> Result<(), GenerationEnd> {
        check_resumable(stored, &WalState { index: &index, header: None, frame: frame.as_ref() })
    }

    #[test]
    fn same_frame_in_the_same_wal_is_continued() {
        for frames in [5, 6, 5000] {
            let same = frame(Salt(7, 8), Checksum(3, 4));
            assert_eq!(decide(&mark(5), index(frames, Salt(7, 8)), Some(same)), Ok(()));
        }
    }

    #[test]
    fn anything_else_ends_the_generation_and_says_why() {
        let same = frame(Salt(7, 8), Checksum(3, 4));
        let unknown = WalMark { checksum: None, ..mark(5) };
        let resized = WalMark { page_size: size(512), ..mark(5) };
        let table = [
            (mark(5), index(5, Salt(8, 9)), Some(same), "WAL restarted while not running"),
            (mark(5), index(4, Salt(7, 8)), Some(same), "WAL is behind the store: frame 4, stored 5"),
            (mark(5), index(9, Salt(7, 8)), Some(frame(Salt(7, 8), Checksum(3, 5))), "WAL and store differ at frame 5"),
            (mark(5), index(9, Salt(7, 8)), Some(frame(Salt(7, 7), Checksum(3, 4))), "WAL and store differ at frame 5"),
            (mark(5), index(9, Salt(7, 8)), None, "WAL and store differ at frame 5"),
            (mark(0), index(9, Salt(7, 8)), None, "WAL and store differ at frame 0"),
            (unknown, index(9, Salt(7, 8)), Some(same), "stored position has no frame"),
            (resized, index(9, Salt(7, 8)), Some(same), "page size changed from 512 to 4096"),
        ];
        for (stored, index, frame, reason) in table {
            assert_eq!(decide(&stored, index, frame).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn a_wal_whose_frames_are_all_to_come_is_known_by_its_header() {
        let header = WalHeader {
            order: ByteOrder::Little,
            page_size: size(4096),
            checkpoint: 0,
            salt: Salt(7, 8),
            checksum: Checksum(3, 4),
        };
        let observed = WalState { index: &index(0, Salt(7, 8)), header: Some(&header), frame: None };
        assert_eq!(check_resumable(&mark(0), &observed), Ok(()));
    }
}
